"""Encoders: from mono waveforms `(batch, time)` to unit vectors `(batch, dim)`."""

from stemsim.encoders.base import Encoder
from stemsim.encoders.hugging_face import HuggingFaceAudio
from stemsim.encoders.laion_clap import LaionClap
from stemsim.encoders.muq_mulan import MuQMuLan
from stemsim.encoders.spectral import Spectral

__all__ = ["Encoder", "HuggingFaceAudio", "LaionClap", "MuQMuLan", "Spectral"]
