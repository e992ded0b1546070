"""Tags of audio files: category, tempo and key, from their names or measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsim.audio import audio_info
from stemsim.retrieval.tags.categories import DRUM_HITS, guess_category, is_loop
from stemsim.retrieval.tags.names import named_bpm, named_key

__all__ = ["Tags", "describe_file"]

_NO_TEMPO: Final = DRUM_HITS | {"fx"}
_NO_KEY: Final = DRUM_HITS | {"drums", "fx"}


@dataclass(frozen=True, slots=True)
class Tags:
    """Facts about a file beside its sound.

    Attributes:
        duration: Length in seconds.
        category: One of `CATEGORIES`, guessed from the path; None if unknown.
        bpm: Tempo; None if unknown.
        musical_key: `A minor`, `C# major`, or a note alone; None if unknown.
        measured: Which of `bpm` and `musical_key` were measured in the audio; the others are from file names.
    """

    duration: float
    category: str | None = None
    bpm: float | None = None
    musical_key: str | None = None
    measured: frozenset[str] = frozenset()


def describe_file(path: Path, *, listen: bool = True) -> Tags:
    """Collect the tags of an audio file.

    Tempo and key come from its name. Where that does not state them, the tempo of loops and pieces and the key of
    pitched sounds are measured; single drum hits and effects have neither.

    Args:
        path: The file.
        listen: Whether to measure anything.

    Raises:
        AudioError: If the file cannot be read.
        DataNotFoundError: If it does not exist.
    """
    duration = audio_info(path).duration
    category = guess_category(path)
    bpm, key = named_bpm(path, duration), named_key(path, category)
    tempo_wanted = listen and bpm is None and (category not in _NO_TEMPO or is_loop(path))
    key_wanted = listen and key is None and category not in _NO_KEY
    if not tempo_wanted and not key_wanted:
        return Tags(duration, category, bpm, key)
    from stemsim.retrieval.tags.measuring import measure

    heard = measure(path, tempo=tempo_wanted, key=key_wanted)
    found = {"bpm": heard.bpm, "musical_key": heard.musical_key}
    measured = frozenset(name for name, value in found.items() if value is not None)
    return Tags(duration, category, bpm or heard.bpm, key or heard.musical_key, measured)
