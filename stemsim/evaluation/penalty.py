"""The ridge penalty: weights as a function of it, and how it is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from stemsim.errors import SplitError
from stemsim.evaluation.agreement import agreement_credit
from stemsim.evaluation.crossval import ALPHAS, leave_one_out_alpha, ridge_path
from stemsim.evaluation.splits import PARTS, SplitKind, split_triplets
from stemsim.regression import normal_equations, solve_ridge
from stemsim.stems import StemLayout
from stemsim.triplets import Triplets

__all__ = ["NestedCrossValidation", "WeightPath", "evidence_alpha", "nested_cross_validation", "weight_path"]

FloatArray = npt.NDArray[np.float64]

_ALPHA_RANGE: Final = (-12.0, 12.0)  # natural logarithms of alpha over the mean eigenvalue, for the evidence


@dataclass(frozen=True, slots=True, eq=False)
class WeightPath:
    """Ridge weights on all triplets as a function of the penalty.

    Attributes:
        stems: Stem layout.
        alphas: `(alpha,)` penalties, ascending.
        weights: `(alpha, stem)` weights.
        effective: `(alpha,)` effective number of weights, sum_i d_i / (d_i + alpha) over the eigenvalues d_i of the
            Gram matrix.
        left_out_error: `(alpha,)` mean squared error on left-out triplets.
        best_alpha: The penalty of least `left_out_error`.
    """

    stems: StemLayout
    alphas: FloatArray
    weights: FloatArray
    effective: FloatArray
    left_out_error: FloatArray
    best_alpha: float


@dataclass(frozen=True, slots=True, eq=False)
class NestedCrossValidation:
    """The penalty chosen within each train part, in two ways, and the agreement on the test part that neither saw.

    Attributes:
        kind: Kind of all splits.
        alphas: `(split,)` penalties by an inner cross-validation of each train part.
        agreement: `(split,)` test agreement with them.
        left_out_alphas: `(split,)` penalties by leave-one-out within each train part.
        left_out_agreement: `(split,)` test agreement with those.
    """

    kind: SplitKind
    alphas: FloatArray
    agreement: FloatArray
    left_out_alphas: FloatArray
    left_out_agreement: FloatArray


def weight_path(deltas: Tensor, target: Tensor, stems: StemLayout, *, alphas: Sequence[float] = ALPHAS) -> WeightPath:
    """Fit ridge regression to all triplets with every penalty.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        stems: Stem layout of `deltas`.
        alphas: Ridge penalties.

    Returns:
        Weights, effective number of weights, and the exact leave-one-out error (Golub, Heath and Wahba 1979).
    """
    rows, wanted = deltas.double().numpy(), target.double().numpy()
    penalties = torch.tensor(sorted(alphas), dtype=torch.float64)
    equations = normal_equations(deltas, target, torch.ones(1, len(target), dtype=torch.bool))
    weights = solve_ridge(equations, penalties)[0].numpy()
    values, vectors = np.linalg.eigh(equations.gram[0].numpy())
    values = values.clip(min=0.0)
    shrunk = values + penalties.numpy()[:, None]  # (alpha, stem)
    gain = np.divide(1.0, shrunk, out=np.zeros_like(shrunk), where=shrunk > 1e-12 * max(values[-1], 1e-288))
    hat = np.square(rows @ vectors) @ gain.T  # (triplet, alpha)
    error = np.square((wanted[:, None] - rows @ weights.T) / (1.0 - hat).clip(min=1e-12)).mean(axis=0)
    return WeightPath(
        stems=tuple(stems),
        alphas=penalties.numpy(),
        weights=weights,
        effective=(values * gain).sum(axis=1),
        left_out_error=error,
        best_alpha=float(penalties[int(error.argmin())]),
    )


def evidence_alpha(deltas: Tensor, target: Tensor) -> float:
    """Return the penalty of largest marginal likelihood, the noise's variance being at its best for each.

    With y | w ~ N(D w, s^2 I) and w ~ N(0, s^2 / alpha I), as in scikit-learn's `BayesianRidge` without hyperpriors,
    its logarithm is, up to constants, -n/2 log s^2(alpha) - 1/2 sum_i log(1 + d_i / alpha), d_i being the eigenvalues
    of the Gram matrix and s^2(alpha) = (y^T y - m^T (D^T D + alpha I)^-1 m) / n with m = D^T y.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.

    Returns:
        The ridge penalty: ratio of the noise's variance to that of the weights.
    """
    equations = normal_equations(deltas, target, torch.ones(1, len(target), dtype=torch.bool))
    values, vectors = np.linalg.eigh(equations.gram[0].numpy())
    values = values.clip(min=0.0)
    moment = np.square(vectors.T @ equations.moment[0].numpy())
    square, count = float(equations.square[0]), len(target)
    unit = max(float(values.mean()), 1e-300)

    def loss(log_alpha: float) -> float:
        alpha = unit * np.exp(log_alpha)
        variance = (square - (moment / (values + alpha)).sum()) / count
        return float(0.5 * count * np.log(max(variance, 1e-300)) + 0.5 * np.log1p(values / alpha).sum())

    # The loss may have a second, shallow minimum: look at a grid before refining.
    grid = np.linspace(*_ALPHA_RANGE, 49)
    best = float(grid[int(np.argmin([loss(value) for value in grid]))])
    step = float(grid[1] - grid[0])
    refined = minimize_scalar(loss, bounds=(best - step, best + step), method="bounded", options={"xatol": 1e-10})
    return float(unit * np.exp(refined.x))


def nested_cross_validation(
    deltas: Tensor,
    triplets: Triplets,
    *,
    alphas: Sequence[float] = ALPHAS,
    count: int = 100,
    inner: int = 10,
    train_fraction: float = 0.7,
    kind: SplitKind = "stratified",
    seed: int = 0,
) -> NestedCrossValidation:
    """Choose the penalty within each train part, by inner splits and by leave-one-out, and test both.

    Inner splits are splits of all triplets (or tracks) cut down to the train part, so that they are of the same kind:
    grouped inner splits choose a penalty for unseen tracks, which leave-one-out cannot.

    Args:
        deltas: `(triplet, stem)` stem features.
        triplets: The triplets, each with a majority.
        alphas: Ridge penalties to choose from.
        count: Number of outer splits.
        inner: Number of inner splits of each.
        train_fraction: Share to train on, of outer and inner splits.
        kind: `stratified` or `grouped`.
        seed: Seed of the outer splits (equal to that of a cross-validation, they are the same); the inner ones follow.

    Returns:
        Penalties and test agreement of both ways.

    Raises:
        SplitError: If a split leaves its train or test part empty.
    """
    fractions = (train_fraction, 0.0, 1.0 - train_fraction)
    outer = split_triplets(triplets, fractions, kind=kind, count=count, seed=seed)
    within = split_triplets(triplets, fractions, kind=kind, count=count * inner, seed=seed + 1)
    train, test = (outer == PARTS.index(part) for part in ("train", "test"))
    fit, held = ((within == PARTS.index(part)).reshape(count, inner, -1) & train[:, None] for part in ("train", "test"))
    usable = fit.any(axis=2) & held.any(axis=2)  # (outer, inner)
    if not (test.any(axis=1) & usable.any(axis=1)).all():
        msg = (
            f"Some {kind} splits have an empty part. Use more triplets or tracks, more inner splits, or another train "
            "fraction."
        )
        raise SplitError(msg)
    target = torch.from_numpy(triplets.preference).double()
    penalties = torch.tensor(list(alphas), dtype=torch.float64)
    chosen = np.empty(count)
    for split in range(count):  # of each outer split all inner ones at once, which bounds the memory
        rows = usable[split]
        inner_train, inner_test = torch.from_numpy(fit[split][rows]), torch.from_numpy(held[split][rows])
        chosen[split] = ridge_path(deltas, target, inner_train, inner_test, penalties).best_alpha
    masks = torch.from_numpy(train)
    left_out = leave_one_out_alpha(deltas, target, masks, penalties).numpy()
    solved = solve_ridge(normal_equations(deltas, target, masks), penalties).numpy()  # (split, alpha, stem)

    def agreed(picked: FloatArray) -> FloatArray:
        """Return test agreement `(split,)` with a penalty a split."""
        index = (penalties.numpy() == picked[:, None]).argmax(axis=1)
        weights = solved[np.arange(count), index]
        credit = agreement_credit(weights @ deltas.double().numpy().T, triplets.preference)
        result: FloatArray = np.where(test, credit, 0.0).sum(axis=1) / test.sum(axis=1)
        return result

    return NestedCrossValidation(kind, chosen, agreed(chosen), left_out, agreed(left_out))
