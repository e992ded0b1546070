"""Stem weights fitted to votes with any convex loss, target and weight: exactly, and on all splits at once.

With stem features d_i, targets t_i, and counts s_i of the triplets in a subset, the weights w minimise

    sum_i s_i loss(d_i . w, t_i) + alpha |w|^2

without an intercept. For the squared error this is weighted ridge regression (`stemsim.regression`). The other losses
of `stemsim.losses` are minimised by Newton's method with step halving, every (subset, alpha) at once.

The penalty is chosen within each train part by leave-one-out, without a refit: to first order about the fit, the others
would predict of triplet i

    p_i + h_i s_i loss'_i / (1 - h_i s_i loss''_i),      h_i = d_i^T H^-1 d_i

H being the Hessian of the sum (Rad and Maleki, "A scalable estimate of the out-of-sample prediction error via
approximate leave-one-out cross-validation", Journal of the Royal Statistical Society B 82, 2020). For the squared error
this is exact (Golub, Heath and Wahba 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.evaluation import ALPHAS, SplitFits, Splits
from stemsim.losses import Logistic, Loss, SquaredError, SquaredHinge
from stemsim.regression import RowProducts, fit_ridge
from stemsim.triplets import EmbeddedTriplets, TargetKind

__all__ = ["VOTE_MODELS", "VoteModel", "WeightFits", "distinct_vote_models", "fit_weights"]

_ELEMENTS_AT_ONCE: Final = 2_000_000  # of float64: 16 MB, which is faster than more
_MOST_STEPS: Final = 100
_MOST_HALVINGS: Final = 40
_DECREMENT: Final = 1e-14  # squared Newton decrement over the loss: the step taken then leaves its square


@dataclass(frozen=True, slots=True)
class VoteModel:
    """Linear stem weights fitted to votes; a `stemsim.evaluation.SplitModel`.

    Attributes:
        name: Name of the model in tables.
        loss: Compares preferences with targets.
        target: The targets (`Triplets.target`).
        vote_weighted: Whether a triplet counts in proportion to its number of votes.
        alphas: Penalties to choose from by leave-one-out; positive, unless the loss is the squared error.
    """

    name: str
    loss: Loss = field(default_factory=SquaredError)
    target: TargetKind = "majority"
    vote_weighted: bool = False
    alphas: Sequence[float] = ALPHAS

    def fit(self, embedded: EmbeddedTriplets, splits: Splits) -> SplitFits:
        """Fit the weights to every train part, with the penalty that leave-one-out chooses within it.

        Raises:
            ConfigError: If a penalty is out of range.
            TripletError: If the target needs graded answers and there are none.
        """
        target, weight = self.said(embedded)
        members = torch.from_numpy(splits.train).double()
        counts = members * weight
        counts *= members.sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True)  # comparable penalties
        fits = fit_weights(embedded.deltas, target, counts, self.alphas, loss=self.loss)
        weights, alphas = fits.best()
        return SplitFits((weights @ embedded.deltas.T).numpy(), weights.numpy(), alphas.numpy())

    def said(self, embedded: EmbeddedTriplets) -> tuple[Tensor, Tensor]:
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


def distinct_vote_models(
    embedded: EmbeddedTriplets, models: Sequence[VoteModel] = VOTE_MODELS, *, alphas: Sequence[float] = ALPHAS
) -> list[VoteModel]:
    """Return the models that differ, on these triplets, from ridge regression on majorities and from each other.

    Models coincide where all triplets have equally many votes, or where nobody was asked for a grade.

    Args:
        embedded: The triplets.
        models: Candidates.
        alphas: Penalties to choose from; only those above 0 are used, as the logistic loss may have no minimum at 0.
    """
    penalties = tuple(alpha for alpha in alphas if alpha > 0.0) or ALPHAS

    def fingerprint(model: VoteModel) -> tuple[str, bytes, bytes]:
        target, weight = model.said(embedded)
        return repr(model.loss), target.numpy().tobytes(), weight.numpy().tobytes()

    seen, distinct = {fingerprint(VoteModel("ridge"))}, []
    for model in models:
        if model.target == "graded" and embedded.triplets.sure_votes is None:
            continue
        if (known := fingerprint(model)) not in seen:
            seen.add(known)
            distinct.append(VoteModel(model.name, model.loss, model.target, model.vote_weighted, penalties))
    return distinct


@dataclass(frozen=True, slots=True, eq=False)
class WeightFits:
    """Stem weights fitted to subsets of the triplets with every penalty.

    Attributes:
        alphas: `(alpha,)` penalties.
        weights: `(subset, alpha, stem)` fitted weights.
        left_out_loss: `(subset, alpha)` loss of each subset's triplets, every one predicted from the others, summed;
            exact for the squared error.
    """

    alphas: Tensor
    weights: Tensor
    left_out_loss: Tensor

    def best(self) -> tuple[Tensor, Tensor]:
        """Return weights `(subset, stem)` and penalty `(subset,)` of the least left-out loss."""
        chosen = self.left_out_loss.argmin(dim=1)
        return self.weights[torch.arange(len(chosen)), chosen], self.alphas[chosen]


def fit_weights(
    deltas: Tensor, target: Tensor, counts: Tensor, alphas: Sequence[float] | Tensor, *, loss: Loss | None = None
) -> WeightFits:
    """Fit stem weights to every subset with every penalty, exactly.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` targets in [-1, 1].
        counts: `(subset, triplet)` weight of each triplet in each subset; 0: it is not in it.
        alphas: `(alpha,)` penalties; positive, unless the loss is the squared error.
        loss: Loss to minimise; default: the squared error.

    Returns:
        Weights and left-out losses, float64.

    Raises:
        ConfigError: If a penalty is out of range, or so small that no minimum is found.
    """
    if loss is None or isinstance(loss, SquaredError):
        fit = fit_ridge(deltas, target, alphas, counts=counts)
        return WeightFits(fit.alphas, fit.weights, fit.left_out_error())
    rows, wanted, weighted = deltas.double(), target.double(), counts.double()
    penalties = torch.as_tensor(alphas, dtype=torch.float64)
    if not (torch.isfinite(penalties) & (penalties > 0.0)).all():
        msg = (
            f"The penalties of a {type(loss).__name__} fit are finite and above 0, since some weights may predict "
            f"every triplet correctly; got {penalties.tolist()}."
        )
        raise ConfigError(msg)
    # The subsets of a cross-validation are much alike: the fit to their average is a few steps from each.
    start = rows.new_zeros(len(penalties), rows.shape[1])
    start = _newton(rows, wanted, weighted.mean(dim=0, keepdim=True), penalties, loss, start)[0]
    pieces = torch.split(weighted, max(1, _ELEMENTS_AT_ONCE // (len(rows) * len(penalties))))
    weights = [_newton(rows, wanted, piece, penalties, loss, start) for piece in pieces]
    left_out = [
        _left_out_loss(rows, wanted, piece, penalties, fitted, loss)
        for piece, fitted in zip(pieces, weights, strict=True)
    ]
    return WeightFits(penalties, torch.cat(weights), torch.cat(left_out))


def _hessian(products: RowProducts, curvature: Tensor, alphas: Tensor) -> Tensor:
    """Return sum_i c_i d_i d_i^T + 2 alpha I, `(..., stem, stem)`, of curvatures `(..., triplet)`."""
    matrix = products.gram(curvature)
    matrix.diagonal(dim1=-2, dim2=-1).add_(2.0 * alphas.unsqueeze(-1))
    return matrix


def _left_out_loss(rows: Tensor, target: Tensor, counts: Tensor, alphas: Tensor, weights: Tensor, loss: Loss) -> Tensor:
    products, count = RowProducts(rows), counts.unsqueeze(1)  # (subset, 1, triplet)
    preference = weights @ rows.T  # (subset, alpha, triplet)
    terms = loss.terms(preference, target)
    hessian = _hessian(products, count * terms.curvature, alphas)
    inverse = torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True)
    influence = count * products.forms(inverse)  # h_i s_i
    left_out = preference + influence * terms.slope / (1.0 - influence * terms.curvature).clamp(min=1e-12)
    return (count * loss.terms(left_out, target).value).sum(dim=-1)


def _newton(rows: Tensor, target: Tensor, counts: Tensor, alphas: Tensor, loss: Loss, start: Tensor) -> Tensor:
    """Minimise for every subset `(subset, triplet)` and penalty, from `(alpha, stem)`, by Newton's method."""
    products = RowProducts(rows)
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
        factor, failed = torch.linalg.cholesky_ex(_hessian(products, curvature, alpha))
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
