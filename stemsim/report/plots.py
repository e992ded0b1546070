"""Pictures of results. Matplotlib is imported when the first one is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.evaluation.crossval import CrossValidation
from stemsim.evaluation.inference import WeightIntervals
from stemsim.evaluation.penalty import WeightPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_cross_validation", "plot_intervals", "plot_ridge_path", "plot_weights", "save_figure"]

FloatArray = npt.NDArray[np.float64]

_BLUE, _GREY, _GREEN, _ORANGE = "#2f6fb0", "#9aa5b1", "#3c8d5a", "#d9822b"
_SERIES = (_BLUE, _GREEN, _ORANGE)
_STEM_COLORS = (_BLUE, _ORANGE, _GREEN, "#b5484b", "#7b5ea7", "#8a6d4b", "#333f4a")


def plot_weights(frame: pd.DataFrame, title: str) -> "Figure":
    """Draw stem weights as bars.

    Args:
        frame: One row a stem, in a column `stem` and columns of weights.
        title: Title of the picture.

    Returns:
        The figure.
    """
    figure, axes = _new_figure(7.0, 3.8)
    _bars(axes, frame["stem"].tolist(), {str(c): (frame[c].to_numpy(), None) for c in frame.columns if c != "stem"})
    axes.set_title(title, fontsize=9)
    return figure


def plot_cross_validation(result: CrossValidation) -> "Figure":
    """Draw test agreement of every model, and the weights of the fits, over the splits.

    Args:
        result: A cross-validation.

    Returns:
        The figure: agreement on the left (all splits as dots, mean and standard deviation), weights on the right.
    """
    figure, (left, right) = _new_figure(11.0, 4.2, columns=2)
    fits = {
        model.name: (model.weights.mean(axis=0), model.weights.std(axis=0))
        for model in result.models
        if model.name in {"OLS", "ridge"} and model.weights is not None
    }
    colors = dict(zip(fits, _SERIES, strict=False))  # those of the bars
    rng = np.random.default_rng(0)
    shown = [model for model in result.models if not np.isnan(model.agreement[:, 0]).all()]
    for place, model in enumerate(reversed(shown)):
        values = 100.0 * model.agreement[:, 0]
        color = _ORANGE if model.weights is None else colors.get(model.name, _GREY)
        left.scatter(values, place + rng.uniform(-0.22, 0.22, len(values)), s=7, color=color, alpha=0.35, linewidths=0)
        mean, spread = np.nanmean(values), np.nanstd(values)
        left.errorbar(mean, place, xerr=spread, fmt="o", color=color, markersize=6, capsize=4, markeredgecolor="white")
        left.annotate(f"{mean:.1f} ± {spread:.1f}", (mean, place + 0.3), ha="center", fontsize=8)
    left.set_yticks(range(len(shown)), [model.name for model in reversed(shown)])
    left.set_ylim(-0.5, len(shown) - 0.3)
    left.set_xlabel("test agreement with listeners, %")
    _bars(right, result.stems, fits)
    right.set_title("weights, mean ± standard deviation", fontsize=9)
    figure.suptitle(
        f"{result.source}: {result.triplets} triplets, {len(result.test_size)} {result.kind} splits",
        fontsize=10,
        wrap=True,
    )
    return figure


def plot_intervals(intervals: Sequence[WeightIntervals], title: str) -> "Figure":
    """Draw the intervals of the weights, one row a stem and one line a method.

    Args:
        intervals: Of one stem layout, by different methods.
        title: Title of the picture.

    Returns:
        The figure; an interval without end is left out.
    """
    stems = intervals[0].stems
    figure, axes = _new_figure(7.0, 1.2 + 0.55 * len(stems))
    colors = (_BLUE, _GREEN, _ORANGE, _GREY)
    for index, one in enumerate(intervals):
        known = np.isfinite(one.lower) & np.isfinite(one.upper)
        places = np.arange(len(stems))[known] + (index - (len(intervals) - 1) / 2) * 0.7 / len(intervals)
        middle = one.estimate[known]
        reach = np.stack([middle - one.lower[known], one.upper[known] - middle]).clip(min=0.0)
        color = colors[index % len(colors)]
        axes.errorbar(
            middle, places, xerr=reach, fmt="o", color=color, markersize=4, capsize=3, lw=1.4, label=one.method
        )
    axes.set_yticks(range(len(stems)), list(stems))
    axes.set_ylim(len(stems) - 0.5, -0.5)  # the first stem on top
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_xlabel(f"weight, {100 * intervals[0].level:g} % interval")
    axes.set_title(title, fontsize=9)
    figure.legend(frameon=False, fontsize=8, ncols=len(intervals), loc="outside lower center")
    return figure


def plot_ridge_path(path: WeightPath, title: str) -> "Figure":
    """Draw ridge weights as functions of the penalty, and the leave-one-out error beside them.

    Args:
        path: Weights of all penalties, which are positive.
        title: Title of the picture.

    Returns:
        The figure; a line marks the penalty of least leave-one-out error.
    """
    figure, (left, right) = _new_figure(10.0, 3.8, columns=2)
    for index, stem in enumerate(path.stems):
        left.plot(path.alphas, path.weights[:, index], color=_STEM_COLORS[index % len(_STEM_COLORS)], label=stem)
    left.axhline(0.0, color="black", lw=0.8)
    left.set_ylabel("weight")
    figure.legend(frameon=False, fontsize=8, ncols=len(path.stems), loc="outside lower center")
    right.plot(path.alphas, path.left_out_error, color=_BLUE)
    right.set_ylabel("mean squared error on left-out triplets")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xlabel("ridge penalty alpha")
        panel.axvline(path.best_alpha, color=_GREY, lw=1.0, ls="--")
    figure.suptitle(f"{title}; dashed: least error, alpha = {path.best_alpha:.3g}", fontsize=10, wrap=True)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _new_figure(width: float, height: float, columns: int = 1) -> "tuple[Figure, Any]":
    """Return a figure outside pyplot (no global state, no display), and its axes or array of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for panel in np.atleast_1d(axes):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="both", alpha=0.2)
        panel.set_axisbelow(True)
    return figure, axes


def _bars(axes: "Axes", stems: Sequence[str], series: "Mapping[str, tuple[FloatArray, FloatArray | None]]") -> None:
    """Draw groups of bars, one group a stem and one bar a series of (heights, spreads)."""
    width = 0.8 / max(len(series), 1)
    for index, (name, (heights, spreads)) in enumerate(series.items()):
        places = np.arange(len(stems)) + (index - (len(series) - 1) / 2) * width
        axes.bar(
            places,
            heights,
            width,
            yerr=spreads,
            label=name,
            color=_SERIES[index % len(_SERIES)],
            error_kw={"lw": 1},
        )
    axes.set_xticks(range(len(stems)), list(stems), fontsize=9)
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_ylabel("weight")
    axes.legend(frameon=False, fontsize=8)
