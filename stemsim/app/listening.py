"""A blind listening test: what each listener hears in which order, and votes that are kept before the next trial."""

import csv
import hashlib
import io
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from stemsim.audio import Segment, audio_info, file_hash, read_audio
from stemsim.errors import ConfigError, TripletError
from stemsim.triplets.table import PERSPECTIVES

Kind = Literal["training", "vote", "dummy", "same_song", "repeat"]
Answer = Literal["A+", "A-", "B-", "B+", "NA"]
ANSWERS: Final[tuple[Answer, ...]] = ("A+", "A-", "B-", "B+", "NA")
_ROLES: Final = ("x", "a", "b")

COLUMNS: Final = (
    *("ex_name", "subject_id", "reference", "sample_a", "sample_b"),  # to choice_time as in Inst-Sim-ABX
    *("answer_timbre", "answer_rhythm", "answer_melody", "answer_total", "choice_time"),
    *("vote_id", "session_id", "trial_index", "presented_at", "trial_type", "chosen_by", "probability"),
    *(f"{what}_{role}" for what in ("start", "duration", "hash", "gain", "plays") for role in _ROLES),
    *("model", "app_version"),
)
"""Columns of a votes file that the listening test writes."""

_LOUDNESS: Final = -23.0  # LUFS (EBU R 128)
_MOST_GAIN: Final = 12.0  # dB
_LEAST_METERED: Final = 0.4  # seconds: one block of ITU-R BS.1770
_APART: Final = 5  # trials between a question and its repetition, at least
_SHARES: Final[Mapping[Kind, float]] = {"repeat": 0.1, "dummy": 0.05, "same_song": 0.1}
_WINDOW: Final = 5.0  # seconds

RowArray = npt.NDArray[np.int64]


class VotesLog:
    """An append-only CSV file of votes. A vote is on the disk when `append` returns; one that was torn is skipped.

    Args:
        path: The file; it is made with its header if there is none.

    Raises:
        ConfigError: If it cannot be written, or is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.stat().st_size == 0:
                self._write(_line(COLUMNS))
            with path.open(encoding="utf-8-sig", newline="") as file:
                header = next(csv.reader(file), [])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"Votes cannot be kept in {path}: {error}. Name another file.") from error
        if tuple(header) != COLUMNS:
            raise ConfigError(
                f"{path} is a file of another kind: expected the columns {', '.join(COLUMNS[:5])} and so on; got "
                f"{', '.join(header[:5])}. Name a new file."
            )

    def rows(self) -> list[dict[str, str]]:
        """Return all votes, in order; of a vote that occurs twice the first."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if len(line) == len(COLUMNS)]
        rows = (dict(zip(COLUMNS, line, strict=True)) for line in lines[1:])
        return list({row["vote_id"]: row for row in reversed(list(rows))}.values())[::-1]

    def append(self, row: Mapping[str, Any]) -> bool:
        """Write a vote; return False if the file has a vote of this id already."""
        with self._lock:
            if any(one["vote_id"] == row["vote_id"] for one in self.rows()):
                return False
            self._write(_line([row[name] for name in COLUMNS]))
            return True

    def _write(self, line: bytes) -> None:
        """Append a line in one call, on a line of its own even after one that was torn."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            content = b"\r\n" + line if torn else line
            if os.write(file, content) != len(content):
                raise ConfigError(f"The vote cannot be written to {self.path}: the disk is full. Make room.")
            os.fsync(file)
        finally:
            os.close(file)


def _line(values: Sequence[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(values)
    return buffer.getvalue().encode()


@dataclass(frozen=True, slots=True)
class Stimuli:
    """Sounds that a test may present, by track; and the triplets of a fixed test."""

    segments: tuple[Segment, ...]
    tracks: RowArray  # (segment,) number of the track of each
    fixed: RowArray | None = None  # (triplet, 3) rows of X, A and B; None: any triplet of three tracks

    @classmethod
    def of_files(cls, files: Sequence[Path], *, duration: float = _WINDOW) -> "Stimuli":
        """Cut files into windows of a duration in seconds; a shorter file is one sound.

        Raises:
            TripletError: If there are fewer than three files.
        """
        segments: list[Segment] = []
        tracks: list[int] = []
        for number, path in enumerate(files):
            length = audio_info(path).duration
            for start in np.arange(0.0, max(length - duration, 0.0) + 1e-5, duration):
                segments.append(Segment(path, float(start), min(duration, length)))
                tracks.append(number)
        if len(files) < 3:  # noqa: PLR2004 - X, A and B
            raise TripletError(f"A listening test needs at least 3 sounds or songs; got {len(files)}.")
        return cls(tuple(segments), np.array(tracks, np.int64))

    def draw(self, rng: np.random.Generator) -> RowArray:
        """Draw X, A and B `(3,)`: a triplet of the fixed test, or sounds of three tracks."""
        if self.fixed is not None:
            row: RowArray = self.fixed[rng.integers(len(self.fixed))]
            return row
        chosen = rng.choice(np.unique(self.tracks), 3, replace=False)
        return np.array([rng.choice(np.flatnonzero(self.tracks == track)) for track in chosen])

    def draw_same_song(self, rng: np.random.Generator) -> RowArray | None:
        """Draw X and A from one track and B from another; None if no track has two sounds."""
        tracks, count = np.unique(self.tracks, return_counts=True)
        if not (count > 1).any() or len(tracks) < 2:  # noqa: PLR2004
            return None
        own = rng.choice(tracks[count > 1])
        x, a = rng.choice(np.flatnonzero(self.tracks == own), 2, replace=False)
        return np.array([x, a, rng.choice(np.flatnonzero(self.tracks != own))])


class Chosen(NamedTuple):
    """A triplet that was chosen for a listener: rows of X, A and B `(3,)`."""

    rows: RowArray
    by: str  # random or active
    probability: float  # of a choice at random of this trial, so that agreement can be estimated without bias


Choice = Callable[[Stimuli, list[dict[str, str]], np.random.Generator], Chosen]


def random_choice(stimuli: Stimuli, votes: list[dict[str, str]], rng: np.random.Generator) -> Chosen:
    """Choose a triplet at random, whatever the votes so far."""
    del votes
    return Chosen(stimuli.draw(rng), "random", 1.0)


@dataclass(frozen=True, slots=True)
class Trial:
    """Three sounds as they are presented."""

    index: int
    kind: Kind
    segments: tuple[Segment, Segment, Segment]  # X, A and B
    chosen_by: str
    probability: float
    vote_id: str


class ListeningTest:
    """The trials of one listener. The state is in the votes file alone, so that a test resumes at any instant.

    The order of A and B is balanced exactly within the votes of a listener, and a repetition has it swapped. Training
    trials come first. Checks are a sound against itself (dummy), a song against another one (same_song), and
    repetitions; nobody is told which trials they are, and no answer is dropped for them.

    Args:
        stimuli: The sounds.
        log: The votes file.
        listener: Name of the listener.
        questions: Questions besides overall similarity: some of timbre, rhythm and melody.
        trials: Number of trials after the training, checks included.
        training: Number of training trials.
        choice: Chooses the triplets of the votes.
        model: Name of the model that chooses.
        seed: Seed of the plan.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        stimuli: Stimuli,
        log: VotesLog,
        *,
        listener: str,
        questions: Sequence[str] = (),
        trials: int = 42,
        training: int = 2,
        choice: Choice = random_choice,
        model: str = "",
        seed: int = 0,
    ) -> None:
        if not listener.strip() or len(listener) > 100:  # noqa: PLR2004 - characters
            raise ConfigError("A listener has a name of 1 to 100 characters, such as a number.")
        if trials < 1 or training < 0 or not set(questions) <= set(PERSPECTIVES):
            raise ConfigError(
                f"A listening test has at least 1 trial and asks about {', '.join(PERSPECTIVES)}; got {trials} trials, "
                f"{training} for training, and {', '.join(questions) or 'nothing'}."
            )
        self.stimuli, self.log, self.listener, self.model = stimuli, log, listener.strip(), model
        self.questions = ("overall", *questions)
        self._choice = choice
        self._seed = [seed, zlib.crc32(self.listener.encode())]
        self._session = secrets.token_hex(6)
        self._current: tuple[Trial, str, float] | None = None  # with when it was presented
        self.plan = self._planned(trials, training)

    def _planned(self, trials: int, training: int) -> list[tuple[Kind, int, bool]]:
        """Return kind, index of the repeated trial (-1: none), and whether A and B are swapped, of every trial."""
        rng = np.random.default_rng(self._seed)
        kinds: list[Kind] = ["vote"] * trials
        can_check = self.stimuli.draw_same_song(np.random.default_rng(0)) is not None
        for kind, share in _SHARES.items():
            count = round(share * trials) if kind != "same_song" or can_check else 0
            late = [n for n, other in enumerate(kinds) if other == "vote" and (kind != "repeat" or n > _APART)]
            for place in rng.permutation(np.array(late, np.int64))[:count]:
                kinds[int(place)] = kind
        votes = [n for n, kind in enumerate(kinds) if kind == "vote"]
        swapped = np.zeros(trials, bool)
        swapped[rng.permutation(np.array(votes, np.int64))[: len(votes) // 2]] = True
        checks = [n for n, kind in enumerate(kinds) if kind in {"dummy", "same_song"}]
        swapped[rng.permutation(np.array(checks, np.int64))[: len(checks) // 2]] = True
        plan: list[tuple[Kind, int, bool]] = [("training", -1, bool(rng.integers(2))) for _ in range(training)]
        left = list(votes)
        for number, kind in enumerate(kinds):
            if kind != "repeat":
                plan.append((kind, -1, bool(swapped[number])))
                continue
            earlier = [vote for vote in left if vote <= number - _APART]
            if not earlier:
                plan.append(("vote", -1, bool(rng.integers(2))))
                continue
            again = earlier[int(rng.integers(len(earlier)))]
            left.remove(again)
            plan.append((kind, training + again, not swapped[again]))
        return plan

    def __len__(self) -> int:
        return len(self.plan)

    def votes(self) -> list[dict[str, str]]:
        """Return the votes of this listener so far."""
        return [row for row in self.log.rows() if row["subject_id"] == self.listener]

    def next(self) -> Trial | None:
        """Return the first trial without a vote; None if there is none left."""
        votes = self.votes()
        answered = {int(row["trial_index"]): row for row in votes}
        index = next((number for number in range(len(self)) if number not in answered), None)
        if index is None:
            return None
        if self._current is None or self._current[0].index != index:
            self._current = self._trial(index, votes, answered), datetime.now(UTC).isoformat(), time.monotonic()
        return self._current[0]

    def _trial(self, index: int, votes: list[dict[str, str]], answered: Mapping[int, dict[str, str]]) -> Trial:
        kind, again, swapped = self.plan[index]
        rng = np.random.default_rng([*self._seed, index])
        name = hashlib.blake2b(f"{self.listener}:{self._seed}:{index}".encode(), digest_size=8).hexdigest()
        if kind == "repeat":
            row = answered[again]
            x, b, a = (self._segment_of(row, role) for role in _ROLES)
            return Trial(index, kind, (x, a, b), "repeat", 0.0, name)
        if kind == "dummy":
            rows = self.stimuli.draw(rng)
            rows[1], chosen = rows[0], Chosen(rows, "check", 0.0)
        elif kind == "same_song" and (drawn := self.stimuli.draw_same_song(rng)) is not None:
            chosen = Chosen(drawn, "check", 0.0)
        elif kind == "training":
            chosen = Chosen(self.stimuli.draw(rng), "training", 0.0)
        else:
            chosen = self._choice(self.stimuli, votes, rng)
        x, a, b = (self.stimuli.segments[int(row)] for row in chosen.rows)
        return Trial(index, kind, (x, b, a) if swapped else (x, a, b), chosen.by, chosen.probability, name)

    def _segment_of(self, row: Mapping[str, str], role: str) -> Segment:
        column = {"x": "reference", "a": "sample_a", "b": "sample_b"}[role]
        path = (self.log.path.parent / row[column]).resolve()
        found = (one for one in self.stimuli.segments if one.path.resolve() == path)
        start = float(row[f"start_{role}"])
        return next(
            (one for one in found if abs(one.start - start) < 1e-3),  # noqa: PLR2004 - as the file writes it
            Segment(path, start, float(row[f"duration_{role}"])),
        )

    def vote(self, vote_id: str, answers: Mapping[str, str], plays: Mapping[str, int]) -> bool:
        """Keep the answers to the present trial; return False if it has been answered before.

        Args:
            vote_id: Id of the trial.
            answers: One of `ANSWERS` to each of `questions`.
            plays: Number of times that X, A and B were heard.

        Raises:
            ConfigError: If it is not the present trial, an answer is missing or unknown, or something was not heard.
        """
        if any(row["vote_id"] == vote_id for row in self.votes()):
            return False
        trial = self.next()
        if trial is None or self._current is None or trial.vote_id != vote_id:
            raise ConfigError("This is not the trial that is to be answered now. Load the page again.")
        if set(answers) != set(self.questions) or not set(answers.values()) <= set(ANSWERS):
            raise ConfigError(
                f"Expected one of {', '.join(ANSWERS)} for {', '.join(self.questions)}; got {dict(answers)}."
            )
        heard = [plays.get(role, 0) for role in _ROLES]
        if min(heard) < 1:
            raise ConfigError("Hear X, A and B before you answer.")
        _, presented, since = self._current
        row: dict[str, Any] = {
            "ex_name": "stemsim",
            "subject_id": self.listener,
            "choice_time": round(1000 * (time.monotonic() - since)),
            "answer_total": answers["overall"],
            **{f"answer_{name}": answers.get(name, "NA") for name in PERSPECTIVES},
            "vote_id": vote_id,
            "session_id": self._session,
            "trial_index": trial.index,
            "presented_at": presented,
            "trial_type": trial.kind,
            "chosen_by": trial.chosen_by,
            "probability": f"{trial.probability:.6g}",
            "model": self.model,
            "app_version": version("stemsim"),
        }
        named = zip(("reference", "sample_a", "sample_b"), _ROLES, trial.segments, heard, strict=True)
        for column, role, segment, times in named:
            row[column] = os.path.relpath(segment.path, self.log.path.parent)
            row |= {f"start_{role}": f"{segment.start:.6f}", f"duration_{role}": f"{segment.duration:.6f}"}
            row |= {
                f"hash_{role}": file_hash(segment.path),
                f"gain_{role}": matched(segment)[1],
                f"plays_{role}": times,
            }
        return self.log.append(row)


@lru_cache(maxsize=64)
def matched(segment: Segment) -> tuple[bytes, float]:
    """Return a sound as a wav file at -23 LUFS (ITU-R BS.1770), and the gain in dB that this took.

    The gain is at most 12 dB either way, and keeps every sample below full scale. Sounds below 400 ms, the shortest
    that the standard measures, are repeated to be measured.
    """
    from pyloudnorm import Meter

    waveform, rate = read_audio(segment.path, segment.start, segment.duration)
    samples = waveform[:2].T.double().numpy()
    shortest = round(_LEAST_METERED * rate) + 1
    metered = np.tile(samples, (-(-shortest // len(samples)), 1)) if len(samples) < shortest else samples
    loudness = float(Meter(rate).integrated_loudness(metered))
    peak = float(np.abs(samples).max())
    gain = 0.0
    if np.isfinite(loudness) and peak > 0.0:
        gain = min(max(_LOUDNESS - loudness, -_MOST_GAIN), _MOST_GAIN, -20.0 * float(np.log10(peak)))
    buffer = io.BytesIO()
    louder = torch.from_numpy(samples * 10.0 ** (gain / 20.0)).clamp(-1.0, 1.0)
    soundfile.write(buffer, louder.numpy(), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue(), round(gain, 3)
