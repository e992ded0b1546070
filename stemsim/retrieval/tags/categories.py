"""Kind of sound that a file holds, guessed from the words in its name and folders."""

import re
from pathlib import PurePath
from typing import Final

# Category -> words that name it. Words of two letters are abbreviations and count less, see `guess_category`.
_WORDS: Final[dict[str, str]] = {
    "kick": "kick kik kck kickdrum bassdrum bd",
    "snare": "snare snr snaredrum sd sn",
    "rim": "rim rimshot sidestick rs",
    "clap": "clap clp handclap snap fingersnap cp",
    "hat": "hat hihat hhat hho hhc ohh chh openhat closedhat hh oh ch",
    "cymbal": "cymbal cym crash crsh ride splash china gong cr rd",
    "tom": "tom tomtom floortom lt mt ht",
    "perc": (
        "perc prc percussion percussive conga bongo cowbell shaker tambourine tamb tabla triangle woodblock clave "
        "guiro maraca cabasa timbale timpani djembe cajon darbuka agogo castanet udu cb sh tb"
    ),
    "bass": "bass subbass sub bassline reese bs",
    "guitar": "guitar gtr guit gtar egtr agtr ukulele uke banjo mandolin sitar gt",
    "keys": (
        "keys piano pno rhodes wurli wurlitzer organ hammond epiano clav clavinet harpsichord celesta accordion "
        "keyboard ep"
    ),
    "mallets": "mallet marimba vibraphone vibes glockenspiel glock xylophone kalimba bell chime steelpan",
    "synth": "synth syn lead arp arpeggio pluck plk stab chord saw ld",
    "pad": "pad ambient ambience ambi amb drone atmos atmo atmosphere texture soundscape",
    "strings": "strings string violin viola cello pizzicato pizz orchestra orchestral harp",
    "brass": "brass trumpet trombone horn tuba",
    "woodwind": "woodwind sax saxophone flute clarinet oboe bassoon",
    "vocals": (
        "vox vocal vocals voc voice acapella acappella choir chant adlib spoken speech bgv bgvox singing rap vx"
    ),
    "fx": (
        "fx sfx effect riser uplifter downlifter downer sweep impact whoosh woosh swoosh noise hiss foley vinyl "
        "scratch transition siren laser reverse beep bleep blip zap"
    ),
    "loop": "loop lp break breakbeat brk beat groove drumloop amen fill",
    "drums": "drum drums drumkit kit percloop",
}
# Words that say little about the sound, so that any other category takes precedence: loops of what?
_GENERIC: Final = ("loop", "drums")
_PAIRS: Final[dict[tuple[str, str], str]] = {
    ("bass", "drum"): "kick",
    ("drum", "bass"): "kick",
    ("hi", "hat"): "hat",
    ("high", "hat"): "hat",
    ("side", "stick"): "rim",
    ("rim", "shot"): "rim",
    ("synth", "bass"): "bass",
    ("steel", "pan"): "mallets",
    ("sub", "drop"): "fx",
    ("white", "noise"): "fx",
    ("e", "piano"): "keys",
}
_GENRES: Final = (("drum", "and", "bass"), ("drum", "n", "bass"), ("drums", "and", "bass"))

CATEGORIES: Final[tuple[str, ...]] = tuple(_WORDS)
"""All categories."""

DRUM_HITS: Final = frozenset({"kick", "snare", "rim", "clap", "hat", "cymbal", "tom", "perc"})
"""Categories of single hits, which have no tempo and mostly no key."""

TONAL: Final = frozenset(
    {"bass", "guitar", "keys", "mallets", "synth", "pad", "strings", "brass", "woodwind", "vocals"}
)
"""Categories of sounds with a pitch."""

_CATEGORY_OF: Final = {word: category for category, words in _WORDS.items() for word in words.split()}
_ABBREVIATION: Final = 2  # letters
_WORD, _BEGINS, _WITHIN, _LAST = range(4)  # levels: words, abbreviations by where they stand, generic words
_SHORTEST_PART: Final = 3  # letters of a word inside a compound
_FOLDERS: Final = 3  # the nearest ones: those above say where a library is, not what it holds
# KICKDrum, hiHat, HHclosed, Snare01, loop&fill
_TOKEN: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|&")


def words_of(name: str) -> list[str]:
    """Split a name into lower-case words and numbers: at spaces, signs and digits, and at the humps of camelCase.

    Args:
        name: Name of a file, without its extension, or of a folder.

    Example:
        >>> words_of("HiHat_Closed-03 (bright)")
        ['hi', 'hat', 'closed', '03', 'bright']
    """
    return ["and" if part == "&" else part.lower() for part in _TOKEN.findall(name)]


def guess_category(path: PurePath) -> str | None:
    """Guess the category of a sound from its path.

    The file name takes precedence over its folders, a near folder over those above it, and an earlier word over later
    ones. After all words come abbreviations of two letters (`bd`, `hh`): first those that begin a file name or are the
    whole name of a folder, then others in the file name. `loop` and `drums` count last.

    Args:
        path: The file; the three nearest folders are considered.

    Returns:
        One of `CATEGORIES`; None if nothing in the path names one.

    Example:
        >>> guess_category(PurePath("Vintage Kit/HH/CR78_01.wav")), guess_category(PurePath("drum_bass_hard.flac"))
        ('hat', 'kick')
    """
    names = [path.stem, *(folder.name for folder in list(path.parents)[:_FOLDERS])]
    guesses: list[tuple[int, int, int, str]] = []
    for depth, name in enumerate(names):
        for place, (category, level) in enumerate(_candidates(words_of(name), folder=depth > 0)):
            guesses.append((level, depth, place, category))
    return min(guesses)[3] if guesses else None


def is_loop(path: PurePath) -> bool:
    """Return whether the name of a file, or of the folder that holds it, mentions loops."""
    return any("loop" in dict(_candidates(words_of(name), folder=False)) for name in (path.stem, path.parent.name))


def _candidates(words: list[str], *, folder: bool) -> list[tuple[str, int]]:
    """Return the categories that a name's words stand for, each with its level: 0 is the clearest."""
    letters = [word for word in words if not word.isdecimal()]
    for genre in _GENRES:
        for start in range(len(letters) - len(genre) + 1):
            if tuple(letters[start : start + len(genre)]) == genre:
                letters[start : start + len(genre)] = ["drums"]
    found: list[tuple[str, int]] = []
    place = 0
    while place < len(letters):
        if (pair := _PAIRS.get((letters[place], letters[place + 1] if place + 1 < len(letters) else ""))) is not None:
            found.append((pair, _WORD))
            place += 2
            continue
        leads = len(letters) == 1 if folder else place == 0
        found += [
            (category, level)
            for category, level in _of_word(letters[place], leads=leads)
            if not (folder and level == _WITHIN)
        ]
        place += 1
    return found


def _of_word(word: str, *, leads: bool) -> list[tuple[str, int]]:
    """Return the category of a word, if any; compounds such as `kickloop` have those of their parts."""
    category = _category_of(word)
    if category is not None:
        short = _BEGINS if leads else _WITHIN
        level = short if len(word.removesuffix("s")) <= _ABBREVIATION else _WORD
        return [(category, _LAST if category in _GENERIC else level)]
    for cut in range(_SHORTEST_PART, len(word) - _SHORTEST_PART + 1):
        parts = [_category_of(part) for part in (word[:cut], word[cut:])]
        if all(parts):
            return [(part, _LAST if part in _GENERIC else _WORD) for part in parts if part is not None]
    return []


def _category_of(word: str) -> str | None:
    """Return the category of a word in singular or plural."""
    return _CATEGORY_OF.get(word) or _CATEGORY_OF.get(word.removesuffix("s"))
