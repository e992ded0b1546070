"""Base classes of fusions, and the pairs of segments that a fusion sees."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stemsim.errors import ConfigError
from stemsim.similarity import StemEmbeddings, stem_cosines

MOST_UNITS: Final = 1024
"""Pieces, hidden units or components of a fusion: a card of a model must not fill the memory."""


class StemPairs(NamedTuple):
    """Pairs of segments compared stem by stem: the input of a fusion, which does not depend on its parameters.

    Attributes:
        query: Stem embeddings of the first segments; in a triplet, X.
        candidate: Stem embeddings of the second segments.
        cosines: `(batch, stem)` float64; 0 where the stem is silent in either.
        sounding: `(batch, stem)` True where the stem sounds in both.
        features: The result of the fusion's `prepare`; None if it has nothing to prepare.
    """

    query: StemEmbeddings
    candidate: StemEmbeddings
    cosines: Tensor
    sounding: Tensor
    features: Tensor | None = None

    @classmethod
    def of(cls, query: StemEmbeddings, candidate: StemEmbeddings) -> "StemPairs":
        """Compare two batches of equally many segments."""
        return cls(query, candidate, stem_cosines(query, candidate), query.present & candidate.present)


class Fusion(nn.Module, ABC):
    """Fusion of the stems of two segments into one similarity, as a sum of per-stem contributions.

    A preference is the difference of two similarities to X, each computed in the same way on a batch of the same shape,
    so that for every fusion swapping A and B flips its sign exactly and identical candidates are neutral. Subclasses
    implement `fuse`.

    Args:
        stems: Stem layout, in order.
    """

    def __init__(self, stems: Sequence[str]) -> None:
        super().__init__()
        self.stems = tuple(stems)

    @abstractmethod
    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return the contribution of each stem to the similarity of pairs of segments.

        Returns:
            `(batch, stem)` float64; 0 where the stem is silent in either.
        """

    def similarity(self, pairs: StemPairs) -> Tensor:
        """Return the similarity `(batch,)` of pairs of segments, the sum of `fuse`; higher is closer."""
        return self.fuse(pairs).sum(dim=1)

    def prepare(self, pairs: StemPairs) -> Tensor | None:
        """Return values that depend on the pairs only, which a fit computes once for all its steps.

        Returns:
            The later `pairs.features`, of any shape; None if there is nothing to prepare.
        """

    def compare(self, query: StemEmbeddings, candidate: StemEmbeddings) -> StemPairs:
        """Return two batches of equally many segments as prepared pairs."""
        pairs = StemPairs.of(query, candidate)
        return pairs._replace(features=self.prepare(pairs))

    def contributions(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return the contribution `(batch, stem)` of each stem to the similarity of two batches; see `fuse`."""
        return self.fuse(self.compare(query, candidate))

    def forward(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return the similarity `(batch,)` of two batches of segments; higher is closer."""
        return self.similarity(self.compare(query, candidate))

    def preference(self, x: StemEmbeddings, a: StemEmbeddings, b: StemEmbeddings) -> Tensor:
        """Return the preference `(batch,)`: positive where A is closer to X, negative where B is."""
        difference: Tensor = self(x, a) - self(x, b)
        return difference

    def observe(self, pairs: StemPairs) -> None:
        """Set what depends on the training pairs (X, A) and (X, B) but not on the votes; a fit starts so."""

    def start_from(self, weights: Tensor) -> None:
        """Become exactly the linear fusion with weights `(stem,)`; a fit starts from the best linear ones.

        Raises:
            ConfigError: If there is not one finite weight for each stem, or the fusion does not contain the linear one.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot start from stem weights {weights.tolist()}. Make it a subclass of "
            "WeightedFusion, or give it a `start_from` after which it is the linear fusion."
        )

    def penalty(self) -> Tensor:
        """Return the sum of squares that the L2 term of the loss is multiplied with."""
        return torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()

    def roughness(self) -> Tensor:
        """Return the cost of departing from the linear fusion, in units of the mean loss and apart from the L2 term."""
        return torch.zeros((), dtype=torch.float64)


class WeightedFusion(Fusion):
    """Fusion with one weight for each stem, and with whatever else makes it more than linear.

    L2 penalises the squares of the weights, as in ridge regression. Subclasses add parameters at whose start `fuse`
    returns weight times cosine.

    Args:
        stems: Stem layout, in order.
        smoothing: Factor of the subclass's `roughness`.
    """

    weight: Tensor

    def __init__(self, stems: Sequence[str], smoothing: float = 0.0) -> None:
        super().__init__(stems)
        if not smoothing >= 0.0:
            raise ConfigError(f"`smoothing` must not be negative; got {smoothing}.")
        self.smoothing = smoothing
        self.weight = nn.Parameter(torch.ones(len(self.stems), dtype=torch.float64))

    def start_from(self, weights: Tensor) -> None:
        """Set the weights `(stem,)`, in the order of the stem layout; all other parameters stay at their start.

        Raises:
            ConfigError: If there is not one finite weight for each stem.
        """
        if weights.shape != (len(self.stems),) or not bool(torch.isfinite(weights).all()):
            raise ConfigError(f"Expected one finite weight each for {', '.join(self.stems)}; got {weights.tolist()}.")
        with torch.no_grad():
            if parametrize.is_parametrized(self, "weight"):
                self.weight = weights.double()  # the parametrization inverts them
            else:
                self.weight.copy_(weights)

    def penalty(self) -> Tensor:
        """Return the sum of squared weights: with `l2 = alpha / n`, the penalty of ridge regression."""
        return self.weight.square().sum()


def prepared(pairs: StemPairs) -> Tensor:
    """Return the features of pairs, or raise `ConfigError` if nothing has prepared them."""
    if pairs.features is None:
        raise ConfigError("These pairs have no features. Make them with the fusion's `compare`, not `StemPairs.of`.")
    return pairs.features
