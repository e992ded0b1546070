"""Evaluation: agreement with listeners, splits, cross-validation, comparison of models, the human ceiling."""

from typing import TYPE_CHECKING

from stemsim.evaluation.agreement import TIE, agreement, agreement_credit, ceiling_credit, human_ceiling
from stemsim.evaluation.splits import DROPPED, PARTS, SplitKind, Splits, split_triplets
from stemsim.lazy import lazy_names

if TYPE_CHECKING:
    from stemsim.evaluation.comparison import Comparison, compare_models
    from stemsim.evaluation.crossval import (
        ALPHAS,
        CrossValidation,
        ModelScores,
        SplitFits,
        SplitModel,
        cross_validate,
    )

__all__ = [
    "ALPHAS",
    "DROPPED",
    "PARTS",
    "TIE",
    "Comparison",
    "CrossValidation",
    "ModelScores",
    "SplitFits",
    "SplitKind",
    "SplitModel",
    "Splits",
    "agreement",
    "agreement_credit",
    "ceiling_credit",
    "compare_models",
    "cross_validate",
    "human_ceiling",
    "split_triplets",
]

_CROSSVAL = ("ALPHAS", "CrossValidation", "ModelScores", "SplitFits", "SplitModel", "cross_validate")
__getattr__ = lazy_names(
    __name__, {"Comparison": "comparison", "compare_models": "comparison", **dict.fromkeys(_CROSSVAL, "crossval")}
)
