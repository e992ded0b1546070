"""What runs of `train.py` found, and how to repeat it."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stemsim.audio import Segment

__all__ = [
    "BASELINES",
    "CrossvalResults",
    "FitResults",
    "ModelResult",
    "PartResults",
    "Picture",
    "RunResults",
    "Score",
    "WorstTriplet",
]

BASELINES: Final = frozenset({"mix cosine", "uniform weights"})
"""Models whose weights are given, not fitted."""


@dataclass(frozen=True, slots=True)
class Score:
    """Mean and standard deviation over splits; NaN where there is no value.

    Attributes:
        mean: The mean.
        std: The standard deviation.
    """

    mean: float
    std: float = math.nan


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model of a cross-validation.

    Attributes:
        name: Its name, e.g. `ridge`.
        agreement: Test agreement in [0, 1], by `all`, `XAB` and `XYC`.
        share: Share of the human ceiling; NaN where there is none.
        weights: By stem; empty for the ceiling.
    """

    name: str
    agreement: Mapping[str, Score]
    share: float
    weights: Mapping[str, Score]

    @property
    def is_fitted(self) -> bool:
        """Whether its weights were learned."""
        return bool(self.weights) and self.name not in BASELINES

    @property
    def is_model(self) -> bool:
        """Whether it predicts; the human ceiling does not."""
        return bool(self.weights) or not self.name.endswith("ceiling")


@dataclass(frozen=True, slots=True)
class CrossvalResults:
    """What `crossval` found.

    Attributes:
        source: Where the triplets come from.
        simulated: Whether the listeners are simulated.
        triplets: Number of triplets.
        splits: Kind, count, train fraction and seed of the splits.
        models: All models.
        verdicts: What was found, in sentences.
        intervals: Lower and upper end by stem, of least-squares weights by track bootstrap; empty where there are none.
        level: Nominal coverage of the intervals.
    """

    source: str
    simulated: bool
    triplets: int
    splits: Mapping[str, Any]
    models: tuple[ModelResult, ...]
    verdicts: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]
    level: float


@dataclass(frozen=True, slots=True)
class FitResults:
    """What `fit` found.

    Attributes:
        source: Where the triplets come from.
        simulated: Whether the listeners are simulated.
        weights: By stem.
        metrics: As logged, e.g. `train/agreement`.
        gap: Largest distance to the closed form; NaN where there is none.
        cosine_to_truth: Between fitted and true weights; NaN unless the listeners are simulated.
    """

    source: str
    simulated: bool
    weights: Mapping[str, float]
    metrics: Mapping[str, float]
    gap: float
    cosine_to_truth: float


@dataclass(frozen=True, slots=True)
class PartResults:
    """What `validate` or `test` found.

    Attributes:
        part: `val` or `test`.
        source: Where the triplets come from.
        split: Kind of the split.
        triplets: Number of triplets of this part.
        tracks: Number of tracks of this part.
        metrics: As logged, e.g. `test/agreement`.
    """

    part: str
    source: str
    split: str
    triplets: int
    tracks: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WorstTriplet:
    """A triplet on which the model is far from what listeners said.

    Attributes:
        x: The reference.
        a: Candidate A.
        b: Candidate B.
        test_type: `XAB` or `XYC`.
        votes: For A and for B.
        preference: Of the model; positive = A.
        contributions: What each stem adds to the preference.
    """

    x: Segment
    a: Segment
    b: Segment
    test_type: str
    votes: tuple[float, float]
    preference: float
    contributions: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a job wrote.

    Attributes:
        job: Name of the results that it belongs to.
        path: The PNG file.
    """

    job: str
    path: Path


@dataclass(frozen=True, slots=True)
class RunResults:
    """All that one run's folder holds.

    Attributes:
        name: What the run is called beside the others.
        folder: Its folder.
        settings: The configuration, as far as every job accepts it; empty where no job wrote one.
        versions: Of the packages that it ran with, by name; empty where they were not recorded.
        fit: What `fit` found, if it ran.
        parts: What `validate` and `test` found, if they ran.
        crossval: What `crossval` found, if it ran.
        worst: The worst triplets of the test part, or else of the validation part.
        sentences: What further jobs said, by the name of their results.
        pictures: All pictures.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    fit: FitResults | None
    parts: tuple[PartResults, ...]
    crossval: CrossvalResults | None
    worst: tuple[WorstTriplet, ...]
    sentences: Mapping[str, tuple[str, ...]]
    pictures: tuple[Picture, ...]

    @property
    def settings_file(self) -> str:
        """What to call a copy of the settings."""
        return f"{self.name.replace('/', '-')}.yaml"

    def commands(self) -> dict[str, str]:
        """Return the command of each job, with the settings in a file of the name `settings_file`."""
        config = shlex.quote(self.settings_file)
        last = shlex.quote(str(self.folder / "checkpoints" / "last.ckpt"))
        cross = f"python train.py crossval -c {config}"
        if self.crossval is not None:
            cross += "".join(
                f" --{option} {self.crossval.splits[key]}"
                for option, key in (("kind", "kind"), ("splits", "count"), ("train_fraction", "train_fraction"))
            )
            cross += f" --seed {self.crossval.splits['seed']}"
        return {
            "fit": f"python train.py fit -c {config}",
            "test": f"python train.py test -c {config} --ckpt_path {last}",
            "crossval": cross,
        }

    def missing(self) -> dict[str, str]:
        """Return what the run lacks, each with the command that makes it."""
        there = {"fit": self.fit is not None, "crossval": self.crossval is not None}
        there["test"] = any(part.part == "test" for part in self.parts)
        return {job: command for job, command in self.commands().items() if not there[job]}
