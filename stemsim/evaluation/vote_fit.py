"""Stem weights fitted to votes by any convex loss, target and weight: exactly, and on all splits at once.

With stem features d_i, targets t_i, and counts s_i of the triplets in a subset, the weights w minimise

    sum_i s_i loss(d_i . w, t_i) + alpha |w|^2

without an intercept. For the squared error this is weighted ridge regression, solved from sufficient statistics. The
other losses of `stemsim.losses` are minimised by Newton's method with step halving, every (subset, alpha) at once.

The penalty is chosen within each train part by leave-one-out, without a refit: what the others would predict of
triplet i is, to first order about the fit,

    p_i + h_i s_i loss'_i / (1 - h_i s_i loss''_i),      h_i = d_i^T H^-1 d_i

H being the Hessian of the sum (Rad and Maleki, "A scalable estimate of the out-of-sample prediction error via
approximate leave-one-out cross-validation", Journal of the Royal Statistical Society B 82, 2020). For the squared error
it is exact (Golub, Heath and Wahba 1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.evaluation.crossval import ALPHAS, Challenger, SplitFits
from stemsim.losses import Logistic, Loss, SquaredError, SquaredHinge
from stemsim.regression import normal_equations, solve_ridge
from stemsim.triplets import TargetKind, Triplets

__all__ = ["VOTE_MODELS", "VoteModel", "fit_votes", "fit_weights", "left_out_loss", "vote_challenger"]

BoolArray = npt.NDArray[np.bool_]

_ELEMENTS_AT_ONCE: Final = 2_000_000  # of float64: 16 MB, which is faster than more
_MOST_STEPS: Final = 100
_MOST_HALVINGS: Final = 40
_DECREMENT: Final = 1e-14  # squared Newton decrement over the loss: the step taken then leaves its square


@dataclass(frozen=True, slots=True)
class VoteModel:
    """A way to fit stem weights to votes.

    Attributes:
        name: What tables call it.
        loss: Compares preferences with targets.
        target: What the targets are (`Triplets.target`).
        vote_weighted: Whether a triplet counts as much as it has votes.
    """

    name: str
    loss: Loss = field(default_factory=SquaredError)
    target: TargetKind = "majority"
    vote_weighted: bool = False


VOTE_MODELS: Final = (
    VoteModel("ridge, weighted by votes", vote_weighted=True),
    VoteModel("ridge, vote shares", target="share"),
    VoteModel("ridge, graded", target="graded"),
    VoteModel("squared hinge", SquaredHinge()),
    VoteModel("logistic", Logistic()),
    VoteModel("logistic, every vote", Logistic(), target="share", vote_weighted=True),
)
"""What stands beside the ridge regression on majorities. The last is the likelihood of all single answers."""


def vote_challenger(
    deltas: Tensor,
    triplets: Triplets,
    *,
    alphas: Sequence[float] = ALPHAS,
    models: Sequence[VoteModel] = VOTE_MODELS,
) -> Challenger:
    """Return what fits models to the votes on the train parts of a cross-validation.

    A model that these triplets do not tell from ridge on majorities, or from one before it, is left out: all have as
    many votes, or nobody was asked how sure he was.

    Args:
        deltas: `(triplet, stem)` stem features.
        triplets: Their triplets.
        alphas: Penalties to choose from; only those above 0 count, as the logistic loss may have no minimum without.
        models: What to fit.

    Returns:
        A function of the train parts `(split, triplet)`, for `cross_validate(challengers=...)`.
    """
    distinct = _distinct(models, triplets)
    penalties = [alpha for alpha in alphas if alpha > 0.0] or ALPHAS

    def challenge(train: BoolArray) -> Mapping[str, SplitFits]:
        return {model.name: fit_votes(model, deltas, triplets, train, alphas=penalties) for model in distinct}

    return challenge


def fit_votes(
    model: VoteModel, deltas: Tensor, triplets: Triplets, train: BoolArray, *, alphas: Sequence[float] = ALPHAS
) -> SplitFits:
    """Fit a model to every train part, with the penalty that leave-one-out chooses within it.

    Args:
        model: How to fit.
        deltas: `(triplet, stem)` stem features.
        triplets: Their triplets.
        train: `(split, triplet)` True where a triplet is trained on.
        alphas: Penalties to choose from; positive, unless the loss is the squared error.

    Returns:
        Weights, penalties and predictions of every split.

    Raises:
        ConfigError: If a penalty is out of range.
        TripletError: If the target needs grades and there are none.
    """
    target, weight = _said(model, triplets)
    members = torch.from_numpy(train).double()
    subsets = members * weight
    subsets *= members.sum(dim=1, keepdim=True) / subsets.sum(dim=1, keepdim=True)  # the test part has no say in alpha
    penalties = torch.tensor(list(alphas), dtype=torch.float64)
    fitted = fit_weights(deltas, target, subsets, penalties, loss=model.loss)  # (split, alpha, stem)
    chosen = left_out_loss(deltas, target, subsets, penalties, fitted, loss=model.loss).argmin(dim=1)
    weights = fitted[torch.arange(len(train)), chosen]
    return SplitFits((weights @ deltas.double().T).numpy(), weights.numpy(), penalties[chosen].numpy())


def fit_weights(deltas: Tensor, target: Tensor, subsets: Tensor, alphas: Tensor, *, loss: Loss | None = None) -> Tensor:
    """Fit stem weights to every subset with every penalty, exactly.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` what listeners said, in [-1, 1].
        subsets: `(subset, triplet)` what each triplet counts in each subset; 0: it is not in it.
        alphas: `(alpha,)` penalties; positive, unless the loss is the squared error.
        loss: What to minimise; default: the squared error.

    Returns:
        Weights `(subset, alpha, stem)`, float64.

    Raises:
        ConfigError: If a penalty is out of range, or so small that no minimum is found.
    """
    rows, wanted, counts = deltas.double(), target.double(), subsets.double()
    penalties = alphas.double()
    if loss is None or isinstance(loss, SquaredError):
        return solve_ridge(normal_equations(rows, wanted, counts), penalties)
    if not (torch.isfinite(penalties) & (penalties > 0.0)).all():
        msg = (
            f"The penalties of a {type(loss).__name__} fit are finite and above 0, since some weights may put every "
            f"triplet right; got {penalties.tolist()}."
        )
        raise ConfigError(msg)
    # The subsets of a cross-validation are much alike: what fits their average is a few steps from what fits each.
    start = rows.new_zeros(len(penalties), rows.shape[1])
    start = _newton(rows, wanted, counts.mean(dim=0, keepdim=True), penalties, loss, start)[0]
    pieces = torch.split(counts, _subsets_at_once(rows, penalties))
    return torch.cat([_newton(rows, wanted, piece, penalties, loss, start) for piece in pieces])


def left_out_loss(
    deltas: Tensor, target: Tensor, subsets: Tensor, alphas: Tensor, weights: Tensor, *, loss: Loss | None = None
) -> Tensor:
    """Return the loss of every subset's triplets, each predicted from the others.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` what listeners said.
        subsets: `(subset, triplet)` what each triplet counts in each subset.
        alphas: `(alpha,)` penalties.
        weights: `(subset, alpha, stem)` what `fit_weights` gives for them.
        loss: What was minimised.

    Returns:
        `(subset, alpha)` sum of losses over the triplets of the subset; exact for the squared error.
    """
    rows, wanted, counts, penalties = deltas.double(), target.double(), subsets.double(), alphas.double()
    loss = loss or SquaredError()
    sums, found = _Triplets(rows), []
    at_once = _subsets_at_once(rows, penalties)
    for piece, fitted in zip(torch.split(counts, at_once), torch.split(weights, at_once), strict=True):
        count = piece.unsqueeze(1)  # (subset, 1, triplet)
        preference = fitted @ rows.T  # (subset, alpha, triplet)
        terms = loss.terms(preference, wanted)
        hessian = sums.hessian(count * terms.curvature, penalties)
        inverse = torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True)  # a stem that never sounds is left out
        influence = count * sums.forms(inverse)  # h_i s_i
        left_out = preference + influence * terms.slope / (1.0 - influence * terms.curvature).clamp(min=1e-12)
        found.append((count * loss.terms(left_out, wanted).value).sum(dim=-1))
    return torch.cat(found)


class _Triplets:
    """Sums over triplets of d_i d_i^T, for any number of sums at once; the matrices are symmetric, so half suffices.

    Args:
        rows: `(triplet, stem)` stem features.
    """

    def __init__(self, rows: Tensor) -> None:
        self.stems = rows.shape[1]
        self.upper, self.lower = torch.triu_indices(self.stems, self.stems)
        self.products = rows[:, self.upper] * rows[:, self.lower]  # (triplet, pair)

    def hessian(self, curvature: Tensor, alphas: Tensor) -> Tensor:
        """Return sum_i c_i d_i d_i^T + 2 alpha I, `(..., stem, stem)`, of curvatures `(..., triplet)`."""
        pairs = curvature @ self.products
        matrix = pairs.new_empty(*pairs.shape[:-1], self.stems, self.stems)
        matrix[..., self.upper, self.lower] = pairs
        matrix[..., self.lower, self.upper] = pairs
        matrix.diagonal(dim1=-2, dim2=-1).add_(2.0 * alphas.unsqueeze(-1))
        return matrix

    def forms(self, matrix: Tensor) -> Tensor:
        """Return d_i^T M d_i, `(..., triplet)`, of symmetric matrices `(..., stem, stem)`."""
        twice = torch.where(self.upper == self.lower, 1.0, 2.0)
        return (matrix[..., self.upper, self.lower] * twice) @ self.products.T


def _newton(rows: Tensor, target: Tensor, counts: Tensor, alphas: Tensor, loss: Loss, start: Tensor) -> Tensor:
    """Minimise for every subset `(subset, triplet)` and penalty, from `(alpha, stem)`, by Newton's method."""
    sums = _Triplets(rows)
    penalty = alphas.repeat(len(counts))  # (problem,)
    subset = torch.arange(len(counts)).repeat_interleave(len(alphas))
    weights = start.repeat(len(counts), 1)

    def evaluate(at: Tensor, of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objective `(problem,)`, slope and curvature `(problem, triplet)`."""
        terms, count = loss.terms(at @ rows.T, target), counts[subset[of]]
        value = (count * terms.value).sum(dim=1) + penalty[of] * at.square().sum(dim=1)
        return value, count * terms.slope, count * terms.curvature

    active = torch.arange(len(penalty))
    value, slope, curvature = evaluate(weights, active)
    for _ in range(_MOST_STEPS):
        now, alpha = weights[active], penalty[active]
        gradient = slope @ rows + 2.0 * alpha.unsqueeze(1) * now
        factor, failed = torch.linalg.cholesky_ex(sums.hessian(curvature, alpha))
        if failed.any():
            break
        step = -torch.cholesky_solve(gradient.unsqueeze(2), factor).squeeze(2)
        decrement = -(gradient * step).sum(dim=1)  # squared
        aim, size = value + 1e-12 * value.abs(), torch.ones_like(value)  # the last term of the aim is rounding
        for _ in range(_MOST_HALVINGS):
            reached = now + size.unsqueeze(1) * step
            value, slope, curvature = evaluate(reached, active)
            worse = value > aim - 1e-4 * size * decrement
            if not worse.any():
                break
            size = torch.where(worse, 0.5 * size, size)
        weights[active] = reached
        left = decrement > _DECREMENT * value
        active, value, slope, curvature = active[left], value[left], slope[left], curvature[left]
        if not len(active):
            return weights.reshape(len(counts), len(alphas), -1)
    msg = (
        f"{len(active)} of {len(penalty)} {type(loss).__name__} fits do not converge: their penalties, "
        f"{penalty[active].min():.3g} and more, are too small beside {float(counts.sum(dim=1).mean()):.0f} triplets "
        f"with stem features of up to {float(rows.abs().max()):.3g}. Use larger penalties."
    )
    raise ConfigError(msg)


def _said(model: VoteModel, triplets: Triplets) -> tuple[Tensor, Tensor]:
    """Return target and weight `(triplet,)` of a model."""
    target = torch.from_numpy(triplets.target(model.target))
    return target, torch.from_numpy(triplets.vote_weights()) if model.vote_weighted else torch.ones_like(target)


def _distinct(models: Sequence[VoteModel], triplets: Triplets) -> list[VoteModel]:
    """Return the models whose loss, target and weight are not those of ridge on majorities, or of one before."""
    seen = {_fingerprint(VoteModel("ridge"), triplets)}
    distinct = []
    for model in models:
        if model.target == "graded" and triplets.sure_votes is None:
            continue
        if (fingerprint := _fingerprint(model, triplets)) not in seen:
            seen.add(fingerprint)
            distinct.append(model)
    return distinct


def _fingerprint(model: VoteModel, triplets: Triplets) -> tuple[str, bytes, bytes]:
    target, weight = _said(model, triplets)
    return repr(model.loss), target.numpy().tobytes(), weight.numpy().tobytes()


def _subsets_at_once(rows: Tensor, alphas: Tensor) -> int:
    return max(1, _ELEMENTS_AT_ONCE // (len(rows) * len(alphas)))
