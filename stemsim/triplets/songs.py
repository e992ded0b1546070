"""Triplets drawn from songs: same-song triplets, and triplets with the votes of simulated listeners."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from stemsim.audio import Segment, SongFolder, segment_windows
from stemsim.embedding import StemEmbedder
from stemsim.errors import TripletError
from stemsim.stems import StemLayout
from stemsim.triplets.embedded import EmbeddedTriplets, TripletReader
from stemsim.triplets.table import PERSPECTIVES, FloatArray, IntArray, Triplets


@dataclass(frozen=True, slots=True, eq=False)
class SongWindows:
    """Windows of equal length, cut from songs."""

    segments: tuple[Segment, ...]  # all windows, song by song
    tracks: tuple[str, ...]  # name of each window's song
    first: IntArray  # (song,) index of each song's first window
    count: IntArray  # (song,) number of its windows
    folder: str

    @classmethod
    def cut(cls, songs: SongFolder, *, duration: float, hop: float | None) -> "SongWindows":
        """Cut songs into windows of a duration, a hop apart (s; None: no overlap); shorter songs are left out."""
        cuts = [(song, segment_windows(song.mix, duration=duration, hop=hop)) for song in songs.songs()]
        kept = [(song, windows) for song, windows in cuts if windows[0].duration == duration]
        count = np.array([len(windows) for _, windows in kept], dtype=np.int64)
        segments = tuple(window for _, windows in kept for window in windows)
        tracks = tuple(song.name for song, windows in kept for _ in windows)
        return cls(segments, tracks, np.cumsum(count) - count, count, songs.root.name)

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

    def table(self, rows: IntArray, n_xab: int, votes: IntArray, kind: str) -> Triplets:
        """Return the triplet table of drawn rows `(n, 3)`, the first `n_xab` of them XAB and the others XYC."""
        n = len(rows)
        return Triplets(
            segments=self.segments,
            tracks=self.tracks,
            members=rows,
            test_type=np.where(np.arange(n) < n_xab, "XAB", "XYC"),
            instrument=np.full(n, "mix"),
            votes=votes,
            perspective_votes=np.zeros((n, len(PERSPECTIVES), 2), np.int64),
            source=f"{kind} {len(self.count)} songs of {self.folder}/",
        )

    def _fail(self, need: str) -> None:
        found = f"{len(self.count)} songs with {self.count.tolist()[:20]} windows"
        raise TripletError(f"{need}; found {found}. Add songs, or shorten the windows.")


@dataclass(frozen=True, eq=False)
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

    songs: SongFolder
    triplets: int = 1000
    duration: float = 5.0
    hop: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Verify ranges."""
        if self.triplets < 1:
            raise TripletError(f"`triplets` must be at least 1, got {self.triplets}.")

    def read(self) -> Triplets:
        """Draw the triplets."""
        windows = SongWindows.cut(self.songs, duration=self.duration, hop=self.hop)
        drawn = windows.draw_xyc(self.triplets, np.random.default_rng(self.seed))
        rows = np.unique(drawn, axis=0)  # a triplet drawn twice is one triplet
        return windows.table(rows, 0, np.tile([1, 0], (len(rows), 1)), "same-song triplets of")


@dataclass(frozen=True, eq=False)
class SimulatedListeners(TripletReader):
    """Triplets drawn from songs, with votes of simulated listeners whose stem weights are known.

    A listener finds A closer with probability `sigmoid(s / (noise * std(s)))`, where s = sum_i w_i delta_i is computed
    with the separator and encoder in use: the impression is s / (noise * std(s)) plus a logistic random number, and its
    sign is the choice. The listener is sure of the answer if the impression is at least `sure_from` away from 0.
    Weights fitted to such votes can be compared with the true ones up to scale, since votes tell which candidate is
    closer, not by how much.

    Args:
        songs: The songs.
        weights: True weight of each stem; a stem not named has weight 0.
        triplets: Number of triplets to draw.
        xab_fraction: Share of them that are XAB; the others are XYC.
        listeners: Votes for each triplet; an odd number avoids ties.
        noise: Uncertainty of the listeners, relative to the spread of s over the triplets; 0: they never err.
        min_agreement: Keep only triplets on which at least this share of the listeners agree (paper: 0.8).
        duration: Length of a segment in seconds.
        hop: From one segment's start to the next, in seconds; null: no overlap.
        seed: Seed of the draw and of the votes.
        perspectives: True weights of each stem by perspective (timbre, rhythm, melody), if listeners are asked about
            these too; null: they are not.
        sure_from: Impression from which an answer is sure; 2.5 makes about a third of the answers sure, as in
            Inst-Sim-ABX on mixes.
    """

    songs: SongFolder
    weights: dict[str, float]
    triplets: int = 600
    xab_fraction: float = 0.5
    listeners: int = 9
    noise: float = 0.5
    min_agreement: float = 0.0
    duration: float = 5.0
    hop: float | None = None
    seed: int = 0
    perspectives: dict[str, dict[str, float]] | None = None
    sure_from: float = 2.5

    def __post_init__(self) -> None:
        """Verify ranges, weights and perspectives."""
        counts = self.triplets >= 1 and self.listeners >= 1 and any(self.weights.values())
        if not counts or self.noise < 0.0 or not 0.0 <= self.xab_fraction <= 1.0:
            raise TripletError(
                "Simulated listeners need at least one triplet, listener and weight other than 0, noise of at least 0, "
                f"and a share of XAB in [0, 1]; got {self.triplets}, {self.listeners}, {self.weights}, {self.noise} "
                f"and {self.xab_fraction}."
            )
        asked = self.perspectives or {}
        heard = all(any(weights.values()) for weights in asked.values())
        if not set(asked) <= set(PERSPECTIVES) or not heard or self.sure_from < 0:
            raise TripletError(
                f"Simulated listeners can be asked about {', '.join(PERSPECTIVES)}, each with a weight other than 0, "
                f"and `sure_from` must not be negative; got {asked} and {self.sure_from}."
            )

    def read(self) -> Triplets:
        """Draw the triplets, without votes: listeners vote on the embedded segments, in `embed`."""
        return self._drawn(np.random.default_rng(self.seed))

    def embed(self, embedder: StemEmbedder, check: Callable[[Triplets], None] | None = None) -> EmbeddedTriplets:
        """Draw triplets, embed their segments, and let the listeners vote."""
        voted = self._voted(embedder)["overall"]
        if check is not None:
            check(voted.triplets)
        return voted

    def embed_questions(self, embedder: StemEmbedder) -> dict[str, EmbeddedTriplets]:
        """Return the triplets by question, each table with its own true weights and chosen by its own votes."""
        return {question: one for question, one in self._voted(embedder).items() if len(one)}

    def _drawn(self, rng: np.random.Generator) -> Triplets:
        """Draw triplets of windows, XAB first, without votes."""
        windows = SongWindows.cut(self.songs, duration=self.duration, hop=self.hop)
        n_xab = round(self.triplets * self.xab_fraction)
        n_xyc = self.triplets - n_xab
        drawn = [windows.draw_xab(n_xab, rng)] if n_xab else []
        drawn += [windows.draw_xyc(n_xyc, rng)] if n_xyc else []
        return windows.table(
            np.concatenate(drawn), n_xab, np.zeros((self.triplets, 2), np.int64), "simulated listeners,"
        )

    def _voted(self, embedder: StemEmbedder) -> dict[str, EmbeddedTriplets]:
        """Return the triplets on which enough listeners agree, by question."""
        perspectives = self.perspectives or {}
        asked = {"overall": self.weights} | {name: perspectives[name] for name in PERSPECTIVES if name in perspectives}
        truths = {question: _truth(weights, embedder.stems) for question, weights in asked.items()}
        rng = np.random.default_rng(self.seed)
        silent = EmbeddedTriplets.of(self._drawn(rng), embedder)
        table = silent.triplets
        for question, truth in truths.items():
            score = silent.deltas.numpy() @ np.array(list(truth.values()))
            scale = self.noise * score.std()  # without noise, impressions are infinite
            impression = score / scale if scale else np.where(score == 0.0, 0.0, np.copysign(np.inf, score))
            for_a = rng.binomial(self.listeners, expit(impression)).astype(np.int64)
            votes = np.stack([for_a, self.listeners - for_a], axis=1)
            if question == "overall":
                table = replace(table, votes=votes, sure_votes=self._sure(impression, votes, rng))
            else:
                table.perspective_votes[:, PERSPECTIVES.index(question)] = votes
        found = {}
        for question, truth in truths.items():
            voted = replace(table.about(question), true_weights=truth)
            whole = EmbeddedTriplets(voted, silent.embeddings, silent.stems)
            found[question] = whole.select(voted.retained(min_agreement=self.min_agreement))
        return found

    def _sure(self, impression: FloatArray, votes: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw how many of the votes `(triplet, 2)` are sure."""
        sides = np.stack([impression, -impression], axis=1)
        chosen = expit(sides)
        surely = np.divide(expit(sides - self.sure_from), chosen, out=np.zeros_like(chosen), where=chosen > 0.0)
        return rng.binomial(votes, surely.clip(max=1.0)).astype(np.int64)


def _truth(weights: Mapping[str, float], stems: StemLayout) -> dict[str, float]:
    """Return the true weight of every stem of the layout, in order."""
    if unknown := sorted(set(weights) - set(stems)):
        raise TripletError(
            f"Simulated listeners have weights for {', '.join(unknown)}, but the separator provides "
            f"{', '.join(stems)}. Remove them from `weights` or `perspectives`, or choose another separator."
        )
    return {stem: float(weights.get(stem, 0.0)) for stem in stems}
