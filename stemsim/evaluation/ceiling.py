"""The human ceiling with its interval, and how much of it a model reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import beta

from stemsim.errors import ConfigError, TripletError
from stemsim.evaluation.agreement import TIE, ceiling_credit
from stemsim.evaluation.pigeonhole import replicate_weights, shared_variance
from stemsim.triplets import TEST_TYPES
from stemsim.triplets.inst_sim_abx_answers import INSTRUMENTS, QUESTIONS, Answers

__all__ = [
    "Ceiling",
    "CeilingShare",
    "Interval",
    "answer_credit",
    "ceiling",
    "ceiling_of",
    "ceiling_table",
    "share_of_ceiling",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ChoiceArray = npt.NDArray[np.int8]
BoolArray = npt.NDArray[np.bool_]
Interval = tuple[float, float]

REPLICATES: Final = 1000


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How often one answer agrees with the majority of the other listeners.

    Attributes:
        value: Mean over the answers, in [0, 1].
        interval: With other listeners and other triplets: the interval to report.
        by_listeners: With other listeners and the same triplets.
        by_triplets: With other triplets and the same listeners.
        level: Nominal coverage of the intervals.
        answers: Number of answers compared.
        triplets: Number of triplets that they are about.
        listeners: Number of listeners who gave them.
    """

    value: float
    interval: Interval
    by_listeners: Interval
    by_triplets: Interval
    level: float
    answers: int
    triplets: int
    listeners: int


@dataclass(frozen=True, slots=True)
class CeilingShare:
    """A model beside the listeners, on the same triplets.

    Attributes:
        agreement: Of the model with the majority.
        ceiling: Of one answer with the majority of the others.
        share: The first over the second; a model may exceed 1, since it answers to the majority and not to one
            listener.
        interval: Of the share, with other triplets.
        level: Nominal coverage.
        simulated: Whether the listeners were simulated.
    """

    agreement: float
    ceiling: float
    share: float
    interval: Interval
    level: float
    simulated: bool = False

    @property
    def sentence(self) -> str:
        """The share in plain words."""
        lower, upper = (100.0 * end for end in self.interval)
        place = "below" if self.interval[1] < 1.0 else "above" if self.interval[0] > 1.0 else "not told apart from"
        return (
            f"Agreement {100 * self.agreement:.1f} % is {100 * self.share:.1f} % of the "
            f"{'simulated' if self.simulated else 'human'} ceiling of "
            f"{100 * self.ceiling:.1f} % ({100 * self.level:g} % interval [{lower:.1f}, {upper:.1f}]): {place} it."
        )


def answer_credit(choice: ChoiceArray | IntArray, triplet: IntArray) -> FloatArray:
    """Compare each answer with the majority of the other answers on its triplet.

    Args:
        choice: `(answer,)` +1 = A, -1 = B.
        triplet: `(answer,)` number of the triplet.

    Returns:
        `(answer,)` 1 for agreement with the others, 0 for none, `TIE` where the others are tied; NaN where there are no
        others. The sums over each triplet are those of `ceiling_credit`.
    """
    lead = np.bincount(triplet, weights=choice)[triplet] * choice  # of the answer's own side
    alone = np.bincount(triplet)[triplet] < 2  # noqa: PLR2004 - an answer and another one
    return np.where(alone, np.nan, TIE * (1.0 + np.sign(lead - 1.0)))


def ceiling(
    choice: ChoiceArray | IntArray,
    triplet: IntArray,
    listener: npt.NDArray[np.str_] | IntArray,
    *,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Ceiling | None:
    """Return the human ceiling of some answers, and what it might be with other listeners and triplets.

    Answers are crossed by listener and triplet, which is what the pigeonhole bootstrap was made for (Owen 2007): both
    are drawn with replacement, and an answer weighs the product. What an answer earned against the others on its
    triplet is kept, for a listener drawn twice must not agree with himself. As the bootstrap counts noise of single
    answers three times, its replicates are drawn in to the standard error that counts it once
    (`stemsim.evaluation.pigeonhole`).

    Args:
        choice: `(answer,)` +1 = A, -1 = B.
        triplet: `(answer,)` number of the triplet.
        listener: `(answer,)` who gave it.
        replicates: Number of bootstrap replicates.
        level: Nominal coverage of the intervals.
        seed: Seed of the draws.

    Returns:
        The ceiling; None where no triplet has two answers.
    """
    credit = answer_credit(choice, triplet)
    compared = ~np.isnan(credit)
    if not compared.any():
        return None
    credit = credit[compared]
    asked = np.unique(triplet[compared], return_inverse=True)[1].reshape(-1, 1).astype(np.int64)
    heard_by = np.unique(listener[compared], return_inverse=True)[1].reshape(-1, 1).astype(np.int64)
    value = float(credit.mean())
    triplets, listeners = int(asked.max()) + 1, int(heard_by.max()) + 1

    def interval(*kinds: IntArray) -> Interval:
        drawn = _drawn_means(credit, kinds, replicates, np.random.default_rng(seed))
        return _percentiles(drawn, value, _error(credit, value, kinds), level, triplets)

    return Ceiling(
        value=value,
        interval=interval(heard_by, asked),
        by_listeners=interval(heard_by),
        by_triplets=interval(asked),
        level=level,
        answers=len(credit),
        triplets=triplets,
        listeners=listeners,
    )


def ceiling_table(
    answers: Answers,
    *,
    min_agreement: float = 0.0,
    min_votes: int = 1,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the human ceiling by perspective, instrument and test type.

    Args:
        answers: Answers of the listening test.
        min_agreement: Least share of votes of a retained triplet's majority, on the perspective at hand; a tied triplet
            has none, and is left out even at 0. The ceiling rises with it, as agreed triplets are chosen.
        min_votes: Least number of votes of a retained triplet.
        replicates: Number of bootstrap replicates.
        level: Nominal coverage of the intervals.
        seed: Seed of the draws.

    Returns:
        One row each, `all` standing for all instruments or test types: ceiling, its interval with other listeners and
        triplets, and with either alone; number of answers, triplets and listeners. Rows without a ceiling are left out.
    """
    rows = []
    for perspective in QUESTIONS:
        about = answers.about(perspective)
        table = about.count()
        retained = table.retained(min_agreement=min_agreement, min_votes=min_votes)
        for instrument in (*INSTRUMENTS, "all"):
            for test_type in (*TEST_TYPES, "all"):
                chosen = retained & np.isin(table.instrument, INSTRUMENTS if instrument == "all" else (instrument,))
                chosen &= np.isin(table.test_type, TEST_TYPES if test_type == "all" else (test_type,))
                found = ceiling_of(about, chosen, replicates=replicates, level=level, seed=seed)
                if found is not None:
                    ends = [*found.interval, *found.by_listeners, *found.by_triplets]
                    sizes = [found.answers, found.triplets, found.listeners]
                    rows.append([perspective, instrument, test_type, found.value, *ends, *sizes])
    names = ["lower", "upper", "lower, listeners", "upper, listeners", "lower, triplets", "upper, triplets"]
    columns = ["perspective", "instrument", "test type", "ceiling", *names, "answers", "triplets", "listeners"]
    return pd.DataFrame(rows, columns=columns)


def ceiling_of(
    answers: Answers, chosen: BoolArray, *, replicates: int = REPLICATES, level: float = 0.95, seed: int = 0
) -> Ceiling | None:
    """Return the human ceiling over all of the answers to some triplets.

    Args:
        answers: Answers of the listening test, about one perspective.
        chosen: `(triplet,)` True for the triplets that count.
        replicates: Number of bootstrap replicates.
        level: Nominal coverage of the intervals.
        seed: Seed of the draws.

    Returns:
        The ceiling; None where no triplet has two answers.
    """
    counts = chosen[answers.triplet]
    pieces = (answers.choices[counts, 0], answers.triplet[counts], answers.subject[counts])
    return ceiling(*pieces, replicates=replicates, level=level, seed=seed)


def share_of_ceiling(
    credit: FloatArray,
    votes: IntArray,
    *,
    simulated: bool = False,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> CeilingShare:
    """Return a model's agreement as a share of the human ceiling on the same triplets.

    Args:
        credit: `(triplet,)` the model's credit (`agreement_credit`) on triplets that it was not fitted to, or the mean
            of it over splits.
        votes: `(triplet, 2)` votes for A and for B, with a majority.
        simulated: Whether the listeners were simulated, for the sentence.
        replicates: Number of bootstrap replicates.
        level: Nominal coverage of the interval.
        seed: Seed of the draws.

    Returns:
        Both figures, their ratio, and its interval from drawing triplets with replacement.

    Raises:
        TripletError: If a triplet has no majority, or none has two votes.
    """
    majority = np.sign(votes[:, 0] - votes[:, 1])
    earned, answers = ceiling_credit(votes)
    if (majority == 0).any() or not answers.any():
        msg = (
            f"A share of the ceiling needs triplets with a majority, and some with two votes; got {len(votes)}, of "
            f"which {int((majority == 0).sum())} are tied and {int((answers > 0).sum())} have two votes. Filter the "
            "table first (Triplets.filter)."
        )
        raise TripletError(msg)
    agreed, human = float(credit.mean()), float(earned.sum() / answers.sum())
    if human == 0.0:
        msg = (
            "The human ceiling is 0 on these triplets: no answer agrees with the others. Use triplets with more votes."
        )
        raise TripletError(msg)
    shares = []
    for weights in replicate_weights([np.arange(len(votes))[:, None]], replicates, np.random.default_rng(seed)):
        model, listeners = weights @ credit / weights.sum(axis=1), weights @ earned
        total = weights @ answers
        usable = (listeners > 0) & (total > 0)
        shares.append(model[usable] * total[usable] / listeners[usable])
    tail = 0.5 - 0.5 * level
    lower, upper = np.quantile(np.concatenate(shares), [tail, 1.0 - tail])
    return CeilingShare(agreed, human, agreed / human, (float(lower), float(upper)), level, simulated)


def _drawn_means(
    credit: FloatArray, kinds: Sequence[IntArray], replicates: int, rng: np.random.Generator
) -> FloatArray:
    """Return the mean credit of every bootstrap replicate that drew any answer."""
    if replicates < 2:  # noqa: PLR2004 - a spread needs two
        msg = f"A bootstrap needs at least 2 replicates, better 1000; got {replicates}."
        raise ConfigError(msg)
    means = []
    for weights in replicate_weights(kinds, replicates, rng):
        total = weights.sum(axis=1)
        means.append((weights @ credit)[total > 0] / total[total > 0])
    return np.concatenate(means)


def _error(credit: FloatArray, value: float, kinds: Sequence[IntArray]) -> float:
    """Return the standard error of the mean credit that counts every pair of answers that share a unit once."""
    scores = (credit - value)[:, None] / len(credit)
    fewest = min(int(units.max()) + 1 for units in kinds)
    if fewest < 2:  # noqa: PLR2004 - one listener or triplet says nothing about others
        return float("inf")
    return float(np.sqrt(shared_variance(scores, kinds).robust[0] * fewest / (fewest - 1.0)))


def _percentiles(drawn: FloatArray, value: float, error: float, level: float, triplets: int) -> Interval:
    """Return the interval of replicates drawn in to a standard error, within [0, 1]."""
    tail = 0.5 - 0.5 * level
    if value in (0.0, 1.0):  # nothing varies: the exact interval of that many triplets (Clopper and Pearson)
        edge = float(beta.ppf(tail, triplets, 1.0))
        return (edge, 1.0) if value == 1.0 else (0.0, 1.0 - edge)
    spread = float(drawn.std())
    if not np.isfinite(error) or spread == 0.0:
        return (0.0, 1.0)
    lower, upper = value + error / spread * (np.quantile(drawn, [tail, 1.0 - tail]) - value)
    return float(max(lower, 0.0)), float(min(upper, 1.0))
