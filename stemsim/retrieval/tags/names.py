"""Tempo and key as sample makers write them into file names."""

import re
from collections.abc import Collection
from pathlib import PurePath
from typing import Final

from stemsim.errors import ConfigError
from stemsim.retrieval.tags.categories import DRUM_HITS, TONAL, is_loop
from stemsim.retrieval.tags.vocabulary import words_of

NOTES: Final = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
"""The twelve notes, spelt with sharps."""

KEYS: Final = tuple(f"{note} {mode}" for mode in ("major", "minor") for note in NOTES)
"""The 24 keys, as they are stored."""

_SLOWEST, _FASTEST = 30.0, 300.0  # BPM, where the name says so
_BARE_SLOWEST, _BARE_FASTEST = 60.0, 200.0  # BPM, where a name has a bare number
# Names of instruments, sample rates and bit depths that fall into the range.
_OTHER_NUMBERS: Final = frozenset({"101", "106", "192", "96", "88"})
_BEAT_TOLERANCE: Final = 0.02  # of a beat, by which a loop may miss a whole number of them

_BPM: Final = re.compile(
    r"(?<![\d.,])(\d{2,3}(?:[.,]\d{1,3})?)[\s_-]*bpm(?![a-z])|(?<![a-z])bpm[\s_-]*(\d{2,3}(?:[.,]\d{1,3})?)(?![\d])",
    re.IGNORECASE,
)
_BARE_BPM: Final = re.compile(r"(?<![A-Za-z\d.,#])([6-9]\d|1\d\d|200)(?![A-Za-z\d.,#])")

_MODE: Final = r"(?P<mode>major|maj|minor|min)"
_KEY: Final = re.compile(
    r"(?<![A-Za-z\d#])(?P<note>[A-Ga-g])(?P<accidental>#|♯|♭|b|[\s_-]?sharp|[\s_-]?flat)?"
    rf"(?:[\s_-]?{_MODE}(?:or)?(?:7|9|11|13)?|(?P<m>m)(?P<chord>7|9|11|13)?)?(?P<octave>-?\d)?(?![A-Za-z\d#♯♭])",
    re.IGNORECASE,
)
# Words after which a letter counts: loop A, take B.
_COUNTED: Final = re.compile(
    r"loops?|take|part|version|ver|v|section|variation|var|type|mix|side|pattern|verse|chorus|set|kit"
)
_BRACKETS: Final = frozenset({"()", "[]"})
_SEMITONE: Final = {"#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}


def named_bpm(path: PurePath, duration: float) -> float | None:
    """Return the tempo in BPM that a file's name, or else its folder's, states; None if neither does.

    `120bpm`, `BPM_120` and the like are taken as they are. A bare number such as in `_120_` counts in the file name
    only, between 60 and 200, and only if the path mentions loops or the file lasts a whole number of bars at that
    tempo: most numbers in names are not tempi (`808` is out of range, `101` and `106` are synthesizers).

    Args:
        path: The file.
        duration: Its length in seconds.

    Example:
        >>> named_bpm(PurePath("DnB/Amen_174bpm.wav"), 5.0), named_bpm(PurePath("Kick 120.wav"), 0.31)
        (174.0, None)
    """
    for name in (path.stem, path.parent.name):
        for match in _BPM.finditer(name):
            bpm = float((match[1] or match[2]).replace(",", "."))
            if _SLOWEST <= bpm <= _FASTEST:
                return bpm
    looped = is_loop(path)
    for text in _BARE_BPM.findall(path.stem):
        bpm = float(text)
        if (
            text not in _OTHER_NUMBERS
            and _BARE_SLOWEST <= bpm <= _BARE_FASTEST
            and (looped or _lasts_whole_bars(duration, bpm))
        ):
            return bpm
    return None


def _lasts_whole_bars(duration: float, bpm: float) -> bool:
    """Return whether a file lasts one or more whole bars of four beats."""
    beats = duration * bpm / 60.0
    return beats > 4.0 - _BEAT_TOLERANCE and abs(beats - 4.0 * round(beats / 4.0)) <= _BEAT_TOLERANCE


def named_key(path: PurePath, categories: Collection[str]) -> str | None:
    """Return the key that a file's name states, as one of `KEYS` or `NOTES`; None if it states none.

    A key is a note with its mode (`F_major`, `C#min`, `Am`, `em9`), a note with an accidental (`Bb`, `F#3`), or, for
    pitched sounds or in brackets, a bare capital note that neither begins the name nor is all of it (`Bass_C`,
    `Loop 3 (F)`). A lone letter elsewhere (`A.wav`, `Take B`, `beat_a`) numbers things more often than it names a key.
    A flat is a small `b`: `EB` and `GB` abbreviate something else. Drum hits have no key, whatever their names hold.

    Args:
        path: The file.
        categories: Those of the sound, see `guess_categories`.

    Example:
        >>> named_key(PurePath("Rhodes_Bbm_90.wav"), ["keys"]), named_key(PurePath("A.wav"), ["bass"])
        ('A# minor', None)
    """
    if categories and DRUM_HITS.issuperset(categories):
        return None
    found: list[tuple[int, int, str]] = []
    for match in _KEY.finditer(path.stem):
        bracketed = path.stem[: match.start()][-1:] + path.stem[match.end() :][:1] in _BRACKETS
        rank = _rank(match, words_of(path.stem[: match.start()]), bare=bracketed or not TONAL.isdisjoint(categories))
        if rank is not None:
            found.append((rank, match.start(), _spelt(match)))
    return min(found)[2] if found else None


def keys_named(text: str) -> tuple[str, ...]:
    """Return the stored keys that match a user's key: its note alone too, as names often omit the mode.

    Args:
        text: Such as `Am`, `F#`, `c minor` or `Bb major`; a note alone matches both modes.

    Raises:
        ConfigError: If it is not a key.

    Example:
        >>> keys_named("Bbm"), keys_named("c")
        (('A# minor', 'A#'), ('C', 'C major', 'C minor'))
    """
    match = _KEY.fullmatch(text.strip())
    if match is None or match["octave"] or match["chord"] or match["m"] == "M":
        raise ConfigError(
            f"A key is a note with or without its mode, such as Am, F#, 'C minor' or Bbmaj; got {text!r}."
        )
    key = _spelt(match)
    note, _, mode = key.partition(" ")
    return (key, note) if mode else (note, f"{note} major", f"{note} minor")


def _rank(match: re.Match[str], before: list[str], *, bare: bool) -> int | None:
    """Return how clearly a match after some words states a key, 0 being the clearest; None if it does not."""
    capital = match["note"].isupper()
    # `ab` and `bb` are rather words, and `EB` and `CB` abbreviations: only `Eb` is a note.
    altered = match["accidental"] is not None and (capital or match["accidental"].lower() != "b")
    altered = altered and match["accidental"] != "B"
    if match["mode"] is not None:
        return 0
    if match["accidental"] is not None and not altered:
        return None
    if match["m"] is not None:  # `Am`, not `AM` and not `am`
        return 1 if match["m"] == "m" and (capital or altered or match["chord"] is not None) else None
    if altered:
        return 2
    bare = bare and capital and match["octave"] is None
    return 3 if bare and before and not _COUNTED.fullmatch(before[-1]) else None


def _spelt(match: re.Match[str]) -> str:
    """Return the key or note of a match as spelt in `KEYS` and `NOTES`."""
    accidental = (match["accidental"] or "").lower().strip(" _-")
    semitone = NOTES.index(match["note"].upper()) + _SEMITONE.get(accidental, 0)
    note = NOTES[semitone % len(NOTES)]
    if match["m"] is not None:
        return f"{note} minor"
    if match["mode"] is not None:
        return f"{note} {'minor' if match['mode'].lower().startswith('min') else 'major'}"
    return note
