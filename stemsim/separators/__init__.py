"""Separators: segments to stems."""

from stemsim.separators.bands import Bands
from stemsim.separators.base import Separator, StemSource
from stemsim.separators.demucs import Demucs
from stemsim.separators.mixture import MixOnly
from stemsim.separators.multitrack import Multitrack

__all__ = ["Bands", "Demucs", "MixOnly", "Multitrack", "Separator", "StemSource"]
