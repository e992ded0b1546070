"""Agreement with listeners, splits, cross-validation."""

from stemsim.evaluation.agreement import TIE, agreement, agreement_credit, human_ceiling

__all__ = ["TIE", "agreement", "agreement_credit", "human_ceiling"]
