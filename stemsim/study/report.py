"""Reports of the study: tables and sentences as Markdown, a picture, and the figures as JSON and CSV."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from stemsim.report.style import GREY, SERIES_COLORS, new_figure, save_figure
from stemsim.study.experiments import CLOSE, FITTED, Findings, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["sentences", "tables", "write_study"]

Row = pd.Series[Any] if TYPE_CHECKING else pd.Series

_COVERED: Final = (0.93, 0.97)  # acceptable coverage of a nominal 95 % interval
_ENOUGH: Final = 500  # experiments: the standard error of a coverage is one point then
_MOSTLY: Final = 0.5
_STYLES: Final = ("-", "--", ":", "-.")


def write_study(findings: Findings, folder: Path) -> list[Path]:
    """Write study.json, study.md, study.png and one CSV file for each kind of figures, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("study.json", "study.md", *(f"study_{name}.csv" for name in findings.frames), "study.png")
    document, text, *csv_files, picture = written = [folder / name for name in names]
    figures = {
        "settings": {**asdict(findings.settings), "reference": findings.settings.held},
        "verdicts": sentences(findings),
        "angle_with_unlimited_triplets": findings.limit,
        **{name: json.loads(frame.to_json(orient="records")) for name, frame in findings.frames.items()},
    }
    document.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    bullets = "".join(f"- {sentence}\n" for sentence in sentences(findings))
    text.write_text(f"# Simulated truth\n\n{bullets}\n{tables(findings)}", encoding="utf-8")
    for path, frame in zip(csv_files, findings.frames.values(), strict=True):
        frame.to_csv(path, index=False)
    _plot(findings, picture)
    return written


def tables(findings: Findings) -> str:
    """Return the figures as Markdown tables."""
    held, frames, weights = findings.settings.held, findings.frames, _held(findings.frames["weights"], findings)
    given = f"by number of triplets; {_votes(held.votes)} per triplet, noise {held.noise:g}"
    needed = frames["needed"][frames["needed"]["model"] == "ridge"]
    cases = frames["coverage"].groupby(["triplets", "songs"], sort=False)
    fusion = frames["fusion"].assign(listeners=frames["fusion"]["truth"] + ": " + frames["fusion"]["fusion"])
    parts = [
        f"## Angle to the true weights in degrees, median (quartiles), {given}\n\n",
        _pivot(
            weights[weights["model"].isin(FITTED)].rename(columns={"model": "method"}),
            *("method", "triplets"),
            lambda row: f"{row['angle']:.1f} ({row['angle_lower']:.0f}-{row['angle_upper']:.0f})",
        ),
        f"\n## Agreement with held-out majorities in %, mean ± standard deviation, {given}\n\n",
        _pivot(
            weights[weights["agreement"].notna()],
            *("model", "triplets"),
            lambda row: f"{100 * row['agreement']:.1f} ± {100 * row['agreement_std']:.1f}",
        ),
        f"\n## Triplets until ridge is within {CLOSE:g} degrees of the true weights (median) [95 % interval]\n\n",
        _pivot(needed, "votes", "noise", lambda row: str(row["text"])),
        f"\n## Coverage of 95 % intervals, {findings.settings.coverage_experiments} experiments each\n\n",
        _table(
            ["triplets", "songs", "covered [binomial interval]", "least covered stem"],
            [[*map(str, case), _rate(rows.iloc[0]), _least(rows)] for case, rows in cases],
        ),
        "\n## Gain of a fusion over ridge in agreement, by number of triplets: points [95 % interval]; % of "
        f"{findings.settings.fusion_experiments} experiments in which the paired test finds it better / worse\n\n",
        _pivot(
            fusion,
            *("listeners", "triplets"),
            lambda row: f"{_gain(row)}; {100 * row['better']:.0f} / {100 * row['worse']:.0f}",
        ),
    ]
    return "".join(parts)


def sentences(findings: Findings) -> list[str]:
    """Return the findings in plain sentences."""
    weights, coverage, fusion = (findings.frames[name] for name in ("weights", "coverage", "fusion"))
    return [*_on_weights(weights, findings), *_on_votes(findings), *_on_coverage(coverage), *_on_fusions(fusion)]


def _on_weights(weights: pd.DataFrame, findings: Findings) -> list[str]:
    held, few = findings.settings.held, findings.settings.triplets[0]
    rows = _held(weights, findings)
    angle = rows.pivot_table("angle", index="model", columns="triplets").map(lambda value: f"{value:.1f}")
    now, early = angle[held.triplets], angle[few]
    needs = _held(findings.frames["needed"], findings).set_index("model")["text"]
    error = (
        f"With {_votes(held.votes)} per triplet and noise {held.noise:g}, the median angle to the true weights is below "
        f"{CLOSE:g} degrees from {needs['ridge']} triplets with ridge, {needs['OLS']} with OLS and "
        f"{needs['prior-ridge']} with prior-ridge; with {held.triplets} triplets it is {now['ridge']}, {now['OLS']} and "
        f"{now['prior-ridge']} degrees. With unlimited triplets {findings.limit:.1f} would remain: a majority says "
        "which candidate is closer, not by how much."
    )
    prior = (
        f"With {few} triplets, the error is {early['prior-ridge']} degrees when shrinking towards the paper's weights, "
        f"{early['OLS']} with OLS, and {early['wrong prior']} when shrinking towards wrong weights"
    )
    if held.triplets > few:
        prior += f"; with {held.triplets} triplets, {now['prior-ridge']}, {now['OLS']} and {now['wrong prior']}"
    share = rows[rows["triplets"] == held.triplets].set_index("model")["agreement"].map(lambda one: f"{100 * one:.1f}")
    agreement = (
        f"Agreement on unseen songs after a fit to {held.triplets} triplets: ridge {share['ridge']} %, the true weights "
        f"{share['true weights']} %, uniform weights {share['uniform weights']} %, the mix alone {share['mix cosine']} %"
    )
    if held.votes > 1:
        agreement += f"; one listener agrees with the majority of the others on {share['simulated ceiling']} %"
    return [error, f"{prior}.", f"{agreement}."]


def _on_votes(findings: Findings) -> list[str]:
    """Compare few and many votes per triplet, if several numbers were tried."""
    settings, needed = findings.settings, findings.frames["needed"]
    rows = needed[(needed["model"] == "ridge") & (needed["noise"] == settings.held.noise)].set_index("votes")
    parts = []
    for votes in dict.fromkeys((settings.votes[0], settings.votes[-1])):
        number, text = rows["needed"][votes], rows["text"][votes]
        answers = f" ({rounded(number * votes):.0f} answers)" if np.isfinite(number) else ""
        parts.append(f"{text} triplets with {_votes(votes)} each{answers}")
    return [f"Ridge needs {' and '.join(parts)}."] if len(parts) > 1 else []


def _on_coverage(coverage: pd.DataFrame) -> list[str]:
    every = coverage[coverage["stem"] == "all"].sort_values("covered")
    outside = every[~every["covered"].between(*_COVERED)]
    band = f"{100 * _COVERED[0]:.0f}-{100 * _COVERED[1]:.0f} %"
    verdict = (
        f"outside {band} with {_join(map(_case, _rows(outside)))}" if len(outside) else f"within {band} everywhere"
    )
    low, high = (f"{_rate(row)} ({_case(row)})" for row in _rows(every.iloc[[0, -1]]))
    said = f"Cluster-robust 95 % intervals cover {low} to {high}, {verdict}. Least covered stem: {_least(coverage)}."
    experiments = int(every["experiments"].min())
    few = f"{experiments} experiments are too few to judge coverage; run at least {_ENOUGH}."
    return [said, few] if experiments < _ENOUGH else [said]


def _on_fusions(fusion: pd.DataFrame) -> list[str]:
    said = []
    for (truth, name), rows in fusion.groupby(["truth", "fusion"], sort=False):
        last, counts = rows.iloc[-1], rows["triplets"]
        better, worse = (_join(f"{100 * share:.0f}" for share in rows[side]) for side in ("better", "worse"))
        enough = counts[(rows["better"] > _MOSTLY)[::-1].cummin()[::-1]]  # and so with all larger numbers
        wins = f" It wins more often than not from {enough.min()} triplets." if len(enough) else ""
        said.append(
            f"{str(truth).capitalize()} listeners, {name}: {_gain(last)} points over ridge with {last['triplets']} "
            f"triplets. With {_join(map(str, counts))} triplets, the paired test finds it better in {better} % of "
            f"{last['experiments']} experiments and worse in {worse} %.{wins}"
        )
    return said


def _plot(findings: Findings, path: Path) -> None:
    """Draw errors of weights, agreement, coverage of intervals and gains of fusions, in four panels."""
    from matplotlib import rc_context

    with rc_context({"font.size": 8.5, "axes.titlesize": "medium", "legend.frameon": False, "lines.linewidth": 1.6}):
        figure, ((error, agreement), (coverage, fusion)) = new_figure(9.0, 7.4, columns=2, rows=2)
        _draw_error(error, findings)
        _draw_agreement(agreement, findings)
        _draw_coverage(coverage, findings.frames["coverage"])
        _draw_fusions(fusion, findings)
        save_figure(figure, path)


def _draw_error(axes: "Axes", findings: Findings) -> None:
    settings, held, rows = findings.settings, findings.settings.held, findings.frames["weights"]
    rows = rows[rows["noise"] == held.noise]
    for model, color in zip(FITTED, SERIES_COLORS, strict=False):
        one = rows[(rows["votes"] == held.votes) & (rows["model"] == model)]
        axes.plot(one["triplets"], one["angle"], "--" if model == "wrong prior" else "-", color=color, label=model)
        if model != "wrong prior":
            axes.fill_between(one["triplets"], one["angle_lower"], one["angle_upper"], color=color, alpha=0.13, lw=0)
    others = sorted({settings.votes[0], settings.votes[-1]} - {held.votes})
    for votes, style in zip(others, (":", "-."), strict=False):
        one = rows[(rows["votes"] == votes) & (rows["model"] == "ridge")]
        axes.plot(one["triplets"], one["angle"], style, color=SERIES_COLORS[1], label=f"ridge, {_votes(votes)}")
    axes.axhline(CLOSE, color="black", lw=0.8, ls=(0, (4, 3)))
    axes.axhline(findings.limit, color=GREY, lw=0.8)
    axes.annotate("unlimited triplets", (settings.triplets[0], findings.limit), color=GREY, va="bottom")
    _triplet_axis(axes, settings.triplets)
    axes.set_ylim(0.0, None)
    axes.set_ylabel("angle to the true weights, degrees")
    axes.set_title(f"Weights: median and quartiles, {_votes(held.votes)} per triplet")
    axes.legend()


def _draw_agreement(axes: "Axes", findings: Findings) -> None:
    settings, rows = findings.settings, findings.frames["weights"]
    rows = rows[rows["votes"] == settings.held.votes].set_index("model")
    for noise, color in zip(settings.noises, SERIES_COLORS * len(settings.noises), strict=False):
        every = rows[rows["noise"] == noise]
        one = every.loc[["ridge"]]
        error = 100.0 * one["agreement_std"] / np.sqrt(settings.experiments)
        axes.errorbar(one["triplets"], 100.0 * one["agreement"], yerr=error, color=color, label=f"noise {noise:g}")
        for model, style in (("true weights", "--"), ("simulated ceiling", ":")):
            axes.axhline(100.0 * every.loc[[model], "agreement"].iloc[0], color=color, lw=1.2, ls=style)
    for style, label in (("-", "ridge ± standard error"), ("--", "true weights"), (":", "one listener (ceiling)")):
        axes.plot([], [], style, color="black", label=label)
    _triplet_axis(axes, settings.triplets)
    axes.set_ylabel("agreement with held-out majorities, %")
    axes.set_title(f"Agreement on unseen songs, {_votes(settings.held.votes)} per triplet")
    _legend_below(axes)


def _draw_coverage(axes: "Axes", coverage: pd.DataFrame) -> None:
    axes.axvspan(100 * _COVERED[0], 100 * _COVERED[1], color=SERIES_COLORS[0], alpha=0.12, lw=0)
    axes.axvline(95.0, color="black", lw=0.8)
    stems, every = coverage[coverage["stem"] != "all"], coverage[coverage["stem"] == "all"]
    labels = [f"{row['triplets']} triplets\n{row['songs']} songs" for row in _rows(every)]
    rate, ends, places = 100 * every["covered"], 100 * every[["lower", "upper"]], range(len(every))
    reach = [rate - ends["lower"], ends["upper"] - rate]
    axes.scatter(100 * stems["covered"], np.repeat(places, len(stems) // len(every)), s=9, color=GREY, label="one stem")
    axes.errorbar(rate, places, xerr=reach, fmt="o", ms=4.5, capsize=2.5, color=SERIES_COLORS[0], label="all stems")
    axes.set_yticks(places, labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("experiments whose interval contains the weight, %")
    axes.set_title(f"Coverage of 95 % intervals, {coverage['experiments'].min()} experiments each")
    axes.legend(loc="lower left")


def _draw_fusions(axes: "Axes", findings: Findings) -> None:
    rows = findings.frames["fusion"]
    colors = dict(zip(dict.fromkeys(rows["truth"]), (GREY, *SERIES_COLORS), strict=False))
    styles = dict(zip(dict.fromkeys(rows["fusion"]), _STYLES, strict=False))
    lines = rows.groupby(["truth", "fusion"], sort=False)
    for number, ((truth, name), one) in enumerate(lines):
        color, place = colors[truth], one["triplets"] * 1.045 ** (number - (len(lines) - 1) / 2)
        gain, faces = 100 * one["gain"], [color if better > _MOSTLY else "white" for better in one["better"]]
        reach = [gain - 100 * one["lower"], 100 * one["upper"] - gain]
        axes.errorbar(place, gain, yerr=reach, ls=styles[name], color=color, elinewidth=0.9, capsize=2)
        axes.scatter(place, gain, s=25, edgecolors=color, c=faces, zorder=3)
    for truth, color in colors.items():
        axes.plot([], [], color=color, label=f"{truth} listeners")
    for name, style in styles.items():
        axes.plot([], [], style, color="black", label=name)
    axes.plot([], [], "o", ms=5, color="black", label="found in most experiments")
    axes.axhline(0.0, color="black", lw=0.8)
    _triplet_axis(axes, findings.settings.fusion_triplets)
    axes.set_ylabel("gain over ridge in agreement, points")
    axes.set_title("Nonlinear fusions: mean and 95 % interval")
    _legend_below(axes)


def _legend_below(axes: "Axes") -> None:
    """Make room for a legend below the curves."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.35 * (top - bottom), top)
    axes.legend(ncols=2, loc="lower center")


def _triplet_axis(axes: "Axes", triplets: tuple[int, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(triplets, map(str, triplets))
    axes.set_xticks([], minor=True)
    axes.set_xlabel("triplets")


def _held(rows: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """Return the figures with the votes and noise that are held."""
    held = findings.settings.held
    return rows[(rows["votes"] == held.votes) & (rows["noise"] == held.noise)]


def _pivot(rows: pd.DataFrame, row: str, column: str, text: Callable[[Row], str]) -> str:
    """Return a Markdown table of texts, with one row and one column for each value of two columns."""
    frame = rows.assign(text=rows.apply(text, axis=1))
    frame = frame.pivot_table("text", index=row, columns=column, aggfunc="first", sort=False)
    lines = [[str(name), *cells] for name, cells in zip(frame.index, frame.to_numpy().tolist(), strict=True)]
    return _table([row, *(f"{value} {column}" for value in frame.columns)], lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(frame: pd.DataFrame) -> Iterable[Row]:
    return (row for _, row in frame.iterrows())


def _gain(row: Row) -> str:
    return f"{100 * row['gain']:+.1f} [{100 * row['lower']:+.1f}, {100 * row['upper']:+.1f}]"


def _rate(row: Row) -> str:
    return f"{100 * row['covered']:.1f} % [{100 * row['lower']:.1f}, {100 * row['upper']:.1f}]"


def _least(coverage: pd.DataFrame) -> str:
    """Return the stem that is covered least, and its coverage."""
    row = coverage[coverage["stem"] != "all"].sort_values("covered").iloc[0]
    return f"{row['stem']}, {100 * row['covered']:.1f} %"


def _case(row: Row) -> str:
    return f"{row['triplets']} triplets of {row['songs']} songs"


def _votes(count: int) -> str:
    return "1 vote" if count == 1 else f"{count} votes"


def _join(words: Iterable[str]) -> str:
    """Join words by commas, or return one where all are the same."""
    every = list(words)
    return every[0] if len(set(every)) == 1 else ", ".join(every)
