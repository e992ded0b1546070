"""Categories and type of a sound, guessed from the words in its name and folders, and from its length."""

import re
from collections.abc import Collection, Sequence
from pathlib import PurePath
from typing import Final

from stemsim.errors import ConfigError
from stemsim.retrieval.tags.vocabulary import PACKS, Rank, Term, terms_of

DRUM_HITS: Final = frozenset({"kick", "snare", "rim", "clap", "hat", "cymbal", "tom", "perc"})
"""Categories of single hits, which have no tempo and mostly no key."""

TONAL: Final = frozenset(
    {"bass", "guitar", "keys", "mallets", "synth", "pad", "strings", "brass", "woodwind", "vocals"}
)
"""Categories of sounds with a pitch."""

LONGEST_LOOP: Final = 32.0
"""Seconds: eight bars at 60 BPM."""

_FOLDERS: Final = 3  # the nearest ones: those above say where a library is, not what it holds
_SHORTEST_LOOP: Final = 0.8  # seconds: a bar at 300 BPM
_SHORTEST_SONG: Final = 90.0  # seconds
_PARTS: Final = frozenset({"bell", "bells", "bass"})  # of the cymbal or drum that is named before,
_HAVE_PARTS: Final = DRUM_HITS - {"kick"}  # which may be one of these
_SURE_TYPES: Final = frozenset({"loop", "loops", "oneshot", "oneshots"})
_SEPARATOR: Final = re.compile(r" - |_")
_PITCH: Final = re.compile(r"(?<![A-Za-z\d])[A-G](#|b)?-?\d(?![A-Za-z\d])")


def guess_categories(path: PurePath, duration: float) -> tuple[str, ...]:
    """Guess the categories of a sound from its path.

    The file's own name speaks before its folder, and the nearer folder before the farther. A word that names an
    instrument speaks before an abbreviation (`bd`, `hh`) or a word that says how it is played (`stab`, `lead`). In the
    name of a folder, which may be that of an artist or of a pack, a word that is no sure sign of an instrument (`Tom`,
    `Crash`) counts only among words of the vocabulary, so not in `Tom Petty`; and farther up only in the plural. The
    name of a song is a title: only its last part counts, if it consists of such words, as in `Title - Lead Vocals`.

    Args:
        path: The file; the three nearest folders are considered.
        duration: Its length in seconds.

    Returns:
        Some of `CATEGORIES` in the order of the words; none if nothing in the path names one.

    Example:
        >>> guess_categories(PurePath("Loops/SynthBass_126_Am.wav"), 7.6), guess_categories(PurePath("BD01.wav"), 0.4)
        (('synth', 'bass'), ('kick',))
    """
    if duration >= _SHORTEST_SONG and not is_loop(path):
        terms = terms_of(_SEPARATOR.split(path.stem)[-1])
        return _among(terms, *Rank) if _all_known(terms) else ()
    own, *folders = map(terms_of, _names(path))
    # What only says how, such as `Closed` or `WAV`, is passed over.
    near, *far = [terms for terms in folders if any(map(_says, terms))] or [[]]
    near_is_proper = not _all_known(near)
    levels = [
        _among(own, Rank.SURE, Rank.NAME),
        _among(near, Rank.SURE) if near_is_proper else _among(near, Rank.SURE, Rank.NAME),
        _among(_abbreviations(own, sentence=" " in path.stem), Rank.SHORT),
        _among(own, Rank.VAGUE),
        () if near_is_proper else _among(near, Rank.SHORT, Rank.VAGUE),
    ]
    for terms in far:
        plural = [term for term in terms if term.plural and _all_known(terms)]
        levels += [_among(terms, Rank.SURE), _among(plural, Rank.NAME, Rank.VAGUE)]
    return next(filter(None, levels), ())


def guess_type(path: PurePath, duration: float, categories: Collection[str], *, bpm: float | None) -> str | None:
    """Guess the type of a sound from its path, its length and its categories.

    Args:
        path: The file.
        duration: Its length in seconds; what is shorter than a bar at 300 BPM is no loop.
        categories: Those that `guess_categories` returns.
        bpm: The tempo that its name states, if any: single hits have none.

    Returns:
        `one-shot`, `loop` or `song`; None if nothing tells.
    """
    if duration < _SHORTEST_LOOP:
        return "one-shot"
    if duration >= _SHORTEST_SONG and not is_loop(path):
        return "song"
    own, *folders = (_types(terms_of(name), folder=place > 0) for place, name in enumerate(_names(path)))
    if "loop" in own or bpm is not None:
        return "loop"
    for said in (kind for kinds in (own, *folders) for kind in kinds):
        if said != "song" or duration > LONGEST_LOOP:
            return said
    single = bool(categories) and (DRUM_HITS | {"fx"}).issuperset(categories)
    return "one-shot" if single or _PITCH.search(path.stem) else None


def is_loop(path: PurePath) -> bool:
    """Return whether the name of a file, or of the folder that holds it, mentions loops."""
    own, near = (terms_of(name) for name in (path.stem, path.parent.name))
    return "loop" in _types(own, folder=False) + _types(near, folder=True)


def tag_named(text: str, tags: Sequence[str]) -> str:
    """Return the category or type that a user's word stands for.

    Args:
        text: One word in any spelling of the vocabulary: `Snares`, `hi-hat`, `BD`, `one shots`.
        tags: The possible ones; of a word's two, as of `break`, the category precedes the type.

    Raises:
        ConfigError: If it stands for none of them.

    Example:
        >>> tag_named("Snares", ["kick", "snare"]), tag_named("LOOPS", ["one-shot", "loop"])
        ('snare', 'loop')
    """
    lower = text.strip().lower()
    meaning = [term for term in terms_of(text) if term.category or term.type]
    named = (lower, meaning[0].category, meaning[0].type) if len(meaning) == 1 else (lower,)
    for tag in named:
        if tag is not None and tag in tags:
            return tag
    raise ConfigError(f"Expected one of {', '.join(tags)}, or a word for one, such as snares or HH; got {text!r}.")


def _names(path: PurePath) -> list[str]:
    """Return the name of a file and those of the nearest folders."""
    return [path.stem, *(folder.name for folder in list(path.parents)[:_FOLDERS])]


def _among(terms: Sequence[Term], *ranks: Rank) -> tuple[str, ...]:
    """Return the distinct categories of the terms of some ranks, without parts of a drum or cymbal."""
    found: dict[str, None] = {}
    before: str | None = None
    for term in terms:
        is_part = before in _HAVE_PARTS and term.text in _PARTS
        if term.category is not None and term.rank in ranks and not is_part:
            found[term.category] = None
        before = term.category or before
    return tuple(found)


def _abbreviations(terms: Sequence[Term], *, sentence: bool) -> list[Term]:
    """Return the abbreviations that are no words of a sentence: in capitals, in front, or among known words."""
    known = all(term.known for term in terms)
    short = [(place, term) for place, term in enumerate(terms) if term.rank is Rank.SHORT]
    return [term for place, term in short if known or term.capital or (place == 0 and not sentence)]


def _says(term: Term) -> bool:
    """Return whether a word says what a sound is, or may be part of a proper name."""
    return bool(term.category or term.type) or not term.known


def _all_known(terms: Sequence[Term]) -> bool:
    """Return whether a name consists of words of the vocabulary, and does not call itself a pack."""
    return all(term.known for term in terms) and not any(term.text in PACKS for term in terms)


def _types(terms: Sequence[Term], *, folder: bool) -> list[str]:
    """Return the types that the words of a name stand for; in a folder's, `Groove` may be part of a proper name."""
    sure = not folder or all(term.known for term in terms)
    return [term.type for term in terms if term.type is not None and (sure or term.text in _SURE_TYPES)]
