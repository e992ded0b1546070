"""Pictures of the paper's tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stemsim.paper.tables import Cell, grid
from stemsim.report.style import CEILING_COLOR, LEGEND, PUBLISHED_COLOR, SERIES_COLORS, new_figure

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
    width, height = 0.065 * max(map(len, by_row)) + 1.7 * len(columns), 1.1 + 0.28 * len(by_row)
    figure, panels = new_figure(width, height, columns=len(columns), title=title, sharey=True, squeeze=False)
    paper = {"label": "paper", "fmt": "D", "color": PUBLISHED_COLOR, "mfc": "white"}
    ours = {"label": "ours", "fmt": "o", "color": SERIES_COLORS[0]}
    for axes, column, shown in zip(panels[0], columns, zip(*by_row.values(), strict=True), strict=True):
        for place, cell in enumerate(shown):
            if cell is None:
                continue
            if cell.ceiling is not None:
                ends = [place - 0.35, place + 0.35]
                axes.plot([cell.ceiling] * 2, ends, color=CEILING_COLOR, lw=1.5, label="human ceiling")
            for value, spread, offset, style in (
                (cell.published, cell.published_spread, 0.12, paper),
                (cell.ours, cell.spread, -0.12, ours),
            ):
                if value is not None:
                    axes.errorbar(value, place + offset, xerr=spread, ms=4, lw=1, **style)
        axes.set_title(column, fontsize=9)
        axes.tick_params(labelsize=8)
    panels[0][0].set_yticks(range(len(by_row)), list(by_row), fontsize=8)
    panels[0][0].set_ylim(len(by_row) - 0.5, -0.5)
    handles = {name: mark for axes in panels[0] for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles, **LEGEND, loc="outside lower center", ncols=3)
    return figure
