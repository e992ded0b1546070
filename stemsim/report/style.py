"""The style of all pictures: colours, figures and files."""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stemsim.replacing import replacing
from stemsim.stems import STEM_COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CEILING_COLOR",
    "GREY",
    "LEGEND",
    "PUBLISHED_COLOR",
    "SERIES_COLORS",
    "new_figure",
    "save_figure",
]

SERIES_COLORS: Final = tuple(STEM_COLORS.values())
"""Colours of runs, models or questions beside each other."""

CEILING_COLOR: Final = STEM_COLORS["vocals"]
PUBLISHED_COLOR: Final = STEM_COLORS["drums"]
GREY: Final = STEM_COLORS["mix"]

LEGEND: Final[MappingProxyType[str, Any]] = MappingProxyType({"frameon": False, "fontsize": 8})
"""Arguments of every legend."""


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, *, title: str = "", **grid: Any
) -> "tuple[Figure, Any]":
    """Return a figure outside pyplot, which needs no display and keeps no global state, and its one or several axes.

    Args:
        width: Width in inches.
        height: Height in inches.
        columns: Number of axes side by side.
        rows: Number of rows of axes.
        title: Title above all axes.
        grid: Further arguments of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=10, wrap=True)
    axes = figure.subplots(rows, columns, **grid)
    for panel in np.atleast_1d(axes).flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2)
        panel.set_axisbelow(True)
    return figure, axes


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its suffix; a missing folder is made."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
