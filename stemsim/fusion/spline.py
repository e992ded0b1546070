"""Monotone additive splines: a piecewise linear, increasing function of each stem's cosine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stemsim.errors import ConfigError
from stemsim.fusion.base import MOST_UNITS, StemPairs, WeightedFusion, prepared


class SplineFusion(WeightedFusion):
    """Sum of monotone functions of the stems' cosines: similarity = sum_i w_i g_i(cos_i), with g_i(0) = 0.

    g_i is piecewise linear and increases: its slope on piece k is r_ik > 0, with mean 1 over the pieces of a stem,
    r_ik = pieces * softmax_k(s_i). All s_i = 0 is the linear fusion; as there, the sign of the weight decides whether
    similarity of the stem makes a pair more or less similar. This is a generalised additive model (Hastie and
    Tibshirani, 1986) with the increasing bases of order 1 of Ramsay ("Monotone regression splines in action",
    Statistical Science 3, 1988). The cost of bending is the difference penalty of Eilers and Marx ("Flexible smoothing
    with B-splines and penalties", Statistical Science 11, 1996), so that a stem stays linear without evidence against
    it.

    Args:
        stems: Stem layout, in order.
        pieces: Number of linear pieces for each stem; a fit puts equally many training pairs on each.
        smoothing: Cost of the squared differences of s_ik and s_i(k+1), summed.
    """

    knots: Tensor

    def __init__(self, stems: Sequence[str], pieces: int = 6, smoothing: float = 0.01) -> None:
        super().__init__(stems, smoothing)
        if not 2 <= pieces <= MOST_UNITS:  # noqa: PLR2004 - one piece is the linear fusion
            raise ConfigError(f"Splines have 2 to {MOST_UNITS} pieces; got {pieces}.")
        self.pieces = pieces
        self.log_slope = nn.Parameter(torch.zeros(len(self.stems), pieces, dtype=torch.float64))
        knots = torch.linspace(-1.0, 1.0, pieces + 1, dtype=torch.float64)[1:-1]
        self.register_buffer("knots", knots.repeat(len(self.stems), 1))  # (stem, pieces - 1): where the slope changes

    def observe(self, pairs: StemPairs) -> None:
        """Place each stem's knots at the quantiles of its cosines, where it sounds in both segments."""
        shares = torch.arange(1, self.pieces, dtype=torch.float64) / self.pieces
        for index in range(len(self.stems)):
            cosines = pairs.cosines[pairs.sounding[:, index], index]
            if len(cosines):  # else the stem never sounds, and any knots will do
                self.knots[index] = torch.quantile(cosines, shares)

    def prepare(self, pairs: StemPairs) -> Tensor:
        """Return the length of each piece between 0 and the cosine, `(batch, stem, piece)`; negative below 0."""
        end = torch.full_like(self.knots[:, :1], torch.inf)
        lower, upper = torch.cat([-end, self.knots], dim=1), torch.cat([self.knots, end], dim=1)  # (stem, piece)
        cosines = pairs.cosines.unsqueeze(2)  # (batch, stem, 1)
        at_zero = torch.zeros_like(lower).clamp(lower, upper)
        passed = torch.minimum(torch.maximum(cosines, lower), upper) - at_zero
        return torch.where(pairs.sounding.unsqueeze(2), passed, 0.0)

    def similarity(self, pairs: StemPairs) -> Tensor:
        """Return the similarity `(batch,)` directly, without the contributions."""
        return prepared(pairs).flatten(1) @ self._slopes().flatten()

    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return w_i g_i(cos_i), `(batch, stem)`."""
        return (prepared(pairs) * self._slopes()).sum(dim=2)

    def _slopes(self) -> Tensor:
        """Return the slope on each piece, `(stem, piece)`."""
        return self.weight.unsqueeze(1) * self.pieces * torch.softmax(self.log_slope, dim=1)

    def roughness(self) -> Tensor:
        """Return the sum of squared differences between neighbouring pieces, times `smoothing`."""
        return self.smoothing * self.log_slope.diff(dim=1).square().sum()
