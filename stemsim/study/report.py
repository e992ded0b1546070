"""Reports of the study: tables and sentences as Markdown, a picture, and the figures as JSON and CSV."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from stemsim.replacing import write_text
from stemsim.report.style import GREY, SERIES_COLORS, new_figure, save_figure
from stemsim.report.text import TextTable
from stemsim.study.experiments import CLOSE, FITTED, Findings, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COVERED: Final = (93, 97)  # acceptable coverage of a nominal 95 % interval, in percent
_ENOUGH: Final = 500  # experiments: the standard error of a coverage is one point then
_MOSTLY: Final = 50  # percent
_SHARES: Final = {  # columns that are shown in percent
    "weights": ["agreement", "agreement_std"],
    "needed": [],
    "coverage": ["covered", "lower", "upper"],
    "fusion": ["gain", "lower", "upper", "better", "worse"],
}
_GAIN: Final = "{gain:+.1f} [{lower:+.1f}, {upper:+.1f}]"
_RATE: Final = "{covered:.1f} [{lower:.1f}, {upper:.1f}]"


def write_study(findings: Findings, folder: Path) -> list[Path]:
    """Write study.json, study.md, study.png and one CSV file for each kind of figures, and return their paths."""
    names = ("study.json", "study.md", *(f"study_{name}.csv" for name in findings.frames), "study.png")
    document, text, *csv_files, picture = written = [folder / name for name in names]
    said = sentences(findings)
    figures = {
        "settings": {**asdict(findings.settings), "reference": findings.settings.held},
        "verdicts": said,
        "angle_with_unlimited_triplets": findings.limit,
        **{name: json.loads(frame.to_json(orient="records")) for name, frame in findings.frames.items()},
    }
    write_text(document, json.dumps(figures, indent=2) + "\n")
    bullets = "".join(f"- {sentence}\n" for sentence in said)
    write_text(text, f"# Simulated truth\n\n{bullets}\n{tables(findings)}")
    for path, frame in zip(csv_files, findings.frames.values(), strict=True):
        write_text(path, frame.to_csv(index=False))
    _plot(findings, picture)
    return written


def tables(findings: Findings) -> str:
    """Return the figures as Markdown tables."""
    settings, rows, needed = findings.settings, _held(findings, "weights"), _figures(findings, "needed")
    coverage, fusion = _figures(findings, "coverage"), _figures(findings, "fusion")
    cases = [
        (str(count), str(songs), _texts(case, _RATE)[0], _least(case))
        for (count, songs), case in coverage.groupby(["triplets", "songs"], sort=False)
    ]
    given = f"{_votes(settings.held.votes)} per triplet, noise {settings.held.noise:g}"
    gained = (
        "Gain of a fusion over ridge in agreement: points [95 % interval]; % of "
        f"{settings.fusion_experiments} experiments in which the paired test finds it better / worse"
    )
    sections = {
        f"Angle to the true weights in degrees, median (quartiles); {given}": _pivot(
            rows[rows["model"].isin(FITTED)], "model", "triplets", "{angle:.1f} ({angle_lower:.0f}-{angle_upper:.0f})"
        ),
        f"Held-out agreement in %, mean ± standard deviation; {given}": _pivot(
            rows[rows["agreement"].notna()], "model", "triplets", "{agreement:.1f} ± {agreement_std:.1f}"
        ),
        f"Triplets until ridge is within {CLOSE:g} degrees of the true weights (median) [95 % interval]": _pivot(
            needed[needed["model"] == "ridge"], "votes", "noise", "{text}"
        ),
        f"Coverage of 95 % intervals in %, {settings.coverage_experiments} experiments each": TextTable(
            "", ("triplets", "songs", "all stems [binomial interval]", "least covered stem"), tuple(cases)
        ),
        gained: _pivot(
            fusion.assign(listeners=fusion["truth"] + ": " + fusion["fusion"]),
            *("listeners", "triplets", _GAIN + "; {better:.0f} / {worse:.0f}"),
        ),
    }
    return "\n".join(f"## {title}\n\n{table.markdown()}\n" for title, table in sections.items())


def _pivot(rows: pd.DataFrame, index: str, columns: str, template: str) -> TextTable:
    """Return the text of each row, with a row and a column for each value of two columns."""
    texts = rows.assign(text=_texts(rows, template))
    frame = texts.pivot_table("text", index=index, columns=columns, aggfunc="first", sort=False)
    cells = [(str(name), *row) for name, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]
    return TextTable("", (f"{index} / {columns}", *map(str, frame.columns)), tuple(cells))


def _texts(rows: pd.DataFrame, template: str) -> list[str]:
    """Fill the columns of each row into a template."""
    return [template.format(**{str(name): value for name, value in row.items()}) for row in rows.to_dict("records")]


def _figures(findings: Findings, name: str) -> pd.DataFrame:
    """Return one kind of figures, shares in percent."""
    frame = findings.frames[name].copy()
    frame[_SHARES[name]] *= 100.0
    return frame


def _held(findings: Findings, name: str) -> pd.DataFrame:
    """Return one kind of figures with the votes and noise that are held."""
    rows, held = _figures(findings, name), findings.settings.held
    return rows[(rows["votes"] == held.votes) & (rows["noise"] == held.noise)]


def _least(coverage: pd.DataFrame) -> str:
    """Return the stem that is covered least, and its coverage in percent."""
    return _texts(coverage[coverage["stem"] != "all"].nsmallest(1, "covered"), "{stem} {covered:.1f}")[0]


def _votes(count: int) -> str:
    return "1 vote" if count == 1 else f"{count} votes"


def sentences(findings: Findings) -> list[str]:
    """Return the findings in plain sentences."""
    settings, held, rows = findings.settings, findings.settings.held, _held(findings, "weights")
    few, fusion = settings.triplets[0], _figures(findings, "fusion")
    angle, share = (
        rows.pivot_table(column, index="model", columns="triplets").map("{:.1f}".format)
        for column in ("angle", "agreement")
    )
    now, early, agreed = angle[held.triplets], angle[few], share[held.triplets]
    needs = _held(findings, "needed").set_index("model")["text"]
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
    agreement = (
        f"Agreement on unseen songs after a fit to {held.triplets} triplets: ridge {agreed['ridge']} %, true weights "
        f"{agreed['true weights']} %, uniform weights {agreed['uniform weights']} %, the mix alone "
        f"{agreed['mix cosine']} %"
    )
    if held.votes > 1:
        agreement += f"; one listener agrees with the majority of the others on {agreed['simulated ceiling']} %"
    said = [error, f"{prior}.", *_on_votes(findings), f"{agreement}.", *_on_coverage(_figures(findings, "coverage"))]
    return said + [_on_fusion(one) for _, one in fusion.groupby(["truth", "fusion"], sort=False)]


def _on_votes(findings: Findings) -> list[str]:
    """Compare the fewest and the most votes per triplet, if several numbers were tried."""
    settings, needed = findings.settings, _figures(findings, "needed")
    rows = needed[(needed["model"] == "ridge") & (needed["noise"] == settings.held.noise)]
    parts = []
    for row in rows[rows["votes"].isin((settings.votes[0], settings.votes[-1]))].to_dict("records"):
        answers = f" ({rounded(row['needed'] * row['votes']):.0f} answers)" if np.isfinite(row["needed"]) else ""
        parts.append(f"{row['text']} triplets with {_votes(row['votes'])} each{answers}")
    return [f"Ridge needs {' and '.join(parts)}."] if len(parts) > 1 else []


def _on_coverage(coverage: pd.DataFrame) -> list[str]:
    cases = coverage[coverage["stem"] == "all"]
    rates = ", ".join(_texts(cases, _RATE + " % with {triplets} triplets of {songs} songs"))
    good, experiments = cases["covered"].between(*_COVERED).all(), cases["experiments"].iloc[0]
    said = (
        f"Cluster-robust 95 % intervals contain the weights in {rates}: {'' if good else 'not '}always within "
        f"{_COVERED[0]}-{_COVERED[1]} %. Least covered stem: {_least(coverage)} %."
    )
    few = f"{experiments} experiments are too few to judge coverage; run at least {_ENOUGH}."
    return [said, few] if experiments < _ENOUGH else [said]


def _on_fusion(rows: pd.DataFrame) -> str:
    counts = rows["triplets"]
    better, worse = (", ".join(map("{:.0f}".format, rows[side])) for side in ("better", "worse"))
    enough = counts[(rows["better"] > _MOSTLY)[::-1].cummin()[::-1]]  # from where on the test mostly finds the gain
    wins = f" It wins more often than not from {enough.min()} triplets." if len(enough) else ""
    last = rows.tail(1).assign(truth=rows["truth"].str.capitalize())
    (said,) = _texts(last, "{truth} listeners, {fusion}: " + _GAIN + " points over ridge with {triplets} triplets. ")
    return (
        f"{said}With {', '.join(map(str, counts))} triplets, the paired test finds it better in {better} % of "
        f"{rows['experiments'].iloc[-1]} experiments and worse in {worse} %.{wins}"
    )


def _plot(findings: Findings, path: Path) -> None:
    """Draw errors of weights, agreement, coverage of intervals and gains of fusions, in four panels."""
    from matplotlib import rc_context

    with rc_context({"font.size": 8.5, "axes.titlesize": "medium", "legend.frameon": False, "lines.linewidth": 1.6}):
        figure, panels = new_figure(9.0, 7.4, columns=2, rows=2)
        for draw, axes in zip((_draw_error, _draw_agreement, _draw_coverage, _draw_fusions), panels.flat, strict=True):
            draw(axes, findings)
        save_figure(figure, path)


def _draw_error(axes: "Axes", findings: Findings) -> None:
    settings, held, rows = findings.settings, findings.settings.held, _figures(findings, "weights")
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
    title = f"Weights: median and quartiles, {_votes(held.votes)} per triplet"
    axes.set(title=title, ylim=(0.0, None), ylabel="angle to the true weights, degrees")
    axes.legend()


def _draw_agreement(axes: "Axes", findings: Findings) -> None:
    settings, rows = findings.settings, _figures(findings, "weights")
    rows = rows[rows["votes"] == settings.held.votes].set_index("model")
    for noise, color in zip(settings.noises, SERIES_COLORS * len(settings.noises), strict=False):
        every = rows[rows["noise"] == noise]
        one = every.loc[["ridge"]]
        error = one["agreement_std"] / np.sqrt(settings.experiments)
        axes.errorbar(one["triplets"], one["agreement"], yerr=error, color=color, label=f"noise {noise:g}")
        for model, style in (("true weights", "--"), ("simulated ceiling", ":")):
            axes.axhline(every.loc[[model], "agreement"].iloc[0], color=color, lw=1.2, ls=style)
    for style, label in (("-", "ridge ± standard error"), ("--", "true weights"), (":", "one listener (ceiling)")):
        axes.plot([], [], style, color="black", label=label)
    _triplet_axis(axes, settings.triplets)
    title = f"Agreement on unseen songs, {_votes(settings.held.votes)} per triplet"
    axes.set(title=title, ylabel="agreement with held-out majorities, %")
    _legend_below(axes)


def _draw_coverage(axes: "Axes", findings: Findings) -> None:
    rows = _figures(findings, "coverage")
    every, stems = rows[rows["stem"] == "all"], rows.loc[rows["stem"] != "all", "covered"]
    rate, places = every["covered"], range(len(every))
    reach = [rate - every["lower"], every["upper"] - rate]
    axes.axvspan(*_COVERED, color=SERIES_COLORS[0], alpha=0.12, lw=0)
    axes.axvline(95.0, color="black", lw=0.8)
    axes.scatter(stems, np.repeat(places, len(stems) // len(every)), s=9, color=GREY, label="one stem")
    axes.errorbar(rate, places, xerr=reach, fmt="o", ms=4.5, capsize=2.5, color=SERIES_COLORS[0], label="all stems")
    axes.set_yticks(places, _texts(every, "{triplets} triplets\n{songs} songs"))
    title = f"Coverage of 95 % intervals, {findings.settings.coverage_experiments} experiments each"
    axes.set(title=title, ylim=(len(every) + 0.1, -0.6), xlabel="experiments whose interval contains the weight, %")
    axes.legend(ncols=2, loc="lower left")


def _draw_fusions(axes: "Axes", findings: Findings) -> None:
    rows = _figures(findings, "fusion")
    colors = dict(zip(dict.fromkeys(rows["truth"]), (GREY, *SERIES_COLORS), strict=False))
    styles = dict(zip(dict.fromkeys(rows["fusion"]), ("-", "--", ":", "-."), strict=False))
    lines = rows.groupby(["truth", "fusion"], sort=False)
    for number, ((truth, name), one) in enumerate(lines):
        color, place = colors[truth], one["triplets"] * 1.045 ** (number - (len(lines) - 1) / 2)
        gain, faces = one["gain"], [color if better > _MOSTLY else "white" for better in one["better"]]
        reach = [gain - one["lower"], one["upper"] - gain]
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
