"""Fusions of the similarities of the stems into one similarity."""

from stemsim.fusion.attention import AttentionFusion
from stemsim.fusion.base import Fusion, StemPairs, WeightedFusion
from stemsim.fusion.linear import LinearFusion
from stemsim.fusion.low_rank import LowRankFusion
from stemsim.fusion.monotone import MonotoneFusion
from stemsim.fusion.spline import SplineFusion

__all__ = [
    "AttentionFusion",
    "Fusion",
    "LinearFusion",
    "LowRankFusion",
    "MonotoneFusion",
    "SplineFusion",
    "StemPairs",
    "WeightedFusion",
]
