"""Everything there is to say about weights fitted to all triplets, in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stemsim.errors import SplitError, TripletError
from stemsim.evaluation.ceiling import CeilingShare, share_of_ceiling
from stemsim.evaluation.collinearity import Collinearity, collinearity
from stemsim.evaluation.comparison import Comparison, compare_fits, held_out_credit
from stemsim.evaluation.crossval import ALPHAS, CrossValidation
from stemsim.evaluation.importance import StemImportance, leave_one_stem_out
from stemsim.evaluation.inference import (
    WeightIntervals,
    bayesian_intervals,
    bootstrap_intervals,
    cluster_intervals,
    least_squares_intervals,
)
from stemsim.evaluation.penalty import NestedCrossValidation, WeightPath, nested_cross_validation, weight_path
from stemsim.triplets import Triplets

__all__ = ["WeightReport", "weight_report"]


@dataclass(frozen=True, slots=True, eq=False)
class WeightReport:
    """How sure the weights of a cross-validation are, what each stem is worth, and what the model is worth.

    Attributes:
        intervals: Of least-squares weights, robust to triplets that share tracks, by track bootstrap and for
            independent triplets, and of Bayesian ridge; the first is the one to report (`stemsim study`). Empty
            where there are too few triplets or tracks.
        without_intervals: Why there are none, or empty.
        importance: What is lost without each stem; None for a single stem, or a single split.
        path: Ridge weights as functions of the penalty.
        nested: Penalties chosen within each train part; None where an inner split has an empty part.
        collinearity: Which stems cannot be told apart.
        share: Ridge as a share of the ceiling; None where no triplet has two votes.
        comparisons: Paired comparisons: ridge against the mix alone, challengers against ridge.
    """

    intervals: tuple[WeightIntervals, ...]
    without_intervals: str
    importance: StemImportance | None
    path: WeightPath
    nested: NestedCrossValidation | None
    collinearity: Collinearity
    share: CeilingShare | None
    comparisons: tuple[Comparison, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row a stem: weight and interval by every method, worth and variance inflation."""
        columns: dict[str, Any] = {"stem": self.collinearity.stems}
        for one in self.intervals:
            columns[f"{one.method}: weight"] = one.estimate
            columns[f"{one.method}: lower"] = one.lower
            columns[f"{one.method}: upper"] = one.upper
        if self.importance is not None:
            columns |= {str(name): values for name, values in self.importance.frame().items() if name != "stem"}
        columns["variance inflation"] = self.collinearity.inflation
        return pd.DataFrame(columns)

    @property
    def sentences(self) -> list[str]:
        """What the report says, in plain words."""
        said = [one.verdict for one in self.comparisons if one.first == "ridge" or one.told_apart]
        alike = [one.first for one in self.comparisons if one.first != "ridge" and not one.told_apart]
        if alike:
            said.append(f"No difference from ridge can be told: {'; '.join(alike)}.")
        if self.share is not None:
            said.append(f"Ridge: {self.share.sentence}")
        said.append(self.collinearity.sentence)
        if self.nested is not None:
            inner, left_out = np.median(self.nested.alphas), np.median(self.nested.left_out_alphas)
            said.append(
                f"Penalty within the train parts: median alpha {left_out:.3g} by leave-one-out (agreement "
                f"{100 * self.nested.left_out_agreement.mean():.1f} %), {inner:.3g} by nested cross-validation "
                f"({100 * self.nested.agreement.mean():.1f} %)."
            )
        return [*said, self.without_intervals] if self.without_intervals else said

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists, ready for JSON; what is not finite becomes None."""
        stems = self.collinearity.stems
        rows = self.frame().astype(object)
        rows = rows.where(np.vectorize(_is_known)(rows.to_numpy()), None)
        return {
            "by_stem": dict(zip(stems, rows.drop(columns="stem").to_dict("records"), strict=True)),
            "level": self.intervals[0].level if self.intervals else None,
            "condition_number": self.collinearity.condition if np.isfinite(self.collinearity.condition) else None,
            "ridge_path": {
                "alphas": self.path.alphas.tolist(),
                "weights": self.path.weights.tolist(),
                "left_out_error": self.path.left_out_error.tolist(),
                "best_alpha": self.path.best_alpha,
            },
            "nested": None
            if self.nested is None
            else {
                "median_alpha": float(np.median(self.nested.alphas)),
                "agreement": float(self.nested.agreement.mean()),
                "left_out_median_alpha": float(np.median(self.nested.left_out_alphas)),
                "left_out_agreement": float(self.nested.left_out_agreement.mean()),
            },
            "share_of_ceiling": None
            if self.share is None
            else {"share": self.share.share, "lower": self.share.interval[0], "upper": self.share.interval[1]},
            "comparisons": [
                {
                    "first": one.first,
                    "second": one.second,
                    "points": 100.0 * one.difference.mean,
                    "lower": 100.0 * one.difference.lower,
                    "upper": 100.0 * one.difference.upper,
                    "p_value": one.difference.p_value,
                    "sign_test_p_value": one.signs.p_value,
                }
                for one in self.comparisons
            ],
            "verdicts": self.sentences,
        }


def weight_report(
    result: CrossValidation,
    deltas: Tensor,
    triplets: Triplets,
    *,
    alphas: Sequence[float] = ALPHAS,
    level: float = 0.95,
) -> WeightReport:
    """Say how sure the weights of a cross-validation are, and what they are worth.

    Intervals are those of least squares, which ridge would draw towards zero; `stemsim study` shows how often they
    cover. Splits are those of the cross-validation.

    Args:
        result: A cross-validation.
        deltas: `(triplet, stem)` the stem features that were cross-validated.
        triplets: Their triplets.
        alphas: Ridge penalties to choose from.
        level: Nominal coverage of all intervals.

    Returns:
        The report.
    """
    stems, count = result.stems, len(result.test_size)
    settings: dict[str, Any] = {
        "count": count,
        "train_fraction": result.train_fraction,
        "kind": result.kind,
        "seed": result.seed,
    }
    target = torch.from_numpy(triplets.preference).double()
    intervals, reason = _intervals(deltas, triplets, result, level)
    several = len(stems) > 1 and count > 1
    alpha = result.path.best_alpha
    return WeightReport(
        intervals=intervals,
        without_intervals=reason,
        importance=leave_one_stem_out(deltas, triplets, stems, alpha=alpha, **settings) if several else None,
        path=weight_path(deltas, target, stems, alphas=[value for value in alphas if value > 0.0] or ALPHAS),
        nested=_nested(deltas, triplets, alphas, settings),
        collinearity=collinearity(deltas, stems),
        share=_share(result, deltas, triplets, level),
        comparisons=_comparisons(result, deltas, triplets, level) if several else (),
    )


def _intervals(
    deltas: Tensor, triplets: Triplets, result: CrossValidation, level: float
) -> tuple[tuple[WeightIntervals, ...], str]:
    """Return the intervals of all methods, or why there are none."""
    target, tracks = torch.from_numpy(triplets.preference).double(), triplets.track_ids
    try:
        return (
            cluster_intervals(deltas, target, tracks, result.stems, level=level),
            bootstrap_intervals(deltas, target, tracks, result.stems, level=level, seed=result.seed),
            bayesian_intervals(deltas, target, result.stems, level=level),
            least_squares_intervals(deltas, target, result.stems, level=level),
        ), ""
    except TripletError as error:
        return (), f"No intervals of the weights: {error}"


def _nested(
    deltas: Tensor, triplets: Triplets, alphas: Sequence[float], settings: Mapping[str, Any]
) -> NestedCrossValidation | None:
    """Choose penalties by inner splits; None where few triplets or tracks leave an inner part empty."""
    try:
        return nested_cross_validation(deltas, triplets, alphas=alphas, **settings)
    except SplitError:
        return None


def _share(result: CrossValidation, deltas: Tensor, triplets: Triplets, level: float) -> CeilingShare | None:
    """Return the ridge model as a share of the ceiling, over the triplets that any split tested."""
    ridge = next(model for model in result.models if model.name == "ridge")
    credit, tested = held_out_credit(result, ridge, deltas, triplets)
    try:
        return share_of_ceiling(
            credit[tested], triplets.votes[tested], level=level, simulated=triplets.simulated, seed=result.seed
        )
    except TripletError:  # same-song triplets: nobody voted twice
        return None


def _comparisons(result: CrossValidation, deltas: Tensor, triplets: Triplets, level: float) -> tuple[Comparison, ...]:
    """Compare ridge with the mix alone, and every challenger with ridge."""
    names = [model.name for model in result.models[1:]]
    pairs = [("ridge", "mix cosine")] if "mix cosine" in names else []
    pairs += [(name, "ridge") for name in names[names.index("ridge") + 1 :]]
    return tuple(compare_fits(result, pair, deltas, triplets, level=level) for pair in pairs)


def _is_known(value: object) -> bool:
    return not isinstance(value, float) or bool(np.isfinite(value))
