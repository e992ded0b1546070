"""Votes of your own: the answers of a listening test in a table that anyone can write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.stems import STEMS
from stemsim.triplets.answers import Answers
from stemsim.triplets.embedded import TripletReader
from stemsim.triplets.table import QUESTIONS, TEST_TYPES, TestType, Triplets, question_index
from stemsim.triplets.votes_file_answers import read_votes
from stemsim.triplets.votes_table import ROLES

_LISTED: Final = 10


@dataclass(frozen=True, eq=False)
class VotesFile(TripletReader):
    """Votes in a CSV, TSV or Parquet file, the columns of which docs/votes.md explains.

    The least form has the columns `x`, `a`, `b` (audio files, relative to the folder of the votes file) and `answer`
    (`A` or `B`; `A+` is sure, `A-` a little), or `votes_a` and `votes_b` in place of the answer.

    Args:
        path: The file.
        instrument: What was heard: `mix`, or a single stem; null: all. The audio is that of the files in any case.
        test_type: `XYC`, one candidate being from X's track, or `XAB`, all others; null: both.
        min_agreement: Minimum share of votes of the majority, in [0, 1].
        min_votes: Minimum number of votes.
        screen: Leave out all answers of listeners who failed a check, in which one candidate is the reference itself.
        question: Question that the answers are about: `overall`, `timbre`, `rhythm` or `melody`. Votes, grades and
            thresholds are those of its answers.
        listener: The listener whose answers are read; null: all.
        within: Folder in which all audio files have to be, links followed, for a votes file of somebody else; null:
            they may be anywhere.
    """

    path: str | Path
    instrument: str | None = "mix"
    test_type: TestType | None = None
    min_agreement: float = 0.0
    min_votes: int = 1
    screen: bool = False
    question: str = "overall"
    listener: str | None = None
    within: str | Path | None = None

    def __post_init__(self) -> None:
        """Verify instrument, test type and question."""
        if self.instrument not in (None, *STEMS) or self.test_type not in (None, *TEST_TYPES):
            raise ConfigError(
                f"Instruments are {', '.join(STEMS)}, and test types {', '.join(TEST_TYPES)}; got {self.instrument!r} "
                f"and {self.test_type!r}. Choose one of these, or null for all."
            )
        question_index(self.question)

    def answers(self) -> Answers:
        """Return the answers of the listeners asked for, whose audio files are there.

        Raises:
            DataNotFoundError: If audio is missing.
            ConfigError: If there is no such listener, or audio is outside `within`.
        """
        answers = read_votes(self.path)
        answers = answers.screened() if self.screen else answers
        if self.listener is not None:
            answers = answers.of([named_listener(answers, self.listener)])
        files = sorted({excerpt.path for excerpt in answers.asked[list(ROLES)].to_numpy().flat})
        if self.within is not None:
            folder = Path(self.within).resolve()
            if outside := [str(file) for file in files if not file.resolve().is_relative_to(folder)]:
                raise ConfigError(
                    f"{self.path} names {outside[0]}, which is not in {folder} (`within`). Copy its sounds there and "
                    "correct the paths, or allow any folder if you trust the file."
                )
        if missing := [str(file) for file in files if not file.is_file()]:
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            raise DataNotFoundError(
                f"{len(missing)} of the {len(files)} audio files of {self.path} are missing or no plain files: "
                f"{', '.join(missing[:_LISTED])}{more}. Paths in a votes file are absolute, or relative to its folder, "
                "with / between folders. `stemsim votes` counts the votes without audio."
            )
        return answers

    def read(self) -> Triplets:
        """Count the votes, and keep the triplets with a majority that meet all conditions."""
        return self._kept(self.answers(), self.question)

    def read_questions(self) -> dict[str, Triplets]:
        """Return the triplets that meet the conditions on each question, whatever `question` is."""
        answers = self.answers()
        tables = {question: self._kept(answers, question) for question in QUESTIONS}
        return {question: table for question, table in tables.items() if len(table)}

    def _kept(self, answers: Answers, question: str) -> Triplets:
        return answers.kept(
            question,
            instrument=self.instrument,
            test_type=self.test_type,
            min_agreement=self.min_agreement,
            min_votes=self.min_votes,
        )


def named_listener(answers: Answers, name: str) -> str:
    """Return a listener of a test, or raise `ConfigError` that names those there are."""
    if name not in (known := sorted(set(answers.subject.tolist()))):
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        raise ConfigError(
            f"{answers.source} has no listener {name!r}, but {', '.join(known[:_LISTED])}{more}. Choose one."
        )
    return name
