"""Pictures of results."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stemsim.report.results import (
    CrossvalResults,
    FitResults,
    ModelResult,
    PenaltyResult,
    PerspectivesResults,
    QuestionResult,
    Results,
)
from stemsim.report.run_files import Run
from stemsim.report.style import CEILING_COLOR, GREY, SERIES_COLORS, STEM_COLORS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figures", "plot_run_weights", "save_figure", "svg_text"]

_MARKERS: Final = "osD^vPX"
_INK: Final = "#010203"  # becomes the colour of the page's text, which the reader's device chooses
_KIND_COLORS: Final = {"ceiling": CEILING_COLOR, "baseline": GREY, "fitted": SERIES_COLORS[0]}
_QUESTION_COLORS: Final = dict(zip(("overall", "timbre", "rhythm", "melody"), SERIES_COLORS, strict=False))


def figures(results: Results) -> "dict[str, Figure]":
    """Draw the results of a job.

    Args:
        results: Results of any job.

    Returns:
        Figures by the stem of their file's name; none for `validate` and `test`.
    """
    found: dict[str, Figure] = {}
    match results:
        case FitResults() if results.weights:
            found["fit"] = _fit(results)
        case CrossvalResults():
            found["crossval"] = _crossval(results)
            if any(math.isfinite(stem.lower) for stem in results.by_stem.values()):
                found["crossval_intervals"] = _intervals(results)
            if results.penalty is not None:
                found["crossval_ridge_path"] = _ridge_path(results, results.penalty)
        case PerspectivesResults():
            found["perspectives"] = _perspectives(results)
    return found


@dataclass(frozen=True, slots=True)
class _Series:
    """Weights of one model, with spread (thick) and interval (thin); without a colour, every stem has its own."""

    label: str
    weights: Mapping[str, float]
    marker: str = "o"
    color: str | None = None
    spread: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def _draw_series(axes: "Axes", stems: Sequence[str], series: Sequence[_Series], ink: str = "black") -> None:
    """Draw weights, one row for each stem; the first stem is on top."""
    for index, one in enumerate(series):
        offset = _offset(index, len(series))
        for stem, weight in one.weights.items():
            place, color = stems.index(stem) + offset, one.color or STEM_COLORS.get(stem, GREY)
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
    axes.set_yticks(range(len(stems)), stems, color=ink)
    axes.set_ylim(len(stems) - 0.5, -0.5)
    axes.axvline(0.0, color=ink, lw=0.8)
    axes.grid(visible=False, axis="y")
    for row in range(len(stems) - 1):
        axes.axhline(row + 0.5, color=ink, lw=0.4, alpha=0.25)
    axes.set_xlabel("weight", color=ink)


def _offset(index: int, count: int) -> float:
    """Return the place of one of several series within the row of a stem."""
    return (index - (count - 1) / 2) * 0.8 / count


def _fit(results: FitResults) -> "Figure":
    """Draw fitted weights beside exact and true ones."""
    stems = list(results.weights)
    figure, axes = new_figure(7.0, 1.4 + 0.45 * len(stems))
    series = [_Series(name, column, mark) for (name, column), mark in zip(results.columns.items(), "oXD", strict=False)]
    _draw_series(axes, stems, series)
    axes.set_title(f"{results.method}, {results.triplets} triplets\n{results.source}", fontsize=9, wrap=True)
    figure.legend(frameon=False, fontsize=8, ncols=len(series), loc="outside lower center")
    return figure


def _crossval(results: CrossvalResults) -> "Figure":
    """Draw test agreement of every model over all splits on the left, and the weights of OLS and ridge on the right."""
    shown = [model for model in results.models if not math.isnan(model.agreement["all"].mean)][::-1]
    figure, (left, right) = new_figure(11.0, max(1.4 + 0.42 * len(shown), 1.6 + 0.4 * len(results.stems)), columns=2)
    rng = np.random.default_rng(0)
    for place, model in enumerate(shown):
        values, color, score = 100.0 * np.array(model.by_split), _KIND_COLORS[model.kind], model.agreement["all"]
        left.scatter(values, place + rng.uniform(-0.22, 0.22, len(values)), s=7, color=color, alpha=0.35, linewidths=0)
        _mark_agreement(left, score.mean, score.std, place, color, place + 0.28)
    left.set_yticks(range(len(shown)), [model.name.replace("$", r"\$") for model in shown])
    left.set_ylim(-0.5, len(shown) - 0.2)
    left.set_xlabel("test agreement with listeners, %")
    fits = [model for model in results.models if model.name in {"OLS", "ridge"}]
    _draw_series(right, results.stems, [_scored(model, mark) for model, mark in zip(fits, _MARKERS, strict=False)])
    right.set_title("weights, mean ± standard deviation", fontsize=9)
    right.legend(frameon=False, fontsize=8)
    title = f"{results.source}: {results.triplets} triplets, {results.splits.count} {results.splits.kind} splits"
    figure.suptitle(title, fontsize=10, wrap=True)
    return figure


def _mark_agreement(
    axes: "Axes", mean: float, std: float, place: float, color: str, above: float, what: str = ""
) -> None:
    """Mark an agreement with its standard deviation, and write both beside it."""
    behind = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}
    axes.errorbar(100 * mean, place, xerr=100 * std, fmt="o", color=color, ms=6, capsize=4, mec="white")
    axes.annotate(
        f"{what}{100 * mean:.1f} ± {100 * std:.1f}", (100 * mean, above), ha="center", fontsize=7.5, bbox=behind
    )


def _scored(model: ModelResult, marker: str, **style: Any) -> _Series:
    """Return the weights of a model with their spread over the splits."""
    means, spread = ({stem: getattr(one, key) for stem, one in model.weights.items()} for key in ("mean", "std"))
    return _Series(**{"label": model.name, **style}, weights=means, marker=marker, spread=spread)


def _intervals(results: CrossvalResults) -> "Figure":
    """Draw the interval of each weight on all triplets."""
    figure, axes = new_figure(7.0, 1.2 + 0.4 * len(results.stems))
    weights = {stem: row.weight for stem, row in results.by_stem.items()}
    _draw_series(axes, results.stems, [_Series("OLS", weights, intervals=_ends(results))])
    axes.set_xlabel(f"weight on all triplets, {100 * results.level:g} % interval, {results.interval_method}")
    axes.set_title(results.source, fontsize=9, wrap=True)
    return figure


def _ends(results: CrossvalResults) -> dict[str, tuple[float, float]]:
    return {stem: (row.lower, row.upper) for stem, row in results.by_stem.items()}


def _ridge_path(results: CrossvalResults, penalty: PenaltyResult) -> "Figure":
    """Draw ridge weights as functions of the penalty, and the leave-one-out error beside them."""
    figure, (left, right) = new_figure(10.0, 3.8, columns=2)
    for stem, weights in zip(results.stems, zip(*penalty.weights, strict=True), strict=True):
        left.plot(penalty.alphas, weights, color=STEM_COLORS[stem], label=stem)
    left.axhline(0.0, color="black", lw=0.8)
    left.set_ylabel("weight")
    figure.legend(frameon=False, fontsize=8, ncols=len(results.stems), loc="outside lower center")
    right.plot(penalty.alphas, penalty.left_out_error, color=SERIES_COLORS[0])
    right.set_ylabel("mean squared error, leave-one-out")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xlabel("ridge penalty alpha")
        panel.axvline(penalty.best_alpha, color=GREY, lw=1.0, ls="--")
    title = f"Ridge on all triplets: {results.source}; dashed: least error, alpha = {penalty.best_alpha:.3g}"
    figure.suptitle(title, fontsize=10, wrap=True)
    return figure


def _perspectives(results: PerspectivesResults) -> "Figure":
    """Draw the part of each stem by question on the left, and test agreement beside the ceiling on the right."""
    height = 1.6 + 0.6 * max(len(results.stems), len(results.questions))
    figure, (left, right) = new_figure(11.0, height, columns=2, width_ratios=[3, 2])
    series = []
    for question, fit in results.questions.items():
        parts = {stem: row.part for stem, row in fit.by_stem.items() if math.isfinite(row.standard_error)}
        ends = {stem: (row.lower, row.upper) for stem, row in fit.by_stem.items()}
        series.append(_Series(question, parts, color=_QUESTION_COLORS[question], intervals=ends))
    _draw_series(left, results.stems, series)
    if results.simulated:
        for index, fit in enumerate(results.questions.values()):
            places = np.arange(len(results.stems)) + _offset(index, len(series))
            truths = [row.true_part for row in fit.by_stem.values()]
            label = "true (simulated)" if index == 0 else None
            left.plot(truths, places, "x", ms=5, color="black", zorder=3, label=label)
    left.set_xlabel(f"part in the preference, {100 * results.level:g} % interval")
    left.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _draw_questions(right, results.questions)
    figure.suptitle(results.source, fontsize=10, wrap=True)
    return figure


def _draw_questions(axes: "Axes", questions: Mapping[str, QuestionResult]) -> None:
    """Draw test agreement by question: ridge, the mix alone, and the ceiling."""
    for place, (question, fit) in enumerate(questions.items()):
        scores = {model.slug: model.agreement["all"] for model in fit.models}
        for slug, offset, color in (("ridge", -0.14, _QUESTION_COLORS[question]), ("mix_cosine", 0.2, GREY)):
            if slug in scores:
                name = f"{slug.replace('_', ' ')} "
                mean, std = scores[slug].mean, scores[slug].std
                _mark_agreement(axes, mean, std, place + offset, color, place + offset - 0.08, name)
        if math.isfinite(ceiling := scores["ceiling"].mean):
            axes.vlines(100 * ceiling, place - 0.4, place + 0.4, color="black", lw=1.2, ls="--")
    axes.margins(x=0.2)  # room for the text
    axes.set_yticks(range(len(questions)), [f"{name}\n{fit.triplets} triplets" for name, fit in questions.items()])
    axes.set_ylim(len(questions) - 0.5, -0.5)
    axes.set_xlabel("test agreement with the majority on the question, %")
    axes.set_title("dashed: ceiling, one listener with the others", fontsize=8)


def plot_run_weights(runs: Sequence[Run], *, ink: str = "black") -> "Figure | None":
    """Draw the fitted weights of all runs, one row for each stem.

    Args:
        runs: The runs.
        ink: Colour of text and axes.

    Returns:
        Every fitted model of a cross-validation with its standard deviation over the splits (thick) and, for OLS, the
        interval of the weights on all triplets (thin); the weights of `fit` where a run has no cross-validation. None
        if no run has weights.
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
    _draw_series(axes, stems, series, ink)
    axes.tick_params(colors=ink)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(ink)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center", labelcolor=ink)
    return figure


def _run_series(run: Run, color: str) -> list[_Series]:
    if run.crossval is None:
        weights = {} if run.fit is None else run.fit.weights
        return [_Series(f"{run.name}: fit", weights, "*", color)] if weights else []
    fitted = [model for model in run.crossval.models if model.kind == "fitted" and model.weights]
    ends = _ends(run.crossval)
    return [
        _scored(
            model,
            marker,
            label=f"{run.name}: {model.name}",
            color=color,
            intervals=ends if model.name == "OLS" else {},
        )
        for model, marker in zip(fitted, cycle(_MARKERS), strict=False)
    ]


def svg_text(runs: Sequence[Run]) -> str | None:
    """Return `plot_run_weights` as an `<svg>` element in the text colour of the page around it."""
    figure = plot_run_weights(runs, ink=_INK)
    if figure is None:
        return None
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "stemsim"}):  # text stays text; the same ids every time
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue().replace(_INK, "currentColor")
    return text[text.index("<svg") :]  # without the document type, which names an address
