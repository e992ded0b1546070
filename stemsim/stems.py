"""Stems and stem layouts.

A stem layout is an ordered tuple of stems. It is stored with every weight vector, store and checkpoint, and two things
can be combined only if their layouts are equal, including the order.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from stemsim.errors import ConfigError, StemMismatchError

__all__ = ["LAYOUTS", "STEMS", "STEM_COLORS", "StemLayout", "check_same_layout", "stem_layout"]

StemLayout = tuple[str, ...]

STEMS: Final[StemLayout] = ("bass", "drums", "guitar", "piano", "vocals", "residuals", "mix")
"""All stems, in canonical order. `mix` is the unseparated signal and counts as a stem."""

LAYOUTS: Final[dict[str, StemLayout]] = {
    "4-stem": ("bass", "drums", "vocals", "residuals", "mix"),
    "6-stem": STEMS,
    "mix": ("mix",),
}
"""The layouts of the paper (section 3.3) by name."""


STEM_COLORS: Final = MappingProxyType(
    {
        "bass": "#2166c9",
        "drums": "#d97a0b",
        "guitar": "#b8304f",
        "piano": "#c06ad0",
        "vocals": "#0f9d78",
        "residuals": "#80701c",
        "mix": "#7c8894",
    }
)
"""Colour of each stem in pictures and on the page: each has a contrast of at least 3 with white and with dark, and
any two differ for readers who see no difference between red and green."""


def stem_layout(layout: str | Sequence[str]) -> StemLayout:
    """Return a verified stem layout from its name (`4-stem`, `6-stem`, `mix`) or from the stems themselves, in order.

    Raises:
        ConfigError: If the name or a stem is unknown, a stem is repeated, or there are none.
    """
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise ConfigError(f"Unknown stem layout {layout!r}; expected {', '.join(LAYOUTS)}, or a list of stems.")
        return LAYOUTS[layout]
    stems = tuple(layout)
    unknown = [stem for stem in stems if stem not in STEMS]
    if unknown or not stems or len(set(stems)) != len(stems):
        raise ConfigError(f"A stem layout is a list of distinct stems out of {', '.join(STEMS)}; got {list(stems)!r}.")
    return stems


def check_same_layout(expected: Sequence[str], seen: Sequence[str], *, what: str, remedy: str) -> None:
    """Raise `StemMismatchError` unless two layouts are equal; `what` names the source of `seen` in its message."""
    if tuple(expected) != tuple(seen):
        raise StemMismatchError(tuple(expected), tuple(seen), what, remedy)
