"""The triplet table: questions to listeners, and their votes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError, TripletError
from stemsim.stems import STEMS

if TYPE_CHECKING:
    from stemsim.audio import Segment  # imports torch, which a table of votes does not need

TestType = Literal["XAB", "XYC"]
TEST_TYPES: Final[tuple[TestType, ...]] = ("XAB", "XYC")
"""`XYC`: A is another segment of X's track (Y), B is of another track (C). `XAB`: all others; X's track is that of
neither candidate (A and B may share one), or that of both."""

PERSPECTIVES: Final = ("timbre", "rhythm", "melody")
"""Aspects that listeners were asked about, in addition to overall similarity."""

QUESTIONS: Final = ("overall", *PERSPECTIVES)
"""All questions that listeners were asked about a triplet."""

TargetKind = Literal["majority", "share", "graded"]
TARGETS: Final[tuple[TargetKind, ...]] = ("majority", "share", "graded")
"""Targets of a fit; see `Triplets.target`."""

IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ChoiceArray = npt.NDArray[np.int8] | IntArray


@dataclass(frozen=True, eq=False)
class Triplets:
    """Triplets (x, a, b) with the listeners' votes, one row each.

    Rows refer to segments by index, so that a segment shared by many triplets is embedded once. In XYC rows A is Y.

    Attributes:
        segments: The distinct segments.
        tracks: For each segment, the name of the track it was cut from.
        members: `(triplet, 3)` indices of the segments X, A and B.
        test_type: `(triplet,)` `XAB` or `XYC`.
        instrument: `(triplet,)` the stem that the listeners heard; `mix` for whole recordings.
        votes: `(triplet, 2)` number of listeners who found A, and B, closer to X overall.
        perspective_votes: `(triplet, 3, 2)` the same for each of `PERSPECTIVES`; zeros where they were not asked.
        source: Origin of the triplets, for titles: a listening test, same-song triplets, simulated listeners.
        true_weights: Weights that simulated listeners followed; None if the listeners were real.
        sure_votes: `(triplet, 2)` number of `votes` that were sure rather than "a little"; None if nobody was asked.
    """

    segments: "tuple[Segment, ...]"
    tracks: tuple[str, ...]
    members: IntArray
    test_type: StrArray
    instrument: StrArray
    votes: IntArray
    perspective_votes: IntArray
    source: str
    true_weights: dict[str, float] | None = field(default=None)
    sure_votes: IntArray | None = field(default=None)

    def __post_init__(self) -> None:
        """Verify shapes, indices and values, and that the tracks fit the test types."""
        n, segments = len(self), len(self.segments)
        sure = self.votes if self.sure_votes is None else self.sure_votes
        columns: tuple[tuple[str, npt.NDArray[Any], tuple[int, ...]], ...] = (
            ("members", self.members, (3,)),
            ("test_type", self.test_type, ()),
            ("instrument", self.instrument, ()),
            ("votes", self.votes, (2,)),
            ("sure_votes", sure, (2,)),
            ("perspective_votes", self.perspective_votes, (len(PERSPECTIVES), 2)),
        )
        for name, array, shape in columns:
            if array.shape != (n, *shape):
                self._fail(f"`{name}` must have shape {(n, *shape)}, got {array.shape}")
            if name.endswith("votes"):
                self._check_counts(name, array)
        if len(self.tracks) != segments:
            self._fail(f"{segments} segments need as many tracks, got {len(self.tracks)}")
        if n and (self.members.min() < 0 or self.members.max() >= segments):
            self._fail(f"indices must lie in [0, {segments}), got {self.members.min()} to {self.members.max()}")
        if ((sure < 0) | (sure > self.votes)).any():
            self._fail("`sure_votes` must lie between 0 and `votes`, for A and for B")
        if not set(self.test_type.tolist()) <= set(TEST_TYPES):
            self._fail(f"test types are {' and '.join(TEST_TYPES)}, got {sorted(set(self.test_type.tolist()))}")
        if not set(self.instrument.tolist()) <= set(STEMS):
            self._fail(f"instruments are {', '.join(STEMS)}, got {sorted(set(self.instrument.tolist()))}")
        x, a, b = self.track_ids.T
        wrong = np.where(self.test_type == "XYC", (x != a) | (x == b), (x == a) != (x == b))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            seen = [self.tracks[int(index)] for index in self.members[row]]
            self._fail(
                f"{int(wrong.sum())} rows have tracks that do not fit their test type (XYC: A is on X's track, B on "
                f"another; XAB: neither or both are on X's); row {row} is {self.test_type[row]} with tracks {seen}"
            )

    def _check_counts(self, name: str, counts: npt.NDArray[Any]) -> None:
        """Verify that votes are numbers of listeners."""
        if counts.dtype.kind not in "iu":
            nan = int(np.isnan(counts).sum()) if counts.dtype.kind == "f" else 0
            seen = f"{counts.dtype}, of which {nan} are NaN" if nan else str(counts.dtype)
            self._fail(f"`{name}` counts listeners in integers, 0 where nobody answered; got {seen}")
        if (counts < 0).any():
            self._fail(f"`{name}` must not be negative; got {counts.min()}")

    def _fail(self, what: str) -> None:
        raise TripletError(
            f"Not a valid table of triplets ({self.source}): {what}. Correct the reader that produced it."
        )

    def __len__(self) -> int:
        return len(self.members)

    @property
    def track_ids(self) -> IntArray:
        """`(triplet, 3)` numbers of the tracks of X, A and B; equal numbers are equal tracks."""
        numbers = {track: number for number, track in enumerate(dict.fromkeys(self.tracks))}
        return np.array([numbers[track] for track in self.tracks], dtype=np.int64)[self.members]

    @property
    def preference(self) -> IntArray:
        """`(triplet,)` the majority choice: +1 = A, -1 = B, 0 = as many votes for A as for B."""
        return np.sign(self.votes[:, 0] - self.votes[:, 1])

    def check(self) -> None:
        """Verify that there is something to fit: at least one triplet, each with a majority.

        Raises:
            TripletError: If there are no triplets, or some are tied or without votes.
        """
        if not len(self):
            raise TripletError(
                f"There are no triplets: {self.source} has none, or none that meets the conditions of its reader, such "
                "as `min_agreement`, `min_votes`, `instrument` and `test_type`."
            )
        if undecided := int((self.preference == 0).sum()):
            silent = int((self.votes.sum(axis=1) == 0).sum())
            raise TripletError(
                f"{undecided} of {len(self)} triplets of {self.source} have no majority: {undecided - silent} are tied "
                f"and {silent} have no votes. Leave them out, by `Triplets.filter()` at the end of the reader's `read`."
            )

    def pooled(self) -> Self:
        """Return the table with the votes on the same question added up, whichever candidate was presented as A."""
        x, one, other = self.members.T
        swap: BoolArray = (one > other) & (self.test_type == "XAB")
        instrument = np.unique(self.instrument, return_inverse=True)[1]
        question = np.stack([x, np.where(swap, other, one), np.where(swap, one, other), instrument], axis=1)
        _, rows, group = np.unique(question, axis=0, return_index=True, return_inverse=True)
        first = rows[group.reshape(-1)]  # row in which each question occurs first, which decides what its A is
        order = np.sort(rows)
        flip, place = swap != swap[first], np.searchsorted(order, first)

        def add_up(counts: IntArray) -> IntArray:
            turned = np.where(flip.reshape(-1, *[1] * (counts.ndim - 1)), counts[..., ::-1], counts)
            total = np.zeros((len(order), *counts.shape[1:]), counts.dtype)
            np.add.at(total, place, turned)
            return total

        return replace(
            self.select(order),
            votes=add_up(self.votes),
            perspective_votes=add_up(self.perspective_votes),
            sure_votes=None if self.sure_votes is None else add_up(self.sure_votes),
        )

    def target(self, kind: TargetKind = "majority") -> FloatArray:
        """Return the targets of a fit `(triplet,)`, in [-1, 1]; swapping A and B flips every sign exactly.

        - `majority`: the majority choice, +1, -1 or 0 (paper, section 3.4).
        - `share`: votes for A minus votes for B, over all votes: 2 P(A) - 1 of a listener drawn at random.
        - `graded`: the mean answer on the scale that listeners were given, sure = 1 and "a little" = 1/2, A positive.
          The four answers are equally spaced around "no difference", which nobody could choose. A few sure listeners
          may outweigh more unsure ones, so the sign may differ from that of the majority.

        All are 0 where nobody voted.

        Raises:
            ConfigError: If there is no such target.
            TripletError: If grades are asked for and there are none.
        """
        if kind not in TARGETS:
            raise ConfigError(f"A target is one of {', '.join(TARGETS)}; got {kind!r}. Choose one of these.")
        if kind == "majority":
            return self.preference.astype(np.float64)
        points, most = self.votes, 1
        if kind == "graded":
            if self.sure_votes is None:
                raise TripletError(
                    f"A graded target needs answers with the listener's confidence; {self.source} has none. "
                    "Use the target `share` or `majority`."
                )
            points, most = self.votes + self.sure_votes, 2
        total = most * self.votes.sum(axis=1)
        target: FloatArray = np.divide(points[:, 0] - points[:, 1], total, out=np.zeros(len(self)), where=total > 0)
        return target

    def vote_weights(self) -> FloatArray:
        """Return the number of votes of each triplet `(triplet,)` over its mean.

        Raises:
            TripletError: If there are triplets, and nobody voted on any.
        """
        total = self.votes.sum(axis=1).astype(np.float64)
        if len(self) and not total.any():
            raise TripletError(
                f"There are no votes on the {len(self)} triplets of {self.source}: vote weights are undefined."
            )
        weights: FloatArray = total / total.mean() if len(self) else total
        return weights

    def about(self, question: str) -> Self:
        """Return the table with the votes on one of `QUESTIONS` as its `votes`, without grades."""
        index = question_index(question)
        if index == 0:
            return self
        votes = self.perspective_votes[:, index - 1]
        return replace(self, votes=votes, sure_votes=None, source=f"{self.source}, {question}")

    @property
    def simulated(self) -> bool:
        """True if the votes were simulated from known weights."""
        return self.true_weights is not None

    def select(self, rows: IntArray | BoolArray | Sequence[int]) -> Self:
        """Return the table of some rows, by index or mask `(triplet,)`, with the segments that they use."""
        chosen = np.asarray(rows)
        index = np.arange(len(self))[chosen if chosen.size else chosen.astype(np.int64)]
        used, renumbered = np.unique(self.members[index], return_inverse=True)
        by_row = ("test_type", "instrument", "votes", "perspective_votes")
        return replace(
            self,
            segments=tuple(self.segments[int(i)] for i in used),
            tracks=tuple(self.tracks[int(i)] for i in used),
            members=renumbered.reshape(-1, 3).astype(np.int64),
            sure_votes=None if self.sure_votes is None else self.sure_votes[index],
            **{name: getattr(self, name)[index] for name in by_row},
        )

    def filter(
        self,
        *,
        instrument: str | None = None,
        test_type: TestType | None = None,
        min_agreement: float = 0.0,
        min_votes: int = 1,
    ) -> Self:
        """Return the triplets that have a majority (neither a tied vote nor none) and meet all conditions.

        Args:
            instrument: The stem that the listeners heard; None keeps all.
            test_type: `XAB` or `XYC`; None keeps both.
            min_agreement: Minimum share of votes of the majority, in [0, 1] (paper: 0.75 and 0.8).
            min_votes: Minimum number of votes.

        Raises:
            TripletError: If a condition is out of range.
        """
        keep = self.retained(min_agreement=min_agreement, min_votes=min_votes)
        if instrument is not None:
            keep &= self.instrument == instrument
        if test_type is not None:
            keep &= self.test_type == test_type
        return self.select(keep)

    def retained(self, *, min_agreement: float = 0.0, min_votes: int = 1) -> BoolArray:
        """Return the mask `(triplet,)` of `retained_votes`."""
        return retained_votes(self.votes, min_agreement=min_agreement, min_votes=min_votes)


def question_index(question: str) -> int:
    """Return the index in `QUESTIONS`, or raise `ConfigError` if there is no such question."""
    if question not in QUESTIONS:
        raise ConfigError(f"Listeners were asked about {', '.join(QUESTIONS)}; got {question!r}. Choose one of these.")
    return QUESTIONS.index(question)


def retained_votes(votes: IntArray, *, min_agreement: float = 0.0, min_votes: int = 1) -> BoolArray:
    """Return the mask `(triplet,)` of votes `(triplet, 2)` that meet the conditions of `Triplets.filter`.

    Raises:
        TripletError: If a condition is out of range.
    """
    if not 0.0 <= min_agreement <= 1.0 or min_votes < 0:
        raise TripletError(
            f"`min_agreement` must lie in [0, 1] and `min_votes` must not be negative; got {min_agreement} and "
            f"{min_votes}."
        )
    total = votes.sum(axis=1)
    # Shares are ratios of small integers: 4 of 5 votes must count as 0.8 whatever its last bit.
    enough = votes.max(axis=1, initial=0) >= (min_agreement - 1e-9) * total
    retained: BoolArray = (votes[:, 0] != votes[:, 1]) & (total >= min_votes) & enough
    return retained
