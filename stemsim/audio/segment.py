"""Segments, the stretches of audio that one embedding describes, and the songs that they are cut from."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stemsim.audio.files import audio_info, file_hash, is_audio_path
from stemsim.errors import AudioError, DataNotFoundError


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A stretch of an audio file."""

    path: Path  # for a multitrack song, its mix
    start: float  # s
    duration: float  # s

    def __post_init__(self) -> None:
        """Verify start and duration."""
        if not (0 <= self.start < math.inf and 0 < self.duration < math.inf):
            seen = f"start {self.start} s and duration {self.duration} s in {self.path}"
            raise AudioError(f"A segment starts at 0 s or later and lasts longer than 0 s; got {seen}.")

    @classmethod
    def whole(cls, path: Path) -> Self:
        """Return the segment that covers a whole file."""
        return cls(path, 0.0, audio_info(path).duration)

    @classmethod
    def between(cls, path: Path, start: float | None, end: float | None) -> Self:
        """Return the part of a file between two times in seconds; None means the start or the end of the file.

        Raises:
            AudioError: If there is no such part. An `end` after the end of the file is no error.
        """
        length = audio_info(path).duration
        first, last = 0.0 if start is None else start, length if end is None else min(end, length)
        if not 0.0 <= first < last:
            asked = f"from {first:g} s to {'the end' if end is None else f'{end:g} s'}"
            raise AudioError(f"{path} is {length:.3g} s long and has no part {asked}. Choose a start before both ends.")
        return cls(path, first, last - first)

    @property
    def content_hash(self) -> str:
        """Hash of the bytes of the file, independent of its name."""
        return file_hash(self.path)

    def __str__(self) -> str:
        return f"{self.path} [{self.start:.3f} s + {self.duration:.3f} s]"


def segment_windows(path: Path, *, duration: float, hop: float | None = None) -> list[Segment]:
    """Cut a file into windows of equal length.

    Args:
        path: An audio file.
        duration: Length of a window in seconds.
        hop: Time from the start of one window to the next, in seconds; None: `duration`, without overlap.

    Returns:
        All windows that lie completely inside the file; the whole file if it is shorter than one window.

    Raises:
        AudioError: If `duration` or `hop` is not positive.
    """
    length = audio_info(path).duration
    step = duration if hop is None else hop
    if duration <= 0 or step <= 0:
        raise AudioError(f"Windows need a positive duration and hop; got {duration} s and {step} s.")
    if length < duration:
        return [Segment.whole(path)]
    # Half a sample of tolerance at 48 kHz: 80 s hold 16 windows of 5 s, whatever the rounding of the floats.
    count = int((length - duration + 1e-5) / step) + 1
    return [Segment(path, index * step, duration) for index in range(count)]


@dataclass(frozen=True, slots=True)
class Song:
    """A song and its mix."""

    name: str  # path relative to the folder of songs
    mix: Path  # the stems, if any, lie beside it


class SongFolder:
    """A folder of songs: subfolders with a `mix.*` file (with or without stems), and any other audio file.

    Args:
        root: The folder, searched with all its subfolders.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def songs(self) -> list[Song]:
        """Find the songs, sorted by name; the other files of a folder with a `mix.*` file are not songs.

        Raises:
            DataNotFoundError: If the folder does not exist or holds no audio.
        """
        if not self.root.is_dir():
            raise DataNotFoundError(
                f"No folder of songs at {self.root}. Set `root` to a folder with audio files or multitrack songs."
            )
        files = [path.relative_to(self.root) for path in sorted(self.root.rglob("*")) if is_audio_path(path)]
        # Hidden folders are not music, but the trash, or leftovers of a killed process.
        files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
        files = [path for path in files if (self.root / path).is_file()]
        mixes = {path.parent: path for path in files if path.stem == "mix" and len(path.parts) > 1}
        alone = {path: path for path in files if not mixes.keys() & set(path.parents)}
        found = [Song(str(name), self.root / path) for name, path in (mixes | alone).items()]
        if not found:
            raise DataNotFoundError(
                f"No audio in {self.root}: expected files such as wav, flac, mp3 or m4a, or subfolders with a mix.*."
            )
        return sorted(found, key=lambda song: song.name)
