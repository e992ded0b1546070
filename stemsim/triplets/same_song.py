"""Same-song triplets: supervision without listeners."""

import numpy as np

from stemsim.audio import SongFolder
from stemsim.errors import TripletError
from stemsim.triplets.drawing import cut_songs
from stemsim.triplets.reader import TripletReader
from stemsim.triplets.table import Triplets

__all__ = ["SameSong"]


class SameSong(TripletReader):
    """XYC triplets on the assumption that two segments of one song are closer than segments of two songs.

    This assumption, known as S4, replaces listeners where there are none; each triplet counts as one vote for A.

    Args:
        songs: The songs.
        triplets: Number of triplets to draw.
        duration: Length of a segment in seconds.
        hop: From one segment's start to the next, in seconds; null: no overlap.
        seed: Seed of the draw.
    """

    def __init__(
        self, songs: SongFolder, triplets: int = 1000, duration: float = 5.0, hop: float | None = None, seed: int = 0
    ) -> None:
        if triplets < 1:
            msg = f"`triplets` must be at least 1, got {triplets}."
            raise TripletError(msg)
        self.songs = songs
        self.triplets = triplets
        self.duration = duration
        self.hop = hop
        self.seed = seed

    def read(self) -> Triplets:
        """Draw the triplets."""
        windows = cut_songs(self.songs.songs(), duration=self.duration, hop=self.hop)
        drawn = windows.draw_xyc(self.triplets, np.random.default_rng(self.seed))
        rows = np.unique(drawn, axis=0)  # a triplet drawn twice is one triplet
        votes = np.tile([1, 0], (len(rows), 1))
        return windows.table(
            rows, 0, votes, f"same-song triplets of {len(windows.count)} songs of {self.songs.root.name}/"
        )
