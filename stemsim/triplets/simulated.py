"""Simulated listeners, whose stem weights are known."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from stemsim.audio import SongFolder
from stemsim.embedding import StemEmbedder
from stemsim.errors import TripletError
from stemsim.similarity import stem_deltas
from stemsim.stems import StemLayout
from stemsim.triplets.drawing import cut_songs
from stemsim.triplets.reader import TripletReader
from stemsim.triplets.table import Triplets

__all__ = ["SimulatedListeners"]

FloatArray = npt.NDArray[np.float64]


class SimulatedListeners(TripletReader):
    """Draws triplets from songs, and votes from listeners who weigh the stems in a known way.

    A listener finds A closer with probability `sigmoid(s / (noise * std(s)))`, where s = sum_i w_i delta_i is computed
    with the separator and encoder in use. What is fitted to such votes can be compared with the truth, up to scale:
    votes say which candidate is closer, not by how much.

    Args:
        songs: The songs.
        weights: True weight of each stem; a stem not named has weight 0.
        triplets: Number of triplets to draw.
        xab_fraction: Share of them that are XAB; the others are XYC.
        listeners: Votes for each triplet; an odd number avoids ties.
        noise: How unsure listeners are, relative to the spread of s over the triplets; 0 makes them infallible.
        min_agreement: Keep only triplets on which at least this share of the listeners agree (the paper: 0.8).
        duration: Length of a segment in seconds.
        hop: From one segment's start to the next, in seconds; null: no overlap.
        seed: Seed of the draw and of the votes.
    """

    def __init__(
        self,
        songs: SongFolder,
        weights: dict[str, float],
        triplets: int = 600,
        xab_fraction: float = 0.5,
        listeners: int = 9,
        noise: float = 0.5,
        min_agreement: float = 0.0,
        duration: float = 5.0,
        hop: float | None = None,
        seed: int = 0,
    ) -> None:
        if triplets < 1 or listeners < 1 or noise < 0.0 or not 0.0 <= xab_fraction <= 1.0 or not any(weights.values()):
            msg = (
                "Simulated listeners need at least one triplet, listener and weight other than 0, noise of at least 0, "
                f"and a share of XAB in [0, 1]; got {triplets}, {listeners}, {weights}, {noise} and {xab_fraction}."
            )
            raise TripletError(msg)
        self.songs = songs
        self.weights = dict(weights)
        self.triplets = triplets
        self.xab_fraction = xab_fraction
        self.listeners = listeners
        self.noise = noise
        self.min_agreement = min_agreement
        self.duration = duration
        self.hop = hop
        self.seed = seed

    def read(self, embedder: StemEmbedder) -> Triplets:
        """Draw triplets, let the listeners hear them, and count their votes."""
        truth = self._truth(embedder.stems)
        rng = np.random.default_rng(self.seed)
        windows = cut_songs(self.songs.songs(), duration=self.duration, hop=self.hop)
        n_xab = round(self.triplets * self.xab_fraction)
        n_xyc = self.triplets - n_xab
        drawn = [windows.draw_xab(n_xab, rng)] if n_xab else []
        drawn += [windows.draw_xyc(n_xyc, rng)] if n_xyc else []
        rows = np.concatenate(drawn)
        embeddings = embedder.embed(windows.segments)
        deltas = stem_deltas(*(embeddings.take(torch.from_numpy(rows[:, role])) for role in range(3)))
        score = deltas.numpy() @ np.array(list(truth.values()))
        for_a = rng.binomial(self.listeners, self._probability(score)).astype(np.int64)
        votes = np.stack([for_a, self.listeners - for_a], axis=1)
        source = f"simulated listeners, {len(windows.count)} songs of {self.songs.root.name}/"
        table = replace(windows.table(rows, n_xab, votes, source), true_weights=truth)
        return table.filter(min_agreement=self.min_agreement)

    def _truth(self, stems: StemLayout) -> dict[str, float]:
        """Return the true weight of every stem of the layout, in order."""
        unknown = sorted(set(self.weights) - set(stems))
        if unknown:
            msg = (
                f"Simulated listeners weigh {', '.join(unknown)}, but the separator gives {', '.join(stems)}. "
                "Take them out of `weights`, or choose a separator that has them."
            )
            raise TripletError(msg)
        return {stem: float(self.weights.get(stem, 0.0)) for stem in stems}

    def _probability(self, score: FloatArray) -> FloatArray:
        """Return the probability `(triplet,)` that a listener finds A closer."""
        scale = self.noise * score.std()
        if scale == 0.0:
            return 0.5 * (1.0 + np.sign(score))
        probability: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * score / scale))  # the logistic function, without overflow
        return probability
