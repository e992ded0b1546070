"""The triplet table and the readers that need no listening test."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import write_songs
from tables import make_triplets

from stemsim.audio import SongFolder
from stemsim.errors import TripletError
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.triplets import SameSong, SimulatedListeners

TABLE = make_triplets(np.random.default_rng(0), 50)


class RandomEmbedder:
    """Stands in for a StemEmbedder: every segment has random vectors of its own."""

    stems = ("bass", "drums", "mix")

    def embed(self, segments):
        seeds = [zlib.crc32(f"{segment.path.parent.name}{segment.start}".encode()) for segment in segments]
        vectors = torch.stack([torch.randn(3, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        vectors = torch.nn.functional.normalize(vectors, dim=2)
        return StemEmbeddings(vectors, torch.zeros(len(seeds), 3), torch.ones(len(seeds), 3, dtype=torch.bool))


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, 5, 12.0)
    return SongFolder(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": TABLE.x[:-1]}, "shape"),
        ({"votes": TABLE.votes[:, :1]}, "shape"),
        ({"tracks": TABLE.tracks[:-1]}, "as many tracks"),
        ({"b": TABLE.b + 1000}, "indices"),
        ({"votes": TABLE.votes - 9}, "negative"),
        ({"test_type": np.full(50, "ABX")}, "test types"),
        ({"instrument": np.full(50, "kazoo")}, "instruments"),
        ({"test_type": np.full(50, "XAB")}, "XAB: three tracks"),
        ({"a": TABLE.b, "b": TABLE.a}, "XYC: A on X's track"),
    ],
)
def test_a_table_that_breaks_its_rules_is_refused(changes, message):
    with pytest.raises(TripletError, match=message):
        replace(TABLE, **changes)


def test_selecting_rows_keeps_them_and_only_their_segments():
    chosen = TABLE.select([3, 7])
    for row, original in enumerate([3, 7]):
        for role in ("x", "a", "b"):
            index, before = getattr(chosen, role)[row], getattr(TABLE, role)[original]
            assert chosen.segments[index] == TABLE.segments[before]
            assert chosen.tracks[index] == TABLE.tracks[before]
    assert len(chosen.segments) == len(set(chosen.segments)) <= 6
    np.testing.assert_array_equal(chosen.votes, TABLE.votes[[3, 7]])
    assert len(TABLE.select([])) == 0


def test_filters_keep_what_meets_them():
    votes = np.tile([[4, 1], [3, 2], [1, 1], [0, 0], [0, 3]], (10, 1))
    table = replace(TABLE, votes=votes)
    assert len(table.filter()) == 30, "ties and triplets without votes have no majority"
    kept = table.filter(min_agreement=0.8)
    assert {tuple(row) for row in kept.votes.tolist()} == {(4, 1), (0, 3)}
    assert len(table.filter(min_votes=5)) == 20
    assert set(table.filter(test_type="XYC").test_type) == {"XYC"}
    assert len(table.filter(instrument="drums")) == 0
    with pytest.raises(TripletError, match="min_agreement"):
        table.filter(min_agreement=80)


def test_same_song_triplets_are_xyc_and_follow_their_seed(songs):
    first, again, other = (SameSong(songs, 60, 3.0, seed=seed).read(None) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x, again.x)
    assert len(other.x) != len(first.x) or (other.x != first.x).any()
    assert set(first.test_type) == {"XYC"}  # and the table has verified the tracks
    assert (first.x != first.a).all()
    assert (first.preference == 1).all()
    rows = np.stack([first.x, first.a, first.b], axis=1)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_too_few_songs_are_an_error(tmp_path):
    write_songs(tmp_path, 1, 12.0)
    with pytest.raises(TripletError, match="need two songs"):
        SameSong(SongFolder(tmp_path), 10, 3.0).read(None)
    with pytest.raises(TripletError, match="three songs"):
        SimulatedListeners(SongFolder(tmp_path), {"mix": 1.0}, 10, duration=3.0).read(RandomEmbedder())


def simulate(songs, **options):
    reader = SimulatedListeners(songs, {"drums": 2.0, "mix": 1.0}, 400, duration=3.0, hop=0.5, **options)
    return reader.read(RandomEmbedder())


def features(table, embedder):
    embeddings = embedder.embed(table.segments)
    return stem_deltas(*(embeddings.take(torch.from_numpy(column)) for column in (table.x, table.a, table.b))).numpy()


def test_infallible_listeners_vote_by_the_true_weights(songs):
    table = simulate(songs, noise=0.0)
    score = features(table, RandomEmbedder()) @ [0.0, 2.0, 1.0]
    np.testing.assert_array_equal(table.preference, np.sign(score))
    assert (table.votes.max(axis=1) == 9).all()
    assert table.true_weights == {"bass": 0.0, "drums": 2.0, "mix": 1.0}
    assert "simulated" in table.source


def test_noise_makes_listeners_disagree_and_the_seed_decides(songs):
    shares = [simulate(songs, noise=noise).majority_share.mean() for noise in (0.1, 0.5, 2.0)]
    assert shares[0] > shares[1] > shares[2]
    first, again = (simulate(songs, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.votes, again.votes)


def test_least_squares_recovers_the_weights_of_simulated_listeners(songs):
    table = simulate(songs, noise=0.5, min_agreement=0.6)
    weights = np.linalg.lstsq(features(table, RandomEmbedder()), table.preference, rcond=None)[0]
    truth = np.array([0.0, 2.0, 1.0])
    assert weights @ truth / (np.linalg.norm(weights) * np.linalg.norm(truth)) > 0.97
    assert (table.majority_share >= 0.6).all()


def test_weights_of_stems_that_are_not_there_are_an_error(songs):
    with pytest.raises(TripletError, match=r"weigh piano.*gives bass, drums, mix"):
        SimulatedListeners(songs, {"piano": 1.0}, 10, duration=3.0).read(RandomEmbedder())
    for bad in ({"listeners": 0}, {"noise": -1.0}, {"xab_fraction": 1.5}):
        with pytest.raises(TripletError, match="at least one triplet"):
            SimulatedListeners(songs, {"mix": 1.0}, 10, **bad)
