"""Summary of a cross-validation: certainty of the weights, verdicts, and further analyses on request."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from stemsim.analysis.collinearity import Collinearity, collinearity
from stemsim.analysis.importance import StemImportance, leave_one_stem_out
from stemsim.analysis.intervals import WeightIntervals, weight_intervals
from stemsim.analysis.leakage import Leakage, leakage
from stemsim.analysis.penalty import WeightPath, nested_cross_validation, weight_path
from stemsim.errors import SplitError, TripletError
from stemsim.evaluation import Comparison, CrossValidation, ModelScores, compare_models
from stemsim.evaluation.agreement import CeilingShare, share_of_ceiling

_T = TypeVar("_T")
Analysis = Literal["votes", "importance", "penalty", "leakage", "perspectives"]
ANALYSES: Final[tuple[Analysis, ...]] = get_args(Analysis)
"""Analyses on request. `votes` and `perspectives` need more than a cross-validation and are left to the caller."""


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Cross-validation with comparisons of models, certainty of the weights, and further analyses.

    Attributes:
        result: The cross-validation.
        comparisons: Paired comparisons of ridge with the mix-only cosine, and of further models with ridge.
        share: Ridge as a share of the ceiling; None where no triplet has two votes.
        intervals: Of the least-squares weights on all triplets; None where there are too few triplets or tracks.
        collinearity: Collinearity of the stem features.
        importance: Loss without each stem, on request; None for a single stem or split.
        path: Ridge weights as functions of the penalty, on request.
        nested: Ridge with penalties of a nested cross-validation, on request; None where an inner split is empty.
        leakage: Effect of shared tracks, on request.
        notes: Reasons why something that was asked for is missing.
    """

    result: CrossValidation
    comparisons: tuple[Comparison, ...]
    share: CeilingShare | None
    intervals: WeightIntervals | None
    collinearity: Collinearity
    importance: StemImportance | None
    path: WeightPath | None
    nested: ModelScores | None
    leakage: Leakage | None
    notes: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """The findings in words."""
        said = [one.verdict for one in self.comparisons if one.first == "ridge" or one.significant]
        if alike := [one.first for one in self.comparisons if one.first != "ridge" and not one.significant]:
            said.append(f"No significant difference from ridge: {'; '.join(alike)}.")
        if self.share is not None:
            said.append(f"Ridge: {self.share.sentence}")
        said.append(self.collinearity.sentence)
        if self.nested is not None:
            ridge = self.result["ridge"]
            said.append(
                f"Penalty within the train parts: median alpha {ridge.median_alpha:.3g} by leave-one-out (agreement "
                f"{100 * ridge.mean:.1f} %), {self.nested.median_alpha:.3g} by nested cross-validation "
                f"({100 * self.nested.mean:.1f} %)."
            )
        if self.leakage is not None:
            said.append(self.leakage.sentence)
        return [*said, *self.notes]


def summarise(result: CrossValidation, analyses: Collection[Analysis] = (), *, level: float = 0.95) -> Summary:
    """Summarise a cross-validation, with further `ANALYSES` and intervals of a nominal coverage."""
    notes: list[str] = []

    def attempt(analysis: Callable[[], _T], failure: str) -> _T | None:
        """Return an analysis, or None with a note."""
        try:
            return analysis()
        except (SplitError, TripletError) as error:
            notes.append(f"{failure}: {error}")
            return None

    ridge = result["ridge"]
    pairs = [(ridge, result["mix cosine"])] if "mix cosine" in result else []
    pairs += [(model, ridge) for model in result.models[result.models.index(ridge) + 1 :]]
    several = len(result.stems) > 1 and len(result.splits) > 1
    penalty = "penalty" in analyses
    tracks = result.embedded.triplets.track_ids
    return Summary(
        result=result,
        comparisons=tuple(compare_models(*pair, result.splits, level=level) for pair in pairs if several),
        share=share_of_ceiling(result, ridge, level=level),
        intervals=attempt(lambda: weight_intervals(result.on_all, tracks, level=level), "No intervals of the weights"),
        collinearity=collinearity(result.embedded.deltas, result.stems),
        importance=leave_one_stem_out(result, level=level) if several and "importance" in analyses else None,
        path=weight_path(result) if penalty else None,
        nested=attempt(lambda: nested_cross_validation(result), "No nested cross-validation") if penalty else None,
        leakage=attempt(lambda: leakage(result), "No splits by track") if "leakage" in analyses else None,
        notes=tuple(notes),  # of all the above
    )
