"""The first steps of a newcomer: imports, help texts, and errors without tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsim.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("lightning", "wandb", "gradio", "demucs", "laion_clap", "muq", "torchmetrics", "jsonargparse")


def python(*arguments, without=()):
    """Run Python without some capabilities of the system, if this user has them all."""
    command = [sys.executable, *arguments]
    if without and os.geteuid() == 0:
        dropped = ",".join(f"-{name}" for name in without)
        command = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


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


def test_folders_that_cannot_be_written_to_are_named(tmp_path):
    library, closed = tmp_path / "L", tmp_path / "closed"
    soundfile.write(tmp_path / "first.wav", np.sin(np.arange(9000.0)), 8000)
    soundfile.write(tmp_path / "second.wav", np.sin(0.5 * np.arange(9000.0)), 8000)
    index = ("-m", "stemsim.cli", "index", "--library", str(library), "--no-progress")
    assert python(*index, str(tmp_path / "first.wav")).returncode == 0
    closed.mkdir()
    for path in (closed, library, *library.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    jobs = {
        closed: ("train.py", "fit", "-c", "configs/demo.yaml", "--trainer.default_root_dir", str(closed / "run")),
        library: (*index, str(tmp_path / "second.wav")),
    }
    for folder, job in jobs.items():
        result = python(*job, without=("dac_override", "dac_read_search"))
        assert result.returncode == 2
        assert result.stderr.count("error: ") == 1
        assert "Permission denied" in result.stderr
        assert f"{folder}/" in result.stderr
        assert "Traceback" not in result.stderr
    search = ("-m", "stemsim.cli", "search", str(tmp_path / "second.wav"), "--library", str(library))
    assert "first.wav" in python(*search, without=("dac_override", "dac_read_search")).stdout, "reading is enough"


def test_errors_of_ours_end_with_status_2_and_no_traceback():
    result = python("train.py", "test", "-c", "configs/demo.yaml", "--ckpt_path", "nowhere.ckpt")
    assert result.returncode == 2
    assert "error: No checkpoint at nowhere.ckpt" in result.stderr
    assert "Traceback" not in result.stderr


def test_train_py_is_short():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 40
