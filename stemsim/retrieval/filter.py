"""Conditions on items, as each engine understands them inside its vector search."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError
from stemsim.retrieval.item import Items
from stemsim.stems import STEMS

__all__ = ["ItemFilter"]

BoolArray = npt.NDArray[np.bool_]
Span = tuple[float | None, float | None]

_LAST: Final = "\U0010ffff"  # behind every other character: paths with a prefix are a range
_SPANS: Final = ("bpm", "duration", "loudness")
_CHOICES: Final = ("category", "musical_key")
_EXCLUDED: Final = {"exclude_content": "content", "exclude_keys": "key"}


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """What items must be to be found; each condition that is given must hold.

    Attributes:
        category: One of these.
        bpm: Tempo between these two, either of which may be open (None); an unknown tempo is outside.
        musical_key: One of these, such as `A minor`.
        duration: Length in seconds between these two.
        loudness: Level in dBFS between these two.
        stems: All of these sound.
        path_prefix: The path begins with this.
        exclude_content: Content that does not count.
        exclude_keys: Keys that do not count.
    """

    category: tuple[str, ...] | None = None
    bpm: Span | None = None
    musical_key: tuple[str, ...] | None = None
    duration: Span | None = None
    loudness: Span | None = None
    stems: tuple[str, ...] | None = None
    path_prefix: str | None = None
    exclude_content: tuple[str, ...] | None = None
    exclude_keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Verify spans, stems and choices."""
        for name in _SPANS:
            span: Span | None = getattr(self, name)
            if span is None:
                continue
            low, high = span
            if any(end is not None and not math.isfinite(end) for end in span) or (
                low is not None and high is not None and low > high
            ):
                msg = f"`{name}` lies between two numbers, the lower first, e.g. (118, 124); got {span}."
                raise ConfigError(msg)
        if unknown := [stem for stem in self.stems or () if stem not in STEMS]:
            msg = f"Stems are {', '.join(STEMS)}; got {', '.join(unknown)}."
            raise ConfigError(msg)
        for name in (*_CHOICES, *_EXCLUDED, "stems"):
            if isinstance(getattr(self, name), str):
                msg = f"`{name}` is a tuple of names; got the text {getattr(self, name)!r}. Write ({name!r},)."
                raise ConfigError(msg)

    @property
    def empty(self) -> bool:
        """Whether all items are admitted."""
        return all(getattr(self, field.name) is None for field in fields(self))

    def mask(self, items: Items) -> BoolArray:
        """Return which items `(item,)` meet all conditions."""
        keep = np.ones(len(items), dtype=bool)
        for name in _CHOICES:
            if (chosen := getattr(self, name)) is not None:
                keep &= np.isin(np.array(getattr(items, name), dtype=str), list(chosen))
        for name in _SPANS:
            if (span := getattr(self, name)) is not None:
                values = getattr(items, name)
                keep &= ~np.isnan(values)
                keep &= (values >= (-np.inf if span[0] is None else span[0])) & (
                    values <= (np.inf if span[1] is None else span[1])
                )
        for stem in self.stems or ():
            keep &= items.present[:, items.stems.index(stem)] if stem in items.stems else False
        if self.path_prefix is not None:
            keep &= np.array([path.startswith(self.path_prefix) for path in items.path], dtype=bool)
        for name, column in _EXCLUDED.items():
            if (excluded := getattr(self, name)) is not None:
                keep &= ~np.isin(np.array(getattr(items, column), dtype=str), list(excluded))
        return keep

    def sql(self, stems: Sequence[str]) -> str:
        """Return the conditions in SQL, for LanceDB.

        Args:
            stems: Stem layout of the index.
        """
        return " AND ".join(self._terms(stems, _SQL))

    def milvus(self, stems: Sequence[str]) -> str:
        """Return the conditions as an expression of Milvus, in which -1 stands for an unknown tempo.

        Args:
            stems: Stem layout of the index.
        """
        return " and ".join(self._terms(stems, _MILVUS))

    def _terms(self, stems: Sequence[str], language: "_Language") -> list[str]:
        """Return the conditions, all of which must hold."""
        choices = [(name, getattr(self, name)) for name in _CHOICES]
        terms = [language.among(name, chosen) for name, chosen in choices if chosen is not None]
        for name in _SPANS:
            if (span := getattr(self, name)) is not None:
                signs = zip((">=", "<="), span, strict=True)
                terms += [f"{name} {sign} {float(end)!r}" for sign, end in signs if end is not None]
        if self.bpm is not None:
            terms.append(language.known_bpm)
        terms += [language.true(f"has_{stem}") if stem in stems else language.never for stem in self.stems or ()]
        if self.path_prefix:
            first, last = language.quote(self.path_prefix), language.quote(self.path_prefix + _LAST)
            terms += [f"path >= {first}", f"path < {last}"]
        excluded = [(column, getattr(self, name)) for name, column in _EXCLUDED.items()]
        return terms + [f"{language.no} ({language.among(column, values)})" for column, values in excluded if values]


@dataclass(frozen=True, slots=True)
class _Language:
    """How an engine writes conditions."""

    quote: Callable[[str], str]
    no: str
    never: str
    known_bpm: str
    member: str  # of a column and a list
    truth: str  # of a column

    def among(self, column: str, values: Sequence[str]) -> str:
        listed = ", ".join(self.quote(value) for value in values)
        return self.member.format(column, listed) if values else self.never

    def true(self, column: str) -> str:
        return self.truth.format(column)


def _sql_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _milvus_text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


_SQL: Final = _Language(_sql_text, "NOT", "false", "bpm IS NOT NULL", "{} IN ({})", "{} = true")
_MILVUS: Final = _Language(_milvus_text, "not", 'key == ""', "bpm >= 0", "{} in [{}]", "{} == true")
