"""Drawing triplets of segments from songs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stemsim.audio import Segment, Song, segment_windows
from stemsim.errors import TripletError
from stemsim.triplets.table import PERSPECTIVES, Triplets

__all__ = ["SongWindows", "cut_songs"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SongWindows:
    """Windows of equal length, cut from songs.

    Attributes:
        segments: All windows, song by song.
        tracks: Name of each window's song.
        first: `(song,)` index of each song's first window.
        count: `(song,)` number of its windows.
    """

    segments: tuple[Segment, ...]
    tracks: tuple[str, ...]
    first: IntArray
    count: IntArray

    def draw_xyc(self, n: int, rng: np.random.Generator) -> IntArray:
        """Draw X and A from one song and B from another: `(n, 3)` indices of windows, all rows different."""
        pairs = np.flatnonzero(self.count >= 2)  # noqa: PLR2004 - X and Y are two windows
        if len(pairs) == 0 or len(self.count) < 2:  # noqa: PLR2004
            self._fail("XYC triplets need two songs, one of them with two windows")
        song = rng.choice(pairs, size=n)
        x = rng.integers(self.count[song])
        y = (x + 1 + rng.integers(self.count[song] - 1)) % self.count[song]
        other = (song + 1 + rng.integers(len(self.count) - 1, size=n)) % len(self.count)
        c = rng.integers(self.count[other])
        return np.stack([self.first[song] + x, self.first[song] + y, self.first[other] + c], axis=1)

    def draw_xab(self, n: int, rng: np.random.Generator) -> IntArray:
        """Draw X, A and B from three songs: `(n, 3)` indices of windows."""
        songs = len(self.count)
        if songs < 3:  # noqa: PLR2004 - X, A and B
            self._fail("XAB triplets need three songs")
        chosen = rng.permuted(np.tile(np.arange(songs), (n, 1)), axis=1)[:, :3]
        rows: IntArray = self.first[chosen] + rng.integers(self.count[chosen])
        return rows

    def table(self, rows: IntArray, n_xab: int, votes: IntArray, source: str) -> Triplets:
        """Return the triplet table of drawn rows `(n, 3)`, the first `n_xab` of them XAB and the others XYC."""
        n = len(rows)
        return Triplets(
            segments=self.segments,
            tracks=self.tracks,
            x=rows[:, 0],
            a=rows[:, 1],
            b=rows[:, 2],
            test_type=np.where(np.arange(n) < n_xab, "XAB", "XYC"),
            instrument=np.full(n, "mix"),
            votes=votes,
            perspective_votes=np.zeros((n, len(PERSPECTIVES), 2), np.int64),
            source=source,
        )

    def _fail(self, need: str) -> None:
        found = f"{len(self.count)} songs with {self.count.tolist()[:20]} windows"
        msg = f"{need}; found {found}. Add songs, or shorten the windows."
        raise TripletError(msg)


def cut_songs(songs: list[Song], *, duration: float, hop: float | None) -> SongWindows:
    """Cut songs into windows of equal length; a song shorter than one window is left out.

    Args:
        songs: The songs.
        duration: Length of a window in seconds.
        hop: From one window's start to the next, in seconds; None: no overlap.

    Returns:
        All windows of the songs that have any.
    """
    cuts = [(song, segment_windows(song.mix, duration=duration, hop=hop)) for song in songs]
    kept = [(song, windows) for song, windows in cuts if windows[0].duration == duration]
    count = np.array([len(windows) for _, windows in kept], dtype=np.int64)
    return SongWindows(
        segments=tuple(window for _, windows in kept for window in windows),
        tracks=tuple(song.name for song, windows in kept for _ in windows),
        first=np.cumsum(count) - count,
        count=count,
    )
