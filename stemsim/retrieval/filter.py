"""Conditions on items, as each engine understands them inside its vector search."""

import json
import math
import sys
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
_LARGEST: Final = sys.float_info.max
_SPANS: Final = ("bpm", "duration", "loudness")
_TAGS: Final = ("category", "type")


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Conditions on items, all of which must hold; None is no condition.

    Attributes:
        category: The tags of the item include one of these: categories, or types.
        type: They include one of these too: types.
        bpm: Tempo between these two, either of which may be open (None); an unknown tempo is outside.
        octaves: Half and double such a tempo will do as well.
        musical_key: One of these, such as `A minor`.
        duration: Length in seconds between these two.
        loudness: Level in dBFS between these two.
        stems: All of these sound.
        path_prefix: The path begins with this.
    """

    category: tuple[str, ...] | None = None
    type: tuple[str, ...] | None = None
    bpm: Span | None = None
    octaves: bool = False
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
        if self.octaves and self.bpm is None:
            raise ConfigError("`octaves` is about a tempo: give `bpm` too, e.g. bpm=(173, 175).")
        for name in (*_TAGS, "musical_key", "stems"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(
                    f"`{name}` is a tuple of names; got the text {getattr(self, name)!r}. Write ({name!r},)."
                )

    def mask(self, items: Items) -> BoolArray:
        """Return which items `(item,)` meet all conditions."""
        keep = np.ones(len(items), dtype=bool)
        for name in _TAGS:
            if (chosen := getattr(self, name)) is not None:
                wanted = set(chosen)
                keep &= np.array([not wanted.isdisjoint(tags) for tags in items.tags], dtype=bool)
        if self.musical_key is not None:
            keep &= np.isin(items.musical_key.astype(str), list(self.musical_key))
        for name in _SPANS:
            if spans := self._spans(name):
                values = getattr(items, name)
                within = [(values >= low) & (values <= high) for low, high in spans]  # False for an unknown tempo, NaN
                keep &= np.any(within, axis=0)
        for stem in self.stems or ():
            keep &= items.present[:, items.stems.index(stem)] if stem in items.stems else False
        if self.path_prefix is not None:
            keep &= np.array([path.startswith(self.path_prefix) for path in items.path], dtype=bool)
        return keep

    def _spans(self, name: str) -> list[tuple[float, float]]:
        """Return the spans in one of which a number must lie, infinite where they are open; none for no condition."""
        span: Span | None = getattr(self, name)
        if span is None:
            return []
        low, high = -math.inf if span[0] is None else float(span[0]), math.inf if span[1] is None else float(span[1])
        factors = (1.0, 0.5, 2.0) if name == "bpm" and self.octaves else (1.0,)
        # An end that overflows must not become an open one.
        return [(min(low * factor, _LARGEST), max(high * factor, -_LARGEST)) for factor in factors]

    def sql(self, stems: Sequence[str]) -> str:
        """Return the conditions in SQL, for LanceDB, given the stem layout of the index."""
        return " and ".join(self._terms(stems, _SQL))

    def milvus(self, stems: Sequence[str]) -> str:
        """Return the conditions as an expression of Milvus, where -1 stands for an unknown tempo."""
        return " and ".join(self._terms(stems, _MILVUS))

    def _terms(self, stems: Sequence[str], language: "_Language") -> list[str]:
        terms = [
            operator.format(", ".join(map(language.quote, chosen))) if chosen else language.never
            for operator, chosen in (
                (language.tagged, self.category),
                (language.tagged, self.type),
                (language.in_key, self.musical_key),
            )
            if chosen is not None
        ]
        for name in _SPANS:
            spans = [
                " and ".join(
                    f"{name} {sign} {end!r}" for sign, end in ((">=", low), ("<=", high)) if math.isfinite(end)
                )
                for low, high in self._spans(name)
            ]
            if spans and all(spans):
                terms.append(f"({' or '.join(spans)})")
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
    tagged: str  # with one of a list
    in_key: str  # of a list
    true: str  # of a column


_SQL: Final = _Language(
    quote=sql_text,
    never="false",
    known_bpm="bpm is not null",
    tagged="array_has_any(tags, make_array({}))",
    in_key="musical_key in ({})",
    true="{} = true",
)
_MILVUS: Final = _Language(
    quote=lambda text: json.dumps(text, ensure_ascii=False),
    never='key == ""',
    known_bpm="bpm >= 0",
    tagged="array_contains_any(tags, [{}])",
    in_key="musical_key in [{}]",
    true="{} == true",
)
