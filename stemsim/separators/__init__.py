"""Separators: from segments to stems."""

from stemsim.separators.bands import Bands
from stemsim.separators.base import MixOnly, Separator, StemSource
from stemsim.separators.demucs import Demucs
from stemsim.separators.multitrack import Multitrack

__all__ = ["Bands", "Demucs", "MixOnly", "Multitrack", "Separator", "StemSource"]
