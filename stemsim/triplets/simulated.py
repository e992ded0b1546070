"""Simulated listeners, whose stem weights are known."""

from collections.abc import Mapping
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
from stemsim.triplets.table import PERSPECTIVES, Triplets

__all__ = ["SimulatedListeners"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class SimulatedListeners(TripletReader):
    """Draws triplets from songs, and votes from listeners who weigh the stems in a known way.

    A listener finds A closer with probability `sigmoid(s / (noise * std(s)))`, where s = sum_i w_i delta_i is computed
    with the separator and encoder in use. What is fitted to such votes can be compared with the truth, up to scale:
    votes say which candidate is closer, not by how much. That is what a listener does whose impression is s / (noise *
    std(s)) plus a logistic random number, and who chooses by its sign; who is asked to grade the answer is sure of it
    where the impression is at least `sure_from` away from 0.

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
        perspectives: True weights of each stem by perspective (timbre, rhythm, melody) for listeners who are asked
            about these too; null: they are not.
        sure_from: See above; 2.5 makes about a third of the answers sure, as are those of Inst-Sim-ABX on mixes.
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
        perspectives: dict[str, dict[str, float]] | None = None,
        sure_from: float = 2.5,
    ) -> None:
        if triplets < 1 or listeners < 1 or noise < 0.0 or not 0.0 <= xab_fraction <= 1.0 or not any(weights.values()):
            msg = (
                "Simulated listeners need at least one triplet, listener and weight other than 0, noise of at least 0, "
                f"and a share of XAB in [0, 1]; got {triplets}, {listeners}, {weights}, {noise} and {xab_fraction}."
            )
            raise TripletError(msg)
        asked = {} if perspectives is None else perspectives
        if not set(asked) <= set(PERSPECTIVES) or not all(map(any, map(dict.values, asked.values()))) or sure_from < 0:
            msg = (
                f"Simulated listeners can be asked about {', '.join(PERSPECTIVES)}, each with a weight other than 0, "
                f"and `sure_from` is not negative; got {asked} and {sure_from}."
            )
            raise TripletError(msg)
        self.songs = songs
        self.weights = dict(weights)
        self.perspectives: dict[str, dict[str, float]] = {
            name: dict(asked[name]) for name in PERSPECTIVES if name in asked
        }
        self.sure_from = sure_from
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
        return self._asked(embedder).filter(min_agreement=self.min_agreement)

    def read_perspectives(self, embedder: StemEmbedder) -> dict[str, Triplets]:
        """Return the triplets by question, each table with its own true weights and cut off by its own votes."""
        table = self._asked(embedder)
        truths = {"overall": self.weights, **self.perspectives}
        about = {
            question: replace(table.about(question), true_weights=self._truth(weights, embedder.stems))
            for question, weights in truths.items()
        }
        kept = {question: one.filter(min_agreement=self.min_agreement) for question, one in about.items()}
        return {question: one for question, one in kept.items() if len(one)}

    def _asked(self, embedder: StemEmbedder) -> Triplets:
        """Return all triplets that were drawn, with the votes on them."""
        truth = self._truth(self.weights, embedder.stems)
        truths = {name: self._truth(weights, embedder.stems) for name, weights in self.perspectives.items()}
        rng = np.random.default_rng(self.seed)
        windows = cut_songs(self.songs.songs(), duration=self.duration, hop=self.hop)
        n_xab = round(self.triplets * self.xab_fraction)
        n_xyc = self.triplets - n_xab
        drawn = [windows.draw_xab(n_xab, rng)] if n_xab else []
        drawn += [windows.draw_xyc(n_xyc, rng)] if n_xyc else []
        rows = np.concatenate(drawn)
        embeddings = embedder.embed(windows.segments)
        deltas = stem_deltas(*(embeddings.take(torch.from_numpy(rows[:, role])) for role in range(3)))
        impression = self._impression(deltas.numpy() @ np.array(list(truth.values())))
        votes = self._votes(impression, rng)
        sure = self._sure(impression, votes, rng)
        source = f"simulated listeners, {len(windows.count)} songs of {self.songs.root.name}/"
        table = replace(windows.table(rows, n_xab, votes, source), true_weights=truth, sure_votes=sure)
        perspective_votes = table.perspective_votes.copy()
        for name, weights in truths.items():
            impression = self._impression(deltas.numpy() @ np.array(list(weights.values())))
            perspective_votes[:, PERSPECTIVES.index(name)] = self._votes(impression, rng)
        return replace(table, perspective_votes=perspective_votes)

    def _votes(self, impression: FloatArray, rng: np.random.Generator) -> IntArray:
        """Draw votes for A and for B `(triplet, 2)`."""
        for_a = rng.binomial(self.listeners, _logistic(impression)).astype(np.int64)
        return np.stack([for_a, self.listeners - for_a], axis=1)

    def _sure(self, impression: FloatArray, votes: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw how many of the votes `(triplet, 2)` are sure."""
        sides = np.stack([impression, -impression], axis=1)
        chosen = _logistic(sides)
        surely = np.divide(_logistic(sides - self.sure_from), chosen, out=np.zeros_like(chosen), where=chosen > 0.0)
        return rng.binomial(votes, surely.clip(max=1.0)).astype(np.int64)

    @staticmethod
    def _truth(weights: Mapping[str, float], stems: StemLayout) -> dict[str, float]:
        """Return the true weight of every stem of the layout, in order."""
        unknown = sorted(set(weights) - set(stems))
        if unknown:
            msg = (
                f"Simulated listeners weigh {', '.join(unknown)}, but the separator gives {', '.join(stems)}. "
                "Take them out of `weights` or `perspectives`, or choose a separator that has them."
            )
            raise TripletError(msg)
        return {stem: float(weights.get(stem, 0.0)) for stem in stems}

    def _impression(self, score: FloatArray) -> FloatArray:
        """Return how much closer A seems `(triplet,)`, in units of the listeners' noise; endless without noise."""
        scale = self.noise * score.std()
        return score / scale if scale else np.where(score == 0.0, 0.0, np.copysign(np.inf, score))


def _logistic(values: FloatArray) -> FloatArray:
    """Return the logistic function, without overflow."""
    probability: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return probability
