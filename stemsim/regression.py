"""Exact least squares for stem weights: what every fit is checked against (paper, section 3.4).

With stem features D `(triplet, stem)` and preferences y `(triplet,)`, the weights minimise

    |D w - y|^2 + alpha |w|^2,      w = (D^T D + alpha I)^-1 D^T y

without an intercept, so that swapping A and B flips the prediction exactly. `alpha = 0` is ordinary least squares;
where the features leave a direction open (a stem that is silent everywhere), the shortest solution is taken.

With prior weights p, such as those of another listening test, the penalty shrinks towards them instead of towards 0:

    |D w - y|^2 + alpha |w - p|^2,      w = p + (D^T D + alpha I)^-1 D^T (y - D p)

and a direction that the features leave open keeps the prior's value.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from stemsim.errors import ConfigError

__all__ = ["NormalEquations", "normal_equations", "ridge_weights", "solve_ridge"]


class NormalEquations(NamedTuple):
    """Sufficient statistics of least squares, for any number of subsets of the triplets at once.

    Attributes:
        gram: `(..., stem, stem)` D^T D.
        moment: `(..., stem)` D^T y.
        size: `(...)` number of triplets.
        square: `(...)` y^T y.
        total: `(...)` sum of y.
    """

    gram: Tensor
    moment: Tensor
    size: Tensor
    square: Tensor
    total: Tensor


def ridge_weights(
    deltas: Tensor,
    preference: Tensor,
    alpha: float = 0.0,
    *,
    nonnegative: bool = False,
    prior: Tensor | None = None,
) -> Tensor:
    """Fit stem weights to triplets, exactly.

    Args:
        deltas: `(triplet, stem)` stem features.
        preference: `(triplet,)` what listeners preferred, +1 = A and -1 = B.
        alpha: Ridge penalty; 0 is ordinary least squares. The module's `l2` is `alpha / n`.
        nonnegative: Admit no negative weights (Lawson and Hanson's active set method).
        prior: `(stem,)` weights to shrink towards; default 0.

    Returns:
        Weights `(stem,)`, float64.

    Raises:
        ConfigError: If the penalty is negative or the prior is not one finite weight a stem.
    """
    _check_penalty(torch.tensor(alpha))
    stems = deltas.shape[1]
    centre = torch.zeros(stems, dtype=torch.float64) if prior is None else _checked_prior(prior, stems, single=True)
    # Ridge is least squares with one more row a stem. Better conditioned than the normal equations.
    matrix = torch.cat([deltas.double(), alpha**0.5 * torch.eye(stems, dtype=torch.float64)])
    target = torch.cat([preference.double(), alpha**0.5 * centre])
    if nonnegative:
        return torch.from_numpy(nnls(matrix.numpy(), target.numpy())[0])
    # Fitting the step away from the prior makes the shortest solution the one closest to the prior.
    step = np.linalg.lstsq(matrix.numpy(), (target - matrix @ centre).numpy(), rcond=None)[0]
    return centre + torch.from_numpy(step)


def normal_equations(deltas: Tensor, preference: Tensor, subsets: Tensor) -> NormalEquations:
    """Gather the sufficient statistics of many subsets of the triplets with one matrix product.

    Args:
        deltas: `(triplet, stem)` stem features.
        preference: `(triplet,)` what listeners preferred.
        subsets: `(..., triplet)` True where a triplet belongs to a subset, e.g. the train part of each split.

    Returns:
        Statistics with the leading axes of `subsets`.
    """
    rows, target = deltas.double(), preference.double()
    stems = rows.shape[1]
    upper, lower = torch.triu_indices(stems, stems)  # the Gram matrix is symmetric: half of it suffices
    products = torch.cat(
        [
            rows[:, upper] * rows[:, lower],
            rows * target.unsqueeze(1),
            torch.stack([torch.ones_like(target), target.square(), target], dim=1),
        ],
        dim=1,
    )
    sums = subsets.double() @ products
    triangle, moment, rest = torch.split(sums, [len(upper), stems, 3], dim=-1)
    gram = sums.new_empty(*sums.shape[:-1], stems, stems)
    gram[..., upper, lower] = triangle
    gram[..., lower, upper] = triangle
    size, square, total = rest.unbind(-1)
    return NormalEquations(gram, moment, size, square, total)


def solve_ridge(equations: NormalEquations, alphas: Tensor, *, prior: Tensor | None = None) -> Tensor:
    """Solve every subset for every penalty at once, by one eigendecomposition a subset.

    Args:
        equations: Statistics of subsets `(...)`.
        alphas: `(alpha,)` ridge penalties; 0 is ordinary least squares.
        prior: `(..., stem)` weights to shrink towards, one vector for all subsets or one each; default 0.

    Returns:
        Weights `(..., alpha, stem)`, float64.

    Raises:
        ConfigError: If a penalty is negative or the prior is not one finite weight a stem.
    """
    _check_penalty(alphas)
    moment = equations.moment
    if prior is not None:
        prior = _checked_prior(prior, moment.shape[-1])
        moment = moment - (equations.gram @ prior.unsqueeze(-1)).squeeze(-1)
    values, vectors = torch.linalg.eigh(equations.gram)  # (..., stem), (..., stem, stem)
    shrunk = values.unsqueeze(-2) + alphas.double().unsqueeze(-1)  # (..., alpha, stem)
    # An open direction has eigenvalue 0 up to rounding: leave it out, so that the shortest solution is taken. Each
    # entry of the Gram matrix is a sum over triplets, so its rounding grows with their number (Higham 2002, sec. 3.1).
    stems = values.shape[-1]
    rounding = stems * equations.size.clamp(min=stems) * torch.finfo(torch.float64).eps  # (...)
    tolerance = (rounding * values[..., -1]).clamp(min=1e-300)[..., None, None]
    gain = torch.where(shrunk > tolerance, 1.0 / shrunk, 0.0)
    rotated = (vectors.mT @ moment.unsqueeze(-1)).squeeze(-1)  # (..., stem)
    step = torch.matmul(gain * rotated.unsqueeze(-2), vectors.mT)
    return step if prior is None else prior.unsqueeze(-2) + step


def _checked_prior(prior: Tensor, stems: int, *, single: bool = False) -> Tensor:
    """Return the prior weights in float64, once they are known to be one finite weight a stem."""
    if prior.shape[-1:] != (stems,) or (single and prior.dim() != 1) or not torch.isfinite(prior).all():
        msg = (
            f"Prior weights are one finite number for each of the {stems} stems, in the order of the stem layout; "
            f"got shape {tuple(prior.shape)}: {prior.tolist()}."
        )
        raise ConfigError(msg)
    return prior.double()


def _check_penalty(alphas: Tensor) -> None:
    if not (torch.isfinite(alphas) & (alphas >= 0.0)).all():
        msg = f"A ridge penalty is a finite number of at least 0; got {alphas.tolist()}."
        raise ConfigError(msg)
