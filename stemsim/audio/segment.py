"""Segments: what one embedding describes."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from stemsim.audio.files import audio_info
from stemsim.errors import AudioError, DataNotFoundError

__all__ = ["Segment", "file_hash", "segment_windows"]


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A stretch of an audio file.

    Attributes:
        path: The audio file; for a multitrack song, its mix.
        start: Where the segment begins, in seconds.
        duration: Its length in seconds.
    """

    path: Path
    start: float
    duration: float

    def __post_init__(self) -> None:
        """Verify that the times are those of a stretch."""
        numbers = math.isfinite(self.start) and math.isfinite(self.duration)
        if not numbers or self.start < 0 or self.duration <= 0:
            msg = (
                f"A segment starts at 0 s or later and lasts longer than 0 s; got start {self.start} s and duration "
                f"{self.duration} s in {self.path}."
            )
            raise AudioError(msg)

    @classmethod
    def whole(cls, path: Path) -> Self:
        """Return the segment that covers a whole file."""
        return cls(path, 0.0, audio_info(path).duration)

    @classmethod
    def between(cls, path: Path, start: float | None, end: float | None) -> Self:
        """Return the part of a file between two times.

        Args:
            path: An audio file.
            start: Where the part begins, in seconds; None: at the beginning.
            end: Where it ends; None, or later than the file does: at the end.

        Raises:
            AudioError: If there is no such part.
        """
        length = audio_info(path).duration
        first, last = 0.0 if start is None else start, length if end is None else min(end, length)
        if not 0.0 <= first < last:
            asked = f"from {first:g} s to {'the end' if end is None else f'{end:g} s'}"
            msg = f"{path} is {length:.3g} s long, and has no part {asked}. Choose a start before the end of both."
            raise AudioError(msg)
        return cls(path, first, last - first)

    @property
    def content_hash(self) -> str:
        """Hash of the bytes of the file, whatever its name."""
        return file_hash(self.path)

    def __str__(self) -> str:
        return f"{self.path} [{self.start:.3f} s + {self.duration:.3f} s]"


def segment_windows(path: Path, *, duration: float, hop: float | None = None) -> list[Segment]:
    """Cut a file into windows of equal length.

    Args:
        path: An audio file.
        duration: Length of a window in seconds.
        hop: From one window's start to the next, in seconds; default: `duration`, so that windows do not overlap.

    Returns:
        All windows that lie wholly inside the file; the whole file, if it is shorter than one window.
    """
    length = audio_info(path).duration
    step = duration if hop is None else hop
    if duration <= 0 or step <= 0:
        msg = f"Windows need a positive duration and hop; got {duration} s and {step} s."
        raise AudioError(msg)
    if length < duration:
        return [Segment.whole(path)]
    # Half a sample of tolerance at 48 kHz: 80 s of 5 s windows are 16, whatever the floats say.
    count = int((length - duration + 1e-5) / step) + 1
    return [Segment(path, index * step, duration) for index in range(count)]


def file_hash(path: Path) -> str:
    """Hash the bytes of a file; an unchanged file (same size and modification time) is read once per process.

    Args:
        path: Any file.

    Returns:
        BLAKE2b digest of 128 bits, in hexadecimal.

    Raises:
        DataNotFoundError: If there is no such file.
    """
    try:
        stat = path.stat()
        return _cached_hash(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        msg = f"No file at {path} ({error.strerror}). Check the path, or the folder that the configuration names."
        raise DataNotFoundError(msg) from error


@lru_cache(maxsize=65_536)
def _cached_hash(path: Path, _size: int, _mtime_ns: int) -> str:
    """Hash a file once per version: size and modification time are there for the cache alone."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
