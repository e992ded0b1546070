"""Listeners of a test beside each other: tables, files and pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from stemsim.evaluation.agreement import Share
from stemsim.evaluation.listeners import ListenerSummary, QuestionSummary
from stemsim.fitting.listeners import ListenerWeights
from stemsim.replacing import write_text
from stemsim.report.style import GREY, SERIES_COLORS, new_figure, save_figure
from stemsim.report.text import TextTable, fixed, percent, with_spread
from stemsim.stems import STEM_COLORS

_MOST_ROWS = 20


def print_listeners(
    source: str,
    questions: Sequence[QuestionSummary],
    listeners: Sequence[ListenerSummary],
    weights: ListenerWeights | None,
) -> None:
    """Print the comparison on the terminal."""
    console = Console()
    rows = tuple(
        (one.question, str(one.answers), _interval(one.agreement), _interval(one.chose_first), percent(one.sure))
        for one in questions
    )
    shares = ("agree with\nthe others, %", "chose first, %")
    TextTable(f"Answers in {source}", ("question", "answers", *shares, "sure, %"), rows).print(console, compact=True)
    own = tuple(
        (
            one.listener,
            str(one.answers),
            _interval(one.agreement),
            _interval(one.chose_first),
            percent(None if one.consistency is None else one.consistency.value),
            fixed(one.seconds),
        )
        for one in listeners
    )
    ends = own if len(own) <= _MOST_ROWS else (*own[: _MOST_ROWS // 2], *own[-_MOST_ROWS // 2 :])
    left = f", the first and last {_MOST_ROWS // 2}" if len(ends) < len(own) else ""
    title = f"{len(own)} listeners{left}; intervals over other triplets"
    headings = ("listener", "answers", *shares, "repeats\nalike, %", "median\ntime, s")
    TextTable(title, headings, ends).print(console, compact=True)
    if weights is not None:
        stems = tuple(
            (
                stem,
                with_spread(weights.shared[row], weights.shared_spread[row], 2),
                fixed(weights.between[row], 2),
                f"{weights.p_values[row]:.3f}",
            )
            for row, stem in enumerate(weights.stems)
        )
        columns = ("stem", "shared", "spread\nbetween listeners", "p")
        TextTable(f"Weights of {len(weights.listeners)} listeners", columns, stems).print(console, compact=True)
        differ = ", ".join(weights.differ_on) or "none"
        console.print(f"Stems that listeners differ on: {differ}.", highlight=False)


def _interval(share: Share | None) -> str:
    if share is None:
        return "-"
    return f"{percent(share.value)} [{percent(share.lower)}-{percent(share.upper)}]"


def write_listeners(
    questions: Sequence[QuestionSummary],
    listeners: Sequence[ListenerSummary],
    weights: ListenerWeights | None,
    folder: Path,
) -> list[Path]:
    """Write listeners.json, listeners.csv and listeners.png, with weights also weights.png; return their paths."""
    document, table, picture = written = [folder / f"listeners.{suffix}" for suffix in ("json", "csv", "png")]
    figures: dict[str, Any] = {
        "questions": list(map(_plain, questions)),
        "listeners": list(map(_plain, listeners)),
        "weights": None if weights is None else _weights(weights),
    }
    write_text(document, json.dumps(figures, indent=2) + "\n")
    write_text(table, pd.json_normalize(figures["listeners"], sep="_").to_csv(index=False))
    _plot_agreement(listeners, picture)
    if weights is not None:
        written.append(folder / "weights.png")
        _plot_departures(weights, written[-1])
    return written


def _plain(summary: QuestionSummary | ListenerSummary) -> dict[str, Any]:
    """Return a summary as plain dictionaries, shares with the names of their ends."""
    shares = {name: share._asdict() for name in ("agreement", "chose_first", "consistency")
              if (share := getattr(summary, name, None)) is not None}  # fmt: skip
    return asdict(summary) | shares


def _weights(weights: ListenerWeights) -> dict[str, Any]:
    lower, upper = weights.intervals
    arrays = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(weights).items()
    }
    return arrays | {"lower": lower.tolist(), "upper": upper.tolist(), "differ_on": weights.differ_on}


def _plot_agreement(listeners: Sequence[ListenerSummary], path: Path) -> None:
    """Draw each listener's agreement with the others, by rank, with its interval."""
    shares = np.array([one.agreement for one in listeners if one.agreement is not None]).reshape(-1, 3) * 100.0
    figure, axes = new_figure(7.0, 3.4)
    rank = np.arange(1, len(shares) + 1)
    axes.vlines(rank, shares[:, 1], shares[:, 2], color=GREY, lw=0.8)
    axes.plot(rank, shares[:, 0], "o", ms=3, color=SERIES_COLORS[0])
    axes.set(xlabel="listener, by rank", ylabel="agreement with the others, %")
    save_figure(figure, path)


def _plot_departures(weights: ListenerWeights, path: Path) -> None:
    """Draw the departures of the listeners from the shared weights, stem by stem, each in order of size."""
    lower, upper = weights.intervals
    stems = len(weights.stems)
    figure, axes = new_figure(1.7 * stems + 0.6, 3.4, columns=stems, sharey=True, squeeze=False)
    for row, (stem, panel) in enumerate(zip(weights.stems, axes[0], strict=True)):
        order = np.argsort(weights.departures[:, row])
        rank = np.arange(1, len(order) + 1)
        panel.vlines(rank, lower[order, row], upper[order, row], color=GREY, lw=0.8)
        panel.plot(rank, weights.departures[order, row], "o", ms=3, color=STEM_COLORS[stem])
        panel.axhline(0.0, color="black", lw=0.8)
        differ = " *" if stem in weights.differ_on else ""
        panel.set(title=f"{stem} {weights.shared[row]:.2f}{differ}", xlabel="listener, by rank")
    axes[0][0].set_ylabel("departure from the shared weight")
    save_figure(figure, path)
