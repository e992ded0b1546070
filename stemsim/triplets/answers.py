"""Single answers of listeners to triplets, from which votes, position bias and human ceiling are counted."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pandas as pd

from stemsim.triplets.table import (
    PERSPECTIVES,
    QUESTIONS,
    BoolArray,
    ChoiceArray,
    FloatArray,
    IntArray,
    StrArray,
    TestType,
    Triplets,
    question_index,
)

if TYPE_CHECKING:
    from stemsim.audio import Segment  # imports torch, which counting does not need


class Excerpt(NamedTuple):
    """What a listener heard as X, A or B."""

    track: str  # name of the track that it was cut from
    path: Path  # audio file
    start: float  # s
    duration: float | None  # s; None: to the end of the file

    @property
    def segment(self) -> "Segment":
        """The segment of the audio file, which must be there if the duration is that of the file."""
        from stemsim.audio import Segment

        if self.duration is None:
            return Segment.between(self.path, self.start, None)
        return Segment(self.path, self.start, self.duration)


@dataclass(frozen=True, slots=True)
class DummyCheck:
    """Answer to a dummy check, in which one candidate is the reference itself."""

    line: int  # of the answers file, counted from 1
    subject: str
    answer: str  # on overall similarity: A+, A-, B+ or B-
    expected: str  # the candidate that is the reference: A or B


@dataclass(frozen=True, slots=True)
class Repeat:
    """A question that a listener answered before; only the first answer is among the votes."""

    line: int  # of the answers file, counted from 1
    subject: str
    triplet: int  # row of `Answers.asked`
    question: str  # one of `QUESTIONS`
    same: bool  # the same candidate was chosen again, wherever it was presented


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a listening test in canonical order: candidate A or Y first, B or C second.

    Attributes:
        asked: The triplets, one row each: `test_type`, `instrument`, and the excerpts `x`, `a` and `b`.
        triplet: `(answer,)` row of `asked`.
        subject: `(answer,)` the listener.
        choices: `(answer, 4)` overall and by `PERSPECTIVES`: +1 = A or Y, -1 = B or C, 0 = not asked.
        sure: `(answer, 4)` True where the listener was sure; False is "a little", not asked, or not graded.
        swapped: `(answer,)` True where candidate B or C was presented first.
        seconds: `(answer,)` time from the first sound to the answer; NaN where it is unknown.
        at_random: `(answer,)` True where the question was drawn at random, False where it was chosen as informative.
        dummies: The answers to dummy checks; they are not among the others.
        repeats: The answers to questions that the listener answered before; they are not among the others.
        graded: Every answer is sure or "a little".
        named: Every answer is by a named listener; answers without a name are each by a listener of their own.
        instruments: What listeners could hear: stems, or `mix` for whole recordings.
        source: Name of the listening test, for titles.
    """

    asked: pd.DataFrame
    triplet: IntArray
    subject: StrArray
    choices: ChoiceArray
    sure: BoolArray
    swapped: BoolArray
    seconds: FloatArray
    at_random: BoolArray
    dummies: tuple[DummyCheck, ...]
    repeats: tuple[Repeat, ...]
    graded: bool
    named: bool
    instruments: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.triplet)

    @property
    def chose_first(self) -> BoolArray:
        """`(answer,)` True where the candidate that was presented first was chosen overall."""
        chosen: BoolArray = (self.choices[:, 0] > 0) != self.swapped
        return chosen

    @cached_property
    def table(self) -> Triplets:
        """The triplets without votes."""
        n, places = len(self.asked), self.asked[["x", "a", "b"]].to_numpy()
        used: list[Excerpt] = sorted(set(places.flat), key=lambda one: (*one[:3], one.duration or np.inf))
        number = {excerpt: index for index, excerpt in enumerate(used)}
        members = np.array([number[excerpt] for excerpt in places.flat], dtype=np.int64)
        return Triplets(
            segments=tuple(excerpt.segment for excerpt in used),
            tracks=tuple(excerpt.track for excerpt in used),
            members=members.reshape(n, 3),
            test_type=self.asked["test_type"].to_numpy(str),
            instrument=self.asked["instrument"].to_numpy(str),
            votes=np.zeros((n, 2), np.int64),
            perspective_votes=np.zeros((n, len(PERSPECTIVES), 2), np.int64),
            source=self.source,
        )

    @property
    def wrong_dummies(self) -> tuple[DummyCheck, ...]:
        """The dummy checks that were answered wrongly."""
        return tuple(check for check in self.dummies if not check.answer.startswith(check.expected))

    def screened(self) -> Self:
        """Return the answers without all those of listeners who failed a dummy check."""
        failed = {check.subject for check in self.wrong_dummies}
        return self.of({*self.subject.tolist(), *(check.subject for check in self.dummies)} - failed)

    def of(self, subjects: Collection[str]) -> Self:
        """Return the answers of some listeners, and the triplets that they were asked about."""
        kept = self._select(np.isin(self.subject, sorted(subjects)))
        asked, triplet = np.unique(kept.triplet, return_inverse=True)
        place = dict(zip(asked.tolist(), range(len(asked)), strict=True))
        return replace(
            kept,
            asked=self.asked.iloc[asked],
            triplet=triplet.astype(np.int64),
            dummies=tuple(check for check in self.dummies if check.subject in subjects),
            repeats=tuple(
                replace(again, triplet=place[again.triplet]) for again in self.repeats if again.subject in subjects
            ),
        )

    def pooled(self) -> Self:
        """Return the answers with questions that several runs asked as one triplet; no answer is lost."""
        groups = self.asked.groupby(["x", "a", "b", "instrument", "test_type"], sort=False)
        question = groups.ngroup().to_numpy()  # numbered by first occurrence
        triplet = question[self.triplet].astype(np.int64)
        repeats = tuple(replace(again, triplet=int(question[again.triplet])) for again in self.repeats)
        return replace(self, asked=groups.head(1), triplet=triplet, repeats=repeats)

    def about(self, question: str) -> Self:
        """Return the answers to one of `QUESTIONS` as the overall answers, without the listeners who gave none.

        Votes, grades, majorities and position bias of the result are about this question.
        """
        column = question_index(question)
        kept = self._select(self.choices[:, column] != 0)
        columns = [column, *range(1, len(QUESTIONS))]
        repeats = tuple(again for again in self.repeats if again.question == question)
        return replace(kept, choices=kept.choices[:, columns], sure=kept.sure[:, columns], repeats=repeats)

    def kept(
        self,
        question: str,
        *,
        instrument: str | None,
        test_type: TestType | None,
        min_agreement: float,
        min_votes: int,
    ) -> Triplets:
        """Return the triplets that meet all conditions of `Triplets.filter` by the votes on one question."""
        counted = self.about(question).count()
        source = counted.source if question == "overall" else f"{counted.source}, {question}"
        return replace(counted, source=source).filter(
            instrument=instrument, test_type=test_type, min_agreement=min_agreement, min_votes=min_votes
        )

    def count(self) -> Triplets:
        """Return the table with the votes counted, overall and for each perspective, and the grades overall."""
        perspectives = np.stack([self.votes(column) for column in range(1, len(QUESTIONS))], axis=1)
        sure = self._select(self.sure[:, 0]).votes() if self.graded else None
        return replace(self.table, votes=self.votes(), perspective_votes=perspectives, sure_votes=sure)

    def votes(self, column: int = 0) -> IntArray:
        """Count the votes for A and for B of each triplet, `(triplet, 2)`; `column` is that of `choices`."""
        chosen = self.choices[:, column]
        sides = [np.bincount(self.triplet[chosen == side], minlength=len(self.asked)) for side in (1, -1)]
        return np.stack(sides, axis=-1).astype(np.int64)

    def _select(self, rows: BoolArray) -> Self:
        """Return some answers to all triplets."""
        names = ("triplet", "subject", "choices", "sure", "swapped", "seconds", "at_random")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})
