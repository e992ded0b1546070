"""What the study says, in plain sentences that are computed from its figures."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.evaluation.study.needed import CLOSE, rounded
from stemsim.evaluation.study.settings import StudySettings
from stemsim.evaluation.study.weights import FITTED

__all__ = [
    "COVERED",
    "ENOUGH",
    "best_intervals",
    "coverage_sentences",
    "fusion_sentences",
    "needed_table",
    "weight_sentences",
]

COVERED: Final = (0.93, 0.97)
"""Coverage that a nominal 95 % interval must have."""

ENOUGH: Final = 500
"""Experiments from which on coverages tell intervals apart: with 500, the binomial standard error is one point."""

FloatArray = npt.NDArray[np.float64]


def needed_table(needed: pd.DataFrame, model: str = "ridge") -> pd.DataFrame:
    """Return the triplets that a method needs, in words: a row for each number of votes, a column for each noise."""
    rows = needed[needed["model"] == model]
    return rows.pivot_table("text", index="votes", columns="noise", aggfunc="first")


def weight_sentences(weights: pd.DataFrame, needed: pd.DataFrame, limit: float, settings: StudySettings) -> list[str]:
    """Say how many triplets weights need, what a prior is worth, and how near held-out agreement comes to the ceiling.

    Args:
        weights: Figures of `recover_weights`.
        needed: The triplets needed, by `recover_weights`.
        limit: Angle that is left with endless triplets, in degrees.
        settings: What was tried.

    Returns:
        Sentences.
    """
    triplets, votes = settings.reference
    noise, few = settings.listeners.noise, settings.triplets[0]
    held = weights[(weights["votes"] == votes) & (weights["noise"] == noise)]
    angle = held.pivot_table("angle", index="triplets", columns="model")
    needs = needed[(needed["votes"] == votes) & (needed["noise"] == noise)].set_index("model")["text"]
    now, early = ({model: f"{float(angle[model][count]):.1f}" for model in FITTED} for count in (triplets, few))
    far = (
        f"With {_votes(votes)} a triplet and noise {noise:g}, the median angle to the true weights is below {CLOSE:g} "
        f"degrees from {needs['ridge']} triplets on by ridge, {needs['OLS']} by OLS and {needs['prior-ridge']} by "
        f"prior-ridge; at {triplets} triplets it is {now['ridge']}, {now['OLS']} and {now['prior-ridge']} degrees. "
        f"Endless triplets would leave {limit:.1f}: a majority says which candidate is closer, and not by how much."
    )
    later = f"; with {triplets} triplets, {now['prior-ridge']}, {now['OLS']} and {now['wrong prior']}"
    prior = (
        f"With {few} triplets, shrinking towards the paper's weights leaves {early['prior-ridge']} degrees, OLS "
        f"{early['OLS']}, and shrinking towards wrong weights {early['wrong prior']}"
        f"{later if triplets > few else ''}."
    )
    return [far, prior, *_sentence_on_votes(needed, settings), _sentence_on_agreement(held, triplets)]


def _sentence_on_votes(needed: pd.DataFrame, settings: StudySettings) -> list[str]:
    """Say what more votes on the same triplets are worth, where more than one number of them was tried."""
    held = needed[(needed["model"] == "ridge") & (needed["noise"] == settings.listeners.noise)]
    found = {
        votes: (needs, text) for votes, needs, text in zip(held["votes"], held["needed"], held["text"], strict=True)
    }
    parts = []
    for votes in dict.fromkeys((settings.votes[0], settings.votes[-1])):
        needs, text = found[votes]
        answers = f" ({rounded(needs * votes):.0f} answers)" if np.isfinite(needs) else ""
        parts.append(f"{text} triplets with {_votes(votes)} each{answers}")
    return [f"Ridge needs {', and '.join(parts)}."] if len(parts) > 1 else []


def _sentence_on_agreement(held: pd.DataFrame, triplets: int) -> str:
    """Say how near held-out agreement comes to that of the true weights, and to one listener's."""
    share = 100.0 * held[held["triplets"] == triplets].set_index("model")["agreement"]
    one = share["simulated ceiling"]
    beside = "" if np.isnan(one) else f"; one listener agrees with the majority of the others on {one:.1f} %"
    return (
        f"Agreement on songs never heard, from {triplets} triplets: ridge {share['ridge']:.1f} %, the true weights "
        f"{share['true weights']:.1f} %, uniform weights {share['uniform weights']:.1f} %, the mix alone "
        f"{share['mix cosine']:.1f} %{beside}."
    )


def best_intervals(coverage: pd.DataFrame) -> str:
    """Name the method whose coverage is never far from nominal: that of the smallest largest deviation."""
    every = coverage[coverage["stem"] == "all"]
    worst = (every["covered"] - sum(COVERED) / 2.0).abs().groupby(every["method"], sort=False).max()
    return str(worst.idxmin())


def coverage_sentences(coverage: pd.DataFrame) -> list[str]:
    """Say which intervals keep what they promise, and which to use.

    Args:
        coverage: Figures of `stemsim.evaluation.study.coverage.coverage`.

    Returns:
        A sentence for each method, and one that recommends.
    """
    every = coverage[coverage["stem"] == "all"]
    said = []
    for method, rows in every.groupby("method", sort=False):
        ordered = rows.sort_values("covered")
        low, high = ordered.iloc[0], ordered.iloc[-1]
        outside = rows[(rows["covered"] < COVERED[0]) | (rows["covered"] > COVERED[1])]
        cases = "; ".join(f"{_case(row)}: {_rate(row)}" for _, row in outside.iterrows())
        verdict = f"outside of {_band()} with {cases}" if len(outside) else f"within {_band()} everywhere"
        stems = coverage[(coverage["method"] == method) & (coverage["stem"] != "all")].sort_values("covered")
        least = f"Least of all stems: {stems.iloc[0]['stem']}, {100 * stems.iloc[0]['covered']:.1f} %."
        ends = f"{_rate(low)} ({_case(low)}) to {_rate(high)} ({_case(high)})"
        said.append(f"{method}: covers {ends}, {verdict}. {least}")
    experiments = int(every["experiments"].min())
    if experiments < ENOUGH:
        return [*said, f"{experiments} experiments are too few to choose by; take at least {ENOUGH}."]
    best = best_intervals(coverage)
    return [*said, f"Use {best}: over {experiments} experiments each, its coverage is never far from 95 %."]


def fusion_sentences(fusion: pd.DataFrame) -> list[str]:
    """Say what nonlinear fusions gain and lose, and from how many triplets on the paired test finds it.

    Args:
        fusion: Figures of `stemsim.evaluation.study.fusions.fusion_gains`.

    Returns:
        A sentence for each kind of listeners and fusion.
    """
    said = []
    for (truth, name), rows in fusion.groupby(["truth", "fusion"], sort=False):
        ordered = rows.sort_values("triplets")
        last = ordered.iloc[-1]
        better, worse = (_list(f"{100 * share:.0f}" for share in ordered[side]) for side in ("better", "worse"))
        missed = ordered.loc[ordered["better"] <= 0.5, "triplets"]  # noqa: PLR2004 - more often than not
        enough = ordered.loc[ordered["triplets"] > missed.max(), "triplets"] if len(missed) else ordered["triplets"]
        wins = f"It wins more often than not from {enough.min()} triplets on." if len(enough) else ""
        said.append(
            f"{str(truth).capitalize()} listeners, {name}: {100 * last['gain']:+.1f} points over ridge "
            f"[{100 * last['lower']:+.1f}, {100 * last['upper']:+.1f}] with {last['triplets']} triplets; with "
            f"{_list(map(str, ordered['triplets']))} triplets the paired test finds it better in {better} % of "
            f"{last['experiments']} experiments and worse in {worse} %. {wins}".rstrip()
        )
    return said


def _list(words: Iterable[str]) -> str:
    """Return words as a list, or one of them where all are the same."""
    every = list(words)
    return every[0] if len(set(every)) == 1 else ", ".join(every)


def _band() -> str:
    return f"{100 * COVERED[0]:.0f}-{100 * COVERED[1]:.0f} %"


def _case(row: pd.Series) -> str:
    return f"{row['triplets']} triplets of {row['songs']} songs"


def _rate(row: pd.Series) -> str:
    return f"{100 * row['covered']:.1f} % [{100 * row['lower']:.1f}, {100 * row['upper']:.1f}]"


def _votes(count: int) -> str:
    return "1 vote" if count == 1 else f"{count} votes"
