"""Splits of triplets into train, validation and test parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError, SplitError
from stemsim.triplets import TEST_TYPES, Triplets
from stemsim.triplets.table import BoolArray, IntArray

SplitKind = Literal["stratified", "grouped"]
PARTS: Final = ("train", "val", "test")
DROPPED: Final = -1
"""Marks a triplet that belongs to no part, because its tracks lie in several."""

PartArray = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Random splits of a triplet table into train and test parts: drawn once, and kept with every result.

    Attributes:
        train: `(split, triplet)` True where a triplet is trained on.
        test: `(split, triplet)` True where it is tested on.
        kind: `stratified` or `grouped`, see `split_triplets`.
        train_fraction: Share of the triplets (grouped: of the tracks) to train on.
        seed: Seed of the draw.
    """

    train: BoolArray
    test: BoolArray
    kind: SplitKind
    train_fraction: float
    seed: int

    def __post_init__(self) -> None:
        """Verify that no part is empty and that none overlaps."""
        if self.train.shape != self.test.shape or (self.train & self.test).any():
            raise SplitError(
                "Expected disjoint train and test masks of one shape (split, triplet); got masks of shape "
                f"{self.train.shape} and {self.test.shape}, or triplets in both."
            )
        empty = ~(self.train.any(axis=1) & self.test.any(axis=1))
        if empty.any():
            kept = int((self.train | self.test).sum(axis=1).mean())
            raise SplitError(
                f"{int(empty.sum())} of {len(self)} {self.kind} splits have an empty train or test part ({kept} of "
                f"{self.train.shape[1]} triplets are in either, on average). Use more triplets or tracks, another "
                "train fraction, or stratified splits."
            )

    @classmethod
    def draw(
        cls,
        triplets: Triplets,
        *,
        count: int = 100,
        train_fraction: float = 0.7,
        kind: SplitKind = "stratified",
        seed: int = 0,
    ) -> Self:
        """Draw random splits of a kind of `split_triplets`; the defaults are the paper's protocol (section 4).

        Raises:
            ConfigError: If there is not at least one split, or the fraction does not lie between 0 and 1.
            SplitError: If a split leaves its train or test part empty.
        """
        if count < 1 or not 0.0 < train_fraction < 1.0:
            raise ConfigError(
                f"Expected at least one split and a train fraction between 0 and 1; got {count} and {train_fraction}."
            )
        fractions = (train_fraction, 0.0, 1.0 - train_fraction)
        parts = split_triplets(triplets, fractions, kind=kind, count=count, seed=seed)
        train, test = (parts == PARTS.index(part) for part in ("train", "test"))
        return cls(train, test, kind, train_fraction, seed)

    def __len__(self) -> int:
        return len(self.train)

    @property
    def test_train_ratio(self) -> float:
        """Size of the test parts over that of the train parts, in triplets (grouped: in tracks)."""
        return (1.0 - self.train_fraction) / self.train_fraction

    def retrained(self, triplets: Triplets, candidates: BoolArray, sizes: IntArray) -> Self:
        """Return splits with the same test parts and train parts drawn at random within each test type.

        Args:
            triplets: The triplets that were split.
            candidates: `(split, triplet)` True where a triplet may be trained on.
            sizes: `(split, test type)` number of triplets of each of `TEST_TYPES` to train on.
        """
        order = np.where(candidates, np.random.default_rng([self.seed, 1]).random(candidates.shape), np.inf)
        train = np.zeros(order.shape, bool)
        for column, kind in enumerate(TEST_TYPES):
            of_type = np.where(triplets.test_type == kind, order, np.inf)
            rank = np.argsort(np.argsort(of_type, axis=1), axis=1)
            train |= (rank < sizes[:, [column]]) & np.isfinite(of_type)
        return replace(self, train=train)

    def train_sizes(self, triplets: Triplets) -> IntArray:
        """Return the number of train triplets of each of `TEST_TYPES`, `(split, test type)`."""
        return np.stack([self.train[:, triplets.test_type == kind].sum(axis=1) for kind in TEST_TYPES], axis=1)


def split_triplets(
    triplets: Triplets, fractions: Sequence[float], *, kind: SplitKind = "stratified", count: int = 1, seed: int = 0
) -> PartArray:
    """Assign triplets to train, validation and test parts at random, many times.

    *Stratified*: each part has the same share of every combination of test type, instrument and majority choice; the
    paper's protocol (section 4). Parts share tracks. *Grouped*: tracks are split, and a triplet belongs to a part only
    if all its tracks do, so that no track is on both sides; the other triplets are dropped.

    Args:
        triplets: The triplets.
        fractions: Shares of train, validation and test, adding up to 1.
        kind: `stratified` or `grouped`.
        count: Number of splits.
        seed: Seed of the draw.

    Returns:
        `(count, triplet)` index into `PARTS`, or `DROPPED`.

    Raises:
        ConfigError: If the fractions are not three shares of 1.
    """
    if len(fractions) != len(PARTS) or min(fractions) < 0 or not np.isclose(sum(fractions), 1.0):
        raise ConfigError(
            f"Expected train, validation and test fractions of at least 0 that add up to 1; got {list(fractions)}."
        )
    rng = np.random.default_rng(seed)
    if kind == "grouped":
        return _grouped(triplets.track_ids, fractions, count, rng)
    strata = zip(triplets.test_type, triplets.instrument, triplets.preference, strict=True)
    _, stratum = np.unique(np.array([f"{t}/{i}/{p}" for t, i, p in strata], dtype=str), return_inverse=True)
    return _stratified(stratum.astype(np.int64), fractions, count, rng)


def _stratified(stratum: IntArray, fractions: Sequence[float], count: int, rng: np.random.Generator) -> PartArray:
    """Shuffle every stratum and cut it at the fractions."""
    n, sizes = len(stratum), np.bincount(stratum)
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
