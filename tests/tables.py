"""Triplet tables, stem features and listening tests made up for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stemsim.audio import Segment
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.stems import STEMS
from stemsim.triplets import EmbeddedTriplets, Triplets

LAYOUT = ("bass", "drums", "mix")
WEIGHTS = torch.tensor([0.32, 0.83, 0.61, 0.27, 0.33, 1.27, 1.64], dtype=torch.float64)  # the paper's, table 4


def make_triplets(rng, n, *, tracks=6, per_track=3, listeners=5, same_song=False):
    """Return a valid random table of `n` triplets over made-up tracks; an odd number of listeners leaves no ties."""
    segments = tuple(Segment(Path(f"track{t}.wav"), 5.0 * s, 5.0) for t in range(tracks) for s in range(per_track))
    names = tuple(f"track{t}" for t in range(tracks) for _ in range(per_track))
    xyc = np.ones(n, bool) if same_song else rng.random(n) < 0.5
    chosen = np.array([rng.choice(tracks, 3, replace=False) for _ in range(n)])
    rows = chosen * per_track + rng.integers(per_track, size=(n, 3))
    rows[xyc, 1] = chosen[xyc, 0] * per_track + (rows[xyc, 0] + 1) % per_track
    for_a = rng.integers(listeners + 1, size=n)
    votes = np.tile([1, 0], (n, 1)) if same_song else np.stack([for_a, listeners - for_a], axis=1)
    return Triplets(
        segments=segments,
        tracks=names,
        members=rows,
        test_type=np.where(xyc, "XYC", "XAB"),
        instrument=np.full(n, "mix"),
        votes=votes,
        perspective_votes=np.zeros((n, 3, 2), np.int64),
        source="made up",
    )


def with_features(table, deltas, stems=LAYOUT):
    """Return triplets with given stem features instead of those of embeddings."""
    n = len(table.segments)
    nothing = StemEmbeddings(torch.zeros(n, len(stems), 1), torch.zeros(n, len(stems)), torch.ones(n, len(stems)) > 0)
    embedded = EmbeddedTriplets(table, nothing, tuple(stems))
    vars(embedded)["deltas"] = torch.as_tensor(deltas, dtype=torch.float64)
    return embedded


def rows_of(embedded, rows):
    """Return some triplets with their features."""
    return with_features(embedded.triplets.select(rows), embedded.deltas[rows], embedded.stems)


def preferring(table, score):
    """Return the table with votes swapped where the majority is not that of a score `(triplet,)`."""
    flip = ((score > 0) != (table.preference > 0))[:, None]
    return replace(table, votes=np.where(flip, table.votes[:, ::-1], table.votes))


def voted(seed, weights, *, triplets=300, noise=0.5, tracks=40, stems=LAYOUT):
    """Return random features, and listeners whose majority follows weights."""
    rng = np.random.default_rng(seed)
    table, deltas = make_triplets(rng, triplets, tracks=tracks), rng.normal(size=(triplets, len(weights)))
    table = preferring(table, deltas @ weights + noise * rng.normal(size=triplets))
    return with_features(table, deltas, stems[: len(weights)])


def saturating(x, y):
    """Return the similarity to listeners to whom stems are alike or not; a silent one adds nothing."""
    cosines = stem_cosines(x, y)
    return torch.where(cosines == 0.0, 0.0, torch.sigmoid((cosines - 0.75) / 0.05)) @ WEIGHTS


def linear(x, y):
    """Return the similarity to listeners of the paper's weights."""
    return stem_cosines(x, y) @ WEIGHTS


def listening_test(similarity, *, noise, triplets=331, seed=0, songs=60, each=6, dim=20):
    """Return a listening test of 7 stems, with nine noisy votes a triplet."""
    rng = np.random.default_rng(seed)
    shared, song = rng.normal(size=(7, dim)), rng.normal(size=(songs, 1, 7, dim))
    vectors = 0.8 * shared + 0.6 * song + 0.45 * rng.normal(size=(songs, each, 7, dim))
    present = torch.from_numpy(rng.random((songs * each, 7)) > 0.08)
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors).flatten(0, 1), dim=2) * present.unsqueeze(2)
    levels = torch.from_numpy(rng.normal(-30.0, 8.0, size=(songs * each, 7)))
    embeddings = StemEmbeddings(unit.float(), torch.where(present, levels, -120.0).float(), present)
    table = make_triplets(rng, triplets, tracks=songs, per_track=each)
    embedded = EmbeddedTriplets(table, embeddings, STEMS)
    x, a, b = embedded.roles()
    closer = similarity(x, a) - similarity(x, b)
    for_a = rng.binomial(9, torch.sigmoid(closer / (noise * closer.std())).numpy())
    return replace(embedded, triplets=replace(table, votes=np.stack([for_a, 9 - for_a], axis=1)))
