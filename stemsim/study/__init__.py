"""Simulated truth: what weights, agreement, intervals and fusions are worth where the truth is known."""

from stemsim.evaluation.study.run import Findings, run_study
from stemsim.evaluation.study.settings import StudySettings

__all__ = ["Findings", "StudySettings", "run_study"]
