"""A set on which a random split lies and a grouped one does not; two honest ones; questions that were asked twice."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_inst_sim_abx import write_fake_inst_sim_abx
from fake_slakh import write_fake_slakh
from tables import make_triplets

from stemsim.errors import SplitError
from stemsim.evaluation import cross_validate
from stemsim.evaluation.leakage import _peers as peers
from stemsim.evaluation.leakage import leakage, same_test_leak
from stemsim.evaluation.splits import split_triplets
from stemsim.triplets import InstSimABX
from stemsim.triplets.inst_sim_abx_answers import read_answers

TRACKS = 24
NAMES = tuple(f"track {index}" for index in range(TRACKS))


def popularity_contest(seed=0, triplets=900):
    """Return features that name the tracks, and votes for the candidate of the more popular track."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, tracks=TRACKS)
    popular = rng.normal(size=TRACKS)
    _, a, b = np.array([[int(table.tracks[i][5:]) for i in column] for column in (table.x, table.a, table.b)])
    deltas = np.eye(TRACKS)[a] - np.eye(TRACKS)[b]
    wanted = popular[a] - popular[b] > 0
    flip = (wanted != (table.preference > 0))[:, None]
    return torch.from_numpy(deltas), replace(table, votes=np.where(flip, table.votes[:, ::-1], table.votes))


def honest(seed=0, triplets=900, easy=False):
    """Return features that say of any track what listeners go by; `easy`: XYC triplets are never mistaken."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, tracks=TRACKS)
    deltas = rng.normal(size=(triplets, 3))
    noise = np.where((table.test_type == "XYC") & easy, 0.0, 2.0) * rng.normal(size=triplets)
    wanted = deltas @ [1.0, 0.5, 0.25] + noise > 0
    flip = (wanted != (table.preference > 0))[:, None]
    return torch.from_numpy(deltas), replace(table, votes=np.where(flip, table.votes[:, ::-1], table.votes))


def row_of(found, model):
    (row,) = [row for row in found.rows if row.model == model]
    return row


def test_where_a_model_can_learn_tracks_by_heart_the_random_split_lies():
    deltas, table = popularity_contest()
    found = leakage(deltas, table, NAMES, count=30)
    for model in ("OLS", "ridge"):
        row = row_of(found, model)
        assert row.stratified > 0.85
        assert row.grouped < 0.6, "unseen tracks have no weight but rounding"
        assert row.leak > 0.3
        assert row.difference == pytest.approx(row.from_less_data + row.leak)
    assert abs(row_of(found, "uniform weights").difference) < 1e-9, "nothing was learned, so nothing leaks"
    assert "points" in found.sentence
    assert "from shared tracks" in found.sentence


def test_where_what_is_learned_holds_for_all_tracks_both_splits_agree():
    deltas, table = honest()
    found = leakage(deltas, table, ("bass", "drums", "mix"), count=60)
    for row in found.rows:
        assert abs(row.leak) < 0.03, row
    assert abs(row_of(found, "mix cosine").from_less_data) < 0.01


def test_easy_xyc_triplets_do_not_pass_for_a_leak():
    deltas, table = honest(easy=True, triplets=1500)
    found = leakage(deltas, table, ("bass", "drums", "mix"), count=60)
    plain = [np.nanmean(result.models[3].agreement[:, 0]) for result in (found.stratified, found.grouped)]
    assert plain[1] > plain[0] + 0.02, "a grouped split keeps more of the easy triplets"
    assert abs(row_of(found, "OLS").leak) < 0.02


def test_both_cross_validations_are_those_of_the_protocol():
    deltas, table = honest()
    found = leakage(deltas, table, ("bass", "drums", "mix"), count=5, seed=4)
    for kind, result in (("stratified", found.stratified), ("grouped", found.grouped)):
        again = cross_validate(deltas, table, ("bass", "drums", "mix"), count=5, kind=kind, seed=4)
        assert result.to_dict() == again.to_dict()
    xab = (table.test_type == "XAB").mean()
    ols = next(model for model in found.grouped.models if model.name == "OLS").agreement
    expected = xab * np.nanmean(ols[:, 1]) + (1 - xab) * np.nanmean(ols[:, 2])
    assert row_of(found, "OLS").grouped == pytest.approx(expected)
    assert found.train_size[1] < found.train_size[0]
    frame = found.frame()
    assert frame["model"].tolist() == [row.model for row in found.rows]
    np.testing.assert_allclose(frame["difference"], frame["stratified"] - frame["grouped"])


def test_on_the_same_test_triplets_only_what_is_learned_of_tracks_leaks():
    deltas, table = popularity_contest()
    for found in same_test_leak(deltas, table, count=30):
        assert found.difference.mean > 0.3
        assert found.told_apart
    for easy in (False, True):
        deltas, table = honest(easy=easy)
        for found in same_test_leak(deltas, table, count=60):
            assert abs(found.difference.mean) < 0.02, "easy XYC triplets are on both sides of the comparison"
            assert not found.told_apart


def test_peers_are_as_many_of_each_type_and_never_tested():
    _, table = honest()
    parts = split_triplets(table, (0.7, 0.0, 0.3), kind="grouped", count=12)
    train, test = parts == 0, parts == 2
    drawn = peers(table, train, test, np.random.default_rng(0))
    assert not (drawn & test).any()
    for kind in ("XAB", "XYC"):
        of_kind = table.test_type == kind
        np.testing.assert_array_equal((drawn & of_kind).sum(axis=1), (train & of_kind).sum(axis=1))
    assert (drawn & (parts == -1)).any(), "triplets that lie across are drawn as well"


def test_one_test_type_alone_will_do():
    deltas, table = honest()
    rows = np.flatnonzero(table.test_type == "XYC")
    found = leakage(deltas[rows], table.select(rows), ("bass", "drums", "mix"), count=10)
    assert all(np.isfinite(row.grouped) for row in found.rows)


def test_too_few_tracks_are_an_error():
    deltas, table = honest(triplets=20)
    with pytest.raises(SplitError, match="empty train or test part"):
        leakage(deltas, table, ("bass", "drums", "mix"), train_fraction=0.95, count=20)


class TestQuestionsAskedTwice:
    def test_the_votes_of_both_runs_are_added_up(self, tmp_path):
        answers = read_answers(write_fake_inst_sim_abx(tmp_path / "abx"))
        once, pooled = answers.count(), answers.pooled().count()
        assert (len(once), len(pooled)) == (6, 4)
        drums = pooled.select(pooled.instrument == "drums")
        assert drums.test_type.tolist() == ["XAB", "XYC"]
        assert drums.votes.tolist() == [[1, 2], [1, 1]]
        np.testing.assert_array_equal(pooled.votes.sum(axis=0), once.votes.sum(axis=0))
        np.testing.assert_array_equal(pooled.perspective_votes.sum(axis=0), once.perspective_votes.sum(axis=0))

    def test_pooling_twice_changes_nothing(self, tmp_path):
        pooled = read_answers(write_fake_inst_sim_abx(tmp_path / "abx")).pooled()
        again = pooled.pooled()
        np.testing.assert_array_equal(pooled.triplet, again.triplet)
        assert pooled.table.segments == again.table.segments
        np.testing.assert_array_equal(pooled.count().votes, again.count().votes)

    def test_the_reader_pools_if_told_to(self, tmp_path):
        root, slakh = write_fake_inst_sim_abx(tmp_path / "abx"), tmp_path / "slakh"
        write_fake_slakh(slakh, range(1876, 1883), seconds=15.0, seed=0, sample_rate=500)
        options = {"instrument": "drums", "min_agreement": 0.0}
        apart = InstSimABX(root, slakh, **options).read(None)
        together = InstSimABX(root, slakh, pool=True, **options).read(None)
        assert (len(apart), len(together)) == (3, 1)
        assert together.votes.tolist() == [[1, 2]]

    def test_the_published_test_has_2880_questions_and_no_vote_is_lost(self, answers):
        once, pooled = answers.count(), answers.pooled()
        table = pooled.count()
        assert (len(once), len(table)) == (5240, 2880)
        np.testing.assert_array_equal(table.votes.sum(axis=0), once.votes.sum(axis=0))
        np.testing.assert_array_equal(table.perspective_votes.sum(axis=0), once.perspective_votes.sum(axis=0))
        assert table.votes.sum() == 26898
        votes = {True: Counter(), False: Counter()}
        for counted in (once, table):
            rows = zip(counted.x, counted.a, counted.b, counted.instrument, counted.votes, strict=True)
            for x, a, b, instrument, (for_a, for_b) in rows:
                key = (*(counted.segments[index] for index in (x, a, b)), str(instrument))
                votes[counted is once][key] += complex(int(for_a), int(for_b))
        assert votes[True] == votes[False]
        pairs = Counter(zip(pooled.triplet.tolist(), pooled.subject.tolist(), strict=True))
        assert max(pairs.values()) == 1, "no listener answered both"
        assert (table.instrument == "mix").sum() == 480
