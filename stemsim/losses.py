"""Losses of a fit: the distance of predicted preferences from the answers of the listeners.

A target t in [-1, 1] summarises the answers (`Triplets.target`); a preference p is the prediction of the model. With
q = (1 + t) / 2 as the share of votes for A, the last two losses are those of single votes, averaged over the votes.

| loss | of one triplet | p estimates |
|---|---|---|
| `SquaredError` | (p - t)^2 | the target itself (the paper) |
| `Logistic` | -q log sigmoid(p) - (1 - q) log sigmoid(-p) | the log odds of a vote for A (Bradley and Terry) |
| `SquaredHinge` | q max(0, 1 - p)^2 + (1 - q) max(0, 1 + p)^2 | the target, or more where listeners are unanimous |

All are convex. Swapping A and B flips p and t and leaves the loss bitwise equal.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from stemsim.errors import ConfigError

__all__ = ["Logistic", "Loss", "LossTerms", "SquaredError", "SquaredHinge"]


class LossTerms(NamedTuple):
    """A loss and its derivatives with respect to the preference, one entry for each triplet."""

    value: Tensor
    slope: Tensor  # first derivative
    curvature: Tensor  # second derivative, at least 0


class Loss(nn.Module, ABC):
    """A loss that compares preferences with answers; subclasses implement `terms`."""

    @abstractmethod
    def terms(self, preference: Tensor, target: Tensor) -> LossTerms:
        """Return the loss of each triplet and its derivatives, which second-order fits need.

        Args:
            preference: `(...)` predicted preferences.
            target: Answers of the listeners, in [-1, 1]; of the same shape, or one that broadcasts to it.
        """

    def forward(self, preference: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the mean loss of a batch `(batch,)`, weighted by `weight`, which is at least 0.

        Raises:
            ConfigError: If the shapes differ.
        """
        if not preference.shape == target.shape == weight.shape:
            raise ConfigError(
                "A loss compares preference, target and weight of one shape `(batch,)`; got "
                f"{tuple(preference.shape)}, {tuple(target.shape)} and {tuple(weight.shape)}."
            )
        return (weight * self.terms(preference, target).value).sum() / weight.sum()


class SquaredError(Loss):
    """Squared error, (p - t)^2: least squares (paper, section 3.4)."""

    def terms(self, preference: Tensor, target: Tensor) -> LossTerms:
        """Return the loss of each triplet and its derivatives."""
        error = preference - target
        return LossTerms(error.square(), 2.0 * error, torch.full_like(error, 2.0))


class Logistic(Loss):
    """Cross entropy of P(A is closer) = sigmoid(p) against the share of votes for A, (1 + t) / 2.

    This is the model of paired comparisons of Bradley and Terry ("Rank analysis of incomplete block designs: I",
    Biometrika 39, 1952) with the similarity to X as the strength of a candidate. If some weights predict every triplet
    correctly, the minimum without an L2 penalty lies at infinity.
    """

    def terms(self, preference: Tensor, target: Tensor) -> LossTerms:
        """Return the loss of each triplet and its derivatives."""
        distance = preference.abs()
        # log(1 + e^p) - q p, written so that it is bitwise equal after a swap and nothing overflows.
        value = softplus(-distance) + 0.5 * (distance - target * preference)
        closer = torch.tanh(0.5 * preference)  # 2 sigmoid(p) - 1
        return LossTerms(value, 0.5 * (closer - target), 0.25 * (1.0 - closer.square()))


class SquaredHinge(Loss):
    """Squared hinge, max(0, 1 - p)^2 for a vote for A and max(0, 1 + p)^2 for one for B, averaged over the votes.

    Within [-1, 1] it is the squared error up to a constant, so that the best preference is the target itself. Beyond, a
    preference on the side of all votes costs nothing, whereas the squared error would pull it back to 1. The hinge
    max(0, 1 - t p) is unsuitable: the less the listeners agree, the larger the preference that it demands.
    """

    def terms(self, preference: Tensor, target: Tensor) -> LossTerms:
        """Return the loss of each triplet and its derivatives."""
        for_a, for_b = 0.5 * (1.0 + target), 0.5 * (1.0 - target)
        short_of_a, short_of_b = (1.0 - preference).clamp(min=0.0), (1.0 + preference).clamp(min=0.0)
        return LossTerms(
            for_a * short_of_a.square() + for_b * short_of_b.square(),
            2.0 * (for_b * short_of_b - for_a * short_of_a),
            2.0 * (for_a * (short_of_a > 0.0) + for_b * (short_of_b > 0.0)),
        )
