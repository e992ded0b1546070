"""Analysis of fitted weights: intervals, collinearity, importance of stems, penalty, perspectives, leakage."""

from stemsim.analysis.summary import ANALYSES, Analysis, Summary, summarise

__all__ = ["ANALYSES", "Analysis", "Summary", "summarise"]
