"""Answers in a votes file; no audio is needed."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from stemsim.errors import TripletError
from stemsim.stems import STEMS
from stemsim.triplets.answers import Answers, DummyCheck, Excerpt, Repeat
from stemsim.triplets.table import QUESTIONS
from stemsim.triplets.votes_table import QUESTION_COLUMNS, ROLES, fault, read_rows

_CHOICES: Final = {"A": 1, "A+": 1, "A-": 1, "B": -1, "B+": -1, "B-": -1, "": 0, "NA": 0}  # + is sure, - is a little
_TRIALS: Final = ("", "vote", "same_song", "repeat", "dummy", "training")
_MOST_VOTES: Final = 10_000  # of one row
_MOST_COUNTED: Final = 500_000  # of one file: a few lines must not fill the memory


def read_votes(path: str | Path) -> Answers:
    """Read the answers in a votes file; no audio is needed.

    Of several answers of one listener to one question about one triplet, whatever the order of the candidates, the
    first one counts, and the others are repeats. A row with the `vote_id` of an earlier row is the same vote again.
    Answers without a listener, and those counted in `votes_a` and `votes_b`, are each by a listener of its own.

    Args:
        path: The file.

    Raises:
        DataNotFoundError: If there is no such file.
        TripletError: If a row cannot be understood, with its line, what was seen and what to do.
    """
    file = Path(path)
    return _Reading(file).answers(read_rows(file))


@dataclass
class _Reading:
    """The answers read so far."""

    file: Path
    asked: list[tuple[str, str, Excerpt, Excerpt, Excerpt]] = field(default_factory=list)
    numbers: dict[tuple[str, Excerpt, Excerpt, Excerpt], tuple[int, bool]] = field(default_factory=dict)
    first: dict[tuple[str, int, int], int] = field(default_factory=dict)  # choices by listener, triplet and question
    rows: list[tuple[int, str, list[int], list[bool], bool, float, bool]] = field(default_factory=list)
    dummies: list[DummyCheck] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    counted: int = 0
    graded: bool = True
    named: bool = True

    def answers(self, frame: pd.DataFrame) -> Answers:
        """Return the answers in the rows of a file."""
        counted = {"votes_a", "votes_b"} & set(frame.columns)
        answered = [name for name in QUESTION_COLUMNS if name in frame.columns]
        if bool(answered) == bool(counted) or len(counted) == 1:
            seen = ", ".join(frame.columns)
            raise fault(
                self.file,
                1,
                f"the heading must name either `answer` (or another question) or both `votes_a` and `votes_b`; got "
                f"{seen}",
                "Name the column of the answers",
            )
        ids: set[str] = set()
        for line, cells in zip(frame.index.tolist(), frame.to_dict("records"), strict=True):
            row = {str(name): str(cell) for name, cell in cells.items()}
            if (vote := row.get("vote_id", "")) and vote in ids:
                continue
            ids.add(vote)
            if counted:
                self._add_counted(line, row)
            else:
                self._add(line, row.get("listener") or f"line {line}", row)
            self.named &= bool(row.get("listener")) and not counted
        if not self.rows:
            raise TripletError(
                f"{self.file} holds no votes: expected at least one row with x, a, b and an answer, that is no "
                "training trial and no check. Add votes."
            )
        triplet, subject, choices, sure, swapped, seconds, at_random = zip(*self.rows, strict=True)
        table = pd.DataFrame(self.asked, columns=["test_type", "instrument", *ROLES])
        return Answers(
            asked=table,
            triplet=np.array(triplet, np.int64),
            subject=np.array(subject),
            choices=np.array(choices, np.int8),
            sure=np.array(sure, bool),
            swapped=np.array(swapped, bool),
            seconds=np.array(seconds, float),
            at_random=np.array(at_random, bool),
            dummies=tuple(self.dummies),
            repeats=tuple(self.repeats),
            graded=self.graded,
            named=self.named,
            instruments=tuple(stem for stem in STEMS if (table["instrument"] == stem).any()),
            source=self.file.name,
        )

    def _add_counted(self, line: int, row: dict[str, str]) -> None:
        """Add one row that counts votes."""
        counts = [self._number(line, f"votes_{side}", row[f"votes_{side}"] or "0") for side in "ab"]
        if not all(count.is_integer() and count <= _MOST_VOTES for count in counts) or not any(counts):
            seen = f"`votes_a` and `votes_b` must be whole numbers up to {_MOST_VOTES}, not both 0; got {counts}"
            raise fault(self.file, line, seen, "Count the listeners who chose A and those who chose B")
        self.counted += int(sum(counts))
        if self.counted > _MOST_COUNTED:
            seen = f"up to here `votes_a` and `votes_b` count {self.counted} votes; expected up to {_MOST_COUNTED}"
            raise fault(self.file, line, seen, "Split the file")
        for side, count in zip("AB", map(int, counts), strict=True):
            if not count:
                continue
            rows, dummies = len(self.rows), len(self.dummies)
            self._add(line, f"line {line}, {side} 1", row | {"answer": side})
            listeners = [f"line {line}, {side} {number}" for number in range(2, count + 1)]
            for vote in self.rows[rows:]:
                self.rows += [(vote[0], listener, *vote[2:]) for listener in listeners]
            for dummy in self.dummies[dummies:]:
                self.dummies += [replace(dummy, subject=listener) for listener in listeners]

    def _add(self, line: int, listener: str, row: dict[str, str]) -> None:
        """Add one row with the answers of one listener."""
        if (trial := row.get("trial_type", "").lower()) not in _TRIALS:
            seen = f"`trial_type` must be {', '.join(_TRIALS[1:])} or nothing; got {trial!r}"
            raise fault(self.file, line, seen, "Write one of these")
        texts = self._answer_texts(line, row)
        x, a, b = (self._excerpt(line, row, role) for role in ROLES)
        if a == b or (trial == "dummy" and x not in (a, b)):
            seen = "A and B are the same sound" if a == b else "neither candidate of a dummy check is the reference"
            raise fault(self.file, line, seen, "Correct or delete the row")
        if trial == "training":
            return
        if x in (a, b):
            self.dummies.append(DummyCheck(line, listener, texts[0], "A" if x == a else "B"))
            return
        triplet, swapped = self._triplet(line, row, x, a, b)
        choices = [_CHOICES[text] * (-1 if swapped else 1) for text in texts]
        for question, choice in enumerate(choices):
            if choice and (key := (listener, triplet, question)) in self.first:
                again = Repeat(line, listener, triplet, QUESTIONS[question], self.first[key] == choice)
                self.repeats.append(again)
                choices[question] = 0
            elif choice:
                self.first[key] = choice
        if any(choices):
            self.graded &= all(text.endswith(("+", "-")) for text in texts if _CHOICES[text])
            time = row.get("choice_time", "")
            seconds = math.nan if time in ("", "NA") else self._number(line, "choice_time", time) / 1000.0
            sure = [text.endswith("+") and choice != 0 for text, choice in zip(texts, choices, strict=True)]
            at_random = row.get("chosen_by", "").lower() in ("", "random")
            self.rows.append((triplet, listener, choices, sure, swapped, seconds, at_random))
        elif not any(_CHOICES[text] for text in texts):
            raise fault(self.file, line, "no question is answered", "Write A or B, or delete the row")

    def _answer_texts(self, line: int, row: dict[str, str]) -> list[str]:
        """Return the answer to each of `QUESTIONS` as text."""
        texts = {name: "".join(row.get(name, "").split()).upper() for name in QUESTION_COLUMNS}
        for name, text in texts.items():
            if text not in _CHOICES:
                seen = f"`{name}` must be A or B, A+ or B+ (sure), A- or B- (a little), or NA; got {row[name]!r}"
                raise fault(
                    self.file, line, seen, "A listener without a preference has no vote: write NA, or delete it"
                )
        question = row.get("question", "").lower()
        if question in ("", "total", "overall"):
            return list(texts.values())
        if question not in QUESTIONS:
            seen = f"`question` must be one of {', '.join(QUESTIONS)}; got {question!r}"
            raise fault(self.file, line, seen, "Write one of these")
        return [texts["answer"] if name == question else "" for name in QUESTIONS]

    def _triplet(self, line: int, row: dict[str, str], x: Excerpt, a: Excerpt, b: Excerpt) -> tuple[int, bool]:
        """Return the number of a triplet, and whether A and B are swapped in it."""
        instrument = row.get("instrument", "").lower() or "mix"
        if instrument not in STEMS:
            seen = f"`instrument` must be one of {', '.join(STEMS)}; got {instrument!r}"
            raise fault(self.file, line, seen, "Write what the listener heard: a stem, or mix")
        test_type = "XYC" if (x.track == a.track) != (x.track == b.track) else "XAB"
        if (said := row.get("test_type", "").upper()) not in ("", test_type):
            seen = f"`test_type` is {said!r}, but by the tracks of x, a and b this is {test_type}"
            raise fault(
                self.file, line, seen, "Correct `test_type`, or name the tracks in track_x, track_a and track_b"
            )
        if (instrument, x, a, b) not in self.numbers:
            turned = test_type == "XYC" and x.track == b.track  # the candidate of X's track is A
            number = len(self.asked)
            self.asked.append((test_type, instrument, x, *((b, a) if turned else (a, b))))
            self.numbers |= {(instrument, x, a, b): (number, turned), (instrument, x, b, a): (number, not turned)}
        return self.numbers[instrument, x, a, b]

    def _excerpt(self, line: int, row: dict[str, str], role: str) -> Excerpt:
        """Return what the listener heard as X, A or B."""
        if not (name := row[role]):
            raise fault(self.file, line, f"`{role}` is empty", "Write the audio file, or delete the row")
        start, duration = (row.get(f"{what}_{role}") or row.get(what, "") for what in ("start", "duration"))
        seconds = self._number(line, "duration", duration) if duration else None
        if seconds == 0.0:
            raise fault(self.file, line, f"the duration of `{role}` is 0 s", "Write seconds, or nothing: to the end")
        path = self.file.parent / name
        track = row.get(f"track_{role}") or str(path)
        return Excerpt(track, path, self._number(line, "start", start or "0"), seconds)

    def _number(self, line: int, name: str, text: str) -> float:
        """Return a finite number that is not negative."""
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value < math.inf:
            raise fault(
                self.file, line, f"`{name}` must be a number of at least 0; got {text!r}", "Write such a number"
            )
        return value
