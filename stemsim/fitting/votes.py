"""Stem weights fitted to votes with any convex loss, target and weight: exactly, and on all splits at once.

With stem features d_i, targets t_i, and counts s_i of the triplets in a subset, the weights w minimise

    sum_i s_i loss(d_i . w, t_i) + alpha |w|^2

without an intercept. For the squared error this is weighted ridge regression (`stemsim.regression`). The other losses
of `stemsim.losses` are minimised by Newton's method with step halving, every (subset, alpha) at once.

The penalty is chosen within each train part by leave-one-out without a refit. To first order about the fit, the
prediction for triplet i from the other triplets is

    p_i + h_i s_i loss'_i / (1 - h_i s_i loss''_i),      h_i = d_i^T H^-1 d_i

where H is the Hessian of the sum (Rad and Maleki, "A scalable estimate of the out-of-sample prediction error via
approximate leave-one-out cross-validation", Journal of the Royal Statistical Society B 82, 2020). For the squared error
this is exact (Golub, Heath and Wahba 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.evaluation import ALPHAS, SplitFits, Splits
from stemsim.losses import Logistic, Loss, SquaredError, SquaredHinge
from stemsim.regression import RidgeFit, RowProducts, fit_ridge, least, subset_slices
from stemsim.triplets import EmbeddedTriplets, TargetKind

_MOST_STEPS: Final = 100
_MOST_HALVINGS: Final = 40
_DECREMENT: Final = 1e-14  # squared Newton decrement over the loss: the step taken then leaves its square


@dataclass(frozen=True, slots=True)
class VoteModel:
    """Linear stem weights fitted to votes; a `stemsim.evaluation.SplitModel`.

    Attributes:
        loss: Loss between preferences and targets.
        target: The targets (`Triplets.target`).
        vote_weighted: Weight each triplet by its number of votes.
        alphas: Penalties to choose from by leave-one-out; positive, unless the loss is the squared error.
    """

    name: str
    loss: Loss = field(default_factory=SquaredError)
    target: TargetKind = "majority"
    vote_weighted: bool = False
    alphas: Sequence[float] = ALPHAS

    def fit(self, embedded: EmbeddedTriplets, splits: Splits) -> SplitFits:
        """Fit the weights to every train part, with the penalty that leave-one-out chooses within it."""
        target, weight = self.targets(embedded)
        members = torch.from_numpy(splits.train).double()
        counts = members * weight
        counts *= members.sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True)  # comparable penalties
        weights, alphas = fit_weights(embedded.deltas, target, counts, self.alphas, loss=self.loss).best()
        return SplitFits((weights @ embedded.deltas.T).numpy(), weights.numpy(), alphas.numpy())

    def targets(self, embedded: EmbeddedTriplets) -> tuple[Tensor, Tensor]:
        """Return target and weight of each triplet, `(triplet,)`."""
        target = embedded.target(self.target)
        return target, embedded.vote_weights() if self.vote_weighted else torch.ones_like(target)


VOTE_MODELS: Final = (
    VoteModel("ridge, weighted by votes", vote_weighted=True),
    VoteModel("ridge, vote shares", target="share"),
    VoteModel("ridge, graded", target="graded"),
    VoteModel("squared hinge", SquaredHinge()),
    VoteModel("logistic", Logistic()),
    VoteModel("logistic, every vote", Logistic(), target="share", vote_weighted=True),
)
"""Alternatives to ridge regression on majorities. The last is the likelihood of all single answers."""


def distinct_vote_models(embedded: EmbeddedTriplets, *, alphas: Sequence[float] = ALPHAS) -> list[VoteModel]:
    """Return the `VOTE_MODELS` that differ, on these triplets, from ridge on majorities and from each other.

    Models coincide where all triplets have equally many votes, or where nobody was asked for a grade. Only penalties
    above 0 are used, as the logistic loss may have no minimum at 0.
    """
    penalties = tuple(alpha for alpha in alphas if alpha > 0.0) or ALPHAS

    def fingerprint(model: VoteModel) -> tuple[str, bytes, bytes]:
        target, weight = model.targets(embedded)
        return repr(model.loss), target.numpy().tobytes(), weight.numpy().tobytes()

    seen, distinct = {fingerprint(VoteModel("ridge"))}, []
    for model in VOTE_MODELS:
        if model.target == "graded" and embedded.triplets.sure_votes is None:
            continue
        if (known := fingerprint(model)) not in seen:
            seen.add(known)
            distinct.append(replace(model, alphas=penalties))
    return distinct


@dataclass(frozen=True, slots=True, eq=False)
class NewtonFit:
    """Stem weights that minimise a convex loss on subsets of the triplets, for every penalty; as `RidgeFit`."""

    features: RowProducts
    target: Tensor
    counts: Tensor
    alphas: Tensor
    weights: Tensor
    loss: Loss

    def left_out_error(self) -> Tensor:
        """Return the loss of every triplet predicted from the others of its subset, summed; `(subset, alpha)`."""
        errors = []
        for rows in subset_slices(self.counts, len(self.alphas)):
            count = self.counts[rows].unsqueeze(1)  # (subset, 1, triplet)
            preference = self.weights[rows] @ self.features.rows.T  # (subset, alpha, triplet)
            terms = self.loss.terms(preference, self.target)
            hessian = _hessian(self.features, count * terms.curvature, self.alphas)
            inverse = torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True)
            influence = count * self.features.forms(inverse)  # h_i s_i
            left_out = preference + influence * terms.slope / (1.0 - influence * terms.curvature).clamp(min=1e-12)
            errors.append((count * self.loss.terms(left_out, self.target).value).sum(dim=-1))
        return torch.cat(errors)

    def best(self) -> tuple[Tensor, Tensor]:
        """Return weights `(subset, stem)` and penalty `(subset,)` of the least left-out loss."""
        return least(self.left_out_error(), self.weights, self.alphas)


def fit_weights(
    deltas: Tensor, target: Tensor, counts: Tensor, alphas: Sequence[float] | Tensor, *, loss: Loss | None = None
) -> RidgeFit | NewtonFit:
    """Fit stem weights to every subset with every penalty, exactly.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` targets in [-1, 1].
        counts: `(subset, triplet)` weight of each triplet in each subset; 0: it is not in it.
        alphas: `(alpha,)` penalties; positive, unless the loss is the squared error.
        loss: Loss to minimise; default: the squared error.

    Raises:
        ConfigError: If a penalty is out of range, or so small that no minimum is found.
    """
    if loss is None or isinstance(loss, SquaredError):
        return fit_ridge(deltas, target, alphas, counts=counts)
    features, wanted, weighted = RowProducts(deltas.double()), target.double(), counts.double()
    penalties = torch.as_tensor(alphas, dtype=torch.float64)
    if not (torch.isfinite(penalties) & (penalties > 0.0)).all():
        raise ConfigError(
            f"Expected penalties of a {type(loss).__name__} fit that are finite and above 0, since some weights may "
            f"predict every triplet correctly; got {penalties.tolist()}."
        )
    # The subsets of a cross-validation are much alike: the fit to their average is a few steps from each.
    start = features.rows.new_zeros(len(penalties), features.rows.shape[1])
    start = _newton(features, wanted, weighted.mean(dim=0, keepdim=True), penalties, loss, start)[0]
    pieces = [weighted[rows] for rows in subset_slices(weighted, len(penalties))]
    weights = torch.cat([_newton(features, wanted, piece, penalties, loss, start) for piece in pieces])
    return NewtonFit(features, wanted, weighted, penalties, weights, loss)


def _hessian(features: RowProducts, curvature: Tensor, alphas: Tensor) -> Tensor:
    """Return sum_i c_i d_i d_i^T + 2 alpha I, `(..., stem, stem)`, of curvatures `(..., triplet)`."""
    matrix, _ = features.sums(curvature)
    matrix.diagonal(dim1=-2, dim2=-1).add_(2.0 * alphas.unsqueeze(-1))
    return matrix


def _newton(features: RowProducts, target: Tensor, counts: Tensor, alphas: Tensor, loss: Loss, start: Tensor) -> Tensor:
    """Minimise for every subset `(subset, triplet)` and penalty, from `(alpha, stem)`, by Newton's method."""
    rows = features.rows
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
        factor, failed = torch.linalg.cholesky_ex(_hessian(features, curvature, alpha))
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
    raise ConfigError(
        f"{len(active)} of {len(penalty)} {type(loss).__name__} fits do not converge: their penalties, "
        f"{penalty[active].min():.3g} and more, are too small for {float(counts.sum(dim=1).mean()):.0f} triplets "
        f"with stem features of up to {float(rows.abs().max()):.3g}. Use larger penalties."
    )
