"""Pictures of results."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stemsim.analysis.penalty import WeightPath
from stemsim.report.results import (
    CrossvalResults,
    FitResults,
    ModelResult,
    PerspectivesResults,
    QuestionResult,
    Results,
    Score,
)
from stemsim.report.run_files import Run
from stemsim.report.style import CEILING_COLOR, GREY, LEGEND, SERIES_COLORS, new_figure
from stemsim.stems import STEM_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figures", "plot_run_weights", "svg_text"]

_MARKERS: Final = "osD^vPX"
_INK: Final = "#010203"  # becomes the colour of the page's text, which the reader's device chooses
_KIND_COLORS: Final = {"ceiling": CEILING_COLOR, "baseline": GREY, "fitted": SERIES_COLORS[0]}
_QUESTION_COLORS: Final = dict(zip(("overall", "timbre", "rhythm", "melody"), SERIES_COLORS, strict=False))


def figures(results: Results) -> "dict[str, Figure]":
    """Draw the results of a job: figures by the stem of their file's name, none for `validate` and `test`."""
    match results:
        case FitResults() if results.weights:
            return {"fit": _fit(results)}
        case CrossvalResults():
            found = {"crossval": _crossval(results)}
            if results.has_intervals:
                found["crossval_intervals"] = _intervals(results)
            if results.penalty is not None:
                found["crossval_ridge_path"] = _ridge_path(results, results.penalty)
            return found
        case PerspectivesResults():
            return {"perspectives": _perspectives(results)}
    return {}


@dataclass(frozen=True, slots=True)
class _Series:
    """Weights of one model, with spread (thick) and interval (thin); without a colour, every stem has its own."""

    label: str
    weights: Mapping[str, float]
    marker: str = "o"
    color: str | None = None
    spread: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelResult, marker: str, **others: Any) -> "_Series":
        """Return the weights of a model with their spread over the splits."""
        means, spread = ({stem: getattr(one, key) for stem, one in model.weights.items()} for key in ("mean", "std"))
        return cls(**{"label": model.name, **others}, weights=means, marker=marker, spread=spread)


def _draw_series(axes: "Axes", stems: Sequence[str], series: Sequence[_Series]) -> None:
    """Draw weights, one row for each stem; the first stem is on top."""
    from matplotlib import rcParams

    ink = rcParams["text.color"]
    for index, one in enumerate(series):
        for stem, weight in one.weights.items():
            place, color = stems.index(stem) + _offset(index, len(series)), one.color or STEM_COLORS.get(stem, GREY)
            ends = one.intervals.get(stem, (math.nan, math.nan))
            if all(map(math.isfinite, ends)):
                axes.plot(ends, [place, place], color=color, lw=1.0, marker="|", ms=5)
            if math.isfinite(spread := one.spread.get(stem, math.nan)):
                axes.plot([weight - spread, weight + spread], [place, place], color=color, lw=3.5, alpha=0.5)
            axes.plot([weight], [place], one.marker, color=color, ms=5.5, mec="white", mew=0.5)
        # The label is escaped: a dollar would begin a formula, and an underscore hides an entry.
        label = one.label.replace("$", r"\$")
        label = f" {label}" if label.startswith("_") else label
        axes.plot([], [], one.marker, color=one.color or GREY, ms=5.5, ls="none", label=label)
    axes.set_yticks(range(len(stems)), stems)
    axes.set_ylim(len(stems) - 0.5, -0.5)
    axes.axvline(0.0, color=ink, lw=0.8)
    axes.grid(visible=False, axis="y")
    for row in range(len(stems) - 1):
        axes.axhline(row + 0.5, color=ink, lw=0.4, alpha=0.25)
    axes.set_xlabel("weight")


def _offset(index: int, count: int) -> float:
    """Return the place of one of several series within the row of a stem."""
    return (index - (count - 1) / 2) * 0.8 / count


def _fit(results: FitResults) -> "Figure":
    """Draw fitted weights beside exact and true ones."""
    stems = list(results.weights)
    title = f"{results.method}, {results.triplets} triplets\n{results.source}"
    figure, axes = new_figure(7.0, 1.4 + 0.45 * len(stems), title=title)
    series = [_Series(name, column, mark) for (name, column), mark in zip(results.columns.items(), "oXD", strict=False)]
    _draw_series(axes, stems, series)
    figure.legend(**LEGEND, ncols=len(series), loc="outside lower center")
    return figure


def _crossval(results: CrossvalResults) -> "Figure":
    """Draw test agreement of every model over all splits on the left, and the weights of OLS and ridge on the right."""
    shown = [model for model in results.models if not math.isnan(model.agreement["all"].mean)][::-1]
    title = f"{results.source}: {results.triplets} triplets, {results.splits.count} {results.splits.kind} splits"
    height = max(1.4 + 0.42 * len(shown), 1.6 + 0.4 * len(results.stems))
    figure, (left, right) = new_figure(11.0, height, columns=2, title=title)
    rng = np.random.default_rng(0)
    for place, model in enumerate(shown):
        values, color = 100.0 * np.array(model.by_split), _KIND_COLORS[model.kind]
        left.scatter(values, place + rng.uniform(-0.22, 0.22, len(values)), s=7, color=color, alpha=0.35, linewidths=0)
        _mark_agreement(left, model.agreement["all"], place, color, place + 0.28)
    left.set_yticks(range(len(shown)), [model.name.replace("$", r"\$") for model in shown])
    left.set_ylim(-0.5, len(shown) - 0.2)
    left.set_xlabel("test agreement with listeners, %")
    fits = [model for model in results.models if model.name in {"OLS", "ridge"}]
    _draw_series(right, results.stems, list(map(_Series.of, fits, _MARKERS)))
    right.set_title("weights, mean ± standard deviation", fontsize=9)
    right.legend(**LEGEND)
    return figure


def _mark_agreement(axes: "Axes", score: Score, place: float, color: str, above: float, name: str = "") -> None:
    """Mark an agreement with its standard deviation, and write both beside it."""
    behind = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}
    mean = 100 * score.mean
    axes.errorbar(mean, place, xerr=100 * score.std, fmt="o", color=color, ms=6, capsize=4, mec="white")
    axes.annotate(f"{name}{score.percent}", (mean, above), ha="center", fontsize=7.5, bbox=behind)


def _intervals(results: CrossvalResults) -> "Figure":
    """Draw the interval of each weight on all triplets."""
    figure, axes = new_figure(7.0, 1.2 + 0.4 * len(results.stems), title=results.source)
    weights = {stem: row.weight for stem, row in results.by_stem.items()}
    _draw_series(axes, results.stems, [_Series("OLS", weights, intervals=_ends(results))])
    axes.set_xlabel(f"weight on all triplets, {100 * results.level:g} % interval, {results.interval_method}")
    return figure


def _ends(results: CrossvalResults | QuestionResult) -> dict[str, tuple[float, float]]:
    return {stem: (row.lower, row.upper) for stem, row in results.by_stem.items()}


def _ridge_path(results: CrossvalResults, penalty: WeightPath) -> "Figure":
    """Draw ridge weights as functions of the penalty, and the leave-one-out error beside them."""
    title = f"Ridge on all triplets: {results.source}; dashed: least error, alpha = {penalty.best_alpha:.3g}"
    figure, (left, right) = new_figure(10.0, 3.8, columns=2, title=title)
    for stem, weights in zip(results.stems, zip(*penalty.weights, strict=True), strict=True):
        left.plot(penalty.alphas, weights, color=STEM_COLORS[stem], label=stem)
    left.axhline(0.0, color="black", lw=0.8)
    left.set_ylabel("weight")
    figure.legend(**LEGEND, ncols=len(results.stems), loc="outside lower center")
    right.plot(penalty.alphas, penalty.left_out_error, color=SERIES_COLORS[0])
    right.set_ylabel("mean squared error, leave-one-out")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xlabel("ridge penalty alpha")
        panel.axvline(penalty.best_alpha, color=GREY, lw=1.0, ls="--")
    return figure


def _perspectives(results: PerspectivesResults) -> "Figure":
    """Draw the part of each stem by question on the left, and test agreement beside the ceiling on the right."""
    stems, questions = results.stems, results.questions
    height = 1.6 + 0.6 * max(len(stems), len(questions))
    figure, (left, right) = new_figure(11.0, height, columns=2, title=results.source, width_ratios=[3, 2])
    series = []
    for question, fit in questions.items():
        parts = {stem: row.part for stem, row in fit.by_stem.items() if math.isfinite(row.standard_error)}
        series.append(_Series(question, parts, color=_QUESTION_COLORS[question], intervals=_ends(fit)))
    _draw_series(left, stems, series)
    if results.simulated:
        for index, fit in enumerate(questions.values()):
            places = np.arange(len(stems)) + _offset(index, len(series))
            truths = [row.true_part for row in fit.by_stem.values()]
            label = None if index else "true (simulated)"
            left.plot(truths, places, "x", ms=5, color="black", zorder=3, label=label)
    left.set_xlabel(f"part in the preference, {100 * results.level:g} % interval")
    left.legend(**LEGEND, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for place, (question, fit) in enumerate(questions.items()):
        scores = {model.slug: model.agreement["all"] for model in fit.models}
        for slug, offset, color in (("ridge", -0.14, _QUESTION_COLORS[question]), ("mix_cosine", 0.2, GREY)):
            if slug in scores:
                name = f"{slug.replace('_', ' ')} "
                _mark_agreement(right, scores[slug], place + offset, color, place + offset - 0.08, name)
        if math.isfinite(ceiling := scores["ceiling"].mean):
            right.vlines(100 * ceiling, place - 0.4, place + 0.4, color="black", lw=1.2, ls="--")
    right.margins(x=0.2)  # room for the text
    right.set_yticks(range(len(questions)), [f"{name}\n{fit.triplets} triplets" for name, fit in questions.items()])
    right.set_ylim(len(questions) - 0.5, -0.5)
    right.set_xlabel("test agreement with the majority on the question, %")
    right.set_title("dashed: ceiling, one listener with the others", fontsize=8)
    return figure


def plot_run_weights(runs: Sequence[Run]) -> "Figure | None":
    """Draw the fitted weights of all runs, one row for each stem; None if no run has weights.

    Drawn are OLS, ridge and its variants of each cross-validation, whose weights share the scale of the target, with
    their standard deviations over the splits (thick) and, for OLS, the interval of the weights on all triplets (thin);
    the weights of `fit` where a run has no cross-validation.
    """
    series = [one for run, color in zip(runs, cycle(SERIES_COLORS), strict=False) for one in _run_series(run, color)]
    if not series:
        return None
    # The mix, which all layouts have, comes last.
    stems = sorted(dict.fromkeys(stem for one in series for stem in one.weights), key=lambda stem: stem == "mix")
    rows = -(-len(series) // 2)  # of the legend
    figure, axes = new_figure(7.5, 1.0 + len(stems) * (0.25 + 0.14 * len(series)) + 0.22 * rows)
    for patch in (figure.patch, axes.patch):
        patch.set_alpha(0.0)
    _draw_series(axes, stems, series)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.legend(**LEGEND, ncols=2, loc="outside lower center")
    return figure


def _run_series(run: Run, color: str) -> list[_Series]:
    if run.crossval is None:
        weights = {} if run.fit is None else run.fit.weights
        return [_Series(f"{run.name}: fit", weights, "*", color)] if weights else []
    fitted = [model for model in run.crossval.models if model.weights and model.name.startswith(("OLS", "ridge"))]
    ends = {"OLS": _ends(run.crossval)}
    return [
        _Series.of(model, marker, label=f"{run.name}: {model.name}", color=color, intervals=ends.get(model.name, {}))
        for model, marker in zip(fitted, cycle(_MARKERS), strict=False)
    ]


def svg_text(runs: Sequence[Run]) -> str | None:
    """Return `plot_run_weights` as an `<svg>` element in the text colour of the page around it."""
    from matplotlib import rc_context

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "stemsim", **dict.fromkeys(inked, _INK)}
    with rc_context(style):  # text stays text, and the ids are the same every time
        figure, file = plot_run_weights(runs), io.StringIO()
        if figure is None:
            return None
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue().replace(_INK, "currentColor")
    return text[text.index("<svg") :]  # without the document type, which names an address
