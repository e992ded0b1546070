"""The answers of the listening test Inst-Sim-ABX, which need no audio."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.errors import ConfigError, DataNotFoundError, TripletError
from stemsim.triplets.inst_sim_abx_samples import REPOSITORY, ROLES, SampleTable, read_samples
from stemsim.triplets.table import PERSPECTIVES, QUESTIONS, Triplets

__all__ = ["ANSWERS_FILE", "INSTRUMENTS", "QUESTIONS", "Answers", "DummyCheck", "read_answers"]

ANSWERS_FILE: Final = "csvs/inst_sim_abx_answers.csv"
INSTRUMENTS: Final = ("bass", "drums", "guitar", "piano", "residuals", "mix")
"""What the listeners heard: single stems, or whole recordings."""

_PRESENTED: Final = ("reference", "sample_a", "sample_b")
_ANSWERS: Final = tuple(f"answer_{question}" for question in ("total", *PERSPECTIVES))
_COLUMNS: Final = ("ex_name", "subject_id", *_PRESENTED, *_ANSWERS)
_CHOICES: Final = {"A+": 1, "A-": 1, "B+": -1, "B-": -1}  # + is sure, - is a little; both are a choice
_SURE: Final = ("A+", "B+")
_NOT_ASKED: Final = "NA"
_DUMMY: Final = r"samples/[^/]+"
_SAMPLE: Final = (
    rf"^set(?P<set>\d+)/(?P<sample>\d+)/(?P<instrument>{'|'.join(INSTRUMENTS)})/"
    r"(?P<filename>(?P<role>[XABYC])_\d+-\d+\.wav)$"
)

BoolArray = npt.NDArray[np.bool_]
ChoiceArray = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class DummyCheck:
    """An answer to a dummy check, in which one candidate is the reference itself.

    Attributes:
        line: Line of the answers file, counted from 1.
        subject: The listener.
        answer: What the listener said over all: `A+`, `A-`, `B+` or `B-`.
        expected: The candidate that is the reference: `A` or `B`.
    """

    line: int
    subject: str
    answer: str
    expected: str

    @property
    def wrong(self) -> bool:
        """Whether the listener found the other candidate closer to the reference than itself."""
        return not self.answer.startswith(self.expected)


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of the listening test in canonical order: candidate A or Y first, B or C second.

    A triplet is what one run of the test asked. The second run (`ex202407`) asked anew, of the same segments, all that
    the first one had asked, and more; these count as two triplets, and no listener answered both. `pooled` makes them
    one.

    Attributes:
        table: The triplets that were asked, without votes; their segments' paths are relative to a Slakh2100 folder.
        triplet: `(answer,)` row of the table.
        subject: `(answer,)` the listener.
        choices: `(answer, 4)` over all and by `PERSPECTIVES`: +1 = A or Y, -1 = B or C, 0 = not asked.
        sure: `(answer, 4)` whether the listener was sure of the choice; False is "a little", or not asked.
        swapped: `(answer,)` whether B or C was presented first.
        dummies: The answers to dummy checks; they are not among the others.
    """

    table: Triplets
    triplet: IntArray
    subject: StrArray
    choices: ChoiceArray
    sure: BoolArray
    swapped: BoolArray
    dummies: tuple[DummyCheck, ...]

    def __len__(self) -> int:
        return len(self.triplet)

    @property
    def wrong_dummies(self) -> tuple[DummyCheck, ...]:
        """The dummy checks that were answered wrongly."""
        return tuple(check for check in self.dummies if check.wrong)

    @property
    def chose_first(self) -> BoolArray:
        """`(answer,)` whether the candidate that was presented first was chosen over all."""
        chose_first: BoolArray = (self.choices[:, 0] > 0) != self.swapped
        return chose_first

    def screened(self) -> Self:
        """Return the answers without all those of listeners who failed a dummy check."""
        failed = {check.subject for check in self.wrong_dummies}
        keep = ~np.isin(self.subject, sorted(failed))
        asked, triplet = np.unique(self.triplet[keep], return_inverse=True)
        return replace(
            self,
            table=self.table.select(asked),
            triplet=triplet.astype(np.int64),
            subject=self.subject[keep],
            choices=self.choices[keep],
            sure=self.sure[keep],
            swapped=self.swapped[keep],
            dummies=tuple(check for check in self.dummies if check.subject not in failed),
        )

    def pooled(self) -> Self:
        """Return the answers with identical questions of the two runs made one triplet; no answer is lost."""
        table = self.table
        names = np.unique(np.char.add(table.test_type, table.instrument), return_inverse=True)[1]
        asked = np.stack([table.x, table.a, table.b, names.reshape(-1)], axis=1)
        _, first, question = np.unique(asked, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)  # triplets stay in the order in which they come first
        place = np.argsort(order)[question.reshape(-1)]
        return replace(self, table=table.select(first[order]), triplet=place[self.triplet].astype(np.int64))

    def about(self, question: str) -> Self:
        """Return the answers to one question in place of those over all, without the listeners who gave none.

        Votes, grades, majorities and position bias of what is returned are then about this question.

        Args:
            question: `overall`, `timbre`, `rhythm` or `melody`.

        Raises:
            ConfigError: If there is no such question.
        """
        if question not in QUESTIONS:
            msg = f"Listeners were asked about {', '.join(QUESTIONS)}; got {question!r}. Choose one of these."
            raise ConfigError(msg)
        column = QUESTIONS.index(question)
        said = self.choices[:, column] != 0
        columns = [column, *range(1, len(QUESTIONS))]
        return replace(
            self,
            triplet=self.triplet[said],
            subject=self.subject[said],
            choices=self.choices[said][:, columns],
            sure=self.sure[said][:, columns],
            swapped=self.swapped[said],
        )

    def count(self) -> Triplets:
        """Return the table with the votes counted, overall and for each perspective, and the grades overall."""
        votes = np.stack([self._count(chosen) for chosen in self.choices.T])  # (question, triplet, 2)
        sure = self._count(np.where(self.sure[:, 0], self.choices[:, 0], 0))
        return replace(self.table, votes=votes[0], perspective_votes=votes[1:].swapaxes(0, 1), sure_votes=sure)

    def _count(self, chosen: ChoiceArray) -> IntArray:
        """Count choices `(answer,)` by triplet and side, `(triplet, 2)`."""
        sides = [np.bincount(self.triplet[chosen == side], minlength=len(self.table)) for side in (1, -1)]
        return np.stack(sides, axis=-1).astype(np.int64)


def read_answers(root: str | Path) -> Answers:
    """Read the answers of Inst-Sim-ABX and verify them against the sample configurations.

    Source: Hashizume and Toda, arXiv:2502.02138; repository zume06/Inst-Sim-ABX-Dataset.

    Args:
        root: The folder of the repository, with `csvs` and `sample_configs`.

    Returns:
        The answers in canonical order, and the triplets that they are about.

    Raises:
        DataNotFoundError: If a file is missing.
        TripletError: If a file is not as published: a column is missing, an answer is unknown, or a path disagrees
            with the sample configuration.
    """
    path = Path(root) / ANSWERS_FILE
    frame = _read_csv(path)
    _check_answers(frame, path)
    dummy = frame["reference"].str.fullmatch(_DUMMY).to_numpy(bool)
    if dummy.all():
        msg = f"{path} holds dummy checks only, and no answer. Restore it from the repository {REPOSITORY}."
        raise TripletError(msg)
    dummies = _dummy_checks(frame[dummy], path)
    return _canonical(frame[~dummy], path, dummies)


def _require(good: BoolArray, frame: pd.DataFrame, path: Path, describe: Callable[[int], str]) -> None:
    """Raise an error about the first row that is not good; `describe` says what is wrong with the row of a position."""
    if not good.all():
        where = int(good.argmin())
        line = int(frame.index.to_numpy(np.int64)[where]) + 2  # the heading is line 1
        msg = f"{path}, line {line}: {describe(where)}. Restore the file from the repository {REPOSITORY}."
        raise TripletError(msg)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read the columns we need as text, `NA` included."""
    if not path.is_file():
        msg = (
            f"No answers at {path}. Set the folder to a copy of the repository {REPOSITORY} (arXiv:2502.02138), which "
            "holds `csvs` and `sample_configs`."
        )
        raise DataNotFoundError(msg)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"{path} is not a table of answers ({error}). Restore it from the repository {REPOSITORY}."
        raise TripletError(msg) from error
    missing = [column for column in _COLUMNS if column not in frame.columns]
    if missing:
        msg = (
            f"{path} must have the columns {', '.join(_COLUMNS)}; it lacks {', '.join(missing)}. Restore it from the "
            f"repository {REPOSITORY}."
        )
        raise TripletError(msg)
    return frame[list(_COLUMNS)].fillna("")


def _check_answers(frame: pd.DataFrame, path: Path) -> None:
    """Verify that every answer is a choice; only perspectives may go without."""
    for column in _ANSWERS:
        allowed = [*_CHOICES, *([] if column == _ANSWERS[0] else [_NOT_ASKED])]
        seen = frame[column].to_numpy(str)
        expected = f"`{column}` must be one of {', '.join(allowed)}"
        _require(np.isin(seen, allowed), frame, path, lambda where: f"{expected}; got {str(seen[where])!r}")  # noqa: B023


def _dummy_checks(frame: pd.DataFrame, path: Path) -> tuple[DummyCheck, ...]:
    """Return the dummy checks: rows in which one candidate is the file of the reference."""
    reference, first, second = (frame[column].to_numpy(str) for column in _PRESENTED)
    _require(
        (first == reference) != (second == reference),
        frame,
        path,
        lambda where: (
            f"one candidate of a dummy check must be {reference[where]} itself; got {first[where]} and {second[where]}"
        ),
    )
    lines = (frame.index.to_numpy(np.int64) + 2).tolist()
    expected = np.where(first == reference, "A", "B").tolist()
    rows = zip(lines, frame["subject_id"], frame[_ANSWERS[0]], expected, strict=True)
    return tuple(DummyCheck(line, subject, answer, letter) for line, subject, answer, letter in rows)


def _canonical(frame: pd.DataFrame, path: Path, dummies: tuple[DummyCheck, ...]) -> Answers:
    """Put the answers, one row each, in canonical order, and look up what was heard."""
    presented = [_parse(frame, column, path) for column in _PRESENTED]
    test_type, swapped = _roles(frame, presented, path)
    samples = read_samples(path.parents[1], sorted(set(frame["ex_name"])))
    looked_up = [
        _look_up(frame, column, parts, test_type, samples, path)
        for column, parts in zip(_PRESENTED, presented, strict=True)
    ]
    rows = np.stack(looked_up, axis=1)  # (answer, 3), as presented
    rows[swapped] = rows[swapped][:, [0, 2, 1]]
    # The row of X stands for the triplet: run, set, sample, test type and instrument are its key.
    _, first, triplet = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    subject = frame["subject_id"].to_numpy(str)
    repeated = pd.DataFrame({"subject": subject, "triplet": triplet}).duplicated().to_numpy(bool)
    _require(~repeated, frame, path, lambda where: f"{subject[where]} has answered this before, and may do so once")
    choices = np.stack(
        [frame[column].map({**_CHOICES, _NOT_ASKED: 0}).to_numpy(np.int8) for column in _ANSWERS], axis=1
    )
    choices[swapped] *= -1
    sure = np.stack([frame[column].isin(_SURE).to_numpy(bool) for column in _ANSWERS], axis=1)
    return Answers(
        table=_table(rows[first], test_type[first], presented[0]["instrument"].to_numpy(str)[first], samples),
        triplet=triplet.astype(np.int64),
        subject=subject,
        choices=choices,
        sure=sure,
        swapped=swapped,
        dummies=dummies,
    )


def _parse(frame: pd.DataFrame, column: str, path: Path) -> pd.DataFrame:
    """Take the paths of one column apart: set, sample, instrument, filename, role."""
    parts = frame[column].str.extract(_SAMPLE)
    expected = (
        f"`{column}` must be a path such as set2/0/mix/X_1876-3.wav, of {', '.join(INSTRUMENTS)}; only where the "
        "reference is samples/dummyX1.wav or its like is the row a dummy check"
    )
    good = parts["role"].notna().to_numpy(bool)
    _require(good, frame, path, lambda where: f"{expected}; got {str(frame[column].iloc[where])!r}")
    return parts


def _roles(frame: pd.DataFrame, presented: list[pd.DataFrame], path: Path) -> tuple[StrArray, BoolArray]:
    """Return the test type `(answer,)`, and whether the candidates were presented in the other order `(answer,)`."""
    roles = presented[0]["role"] + presented[1]["role"] + presented[2]["role"]
    canonical = {"".join(order): test for test, order in ROLES.items()}
    other_way = {x + b + a: test for test, (x, a, b) in ROLES.items()}
    good = roles.isin([*canonical, *other_way]).to_numpy(bool)
    for column in ("set", "sample", "instrument"):
        for candidate in presented[1:]:
            good = good & (presented[0][column] == candidate[column]).to_numpy(bool)
    expected = "a triplet must be X with A and B, or X with Y and C, of one set, sample and instrument"
    _require(
        good, frame, path, lambda where: f"{expected}; got {', '.join(str(frame[c].iloc[where]) for c in _PRESENTED)}"
    )
    return roles.map({**canonical, **other_way}).to_numpy(str), roles.isin([*other_way]).to_numpy(bool)


def _look_up(
    frame: pd.DataFrame, column: str, parts: pd.DataFrame, test_type: StrArray, samples: SampleTable, path: Path
) -> IntArray:
    """Return the row of the sample table for each path of a column, having verified that both say the same."""
    place = parts[["set", "sample"]].assign(test_type=test_type)
    place[["instrument", "role"]] = parts[["instrument", "role"]]
    rows = samples.find(pd.Index(frame["ex_name"].str.cat(place, sep="/")))
    filename = parts["filename"].to_numpy(str)
    agree: BoolArray = (rows >= 0) & (samples.filename[rows] == filename) & (samples.described[rows] == filename)

    def describe(where: int) -> str:
        row = int(rows[where])
        seen = f"{samples.filename[row]}, described as {samples.described[row]}" if row >= 0 else "no such sample"
        run = frame["ex_name"].iloc[where]
        return f"`{column}` is {frame[column].iloc[where]}, but the sample configuration of {run} has {seen}"

    _require(agree, frame, path, describe)
    return rows


def _table(rows: IntArray, test_type: StrArray, instrument: StrArray, samples: SampleTable) -> Triplets:
    """Return the triplet table, without votes, of rows `(triplet, 3)` of the sample table."""
    n = len(rows)
    used, place = np.unique(rows, return_inverse=True)
    segments = [samples.segment(row) for row in used]
    number = {segment: index for index, segment in enumerate(sorted(set(segments)))}  # both runs use the same ones
    x, a, b = np.array([number[segment] for segment in segments], dtype=np.int64)[place.reshape(n, 3)].T
    return Triplets(
        segments=tuple(number),
        tracks=tuple(segment.path.parent.name for segment in number),
        x=x,
        a=a,
        b=b,
        test_type=test_type,
        instrument=instrument,
        votes=np.zeros((n, 2), np.int64),
        perspective_votes=np.zeros((n, len(PERSPECTIVES), 2), np.int64),
        source="Inst-Sim-ABX",
    )
