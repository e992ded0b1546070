"""The triplet table, its targets, its embeddings, and the readers that need no listening test."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import write_songs
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import LAYOUT, make_triplets

from stemsim.audio import SongFolder
from stemsim.errors import ConfigError, TripletError
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.triplets import EmbeddedTriplets, SameSong, SimulatedListeners

TABLE = make_triplets(np.random.default_rng(0), 60)
VOTES = st.tuples(*[st.integers(0, 6)] * 4).map(lambda n: ((n[0] + n[1], n[2] + n[3]), (n[0], n[2])))
SIMULATED = {"weights": {"drums": 1.0, "mix": 0.5}, "triplets": 50, "duration": 2.0, "seed": 3}


class RandomEmbedder:
    """Stands in for a StemEmbedder: every segment has random vectors of its own."""

    stems = LAYOUT

    def __init__(self):
        self.embedded = []

    def embed(self, segments):
        self.embedded += segments
        seeds = [zlib.crc32(f"{segment.path.parent.name}{segment.start}".encode()) for segment in segments]
        vectors = torch.stack([torch.randn(3, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        vectors = torch.nn.functional.normalize(vectors, dim=2)
        return StemEmbeddings(vectors, torch.zeros(len(seeds), 3), torch.ones(len(seeds), 3, dtype=torch.bool))


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 5, 12.0)
    return SongFolder(root)


class TestTable:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"members": TABLE.members[:-1]}, "shape"),
            ({"members": TABLE.members[:, :2]}, "shape"),
            ({"votes": TABLE.votes[:, :1]}, "shape"),
            ({"tracks": TABLE.tracks[:-1]}, "as many tracks"),
            ({"members": TABLE.members + 1000}, "indices"),
            ({"votes": TABLE.votes - 9}, "`votes` must not be negative"),
            (
                {"votes": np.full((60, 2), np.nan)},
                "`votes` counts listeners in integers.* 120 are NaN",
            ),
            ({"test_type": np.full(60, "ABX")}, "test types"),
            ({"instrument": np.full(60, "kazoo")}, "instruments"),
            ({"test_type": np.full(60, "XAB")}, "XAB: neither or both are on X's"),
            ({"members": TABLE.members[:, [0, 2, 1]]}, "XYC: A is on X's track"),
            ({"sure_votes": TABLE.votes + 1}, "must lie between 0 and `votes`"),
            ({"sure_votes": -np.ones_like(TABLE.votes)}, "`sure_votes` must not be negative"),
            ({"sure_votes": TABLE.votes[:, :1]}, "`sure_votes` must have shape"),
        ],
    )
    def test_a_table_that_breaks_its_rules_is_refused(self, changes, message):
        with pytest.raises(TripletError, match=message):
            replace(TABLE, **changes)

    def test_candidates_may_share_a_track(self):
        one = replace(TABLE.select([0]), members=np.array([[0, 1, 2]]), test_type=np.array(["XAB"]))
        for tracks in (("t", "u", "u"), ("t", "t", "t"), ("t", "u", "v")):
            table = replace(one, tracks=tracks)
            assert len(np.unique(table.track_ids)) == len(set(tracks))

    def test_what_cannot_be_fitted_is_named(self):
        votes = np.tile([[4, 1], [1, 1], [0, 0], [0, 3]], (15, 1))
        with pytest.raises(
            TripletError, match=r"30 of 60 triplets of made up have no majority: 15 are tied and 15 have"
        ):
            replace(TABLE, votes=votes).check()
        with pytest.raises(TripletError, match="There are no triplets: made up has none"):
            TABLE.select([]).check()
        replace(TABLE, votes=votes).filter().check()

    @given(st.lists(st.tuples(st.integers(0, 59), st.booleans(), VOTES), min_size=1, max_size=30))
    @settings(max_examples=50, deadline=None)
    def test_pooling_adds_up_the_votes_on_the_same_question(self, asked):
        unordered = np.concatenate([TABLE.members[:, :1], np.sort(TABLE.members[:, 1:], axis=1)], axis=1)
        distinct = np.unique(unordered, axis=0, return_index=True)[1]
        rows, swapped, votes = (list(column) for column in zip(*asked, strict=True))
        rows = [int(distinct[row % len(distinct)]) for row in rows]
        table, turn = TABLE.select(np.array(rows)), np.array(swapped) & (TABLE.test_type[rows] == "XAB")
        votes, sure = (np.array(column) for column in zip(*votes, strict=True))
        turned = {"votes": votes, "sure_votes": sure}
        turned = {name: np.where(turn[:, None], one[:, ::-1], one) for name, one in turned.items()}
        members = np.where(turn[:, None], table.members[:, [0, 2, 1]], table.members)
        pooled = replace(table, members=members, **turned).pooled()
        assert len(pooled) == len(set(rows))
        first = list(dict.fromkeys(rows))
        for number, row in enumerate(first):
            same = [place for place, one in enumerate(rows) if one == row]
            side = slice(None, None, -1 if turn[same[0]] else 1)
            assert pooled.votes[number].tolist() == votes[same].sum(axis=0)[side].tolist()
            assert pooled.sure_votes[number].tolist() == sure[same].sum(axis=0)[side].tolist()
        assert len(pooled.pooled()) == len(pooled)

    def test_selecting_rows_keeps_them_and_only_their_segments(self):
        graded = replace(TABLE, sure_votes=TABLE.votes // 2)
        chosen = graded.select([3, 7])
        for row, original in enumerate([3, 7]):
            for index, before in zip(chosen.members[row], TABLE.members[original], strict=True):
                assert chosen.segments[index] == TABLE.segments[before]
                assert chosen.tracks[index] == TABLE.tracks[before]
        assert len(chosen.segments) == len(set(chosen.segments)) <= 6
        np.testing.assert_array_equal(chosen.votes, TABLE.votes[[3, 7]])
        np.testing.assert_array_equal(chosen.sure_votes, graded.sure_votes[[3, 7]])
        assert len(TABLE.select([])) == 0

    def test_filters_keep_what_meets_them(self):
        votes = np.tile([[4, 1], [3, 2], [1, 1], [0, 0], [0, 3]], (12, 1))
        table = replace(TABLE, votes=votes)
        assert len(table.filter()) == 36, "ties and triplets without votes have no majority"
        assert {tuple(row) for row in table.filter(min_agreement=0.8).votes.tolist()} == {(4, 1), (0, 3)}
        assert len(table.filter(min_votes=5)) == 24
        assert set(table.filter(test_type="XYC").test_type) == {"XYC"}
        assert len(table.filter(instrument="drums")) == 0
        for wrong in ({"min_agreement": 80}, {"min_votes": -1}):
            with pytest.raises(TripletError, match="min_agreement"):
                table.filter(**wrong)

    @given(st.lists(VOTES, min_size=1, max_size=20))
    @settings(max_examples=50, deadline=None)
    def test_targets_are_those_of_a_slow_mean_and_a_swap_flips_their_signs_exactly(self, rows):
        votes, sure = (np.array(column) for column in zip(*rows, strict=True))
        table = replace(TABLE.select(np.arange(len(rows))), votes=votes, sure_votes=sure)
        swapped = replace(table, votes=votes[:, ::-1], sure_votes=sure[:, ::-1])
        for kind in ("majority", "share", "graded"):
            found = table.target(kind)
            assert np.array_equal(found, -swapped.target(kind))
            assert found.dtype == np.float64
            assert (np.abs(found) <= 1.0).all()
            for target, (for_a, for_b), (sure_a, sure_b) in zip(found, votes.tolist(), sure.tolist(), strict=True):
                grades = {
                    "majority": [np.sign(for_a - for_b)],
                    "share": [1] * for_a + [-1] * for_b,
                    "graded": [1] * sure_a + [0.5] * (for_a - sure_a) + [-1] * sure_b + [-0.5] * (for_b - sure_b),
                }[kind]
                assert target == pytest.approx(np.mean(grades) if grades else 0.0)
        if votes.any():
            weights = table.vote_weights()
            assert weights.mean() == pytest.approx(1.0)
            np.testing.assert_allclose(weights * votes.sum() / len(votes), votes.sum(axis=1))

    def test_missing_votes_and_unknown_names_are_errors(self):
        with pytest.raises(TripletError, match=r"needs answers with the listener's confidence; made up.*`share`"):
            TABLE.target("graded")
        with pytest.raises(ConfigError, match="majority, share, graded; got 'soft'"):
            TABLE.target("soft")
        with pytest.raises(ConfigError, match="overall, timbre, rhythm, melody; got 'harmony'"):
            TABLE.about("harmony")
        with pytest.raises(TripletError, match="no votes on the 60 triplets"):
            replace(TABLE, votes=np.zeros_like(TABLE.votes)).vote_weights()
        assert len(TABLE.select([]).vote_weights()) == 0


class TestEmbedded:
    def test_features_are_those_of_a_loop_and_rows_keep_their_own(self):
        embedded = EmbeddedTriplets.of(TABLE, RandomEmbedder())
        vectors = embedded.embeddings.vectors.double()
        for row, (x, a, b) in enumerate(TABLE.members):
            expected = [vectors[x, stem] @ vectors[a, stem] - vectors[x, stem] @ vectors[b, stem] for stem in range(3)]
            torch.testing.assert_close(embedded.deltas[row], torch.stack(expected))
        chosen = embedded.select([5, 2])
        assert len(chosen) == 2
        torch.testing.assert_close(chosen.deltas, embedded.deltas[[5, 2]])
        torch.testing.assert_close(chosen.roles()[0].vectors, embedded.roles(torch.tensor([5, 2]))[0].vectors)
        assert embedded.target("share").dtype == embedded.vote_weights().dtype == torch.float64

    def test_features_take_memory_for_some_triplets_at_a_time(self, monkeypatch):
        sizes, embedded = [], EmbeddedTriplets.of(TABLE, RandomEmbedder())

        def counting(x, a, b):
            sizes.append(len(x.vectors))
            return stem_deltas(x, a, b)

        monkeypatch.setattr("stemsim.triplets.embedded.stem_deltas", counting)
        monkeypatch.setattr("stemsim.triplets.embedded._AT_ONCE", 25)
        assert torch.equal(embedded.deltas, stem_deltas(*embedded.roles()))
        assert sizes == [25, 25, 10]
        assert embedded.select([]).deltas.shape == (0, 3)

    def test_several_tables_embed_each_distinct_segment_once(self):
        embedder, tables = RandomEmbedder(), {"one": TABLE, "two": TABLE.select([1, 4])}

        class Tables(SameSong):
            def read_questions(self):
                return tables

        found = Tables(None).embed_questions(embedder)
        assert len(embedder.embedded) == len(set(embedder.embedded)) == len(TABLE.segments)
        for name, table in tables.items():
            torch.testing.assert_close(found[name].deltas, EmbeddedTriplets.of(table, embedder).deltas)

    def test_embeddings_of_other_segments_or_stems_are_refused(self):
        embeddings = RandomEmbedder().embed(TABLE.segments)
        for wrong, stems in ((embeddings.take(torch.arange(3)), LAYOUT), (embeddings, ("mix",))):
            with pytest.raises(TripletError, match="Expected embeddings of 18 segments and"):
                EmbeddedTriplets(TABLE, wrong, stems)


class TestSameSong:
    def test_triplets_are_xyc_and_follow_their_seed(self, songs):
        first, again, other = (SameSong(songs, 60, 3.0, seed=seed).read() for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.members, again.members)
        assert not np.array_equal(first.members, other.members)
        assert set(first.test_type) == {"XYC"}  # and the table has verified the tracks
        assert (first.members[:, 0] != first.members[:, 1]).all()
        assert (first.preference == 1).all()
        assert len(np.unique(first.members, axis=0)) == len(first)
        assert list(SameSong(songs, triplets=20, duration=2.0).read_questions()) == ["overall"]

    def test_too_few_songs_are_an_error(self, tmp_path):
        write_songs(tmp_path, 1, 12.0)
        with pytest.raises(TripletError, match="need two songs"):
            SameSong(SongFolder(tmp_path), 10, 3.0).read()
        with pytest.raises(TripletError, match="three songs"):
            SimulatedListeners(SongFolder(tmp_path), {"mix": 1.0}, 10, duration=3.0).read()
        with pytest.raises(TripletError, match="at least 1"):
            SameSong(SongFolder(tmp_path), triplets=0)


def simulate(songs, **options):
    reader = SimulatedListeners(songs, {"drums": 2.0, "mix": 1.0}, 400, duration=3.0, hop=0.5, **options)
    return reader.embed(RandomEmbedder())


class TestSimulatedListeners:
    def test_infallible_listeners_vote_by_the_true_weights(self, songs):
        found = simulate(songs, noise=0.0)
        np.testing.assert_array_equal(found.triplets.preference, np.sign(found.deltas.numpy() @ [0.0, 2.0, 1.0]))
        assert (found.triplets.votes.max(axis=1) == 9).all()
        assert found.triplets.true_weights == {"bass": 0.0, "drums": 2.0, "mix": 1.0}
        assert found.triplets.simulated
        assert "simulated" in found.triplets.source

    def test_noise_makes_listeners_disagree_and_the_seed_decides(self, songs):
        shares = [
            (v := simulate(songs, noise=noise).triplets.votes).max(axis=1).sum() / v.sum() for noise in (0.1, 0.5, 2)
        ]
        assert shares[0] > shares[1] > shares[2]
        first, again = (simulate(songs, seed=3).triplets for _ in range(2))
        np.testing.assert_array_equal(first.votes, again.votes)
        pinned = {0.5: [9, 0, 0, 7, 7, 0, 0, 3], 0.0: [9, 0, 0, 9, 9, 0, 0, 0]}
        for noise, for_a in pinned.items():
            for more in ({}, {"perspectives": {"rhythm": {"drums": 1.0}}}):
                reader = SimulatedListeners(songs, **SIMULATED, noise=noise, **more)
                assert reader.embed(RandomEmbedder()).triplets.votes[:8, 0].tolist() == for_a
                assert not reader.read().votes.any(), "nobody votes before the segments are heard"

    def test_least_squares_recovers_their_weights(self, songs):
        found = simulate(songs, noise=0.5, min_agreement=0.6)
        weights = np.linalg.lstsq(found.deltas.numpy(), found.triplets.preference, rcond=None)[0]
        truth = np.array([0.0, 2.0, 1.0])
        assert weights @ truth / (np.linalg.norm(weights) * np.linalg.norm(truth)) > 0.97
        assert found.triplets.retained(min_agreement=0.6).all()

    def test_grades_tell_how_clear_the_triplet_is(self, songs):
        def sure(**options):
            table = SimulatedListeners(songs, **SIMULATED, **options).embed(RandomEmbedder()).triplets
            share = table.sure_votes.sum(axis=1) / table.votes.sum(axis=1)
            return share, table.votes.max(axis=1) == 9

        assert sure(noise=0.0)[0].min() == sure(sure_from=0.0)[0].min() == 1.0
        assert sure(sure_from=50.0)[0].mean() < 0.01
        share, clear = sure()
        assert 0.2 < share.mean() < 0.5
        assert share[clear].mean() > 2 * share[~clear].mean()

    def test_perspectives_are_chosen_by_their_own_votes_and_know_their_truth(self, songs):
        more = {"rhythm": {"drums": 1.0}, "timbre": {"bass": 1.0}}
        reader, embedder = (
            SimulatedListeners(songs, **SIMULATED, min_agreement=0.8, perspectives=more),
            RandomEmbedder(),
        )
        found = reader.embed_questions(embedder)
        assert list(found) == ["overall", "timbre", "rhythm"]
        assert found["rhythm"].triplets.true_weights == {"bass": 0.0, "drums": 1.0, "mix": 0.0}
        assert all(one.triplets.retained(min_agreement=0.8).all() for one in found.values())
        assert len(embedder.embedded) == len(set(embedder.embedded)), "all questions are about the same segments"
        np.testing.assert_array_equal(found["overall"].triplets.votes, reader.embed(embedder).triplets.votes)

    def test_refusals(self, songs):
        with pytest.raises(TripletError, match=r"weights for piano.*provides bass, drums, mix"):
            SimulatedListeners(songs, {"piano": 1.0}, 10, duration=3.0).embed(RandomEmbedder())
        for wrong in ({"listeners": 0}, {"noise": -1.0}, {"xab_fraction": 1.5}):
            with pytest.raises(TripletError, match="at least one triplet"):
                SimulatedListeners(songs, {"mix": 1.0}, 10, **wrong)
        for wrong in (
            {"perspectives": {"harmony": {"mix": 1.0}}},
            {"perspectives": {"rhythm": {}}},
            {"sure_from": -1.0},
        ):
            with pytest.raises(TripletError, match="can be asked about timbre, rhythm, melody"):
                SimulatedListeners(songs, **SIMULATED, **wrong)
