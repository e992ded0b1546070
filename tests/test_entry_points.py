"""The first steps of a newcomer: imports, help texts, and errors without tracebacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stemsim.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("lightning", "wandb", "gradio", "demucs", "laion_clap", "muq", "torchmetrics", "jsonargparse")


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


LIGHT = ("stemsim", "stemsim.cli", "stemsim.embedding", "stemsim.triplets", "stemsim.evaluation", "stemsim.fusion")
# Ours anew for each, as if it were imported first; a heavy package that one of them brings is there for the next too.
IMPORT_ONE_AFTER_ANOTHER = f"""
import importlib, json, sys, traceback
for module in {LIGHT}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "stemsim"]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
        print(json.dumps([module, [name for name in {HEAVY} if name in sys.modules]]))
    except Exception:
        print(json.dumps([module, traceback.format_exc()]))
"""


@pytest.fixture(scope="module")
def imported():
    """The heavy packages that are there after each light one, in the order of their import."""
    result = python("-c", IMPORT_ONE_AFTER_ANOTHER)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(line) for line in result.stdout.splitlines())


@pytest.mark.parametrize("module", LIGHT)
def test_nothing_below_the_training_floor_imports_heavy_packages(imported, module):
    assert imported[module] == []


@pytest.mark.parametrize("command", ["--help", "compare --help", "models", "models --json", "models download --help"])
def test_help_texts_and_the_list_of_models_need_no_heavy_package(command):
    show = f"import sys; from stemsim.cli import app; app({command.split()}, standalone_mode=False)"
    result = python(
        "-c", f"{show}; print({{'torch', 'numpy', 'lancedb', 'pandas', 'transformers'}} & set(sys.modules))"
    )
    assert result.stdout.strip().endswith("set()"), result.stderr
    assert "models" in result.stdout or "--model" in result.stdout


def test_train_help_names_the_five_jobs_and_their_settings_teach(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    overview = capsys.readouterr().out
    assert all(job in overview for job in ("fit", "validate", "test", "predict", "crossval"))
    with pytest.raises(SystemExit):
        main(["crossval", "--help"])
    crossval = capsys.readouterr().out
    assert "Number of splits." in crossval
    assert "Level in dBFS below which a stem counts as silent" in crossval


def test_errors_of_ours_end_with_status_2_and_no_traceback():
    result = python("train.py", "test", "-c", "configs/demo.yaml", "--ckpt_path", "nowhere.ckpt")
    assert result.returncode == 2
    assert "error: No checkpoint at nowhere.ckpt" in result.stderr
    assert "Traceback" not in result.stderr


def test_train_py_is_short():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 40
