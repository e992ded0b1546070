"""Attention over stems: stems that are loud in X may count more, or less."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stemsim.fusion.base import StemPairs, WeightedFusion


class AttentionFusion(WeightedFusion):
    """Weighted sum of per-stem cosines with weights that depend on the levels of X's stems.

    similarity = sum_i w_i a_i cos_i with a = n softmax(t l + Q l / 7) over the n stems that sound in X, of 7 in all. l
    are their levels in dB, standardised by mean and standard deviation over the training pairs; silent stems have
    l_i = 0 and take no part. t = 0 and Q = 0 is the linear fusion; t alone weights a stem by a power of its share of
    X's power, as far as the levels of all stems spread equally. This is the simplest dependence on levels, so Q is
    divided by the number of stems to move more slowly. The attention is a function of X alone: given X, the similarity
    is linear, and the contribution of stem i is w_i a_i cos_i.

    Args:
        stems: Stem layout, in order.
        smoothing: Cost of t^2 and of the sum of squared entries of Q.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, stems: Sequence[str], smoothing: float = 0.02) -> None:
        super().__init__(stems, smoothing)
        count = len(self.stems)
        self.attention = nn.Parameter(torch.zeros(count, count, dtype=torch.float64))
        self.temperature = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.register_buffer("middle", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(count, dtype=torch.float64))

    def observe(self, pairs: StemPairs) -> None:
        """Measure mean and standard deviation of each stem's level in X, where it sounds."""
        levels, present = pairs.query.levels.double(), pairs.query.present
        for index in range(len(self.stems)):
            heard = levels[present[:, index], index]
            if len(heard) > 1:
                self.middle[index], self.spread[index] = heard.mean(), heard.std().clamp(min=1.0)

    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return weight times attention times cosine of each stem, `(batch, stem)`."""
        present = pairs.query.present
        levels = torch.where(present, (pairs.query.levels.double() - self.middle) / self.spread, 0.0)
        score = self.temperature * levels + levels @ self.attention.T / len(self.stems)
        share = torch.softmax(score.masked_fill(~present, torch.finfo(torch.float64).min), dim=1)
        attention = present.sum(dim=1, keepdim=True) * share
        return self.weight * attention * pairs.cosines

    def roughness(self) -> Tensor:
        """Return t^2 and the sum of squared entries of Q, times `smoothing`."""
        return self.smoothing * (self.temperature.square() + self.attention.square().sum())
