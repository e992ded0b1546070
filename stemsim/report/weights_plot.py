"""The weights of several runs in one picture."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stemsim.evaluation.run_results import RunResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_run_weights", "svg_text"]

_COLORS: Final = ("#2f6fb0", "#d9822b", "#3c8d5a", "#b5484b", "#7b5ea7", "#8a6d4b", "#5f7d8c")
_MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X")
_INK: Final = "#010203"  # becomes the colour of the page's text, which the reader's device chooses


@dataclass(frozen=True, slots=True)
class _Series:
    label: str
    color: str
    marker: str
    weights: dict[str, tuple[float, float]]  # by stem: weight, standard deviation
    intervals: dict[str, tuple[float, float]]


def plot_run_weights(runs: Sequence[RunResults], *, ink: str = "black") -> "Figure | None":
    """Draw the fitted weights of all runs, a row for each stem.

    Args:
        runs: What the runs found.
        ink: Colour of text and axes.

    Returns:
        Every fitted model of a cross-validation with its standard deviation over the splits (thick) and the 95 %
        interval of OLS (thin); where a run has no cross-validation, the weights of `fit`. None if no run has weights.
    """
    series = [one for index, run in enumerate(runs) for one in _series(run, _COLORS[index % len(_COLORS)])]
    if not series:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stems = _stems(series)
    rows = -(-len(series) // 2)  # of the legend
    figure = Figure(figsize=(7.5, 1.0 + len(stems) * (0.25 + 0.16 * len(series)) + 0.22 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    for place, one in enumerate(series):
        _draw(axes, one, stems, (place - (len(series) - 1) / 2) * 0.8 / len(series))
    axes.set_yticks(range(len(stems)), stems, color=ink)
    axes.set_ylim(len(stems) - 0.5, -0.5)  # the first stem on top
    axes.axvline(0.0, color=ink, lw=0.8)
    for row in range(len(stems) - 1):
        axes.axhline(row + 0.5, color=ink, lw=0.4, alpha=0.3)
    axes.set_xlabel("weight", color=ink)
    axes.tick_params(colors=ink)
    axes.patch.set_alpha(0.0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(ink)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center", labelcolor=ink)
    return figure


def svg_text(runs: Sequence[RunResults]) -> str | None:
    """Return the same picture as an `<svg>` element that takes the text colour of the page around it."""
    figure = plot_run_weights(runs, ink=_INK)
    if figure is None:
        return None
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "stemsim"}):  # text stays text; the same ids every time
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue().replace(_INK, "currentColor")
    return text[text.index("<svg") :]  # without the document type, which names an address


def _series(run: RunResults, color: str) -> list[_Series]:
    if run.crossval is None:
        fitted = {} if run.fit is None else {stem: (weight, math.nan) for stem, weight in run.fit.weights.items()}
        return [_Series(f"{run.name}: fit", color, "*", fitted, {})] if fitted else []
    models = [model for model in run.crossval.models if model.is_fitted]
    return [
        _Series(
            f"{run.name}: {model.name}",
            color,
            _MARKERS[index % len(_MARKERS)],
            {stem: (score.mean, score.std) for stem, score in model.weights.items()},
            dict(run.crossval.intervals) if model.name == "OLS" else {},
        )
        for index, model in enumerate(models)
    ]


def _stems(series: Sequence[_Series]) -> list[str]:
    """Return the stems of all series; the mix, which all have, last."""
    stems = dict.fromkeys(stem for one in series for stem in one.weights)
    return sorted(stems, key=lambda stem: stem == "mix")


def _draw(axes: "Axes", one: _Series, stems: Sequence[str], offset: float) -> None:
    label = one.label.replace("$", r"\$")  # no formula
    label = f" {label}" if label.startswith("_") else label  # which matplotlib would hide
    for stem, (weight, spread) in one.weights.items():
        place = stems.index(stem) + offset
        if stem in one.intervals and all(map(math.isfinite, one.intervals[stem])):
            axes.plot(one.intervals[stem], [place, place], color=one.color, lw=0.9, alpha=0.8)
        if math.isfinite(spread):
            axes.plot([weight - spread, weight + spread], [place, place], color=one.color, lw=3.0, alpha=0.55)
        axes.plot([weight], [place], one.marker, color=one.color, ms=5, mec="white", mew=0.5, ls="none", label=label)
        label = "_nolegend_"
