"""Evaluation: agreement with listeners, splits, cross-validation, comparison of models, the human ceiling."""

from stemsim.evaluation.agreement import TIE, agreement, agreement_credit, ceiling_credit, human_ceiling
from stemsim.evaluation.comparison import Comparison, compare_models
from stemsim.evaluation.crossval import ALPHAS, CrossValidation, ModelScores, SplitFits, SplitModel, cross_validate
from stemsim.evaluation.splits import DROPPED, PARTS, SplitKind, Splits, split_triplets

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
