"""A blind listening test: what each listener hears in which order, and votes that are kept before the next trial."""

import csv
import hashlib
import io
import json
import logging
import os
import secrets
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from stemsim.audio import Segment, file_hash, level_dbfs, read_audio, segment_windows
from stemsim.errors import ConfigError, TripletError
from stemsim.fitting.active import choose_question
from stemsim.fitting.listener import WeightPrior, weight_posterior
from stemsim.replacing import write_text
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.triplets.table import PERSPECTIVES, FloatArray
from stemsim.triplets.votes_table import COLUMNS, ROLES, append_vote, fault, read_rows

_log = logging.getLogger(__name__)

Kind = Literal["training", "vote", "dummy", "same_song", "repeat"]
Answer = Literal["A+", "A-", "B-", "B+", "NA"]
ANSWERS: Final[tuple[Answer, ...]] = ("A+", "A-", "B-", "B+", "NA")
_PATHS: Final = {"x": "reference", "a": "sample_a", "b": "sample_b"}

_LOUDNESS: Final = -23.0  # LUFS (EBU R 128)
_MOST_GAIN: Final = 12.0  # dB
_SILENT: Final = -60.0  # dBFS in the loudest channel
_LEAST_METERED: Final = 0.4  # seconds: one block of ITU-R BS.1770
_APART: Final = 5  # trials between a question and its repetition, at least
_SHARES: Final[Mapping[Kind, float]] = {"repeat": 0.1, "dummy": 0.05, "same_song": 0.1}
_WINDOW: Final = 5.0  # seconds
_CANDIDATES: Final = 2000  # for each active choice
_INFORMATIVE: Final = frozenset({"vote", "repeat", "same_song"})  # trials that tell about the weights

RowArray = npt.NDArray[np.int64]


_DESCRIPTION: Final = {  # of Psych-DS, beside the votes
    "@context": "https://schema.org/",
    "@type": "Dataset",
    "name": "Listening test",
    "description": "Votes of listeners: which of the sounds A and B is more like X (stemsim listen).",
    "variableMeasured": list(COLUMNS),
}


class VotesLog:
    """A votes file to which votes are added: each is on the disk when `append` returns.

    Args:
        path: The file; it is made with the first vote.

    Raises:
        ConfigError: If it cannot be written, or is a file of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8"):
                pass
            described = path.parent / "dataset_description.json"
            if not described.exists():
                write_text(described, json.dumps(_DESCRIPTION, indent=2) + "\n")
            header = self._lines()[:1]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"Votes cannot be kept in {path}: {error}. Name another file.") from error
        if header and tuple(header[0]) != COLUMNS:
            raise ConfigError(
                f"{path} is a file of another kind: expected the columns {', '.join(COLUMNS[:5])} and so on; got "
                f"{', '.join(header[0][:5])}. Name a new file."
            )

    def _lines(self) -> list[list[str]]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))

    def rows(self) -> list[dict[str, str]]:
        """Return all votes, in order; what is torn is none."""
        lines = [line for line in self._lines()[1:] if len(line) == len(COLUMNS)]
        return [dict(zip(COLUMNS, line, strict=True)) for line in lines]

    def append(self, row: Mapping[str, Any]) -> bool:
        """Write a vote; return False if the file has a vote of this id already."""
        with self._lock:
            if any(one["vote_id"] == row["vote_id"] for one in self.rows()):
                return False
            append_vote(self.path, {name: str(value) for name, value in row.items()})
            return True


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Sounds that a test may present, by track; and the triplets of a fixed test."""

    segments: tuple[Segment, ...]
    tracks: RowArray  # (segment,) number of the track of each
    fixed: RowArray | None = None  # (triplet, 3) rows of X, A and B; None: any triplet of three tracks

    @classmethod
    def of_files(cls, files: Sequence[Path], *, duration: float = _WINDOW) -> "Stimuli":
        """Cut files into windows of a duration in seconds; a shorter file is one sound, and silent ones are left out.

        Every file is read once now: nobody hears of a damaged one in the middle of a test.

        Raises:
            AudioError: If a file cannot be read.
            TripletError: If there are fewer than three files that are not silent.
        """
        segments: list[Segment] = []
        tracks: list[int] = []
        for number, path in enumerate(files):
            windows = segment_windows(path, duration=duration)
            heard = [window for window in windows if _sounds(window)]
            if not heard:
                _log.warning("%s is silent and left out.", path)
            elif len(heard) < len(windows):
                _log.info(
                    "%s: %d of %d windows are silent and left out.", path, len(windows) - len(heard), len(windows)
                )
            segments += heard
            tracks += [number] * len(heard)
        if (count := len(set(tracks))) < 3:  # noqa: PLR2004 - X, A and B
            raise TripletError(
                f"A listening test needs at least 3 sounds or songs that are not silent; got {count} of {len(files)}. "
                "Add some."
            )
        return cls(tuple(segments), np.array(tracks, np.int64))

    @classmethod
    def of_table(cls, path: Path) -> "Stimuli":
        """Return the sounds and triplets of a table with the columns x, a, b, and start and duration if need be.

        Raises:
            StemsimError: If it is no such table, or a sound is missing, cannot be read or is silent.
        """
        rows, places, tracks, fixed = read_rows(path), dict[Segment, int](), list[str](), list[list[int]]()
        for line, cells in zip(rows.index.tolist(), rows.to_dict("records"), strict=True):
            triplet = []
            for role in ROLES:
                start, duration = (cells.get(f"{what}_{role}") or cells.get(what) for what in ("start", "duration"))
                try:
                    first = float(start or 0.0)
                    end = first + float(duration) if duration else None
                except ValueError as error:
                    seen = f"start and duration are seconds; got {start!r} and {duration!r}"
                    raise fault(path, line, seen, "Write numbers, or nothing for the whole file") from error
                segment = Segment.between(path.parent / cells[role], first, end)
                if segment not in places:
                    if not _sounds(segment):
                        raise fault(path, line, f"{segment} is silent", "Name another sound")
                    places[segment] = len(places)
                    tracks.append(cells.get(f"track_{role}") or cells[role])
                triplet.append(places[segment])
            fixed.append(triplet)
        if not fixed:
            raise TripletError(f"{path} holds no triplets: expected rows with x, a and b. Add some.")
        numbers = np.unique(np.array(tracks), return_inverse=True)[1].astype(np.int64)
        return cls(tuple(places), numbers, np.array(fixed, np.int64))

    def draw(self, rng: np.random.Generator, count: int = 1) -> RowArray:
        """Draw X, A and B `(count, 3)`: triplets of the fixed test, or sounds of three tracks."""
        if self.fixed is not None:
            rows: RowArray = self.fixed[rng.integers(len(self.fixed), size=count)]
            return rows
        order = np.argsort(self.tracks, kind="stable")
        _, first, sounds = np.unique(self.tracks[order], return_index=True, return_counts=True)
        chosen = rng.permuted(np.tile(np.arange(len(first)), (count, 1)), axis=1)[:, :3]  # tracks
        drawn: RowArray = order[first[chosen] + rng.integers(sounds[chosen])]
        return drawn

    def row(self, path: Path, start: float) -> int | None:
        """Return the number of a sound by its file and its start in seconds; None if it is not among them."""
        return self._places.get((os.path.realpath(path), round(start, 3)))

    @cached_property
    def _places(self) -> dict[tuple[str, float], int]:
        places = [(os.path.realpath(one.path), round(one.start, 3)) for one in self.segments]
        return {place: row for row, place in enumerate(places)}

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


class Choice(Protocol):
    """Chooses the next triplet for a listener, given the votes so far."""

    def __call__(self, stimuli: Stimuli, votes: Sequence[Mapping[str, str]], rng: np.random.Generator) -> Chosen:
        """Return the triplet."""


def random_choice(stimuli: Stimuli, votes: Sequence[Mapping[str, str]], rng: np.random.Generator) -> Chosen:
    """Choose a triplet at random, whatever the votes so far: the classical test."""
    del votes
    return Chosen(stimuli.draw(rng)[0], "random", 1.0)


class ActiveChoice:
    """Chooses the triplet whose answer tells most about the weights of the listener, from candidates drawn afresh.

    Args:
        embeddings: Stem embeddings of the sounds, in their order.
        weights: `(stem,)` weights of a model, around which those of the listener are expected; None: none.
    """

    def __init__(self, embeddings: StemEmbeddings, weights: FloatArray | None = None) -> None:
        self._embeddings = embeddings
        self._weights = weights

    def __call__(self, stimuli: Stimuli, votes: Sequence[Mapping[str, str]], rng: np.random.Generator) -> Chosen:
        """Return the triplet that is D-optimal, or one at random in a share of the trials."""
        candidates = stimuli.draw(rng, _CANDIDATES)
        deltas = self._deltas(candidates)
        prior = WeightPrior.flat(deltas) if self._weights is None else WeightPrior.around(self._weights, deltas)
        chosen = choose_question(weight_posterior(*self.known(stimuli, votes), prior), deltas, rng)
        return Chosen(candidates[chosen.row], chosen.chosen_by, chosen.probability)

    def known(self, stimuli: Stimuli, votes: Sequence[Mapping[str, str]]) -> tuple[FloatArray, RowArray]:
        """Return stem features `(vote, stem)` and choices `(vote,)`, +1 = A, of the votes for A or B."""
        rows, choices = [], []
        for vote in votes:
            answer = vote["answer_total"][:1]
            places = [stimuli.row(*_place(vote, role)) for role in ROLES]
            if answer in {"A", "B"} and vote["trial_type"] in _INFORMATIVE and None not in places:
                rows.append(places)
                choices.append(1 if answer == "A" else -1)
        return self._deltas(np.array(rows, np.int64).reshape(-1, 3)), np.array(choices, np.int64)

    def _deltas(self, rows: RowArray) -> FloatArray:
        """Return the stem features `(triplet, stem)` of triplets `(triplet, 3)`."""
        x, a, b = (self._embeddings.take(torch.from_numpy(column)) for column in rows.T.copy())
        features: FloatArray = stem_deltas(x, a, b).numpy()
        return features


def _place(vote: Mapping[str, str], role: str) -> tuple[Path, float]:
    """Return the path and the start in seconds of a sound of a vote."""
    return Path(vote[_PATHS[role]]), float(vote[f"start_{role}"])


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

    def votes_with_paths(self) -> list[dict[str, str]]:
        """Return the votes of this listener so far, with absolute paths."""
        return list(map(self._absolute, self.votes()))

    def next(self) -> Trial | None:
        """Return the first trial without a vote; None if there is none left."""
        answered = {int(row["trial_index"]): row for row in self.votes()}
        index = next((number for number in range(len(self)) if number not in answered), None)
        if index is None:
            return None
        if self._current is None or self._current[0].index != index:
            self._current = self._trial(index, answered), datetime.now(UTC).isoformat(), time.monotonic()
        return self._current[0]

    def _trial(self, index: int, answered: Mapping[int, dict[str, str]]) -> Trial:
        kind, again, swapped = self.plan[index]
        rng = np.random.default_rng([*self._seed, index])
        name = hashlib.blake2b(f"{self.listener}:{self._seed}:{index}".encode(), digest_size=8).hexdigest()
        if kind == "repeat":
            row = answered[again]
            x, b, a = (self._segment_of(row, role) for role in ROLES)
            return Trial(index, kind, (x, a, b), "repeat", 0.0, name)
        if kind == "dummy":
            x, _, other = self.stimuli.draw(rng)[0]
            chosen = Chosen(np.array([x, x, other]), "check", 0.0)
        elif kind == "same_song" and (drawn := self.stimuli.draw_same_song(rng)) is not None:
            chosen = Chosen(drawn, "check", 0.0)
        elif kind == "training":
            chosen = Chosen(self.stimuli.draw(rng)[0], "training", 0.0)
        else:
            chosen = self._choice(self.stimuli, self.votes_with_paths(), rng)
        x, a, b = (self.stimuli.segments[int(row)] for row in chosen.rows)
        return Trial(index, kind, (x, b, a) if swapped else (x, a, b), chosen.by, chosen.probability, name)

    def _absolute(self, vote: Mapping[str, str]) -> dict[str, str]:
        """Return a vote with absolute paths, which the file has relative to its folder."""
        return {**vote, **{column: str(self.log.path.parent / vote[column]) for column in _PATHS.values()}}

    def _segment_of(self, vote: Mapping[str, str], role: str) -> Segment:
        path, start = _place(self._absolute(vote), role)
        row = self.stimuli.row(path, start)
        return Segment(path, start, float(vote[f"duration_{role}"])) if row is None else self.stimuli.segments[row]

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
        heard = [plays.get(role, 0) for role in ROLES]
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
        return self.log.append(row | _sound_columns(trial.segments, self.log.path.parent, heard))


def _sound_columns(sounds: Sequence[Segment], folder: Path, plays: Sequence[int]) -> dict[str, Any]:
    """Return the columns of a vote about the sounds X, A and B, with paths relative to the folder of the votes."""
    columns: dict[str, Any] = {}
    for role, sound, times in zip(ROLES, sounds, plays, strict=True):
        columns |= {
            _PATHS[role]: os.path.relpath(sound.path, folder),
            f"start_{role}": f"{sound.start:.6f}",
            f"duration_{role}": f"{sound.duration:.6f}",
            f"hash_{role}": file_hash(sound.path),
            f"gain_{role}": matched(sound)[1],
            f"plays_{role}": times,
        }
    return columns


class AlikeVotes:
    """Votes from marks on the results of a search: of a sound that is alike and one that is not, the first is closer.

    They are marked `search` in the votes file (`chosen_by`), as nobody chose these triplets at random.

    Args:
        log: The votes file.
    """

    def __init__(self, log: VotesLog) -> None:
        self._log = log
        self._marked: dict[Segment, dict[Segment, bool]] = {}  # by reference

    def mark(self, reference: Segment, sound: Segment, *, alike: bool) -> int:
        """Mark a result as alike or not; return the number of votes that follow from the marks on this reference.

        Raises:
            ConfigError: If the sound has the other mark already.
        """
        marks = self._marked.setdefault(reference, {})
        if marks.setdefault(sound, alike) != alike:
            raise ConfigError(f"{sound.path.name} is marked already as {'not ' if alike else ''}alike.")
        others = [other for other, mark in marks.items() if mark != alike]
        for other in others:
            a, b = (sound, other) if alike else (other, sound)
            place = hashlib.blake2b(f"{reference}|{a}|{b}".encode(), digest_size=8).hexdigest()
            row = dict.fromkeys(COLUMNS, "") | dict.fromkeys([f"answer_{name}" for name in PERSPECTIVES], "NA")
            row |= {"ex_name": "stemsim", "subject_id": "search", "answer_total": "A-", "vote_id": place}
            row |= {"presented_at": datetime.now(UTC).isoformat(), "trial_type": "vote", "chosen_by": "search"}
            row |= {"app_version": version("stemsim")}
            self._log.append(row | _sound_columns((reference, a, b), self._log.path.parent, (1, 1, 1)))
        return sum(marks.values()) * (len(marks) - sum(marks.values()))


@lru_cache(maxsize=64)
def _sounds(segment: Segment) -> bool:
    """Read a sound, and return whether there is anything to hear."""
    return float(level_dbfs(read_audio(segment.path, segment.start, segment.duration)[0]).max()) > _SILENT


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
