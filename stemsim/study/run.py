"""The study as a whole."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stemsim.evaluation.study.coverage import coverage, population_weights
from stemsim.evaluation.study.exact_fusions import exact_fusions
from stemsim.evaluation.study.fusions import MakeChallenger, fusion_gains
from stemsim.evaluation.study.listeners import TRUTHS, felt, scale_of
from stemsim.evaluation.study.settings import StudySettings
from stemsim.evaluation.study.songs import draw
from stemsim.evaluation.study.verdicts import best_intervals, coverage_sentences, fusion_sentences, weight_sentences
from stemsim.evaluation.study.weights import angles, recover_weights

__all__ = ["Findings", "run_study"]

Counter = Callable[[str, int], Callable[[int], None]]

_TRIPLETS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What the study found.

    Attributes:
        settings: What was tried.
        limit: Angle in degrees between the true weights and those of least squares with endless triplets.
        weights: Figures of `recover_weights`.
        needed: The triplets needed, by `recover_weights`.
        coverage: Figures of `stemsim.evaluation.study.coverage.coverage`.
        fusion: Figures of `fusion_gains`.
    """

    settings: StudySettings
    limit: float
    weights: pd.DataFrame
    needed: pd.DataFrame
    coverage: pd.DataFrame
    fusion: pd.DataFrame

    @property
    def sentences(self) -> list[str]:
        """What the study says, in plain words."""
        return [
            *weight_sentences(self.weights, self.needed, self.limit, self.settings),
            *coverage_sentences(self.coverage),
            *fusion_sentences(self.fusion),
        ]

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """All figures by name, ready for CSV."""
        return {"weights": self.weights, "needed": self.needed, "coverage": self.coverage, "fusion": self.fusion}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists, ready for JSON; what is not finite becomes None."""
        return {
            "settings": self.settings.to_dict(),
            "verdicts": self.sentences,
            "intervals_to_use": best_intervals(self.coverage),
            "angle_with_endless_triplets": self.limit,
            **{name: _records(frame) for name, frame in self.frames.items()},
        }


def run_study(
    settings: StudySettings, *, fusions: Mapping[str, MakeChallenger] | None = None, progress: bool = True
) -> Findings:
    """Draw songs, weights and listeners, and see what becomes of them.

    Args:
        settings: What to try.
        fusions: Nonlinear fusions by name, to compare with ridge; default: those that ridge regression fits exactly.
        progress: Show progress bars on standard error.

    Returns:
        Weight error, agreement, coverage, and what fusions gain.
    """
    stems = settings.songs.stems
    challengers = exact_fusions(stems) if fusions is None else fusions
    with _progress(enabled=progress) as counter:
        pieces = -(-settings.population // _TRIPLETS_AT_ONCE)
        drawn = draw(settings.songs, pieces, _TRIPLETS_AT_ONCE, settings.generator("scale"))
        scales = {truth: scale_of(felt(drawn, truth, stems)) for truth in TRUTHS}
        linear = scales["linear"]
        population = population_weights(settings, linear)
        figures, needed = recover_weights(settings, linear, counter("Weights", sum(settings.triplets)))
        cases = len(settings.coverage_triplets) + 1
        covered = coverage(settings, linear, population, counter("Coverage", cases * settings.coverage_experiments))
        tested = len(TRUTHS) * settings.fusion_experiments * sum(settings.fusion_triplets)
        gains = fusion_gains(settings, scales, challengers, counter("Fusions", tested))
    return Findings(settings, float(angles(population, settings.paper_weights)), figures, needed, covered, gains)


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Counter]:
    """Give out progress bars: a name and a total for each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not enabled) as bars:

        def counter(name: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(name, total=total)
            return lambda count: bars.advance(task, count)

        yield counter


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.replace([np.inf, -np.inf], np.nan).astype(object)
    plain = plain.where(plain.notna(), None)
    return [
        {str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
