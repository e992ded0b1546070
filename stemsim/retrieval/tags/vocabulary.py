"""The vocabulary of sample packs: what the words in names of files and folders say about a sound."""

import re
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple


class Rank(IntEnum):
    """Certainty with which a word names an instrument, surest first."""

    SURE = 0
    NAME = 1  # also an ordinary or a proper word: Tom, Crash, Snap
    SHORT = 2  # an abbreviation of two letters
    VAGUE = 3  # how it is played, who makes it, or what it is part of: stab, Paiste, drums


# Category -> words of each rank.
_INSTRUMENTS: Final[dict[str, dict[Rank, str]]] = {
    "kick": {
        Rank.SURE: "kick kik kck kickdrum bassdrum drumbass",
        Rank.SHORT: "bd kd",
    },
    "snare": {Rank.SURE: "snare snr snaredrum", Rank.SHORT: "sd sn"},
    "rim": {Rank.SURE: "rim rimshot sidestick crossstick crosstick rimclick", Rank.SHORT: "rs"},
    "clap": {
        Rank.SURE: "clap clp handclap fingersnap",
        Rank.NAME: "snap",
        Rank.SHORT: "cp",
    },
    "hat": {
        Rank.SURE: "hat hihat highhat hhat hho hhc ohh chh ohat chat openhat closedhat",
        Rank.SHORT: "hh oh ch ho",
    },
    "cymbal": {
        Rank.SURE: "cymbal cym gong piatti crashcymbal ridecymbal crsh",
        Rank.NAME: "crash ride splash china",
        Rank.VAGUE: "zildjian sabian paiste",
        Rank.SHORT: "cr cc rd rc cy",
    },
    "tom": {Rank.SURE: "tomtom floortom racktom", Rank.NAME: "tom", Rank.SHORT: "lt mt ht ft tm"},
    "perc": {
        Rank.SURE: (
            "perc prc percussion percussive conga bongo cowbell shaker tambourine tamb tabla woodblock templeblock "
            "clave guiro maraca cabasa timbale timpani timp djembe cajon darbuka agogo castanet udu cuica surdo "
            "pandeiro taiko vibraslap whistle dununba dunun kenkeni sangban handdrum talkingdrum framedrum sleighbell "
            "grancassa bodhran doumbek repinique tamborim caxixi cencerro fingercymbal shekere"
        ),
        Rank.NAME: "triangle",
        Rank.SHORT: "cb sh tb cl ma hc mc lc",
    },
    "bass": {
        Rank.SURE: "bass subbass bassline reese contrabass doublebass",
        Rank.NAME: "sub",
        Rank.SHORT: "bs",
        Rank.VAGUE: "808",
    },
    "guitar": {
        Rank.SURE: "guitar gtr guit gtar egtr agtr ukulele uke banjo mandolin sitar strat telecaster",
        Rank.SHORT: "gt",
    },
    "keys": {
        Rank.SURE: (
            "keys piano pno rhodes wurli wurlitzer organ hammond epiano clav clavinet harpsichord accordion keyboard "
            "melodica celesta celeste harmonium steinway"
        ),
        Rank.SHORT: "ep",
    },
    "mallets": {
        Rank.SURE: (
            "mallet marimba mba vibraphone vibes glockenspiel glock xylophone xylo kalimba steelpan steeldrum musicbox "
            "tubularbell handpan"
        ),
        Rank.NAME: "bell chime",
    },
    "synth": {
        Rank.SURE: "synth syn synthesizer saw supersaw sawtooth vocoder",
        Rank.SHORT: "ld",
        Rank.VAGUE: "lead arp arpeggio pluck plk stab chord acid moog",
    },
    "pad": {
        Rank.SURE: "soundscape drone",
        Rank.NAME: "pad",
        Rank.VAGUE: "ambient ambience ambi amb atmos atmo atmosphere texture",
    },
    "strings": {
        Rank.SURE: "strings violin vln viola vla cello celli pizzicato pizz orchestra orchestral fiddle",
        Rank.NAME: "string harp",
    },
    "brass": {
        Rank.SURE: "brass brs trumpet tpt trombone tbn frenchhorn fhorn tuba flugelhorn cornet",
        Rank.NAME: "horn",
    },
    "woodwind": {
        Rank.SURE: "woodwind sax saxophone flute clarinet clar oboe bassoon recorder piccolo panflute",
        Rank.NAME: "winds",
    },
    "vocals": {
        Rank.SURE: (
            "vox vocal voc voice acapella acappella choir chant adlib spoken speech bgv bgvox singing rap vocalist"
        ),
        Rank.SHORT: "vx",
    },
    "fx": {
        Rank.SURE: (
            "fx sfx effect foley riser uplifter downlifter upl dnl downer whoosh woosh swoosh vinyl scratch bleep blip "
            "zap fieldrecording subdrop soundeffect tapestop whitenoise"
        ),
        Rank.NAME: "impact",
        Rank.VAGUE: (
            "sweep noise transition reverse hiss boom warp siren laser beep glitch crackle explosion explode gunshot "
            "thunder rain wind applause crowd footstep alarm"
        ),
    },
    "drums": {
        Rank.VAGUE: "drum drumkit kit break breakbeat brk beat drumloop amen fill tops overhead drumfill",
    },
}
# Type -> words.
_TYPES: Final[dict[str, str]] = {
    "loop": "loop lp break breakbeat brk beat groove drumloop fill riff phrase",
    "one-shot": "oneshot shot hit stab single",
    "song": "song tune track mix master mixdown",
}
# Words that say nothing of either, but are no part of a proper name: how a sound is played, sounds and is made; styles;
# voices and sides; parts of pieces; and the rest.
_PLAIN: Final = """
    closed close closd clsd open opened semi half pedal foot tight loose edge tip bow cup choke mute muted roll
    flam rod brush stick slap thumb finger fingered picked palm strum hand legato leg staccato stac sus sustain
    trem tremolo vib nonvib marc gliss swell fall
    top bottom up down in out inside outside hard soft med medium loud quiet low lo mid high hi long short dry
    wet deep big fat phat thick thin clean dirty dist distorted crunchy lofi punch punchy snappy boomy room
    roomy close far warm cold bright dark heavy light lite round wobble growl
    acoustic electric elec electro electronic analog analogue digital fm live real natural vintage retro classic
    modern processed raw layer layered tape sat plate verb reverb delay tail wood metal metallic glass bamboo
    steel nylon fretless upright grand toy church synthetic organic sine square sqr
    hiphop hop trap house techno trance rave dubstep dub dnb drumandbass drumnbass jungle garage disco funk
    funky jazz rock pop soul reggae latin rnb edm hardcore industrial minimal chill boombap drill
    female male fem backing harmony double left right stereo mono main full alt
    melody melodic chop cut line bar section piece
    wav wave waveform aif aiff one misc various other sample sound bpm major minor maj min and the with no all
    old new
"""

PACKS: Final = frozenset({"pack", "kit", "drumkit", "vol", "volume", "library", "collection", "toolkit", "bundle"})
"""Words by which the name of a folder is that of a pack."""


class Term(NamedTuple):
    """A word of a name, or several that belong together: `hi hat`.

    Attributes:
        text: The word in lower case.
        category: The category that it stands for, if any.
        rank: The certainty with which it does.
        type: The type of sound that it stands for, if any.
        known: False for a word that is not in the vocabulary, such as one of a proper name.
        capital: True if it is written in capitals alone.
        plural: True if it ends in the s of plurals.
    """

    text: str
    category: str | None = None
    rank: Rank = Rank.VAGUE
    type: str | None = None
    known: bool = True
    capital: bool = False
    plural: bool = False


CATEGORIES: Final[tuple[str, ...]] = tuple(_INSTRUMENTS)
"""All categories: instruments, and kinds of sound."""

_CATEGORY: Final = {
    word: (category, rank)
    for category, ranks in _INSTRUMENTS.items()
    for rank, words in ranks.items()
    for word in words.split()
}
_TYPE: Final = {word: kind for kind, words in _TYPES.items() for word in words.split()}
_KNOWN: Final = frozenset({*_CATEGORY, *_TYPE, *PACKS, *_PLAIN.split()})
_JOINED: Final = 3  # words at most that make one: drum and bass
_SHORTEST_JOINED: Final = 4  # letters
_SHORTEST_PART: Final = 3  # letters of a word inside a compound, but for abbreviations at its ends
_SHORTEST_AFFIX: Final = 5  # letters of a word that is recognised beside anything
# KICKDrum, hiHat, HHclosed, Snare01, loop&fill
_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|&")


def words_of(name: str) -> list[str]:
    """Split a name into lower-case words and numbers: at spaces, signs and digits, and at the humps of camelCase.

    Args:
        name: Name of a file, without its extension, or of a folder.

    Example:
        >>> words_of("HiHat_Closed-03 (bright)")
        ['hi', 'hat', 'closed', '03', 'bright']
    """
    return [_plain(token) for token in _WORD.findall(name)]


def terms_of(name: str) -> list[Term]:
    """Look up the words of a name: also those written apart (`cow bell`), in one (`closehihat`) or in the plural.

    Args:
        name: Name of a file, without its extension, or of a folder.

    Example:
        >>> [(term.text, term.category) for term in terms_of("WoodBlock_hhopen3")]
        [('woodblock', 'perc'), ('hh', 'hat'), ('open', None), ('3', None)]
    """
    tokens = _WORD.findall(name)
    terms: list[Term] = []
    place = 0
    while place < len(tokens):
        for count in range(min(_JOINED, len(tokens) - place), 1, -1):
            joined = "".join(map(_plain, tokens[place : place + count]))
            if len(joined) >= _SHORTEST_JOINED and _entry(joined) is not None:
                terms.append(_term(joined))
                place += count
                break
        else:
            capital = tokens[place].isupper()
            terms += [term._replace(capital=capital) for term in _looked_up(_plain(tokens[place]))]
            place += 1
    return terms


def _plain(word: str) -> str:
    return "and" if word == "&" else word.lower()


@lru_cache(maxsize=4096)
def _looked_up(word: str) -> tuple[Term, ...]:
    """Return the terms that a word consists of."""
    if _entry(word) is not None or word.isdecimal() or len(word) == 1:
        return (_term(word),)
    if (parts := _parts(word)) is not None:
        *first, last = map(_term, parts)
        return (*(term._replace(type=None) for term in first), last)  # bassloop, but not loopmasters
    for length in range(len(word) - 1, _SHORTEST_AFFIX - 1, -1):
        for part in (word[-length:], word[:length]):
            entry = _entry(part)
            if entry in _CATEGORY and len(entry) >= _SHORTEST_AFFIX and _CATEGORY[entry][1] <= Rank.NAME:
                return (_term(part),)
    return (Term(word, known=False),)


def _parts(word: str) -> list[str] | None:
    """Return the fewest words of the vocabulary that a compound consists of, if it does."""
    best: list[list[str] | None] = [[]]
    for end in range(1, len(word) + 1):
        found: list[str] | None = None
        for start in range(end):
            before, part = best[start], word[start:end]
            if before is None or not _is_part(part, first=start == 0, last=end == len(word)):
                continue
            if found is None or len(before) + 1 < len(found):
                found = [*before, part]
        best.append(found)
    parts = best[-1]
    if parts is None or (len(parts[0]) < _SHORTEST_PART and sum(part in _CATEGORY for part in parts) > 1):
        return None  # `sharp` is no shaker with an arpeggio
    return parts


def _is_part(text: str, *, first: bool, last: bool) -> bool:
    """Return whether a piece of a compound is a word: one of two letters at either end, `hhopen`, `tomhi`."""
    if len(text) >= _SHORTEST_PART:
        return _entry(text) is not None
    return text in _KNOWN and len(text) > 1 and (first or (last and text not in _CATEGORY))


def _entry(word: str) -> str | None:
    """Return a word as it stands in the vocabulary: in the singular, if it stands there so."""
    return next((form for form in (word, word.removesuffix("s"), word.removesuffix("es")) if form in _KNOWN), None)


def _term(word: str) -> Term:
    entry = _entry(word) or word
    category, rank = _CATEGORY.get(entry, (None, Rank.VAGUE))
    return Term(word, category, rank, _TYPE.get(entry), plural=entry != word)
