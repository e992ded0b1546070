"""Tags of audio files: categories, type, tempo and key, from their names or measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsim.audio import audio_info
from stemsim.retrieval.tags.categories import DRUM_HITS, LONGEST_LOOP, guess_categories, guess_type
from stemsim.retrieval.tags.names import named_bpm, named_key

__all__ = ["Tags", "describe_file"]

_KEYLESS: Final = DRUM_HITS | {"drums", "fx"}


@dataclass(frozen=True, slots=True)
class Tags:
    """Facts about a file beside its sound.

    Attributes:
        duration: Length in seconds.
        categories: Some of `CATEGORIES`, guessed from the path; empty if unknown.
        type: One of `TYPES`; None if unknown.
        bpm: Tempo; None if unknown.
        musical_key: `A minor`, `C# major`, or a note alone; None if unknown.
        measured: Which of `bpm` and `musical_key` were measured in the audio; the others are from file names.
    """

    duration: float
    categories: tuple[str, ...] = ()
    type: str | None = None
    bpm: float | None = None
    musical_key: str | None = None
    measured: frozenset[str] = frozenset()


def describe_file(path: Path, *, listen: bool = True) -> Tags:
    """Collect the tags of an audio file.

    Tempo and key come from its name. Where that does not state them, the tempo of all but one-shots and the key of all
    but drums and effects are measured. What could be either by its name is a loop if it has a tempo, else a one-shot.

    Args:
        path: The file.
        listen: Whether to measure anything.

    Raises:
        AudioError: If the file cannot be read.
        DataNotFoundError: If it does not exist.
    """
    duration = audio_info(path).duration
    categories, bpm = guess_categories(path, duration), named_bpm(path, duration)
    kind, key = guess_type(path, duration, categories, bpm=bpm), named_key(path, categories)
    tempo_wanted = listen and bpm is None and kind != "one-shot"
    key_wanted = listen and key is None and not (categories and _KEYLESS.issuperset(categories))
    if not tempo_wanted and not key_wanted:
        return Tags(duration, categories, kind, bpm, key)
    from stemsim.retrieval.tags.measuring import measure

    heard = measure(path, tempo=tempo_wanted, key=key_wanted)
    found = {"bpm": heard.bpm, "musical_key": heard.musical_key}
    measured = frozenset(name for name, value in found.items() if value is not None)
    bpm, key = bpm or heard.bpm, key or heard.musical_key
    if kind is None and duration <= LONGEST_LOOP:
        kind = "one-shot" if bpm is None else "loop"
    return Tags(duration, categories, kind, bpm, key, measured)
