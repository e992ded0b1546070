"""Every fusion through the command line, and one that somebody else has written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fakes import write_songs

from stemsim.fusion import LinearFusion
from stemsim.regression import ridge_weights
from stemsim.similarity import StemEmbeddings
from stemsim.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs/fusions").glob("*.yaml"))
L2 = 0.001
STANDING_STILL = '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}'


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusions")
    write_songs(folder / "songs", 6, 12.0)
    return folder


@pytest.fixture
def config(songs, tmp_path):
    """A configuration of simulated listeners, small enough for a second."""
    reader = {
        "class_path": "stemsim.triplets.SimulatedListeners",
        "init_args": {
            "songs": {"class_path": "stemsim.audio.SongFolder", "init_args": {"root": str(songs / "songs")}},
            "weights": {"drums": 1.0, "bass": 0.5},
            "triplets": 120,
            "duration": 2.0,
        },
    }
    data = {
        "triplets": reader,
        "separator": {"class_path": "stemsim.separators.Multitrack", "init_args": {"stems": ["bass", "drums", "mix"]}},
        "encoder": {"class_path": "fakes.CountingEncoder"},
        "store": str(songs / "store"),
        "progress": False,
    }
    path = tmp_path / "run.yaml"
    content = {"trainer": {"default_root_dir": str(tmp_path / "run"), "logger": False, "max_epochs": 2}, "data": data}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def start_of(fit):
    """Return what a fusion that has been fitted without moving prefers, and what exact ridge does."""
    data, fusion = fit.datamodule, fit.model.fusion
    rows, everything = data.rows("train"), data.batch(torch.arange(len(data.table())))
    weights = ridge_weights(data.deltas(rows), data.batch(rows).target, L2 * len(rows))
    linear = LinearFusion(data.stems)
    linear.start_from(weights)
    with torch.no_grad():
        return (one.preference(everything.x, everything.a, everything.b) for one in (fusion, linear))


def run_all(config, fusion, tmp_path):
    """Fit, test and predict; return the fit and the predictions."""
    given = ["-c", config, "--model.fusion", str(fusion), "--model.l2", str(L2)]
    last = ["--ckpt_path", str(tmp_path / "run/checkpoints/last.ckpt")]
    fit = main(["fit", *given])
    tested = main(["test", *given, *last])
    assert tested.trainer.callback_metrics["test/agreement"] > 0.5
    main(["predict", *given, *last])
    return fit, pd.read_csv(tmp_path / "run/predictions.csv")


def check(fit, table):
    """Check that a fit has learned, and that its predictions are those of the checkpoint and add up."""
    batch = fit.datamodule.batch(torch.arange(len(table)))
    with torch.no_grad():
        preference = fit.model(batch.x, batch.a, batch.b)
        assert torch.equal(preference, -fit.model(batch.x, batch.b, batch.a))
        copy = StemEmbeddings(*(tensor.clone() for tensor in batch.a))
        assert (fit.model(batch.x, batch.a, copy) == 0.0).all()
    np.testing.assert_allclose(table["preference"], preference.numpy(), atol=1e-10)
    contributions = table[[f"contribution_{stem}" for stem in fit.datamodule.stems]].sum(axis=1)
    np.testing.assert_allclose(contributions, table["preference"], atol=1e-10)
    assert table.loc[table["part"] == "train", "credit"].mean() > 0.6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_fusion_file_is_fitted_tested_and_predicts_what_it_was_fitted_to(path, config, tmp_path):
    check(*run_all(config, path, tmp_path))


@pytest.mark.parametrize("path", [path for path in FILES if "linear" not in path.stem], ids=lambda path: path.stem)
def test_a_nonlinear_fit_starts_at_exact_ridge_and_leaves_it_for_less_loss(path, config):
    given = ["fit", "-c", config, "--model.fusion", str(path), "--model.l2", str(L2)]
    still = main([*given, "--model.optimizer", STANDING_STILL])
    found, expected = start_of(still)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    moved = main(given)
    rows = moved.datamodule.rows("train")
    batch = moved.datamodule.batch(rows)
    with torch.no_grad():
        before, after = (
            one.model.objective(one.model(batch.x, batch.a, batch.b), batch).item() for one in (still, moved)
        )
    assert after < before - 1e-6


def test_the_fusion_of_the_guide_runs_as_it_stands(config, tmp_path):
    code = (ROOT / "tests/power.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) < 30
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(code in page.read_text(encoding="utf-8") for page in pages), "the documentation shows tests/power.py"
    fit, table = run_all(config, "power.PowerFusion", tmp_path)
    check(fit, table)
    assert (fit.model.fusion.power != 0.0).any()
    main(["crossval", "-c", config, "--model.fusion", "power.PowerFusion", "--splits", "3"])
    assert '"power fusion"' in (tmp_path / "run/crossval.json").read_text(encoding="utf-8")
