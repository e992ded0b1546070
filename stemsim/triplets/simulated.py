"""Simulated listeners, whose stem weights are known."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stemsim.audio import SongFolder
from stemsim.embedding import StemEmbedder
from stemsim.errors import TripletError
from stemsim.stems import StemLayout
from stemsim.triplets.drawing import cut_songs
from stemsim.triplets.embedded import EmbeddedTriplets
from stemsim.triplets.reader import TripletReader
from stemsim.triplets.table import PERSPECTIVES, Triplets

__all__ = ["SimulatedListeners"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
                f"and `sure_from` must not be negative; got {asked} and {sure_from}."
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
        windows = cut_songs(self.songs.songs(), duration=self.duration, hop=self.hop)
        n_xab = round(self.triplets * self.xab_fraction)
        n_xyc = self.triplets - n_xab
        drawn = [windows.draw_xab(n_xab, rng)] if n_xab else []
        drawn += [windows.draw_xyc(n_xyc, rng)] if n_xyc else []
        source = f"simulated listeners, {len(windows.count)} songs of {self.songs.root.name}/"
        return windows.table(np.concatenate(drawn), n_xab, np.zeros((self.triplets, 2), np.int64), source)

    def _voted(self, embedder: StemEmbedder) -> dict[str, EmbeddedTriplets]:
        """Return the triplets on which enough listeners agree, by question."""
        asked = {"overall": self.weights, **self.perspectives}
        truths = {question: self._truth(weights, embedder.stems) for question, weights in asked.items()}
        rng = np.random.default_rng(self.seed)
        silent = EmbeddedTriplets.of(self._drawn(rng), embedder)
        votes: dict[str, IntArray] = {}
        perspective_votes, sure = silent.triplets.perspective_votes.copy(), None
        for question, truth in truths.items():
            impression = self._impression(silent.deltas.numpy() @ np.array(list(truth.values())))
            votes[question] = self._votes(impression, rng)
            if question == "overall":
                sure = self._sure(impression, votes[question], rng)
            else:
                perspective_votes[:, PERSPECTIVES.index(question)] = votes[question]
        table = replace(silent.triplets, votes=votes["overall"], perspective_votes=perspective_votes, sure_votes=sure)
        found = {}
        for question, truth in truths.items():
            voted = replace(table.about(question), true_weights=truth)
            whole = EmbeddedTriplets(voted, silent.embeddings, silent.stems)
            found[question] = whole.select(voted.retained(min_agreement=self.min_agreement))
        return found

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
                f"Simulated listeners have weights for {', '.join(unknown)}, but the separator provides "
                f"{', '.join(stems)}. Remove them from `weights` or `perspectives`, or choose another separator."
            )
            raise TripletError(msg)
        return {stem: float(weights.get(stem, 0.0)) for stem in stems}

    def _impression(self, score: FloatArray) -> FloatArray:
        """Return the impression `(triplet,)` before chance, positive for A; infinite without noise."""
        scale = self.noise * score.std()
        return score / scale if scale else np.where(score == 0.0, 0.0, np.copysign(np.inf, score))


def _logistic(values: FloatArray) -> FloatArray:
    """Return the logistic function, without overflow."""
    probability: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return probability
