"""Stem embeddings and their per-stem cosine similarities (paper, section 3.2 and 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["StemEmbeddings", "stem_cosines", "stem_deltas"]


class StemEmbeddings(NamedTuple):
    """Embeddings of the stems of a batch of segments.

    Attributes:
        vectors: `(batch, stem, dim)`, unit norm; all zeros where the stem is silent.
        levels: `(batch, stem)` measured level in dBFS.
        present: `(batch, stem)` False where the stem is silent.
    """

    vectors: Tensor
    levels: Tensor
    present: Tensor

    def take(self, rows: Tensor) -> "StemEmbeddings":
        """Return the embeddings of the segments with indices `rows` `(n,)`."""
        return StemEmbeddings(self.vectors[rows], self.levels[rows], self.present[rows])


def stem_cosines(query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
    """Return the cosine similarity of each stem of two batches of equal size and stem layout; higher is closer.

    Returns:
        `(batch, stem)` float64 in [-1, 1]; 0 where the stem is silent in either segment.
    """
    return torch.einsum("bsd,bsd->bs", query.vectors.double(), candidate.vectors.double())


def stem_deltas(x: StemEmbeddings, a: StemEmbeddings, b: StemEmbeddings) -> Tensor:
    """Return the stem features delta_i = cos(X_i, A_i) - cos(X_i, B_i) of triplets (paper, section 3.4).

    Returns:
        `(batch, stem)` float64; swapping A and B flips every sign exactly.
    """
    return stem_cosines(x, a) - stem_cosines(x, b)
