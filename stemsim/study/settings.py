"""What the study varies, and what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError
from stemsim.evaluation.paper_tables import published
from stemsim.evaluation.study.listeners import Listeners
from stemsim.evaluation.study.songs import SongModel

__all__ = ["WORKERS", "StudySettings"]

WORKERS: Final = 2
"""Threads; NumPy and torch leave the interpreter to others while they compute."""

FloatArray = npt.NDArray[np.float64]

_FEWEST_TRIPLETS: Final = 20
_MOST_TRIPLETS: Final = 100_000
_NUMBERS_PER_TRIPLET: Final = 60  # of float64, beside those of each vote
_MOST_NUMBERS: Final = 400_000_000


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Settings of the study. An *experiment* is one simulated listening test, with songs and listeners of its own.

    Attributes:
        triplets: Numbers of triplets to try.
        votes: Numbers of votes a triplet to try; odd, so that every triplet has a majority.
        noises: Noises of the listeners to try.
        reference: The number of triplets and of votes that are held while something else varies; both are tried. The
            noise that is held is that of `listeners`.
        songs: How songs vary.
        listeners: How listeners differ.
        prior_spread: Standard deviation of the logarithm of each true weight around the paper's.
        experiments: Experiments for each number of triplets.
        held_out: Triplets of other songs in each experiment, to test on.
        coverage_triplets: Numbers of triplets for which intervals are tried.
        coverage_experiments: Experiments for each of these.
        few_songs: Tracks over triplets where songs are few, for the coverage.
        replicates: Bootstrap replicates of each interval.
        fusion_triplets: Numbers of triplets for which fusions are compared with ridge.
        fusion_experiments: Experiments for each of these.
        fusion_splits: Splits of each experiment.
        population: Triplets from which the weights that endless triplets would give are found.
        seed: Seed of everything.
    """

    triplets: tuple[int, ...] = (50, 100, 200, 331, 600, 1000, 2000)
    votes: tuple[int, ...] = (1, 3, 5, 9, 15)
    noises: tuple[float, ...] = (0.1, 0.25, 0.6)
    reference: tuple[int, int] = (331, 5)
    songs: SongModel = field(default_factory=SongModel)
    listeners: Listeners = field(default_factory=Listeners)
    prior_spread: float = 0.5
    experiments: int = 200
    held_out: int = 300
    coverage_triplets: tuple[int, ...] = (100, 331, 1000)
    coverage_experiments: int = 600
    few_songs: float = 0.1
    replicates: int = 500
    fusion_triplets: tuple[int, ...] = (100, 331, 1000, 3000)
    fusion_experiments: int = 20
    fusion_splits: int = 20
    population: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Verify ranges, and that what is held is among what is tried."""
        for name, values, lowest, highest in (
            ("triplets", self.triplets, _FEWEST_TRIPLETS, _MOST_TRIPLETS),
            ("coverage_triplets", self.coverage_triplets, _FEWEST_TRIPLETS, _MOST_TRIPLETS),
            ("votes", self.votes, 1, 999),
            ("noises", self.noises, 0.0, 100.0),
            ("experiments", (self.experiments,), 2, 1_000_000),
            ("coverage_experiments", (self.coverage_experiments,), 2, 1_000_000),
            ("held_out", (self.held_out,), _FEWEST_TRIPLETS, _MOST_TRIPLETS),
            ("fusion_triplets", self.fusion_triplets, _FEWEST_TRIPLETS, _MOST_TRIPLETS),
            ("fusion_experiments", (self.fusion_experiments,), 2, 1_000_000),
            ("fusion_splits", (self.fusion_splits,), 2, 10_000),
            ("replicates", (self.replicates,), 100, 1_000_000),
            ("population", (self.population,), 1000, 100_000_000),
            ("prior_spread", (self.prior_spread,), 0.0, 10.0),
            ("few_songs", (self.few_songs,), 0.01, 10.0),
            ("seed", (self.seed,), 0, 2**63),
        ):
            _check(name, values, lowest, highest)
        numbers = self.experiments * max(self.triplets) * (2 * max(self.votes) + _NUMBERS_PER_TRIPLET)
        if numbers > _MOST_NUMBERS:
            tried = f"{self.experiments} experiments of {max(self.triplets)} triplets with {max(self.votes)} votes"
            msg = (
                f"At most {8e-9 * _MOST_NUMBERS:.1f} GB of memory are allowed; {tried} would take about "
                f"{8e-9 * numbers:.0f} GB. Try fewer."
            )
            raise ConfigError(msg)
        if even := [count for count in self.votes if count % 2 == 0]:
            msg = f"`votes` are odd, so that every triplet has a majority; got {even}. Take {even[0] + 1} instead."
            raise ConfigError(msg)
        triplets, votes = self.reference
        held = triplets in self.triplets, votes in self.votes, self.listeners.noise in self.noises
        if not all(held):
            tried = f"{list(self.triplets)} triplets, {list(self.votes)} votes and noise {list(self.noises)}"
            msg = (
                f"What is held must be among what is tried, {tried}; got {triplets} triplets, {votes} votes and noise "
                f"{self.listeners.noise:g}. Add it, or hold another."
            )
            raise ConfigError(msg)
        missing = set(self.songs.stems) - set(published()["table4"]["MuQ-MuLan"]["6-stem"])
        if missing:
            msg = f"The paper has weights for the stems of 6-stem; it has none for {', '.join(sorted(missing))}."
            raise ConfigError(msg)

    @property
    def paper_weights(self) -> FloatArray:
        """`(stem,)` weights around which the truth is drawn: Table 4 of the paper, MuQ-MuLan, 6 stems."""
        weights = published()["table4"]["MuQ-MuLan"]["6-stem"]
        return np.array([float(weights[stem]) for stem in self.songs.stems])

    @property
    def conditions(self) -> tuple[tuple[float, int], ...]:
        """All noises with all numbers of votes."""
        return tuple((noise, votes) for noise in self.noises for votes in self.votes)

    def generator(self, part: str, number: int = 0) -> np.random.Generator:
        """Return the random numbers of one part of the study, which no other part disturbs."""
        return np.random.default_rng([self.seed, number, *part.encode()])

    @classmethod
    def quick(cls, *, seed: int = 0) -> Self:
        """Return settings for a look within seconds; the figures are rough."""
        return cls(
            triplets=(50, 100, 331, 1000),
            votes=(1, 5),
            noises=(0.25, 0.6),
            experiments=20,
            held_out=200,
            coverage_triplets=(331,),
            coverage_experiments=40,
            replicates=200,
            fusion_triplets=(100, 331),
            fusion_experiments=3,
            fusion_splits=10,
            population=20_000,
            seed=seed,
        )

    def to_dict(self) -> dict[str, object]:
        """Return the settings as numbers, strings and lists, ready for JSON."""

        def plain(value: object) -> object:
            if isinstance(value, SongModel | Listeners):
                return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
            return list(value) if isinstance(value, tuple) else value

        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}


def _check(name: str, values: Sequence[float], lowest: float, highest: float) -> None:
    """Verify that there are values, in ascending order and within a range."""
    within = all(lowest <= value <= highest for value in values)
    if not values or not within or list(values) != sorted(set(values)):
        shown = ", ".join(f"{value:g}" for value in values) or "nothing"
        msg = (
            f"`{name}` must lie in [{lowest:g}, {highest:g}]"
            f"{' and ascend' if len(values) > 1 else ''}; got {shown}. Choose other numbers."
        )
        raise ConfigError(msg)
