"""Small monotone network on the similarities of the stems."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from stemsim.errors import ConfigError
from stemsim.fusion.base import MOST_UNITS, StemPairs, WeightedFusion

_SCALE_FLOOR = 1e-12  # of a squared scale: a unit whose stems have no weight
_LOG_SHARE_OF_OWN_STEM = 3.0  # at first; others have 0
_NEARLY_ZERO = 1e-5  # below, a secant is its tangent to 1e-11


class MonotoneFusion(WeightedFusion):
    """One hidden layer on the weighted cosines y_i = w_i cos_i, increasing in every one of them.

    Each hidden unit takes a share of the stems, s_k = sum_i p_ki y_i with p_ki > 0 and sum_k p_ki = 1, and bends it:

        similarity = sum_k s_k + u_k h_k(s_k),      h_k'(s) = tanh(g_k (s - m_k) / d_k - t_k),      h_k(0) = 0

    with |u_k| < 1, so that the slope of a unit passes from 1 - u_k to 1 + u_k around t_k and stays positive: this is a
    softplus network with nonnegative weights (Dugas et al., "Incorporating functional knowledge in neural networks",
    JMLR 10, 2009). m_k and d_k are mean and spread of s_k over the training pairs, as far as the stems are independent.
    All u_k = 0 is the linear fusion. As there, similarity of a stem with negative weight makes a pair less similar.

    Each unit starts with nearly all of one stem and little of the others: a function that bends stem by stem needs no
    more data than a spline, and one that bends stems jointly can be learned.

    The contribution of a stem is its Aumann-Shapley value ("Values of non-atomic games", 1974; integrated gradients,
    arXiv:1703.01365): its gradient, averaged along the straight path from all stems silent to the pair, times its
    cosine. For one hidden layer the average is a secant of h_k, so it is exact, and contributions sum to the
    similarity.

    Args:
        stems: Stem layout, in order.
        units_per_stem: Number of hidden units for each stem; with two, the slope of a stem can rise and fall again.
        smoothing: Cost of the sum of squared atanh(u_k).
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, stems: Sequence[str], units_per_stem: int = 2, smoothing: float = 0.003) -> None:
        super().__init__(stems, smoothing)
        if not 1 <= units_per_stem <= MOST_UNITS:
            raise ConfigError(f"Expected 1 to {MOST_UNITS} hidden units per stem; got {units_per_stem}.")
        self.units_per_stem = units_per_stem
        count = len(self.stems)
        own = _LOG_SHARE_OF_OWN_STEM * torch.eye(count, dtype=torch.float64)
        thresholds = torch.linspace(-1.0, 1.0, units_per_stem + 2, dtype=torch.float64)[1:-1]
        self.log_share = nn.Parameter(own.repeat(units_per_stem, 1))  # (unit, stem)
        self.bend = nn.Parameter(torch.zeros(units_per_stem * count, dtype=torch.float64))
        self.threshold = nn.Parameter(thresholds.repeat_interleave(count))
        self.log_steepness = nn.Parameter(torch.zeros(units_per_stem * count, dtype=torch.float64))
        self.register_buffer("middle", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(count, dtype=torch.float64))

    def observe(self, pairs: StemPairs) -> None:
        """Measure mean and standard deviation of each stem's cosines, where it sounds in both segments."""
        for index in range(len(self.stems)):
            cosines = pairs.cosines[pairs.sounding[:, index], index]
            if len(cosines) > 1:
                self.middle[index], self.spread[index] = cosines.mean(), cosines.std()

    def similarity(self, pairs: StemPairs) -> Tensor:
        """Return the similarity `(batch,)` directly, without the contributions."""
        share, bend, at_zero, per_unit = self._units()
        entry = torch.cat([share * self.weight * per_unit.unsqueeze(1), at_zero.unsqueeze(1)], dim=1)
        argument = nn.functional.pad(pairs.cosines, (0, 1), value=1.0) @ entry.T  # (batch, unit)
        # log cosh t = 2 softplus_2(t) - t + constant; the terms -t join the linear ones.
        height = 2.0 * bend / per_unit
        linear = pairs.cosines @ (self.weight * ((1.0 - bend) @ share))
        return linear + (_softplus(argument) - _softplus(at_zero)) @ height

    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return the Aumann-Shapley value of each stem, `(batch, stem)`."""
        share, bend, at_zero, per_unit = self._units()
        step = pairs.cosines @ (share * self.weight * per_unit.unsqueeze(1)).T
        slope = 1.0 + bend * _mean_tanh(at_zero, step)  # (batch, unit): of each unit, averaged along the path
        return self.weight * pairs.cosines * (slope @ share)

    def roughness(self) -> Tensor:
        """Return the sum of the squared bends, times `smoothing`."""
        return self.smoothing * self.bend.square().sum()

    def _units(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the shares `(unit, stem)`; and `(unit,)` u_k, the argument of tanh at s_k = 0, its growth with s_k."""
        share = torch.softmax(self.log_share, dim=0)
        weighted = share * self.weight
        scale = ((weighted * self.spread).square().sum(dim=1) + _SCALE_FLOOR).sqrt()  # d_k
        per_unit = self.log_steepness.exp() / scale
        return share, torch.tanh(self.bend), -per_unit * (weighted @ self.middle) - self.threshold, per_unit


def _softplus(value: Tensor) -> Tensor:
    """Return log(1 + e^2t) / 2, to the last bit; the usual threshold of 20 would cost half of the digits."""
    return softplus(value, beta=2.0, threshold=40.0)


def _mean_tanh(start: Tensor, step: Tensor) -> Tensor:
    """Return the mean of tanh between `start` and `start + step`: a secant of log cosh."""
    near = step.abs() < _NEARLY_ZERO
    safe = torch.where(near, 1.0, step)
    secant = 2.0 * (_softplus(start + safe) - _softplus(start)) / safe - 1.0
    return torch.where(near, torch.tanh(start + 0.5 * step), secant)
