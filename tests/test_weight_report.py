"""The report on fitted weights beside the functions that it is made of, and what it says when something is missing."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from tables import make_triplets

from stemsim.evaluation import agreement_credit, cross_validate, human_ceiling
from stemsim.evaluation.comparison import held_out_credit
from stemsim.evaluation.crossval import SplitFits
from stemsim.evaluation.weight_report import weight_report
from stemsim.training.tables import crossval_tables

STEMS = ("bass", "drums", "mix")


@pytest.fixture(scope="module")
def voted():
    """Features, and a table whose majority follows the drums, mostly."""
    rng = np.random.default_rng(3)
    table = make_triplets(rng, 260, tracks=30)
    deltas = rng.normal(size=(260, 3))
    wanted = deltas @ [0.0, 1.0, 0.3] + 0.6 * rng.normal(size=260) > 0
    flip = (wanted != (table.preference > 0))[:, None]
    return torch.from_numpy(deltas), replace(table, votes=np.where(flip, table.votes[:, ::-1], table.votes))


def always(value):
    """Return a challenger that predicts `value` times the majority of the first triplets, and is wrong elsewhere."""
    return lambda train: {f"always {value}": SplitFits(np.full(train.shape, value))}


def shown(tables, width=110):
    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def test_everything_is_there_and_says_what_it_should(voted):
    deltas, table = voted
    result = cross_validate(deltas, table, STEMS, count=20, challengers=[always(1.0)])
    report = weight_report(result, deltas, table)
    frame = report.frame().set_index("stem")
    assert frame.loc["drums", "agreement drop"] == frame["agreement drop"].max()
    assert frame.loc["drums", "track bootstrap: lower"] > 0.0 > frame.loc["bass", "track bootstrap: lower"]
    assert [comparison.first for comparison in report.comparisons] == ["ridge", "always 1.0"]
    assert report.comparisons[1].second == "ridge"
    assert report.sentences[0].startswith("ridge agrees more often than mix cosine")
    assert report.sentences[1].startswith("ridge agrees more often than always 1.0")
    assert json.loads(json.dumps(report.to_dict()))["by_stem"]["drums"]["variance inflation"] == pytest.approx(
        1, abs=0.1
    )
    text = shown(crossval_tables(result, report))
    assert "95 % interval" in text
    assert "of ceiling" in text
    assert f"{100 * result.share_of_ceiling(result.models[1]):.1f}" in text


def test_the_share_of_the_ceiling_is_that_of_the_triplets_that_were_tested(voted):
    deltas, table = voted
    result = cross_validate(deltas, table, STEMS, count=3)
    ridge = result.models[-1]
    credit, tested = held_out_credit(result, ridge, deltas, table)
    assert 0 < tested.sum() < len(table)
    assert np.isnan(credit[~tested]).all()
    share = weight_report(result, deltas, table).share
    assert share.agreement == pytest.approx(credit[tested].mean())
    assert share.ceiling == pytest.approx(human_ceiling(table.votes[tested]))


def test_a_challenger_is_scored_on_what_it_predicts(voted):
    deltas, table = voted
    perfect = lambda train: {"oracle": SplitFits(np.tile(table.preference, (len(train), 1)).astype(float))}  # noqa: E731
    result = cross_validate(deltas, table, STEMS, count=4, challengers=[perfect, always(-1.0)])
    scores = {model.name: model for model in result.models}
    assert (scores["oracle"].agreement[:, 0] == 1.0).all()
    credit = agreement_credit(np.full(len(table), -1.0), table.preference)
    found, tested = held_out_credit(result, scores["always -1.0"], deltas, table)
    np.testing.assert_array_equal(found[tested], credit[tested])


def test_same_song_triplets_have_no_ceiling_and_a_single_stem_no_worth():
    rng = np.random.default_rng(0)
    table = make_triplets(rng, 40, same_song=True)
    deltas = torch.from_numpy(rng.normal(0.5, 1.0, size=(40, 1)))
    result = cross_validate(deltas, table, ("mix",), count=5)
    report = weight_report(result, deltas, table)
    assert report.share is None
    assert report.importance is None
    assert report.to_dict()["share_of_ceiling"] is None
    assert "worth" not in shown(crossval_tables(result, report))


def test_too_few_triplets_for_intervals_are_named(voted):
    table = voted[1]
    few = table.select(range(4))
    wide = torch.randn(4, 5, dtype=torch.float64)
    result = cross_validate(wide, few, ("bass", "drums", "guitar", "piano", "mix"), count=3)
    report = weight_report(result, wide, few)
    assert report.intervals == ()
    assert "No intervals of the weights: " in report.sentences[-1]
    assert "interval" not in shown(crossval_tables(result, report))
