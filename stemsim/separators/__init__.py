"""Separators: segments to stems."""

from stemsim.separators.base import Separator, StemSource
from stemsim.separators.mixture import MixOnly
from stemsim.separators.multitrack import Multitrack

__all__ = ["MixOnly", "Multitrack", "Separator", "StemSource"]
