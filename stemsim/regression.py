"""Exact least squares for stem weights, on any number of subsets of the triplets at once (paper, section 3.4).

With stem features D `(triplet, stem)`, preferences y `(triplet,)` and counts s of the triplets in a subset, the weights
minimise

    sum_i s_i (d_i . w - y_i)^2 + alpha w^T R w,      w = (G + alpha R)^-1 D^T S y,      G = D^T S D

without an intercept, so that swapping A and B flips the prediction exactly. R is the identity: ridge regression, or
ordinary least squares where alpha is 0. Where the features leave a direction undetermined (a stem that is silent
everywhere), the shortest solution is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from stemsim.errors import ConfigError

__all__ = [
    "NormalEquations",
    "RidgeFit",
    "RowProducts",
    "fit_ridge",
    "least",
    "normal_equations",
    "ridge_weights",
    "subset_slices",
]

_ELEMENTS_AT_ONCE: Final = 2_000_000  # of float64: 16 MB, which is faster than more
_ROUNDING: Final = 1e-9  # of the squared share of a weight in the undetermined directions


class RowProducts:
    """Stem features `(..., triplet, stem)` with the products of the entries of each row, and more columns to sum.

    Gram matrices and quadratic forms of any number of subsets are then single matrix products.
    """

    def __init__(self, rows: Tensor, more: Tensor | None = None) -> None:
        self.rows = rows
        self.upper, self.lower = torch.triu_indices(rows.shape[-1], rows.shape[-1])  # symmetric: half suffices
        products = rows[..., self.upper] * rows[..., self.lower]  # (..., triplet, pair)
        self.columns = products if more is None else torch.cat([products, more], dim=-1)

    def sums(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Sum d_i d_i^T `(..., stem, stem)` and `more` `(..., column)` over triplets, weighted by `(..., triplet)`."""
        stems, pairs = self.rows.shape[-1], len(self.upper)
        sums = (counts.unsqueeze(-2) @ self.columns).squeeze(-2)
        matrix = sums.new_empty(*sums.shape[:-1], stems, stems)
        matrix[..., self.upper, self.lower] = sums[..., :pairs]
        matrix[..., self.lower, self.upper] = sums[..., :pairs]
        return matrix, sums[..., pairs:]

    def forms(self, matrix: Tensor) -> Tensor:
        """Return d_i^T M d_i, `(..., triplet)`, of symmetric matrices `(..., stem, stem)`."""
        twice = torch.where(self.upper == self.lower, 1.0, 2.0)
        return (matrix[..., self.upper, self.lower] * twice) @ self.columns[..., : len(self.upper)].mT


class NormalEquations(NamedTuple):
    """Sufficient statistics of least squares on subsets of the triplets."""

    gram: Tensor  # (..., stem, stem) D^T S D
    moment: Tensor  # (..., stem) D^T S y
    size: Tensor  # (...) sum of the counts
    square: Tensor  # (...) y^T S y
    total: Tensor  # (...) sum of s y


@dataclass(frozen=True, slots=True, eq=False)
class RidgeFit:
    """Ridge regressions on subsets of the triplets, for every penalty."""

    features: RowProducts  # stem features (..., triplet, stem) with their products
    target: Tensor  # (..., triplet) preferences
    counts: Tensor  # (subset..., triplet) weight of each triplet in each subset, or True where it belongs to it
    alphas: Tensor  # (alpha,) penalties
    weights: Tensor  # (subset..., alpha, stem) fitted weights
    inverse: Tensor  # (subset..., alpha, stem, stem) (G + alpha R)^-1, without undetermined directions
    undetermined: Tensor  # (subset..., stem) True where the features of the subset do not determine the weight

    @property
    def deltas(self) -> Tensor:
        """`(..., triplet, stem)` stem features."""
        return self.features.rows

    @property
    def residual(self) -> Tensor:
        """`(subset..., alpha, triplet)` target minus prediction, for all triplets."""
        return self.target.unsqueeze(-2) - self.weights @ self.deltas.mT

    @property
    def leverage(self) -> Tensor:
        """`(subset..., alpha, triplet)` s_i d_i^T (G + alpha R)^-1 d_i: the share of its target in its prediction."""
        return self.features.forms(self.inverse) * self.counts.unsqueeze(-2)

    def left_out_error(self) -> Tensor:
        """Return the sum of the squared leave-one-out errors: each triplet is predicted from the others of its subset.

        The error of a left-out triplet is its residual over 1 - leverage, so nothing is fitted again (Golub, Heath and
        Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", Technometrics 21, 1979).
        The sums `(subset..., alpha)`, weighted by the counts, are the criterion of scikit-learn's
        `RidgeCV(alphas, fit_intercept=False)`.
        """
        many, errors = self.counts.dim() > 1, []
        pieces = map(self._subsets, subset_slices(self.counts, len(self.alphas))) if many else [self]
        for fit in pieces:
            left_out = fit.residual / (1.0 - fit.leverage).clamp(min=1e-12)
            errors.append((left_out.square() @ fit.counts.double().unsqueeze(-1)).squeeze(-1))
        return torch.cat(errors)

    def best(self, first: int = 0) -> tuple[Tensor, Tensor]:
        """Return weights `(subset..., stem)` and penalty `(subset...)` of least error, from penalty `first` on."""
        return least(self.left_out_error()[..., first:], self.weights[..., first:, :], self.alphas[first:])

    def _subsets(self, rows: slice) -> "RidgeFit":
        """Return the fits to some subsets."""
        own = {name: getattr(self, name)[rows] for name in ("counts", "weights", "inverse", "undetermined")}
        if self.target.dim() > 1:
            own["target"] = self.target[rows]
        if self.deltas.dim() > 2:  # noqa: PLR2004 - more than (triplet, stem)
            own["features"] = RowProducts(self.deltas[rows])
        return replace(self, **own)


def subset_slices(counts: Tensor, penalties: int) -> Iterator[slice]:
    """Yield slices of subsets `(subset..., triplet)`, which bound the memory of predictions with every penalty."""
    size = max(1, _ELEMENTS_AT_ONCE // (counts[0].numel() * penalties))
    for start in range(0, len(counts), size):
        yield slice(start, start + size)


def least(error: Tensor, weights: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights `(subset..., stem)` and penalty `(subset...)` of the least error `(subset..., alpha)`."""
    chosen = error.argmin(dim=-1, keepdim=True)
    return weights.take_along_dim(chosen.unsqueeze(-1), dim=-2).squeeze(-2), alphas[chosen.squeeze(-1)]


def normal_equations(deltas: Tensor | RowProducts, target: Tensor, counts: Tensor) -> NormalEquations:
    """Gather the sufficient statistics of subsets of the triplets at once; the arguments are those of `fit_ridge`."""
    weighted = counts.double()
    gram, more = _features(deltas, target.double()).sums(weighted)
    return NormalEquations(gram, more[..., :-2], weighted.sum(dim=-1), more[..., -2], more[..., -1])


def _features(deltas: Tensor | RowProducts, target: Tensor) -> RowProducts:
    if isinstance(deltas, RowProducts):
        return deltas
    rows, wanted = deltas.double().expand(*target.shape, -1), target.unsqueeze(-1)
    return RowProducts(rows, torch.cat([rows * wanted, wanted.square(), wanted], dim=-1))


def fit_ridge(
    deltas: Tensor | RowProducts,
    target: Tensor,
    alphas: Sequence[float] | Tensor = (0.0,),
    *,
    counts: Tensor | None = None,
    penalty: Tensor | None = None,
) -> RidgeFit:
    """Fit ridge regression to every subset of the triplets with every penalty.

    Args:
        deltas: `(triplet, stem)` stem features, or those of a fit with the same target; with leading axes, each subset
            has its own triplets.
        target: `(triplet,)` preferences, with the leading axes of the features or of the subsets.
        alphas: `(alpha,)` penalties; 0 is ordinary least squares.
        counts: `(subset..., triplet)` weight of each triplet in each subset, or True where it belongs to it; default:
            one subset of all triplets, without a subset axis.
        penalty: `(stem, stem)` the matrix R, symmetric and positive semidefinite; default: the identity.

    Raises:
        ConfigError: If there is no penalty, or one is negative or not finite.
    """
    penalties = _checked_penalties(alphas)
    wanted = target.double()
    features = _features(deltas, wanted)
    counted = torch.ones_like(features.rows[..., 0]) if counts is None else counts
    equations = normal_equations(features, wanted, counted)
    values, vectors = torch.linalg.eigh(equations.gram)  # (..., stem), (..., stem, stem)
    # An undetermined direction has eigenvalue 0 up to rounding. Each entry of the Gram matrix is a sum over triplets,
    # so its rounding grows with their number (Higham, Accuracy and stability of numerical algorithms, 2002, sec. 3.1).
    stems = values.shape[-1]
    rounding = stems * equations.size.clamp(min=stems) * torch.finfo(torch.float64).eps
    tolerance = (rounding * values[..., -1]).clamp(min=1e-300).unsqueeze(-1)
    unknown = values <= tolerance
    if penalty is None:
        shrunk = values.unsqueeze(-2) + penalties.unsqueeze(-1)  # (..., alpha, stem)
        gain = torch.where(shrunk > tolerance.unsqueeze(-2), 1.0 / shrunk, 0.0)
        basis = vectors.unsqueeze(-3)
        inverse = (basis * gain.unsqueeze(-2)) @ basis.mT
        rotated = (vectors.mT @ equations.moment.unsqueeze(-1)).squeeze(-1)
        weights = (gain * rotated.unsqueeze(-2)) @ vectors.mT
    else:
        shrunk = equations.gram.unsqueeze(-3) + penalties[:, None, None] * penalty.double()
        inverse = torch.linalg.pinv(shrunk, rtol=1e-12, hermitian=True)
        weights = (inverse @ equations.moment[..., None, :, None]).squeeze(-1)
    return RidgeFit(
        features=features,
        target=wanted,
        counts=counted,
        alphas=penalties,
        weights=weights,
        inverse=inverse,
        undetermined=(vectors.square() * unknown.unsqueeze(-2)).sum(dim=-1) > _ROUNDING,
    )


def ridge_weights(deltas: Tensor, target: Tensor, alpha: float = 0.0, *, nonnegative: bool = False) -> Tensor:
    """Fit stem weights `(stem,)` by an orthogonal factorisation: the reference for all other fits.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences, +1 = A and -1 = B.
        alpha: Ridge penalty; 0 is ordinary least squares. The module's `l2` is `alpha / n`.
        nonnegative: Exclude negative weights (active set method of Lawson and Hanson).

    Raises:
        ConfigError: If the penalty is negative or not finite.
    """
    _checked_penalties([alpha])
    stems = deltas.shape[1]
    # Ridge is least squares with one more row for each stem, which is better conditioned than the normal equations.
    matrix = np.concatenate([deltas.double().numpy(), alpha**0.5 * np.eye(stems)])
    wanted = np.concatenate([target.double().numpy(), np.zeros(stems)])
    return torch.from_numpy(nnls(matrix, wanted)[0] if nonnegative else np.linalg.lstsq(matrix, wanted, rcond=None)[0])


def _checked_penalties(alphas: Sequence[float] | Tensor) -> Tensor:
    """Return ridge penalties `(alpha,)` in float64, or raise `ConfigError`."""
    penalties = torch.as_tensor(alphas, dtype=torch.float64)
    if not len(penalties) or not (torch.isfinite(penalties) & (penalties >= 0.0)).all():
        raise ConfigError(f"Expected one or more ridge penalties, finite and at least 0; got {penalties.tolist()}.")
    return penalties
