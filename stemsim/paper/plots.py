"""Pictures of the paper's tables. Matplotlib is imported when the first one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from stemsim.evaluation.paper_tables import Cell, rows_and_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_paper_table"]

_OURS, _PAPER, _CEILING = "#2f6fb0", "#d9822b", "#3c8d5a"
_ROW: Final = 0.28  # inches
_PANEL: Final = 1.7


def plot_paper_table(cells: Sequence[Cell], title: str) -> "Figure":
    """Draw a table: a panel for each column and a line for each row, ours beside the paper's and the human ceiling.

    Args:
        cells: Of one table.
        title: Title of the picture.

    Returns:
        The figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = rows_and_columns(cells)
    label = max(len(row) for row in rows) * 0.065
    figure = Figure(figsize=(label + _PANEL * len(columns), 1.1 + _ROW * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(columns), sharey=True))
    for axes, column in zip(panels, columns, strict=True):
        _draw(axes, [cell for cell in cells if cell.column == column], rows)
        axes.set_title(column, fontsize=9)
    panels[0].set_yticks(range(len(rows)), rows, fontsize=8)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    handles = {name: mark for axes in panels for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw(axes: "Axes", cells: Sequence[Cell], rows: Sequence[str]) -> None:
    """Draw one column."""
    for cell in cells:
        place = rows.index(cell.row)
        if cell.ceiling is not None:
            axes.plot([cell.ceiling] * 2, [place - 0.35, place + 0.35], color=_CEILING, lw=1.5, label="human ceiling")
        if cell.published is not None:
            spread = cell.published_spread
            axes.errorbar(
                cell.published, place + 0.12, xerr=spread, fmt="D", mfc="white", color=_PAPER, ms=4, lw=1, label="paper"
            )
        if cell.ours is not None:
            axes.errorbar(cell.ours, place - 0.12, xerr=cell.spread, fmt="o", color=_OURS, ms=4, lw=1, label="ours")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", alpha=0.2)
    axes.tick_params(labelsize=8)
