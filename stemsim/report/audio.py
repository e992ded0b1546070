"""Audio of segments, small enough for a page."""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile

from stemsim.audio import Segment, downmix, read_audio, resample

__all__ = ["clip", "encode_ogg"]

_RATES: Final = (8_000, 48_000)  # Hz; every browser plays these
_USUAL_RATE: Final = 44_100
_BLOCK: Final = 65_536  # samples; libsndfile overflows its stack where it encodes minutes of Vorbis at once
_COMPRESSION: Final = 0.6  # of soundfile's 0 to 1: about 60 kbit/s


def clip(segment: Segment) -> tuple[npt.NDArray[np.float32], int]:
    """Cut a segment from its file.

    Returns:
        The mono waveform `(time,)`, no louder than full scale, and its sample rate in Hz.

    Raises:
        DataNotFoundError: If the file is gone.
        AudioError: If it cannot be decoded, or ends before the segment does.
    """
    waveform, rate = read_audio(segment.path, segment.start, segment.duration)
    mono = downmix(waveform)
    if not _RATES[0] <= rate <= _RATES[1]:
        mono, rate = resample(mono, rate, _USUAL_RATE), _USUAL_RATE
    samples: npt.NDArray[np.float32] = mono.clamp(-1.0, 1.0).numpy()
    return samples, rate


def encode_ogg(segment: Segment) -> bytes:
    """Return a segment as mono Ogg Vorbis; raises what `clip` raises."""
    samples, rate = clip(segment)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, 1, format="OGG", subtype="VORBIS", compression_level=_COMPRESSION
    ) as file:
        for first in range(0, len(samples), _BLOCK):
            file.write(samples[first : first + _BLOCK])
    return buffer.getvalue()
