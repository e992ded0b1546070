"""The picture of the study. Matplotlib is imported when it is drawn."""

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from stemsim.evaluation.study.needed import CLOSE
from stemsim.evaluation.study.run import Findings
from stemsim.evaluation.study.verdicts import COVERED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_study"]

_BLUE, _GREY, _GREEN, _ORANGE, _RED, _VIOLET = "#2f6fb0", "#8a949e", "#3c8d5a", "#d9822b", "#b5484b", "#7b5ea7"
_MODELS: Final = {"OLS": _BLUE, "ridge": _ORANGE, "prior-ridge": _GREEN, "wrong prior": _RED}
_NOISES: Final = (_GREEN, _BLUE, _VIOLET, _ORANGE, _RED)
_TRUTHS: Final = (_GREY, _BLUE, _ORANGE)
_STYLES: Final = ("-", "--", ":", "-.")
_METHODS: Final = (_BLUE, _GREEN, _ORANGE, _GREY)


def plot_study(study: Findings) -> "Figure":
    """Draw the study in four panels.

    Args:
        study: What was found.

    Returns:
        The figure: weight error, agreement, coverage of the intervals, and what a nonlinear fusion gains.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    (error, agreement), (covered, fusion) = figure.subplots(2, 2)
    for panel in (error, agreement, covered, fusion):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2)
        panel.set_axisbelow(True)
    _draw_error(error, study)
    _draw_agreement(agreement, study)
    _draw_coverage(covered, study.coverage)
    _draw_fusion(fusion, study)
    return figure


def _held(study: Findings) -> pd.DataFrame:
    """Return the figures with the votes and the noise that are held."""
    rows, settings = study.weights, study.settings
    return rows[(rows["votes"] == settings.reference[1]) & (rows["noise"] == settings.listeners.noise)]


def _draw_error(axes: "Axes", study: Findings) -> None:
    rows, settings = _held(study), study.settings
    for model, color in _MODELS.items():
        one = rows[rows["model"] == model]
        style = "--" if model == "wrong prior" else "-"
        label = "prior-ridge, wrong prior" if model == "wrong prior" else model
        axes.plot(one["triplets"], one["angle"], style, color=color, lw=1.8, label=label)
        if style == "-":
            axes.fill_between(one["triplets"], one["angle_lower"], one["angle_upper"], color=color, alpha=0.13, lw=0)
    held_noise = study.weights["noise"] == settings.listeners.noise
    for votes in {settings.votes[0], settings.votes[-1]} - {settings.reference[1]}:
        one = study.weights[held_noise & (study.weights["votes"] == votes) & (study.weights["model"] == "ridge")]
        axes.plot(one["triplets"], one["angle"], ":", color=_ORANGE, lw=1.3)
        name = f"{votes} vote{'s' if votes > 1 else ''}"
        place = len(one) // 2
        axes.annotate(
            f"ridge, {name}",
            (one["triplets"].iloc[place], one["angle"].iloc[place]),
            xytext=(4, 6) if votes < settings.reference[1] else (-4, -12),
            textcoords="offset points",
            ha="left" if votes < settings.reference[1] else "right",
            fontsize=7.5,
            color=_ORANGE,
        )
    axes.axhline(CLOSE, color="black", lw=0.8, ls=(0, (4, 3)))
    axes.axhline(study.limit, color=_GREY, lw=0.8)
    axes.annotate("endless triplets", (settings.triplets[0], study.limit), fontsize=7.5, color=_GREY, va="bottom")
    _triplet_axis(axes, settings.triplets)
    axes.set_ylim(0.0, None)
    axes.set_ylabel("angle to the true weights, degrees")
    axes.set_title(f"Weights: median and quartiles, {settings.reference[1]} votes a triplet", fontsize=9.5)
    axes.legend(frameon=False, fontsize=8)


def _draw_agreement(axes: "Axes", study: Findings) -> None:
    settings = study.settings
    rows = study.weights[study.weights["votes"] == settings.reference[1]]
    for index, noise in enumerate(settings.noises):
        color = _NOISES[index % len(_NOISES)]
        every = rows[rows["noise"] == noise]
        one = every[every["model"] == "ridge"]
        value, error = 100.0 * one["agreement"], 100.0 * one["agreement_std"] / np.sqrt(settings.experiments)
        axes.errorbar(one["triplets"], value, yerr=error, color=color, lw=1.8, elinewidth=1.0, label=f"noise {noise:g}")
        for model, style in (("true weights", "--"), ("simulated ceiling", ":")):
            axes.axhline(100.0 * every.loc[every["model"] == model, "agreement"].iloc[0], color=color, lw=1.2, ls=style)
    for style, label in (("-", "ridge ± standard error"), ("--", "true weights"), (":", "one listener (ceiling)")):
        axes.plot([], [], style, color="black", lw=1.3, label=label)
    _make_room(axes)
    _triplet_axis(axes, settings.triplets)
    axes.set_ylabel("agreement with held-out majorities, %")
    axes.set_title(f"Agreement on songs never heard, {settings.reference[1]} votes a triplet", fontsize=9.5)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center")


def _draw_coverage(axes: "Axes", coverage: pd.DataFrame) -> None:
    """Draw a row for each case and a dot with its interval for each method; small dots are single stems."""
    methods = list(dict.fromkeys(coverage["method"]))
    cases = list(dict.fromkeys(zip(coverage["triplets"], coverage["songs"], strict=True)))
    axes.axvspan(100 * COVERED[0], 100 * COVERED[1], color=_GREEN, alpha=0.12, lw=0)
    axes.axvline(95.0, color="black", lw=0.8)
    for index, method in enumerate(methods):
        color = _METHODS[index % len(_METHODS)]
        for row, (triplets, songs) in enumerate(cases):
            chosen = coverage[
                (coverage["method"] == method) & (coverage["triplets"] == triplets) & (coverage["songs"] == songs)
            ]
            place = row + (index - (len(methods) - 1) / 2) * 0.72 / len(methods)
            stems, every = chosen[chosen["stem"] != "all"], chosen[chosen["stem"] == "all"].iloc[0]
            axes.scatter(100 * stems["covered"], [place] * len(stems), s=6, color=color, alpha=0.35, lw=0)
            value = 100 * every["covered"]
            reach = [[value - 100 * every["lower"]], [100 * every["upper"] - value]]
            label = method if row == 0 else None
            axes.errorbar(value, place, xerr=reach, fmt="o", ms=4.5, capsize=2.5, lw=1.4, color=color, label=label)
    axes.set_yticks(range(len(cases)), [f"{triplets} triplets\n{songs} songs" for triplets, songs in cases], fontsize=8)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_xlabel("experiments whose interval holds the weight, %")
    experiments = int(coverage["experiments"].min())
    axes.set_title(f"Coverage of 95 % intervals, {experiments} experiments each", fontsize=9.5)
    axes.legend(frameon=False, fontsize=7.5, loc="lower left")


def _draw_fusion(axes: "Axes", study: Findings) -> None:
    """Draw a line for each truth and fusion; dots are filled where the paired test mostly finds the gain."""
    rows = study.fusion
    fusions, truths = list(dict.fromkeys(rows["fusion"])), list(dict.fromkeys(rows["truth"]))
    for number, truth in enumerate(truths):
        color = _TRUTHS[number % len(_TRUTHS)]
        for index, name in enumerate(fusions):
            one = rows[(rows["truth"] == truth) & (rows["fusion"] == name)]
            place = one["triplets"] * 1.045 ** (number * len(fusions) + index - (len(truths) * len(fusions) - 1) / 2)
            gain = 100 * one["gain"]
            reach = [gain - 100 * one["lower"], 100 * one["upper"] - gain]
            style = _STYLES[index % len(_STYLES)]
            axes.errorbar(place, gain, yerr=reach, ls=style, color=color, lw=1.5, elinewidth=0.9, capsize=2)
            for found in (True, False):
                chosen = (one["better"] > 0.5) == found  # noqa: PLR2004 - more often than not
                face = color if found else "white"
                axes.plot(place[chosen], gain[chosen], "o", ms=5, color=color, markerfacecolor=face)
        axes.plot([], [], color=color, lw=1.5, label=f"{truth} listeners")
    for index, name in enumerate(fusions):
        axes.plot([], [], ls=_STYLES[index % len(_STYLES)], color="black", lw=1.2, label=name)
    axes.plot([], [], "o", ms=5, color="black", ls="", label="found in most experiments")
    axes.axhline(0.0, color="black", lw=0.8)
    _make_room(axes)
    _triplet_axis(axes, study.settings.fusion_triplets)
    axes.set_ylabel("gain over ridge in agreement, points")
    axes.set_title("Nonlinear fusions: mean and 95 % interval", fontsize=9.5)
    axes.legend(frameon=False, fontsize=7.5, ncols=2, loc="lower center")


def _make_room(axes: "Axes") -> None:
    """Make room for a legend below what is drawn."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.35 * (top - bottom), top)


def _triplet_axis(axes: "Axes", triplets: tuple[int, ...]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(list(triplets), [str(count) for count in triplets], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("triplets")
