"""Simulated truth: recovery of known stem weights, coverage of their intervals, and gains of nonlinear fusions."""

from stemsim.study.experiments import Findings, run_study
from stemsim.study.settings import StudySettings

__all__ = ["Findings", "StudySettings", "run_study"]
