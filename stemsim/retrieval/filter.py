"""Conditions on items, as each engine understands them inside its vector search."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stemsim.errors import ConfigError
from stemsim.lance_table import sql_text
from stemsim.retrieval.items import BoolArray, Items
from stemsim.stems import STEMS

Span = tuple[float | None, float | None]

_LAST: Final = "\U0010ffff"  # sorts after every other character: paths with a prefix are a range
_SPANS: Final = ("bpm", "duration", "loudness")
_CHOICES: Final = ("category", "musical_key")


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Conditions on items, all of which must hold; None is no condition.

    Attributes:
        category: One of these.
        bpm: Tempo between these two, either of which may be open (None); an unknown tempo is outside.
        musical_key: One of these, such as `A minor`.
        duration: Length in seconds between these two.
        loudness: Level in dBFS between these two.
        stems: All of these sound.
        path_prefix: The path begins with this.
    """

    category: tuple[str, ...] | None = None
    bpm: Span | None = None
    musical_key: tuple[str, ...] | None = None
    duration: Span | None = None
    loudness: Span | None = None
    stems: tuple[str, ...] | None = None
    path_prefix: str | None = None

    def __post_init__(self) -> None:
        """Verify spans, stems and choices."""
        for name in _SPANS:
            span: Span = getattr(self, name) or (None, None)
            ends = [end for end in span if end is not None]
            if not all(map(math.isfinite, ends)) or ends != sorted(ends):
                raise ConfigError(f"`{name}` lies between two numbers, the lower first, e.g. (118, 124); got {span}.")
        if unknown := [stem for stem in self.stems or () if stem not in STEMS]:
            raise ConfigError(f"Stems are {', '.join(STEMS)}; got {', '.join(unknown)}.")
        for name in (*_CHOICES, "stems"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(
                    f"`{name}` is a tuple of names; got the text {getattr(self, name)!r}. Write ({name!r},)."
                )

    def mask(self, items: Items) -> BoolArray:
        """Return which items `(item,)` meet all conditions."""
        keep = np.ones(len(items), dtype=bool)
        for name in _CHOICES:
            if (chosen := getattr(self, name)) is not None:
                keep &= np.isin(getattr(items, name).astype(str), list(chosen))
        for name in _SPANS:
            if (span := getattr(self, name)) is not None:
                values = getattr(items, name)
                low, high = (-np.inf if span[0] is None else span[0]), (np.inf if span[1] is None else span[1])
                keep &= (values >= low) & (values <= high)  # False for an unknown tempo, NaN
        for stem in self.stems or ():
            keep &= items.present[:, items.stems.index(stem)] if stem in items.stems else False
        if self.path_prefix is not None:
            keep &= np.array([path.startswith(self.path_prefix) for path in items.path], dtype=bool)
        return keep

    def sql(self, stems: Sequence[str]) -> str:
        """Return the conditions in SQL, for LanceDB, given the stem layout of the index."""
        return " AND ".join(self._terms(stems, _SQL))

    def milvus(self, stems: Sequence[str]) -> str:
        """Return the conditions as an expression of Milvus, where -1 stands for an unknown tempo."""
        return " and ".join(self._terms(stems, _MILVUS))

    def _terms(self, stems: Sequence[str], language: "_Language") -> list[str]:
        terms = [
            language.member.format(name, ", ".join(map(language.quote, chosen))) if chosen else language.never
            for name in _CHOICES
            if (chosen := getattr(self, name)) is not None
        ]
        for name in _SPANS:
            signs = zip((">=", "<="), getattr(self, name) or (None, None), strict=True)
            terms += [f"{name} {sign} {float(end)!r}" for sign, end in signs if end is not None]
        if self.bpm is not None:
            terms.append(language.known_bpm)
        sounding = self.stems or ()
        terms += [language.true.format(f"has_{stem}") if stem in stems else language.never for stem in sounding]
        if self.path_prefix:
            first, last = language.quote(self.path_prefix), language.quote(self.path_prefix + _LAST)
            terms += [f"path >= {first}", f"path < {last}"]
        return terms


@dataclass(frozen=True, slots=True)
class _Language:
    """The syntax of an engine's conditions."""

    quote: Callable[[str], str]
    never: str
    known_bpm: str
    member: str  # of a column and a list
    true: str  # of a column


_SQL: Final = _Language(sql_text, "false", "bpm IS NOT NULL", "{} IN ({})", "{} = true")
_MILVUS: Final = _Language(
    lambda text: json.dumps(text, ensure_ascii=False), 'key == ""', "bpm >= 0", "{} in [{}]", "{} == true"
)
