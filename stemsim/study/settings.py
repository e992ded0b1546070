"""Settings of the study."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np

from stemsim.errors import ConfigError

_RANGES: Final[dict[tuple[str, ...], tuple[float, float]]] = {
    ("triplets", "coverage_triplets", "fusion_triplets"): (20, 100_000),
    ("experiments", "coverage_experiments", "fusion_experiments"): (2, 1_000_000),
    ("votes",): (1, 999),
    ("noises", "unheard"): (0, 100),
    ("collinearity",): (0, 1),
    ("seed",): (0, 2**63),
}
_MOST_GIGABYTES: Final = 3.2


class Condition(NamedTuple):
    """Size and noise of a listening test."""

    triplets: int
    votes: int
    noise: float


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Settings of the study. An *experiment* is one simulated listening test, with songs and listeners of its own.

    Attributes:
        triplets: Numbers of triplets to try.
        votes: Numbers of votes per triplet to try; odd, so that every triplet has a majority.
        noises: Noises of the listeners to try.
        reference: Triplets, votes and noise to hold while something else varies; the nearest that are tried are used.
        unheard: Root mean square of what listeners hear and no stem embedding shows, relative to what the stems show.
        collinearity: Share of what is particular to a song or segment that all its stems have in common.
        tracks_per_triplet: Number of tracks divided by the number of triplets.
        experiments: Experiments for each number of triplets; likewise for the coverage of intervals and for fusions.
        held_out: Triplets of other songs to test on, in each experiment.
        fusion_splits: Splits of each experiment in which fusions are compared with ridge regression.
        population: Number of triplets that stands for an unlimited one.
        seed: Seed of everything that is drawn.
    """

    triplets: tuple[int, ...] = (50, 100, 200, 331, 600, 1000, 2000)
    votes: tuple[int, ...] = (1, 3, 5, 9, 15)
    noises: tuple[float, ...] = (0.1, 0.25, 0.6)
    reference: tuple[float, float, float] = (331, 5, 0.25)
    unheard: float = 0.5
    collinearity: float = 0.35
    tracks_per_triplet: float = 132 / 331
    experiments: int = 200
    held_out: int = 300
    coverage_triplets: tuple[int, ...] = (100, 331, 1000)
    coverage_experiments: int = 600
    fusion_triplets: tuple[int, ...] = (100, 331, 1000, 3000)
    fusion_experiments: int = 20
    fusion_splits: int = 20
    population: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Verify ranges, odd votes, and that everything fits into memory."""
        for name, (lowest, highest) in ((name, ends) for names, ends in _RANGES.items() for name in names):
            given: Any = getattr(self, name)
            values = np.ravel(given).tolist()
            within = all(lowest <= value <= highest for value in values)
            if not values or not within or values != sorted(set(values)):
                order = " in ascending order" if np.ndim(given) else ""
                shown = ", ".join(f"{value:g}" for value in values) or "nothing"
                raise ConfigError(
                    f"`{name}` must lie in [{lowest:g}, {highest:g}]{order}; got {shown}. Choose other numbers."
                )
        if len(self.reference) != len(Condition._fields):
            raise ConfigError(
                f"The condition to hold is triplets, votes and noise, such as 331,5,0.25; got {self.reference}."
            )
        if even := [count for count in self.votes if count % 2 == 0]:
            raise ConfigError(
                f"`votes` must be odd, so that every triplet has a majority; got {even}. Use {even[0] + 1} instead."
            )
        triplets, votes = max(self.triplets), max(self.votes)
        gigabytes = 8e-9 * self.experiments * triplets * (2 * votes + 60)  # float64; two for each vote, about 60 beside
        if gigabytes > _MOST_GIGABYTES:
            raise ConfigError(
                f"{self.experiments} experiments of {triplets} triplets with {votes} votes would take about "
                f"{gigabytes:.0f} GB of memory, more than the {_MOST_GIGABYTES} GB allowed. Choose fewer of them."
            )

    @property
    def held(self) -> Condition:
        """The condition held while something else varies: the values tried that are nearest to `reference`."""
        tried: tuple[tuple[Any, ...], ...] = (self.triplets, self.votes, self.noises)
        pairs = zip(tried, self.reference, strict=True)
        return Condition(*(min(values, key=lambda value: abs(value - wanted)) for values, wanted in pairs))

    def tracks(self, triplets: int) -> int:
        """Return the number of tracks for a number of triplets: at least the three of an XAB triplet."""
        return max(3, round(self.tracks_per_triplet * triplets))

    def generator(self, part: str, number: int = 0) -> np.random.Generator:
        """Return the random number generator of one part of the study, independent of all others."""
        return np.random.default_rng([self.seed, number, *part.encode()])

    @classmethod
    def quick(cls, *, seed: int = 0) -> Self:
        """Return settings that take seconds and give rough figures."""
        return cls(
            triplets=(50, 100, 331, 1000),
            votes=(1, 5),
            noises=(0.25, 0.6),
            experiments=20,
            held_out=200,
            coverage_triplets=(331,),
            coverage_experiments=40,
            fusion_triplets=(100, 331),
            fusion_experiments=3,
            fusion_splits=10,
            population=20_000,
            seed=seed,
        )
