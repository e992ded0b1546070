"""Audio files: the one place that opens, decodes and hashes them."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from stemsim.errors import AudioError, DataNotFoundError

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioInfo",
    "FileVersion",
    "audio_info",
    "file_hash",
    "file_version",
    "is_audio_path",
    "read_audio",
    "write_audio",
]

AUDIO_SUFFIXES: Final = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"})
"""File name extensions that count as audio, in lower case."""

FileVersion = tuple[Path, int, int]
"""Path, size and modification time (ns) of a file: equal as long as its content is unchanged."""

# libsndfile shortens a chunk that is longer than its file, and only its log says so: `data : 1764 (should be 88)`.
_OVERLONG_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
# A program that writes a wav file into a pipe cannot know its length and writes the largest number instead.
_STREAMED_LENGTH: Final = 0x7FFF0000


class AudioInfo(NamedTuple):
    """The header of an audio file."""

    frames: int  # samples per channel
    sample_rate: int  # Hz
    channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def is_audio_path(path: Path) -> bool:
    """Return whether a file is audio by its name; hidden files, such as `._x.wav` of macOS, are not."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def file_version(path: Path) -> FileVersion:
    """Return a key for caches of a file's content; raises `DataNotFoundError` if there is no such file."""
    try:
        stat = path.stat()
    except OSError as error:
        msg = f"No file at {path} ({error.strerror}). Check the path, or the folder that the configuration names."
        raise DataNotFoundError(msg) from error
    return path, stat.st_size, stat.st_mtime_ns


def file_hash(path: Path) -> str:
    """Hash the bytes of a file (128-bit BLAKE2b, in hexadecimal); an unchanged file is read once per process.

    Raises:
        DataNotFoundError: If there is no such file, or it cannot be opened.
    """
    return _hash(file_version(path))


@lru_cache(maxsize=65_536)
def _hash(version: FileVersion) -> str:
    path, *_ = version
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        msg = f"Cannot open {path} ({error.strerror}). Check the permissions of the file."
        raise DataNotFoundError(msg) from error


def audio_info(path: Path) -> AudioInfo:
    """Read the header of a wav, flac, ogg, mp3 or aiff file: its length, sample rate and number of channels.

    Raises:
        DataNotFoundError: If there is no such file.
        AudioError: If it is not audio, is empty, or is shorter than its own header says.
    """
    return _info(file_version(path))


@lru_cache(maxsize=65_536)
def _info(version: FileVersion) -> AudioInfo:
    path, *_ = version
    try:
        info = soundfile.info(str(path), verbose=True)
    except (soundfile.LibsndfileError, OSError) as error:
        formats = "Expected a wav, flac, ogg, mp3 or aiff file. Replace it or remove it from the folder."
        msg = f"Cannot read {path} as audio: {error} {formats}"
        raise AudioError(msg) from error
    for declared, actual in _OVERLONG_CHUNK.findall(info.extra_info):
        if int(actual) < int(declared) < _STREAMED_LENGTH:
            sizes = f"its header announces {declared} bytes of samples, but the file holds only {actual}"
            msg = f"{path} is truncated: {sizes}. Copy or download it again."
            raise AudioError(msg)
    if info.frames <= 0:
        msg = f"{path} holds no samples. Replace it or remove it from the folder."
        raise AudioError(msg)
    return AudioInfo(info.frames, info.samplerate, info.channels)


def read_audio(
    path: Path, start: float = 0.0, duration: float | None = None, *, pad: bool = False
) -> tuple[Tensor, int]:
    """Read a part of an audio file, decoding no more than that part.

    Args:
        path: A wav, flac, ogg, mp3 or aiff file.
        start: Start of the part in seconds, rounded to the nearest sample.
        duration: Its length in seconds, or None for the rest of the file.
        pad: Fill with zeros beyond the end of the file instead of raising an error.

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
    try:
        fill = 0.0 if pad else None
        samples, _ = soundfile.read(str(path), frames, first, dtype="float32", always_2d=True, fill_value=fill)
    except (soundfile.LibsndfileError, OSError) as error:
        msg = f"Decoding {path} failed at {first / info.sample_rate:.3f} s: {error} The file is damaged; replace it."
        raise AudioError(msg) from error
    if len(samples) < frames:  # (time, channel)
        msg = (
            f"{path} ends too early: asked for {frames / info.sample_rate:.3f} s from {start:.3f} s, got "
            f"{len(samples) / info.sample_rate:.3f} s of a file whose header says {info.duration:.3f} s. "
            "The file is truncated, or the segment was cut from a longer version of it."
        )
        raise AudioError(msg)
    if not np.isfinite(samples).all():
        end = start + frames / info.sample_rate
        msg = f"{path} holds NaN or infinite samples between {start} s and {end} s. Export it again."
        raise AudioError(msg)
    return torch.from_numpy(samples).T.contiguous(), info.sample_rate


def write_audio(path: Path, waveform: Tensor, sample_rate: int) -> None:
    """Write a waveform `(channel, time)` as 16-bit audio, in the format given by the extension of the file name.

    Samples beyond [-1, 1] are clipped; the folder must exist.
    """
    file_format = "AIFF" if path.suffix.lower() == ".aif" else None  # soundfile only knows `.aiff`
    soundfile.write(str(path), waveform.clamp(-1.0, 1.0).T.numpy(), sample_rate, format=file_format)
