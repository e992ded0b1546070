"""Exact least squares for stem weights, on any number of subsets of the triplets at once (paper, section 3.4).

With stem features D `(triplet, stem)`, preferences y `(triplet,)` and counts s of the triplets in a subset, the weights
minimise

    sum_i s_i (d_i . w - y_i)^2 + alpha w^T R w,      w = (G + alpha R)^-1 D^T S y,      G = D^T S D

without an intercept, so that swapping A and B flips the prediction exactly. R is the identity: ridge regression, or
ordinary least squares where alpha is 0. Where the features leave a direction undetermined (a stem that is silent
everywhere), the shortest solution is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from stemsim.errors import ConfigError

__all__ = ["NormalEquations", "RidgeFit", "RowProducts", "fit_ridge", "normal_equations", "ridge_weights"]

_ELEMENTS_AT_ONCE: Final = 2_000_000  # of float64: 16 MB, which is faster than more
_ROUNDING: Final = 1e-9  # of the squared share of a weight in the undetermined directions


class RowProducts:
    """Products of the entries of each row, from which Gram matrices and quadratic forms are single matrix products.

    Args:
        rows: `(..., triplet, stem)` float64.
    """

    def __init__(self, rows: Tensor) -> None:
        self.stems = rows.shape[-1]
        self.upper, self.lower = torch.triu_indices(self.stems, self.stems)  # symmetric: half of each matrix suffices
        self.products = rows[..., self.upper] * rows[..., self.lower]  # (..., triplet, pair)

    def gram(self, counts: Tensor) -> Tensor:
        """Return sum_i s_i d_i d_i^T, `(..., stem, stem)`, of counts `(..., triplet)`."""
        pairs = (counts.unsqueeze(-2) @ self.products).squeeze(-2)
        matrix = pairs.new_empty(*pairs.shape[:-1], self.stems, self.stems)
        matrix[..., self.upper, self.lower] = pairs
        matrix[..., self.lower, self.upper] = pairs
        return matrix

    def forms(self, matrix: Tensor) -> Tensor:
        """Return d_i^T M d_i, `(..., triplet)`, of symmetric matrices `(..., stem, stem)`."""
        twice = torch.where(self.upper == self.lower, 1.0, 2.0)
        return (matrix[..., self.upper, self.lower] * twice) @ self.products.mT


class NormalEquations(NamedTuple):
    """Sufficient statistics of least squares on subsets of the triplets.

    Attributes:
        gram: `(..., stem, stem)` D^T S D.
        moment: `(..., stem)` D^T S y.
        size: `(...)` sum of the counts.
        square: `(...)` y^T S y.
        total: `(...)` sum of s y.
    """

    gram: Tensor
    moment: Tensor
    size: Tensor
    square: Tensor
    total: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RidgeFit:
    """Ridge regressions on subsets of the triplets, for every penalty.

    Attributes:
        deltas: `(..., triplet, stem)` stem features.
        target: `(..., triplet)` preferences.
        counts: `(subset..., triplet)` weight of each triplet in each subset; 0: it is not in it.
        alphas: `(alpha,)` penalties.
        weights: `(subset..., alpha, stem)` fitted weights.
        inverse: `(subset..., alpha, stem, stem)` (G + alpha R)^-1, without directions that nothing determines.
        undetermined: `(subset..., stem)` True where the features of the subset do not determine the weight.
        rank: `(subset...)` number of directions that they determine.
    """

    deltas: Tensor
    target: Tensor
    counts: Tensor
    alphas: Tensor
    weights: Tensor
    inverse: Tensor
    undetermined: Tensor
    rank: Tensor

    @property
    def residual(self) -> Tensor:
        """`(subset..., alpha, triplet)` target minus prediction, for all triplets."""
        return self.target.unsqueeze(-2) - self.weights @ self.deltas.mT

    @property
    def leverage(self) -> Tensor:
        """`(subset..., alpha, triplet)` s_i d_i^T (G + alpha R)^-1 d_i: the share of its target in its prediction."""
        return RowProducts(self.deltas).forms(self.inverse) * self.counts.unsqueeze(-2)

    def left_out_error(self) -> Tensor:
        """Return the squared error of every triplet predicted from the others of its subset, summed.

        The error of a left-out triplet is its residual over 1 - leverage, so nothing is fitted again (Golub, Heath and
        Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", Technometrics 21, 1979).
        Equal to what scikit-learn's `RidgeCV(alphas, fit_intercept=False)` minimises.

        Returns:
            `(subset..., alpha)` sums weighted by the counts.
        """
        pieces = self._pieces() if self.counts.dim() > 1 else [self]
        errors = []
        for piece in pieces:
            left_out = piece.residual / (1.0 - piece.leverage).clamp(min=1e-12)
            errors.append((left_out.square() @ piece.counts.unsqueeze(-1)).squeeze(-1))
        return torch.cat(errors) if self.counts.dim() > 1 else errors[0]

    def _pieces(self) -> "Iterator[RidgeFit]":
        """Yield the fits of some subsets at a time, which bounds the memory."""
        size = max(1, _ELEMENTS_AT_ONCE // (self.counts[0].numel() * len(self.alphas)))
        shared = self.deltas.dim() == 2  # noqa: PLR2004 - one matrix of features for all subsets
        for start in range(0, len(self.counts), size):
            rows = slice(start, start + size)
            yield RidgeFit(
                self.deltas if shared else self.deltas[rows],
                self.target if self.target.dim() == 1 else self.target[rows],
                self.counts[rows],
                self.alphas,
                self.weights[rows],
                self.inverse[rows],
                self.undetermined[rows],
                self.rank[rows],
            )


def normal_equations(deltas: Tensor, target: Tensor, counts: Tensor) -> NormalEquations:
    """Gather the sufficient statistics of many subsets of the triplets with one matrix product.

    Args:
        deltas: `(..., triplet, stem)` stem features.
        target: `(..., triplet)` preferences.
        counts: `(..., triplet)` weight of each triplet in a subset, or True where it belongs to it.

    Returns:
        Statistics with the leading axes of `counts`.
    """
    return _statistics(deltas.double(), target.double(), counts.double())


def _statistics(rows: Tensor, target: Tensor, counts: Tensor) -> NormalEquations:
    ones = torch.ones_like(target)
    rest = torch.cat([rows * target.unsqueeze(-1), torch.stack([ones, target.square(), target], dim=-1)], dim=-1)
    sums = (counts.unsqueeze(-2) @ rest).squeeze(-2)
    moment, last = torch.split(sums, [rows.shape[-1], 3], dim=-1)
    return NormalEquations(RowProducts(rows).gram(counts), moment, *last.unbind(-1))


def fit_ridge(
    deltas: Tensor,
    target: Tensor,
    alphas: Sequence[float] | Tensor = (0.0,),
    *,
    counts: Tensor | None = None,
    penalty: Tensor | None = None,
) -> RidgeFit:
    """Fit ridge regression to every subset of the triplets with every penalty.

    Args:
        deltas: `(triplet, stem)` stem features; with leading axes, each subset has triplets of its own.
        target: `(triplet,)` preferences, with the leading axes of the features or of the subsets.
        alphas: `(alpha,)` penalties; 0 is ordinary least squares.
        counts: `(subset..., triplet)` weight of each triplet in each subset, or True where it belongs to it; default:
            one subset of all triplets, without a subset axis of its own.
        penalty: `(stem, stem)` the matrix R, symmetric and positive semidefinite; default: the identity.

    Returns:
        The fits.

    Raises:
        ConfigError: If there is no penalty, or one is negative or not finite.
    """
    penalties = torch.as_tensor(alphas, dtype=torch.float64)
    if not len(penalties) or not (torch.isfinite(penalties) & (penalties >= 0.0)).all():
        msg = f"Ridge penalties are finite numbers of at least 0, one or more; got {penalties.tolist()}."
        raise ConfigError(msg)
    rows, wanted = deltas.double(), target.double()
    weighted = torch.ones_like(rows[..., 0]) if counts is None else counts.double()
    equations = _statistics(rows, wanted, weighted)
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
        deltas=rows,
        target=wanted,
        counts=weighted,
        alphas=penalties,
        weights=weights,
        inverse=inverse,
        undetermined=(vectors.square() * unknown.unsqueeze(-2)).sum(dim=-1) > _ROUNDING,
        rank=(~unknown).sum(dim=-1),
    )


def ridge_weights(deltas: Tensor, target: Tensor, alpha: float = 0.0, *, nonnegative: bool = False) -> Tensor:
    """Fit stem weights to triplets by an orthogonal factorisation: the reference that every other fit is checked with.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences, +1 = A and -1 = B.
        alpha: Ridge penalty; 0 is ordinary least squares. The module's `l2` is `alpha / n`.
        nonnegative: Admit no negative weights (Lawson and Hanson's active set method).

    Returns:
        Weights `(stem,)`, float64.

    Raises:
        ConfigError: If the penalty is negative or not finite.
    """
    if not np.isfinite(alpha) or alpha < 0.0:
        msg = f"A ridge penalty is a finite number of at least 0; got {alpha}."
        raise ConfigError(msg)
    stems = deltas.shape[1]
    # Ridge is least squares with one more row for each stem, which is better conditioned than the normal equations.
    matrix = np.concatenate([deltas.double().numpy(), alpha**0.5 * np.eye(stems)])
    wanted = np.concatenate([target.double().numpy(), np.zeros(stems)])
    return torch.from_numpy(nnls(matrix, wanted)[0] if nonnegative else np.linalg.lstsq(matrix, wanted, rcond=None)[0])
