"""Encoders: mono waveforms `(batch, time)` to unit vectors `(batch, dim)`."""

from stemsim.encoders.base import Encoder
from stemsim.encoders.spectral import Spectral

__all__ = ["Encoder", "Spectral"]
