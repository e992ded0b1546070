"""Picture of the perspectives side by side. Matplotlib is imported when it is drawn."""

from typing import TYPE_CHECKING

import numpy as np

from stemsim.evaluation.perspectives import PerspectiveFit, Perspectives

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_perspectives"]

_COLORS = {"overall": "#333f4a", "timbre": "#2f6fb0", "rhythm": "#d9822b", "melody": "#3c8d5a"}
_GREY = "#9aa5b1"


def plot_perspectives(found: Perspectives) -> "Figure":
    """Draw the part of each stem by question, and how well each question's majority is predicted.

    Args:
        found: Fits to all questions.

    Returns:
        The figure: parts with intervals on the left, one group of lines a stem (a cross is the truth of simulated
        listeners); test agreement of ridge regression and of the mix alone beside the ceiling on the right.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 1.6 + 0.6 * len(found.stems)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", alpha=0.2)
    _draw_parts(left, found)
    _draw_agreement(right, found.fits)
    figure.suptitle(found.source, fontsize=10, wrap=True)
    return figure


def _draw_parts(axes: "Axes", found: Perspectives) -> None:
    """Draw parts and intervals; an interval without end is left out."""
    rows = np.arange(len(found.stems))
    for index, fit in enumerate(found.fits):
        places = rows + (index - (len(found.fits) - 1) / 2) * 0.18
        known = np.isfinite(fit.standard_error)
        color = _COLORS[fit.question]
        reach = (fit.upper - fit.part)[known]
        axes.errorbar(
            fit.part[known],
            places[known],
            xerr=reach,
            fmt="o",
            color=color,
            ms=4,
            capsize=2,
            lw=1.4,
            label=fit.question,
        )
        if fit.true_part is not None:
            label = "true (simulated)" if index == len(found.fits) - 1 else None
            axes.scatter(fit.true_part, places, marker="x", s=22, color="black", zorder=3, linewidths=1.0, label=label)
    for edge in rows[:-1] + 0.5:
        axes.axhline(edge, color=_GREY, lw=0.5, alpha=0.5)
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks(rows, list(found.stems))
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first stem on top
    axes.set_xlabel(f"part in the preference, {100 * found.level:g} % interval")
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_agreement(axes: "Axes", fits: tuple[PerspectiveFit, ...]) -> None:
    """Draw test agreement, mean and standard deviation over the splits, beside the ceiling."""
    for place, fit in enumerate(fits):
        for name, offset, color in (("ridge", -0.12, _COLORS[fit.question]), ("mix cosine", 0.12, _GREY)):
            agreed = fit.agreement(name)
            if agreed is None:
                continue
            mean, spread = 100.0 * np.nanmean(agreed), 100.0 * np.nanstd(agreed)
            axes.errorbar(mean, place + offset, xerr=spread, fmt="o", color=color, ms=5, capsize=3)
            axes.annotate(f"{name} {mean:.1f} ± {spread:.1f}", (mean, place + offset - 0.06), fontsize=7, ha="center")
        if np.isfinite(fit.ceiling):
            axes.vlines(100.0 * fit.ceiling, place - 0.4, place + 0.4, color="black", lw=1.2, ls="--")
    axes.margins(x=0.2)  # room for what is written beside the ends
    axes.set_yticks(range(len(fits)), [f"{fit.question}\n{fit.triplets} triplets" for fit in fits])
    axes.set_ylim(len(fits) - 0.5, -0.5)
    axes.set_xlabel("test agreement with the majority on the question, %")
    axes.set_title("dashed: ceiling, one listener with the others", fontsize=8)
