"""Weights of one listener around a prior, with their uncertainty.

A listener answers "A" to a triplet with stem features d (paper, section 3.4) with the probability

    P(A) = lapse / 2 + (1 - lapse) sigmoid(d . theta),        theta ~ N(mean, covariance)

A lapse is an answer at random: a slip of the finger, or of the attention. Theta are the weights in log odds; their
length is how decided the listener is, and their direction is the taste. The posterior of theta is taken to be normal,
around its maximum, with the inverse of the Hessian there as covariance (Laplace's method; MacKay, "Information theory,
inference, and learning algorithms", 2003, chapter 27).

The prior is fixed beforehand: a penalty chosen by cross-validation of a few votes falls far below the prior weights,
and this does not (`stemsim votes simulate`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Self

import numpy as np
from scipy.special import expit, log_softmax, logsumexp, softmax, xlog1py, xlogy

from stemsim.triplets.table import ChoiceArray, FloatArray, IntArray

LAPSE: Final = 0.06
"""Share of lapses that is assumed where it is not fitted."""

SPREAD: Final = 0.5
"""Departure of a listener from each prior weight, relative to it, where it is not learned."""

_TYPICAL_LOG_ODDS: Final = 3.0  # root mean square over triplets; listeners of Inst-Sim-ABX: 72 % (XAB), 92 % (XYC)
_SCALES: Final = tuple(float(scale) for scale in np.geomspace(0.25, 4.0, 7))  # of how decided listeners are,
_SCALE_SPREAD: Final = 0.7  # whose logarithm has this standard deviation
_WIDTHS: Final = (0.125, 0.25, 0.5, 1.0)  # of departures, relative to the prior's
_LEAST_WEIGHT: Final = 0.25  # of the root mean square: departures from smaller weights are as large as from this one
_LAPSES: Final = (0.02, 0.06, 0.12, 0.25)
_LAPSE_PRIOR: Final = (2.0, 16.7)  # beta distribution, whose mode is `LAPSE`
_SPREADS: Final = tuple(float(spread) for spread in np.geomspace(0.05, 2.0, 16))
_MOST_STEPS: Final = 100
_MOST_HALVINGS: Final = 40


@dataclass(frozen=True, slots=True, eq=False)
class WeightPrior:
    """Normal distribution of a listener's weights in log odds, before any vote."""

    mean: FloatArray  # (stem,)
    covariance: FloatArray  # (stem, stem)

    @classmethod
    def around(cls, weights: FloatArray, deltas: FloatArray, *, spread: float = SPREAD) -> Self:
        """Return a prior around the weights of a model.

        Args:
            weights: `(stem,)` weights of the model.
            deltas: `(triplet, stem)` stem features, on which a typical listener is as decided as usual.
            spread: Standard deviation of a listener's departure from each weight, relative to the weight; to a quarter
                of the root mean square of the weights where they are smaller.
        """
        size = np.sqrt(np.square(deltas @ weights).mean())
        scale = _TYPICAL_LOG_ODDS / size if size > 0.0 else 1.0
        mean = scale * weights
        least = _LEAST_WEIGHT * np.sqrt(np.square(mean).mean())
        return cls(mean, np.diag(np.square(spread * np.maximum(np.abs(mean), least))))

    @classmethod
    def flat(cls, deltas: FloatArray) -> Self:
        """Return a prior without a preferred direction, for stem features `(triplet, stem)` of some triplets."""
        size = np.sqrt(np.square(deltas).sum(axis=-1).mean())
        scale = _TYPICAL_LOG_ODDS / size if size > 0.0 else 1.0
        return cls(np.zeros(deltas.shape[-1]), scale**2 * np.eye(deltas.shape[-1]))

    def scaled(self, scale: float, width: float = 1.0) -> Self:
        """Return the prior of a listener who is so many times as decided, and departs so many times as far."""
        return type(self)(scale * self.mean, (scale * width) ** 2 * self.covariance)


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Normal approximation of the weights in log odds of one or many listeners, after their votes."""

    mean: FloatArray  # (..., stem)
    covariance: FloatArray  # (..., stem, stem)
    evidence: FloatArray  # (...) logarithm of the probability of the votes, by Laplace's method
    lapse: FloatArray  # (...) share of lapses

    @property
    def spread(self) -> FloatArray:
        """`(..., stem)` standard deviation of each weight."""
        deviation: FloatArray = np.sqrt(np.diagonal(self.covariance, axis1=-2, axis2=-1))
        return deviation

    def probability(self, deltas: FloatArray) -> FloatArray:
        """Return P(A) by the mean weights, `(..., triplet)`, for stem features `(..., triplet, stem)`."""
        log_odds = (deltas @ self.mean[..., None])[..., 0]
        chosen: FloatArray = answer_probability(log_odds, self.lapse[..., None])
        return chosen


def answer_probability(log_odds: FloatArray, lapse: FloatArray | float) -> FloatArray:
    """Return P(A) of a listener with lapses."""
    probability: FloatArray = 0.5 * lapse + (1.0 - lapse) * expit(log_odds)
    return probability


def weight_posterior(
    deltas: FloatArray, choices: ChoiceArray, prior: WeightPrior, *, lapse: FloatArray | float = LAPSE
) -> Posterior:
    """Return the posterior of the weights of one listener, or of many at once, by Newton's method.

    Args:
        deltas: `(..., vote, stem)` stem features.
        choices: `(..., vote)` +1 = A, -1 = B, 0 = no vote.
        prior: The prior, the same for all.
        lapse: `(...)` share of lapses, in [0, 1).
    """
    shape, votes, stems = choices.shape[:-1], choices.shape[-1], deltas.shape[-1]
    problems = math.prod(shape)
    features = np.broadcast_to(deltas, (*choices.shape, stems)).reshape(problems, votes, stems)
    answers = choices.reshape(problems, votes).astype(float)
    rates = np.broadcast_to(lapse, shape).reshape(problems, 1)
    precision = np.linalg.inv(prior.covariance)
    theta = np.tile(prior.mean, (problems, 1))

    def objective(at: FloatArray, rows: IntArray) -> FloatArray:
        log_odds = np.einsum("pvs,ps->pv", features[rows], at) * answers[rows]
        chosen = np.log(np.maximum(answer_probability(log_odds, rates[rows]), 1e-300))
        away = at - prior.mean
        said = np.where(answers[rows] == 0.0, 0.0, chosen).sum(axis=1)
        value: FloatArray = said - 0.5 * np.einsum("ps,st,pt->p", away, precision, away)
        return value

    active = np.arange(problems)
    value = objective(theta, active)
    for _ in range(_MOST_STEPS):
        gradient, hessian = _derivatives(theta[active], features[active], answers[active], rates[active], prior)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        decrement = (gradient * step).sum(axis=1)  # squared Newton decrement
        size = np.ones(len(active))
        for _ in range(_MOST_HALVINGS):
            reached = objective(theta[active] + size[:, None] * step, active)
            worse = reached < value[active] + 1e-4 * size * decrement - 1e-12 * np.abs(value[active])
            if not worse.any():
                break
            size[worse] *= 0.5
        theta[active] += size[:, None] * step
        value[active] = reached
        active = active[decrement > 1e-16 * (1.0 + np.abs(reached))]
        if not len(active):
            break
    _, hessian = _derivatives(theta, features, answers, rates, prior)
    evidence = value - 0.5 * (np.linalg.slogdet(prior.covariance)[1] + np.linalg.slogdet(hessian)[1])
    covariance = np.linalg.inv(hessian)
    return Posterior(
        theta.reshape(*shape, stems),
        covariance.reshape(*shape, stems, stems),
        evidence.reshape(shape),
        rates.reshape(shape).copy(),
    )


def _derivatives(
    theta: FloatArray, features: FloatArray, answers: FloatArray, lapse: FloatArray, prior: WeightPrior
) -> tuple[FloatArray, FloatArray]:
    """Return the gradient of the log posterior `(problem, stem)` and its negative Hessian `(problem, stem, stem)`.

    Far from the maximum, the Hessian may have no inverse that leads upwards, as lapses make the likelihood not concave:
    the expected Hessian, Fisher's information, takes its place.
    """
    own = expit(np.einsum("pvs,ps->pv", features, theta) * answers)  # of the answer given
    probability = np.maximum(0.5 * lapse + (1.0 - lapse) * own, 1e-300)
    voted = answers != 0.0
    bend = (1.0 - lapse) * own * (1.0 - own)  # derivative of the probability of the answer given
    slope = np.where(voted, bend / probability, 0.0)
    curvature = np.where(voted, slope**2 - bend * (1.0 - 2.0 * own) / probability, 0.0)
    precision = np.linalg.inv(prior.covariance)
    gradient = np.einsum("pv,pvs->ps", slope * answers, features) - (theta - prior.mean) @ precision
    hessian = precision + np.einsum("pv,pvs,pvt->pst", curvature, features, features, optimize=True)
    wrong = np.linalg.eigvalsh(hessian)[:, 0] <= 1e-9 * np.linalg.eigvalsh(precision)[0]
    if wrong.any():
        information = np.where(voted, bend**2 / (probability * (1.0 - probability)).clip(min=1e-300), 0.0)
        expected = precision + np.einsum("pv,pvs,pvt->pst", information, features, features, optimize=True)
        hessian[wrong] = expected[wrong]
    return gradient, hessian


def fit_listener(deltas: FloatArray, choices: ChoiceArray, prior: WeightPrior) -> Posterior:
    """Return the posterior of `weight_posterior`, averaged over what else is unknown of a listener.

    The average is over how decided the listener is (lognormal around the prior's scale), the share of lapses (beta
    distribution with its mode at `LAPSE`), and how far the listener departs from the prior, at most as far as the prior
    says (exponential distribution), each by its evidence. With a few votes, weights so stay near those of the prior,
    even if the prior is wider than listeners differ.
    """
    settings = list(product(_LAPSES, _SCALES, _WIDTHS))
    fits = [
        weight_posterior(deltas, choices, prior.scaled(scale, width), lapse=lapse) for lapse, scale, width in settings
    ]
    lapses, scales, widths = np.array(settings).T
    first, second = _LAPSE_PRIOR
    before = xlogy(first - 1.0, lapses) + xlog1py(second - 1.0, -lapses)
    before -= 0.5 * np.square(np.log(scales) / _SCALE_SPREAD) + widths
    joint = np.stack([fit.evidence + one for fit, one in zip(fits, log_softmax(before), strict=True)])
    share = softmax(joint, axis=0)  # (setting, ...)
    means = np.stack([fit.mean for fit in fits])
    mean = np.einsum("g...,g...s->...s", share, means)
    away = means - mean
    covariance = np.einsum("g...,g...st->...st", share, np.stack([fit.covariance for fit in fits]))
    covariance += np.einsum("g...,g...s,g...t->...st", share, away, away)
    return Posterior(mean, covariance, logsumexp(joint, axis=0), np.einsum("g...,g->...", share, lapses))


def learn_spread(deltas: Sequence[FloatArray], choices: Sequence[ChoiceArray], weights: FloatArray) -> float:
    """Return the spread of `WeightPrior.around` that makes the votes of several listeners most probable.

    Args:
        deltas: For each listener, stem features `(vote, stem)`.
        choices: For each listener, `(vote,)` +1 = A, -1 = B.
        weights: `(stem,)` weights of the model.
    """
    everything = np.concatenate(deltas)
    features, answers = padded(deltas, choices)
    evidence = [
        weight_posterior(features, answers, WeightPrior.around(weights, everything, spread=spread)).evidence.sum()
        for spread in _SPREADS
    ]
    return _SPREADS[int(np.argmax(evidence))]


def padded(deltas: Sequence[FloatArray], choices: Sequence[ChoiceArray]) -> tuple[FloatArray, IntArray]:
    """Return features `(listener, vote, stem)` and choices `(listener, vote)`, 0 where a listener has fewer votes."""
    most = max(map(len, choices))
    features = np.zeros((len(deltas), most, deltas[0].shape[1]))
    answers = np.zeros((len(deltas), most), np.int64)
    for row, (own, said) in enumerate(zip(deltas, choices, strict=True)):
        features[row, : len(own)], answers[row, : len(said)] = own, said
    return features, answers
