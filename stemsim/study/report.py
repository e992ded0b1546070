"""Reports of the study: tables and sentences as Markdown, a picture, and the figures as JSON and CSV."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from stemsim.report.style import GREY, SERIES_COLORS, new_figure, save_figure
from stemsim.study.experiments import CLOSE, FITTED, Findings, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COVERED: Final = (0.93, 0.97)  # acceptable coverage of a nominal 95 % interval
_ENOUGH: Final = 500  # experiments: the standard error of a coverage is one point then
_MOSTLY: Final = 0.5


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
    settings, rows = findings.settings, _held(findings, "weights")
    needed, coverage, fusion = (findings.frames[name] for name in ("needed", "coverage", "fusion"))
    given = f"{_votes(settings.held.votes)} per triplet, noise {settings.held.noise:g}"
    error, agreement = rows[rows["model"].isin(FITTED)], rows[rows["agreement"].notna()]
    error = error.assign(
        text=[f"{row['angle']:.1f} ({row['angle_lower']:.0f}-{row['angle_upper']:.0f})" for row in _records(error)]
    )
    agreement = agreement.assign(
        text=[f"{100 * row['agreement']:.1f} ± {100 * row['agreement_std']:.1f}" for row in _records(agreement)]
    )
    gain = fusion.assign(
        listeners=fusion["truth"] + ": " + fusion["fusion"],
        text=[f"{_gain(row)}; {100 * row['better']:.0f} / {100 * row['worse']:.0f}" for row in _records(fusion)],
    )
    cases = {
        f"{triplets} | {songs}": f"{_rate(_records(case)[0])} | {_least(case)}"
        for (triplets, songs), case in coverage.groupby(["triplets", "songs"], sort=False)
    }
    covered = f"Coverage of 95 % intervals in %, {settings.coverage_experiments} experiments each"
    gained = (
        "Gain of a fusion over ridge in agreement: points [95 % interval]; % of "
        f"{settings.fusion_experiments} experiments in which the paired test finds it better / worse"
    )
    parts = (
        _pivot(f"Angle to the true weights in degrees, median (quartiles); {given}", error, "model", "triplets"),
        _pivot(f"Held-out agreement in %, mean ± standard deviation; {given}", agreement, "model", "triplets"),
        _pivot(
            f"Triplets until ridge is within {CLOSE:g} degrees of the true weights (median) [95 % interval]",
            needed[needed["model"] == "ridge"],
            "votes",
            "noise",
        ),
        _table(covered, "triplets | songs | all stems [binomial interval] | least covered stem", cases),
        _pivot(gained, gain, "listeners", "triplets"),
    )
    return "\n".join(parts)


def _pivot(title: str, rows: pd.DataFrame, row: str, column: str) -> str:
    """Return the column `text` as a Markdown table, with one row and one column for each value of two others."""
    frame = rows.pivot_table("text", index=row, columns=column, aggfunc="first", sort=False)
    lines = zip(frame.index, frame.to_numpy().tolist(), strict=True)
    header = " | ".join([f"{row} / {column}", *map(str, frame.columns)])
    return _table(title, header, {name: " | ".join(cells) for name, cells in lines})


def _table(title: str, header: str, rows: dict[Any, str]) -> str:
    lines = [header, ":--" + " | --:" * header.count("|"), *(f"{name} | {cells}" for name, cells in rows.items())]
    return f"## {title}\n\n" + "".join(f"| {line} |\n" for line in lines)


def sentences(findings: Findings) -> list[str]:
    """Return the findings in plain sentences."""
    held, few, rows = findings.settings.held, findings.settings.triplets[0], _held(findings, "weights")
    angle = rows.pivot_table("angle", index="model", columns="triplets").map(lambda value: f"{value:.1f}")
    now, early, needs = angle[held.triplets], angle[few], _held(findings, "needed").set_index("model")["text"]
    error = (
        f"With {_votes(held.votes)} per triplet and noise {held.noise:g}, the median angle to the true weights is "
        f"below {CLOSE:g} degrees from {needs['ridge']} triplets with ridge, {needs['OLS']} with OLS and "
        f"{needs['prior-ridge']} with prior-ridge; with {held.triplets} triplets it is {now['ridge']}, {now['OLS']} "
        f"and {now['prior-ridge']} degrees. With unlimited triplets {findings.limit:.1f} would remain: a majority says "
        "which candidate is closer, not by how much."
    )
    prior = (
        f"With {few} triplets, the error is {early['prior-ridge']} degrees when shrinking towards the paper's weights, "
        f"{early['OLS']} with OLS, and {early['wrong prior']} when shrinking towards wrong weights"
    )
    if held.triplets > few:
        prior += f"; with {held.triplets} triplets, {now['prior-ridge']}, {now['OLS']} and {now['wrong prior']}"
    share = (
        rows[rows["triplets"] == held.triplets].set_index("model")["agreement"].map(lambda one: f"{100 * one:.1f} %")
    )
    agreement = (
        f"Agreement on unseen songs after a fit to {held.triplets} triplets: ridge {share['ridge']}, true weights "
        f"{share['true weights']}, uniform weights {share['uniform weights']}, the mix alone {share['mix cosine']}"
    )
    if held.votes > 1:
        agreement += f"; one listener agrees with the majority of the others on {share['simulated ceiling']}"
    coverage, fusion = findings.frames["coverage"], findings.frames["fusion"]
    said = [error, f"{prior}.", *_on_votes(findings), f"{agreement}.", *_on_coverage(coverage)]
    return said + [_on_fusion(rows) for _, rows in fusion.groupby(["truth", "fusion"], sort=False)]


def _on_votes(findings: Findings) -> list[str]:
    """Compare the fewest and the most votes per triplet, if several numbers were tried."""
    settings, needed = findings.settings, findings.frames["needed"]
    rows = needed[(needed["model"] == "ridge") & (needed["noise"] == settings.held.noise)]
    parts = []
    for row in _records(rows[rows["votes"].isin((settings.votes[0], settings.votes[-1]))]):
        answers = f" ({rounded(row['needed'] * row['votes']):.0f} answers)" if np.isfinite(row["needed"]) else ""
        parts.append(f"{row['text']} triplets with {_votes(row['votes'])} each{answers}")
    return [f"Ridge needs {' and '.join(parts)}."] if len(parts) > 1 else []


def _on_coverage(coverage: pd.DataFrame) -> list[str]:
    cases = _records(coverage[coverage["stem"] == "all"])
    rates = ", ".join(f"{_rate(row)} % with {row['triplets']} triplets of {row['songs']} songs" for row in cases)
    good = all(_COVERED[0] <= row["covered"] <= _COVERED[1] for row in cases)
    experiments = cases[0]["experiments"]
    said = (
        f"Cluster-robust 95 % intervals contain the weights in {rates}: {'' if good else 'not '}always within "
        f"{100 * _COVERED[0]:.0f}-{100 * _COVERED[1]:.0f} %. Least covered stem: {_least(coverage)} %."
    )
    few = f"{experiments} experiments are too few to judge coverage; run at least {_ENOUGH}."
    return [said, few] if experiments < _ENOUGH else [said]


def _on_fusion(rows: pd.DataFrame) -> str:
    last, counts = _records(rows)[-1], rows["triplets"]
    better, worse = (", ".join(f"{100 * share:.0f}" for share in rows[side]) for side in ("better", "worse"))
    enough = counts[(rows["better"] > _MOSTLY)[::-1].cummin()[::-1]]  # from where on the test mostly finds the gain
    wins = f" It wins more often than not from {enough.min()} triplets." if len(enough) else ""
    return (
        f"{last['truth'].capitalize()} listeners, {last['fusion']}: {_gain(last)} points over ridge with "
        f"{last['triplets']} triplets. With {', '.join(map(str, counts))} triplets, the paired test finds it better in "
        f"{better} % of {last['experiments']} experiments and worse in {worse} %.{wins}"
    )


def _held(findings: Findings, name: str) -> pd.DataFrame:
    """Return the figures with the votes and noise that are held."""
    rows, held = findings.frames[name], findings.settings.held
    return rows[(rows["votes"] == held.votes) & (rows["noise"] == held.noise)]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _gain(row: dict[str, Any]) -> str:
    return f"{100 * row['gain']:+.1f} [{100 * row['lower']:+.1f}, {100 * row['upper']:+.1f}]"


def _rate(row: dict[str, Any]) -> str:
    return f"{100 * row['covered']:.1f} [{100 * row['lower']:.1f}, {100 * row['upper']:.1f}]"


def _least(coverage: pd.DataFrame) -> str:
    """Return the stem that is covered least, and its coverage in percent."""
    row = coverage[coverage["stem"] != "all"].sort_values("covered").iloc[0]
    return f"{row['stem']} {100 * row['covered']:.1f}"


def _votes(count: int) -> str:
    return "1 vote" if count == 1 else f"{count} votes"


def _plot(findings: Findings, path: Path) -> None:
    """Draw errors of weights, agreement, coverage of intervals and gains of fusions, in four panels."""
    from matplotlib import rc_context

    with rc_context({"font.size": 8.5, "axes.titlesize": "medium", "legend.frameon": False, "lines.linewidth": 1.6}):
        figure, panels = new_figure(9.0, 7.4, columns=2, rows=2)
        for draw, axes in zip((_draw_error, _draw_agreement, _draw_coverage, _draw_fusions), panels.flat, strict=True):
            draw(axes, findings)
        save_figure(figure, path)


def _draw_error(axes: "Axes", findings: Findings) -> None:
    settings, held, rows = findings.settings, findings.settings.held, findings.frames["weights"]
    rows = rows[rows["noise"] == held.noise]
    for model, color in zip(FITTED, SERIES_COLORS, strict=False):
        one = rows[(rows["votes"] == held.votes) & (rows["model"] == model)]
        axes.plot(one["triplets"], one["angle"], "--" if model == "wrong prior" else "-", color=color, label=model)
        if model != "wrong prior":
            axes.fill_between(one["triplets"], one["angle_lower"], one["angle_upper"], color=color, alpha=0.13, lw=0)
    for votes in sorted({settings.votes[0], settings.votes[-1]} - {held.votes}):
        one, style = rows[(rows["votes"] == votes) & (rows["model"] == "ridge")], ":" if votes < held.votes else "-."
        axes.plot(one["triplets"], one["angle"], style, color=SERIES_COLORS[1], label=f"ridge, {_votes(votes)}")
    axes.axhline(CLOSE, color="black", lw=0.8, ls=(0, (4, 3)))
    axes.axhline(findings.limit, color=GREY, lw=0.8)
    axes.annotate("unlimited triplets", (settings.triplets[0], findings.limit), color=GREY, va="bottom")
    _triplet_axis(axes, settings.triplets)
    axes.set(title=f"Weights: median and quartiles, {_votes(held.votes)} per triplet", ylim=(0.0, None))
    axes.set_ylabel("angle to the true weights, degrees")
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
    axes.set(title=f"Agreement on unseen songs, {_votes(settings.held.votes)} per triplet")
    axes.set_ylabel("agreement with held-out majorities, %")
    _legend_below(axes)


def _draw_coverage(axes: "Axes", findings: Findings) -> None:
    rows = findings.frames["coverage"]
    every, stems = rows[rows["stem"] == "all"], 100 * rows.loc[rows["stem"] != "all", "covered"]
    rate, places = 100 * every["covered"], range(len(every))
    reach = [rate - 100 * every["lower"], 100 * every["upper"] - rate]
    axes.axvspan(100 * _COVERED[0], 100 * _COVERED[1], color=SERIES_COLORS[0], alpha=0.12, lw=0)
    axes.axvline(95.0, color="black", lw=0.8)
    axes.scatter(stems, np.repeat(places, len(stems) // len(every)), s=9, color=GREY, label="one stem")
    axes.errorbar(rate, places, xerr=reach, fmt="o", ms=4.5, capsize=2.5, color=SERIES_COLORS[0], label="all stems")
    axes.set_yticks(places, [f"{row['triplets']} triplets\n{row['songs']} songs" for row in _records(every)])
    title = f"Coverage of 95 % intervals, {findings.settings.coverage_experiments} experiments each"
    axes.set(title=title, ylim=(len(every) + 0.1, -0.6), xlabel="experiments whose interval contains the weight, %")
    axes.legend(ncols=2, loc="lower left")


def _draw_fusions(axes: "Axes", findings: Findings) -> None:
    rows = findings.frames["fusion"]
    colors = dict(zip(dict.fromkeys(rows["truth"]), (GREY, *SERIES_COLORS), strict=False))
    styles = dict(zip(dict.fromkeys(rows["fusion"]), ("-", "--", ":", "-."), strict=False))
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
    axes.set(title="Nonlinear fusions: mean and 95 % interval", ylabel="gain over ridge in agreement, points")
    _legend_below(axes)


def _legend_below(axes: "Axes") -> None:
    """Make room for a legend below the curves."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.35 * (top - bottom), top)
    axes.legend(ncols=2, loc="lower center")


def _triplet_axis(axes: "Axes", triplets: tuple[int, ...]) -> None:
    axes.set(xscale="log", xlabel="triplets")
    axes.set_xticks(triplets, map(str, triplets))
    axes.set_xticks([], minor=True)
