"""Description of a listening test: triplets, answers, position bias and human ceiling."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError
from stemsim.evaluation.ceiling import ceiling
from stemsim.triplets import TEST_TYPES, Triplets
from stemsim.triplets.inst_sim_abx_answers import INSTRUMENTS, Answers, DummyCheck, read_answers

__all__ = ["ListeningTest", "VoteCount", "describe_listening_test"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VoteCount:
    """Votes on the triplets of one instrument and test type, or of several, about one perspective.

    Attributes:
        instrument: What was heard; `all` in a total.
        test_type: `XAB` or `XYC`; `all` in a total.
        triplets: Number of triplets asked.
        distinct: How many of them differ in segments or instrument.
        retained: How many have a majority as large as was asked for.
        answers: Number of answers to all triplets.
        median_votes: Median number of answers to a triplet; None where there is none.
        chose_first: Share of all answers that chose the candidate presented first; None where there is none.
        sure: Share of all answers that were sure rather than "a little"; None where there is none.
        ceiling: How often one answer to the retained triplets agrees with the majority of the others, a tie among
            these counting 0.5; None where no triplet has two answers.
        ceiling_interval: 95 % interval of the ceiling, with other listeners and other triplets.
    """

    instrument: str
    test_type: str
    triplets: int
    distinct: int
    retained: int
    answers: int
    median_votes: float | None
    chose_first: float | None
    sure: float | None
    ceiling: float | None
    ceiling_interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ListeningTest:
    """Description of a listening test.

    Attributes:
        counts: One entry for each instrument and test type chosen.
        chosen: All of these together.
        total: The whole test, whatever was chosen.
        subjects: Number of listeners counted, those who answered dummy checks alone included.
        dummy_checks: Number of answers to dummy checks, before screening.
        wrong_dummies: Those that were wrong.
        screened: Whether the listeners who gave a wrong one were left out.
        perspective: What the answers are about: `overall`, `timbre`, `rhythm` or `melody`.
        pooled: Whether the same question in both runs of the test counts as one triplet.
        min_agreement: Least share of votes of a retained triplet's majority.
        min_votes: Least number of votes of a retained triplet.
    """

    counts: tuple[VoteCount, ...]
    chosen: VoteCount
    total: VoteCount
    subjects: int
    dummy_checks: int
    wrong_dummies: tuple[DummyCheck, ...]
    screened: bool
    perspective: str
    pooled: bool
    min_agreement: float
    min_votes: int


def describe_listening_test(
    root: str | Path,
    *,
    instrument: str | None = None,
    test_type: str | None = None,
    min_agreement: float = 0.8,
    min_votes: int = 1,
    screen: bool = False,
    perspective: str = "overall",
    pool: bool = False,
) -> ListeningTest:
    """Count the votes of Inst-Sim-ABX; no audio is needed.

    Args:
        root: The folder of the Inst-Sim-ABX repository.
        instrument: What was heard; None: everything, in turn.
        test_type: `XAB` or `XYC`; None: both, in turn.
        min_agreement: Least share of votes that the majority of a retained triplet must have.
        min_votes: Least number of votes of a retained triplet.
        screen: Leave out the listeners who failed a dummy check.
        perspective: Answers about what: `overall`, `timbre`, `rhythm` or `melody`; those who gave none do not count.
        pool: Count the same question in both runs of the test as one triplet.

    Returns:
        The counts by instrument and test type, over all of those chosen, and over the whole test.

    Raises:
        ConfigError: If there is no such instrument, test type or perspective.
        DataNotFoundError: If a file is missing.
        TripletError: If a file is not as published, or a threshold is out of range.
    """
    instruments = _choose(instrument, INSTRUMENTS, "instrument")
    test_types = _choose(test_type, TEST_TYPES, "test type")
    everything = read_answers(root)
    listeners = everything.screened() if screen else everything
    answers = (listeners.pooled() if pool else listeners).about(perspective)
    votes = answers.count()
    retained = votes.retained(min_agreement=min_agreement, min_votes=min_votes)  # verifies the thresholds

    def count(heard: Sequence[str], asked: Sequence[str]) -> VoteCount:
        return _count(answers, votes, retained, _mask(votes, heard, asked), (heard, asked))

    return ListeningTest(
        counts=tuple(count([name], [test]) for name in instruments for test in test_types),
        chosen=count(instruments, test_types),
        total=count(INSTRUMENTS, TEST_TYPES),
        subjects=len({*listeners.subject.tolist(), *(check.subject for check in listeners.dummies)}),
        dummy_checks=len(everything.dummies),
        wrong_dummies=everything.wrong_dummies,
        screened=screen,
        perspective=perspective,
        pooled=pool,
        min_agreement=min_agreement,
        min_votes=min_votes,
    )


def _choose(chosen: str | None, available: Sequence[str], what: str) -> Sequence[str]:
    """Return the one that was chosen, or all."""
    if chosen is None:
        return available
    if chosen not in available:
        msg = f"Inst-Sim-ABX has no {what} {chosen!r}. Choose one of {', '.join(available)}, or none for all."
        raise ConfigError(msg)
    return (chosen,)


def _mask(triplets: Triplets, instruments: Sequence[str], test_types: Sequence[str]) -> BoolArray:
    """Return which triplets `(triplet,)` have one of the instruments and of the test types."""
    mask: BoolArray = np.isin(triplets.instrument, instruments) & np.isin(triplets.test_type, test_types)
    return mask


def _count(
    answers: Answers,
    votes: Triplets,
    retained: BoolArray,
    asked: BoolArray,
    what: tuple[Sequence[str], Sequence[str]],
) -> VoteCount:
    """Count the votes on the triplets that were asked about instruments and test types."""
    counted = asked[answers.triplet]
    first, sure = answers.chose_first[counted], answers.sure[counted, 0]
    heard = zip(votes.x[asked], votes.a[asked], votes.b[asked], votes.instrument[asked], strict=True)
    kept = (asked & retained)[answers.triplet]
    found = ceiling(answers.choices[kept, 0], answers.triplet[kept], answers.subject[kept])
    instrument, test_type = (names[0] if len(names) == 1 else "all" for names in what)
    return VoteCount(
        instrument=instrument,
        test_type=test_type,
        triplets=int(asked.sum()),
        distinct=len(set(heard)),
        retained=int((asked & retained).sum()),
        answers=len(first),
        median_votes=float(np.median(votes.votes[asked].sum(axis=1))) if asked.any() else None,
        chose_first=float(first.mean()) if len(first) else None,
        sure=float(sure.mean()) if len(sure) else None,
        ceiling=None if found is None else found.value,
        ceiling_interval=None if found is None else (found.lower, found.upper),
    )
