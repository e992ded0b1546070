"""Triplet tables made up for tests."""

from pathlib import Path

import numpy as np

from stemsim.audio import Segment
from stemsim.triplets import Triplets


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
        x=rows[:, 0],
        a=rows[:, 1],
        b=rows[:, 2],
        test_type=np.where(xyc, "XYC", "XAB"),
        instrument=np.full(n, "mix"),
        votes=votes,
        perspective_votes=np.zeros((n, 3, 2), np.int64),
        source="made up",
    )
