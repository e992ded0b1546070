"""The triplet table: what listeners were asked, and what they said."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from stemsim.audio import Segment
from stemsim.errors import ConfigError, TripletError
from stemsim.stems import STEMS

__all__ = ["PERSPECTIVES", "QUESTIONS", "TARGETS", "TEST_TYPES", "TargetKind", "TestType", "Triplets"]

TestType = Literal["XAB", "XYC"]
TEST_TYPES: Final[tuple[TestType, ...]] = ("XAB", "XYC")
"""`XAB`: three different tracks. `XYC`: A is another segment of X's track (Y), B is of another track (C)."""

PERSPECTIVES: Final = ("timbre", "rhythm", "melody")
"""What listeners were asked to attend to, beside the overall similarity that `votes` holds."""

QUESTIONS: Final = ("overall", *PERSPECTIVES)
"""What listeners were asked about every triplet."""

TargetKind = Literal["majority", "share", "graded"]
TARGETS: Final[tuple[TargetKind, ...]] = ("majority", "share", "graded")
"""What a model is fitted to; see `Triplets.target`."""

IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Triplets:
    """Triplets (x, a, b) with the listeners' votes, one row each.

    Rows refer to segments by index, so that a segment shared by many triplets is embedded once. In XYC rows A is Y.

    Attributes:
        segments: The distinct segments.
        tracks: For each segment, the name of the track it was cut from.
        x: `(triplet,)` indices of the references.
        a: `(triplet,)` indices of the first candidates.
        b: `(triplet,)` indices of the second candidates.
        test_type: `(triplet,)` `XAB` or `XYC`.
        instrument: `(triplet,)` the stem that the listeners heard; `mix` for whole recordings.
        votes: `(triplet, 2)` how many listeners found A, and B, closer to X over all.
        perspective_votes: `(triplet, 3, 2)` the same for each of `PERSPECTIVES`; zeros where they were not asked.
        source: What the triplets are, for titles: a listening test, same-song triplets, simulated listeners.
        true_weights: The weights that simulated listeners followed; None if the listeners were real.
        sure_votes: `(triplet, 2)` how many of `votes` were sure rather than "a little"; None if nobody was asked.
    """

    segments: tuple[Segment, ...]
    tracks: tuple[str, ...]
    x: IntArray
    a: IntArray
    b: IntArray
    test_type: StrArray
    instrument: StrArray
    votes: IntArray
    perspective_votes: IntArray
    source: str
    true_weights: dict[str, float] | None = field(default=None)
    sure_votes: IntArray | None = field(default=None)

    def __post_init__(self) -> None:
        """Verify shapes, indices and values, and that test types tell the truth about the tracks."""
        n = len(self.x)
        shapes = {
            "x": (self.x, (n,)),
            "a": (self.a, (n,)),
            "b": (self.b, (n,)),
            "test_type": (self.test_type, (n,)),
            "instrument": (self.instrument, (n,)),
            "votes": (self.votes, (n, 2)),
            "perspective_votes": (self.perspective_votes, (n, len(PERSPECTIVES), 2)),
            **({} if self.sure_votes is None else {"sure_votes": (self.sure_votes, (n, 2))}),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                self._fail(f"`{name}` must have shape {shape}, got {array.shape}")
        if len(self.tracks) != len(self.segments):
            self._fail(f"{len(self.segments)} segments need as many tracks, got {len(self.tracks)}")
        indices = np.concatenate([self.x, self.a, self.b])
        if n and (indices.min() < 0 or indices.max() >= len(self.segments)):
            self._fail(f"segment indices must lie in [0, {len(self.segments)}), got {indices.min()} to {indices.max()}")
        if (self.votes < 0).any() or (self.perspective_votes < 0).any():
            self._fail("votes must not be negative")
        if self.sure_votes is not None and ((self.sure_votes < 0) | (self.sure_votes > self.votes)).any():
            self._fail("`sure_votes` are some of the votes: from 0 to as many as there are for A, and for B")
        if not set(self.test_type.tolist()) <= set(TEST_TYPES):
            self._fail(f"test types are {' and '.join(TEST_TYPES)}, got {sorted(set(self.test_type.tolist()))}")
        if not set(self.instrument.tolist()) <= set(STEMS):
            self._fail(f"instruments are {', '.join(STEMS)}, got {sorted(set(self.instrument.tolist()))}")
        self._verify_tracks()

    def _verify_tracks(self) -> None:
        """Verify that XYC rows have A on X's track and B elsewhere, and that XAB rows have three tracks."""
        x, a, b = self.track_ids.T
        wrong = np.where(self.test_type == "XYC", (x != a) | (x == b), (x == a) | (x == b) | (a == b))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            seen = [self.tracks[int(index)] for index in (self.x[row], self.a[row], self.b[row])]
            self._fail(
                f"{int(wrong.sum())} rows have tracks that do not fit their test type; row {row} is "
                f"{self.test_type[row]} with tracks {seen} (XAB: three tracks; XYC: A on X's track, B on another)"
            )

    def _fail(self, what: str) -> None:
        msg = f"Not a table of triplets ({self.source}): {what}. Mend the reader that made it."
        raise TripletError(msg)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def track_ids(self) -> IntArray:
        """`(triplet, 3)` the number of the track of X, A and B; equal numbers are equal tracks."""
        numbers = {track: number for number, track in enumerate(dict.fromkeys(self.tracks))}
        ids = np.array([numbers[track] for track in self.tracks], dtype=np.int64)
        return ids[np.stack([self.x, self.a, self.b], axis=1)]

    @property
    def preference(self) -> IntArray:
        """`(triplet,)` the majority choice: +1 = A, -1 = B, 0 = as many votes for A as for B."""
        return np.sign(self.votes[:, 0] - self.votes[:, 1])

    @property
    def majority_share(self) -> FloatArray:
        """`(triplet,)` share of the votes that the majority has, in [0.5, 1]; 0 where nobody voted."""
        total = self.votes.sum(axis=1)
        return np.divide(self.votes.max(axis=1, initial=0), total, out=np.zeros(len(self)), where=total > 0)

    def target(self, kind: TargetKind = "majority") -> FloatArray:
        """Return what a model is fitted to, in [-1, 1]; swapping A and B flips every sign exactly.

        - `majority`: the majority choice, +1, -1 or 0 (the paper, section 3.4).
        - `share`: votes for A less votes for B, over all votes: 2 P(A) - 1 of a listener drawn at random.
        - `graded`: the mean answer on the scale that listeners were given, sure = 1 and a little = 1/2, A positive:
          the four answers are then equally far apart around "no difference", which nobody could choose. All being a
          little sure of A is 1/2; a few who are sure may outweigh more who are not, so that the sign need not be the
          majority's.

        Args:
            kind: One of these.

        Returns:
            `(triplet,)` float64; 0 where nobody voted.

        Raises:
            ConfigError: If there is no such target.
            TripletError: If grades are asked for and there are none.
        """
        if kind not in TARGETS:
            msg = f"A target is one of {', '.join(TARGETS)}; got {kind!r}. Choose one of these."
            raise ConfigError(msg)
        if kind == "majority":
            return self.preference.astype(np.float64)
        if kind == "share":
            points, most = self.votes, 1
        elif self.sure_votes is None:
            msg = (
                f"A graded target needs answers that say how sure the listener is; those of {self.source} do not. "
                "Use the target `share` or `majority`."
            )
            raise TripletError(msg)
        else:
            points, most = self.votes + self.sure_votes, 2
        total = most * self.votes.sum(axis=1)
        target: FloatArray = np.divide(points[:, 0] - points[:, 1], total, out=np.zeros(len(self)), where=total > 0)
        return target

    def vote_weights(self) -> FloatArray:
        """Return the number of votes of each triplet `(triplet,)`, divided by its mean over the table.

        Raises:
            TripletError: If there are triplets, and nobody voted on any.
        """
        total: FloatArray = self.votes.sum(axis=1).astype(np.float64)
        if len(self) and not total.any():
            msg = f"Nobody voted on any of the {len(self)} triplets of {self.source}, so that none weighs more."
            raise TripletError(msg)
        mean = float(total.mean()) if len(self) else 1.0
        return total / mean

    def about(self, question: str) -> Self:
        """Return the table with the votes on one question in place of those over all, ungraded.

        Args:
            question: `overall`, `timbre`, `rhythm` or `melody`.

        Raises:
            ConfigError: If there is no such question.
        """
        if question not in QUESTIONS:
            msg = f"Listeners were asked about {', '.join(QUESTIONS)}; got {question!r}. Choose one of these."
            raise ConfigError(msg)
        if question == "overall":
            return self
        votes = self.perspective_votes[:, PERSPECTIVES.index(question)]
        return replace(self, votes=votes, sure_votes=None, source=f"{self.source}, {question}")

    @property
    def simulated(self) -> bool:
        """Whether the votes were drawn from known weights, not given by people."""
        return self.true_weights is not None

    def select(self, rows: IntArray | BoolArray | Sequence[int]) -> Self:
        """Return the table of some rows, with the segments that they use.

        Args:
            rows: Indices, or a mask `(triplet,)`.
        """
        chosen = np.asarray(rows)
        index = np.arange(len(self))[chosen if chosen.size else chosen.astype(np.int64)]
        used, renumbered = np.unique(np.stack([self.x[index], self.a[index], self.b[index]]), return_inverse=True)
        x, a, b = renumbered.reshape(3, -1).astype(np.int64)
        return replace(
            self,
            segments=tuple(self.segments[int(i)] for i in used),
            tracks=tuple(self.tracks[int(i)] for i in used),
            x=x,
            a=a,
            b=b,
            test_type=self.test_type[index],
            instrument=self.instrument[index],
            votes=self.votes[index],
            perspective_votes=self.perspective_votes[index],
            sure_votes=None if self.sure_votes is None else self.sure_votes[index],
        )

    def filter(
        self,
        *,
        instrument: str | None = None,
        test_type: TestType | None = None,
        min_agreement: float = 0.0,
        min_votes: int = 1,
    ) -> Self:
        """Keep the triplets that meet all conditions; those with a tied vote or none have no majority and go.

        Args:
            instrument: The stem that the listeners heard; None keeps all.
            test_type: `XAB` or `XYC`; None keeps both.
            min_agreement: Least share of votes that the majority must have, in [0, 1] (the paper: 0.75 and 0.8).
            min_votes: Least number of votes.

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
        """Return which triplets `(triplet,)` have a majority, votes enough, and agreement enough.

        Args:
            min_agreement: Least share of votes that the majority must have, in [0, 1].
            min_votes: Least number of votes.

        Raises:
            TripletError: If a condition is out of range.
        """
        if not 0.0 <= min_agreement <= 1.0 or min_votes < 0:
            msg = (
                f"`min_agreement` lies in [0, 1] and `min_votes` is not negative; got {min_agreement} and {min_votes}."
            )
            raise TripletError(msg)
        # Shares are ratios of small integers: 4 of 5 votes must count as 0.8 whatever its last bit.
        enough = self.majority_share >= min_agreement - 1e-9
        retained: BoolArray = (self.preference != 0) & (self.votes.sum(axis=1) >= min_votes) & enough
        return retained
