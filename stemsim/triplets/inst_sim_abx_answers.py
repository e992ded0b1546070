"""The answers of the listening test Inst-Sim-ABX, which need no audio."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.audio import Segment
from stemsim.errors import DataNotFoundError, TripletError
from stemsim.triplets.inst_sim_abx_samples import ROLES, SampleTable, read_samples
from stemsim.triplets.table import PERSPECTIVES, TEST_TYPES, Triplets

__all__ = ["ANSWERS_FILE", "INSTRUMENTS", "Answers", "DummyCheck", "read_answers"]

INSTRUMENTS: Final = ("bass", "drums", "guitar", "piano", "residuals", "mix")
"""What the listeners heard: single stems, or whole recordings."""

ANSWERS_FILE: Final = "csvs/inst_sim_abx_answers.csv"
QUESTIONS: Final = ("total", *PERSPECTIVES)

_PATHS: Final = ("reference", "sample_a", "sample_b")
_COLUMNS: Final = ("ex_name", "subject_id", *_PATHS, *(f"answer_{question}" for question in QUESTIONS))
_CHOICES: Final = {"A+": 1, "A-": 1, "B+": -1, "B-": -1}  # + = sure, - = a little: both are a choice
_NOT_ASKED: Final = "NA"
_SAMPLE: Final = r"^set(?P<set>\d+)/(?P<sample>\d+)/(?P<instrument>\w+)/(?P<filename>(?P<role>[XABYC])_\d+-\d+\.wav)$"
_DUMMY: Final = re.compile(r"^samples/[^/]+$")

BoolArray = npt.NDArray[np.bool_]
ChoiceArray = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class DummyCheck:
    """An answer to a dummy check, where one candidate is the reference itself.

    Attributes:
        line: Line of the answers file, counted from 1.
        subject: The listener.
        answer: What the listener said: `A+`, `A-`, `B+` or `B-`.
        expected: The candidate that is the reference: `A` or `B`.
    """

    line: int
    subject: str
    answer: str
    expected: str

    @property
    def wrong(self) -> bool:
        """Whether the listener took the other candidate for the closer one."""
        return not self.answer.startswith(self.expected)


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a listening test, in canonical order: candidate A or Y first, B or C second.

    A triplet is one question of one of the two runs of the test. The second run (`ex202407`) asked again, of the same
    segments, what the first had asked, and more; such a pair counts as two triplets, and no listener answered both.

    Attributes:
        table: The triplets that were asked, without votes; the segments' paths are relative to a Slakh2100 folder.
        runs: `(triplet,)` name of the run of the test that asked.
        triplet: `(answer,)` row of the table.
        subject: `(answer,)` the listener.
        choices: `(answer, 4)` over all and by `PERSPECTIVES`: +1 = A or Y, -1 = B or C, 0 = was not asked.
        swapped: `(answer,)` whether B or C was presented first.
        dummies: The answers to dummy checks, which are not among the others.
    """

    table: Triplets
    runs: StrArray
    triplet: IntArray
    subject: StrArray
    choices: ChoiceArray
    swapped: BoolArray
    dummies: tuple[DummyCheck, ...]

    def __post_init__(self) -> None:
        """Verify that the arrays belong together."""
        n = len(self.triplet)
        shapes = {
            "runs": (self.runs, (len(self.table),)),
            "subject": (self.subject, (n,)),
            "choices": (self.choices, (n, len(QUESTIONS))),
            "swapped": (self.swapped, (n,)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                msg = f"`{name}` of a listening test must have shape {shape}, got {array.shape}. Mend its reader."
                raise TripletError(msg)

    def __len__(self) -> int:
        return len(self.triplet)

    @property
    def wrong_dummies(self) -> tuple[DummyCheck, ...]:
        """The dummy checks that were answered wrongly."""
        return tuple(check for check in self.dummies if check.wrong)

    @property
    def chose_first(self) -> BoolArray:
        """`(answer,)` whether the candidate that was presented first was chosen over all."""
        return (self.choices[:, 0] > 0) != self.swapped

    def screened(self) -> Self:
        """Return the answers without those of listeners who failed a dummy check, and without triplets left bare."""
        failed = np.array([check.subject for check in self.wrong_dummies], dtype=str)
        keep = ~np.isin(self.subject, failed)
        asked, triplet = np.unique(self.triplet[keep], return_inverse=True)
        return replace(
            self,
            table=self.table.select(asked),
            runs=self.runs[asked],
            triplet=triplet,
            subject=self.subject[keep],
            choices=self.choices[keep],
            swapped=self.swapped[keep],
            dummies=tuple(check for check in self.dummies if check.subject not in failed),
        )

    def count(self) -> Triplets:
        """Return the triplets with their votes; the segments' paths are relative to a Slakh2100 folder."""
        votes = np.zeros((len(QUESTIONS), len(self.table), 2), np.int64)
        for question, choice in enumerate(self.choices.T):
            for column, side in enumerate((1, -1)):
                votes[question, :, column] = np.bincount(self.triplet[choice == side], minlength=len(self.table))
        return replace(self.table, votes=votes[0], perspective_votes=votes[1:].swapaxes(0, 1))  # (triplet, 3, 2)


def read_answers(root: str | Path) -> Answers:
    """Read the answers of Inst-Sim-ABX and verify them against the sample configurations.

    Source: Hashizume and Toda, arXiv:2502.02138; the repository zume06/Inst-Sim-ABX-Dataset.

    Args:
        root: The folder of the repository, with `csvs` and `sample_configs`.

    Returns:
        The answers in canonical order, and the triplets that were asked.

    Raises:
        DataNotFoundError: If a file is missing.
        TripletError: If a file is not what was published: a column is missing, an answer is unknown, or a path
            disagrees with the sample configuration.
    """
    folder = Path(root)
    path = folder / ANSWERS_FILE
    frame = _read_csv(path)
    dummy = frame["reference"].str.match(_DUMMY).to_numpy(bool)
    parsed = _parse(frame[~dummy], path)
    samples = read_samples(folder, parsed.runs)
    rows = _verify(parsed, samples, path)
    asked, first, triplet = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    del asked  # the row of X in the sample table stands for the triplet
    segments, indices = np.unique(rows[first], return_inverse=True)
    x, a, b = indices.reshape(-1, 3).T.astype(np.int64)
    n = len(first)
    table = Triplets(
        segments=tuple(samples.segment(row) for row in segments),
        tracks=tuple(samples.track(row) for row in segments),
        x=x,
        a=a,
        b=b,
        test_type=parsed.test_type[first],
        instrument=parsed.instrument[first],
        votes=np.zeros((n, 2), np.int64),
        perspective_votes=np.zeros((n, len(PERSPECTIVES), 2), np.int64),
        source="Inst-Sim-ABX",
    )
    return Answers(...)
