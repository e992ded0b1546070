"""Ridge regression that shrinks towards weights known from elsewhere, up to their scale.

With stem features D, preferences y and prior weights p, which say how the stems compare but not by how much, the
weights minimise

    |D w - y|^2 + alpha min_s |w - s p|^2  =  |D w - y|^2 + alpha w^T R w,      R = I - p p^T / |p|^2

Endless alpha gives s p with the best s; alpha = 0 is ordinary least squares. R being fixed, left-out predictions are
exact as in ridge regression (Golub, Heath and Wahba 1979).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.evaluation.crossval import ALPHAS
from stemsim.regression import normal_equations

__all__ = ["PriorRidge", "prior_ridge"]


class PriorRidge(NamedTuple):
    """Stem weights on every train part.

    Attributes:
        weights: `(split, stem)`.
        alphas: `(split,)` penalties that leave-one-out has chosen.
    """

    weights: Tensor
    alphas: Tensor


def prior_ridge(
    deltas: Tensor, target: Tensor, counts: Tensor, prior: Tensor, *, alphas: Sequence[float] | Tensor = ALPHAS
) -> PriorRidge:
    """Fit stem weights to every train part, with the penalty that leave-one-out chooses within it.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` what listeners said.
        counts: `(split, triplet)` what each triplet counts; 0 or False: it is not trained on.
        prior: `(stem,)` weights to shrink towards, up to scale.
        alphas: Penalties to choose from.

    Returns:
        Weights and penalties.

    Raises:
        ConfigError: If the prior is not one finite weight a stem, some other than 0, or a penalty is negative.
    """
    rows, wanted, members = deltas.double(), target.double(), counts.double()
    penalties = torch.as_tensor(alphas, dtype=torch.float64)
    stems = rows.shape[1]
    if prior.shape != (stems,) or not bool(torch.isfinite(prior).all()) or not bool(prior.any()):
        msg = f"A prior is one finite weight for each of {stems} stems, not all 0; got {prior.tolist()}."
        raise ConfigError(msg)
    if not bool((torch.isfinite(penalties) & (penalties >= 0.0)).all()) or not len(penalties):
        msg = f"Penalties are finite and at least 0; got {penalties.tolist()}."
        raise ConfigError(msg)
    direction = prior.double() / prior.double().norm()
    across = torch.eye(stems, dtype=torch.float64) - torch.outer(direction, direction)
    equations = normal_equations(rows, wanted, members)
    shrunk = equations.gram.unsqueeze(1) + penalties[:, None, None] * across  # (split, alpha, stem, stem)
    inverse = torch.linalg.pinv(shrunk, rtol=1e-12, hermitian=True)  # a stem that never sounds is left out
    weights = (inverse @ equations.moment[:, None, :, None]).squeeze(3)  # (split, alpha, stem)
    hat = torch.einsum("ns,kast,nt->kan", rows, inverse, rows) * members.unsqueeze(1)
    residual = (wanted - weights @ rows.T) / (1.0 - hat).clamp(min=1e-12)
    chosen = (members.unsqueeze(1) * residual.square()).sum(dim=2).argmin(dim=1)
    return PriorRidge(weights[torch.arange(len(chosen)), chosen], penalties[chosen])
