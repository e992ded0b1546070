"""Agreement with listeners, splits, cross-validation."""

from stemsim.evaluation.agreement import TIE, agreement, agreement_credit, ceiling_credit, human_ceiling
from stemsim.evaluation.crossval import CrossValidation, ModelScores, RidgePath, cross_validate, ridge_path
from stemsim.evaluation.splits import DROPPED, PARTS, SplitKind, split_triplets

__all__ = [
    "DROPPED",
    "PARTS",
    "TIE",
    "CrossValidation",
    "ModelScores",
    "RidgePath",
    "SplitKind",
    "agreement",
    "agreement_credit",
    "ceiling_credit",
    "cross_validate",
    "human_ceiling",
    "ridge_path",
    "split_triplets",
]
