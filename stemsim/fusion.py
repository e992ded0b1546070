"""Fusion: from per-stem similarities to one similarity."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stemsim.errors import ConfigError
from stemsim.similarity import StemEmbeddings, stem_cosines

__all__ = ["Fusion", "LinearFusion"]


class Fusion(nn.Module, ABC):
    """Fuses the stems of two segments into one similarity, as a sum of per-stem contributions.

    A preference is the difference of two similarities to X, so that swapping A and B flips its sign exactly and
    identical candidates are neutral, whatever the fusion. Subclasses implement `contributions`.

    Args:
        stems: Stem layout, in order.
    """

    def __init__(self, stems: Sequence[str]) -> None:
        super().__init__()
        self.stems = tuple(stems)

    @abstractmethod
    def contributions(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return what each stem adds to the similarity of two batches of segments.

        Args:
            query: Stem embeddings of `batch` segments; in a triplet, X.
            candidate: Stem embeddings of as many segments.

        Returns:
            `(batch, stem)` float64; 0 where the stem is silent in either.
        """

    def forward(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return the similarity `(batch,)` of two batches of segments; higher is closer."""
        return self.contributions(query, candidate).sum(dim=1)

    def preference(self, x: StemEmbeddings, a: StemEmbeddings, b: StemEmbeddings) -> Tensor:
        """Return the preference `(batch,)`: positive where A is closer to X, negative where B is."""
        difference: Tensor = self(x, a) - self(x, b)
        return difference

    def penalty(self) -> Tensor:
        """Return the sum of squares that the L2 term of the loss weighs."""
        return torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()


class LinearFusion(Fusion):
    """Bias-free weighted sum of per-stem cosines: similarity = sum_i w_i cos_i (paper, section 3.4).

    Args:
        stems: Stem layout, in order.
        nonnegative: Admit no negative weights: w = v^2, with v learned.
    """

    weight: Tensor

    def __init__(self, stems: Sequence[str], nonnegative: bool = False) -> None:
        super().__init__(stems)
        self.nonnegative = nonnegative
        # Least squares is convex: zeros are as good a start as any, and leave a stem that never sounds at zero.
        self.weight = nn.Parameter(torch.zeros(len(self.stems), dtype=torch.float64))
        if nonnegative:
            parametrize.register_parametrization(self, "weight", _Square())
            self.set_weights(torch.ones(len(self.stems)))  # at v = 0 the gradient vanishes

    def contributions(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        """Return weight times cosine of each stem, `(batch, stem)`."""
        return self.weight * stem_cosines(query, candidate)

    def penalty(self) -> Tensor:
        """Return the sum of squared weights: with `l2 = alpha / n`, the loss has ridge regression's minimum."""
        return self.weight.square().sum()

    @torch.no_grad()
    def set_weights(self, weights: Tensor) -> None:
        """Set the weights `(stem,)`, in the order of the stem layout.

        Raises:
            ConfigError: If there is not one finite weight a stem, or one is negative where none may be.
        """
        valid = weights.shape == (len(self.stems),) and bool(torch.isfinite(weights).all())
        if not valid or (self.nonnegative and bool((weights < 0).any())):
            kind = "finite, nonnegative" if self.nonnegative else "finite"
            msg = f"Expected one {kind} weight for each of {', '.join(self.stems)}; got {weights.tolist()}."
            raise ConfigError(msg)
        if self.nonnegative:
            self.weight = weights.double()  # the parametrization takes the root
        else:
            self.weight.copy_(weights.double())


class _Square(nn.Module):
    """Maps a free vector to weights that are not negative."""

    def forward(self, root: Tensor) -> Tensor:
        return root.square()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.sqrt()
