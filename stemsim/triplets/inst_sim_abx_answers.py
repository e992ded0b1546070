"""Answers of the listening test Inst-Sim-ABX, and the samples that they are about; no audio is needed."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.errors import DataNotFoundError, TripletError
from stemsim.triplets.table import PERSPECTIVES, QUESTIONS, TestType, Triplets, question_index

__all__ = ["ANSWERS_FILE", "INSTRUMENTS", "Answers", "DummyCheck", "read_answers"]

ANSWERS_FILE: Final = "csvs/inst_sim_abx_answers.csv"
INSTRUMENTS: Final = ("bass", "drums", "guitar", "piano", "residuals", "mix")
"""The stems that the listeners heard, or `mix`: whole recordings."""

_REPOSITORY: Final = "zume06/Inst-Sim-ABX-Dataset"
_ROLES: Final[dict[TestType, tuple[str, str, str]]] = {
    "XAB": ("X", "A", "B"),
    "XYC": ("X", "Y", "C"),
}  # canonical order
# The data set's own Readme has these the other way round; the roles in the files themselves decide.
_TESTS: Final[dict[TestType, str]] = {"XYC": "test1", "XAB": "test2"}
_RUN: Final = re.compile(r"ex(\d+)")
_SAMPLE_FIELDS: Final = ("ID", "seg", "filename", "sr", "index_s", "index_e")
_PRESENTED: Final = ("reference", "sample_a", "sample_b")
_ANSWERS: Final = tuple(f"answer_{question}" for question in ("total", *PERSPECTIVES))
_PATHS: Final = ("x_path", "a_path", "b_path")  # in canonical order
_COLUMNS: Final = ("ex_name", "subject_id", *_PRESENTED, *_ANSWERS)
_CHOICES: Final = {"A+": 1, "A-": 1, "B+": -1, "B-": -1}  # + is sure, - is a little; both are a choice
_SURE: Final = ("A+", "B+")
_NOT_ASKED: Final = "NA"
_DUMMY: Final = r"samples/[^/]+"
_SAMPLE: Final = re.compile(
    rf"(?P<folder>set\d+/\d+/(?:{'|'.join(INSTRUMENTS)}))/(?P<filename>(?P<role>[XABYC])_\d+-\d+\.wav)"
)

BoolArray = npt.NDArray[np.bool_]
ChoiceArray = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]
Excerpt = tuple[int, float, float]


@dataclass(frozen=True, slots=True)
class DummyCheck:
    """Answer to a dummy check, in which one candidate is the reference itself.

    Attributes:
        line: Line of the answers file, counted from 1.
        subject: The listener.
        answer: The answer on overall similarity: `A+`, `A-`, `B+` or `B-`.
        expected: The candidate that is the reference: `A` or `B`.
    """

    line: int
    subject: str
    answer: str
    expected: str

    @property
    def wrong(self) -> bool:
        """Whether the listener found the other candidate closer to the reference than the reference itself."""
        return not self.answer.startswith(self.expected)


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of the listening test in canonical order: candidate A or Y first, B or C second.

    The test ran twice. The second run (`ex202407`) repeated all questions of the first one and added more; repeated
    questions count as two triplets here, and no listener answered both. `pooled` makes them one.

    Attributes:
        asked: The triplets, one row each: `test_type`, `instrument`, and the rows `x`, `a` and `b` of `excerpts`.
        excerpts: The distinct segments: number of the Slakh2100 track, start and duration in seconds.
        triplet: `(answer,)` row of `asked`.
        subject: `(answer,)` the listener.
        choices: `(answer, 4)` overall and by `PERSPECTIVES`: +1 = A or Y, -1 = B or C, 0 = not asked.
        sure: `(answer, 4)` True where the listener was sure; False is "a little", or not asked.
        swapped: `(answer,)` True where B or C was presented first.
        dummies: The answers to dummy checks; they are not among the others.
    """

    asked: pd.DataFrame
    excerpts: tuple[Excerpt, ...]
    triplet: IntArray
    subject: StrArray
    choices: ChoiceArray
    sure: BoolArray
    swapped: BoolArray
    dummies: tuple[DummyCheck, ...]

    def __len__(self) -> int:
        return len(self.triplet)

    @cached_property
    def table(self) -> Triplets:
        """The triplets without votes; paths of segments are relative to a Slakh2100 folder."""
        from stemsim.audio import Segment

        n = len(self.asked)
        used, place = np.unique(self.asked[["x", "a", "b"]].to_numpy(np.int64), return_inverse=True)
        x, a, b = place.reshape(n, 3).astype(np.int64).T
        excerpts = [self.excerpts[row] for row in used]
        tracks = tuple(f"Track{track:05d}" for track, _, _ in excerpts)
        return Triplets(
            segments=tuple(
                Segment(Path(track) / "mix.flac", start, duration)
                for track, (_, start, duration) in zip(tracks, excerpts, strict=True)
            ),
            tracks=tracks,
            x=x,
            a=a,
            b=b,
            test_type=self.asked["test_type"].to_numpy(str),
            instrument=self.asked["instrument"].to_numpy(str),
            votes=np.zeros((n, 2), np.int64),
            perspective_votes=np.zeros((n, len(PERSPECTIVES), 2), np.int64),
            source="Inst-Sim-ABX",
        )

    @property
    def wrong_dummies(self) -> tuple[DummyCheck, ...]:
        """The dummy checks that were answered wrongly."""
        return tuple(check for check in self.dummies if check.wrong)

    @property
    def chose_first(self) -> BoolArray:
        """`(answer,)` True where the candidate that was presented first was chosen overall."""
        chose_first: BoolArray = (self.choices[:, 0] > 0) != self.swapped
        return chose_first

    def screened(self) -> Self:
        """Return the answers without all those of listeners who failed a dummy check."""
        failed = {check.subject for check in self.wrong_dummies}
        kept = self._select(~np.isin(self.subject, sorted(failed)))
        asked, triplet = np.unique(kept.triplet, return_inverse=True)
        return replace(
            kept,
            asked=self.asked.iloc[asked],
            triplet=triplet.astype(np.int64),
            dummies=tuple(check for check in self.dummies if check.subject not in failed),
        )

    def pooled(self) -> Self:
        """Return the answers with questions that both runs asked as one triplet; no answer is lost."""
        question, _ = pd.factorize(pd.MultiIndex.from_frame(self.asked[["x", "a", "b", "instrument", "test_type"]]))
        _, first = np.unique(question, return_index=True)  # numbers are by first occurrence
        return replace(self, asked=self.asked.iloc[first], triplet=question[self.triplet].astype(np.int64))

    def about(self, question: str) -> Self:
        """Return the answers to one question as the overall answers, without the listeners who gave none.

        Votes, grades, majorities and position bias of the result are about this question.

        Args:
            question: `overall`, `timbre`, `rhythm` or `melody`.

        Raises:
            ConfigError: If there is no such question.
        """
        column = question_index(question)
        columns = [column, *range(1, len(QUESTIONS))]
        kept = self._select(self.choices[:, column] != 0)
        return replace(kept, choices=kept.choices[:, columns], sure=kept.sure[:, columns])

    def count(self) -> Triplets:
        """Return the table with the votes counted, overall and for each perspective, and the grades overall."""
        perspectives = np.stack([self.votes(column) for column in range(1, len(QUESTIONS))], axis=1)
        return replace(
            self.table, votes=self.votes(), perspective_votes=perspectives, sure_votes=self._count(self.sure[:, 0])
        )

    def votes(self, column: int = 0) -> IntArray:
        """Count the votes for A and for B of each triplet, `(triplet, 2)`; `column` is that of `choices`."""
        return self._count(np.ones(len(self), bool), column)

    def _count(self, counted: BoolArray, column: int = 0) -> IntArray:
        chosen = self.choices[:, column]
        sides = [np.bincount(self.triplet[counted & (chosen == side)], minlength=len(self.asked)) for side in (1, -1)]
        return np.stack(sides, axis=-1).astype(np.int64)

    def _select(self, rows: BoolArray) -> Self:
        """Return some answers to all triplets."""
        names = ("triplet", "subject", "choices", "sure", "swapped")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def read_answers(root: str | Path) -> Answers:
    """Read the answers of Inst-Sim-ABX and verify them against the sample configurations.

    Source: Hashizume and Toda, arXiv:2502.02138; repository zume06/Inst-Sim-ABX-Dataset.

    Args:
        root: Folder of the repository, with `csvs` and `sample_configs`.

    Returns:
        The answers in canonical order, and the triplets that they are about.

    Raises:
        DataNotFoundError: If a file is missing.
        TripletError: If a file is not as published: a column is missing, an answer is unknown, or a path disagrees
            with the sample configuration.
    """
    path = Path(root) / ANSWERS_FILE
    frame = _read_csv(path)
    dummy = frame["reference"].str.fullmatch(_DUMMY).to_numpy(bool)
    if dummy.all():
        msg = f"{path} holds dummy checks only, and no answer. Restore it from the repository {_REPOSITORY}."
        raise TripletError(msg)
    dummies = _dummy_checks(frame[dummy], path)
    frame = frame[~dummy]
    known, excerpts = _read_samples(path.parents[1], sorted(set(frame["ex_name"])))
    row, swapped = _look_up(frame, known, path)
    asked, triplet = np.unique(row, return_inverse=True)
    subject = frame["subject_id"].to_numpy(str)
    repeated = pd.DataFrame({"subject": subject, "triplet": triplet}).duplicated().to_numpy(bool)
    _require(~repeated, frame, path, lambda where: f"{subject[where]} answered this question before")
    codes = {**_CHOICES, _NOT_ASKED: 0}
    choices = np.stack([frame[column].map(codes).to_numpy(np.int8) for column in _ANSWERS], axis=1)
    choices[swapped] *= -1
    sure = np.stack([frame[column].isin(_SURE).to_numpy(bool) for column in _ANSWERS], axis=1)
    return Answers(known.iloc[asked], excerpts, triplet.astype(np.int64), subject, choices, sure, swapped, dummies)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read and verify the columns that we need as text, `NA` included."""
    if not path.is_file():
        msg = (
            f"No answers at {path}. Set the folder to a copy of the repository {_REPOSITORY} (arXiv:2502.02138), which "
            "holds `csvs` and `sample_configs`."
        )
        raise DataNotFoundError(msg)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"{path} is not a table of answers ({error}). Restore it from the repository {_REPOSITORY}."
        raise TripletError(msg) from error
    missing = [column for column in _COLUMNS if column not in frame.columns]
    if missing:
        msg = (
            f"{path} must have the columns {', '.join(_COLUMNS)}; it lacks {', '.join(missing)}. Restore it from the "
            f"repository {_REPOSITORY}."
        )
        raise TripletError(msg)
    frame = frame[list(_COLUMNS)].fillna("")
    for column in _ANSWERS:
        _check_answers(frame, column, path)
    return frame


def _check_answers(frame: pd.DataFrame, column: str, path: Path) -> None:
    """Verify that every answer is a choice; only those on perspectives may be missing."""
    allowed = [*_CHOICES, *([] if column == _ANSWERS[0] else [_NOT_ASKED])]
    expected = f"`{column}` must be one of {', '.join(allowed)}"
    good = frame[column].isin(allowed).to_numpy(bool)
    _require(good, frame, path, lambda where: f"{expected}; got {frame[column].iloc[where]!r}")


def _require(good: BoolArray, frame: pd.DataFrame, path: Path, describe: Callable[[int], str]) -> None:
    """Raise an error about the first row that is not good; `describe` explains what is wrong with it."""
    if not good.all():
        where = int(good.argmin())
        line = int(frame.index.to_numpy(np.int64)[where]) + 2  # the heading is line 1
        msg = f"{path}, line {line}: {describe(where)}. Restore the file from the repository {_REPOSITORY}."
        raise TripletError(msg)


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
    return tuple(map(DummyCheck, lines, frame["subject_id"], frame[_ANSWERS[0]], expected))


def _look_up(frame: pd.DataFrame, known: pd.DataFrame, path: Path) -> tuple[IntArray, BoolArray]:
    """Return the row of `known` for each answer, and True where the candidates were presented in the other order."""
    triplets = pd.Index(known["run"].str.cat(known[list(_PATHS)], sep=" "))
    there, back = (
        triplets.get_indexer(pd.Index(frame["ex_name"].str.cat(frame[["reference", *order]], sep=" ")))
        for order in (["sample_a", "sample_b"], ["sample_b", "sample_a"])
    )
    row = np.maximum(there, back).astype(np.int64)  # -1: not found
    _require(row >= 0, frame, path, lambda where: _mismatch(frame.iloc[where].to_dict(), known))
    return row, there < 0


def _mismatch(answer: dict[Any, str], known: pd.DataFrame) -> str:
    """Explain why the paths of an answer are not those of a triplet of the sample configuration."""
    parts = []
    for column in _PRESENTED:
        if (part := _SAMPLE.fullmatch(answer[column])) is None:
            return (
                f"`{column}` must be a path such as set2/0/mix/X_1876-3.wav, of {', '.join(INSTRUMENTS)}, unless the "
                f"reference is that of a dummy check, such as samples/dummyX1.wav; got {answer[column]!r}"
            )
        parts.append(part)
    roles, seen = [part["role"] for part in parts], ", ".join(part[0] for part in parts)
    tests = [test for test, (x, a, b) in _ROLES.items() if roles in ([x, a, b], [x, b, a])]
    if not tests or len({part["folder"] for part in parts}) > 1:
        return f"a triplet must be X with A and B, or X with Y and C, of one set, sample and instrument; got {seen}"
    of_run = known[(known["run"] == answer["ex_name"]) & (known["test_type"] == tests[0])]
    same = of_run[of_run["x_path"].str.startswith(f"{parts[0]['folder']}/")][list(_PATHS)]
    expected = "no such sample" if same.empty else ", ".join(same.iloc[0])
    return f"the listener heard {seen}, but the sample configuration of {answer['ex_name']} has {expected}"


def _read_samples(root: Path, runs: list[str]) -> tuple[pd.DataFrame, tuple[Excerpt, ...]]:
    """Read the sample configurations of some runs of the test.

    Returns:
        All triplets that the runs could have presented, as `Answers.asked` with `run` and the paths of the three
        samples, and their segments, as `Answers.excerpts`.
    """
    rows = [row for run in runs for row in _read_run(root, run)]
    if not rows:
        msg = f"The sample configurations of {', '.join(runs)} in {root} are empty. Restore them from {_REPOSITORY}."
        raise TripletError(msg)
    excerpts = tuple(sorted({excerpt for *_, samples in rows for _, excerpt in samples}))  # many are in both runs
    number = {excerpt: index for index, excerpt in enumerate(excerpts)}
    known = pd.DataFrame(
        [(*row, *(path for path, _ in samples), *(number[one] for _, one in samples)) for *row, samples in rows],
        columns=["run", "test_type", "instrument", *_PATHS, "x", "a", "b"],
    )
    return known, excerpts


def _read_run(root: Path, run: str) -> Iterator[tuple[str, str, str, list[tuple[str, Excerpt]]]]:
    """Yield run, test type, instrument, and path and excerpt of the three samples of each triplet of a run."""
    name = _RUN.fullmatch(run)
    if name is None:
        msg = f"Unknown run {run!r} of the listening test: expected a name such as ex202404. Restore the answers file."
        raise TripletError(msg)
    path = root / "sample_configs" / f"dict_triplet_{name[1]}.json"
    if not path.is_file():
        msg = (
            f"No sample configuration at {path}, which the answers of {run} refer to. Set the folder to a complete "
            f"copy of the repository {_REPOSITORY}."
        )
        raise DataNotFoundError(msg)
    try:
        for set_name, samples in json.loads(path.read_text(encoding="utf-8")).items():
            for sample_name, tests in samples.items():
                for test_type, roles in _ROLES.items():
                    for instrument, described in tests[_TESTS[test_type]].items():
                        folder = f"set{set_name}/{sample_name}/{instrument}"
                        triplet = [_read_sample(described[role], role, folder, path) for role in roles]
                        yield run, test_type, instrument, triplet
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{path} is not a sample configuration of Inst-Sim-ABX ({error!r}): expected set -> sample -> test1, test2 "
            f"-> instrument -> role -> {{{', '.join(_SAMPLE_FIELDS)}}}. Restore it from the repository {_REPOSITORY}."
        )
        raise TripletError(msg) from error


def _read_sample(described: dict[str, Any], role: str, folder: str, path: Path) -> tuple[str, Excerpt]:
    """Return path and excerpt of a sample, having verified its name and its ends."""
    track, segment, filename, rate, start, end = (described[field] for field in _SAMPLE_FIELDS)
    if filename != f"{role}_{track}-{segment}.wav" or not 0 <= int(start) < int(end) or int(rate) <= 0:
        msg = (
            f"{path}: the sample {role} of {folder} is named {filename} and spans samples {start} to {end} at {rate} "
            f"Hz; expected {role}_{track}-{segment}.wav and a stretch of positive length. Restore the file."
        )
        raise TripletError(msg)
    return f"{folder}/{filename}", (int(track), int(start) / float(rate), (int(end) - int(start)) / float(rate))
