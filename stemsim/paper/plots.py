"""Pictures of the paper's tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stemsim.paper.tables import Cell, grid
from stemsim.report.style import CEILING_COLOR, PUBLISHED_COLOR, SERIES_COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_paper_table"]


def plot_paper_table(cells: Sequence[Cell], title: str) -> "Figure":
    """Draw a table: our figures beside the paper's and the human ceiling, one panel for each column.

    Args:
        cells: Cells of one table.
        title: Title of the picture.
    """
    columns, by_row = grid(cells)
    label = max(map(len, by_row)) * 0.065
    size = label + 1.7 * len(columns), 1.1 + 0.28 * len(by_row)
    figure, panels = new_figure(*size, columns=len(columns), sharey=True, squeeze=False)
    for axes, column, shown in zip(panels[0], columns, zip(*by_row.values(), strict=True), strict=True):
        for place, cell in enumerate(shown):
            if cell is None:
                continue
            if cell.ceiling is not None:
                ends = [place - 0.35, place + 0.35]
                axes.plot([cell.ceiling] * 2, ends, color=CEILING_COLOR, lw=1.5, label="human ceiling")
            for value, spread, offset, color, style in (
                (
                    cell.published,
                    cell.published_spread,
                    0.12,
                    PUBLISHED_COLOR,
                    {"fmt": "D", "mfc": "white", "label": "paper"},
                ),
                (cell.ours, cell.spread, -0.12, SERIES_COLORS[0], {"fmt": "o", "label": "ours"}),
            ):
                if value is not None:
                    axes.errorbar(value, place + offset, xerr=spread, color=color, ms=4, lw=1, **style)
        axes.set_title(column, fontsize=9)
        axes.tick_params(labelsize=8)
    first = panels[0][0]
    first.set_yticks(range(len(by_row)), list(by_row), fontsize=8)
    first.set_ylim(len(by_row) - 0.5, -0.5)
    handles = {name: mark for axes in panels[0] for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure
