"""Every fusion through the command line, and one that somebody else has written."""

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import write_songs
from jobs import ROOT, listeners_config
from power import PowerFusion

from stemsim.fusion import LinearFusion
from stemsim.model import load_fusion
from stemsim.regression import ridge_weights
from stemsim.similarity import StemEmbeddings
from stemsim.training.cli import main

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
    path = tmp_path / "run.yaml"
    return listeners_config(path, songs / "songs", triplets=120, store=songs / "store", max_epochs=2)


def start_of(fit):
    """Return what a fusion that has been fitted without moving prefers, and what exact ridge does."""
    data, fusion = fit.datamodule, fit.model.fusion
    rows, everything = data.rows("train"), data.batch(torch.arange(len(data.embedded)))
    weights = ridge_weights(data.embedded.deltas[rows], data.batch(rows).target, L2 * len(rows))
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


def check(fit, table, saved):
    """Check that a fit has learned, and that its predictions are those of checkpoint and saved model and add up."""
    batch = fit.datamodule.batch(torch.arange(len(table)))
    with torch.no_grad():
        preference = fit.model(batch.x, batch.a, batch.b)
        assert torch.equal(preference, saved.preference(batch.x, batch.a, batch.b))
        assert torch.equal(preference, -fit.model(batch.x, batch.b, batch.a))
        copy = StemEmbeddings(*(tensor.clone() for tensor in batch.a))
        assert (fit.model(batch.x, batch.a, copy) == 0.0).all()
    np.testing.assert_allclose(table["preference"], preference.numpy(), atol=1e-10)
    contributions = table[[f"contribution_{stem}" for stem in fit.datamodule.stems]].sum(axis=1)
    np.testing.assert_allclose(contributions, table["preference"], atol=1e-10)
    assert table.loc[table["part"] == "train", "credit"].mean() > 0.6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_fusion_file_is_fitted_tested_and_predicts_what_it_was_fitted_to(path, config, tmp_path):
    check(*run_all(config, path, tmp_path), load_fusion(tmp_path / "run/model"))


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
    check(fit, table, load_fusion(tmp_path / "run/model", fusion=PowerFusion))
    assert (fit.model.fusion.power != 0.0).any()
    main(["crossval", "-c", config, "--model.fusion", "power.PowerFusion", "--splits", "3"])
    assert '"power fusion"' in (tmp_path / "run/crossval.json").read_text(encoding="utf-8")
