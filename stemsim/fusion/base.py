"""What every fusion is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stemsim.errors import ConfigError
from stemsim.similarity import StemEmbeddings, stem_cosines

__all__ = ["Fusion", "StemPairs", "WeightedFusion", "prepared"]


class StemPairs(NamedTuple):
    """Pairs of segments, compared stem by stem: what a fusion sees, and what no parameter changes.

    Attributes:
        query: Stem embeddings of the first segments; in a triplet, X.
        candidate: Stem embeddings of the second ones.
        cosines: `(batch, stem)` float64; 0 where the stem is silent in either.
        sounding: `(batch, stem)` True where the stem sounds in both.
        features: What a fusion has prepared; None if nothing.
    """

    query: StemEmbeddings
    candidate: StemEmbeddings
    cosines: Tensor
    sounding: Tensor
    features: Tensor | None = None

    @classmethod
    def of(cls, query: StemEmbeddings, candidate: StemEmbeddings) -> "StemPairs":
        """Compare two batches of as many segments."""
        return cls(query, candidate, stem_cosines(query, candidate), query.present & candidate.present)


class Fusion(nn.Module, ABC):
    """Fuses the stems of two segments into one similarity, as a sum of per-stem contributions.

    A preference is the difference of two similarities to X, each computed in the same way on a batch of the same shape,
    so that swapping A and B flips its sign exactly and identical candidates are neutral, whatever the fusion.
    Subclasses implement `fuse`.

    Args:
        stems: Stem layout, in order.
    """

    def __init__(self, stems: Sequence[str]) -> None:
        super().__init__()
        self.stems = tuple(stems)

    @abstractmethod
    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return what each stem adds to the similarity of pairs of segments.

        Args:
            pairs: `batch` pairs.

        Returns:
            `(batch, stem)` float64; 0 where the stem is silent in either.
        """

    def similarity(self, pairs: StemPairs) -> Tensor:
        """Return the similarity `(batch,)` of pairs of segments, the sum of `fuse`; higher is closer."""
        return self.fuse(pairs).sum(dim=1)

    def prepare(self, pairs: StemPairs) -> Tensor | None:
        """Return what is a function of the pairs alone, and worth computing once for all steps of a fit.

        Args:
            pairs: `batch` pairs, without `features`.

        Returns:
            What `fuse` and `similarity` find as `pairs.features`, of any shape; None if there is nothing.
        """

    def compare(self, query: StemEmbeddings, candidate: StemEmbeddings) -> StemPairs:
        """Compare two batches of as many segments, and prepare them."""
        pairs = StemPairs.of(query, candidate)
        return pairs._replace(features=self.prepare(pairs))

    def contributions(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return what each stem adds to the similarity of two batches of segments.

        Args:
            query: Stem embeddings of `batch` segments; in a triplet, X.
            candidate: Stem embeddings of as many segments.

        Returns:
            `(batch, stem)` float64; 0 where the stem is silent in either.
        """
        return self.fuse(self.compare(query, candidate))

    def forward(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return the similarity `(batch,)` of two batches of segments; higher is closer."""
        return self.similarity(self.compare(query, candidate))

    def preference(self, x: StemEmbeddings, a: StemEmbeddings, b: StemEmbeddings) -> Tensor:
        """Return the preference `(batch,)`: positive where A is closer to X, negative where B is."""
        difference: Tensor = self(x, a) - self(x, b)
        return difference

    def observe(self, pairs: StemPairs) -> None:
        """Take from the segments what needs no votes, such as the range of the cosines; a fit does so at its start.

        Args:
            pairs: The pairs (X, A) and (X, B) that are trained on.
        """

    def start_from(self, weights: Tensor) -> None:
        """Become the linear fusion with some weights, exactly; a fit starts from the best linear ones.

        Args:
            weights: `(stem,)` in the order of the stem layout.

        Raises:
            ConfigError: If there is not one finite weight a stem, or the fusion does not contain the linear one.
        """
        msg = (
            f"{type(self).__name__} cannot start from stem weights {weights.tolist()}. Let it be a WeightedFusion, or "
            "give it a `start_from` after which it is the linear fusion."
        )
        raise ConfigError(msg)

    def penalty(self) -> Tensor:
        """Return the sum of squares that the L2 term of the loss weighs."""
        return torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()

    def roughness(self) -> Tensor:
        """Return what departing from the linear fusion costs, beside the L2 term, in units of the mean loss."""
        return torch.zeros((), dtype=torch.float64)


class WeightedFusion(Fusion):
    """A fusion with one weight a stem, beside whatever makes it more than linear.

    The weights' squares are what L2 weighs, as in ridge regression. Subclasses add parameters that start where `fuse`
    returns weight times cosine.

    Args:
        stems: Stem layout, in order.
    """

    weight: Tensor

    def __init__(self, stems: Sequence[str]) -> None:
        super().__init__(stems)
        self.weight = nn.Parameter(torch.ones(len(self.stems), dtype=torch.float64))

    def start_from(self, weights: Tensor) -> None:
        """Set the weights `(stem,)`, in the order of the stem layout; all else stays at its start.

        Raises:
            ConfigError: If there is not one finite weight a stem.
        """
        self._check_weights(weights)
        with torch.no_grad():
            self.weight.copy_(weights)

    def penalty(self) -> Tensor:
        """Return the sum of squared weights: with `l2 = alpha / n`, that of ridge regression."""
        return self.weight.square().sum()

    def _check_weights(self, weights: Tensor, *, kind: str = "finite", valid: bool = True) -> None:
        """Raise unless there is one finite weight a stem."""
        if weights.shape != (len(self.stems),) or not bool(torch.isfinite(weights).all()) or not valid:
            msg = f"Expected one {kind} weight for each of {', '.join(self.stems)}; got {weights.tolist()}."
            raise ConfigError(msg)


def prepared(pairs: StemPairs) -> Tensor:
    """Return the features of pairs.

    Raises:
        ConfigError: If nothing has been prepared.
    """
    if pairs.features is None:
        msg = "These pairs have no features. Make them by the `compare` of the fusion, not by `StemPairs.of`."
        raise ConfigError(msg)
    return pairs.features
