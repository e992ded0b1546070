"""The figures of the study as tables of text, for the terminal and for Markdown."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from stemsim.evaluation.study.needed import CLOSE
from stemsim.evaluation.study.run import Findings
from stemsim.evaluation.study.verdicts import needed_table
from stemsim.evaluation.study.weights import FITTED

__all__ = ["TextTable", "study_tables"]

_AGREEING = ("simulated ceiling", "true weights", "mix cosine", "uniform weights", "paper's weights", *FITTED)


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text.

    Attributes:
        title: What it shows, with the unit.
        header: Names of the columns.
        rows: Cells, one tuple a row; a cell may have several lines.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown, with its title as a heading."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        rows = [" | ".join(cell.replace("\n", " ") for cell in cells) for cells in lines]
        return f"## {self.title}\n\n" + "\n".join(f"| {row} |" for row in rows) + "\n"


def study_tables(study: Findings) -> tuple[TextTable, ...]:
    """Return the tables of a study.

    Args:
        study: What was found.

    Returns:
        Weight error and agreement by number of triplets, the triplets needed by votes and noise, and coverage.
    """
    settings, rows = study.settings, study.weights
    votes, noise = settings.reference[1], settings.listeners.noise
    held = rows[(rows["votes"] == votes) & (rows["noise"] == noise)]
    given = f"{votes} vote{'s' if votes > 1 else ''} a triplet, noise {noise:g}"
    return (
        _by_triplets(
            held[held["model"].isin(FITTED)],
            f"Angle to the true weights, degrees: median, quartiles; {given}",
            lambda row: f"{row['angle']:.1f}\n{row['angle_lower']:.0f}-{row['angle_upper']:.0f}",
        ),
        _by_triplets(
            held[held["model"].isin(_AGREEING)],
            f"Agreement with held-out majorities, %: mean ± standard deviation; {given}",
            lambda row: "-" if pd.isna(row["agreement"]) else f"{100 * row['agreement']:.1f}\n± {_spread(row)}",
        ),
        _needed(study),
        _coverage(study.coverage),
        _fusion(study),
    )


def _by_triplets(rows: pd.DataFrame, title: str, text: Callable[[pd.Series], str]) -> TextTable:
    """Return a row a model and a column for each number of triplets."""
    counts = list(dict.fromkeys(rows["triplets"]))
    cells = {(row["model"], row["triplets"]): text(row) for _, row in rows.iterrows()}
    models = list(dict.fromkeys(rows["model"]))
    lines = [(str(model), *(cells[model, count] for count in counts)) for model in models]
    return TextTable(title, ("triplets", *map(str, counts)), tuple(lines))


def _spread(row: pd.Series) -> str:
    return f"{100 * row['agreement_std']:.1f}"


def _needed(study: Findings) -> TextTable:
    frame = needed_table(study.needed)
    title = f"Triplets until ridge is within {CLOSE:g} degrees of the true weights (median) [95 % interval]"
    lines = [(str(votes), *map(str, row)) for votes, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]
    return TextTable(title, ("votes", *(f"noise {noise:g}" for noise in frame.columns)), tuple(lines))


def _coverage(coverage: pd.DataFrame) -> TextTable:
    """Return a row a method and a column for each case; the stem that is covered least stands below."""
    cases = list(dict.fromkeys(zip(coverage["triplets"], coverage["songs"], strict=True)))
    lines = []
    for method in dict.fromkeys(coverage["method"]):
        cells = []
        for triplets, songs in cases:
            chosen = coverage[
                (coverage["method"] == method) & (coverage["triplets"] == triplets) & (coverage["songs"] == songs)
            ].set_index("stem")
            every, least = chosen.loc["all"], chosen.drop(index="all")["covered"]
            ends = f"[{100 * every['lower']:.1f}, {100 * every['upper']:.1f}]"
            cells.append(f"{100 * every['covered']:.1f}\n{ends}\n{least.idxmin()} {100 * least.min():.1f}")
        lines.append((str(method), *cells))
    header = ("method", *(f"{triplets} triplets,\n{songs} songs" for triplets, songs in cases))
    experiments = int(coverage["experiments"].min())
    title = f"Coverage of 95 % intervals, % [binomial interval]; least covered stem; {experiments} experiments each"
    return TextTable(title, header, tuple(lines))


def _fusion(study: Findings) -> TextTable:
    """Return a row a truth and fusion, and a column for each number of triplets."""
    rows, counts = study.fusion, study.settings.fusion_triplets
    cells: dict[tuple[str, str], list[str]] = {}
    for _, row in rows.iterrows():
        reach = f"[{100 * row['lower']:+.1f}, {100 * row['upper']:+.1f}]"
        text = f"{100 * row['gain']:+.1f}\n{reach}\n{100 * row['better']:.0f} / {100 * row['worse']:.0f}"
        cells.setdefault((row["truth"], row["fusion"]), []).append(text)
    title = (
        "Gain of a fusion over ridge in held-out agreement, points [95 % interval]; % of experiments in which the "
        f"paired test finds it better / worse; by listeners, {study.settings.fusion_experiments} experiments each"
    )
    lines = [(f"{truth}:\n{name}", *texts) for (truth, name), texts in cells.items()]
    return TextTable(title, ("triplets", *map(str, counts)), tuple(lines))
