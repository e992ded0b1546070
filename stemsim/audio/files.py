"""Audio files: the one place that decodes them."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from stemsim.errors import AudioError, DataNotFoundError

__all__ = ["AUDIO_SUFFIXES", "AudioInfo", "audio_info", "is_audio_path", "read_audio", "write_audio"]

AUDIO_SUFFIXES: Final = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"})
"""File name endings that count as audio, in lower case."""

# libsndfile shortens a chunk that is longer than its file and says so in its log alone: `data : 1764 (should be 88)`.
_OVERLONG_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
# A program that writes a wav into a pipe cannot know its length and writes the largest number instead.
_STREAMED_LENGTH: Final = 0x7FFF0000


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        frames: Samples per channel.
        sample_rate: In Hz.
        channels: Number of channels.
    """

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def is_audio_path(path: Path) -> bool:
    """Tell whether a file's name is that of an audio file we read (hidden files, such as macOS' `._x.wav`, are not)."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def audio_info(path: Path) -> AudioInfo:
    """Read the header of an audio file.

    Args:
        path: A wav, flac, ogg, mp3 or aiff file.

    Returns:
        Its length, rate and channels.

    Raises:
        DataNotFoundError: If there is no such file.
        AudioError: If it is not audio, is empty, or is shorter than its own header says.
    """
    try:
        stat = path.stat()
    except OSError as error:
        msg = f"No audio file at {path} ({error.strerror}). Check the path, or the folder that the configuration names."
        raise DataNotFoundError(msg) from error
    return _cached_info(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _cached_info(path: Path, _size: int, _mtime_ns: int) -> AudioInfo:
    """Read a header once per version of a file: size and modification time are there for the cache alone."""
    try:
        info = soundfile.info(str(path), verbose=True)
    except (soundfile.LibsndfileError, OSError) as error:
        msg = (
            f"Cannot read {path} as audio: {error} Expected a wav, flac, ogg, mp3 or aiff file. "
            "Replace it or take it out of the folder."
        )
        raise AudioError(msg) from error
    for declared, actual in _OVERLONG_CHUNK.findall(info.extra_info):
        if int(actual) < int(declared) < _STREAMED_LENGTH:
            msg = (
                f"{path} is truncated: its header announces {int(declared)} bytes of samples, the file holds "
                f"{int(actual)}. Copy or download it again."
            )
            raise AudioError(msg)
    if info.frames <= 0:
        msg = f"{path} holds no samples. Replace it or take it out of the folder."
        raise AudioError(msg)
    return AudioInfo(info.frames, info.samplerate, info.channels)


def read_audio(
    path: Path, start: float = 0.0, duration: float | None = None, *, pad: bool = False
) -> tuple[Tensor, int]:
    """Read a part of an audio file, decoding no more than that part.

    Args:
        path: A wav, flac, ogg, mp3 or aiff file.
        start: Where the part begins, in seconds; rounded to the nearest sample.
        duration: Its length in seconds, or None for the rest of the file.
        pad: Fill up with zeros what lies beyond the end of the file, instead of raising.

    Returns:
        The waveform `(channel, time)`, float32 nominally in [-1, 1], and its sample rate in Hz.

    Raises:
        DataNotFoundError: If there is no such file.
        AudioError: If the file cannot be decoded, ends before the part does, or holds NaN or infinite samples.
    """
    info = audio_info(path)
    first = round(start * info.sample_rate)
    frames = info.frames - first if duration is None else round(duration * info.sample_rate)
    if first < 0 or frames <= 0:
        msg = f"A part of {path} must start at 0 s or later and have a length; asked for {start} s + {duration} s."
        raise AudioError(msg)
    if not pad and first + frames == info.frames + 1:
        first = max(0, first - 1)  # start and duration were both rounded up
    samples = _decode(path, info, first, frames)
    missing = frames - len(samples)
    if missing and not pad:
        msg = (
            f"{path} ends too early: asked for {frames / info.sample_rate:.3f} s from {start:.3f} s, got "
            f"{len(samples) / info.sample_rate:.3f} s of a file whose header says {info.duration:.3f} s. "
            "The file is truncated, or the segment was cut from a longer version of it."
        )
        raise AudioError(msg)
    if not np.isfinite(samples).all():
        msg = f"{path} holds NaN or infinite samples in the {frames} from {start} s on. Render it again."
        raise AudioError(msg)
    waveform = torch.zeros(info.channels, frames)
    waveform[:, : len(samples)] = torch.from_numpy(samples.T)
    return waveform, info.sample_rate


def _decode(path: Path, info: AudioInfo, first: int, frames: int) -> npt.NDArray[np.float32]:
    """Return up to `frames` samples from `first` on, `(time, channel)` float32; fewer where the file ends."""
    if first >= info.frames:
        return np.zeros((0, info.channels), np.float32)
    try:
        with soundfile.SoundFile(str(path)) as file:
            file.seek(first)
            samples: npt.NDArray[np.float32] = file.read(
                min(frames, info.frames - first), dtype="float32", always_2d=True
            )
    except (soundfile.LibsndfileError, OSError) as error:
        msg = f"Decoding {path} failed at {first / info.sample_rate:.3f} s: {error} The file is damaged; replace it."
        raise AudioError(msg) from error
    return samples


def write_audio(path: Path, waveform: Tensor, sample_rate: int) -> None:
    """Write a waveform as 16-bit audio in the format that the file name's ending says.

    Args:
        path: File to write; its folder must exist.
        waveform: `(channel, time)`; samples beyond [-1, 1] are clipped.
        sample_rate: In Hz.
    """
    file_format = "AIFF" if path.suffix.lower() == ".aif" else None  # soundfile knows the long ending alone
    soundfile.write(str(path), waveform.clamp(-1.0, 1.0).T.numpy(), sample_rate, format=file_format)
