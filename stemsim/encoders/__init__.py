"""Encoders: mono waveforms `(batch, time)` to unit vectors `(batch, dim)`."""

from stemsim.encoders.base import Encoder

__all__ = ["Encoder"]
