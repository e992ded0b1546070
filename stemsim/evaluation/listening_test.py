"""Description of a listening test: triplets, answers, position bias, repeats and human ceiling."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stemsim.errors import ConfigError
from stemsim.evaluation.agreement import Share, answer_share, ceiling
from stemsim.triplets import TEST_TYPES
from stemsim.triplets.answers import Answers, DummyCheck
from stemsim.triplets.inst_sim_abx_answers import read_answers
from stemsim.triplets.table import retained_votes
from stemsim.triplets.votes_file_answers import read_votes


@dataclass(frozen=True, slots=True)
class VoteCount:
    """Votes on the triplets of one instrument and test type, or of several, about one perspective."""

    instrument: str  # instrument that was heard; `all` in a total. Likewise `test_type`
    test_type: str
    triplets: int
    distinct: int  # number of triplets that differ in segments or instrument
    retained: int  # number of triplets with a majority that meets the thresholds
    answers: int  # number of answers to all triplets
    median_votes: float | None  # median number of answers to a triplet; this and the rest are None where there are none
    chose_first: float | None  # share of all answers that chose the candidate presented first
    chose_first_interval: tuple[float, float] | None  # 95 % interval of it over other listeners and other triplets
    sure: float | None  # share of all answers that were sure rather than "a little"; None too where they are not graded
    ceiling: float | None  # agreement of an answer with the majority of the others, over the retained triplets
    ceiling_interval: tuple[float, float] | None  # likewise


@dataclass(frozen=True, slots=True)
class ListeningTest:
    """Description of a listening test."""

    source: str  # its name
    counts: tuple[VoteCount, ...]  # one entry for each instrument and test type chosen
    chosen: VoteCount  # all of these together
    total: VoteCount  # the whole test, whatever was chosen
    subjects: int | None  # number of listeners counted, with those who answered dummy checks only; None: without names
    dummy_checks: int  # number of answers to dummy checks, before screening
    wrong_dummies: tuple[DummyCheck, ...]  # those that were wrong
    repeats: int  # number of answers to questions that the listener had answered before, which are no votes
    consistency: float | None  # share of them that chose the same candidate again; None where there are no repeats
    consistency_interval: tuple[float, float] | None  # its 95 % interval
    screened: bool  # listeners who gave a wrong one were left out; this and the rest are the settings
    perspective: str
    pooled: bool
    min_agreement: float
    min_votes: int


def read_listening_test(path: str | Path) -> Answers:
    """Read the answers of a listening test: a votes file, or the folder of Inst-Sim-ABX."""
    return read_votes(path) if Path(path).is_file() else read_answers(path)


def describe_listening_test(
    path: str | Path,
    *,
    instrument: str | None = None,
    test_type: str | None = None,
    min_agreement: float = 0.8,
    min_votes: int = 1,
    screen: bool = False,
    perspective: str = "overall",
    pool: bool = False,
) -> ListeningTest:
    """Count the votes of a listening test; no audio is needed.

    Args:
        path: A votes file, or the folder of the Inst-Sim-ABX repository.
        instrument: Instrument that was heard; None: all.
        test_type: `XAB` or `XYC`; None: both.
        min_agreement: Minimum share of votes of a retained triplet's majority.
        min_votes: Minimum number of votes of a retained triplet.
        screen: Leave out the listeners who failed a dummy check.
        perspective: Question that the answers are about: `overall`, `timbre`, `rhythm` or `melody`.
        pool: Count the same question in both runs of Inst-Sim-ABX as one triplet; in a votes file, it always is.

    Raises:
        ConfigError: If there is no such instrument, test type or perspective.
        DataNotFoundError: If a file is missing.
        TripletError: If a file is not as described or published, or a threshold is out of range.
    """
    everything = read_listening_test(path)
    instruments = _choose(instrument, everything.instruments, f"{everything.source} has no instrument")
    test_types = _choose(test_type, TEST_TYPES, "There is no test type")
    listeners = everything.screened() if screen else everything
    answers = (listeners.pooled() if pool else listeners).about(perspective)
    asked, votes, triplet = answers.asked, answers.votes(), answers.triplet
    retained = retained_votes(votes, min_agreement=min_agreement, min_votes=min_votes)

    def count(heard: Sequence[str], tests: Sequence[str]) -> VoteCount:
        """Count the votes on the triplets of some instruments and test types."""
        rows = (asked["instrument"].isin(heard) & asked["test_type"].isin(tests)).to_numpy(bool)
        counted, kept = rows[triplet], (rows & retained)[triplet]
        found = ceiling(answers.choices[kept, 0], triplet[kept], answers.subject[kept])
        first = None
        if counted.any():
            first = answer_share(answers.chose_first[counted], triplet[counted], answers.subject[counted])
        return VoteCount(
            instrument=heard[0] if len(heard) == 1 else "all",
            test_type=tests[0] if len(tests) == 1 else "all",
            triplets=int(rows.sum()),
            distinct=len(asked.loc[rows, ["x", "a", "b", "instrument"]].drop_duplicates()),
            retained=int((rows & retained).sum()),
            answers=int(counted.sum()),
            median_votes=float(np.median(votes[rows].sum(axis=1))) if rows.any() else None,
            chose_first=_value(first),
            chose_first_interval=_interval(first),
            sure=float(answers.sure[counted, 0].mean()) if counted.any() and answers.graded else None,
            ceiling=_value(found),
            ceiling_interval=_interval(found),
        )

    again = answers.repeats
    consistency = None
    if again:
        same, asked_again, by = zip(*((one.same, one.triplet, one.subject) for one in again), strict=True)
        consistency = answer_share(np.array(same), np.array(asked_again), np.array(by))
    return ListeningTest(
        source=everything.source,
        counts=tuple(count([name], [test]) for name in instruments for test in test_types),
        chosen=count(instruments, test_types),
        total=count(answers.instruments, TEST_TYPES),
        subjects=len({*listeners.subject.tolist(), *(check.subject for check in listeners.dummies)})
        if listeners.named
        else None,
        dummy_checks=len(everything.dummies),
        wrong_dummies=everything.wrong_dummies,
        repeats=len(again),
        consistency=_value(consistency),
        consistency_interval=_interval(consistency),
        screened=screen,
        perspective=perspective,
        pooled=pool,
        min_agreement=min_agreement,
        min_votes=min_votes,
    )


def _value(share: Share | None) -> float | None:
    return None if share is None else share.value


def _interval(share: Share | None) -> tuple[float, float] | None:
    return None if share is None else share[1:]


def _choose(chosen: str | None, available: Sequence[str], missing: str) -> Sequence[str]:
    """Return the chosen one, or all."""
    if chosen is None:
        return available
    if chosen not in available:
        raise ConfigError(f"{missing} {chosen!r}. Choose one of {', '.join(available)}, or none for all.")
    return (chosen,)
