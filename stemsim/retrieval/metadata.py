"""What a library knows of a file besides its sound: category, tempo, key, and where it knows them from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsim.audio import audio_info
from stemsim.retrieval.categories import DRUM_HITS, guess_category, is_loop
from stemsim.retrieval.file_names import named_bpm, named_key
from stemsim.retrieval.measuring import Measured, measure

__all__ = ["Metadata", "describe_file"]

_NO_TEMPO: Final = DRUM_HITS | {"fx"}
_NO_KEY: Final = DRUM_HITS | {"drums", "fx"}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a file.

    Attributes:
        duration: Length in seconds.
        category: One of `CATEGORIES`, guessed from the path; None if no word of it names one.
        bpm: Tempo; None if it is not known.
        musical_key: `A minor`, `C# major`, or a note alone; None if it is not known.
        measured: Which of `bpm` and `musical_key` were measured in the audio; the others are from file names.
    """

    duration: float
    category: str | None = None
    bpm: float | None = None
    musical_key: str | None = None
    measured: frozenset[str] = frozenset()


def describe_file(path: Path, *, listen: bool = True) -> Metadata:
    """Collect what is known of a file.

    Tempo and key are read off the names, and measured where those say nothing: the tempo of what may be a loop or a
    piece, the key of what may have one. Single drum hits and effects have neither.

    Args:
        path: An audio file.
        listen: Whether to measure anything.

    Returns:
        What is known.

    Raises:
        AudioError: If the file cannot be read.
        DataNotFoundError: If it is not there.
    """
    duration = audio_info(path).duration
    category = guess_category(path)
    bpm, key = named_bpm(path, duration), named_key(path, category)
    heard = Measured()
    if listen:
        wanted = bpm is None and (category not in _NO_TEMPO or is_loop(path)), key is None and category not in _NO_KEY
        heard = measure(path, tempo=wanted[0], key=wanted[1])
    measured = {name for name, value in (("bpm", heard.bpm), ("musical_key", heard.musical_key)) if value is not None}
    return Metadata(
        duration,
        category,
        heard.bpm if bpm is None else bpm,
        heard.musical_key if key is None else key,
        frozenset(measured),
    )
