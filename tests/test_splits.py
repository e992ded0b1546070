"""Splits of triplets: shares of strata, tracks kept apart, seeds."""

from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import make_triplets

from stemsim.audio import Segment
from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation import DROPPED, PARTS, Splits, split_triplets
from stemsim.triplets import Triplets

SEEDS = st.integers(0, 100_000)
FRACTIONS = st.tuples(*[st.integers(0, 10)] * 3).filter(any).map(lambda parts: tuple(np.array(parts) / sum(parts)))
PAPER = (0.7, 0.0, 0.3)
KINDS = ("stratified", "grouped")


def strata(table):
    return list(zip(table.test_type.tolist(), table.instrument.tolist(), table.preference.tolist(), strict=True))


def mixed(seed, triplets, listeners=5):
    """Return a table of two instruments; with an even number of listeners some triplets are tied."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, listeners=listeners)
    return replace(table, instrument=rng.choice(["mix", "drums"], triplets))


def every_triplet(tracks):
    """Return all XYC and XAB triplets of some tracks of two segments, so that nothing about a split stays hidden."""
    xyc = [(2 * x, 2 * x + 1, 2 * c) for x, c in permutations(range(tracks), 2)]
    xab = [(2 * x, 2 * a, 2 * b) for x, a, b in permutations(range(tracks), 3)]
    members = np.array(xyc + xab)
    return Triplets(
        segments=tuple(Segment(Path(f"{track}.wav"), start, 5.0) for track in range(tracks) for start in (0.0, 5.0)),
        tracks=tuple(str(track) for track in range(tracks) for _ in range(2)),
        members=members,
        test_type=np.array(["XYC"] * len(xyc) + ["XAB"] * len(xab)),
        instrument=np.full(len(members), "mix"),
        votes=np.tile([1, 0], (len(members), 1)),
        perspective_votes=np.zeros((len(members), 3, 2), np.int64),
        source="every triplet",
    )


@given(SEEDS, st.integers(1, 200), FRACTIONS, st.integers(4, 5))
@settings(max_examples=40, deadline=None)
def test_every_stratum_is_cut_within_half_a_triplet_of_the_fractions(seed, triplets, fractions, listeners):
    table = mixed(seed, triplets, listeners)
    parts = split_triplets(table, fractions, count=3, seed=seed)
    assert parts.shape == (3, triplets)
    assert set(np.unique(parts)) <= set(range(len(PARTS))), "no triplet is left out"
    names = np.array([str(stratum) for stratum in strata(table)])
    for split in parts:
        for name in set(names):
            chosen = split[names == name]
            for part in (0, 1):  # the cuts after train and after validation
                cut = (chosen <= part).sum()
                assert abs(cut - sum(fractions[: part + 1]) * len(chosen)) <= 0.5 + 1e-9


@given(SEEDS, st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_a_part_with_no_share_stays_empty(seed, triplets):
    for kind in KINDS:
        parts = split_triplets(mixed(seed, triplets), PAPER, kind=kind, count=5, seed=seed)
        assert PARTS.index("val") not in parts


def test_every_triplet_of_a_stratum_is_tested_as_often_as_the_others():
    table = make_triplets(np.random.default_rng(0), 50)
    parts = split_triplets(table, PAPER, count=4000, seed=0)
    tested = (parts == PARTS.index("test")).mean(axis=0)
    names = np.array([str(stratum) for stratum in strata(table)])
    for name in set(names):
        size = (names == name).sum()
        share = (size - np.rint(0.7 * size)) / size
        np.testing.assert_allclose(tested[names == name], share, atol=5 * np.sqrt(0.25 / 4000))


@pytest.mark.parametrize("kind", KINDS)
def test_splits_follow_their_seed_and_differ_from_each_other(kind):
    table = make_triplets(np.random.default_rng(0), 120, tracks=40)
    first, again, other = (split_triplets(table, PAPER, kind=kind, count=20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    distinct = {split.tobytes() for split in np.concatenate([first, other])}
    assert len(distinct) == 40
    assert first.dtype == np.int8


@given(SEEDS, st.integers(3, 9), FRACTIONS)
@settings(max_examples=40, deadline=None)
def test_no_track_is_on_two_sides_of_a_grouped_split(seed, tracks, fractions):
    table = make_triplets(np.random.default_rng(seed), 80, tracks=tracks)
    for split in split_triplets(table, fractions, kind="grouped", count=4, seed=seed):
        sides = [set(table.track_ids[split == part].flat) for part in range(3)]
        assert sides[0].isdisjoint(sides[1] | sides[2])
        assert sides[1].isdisjoint(sides[2])


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.3), (0.7, 0.0, 0.3), (0.2, 0.2, 0.6)])
def test_a_grouped_split_drops_what_straddles_and_nothing_else(fractions):
    table = every_triplet(10)
    for split in split_triplets(table, fractions, kind="grouped", count=20, seed=3):
        owner = {}  # with all pairs of tracks in the table, every track of a part of two or more shows where it is
        for row in np.flatnonzero(split != DROPPED):
            for track in table.track_ids[row]:
                assert owner.setdefault(track, split[row]) == split[row]
        assert set(owner) == set(range(10))
        assert Counter(owner.values()) == {part: round(10 * share) for part, share in enumerate(fractions) if share}
        for row, part in enumerate(split):
            homes = {owner[track] for track in table.track_ids[row]}
            assert part == (homes.pop() if len(homes) == 1 else DROPPED)


def test_tracks_that_no_triplet_uses_have_no_say_in_a_grouped_split():
    table = every_triplet(10)
    unused = tuple(Segment(Path(f"unused{number}.wav"), 0.0, 5.0) for number in range(30))
    wider = replace(
        table,
        segments=unused + table.segments,
        tracks=tuple(segment.path.stem for segment in unused) + table.tracks,
        members=table.members + 30,
    )
    splits = [split_triplets(each, PAPER, kind="grouped", count=5, seed=1) for each in (table, wider)]
    np.testing.assert_array_equal(*splits)


def test_tiny_strata_go_to_the_nearest_cut():
    table = make_triplets(np.random.default_rng(3), 40)
    one = table.select([0])
    assert (split_triplets(one, PAPER, count=9) == PARTS.index("train")).all()
    assert (split_triplets(one, (0.3, 0.0, 0.7), count=9) == PARTS.index("test")).all()
    pair = np.flatnonzero([stratum == strata(table)[0] for stratum in strata(table)])[:3]
    parts = split_triplets(table.select(pair), PAPER, count=50)
    assert set((parts == PARTS.index("test")).sum(axis=1)) == {1}, "two of three are trained on"
    assert (parts == PARTS.index("test")).any(axis=0).all(), "and it is not always the same one that is tested"


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_triplets_has_splits_without_triplets(kind):
    table = make_triplets(np.random.default_rng(0), 10).select([])
    assert split_triplets(table, PAPER, kind=kind, count=3).shape == (3, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fractions",
    [(0.7, 0.3), (0.7, 0.1, 0.1, 0.1), (0.7, 0.7, -0.4), (0.5, 0.2, 0.2), (float("nan"), 0.5, 0.5), (0, 0, 0), ()],
)
def test_fractions_that_are_not_three_shares_of_one_are_refused(fractions, kind):
    with pytest.raises(ConfigError, match="add up to 1"):
        split_triplets(make_triplets(np.random.default_rng(0), 10), fractions, kind=kind)


class TestSplits:
    """Splits into train and test parts, drawn once and kept."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_are_those_of_split_triplets(self, kind):
        table = make_triplets(np.random.default_rng(0), 200, tracks=20)
        splits = Splits.draw(table, count=6, train_fraction=0.6, kind=kind, seed=4)
        parts = split_triplets(table, (0.6, 0.0, 0.4), kind=kind, count=6, seed=4)
        np.testing.assert_array_equal(splits.train, parts == 0)
        np.testing.assert_array_equal(splits.test, parts == 2)
        assert (len(splits), splits.kind, splits.seed) == (6, kind, 4)
        assert splits.test_train_ratio == pytest.approx(0.4 / 0.6)

    @pytest.mark.parametrize("of_train", [True, False])
    def test_other_train_parts_are_drawn_by_type_and_never_from_the_test_parts(self, of_train):
        table = make_triplets(np.random.default_rng(0), 300, tracks=24)
        splits = Splits.draw(table, count=12, kind="stratified" if of_train else "grouped")
        candidates = splits.train if of_train else ~splits.test
        sizes = splits.train_sizes(table) // 2 if of_train else splits.train_sizes(table)
        other = splits.retrained(table, candidates, sizes)
        np.testing.assert_array_equal(other.test, splits.test)
        np.testing.assert_array_equal(other.train_sizes(table), sizes)
        for column, kind in enumerate(("XAB", "XYC")):
            np.testing.assert_array_equal(other.train[:, table.test_type == kind].sum(axis=1), sizes[:, column])
        assert not (other.train & ~candidates).any()
        assert of_train or (other.train & ~splits.train).any(), "triplets that straddle are drawn as well"
        assert len({train.tobytes() for train in other.train}) == 12

    def test_empty_or_overlapping_parts_are_refused(self):
        table = make_triplets(np.random.default_rng(4), 30)
        for few, options in ((table, {"kind": "grouped", "train_fraction": 0.05}), (table.select([0]), {})):
            with pytest.raises(SplitError, match="empty train or test part"):
                Splits.draw(few, **options)
        with pytest.raises(SplitError, match="empty train or test part"):
            Splits.draw(table.select([]))
        with pytest.raises(SplitError, match="triplets in both"):
            Splits(np.ones((1, 3), bool), np.ones((1, 3), bool), "stratified", 0.7, 0)
        for options in ({"count": 0}, {"train_fraction": 1.0}):
            with pytest.raises(ConfigError, match="at least one split and a train fraction between 0 and 1"):
                Splits.draw(table, **options)
