"""Splits of triplets into train, validation and test parts."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError
from stemsim.triplets import Triplets

__all__ = ["DROPPED", "PARTS", "SplitKind", "split_triplets"]

SplitKind = Literal["stratified", "grouped"]
PARTS: Final = ("train", "val", "test")
DROPPED: Final = -1
"""Part of a triplet that no part may have, because its tracks lie in several."""

PartArray = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]


def split_triplets(
    triplets: Triplets, fractions: Sequence[float], *, kind: SplitKind = "stratified", count: int = 1, seed: int = 0
) -> PartArray:
    """Split triplets at random, many times over.

    *Stratified*: each part has the same share of every combination of test type, instrument and majority choice; the
    paper's protocol (section 4). Parts share tracks. *Grouped*: tracks are split, and a triplet belongs to a part only
    if all its tracks do, so that no track is on both sides; the other triplets are dropped.

    Args:
        triplets: The triplets.
        fractions: Shares of train, validation and test, adding up to 1.
        kind: `stratified` or `grouped`.
        count: Number of splits.
        seed: Seed of the random numbers.

    Returns:
        `(count, triplet)` index into `PARTS`, or `DROPPED`.

    Raises:
        ConfigError: If the fractions are not three shares of 1.
    """
    if len(fractions) != len(PARTS) or min(fractions) < 0 or not np.isclose(sum(fractions), 1.0):
        msg = f"Train, validation and test fractions must not be negative and must add up to 1; got {list(fractions)}."
        raise ConfigError(msg)
    rng = np.random.default_rng(seed)
    if kind == "grouped":
        return _grouped(triplets.track_ids, fractions, count, rng)
    strata = [
        f"{t}/{i}/{p}" for t, i, p in zip(triplets.test_type, triplets.instrument, triplets.preference, strict=True)
    ]
    _, stratum = np.unique(np.array(strata, dtype=str), return_inverse=True)
    return _stratified(stratum.astype(np.int64), fractions, count, rng)


def _stratified(stratum: IntArray, fractions: Sequence[float], count: int, rng: np.random.Generator) -> PartArray:
    """Shuffle every stratum and cut it at the fractions."""
    n = len(stratum)
    sizes = np.bincount(stratum)
    first = np.cumsum(sizes) - sizes  # where each stratum begins, once sorted
    shuffled = np.argsort(stratum + rng.random((count, n)), axis=1)  # by stratum, at random within
    rank = np.arange(n) - np.repeat(first, sizes)  # place within the stratum
    size = np.repeat(sizes, sizes)
    edges = np.rint(np.cumsum(fractions)[:-1, None] * size)  # (2, triplet)
    parts = np.empty((count, n), np.int8)
    np.put_along_axis(parts, shuffled, (rank >= edges).sum(axis=0).astype(np.int8)[None].repeat(count, 0), axis=1)
    return parts


def _grouped(track_ids: IntArray, fractions: Sequence[float], count: int, rng: np.random.Generator) -> PartArray:
    """Shuffle the tracks, cut them at the fractions, and keep the triplets that lie wholly in one part."""
    _, numbers = np.unique(track_ids, return_inverse=True)
    tracks = numbers.reshape(track_ids.shape)
    n_tracks = int(tracks.max(initial=-1)) + 1
    rank = rng.permuted(np.tile(np.arange(n_tracks), (count, 1)), axis=1)
    edges = np.rint(np.cumsum(fractions)[:-1] * n_tracks)
    track_part = (rank[:, :, None] >= edges).sum(axis=2)  # (count, track)
    parts = track_part[:, tracks]  # (count, triplet, 3)
    together = (parts == parts[:, :, :1]).all(axis=2)
    return np.where(together, parts[:, :, 0], DROPPED).astype(np.int8)
