"""Copies of items as wav files."""

import shutil
from pathlib import Path
from typing import Final

from stemsim.audio import read_audio, write_audio
from stemsim.replacing import replacing

_NAME: Final = 255  # most bytes of the name of a file


def export_item(
    folder: Path,
    rank: int,
    path: Path,
    start: float,
    duration: float,
    file_duration: float,
    *,
    source: Path | None = None,
) -> Path:
    """Write an item as `RANK NAME START.wav`: a copy of a whole wav file, else the part of it.

    Args:
        folder: Folder to write to.
        rank: Number that its name begins with.
        path: File of the item, which names it.
        start: Where it begins in it, in seconds.
        duration: Its length in seconds.
        file_duration: Length of the file in seconds.
        source: Where to read instead of `path`.

    Returns:
        The file that was written; nothing is left of one that could not be.
    """
    source = source or path
    whole = duration >= file_duration
    end = ".wav" if whole else f" {start:.1f}s.wav"
    target = folder / (f"{rank:03d} {path.stem}".encode()[: _NAME - len(end)].decode(errors="ignore") + end)
    if whole and path.suffix.lower() == ".wav":
        with source.open("rb") as original, replacing(target) as partial, partial.open("wb") as copy:
            shutil.copyfileobj(original, copy)
    else:
        write_audio(target, *read_audio(source, start, duration))
    return target
