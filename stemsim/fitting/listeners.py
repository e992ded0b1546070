"""Several listeners: shared weights, and how each listener departs from them.

The weights of listener l in log odds are

    theta_l ~ N(mu, diag(tau^2) + s^2 mu mu^T)

where mu are the shared weights, tau is the spread between listeners in each stem, and the second term lets some
listeners be more decided than others (s = 0.5), which is no difference in taste. Mu and tau maximise the evidence of
all votes together with the prior of mu (empirical Bayes; Laplace's method for each listener). Whether listeners differ
on a stem is tested by the ratio of the evidence with tau free to that with tau at its lower end. As the end is a bound,
the p value is half the tail of chi-squared with one degree of freedom, times the number of stems (Bonferroni).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import chdtrc

from stemsim.errors import TripletError
from stemsim.fitting.listener import Posterior, WeightPrior, padded, weight_posterior
from stemsim.fitting.personal import ListenerVotes
from stemsim.triplets.table import FloatArray

FEWEST_VOTES: Final = 5
"""Votes of a listener who takes part in the comparison."""

_FEWEST_LISTENERS: Final = 3
_DECIDED: Final = 0.5  # standard deviation of how decided listeners are, relative to the mean
_SHARED: Final = (1.0, 0.7)  # prior of the shared weights: relative spread of each, and of their scale
_RANGE: Final = (0.01, 3.0)  # of tau, relative to the root mean square of the prior weights
_REACH: Final = 1.96  # of 95 % intervals


@dataclass(frozen=True, slots=True, eq=False)
class ListenerWeights:
    """Shared weights and departures from them, on the scale of the model's weights.

    A departure is orthogonal to the shared weights: it is a difference in taste, not in how decided a listener is.
    """

    stems: tuple[str, ...]
    shared: FloatArray  # (stem,)
    shared_spread: FloatArray  # (stem,) standard deviation of each
    between: FloatArray  # (stem,) spread between listeners, tau
    p_values: FloatArray  # (stem,) that listeners do not differ on a stem, corrected for the number of stems
    listeners: tuple[str, ...]
    votes: tuple[int, ...]  # of each listener
    departures: FloatArray  # (listener, stem)
    departure_spread: FloatArray  # (listener, stem) standard deviation of each, given the shared weights

    @property
    def intervals(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends of the 95 % intervals of the departures, each `(listener, stem)`."""
        reach = _REACH * self.departure_spread
        return self.departures - reach, self.departures + reach

    @property
    def differ_on(self) -> tuple[str, ...]:
        """The stems that listeners differ on, at the level of 5 %."""
        return tuple(np.array(self.stems)[self.p_values < 0.05].tolist())  # noqa: PLR2004


def compare_listener_weights(votes: ListenerVotes, prior: dict[str, float]) -> ListenerWeights:
    """Fit shared weights and the spread between listeners.

    Args:
        votes: Votes of all listeners; those with fewer than `FEWEST_VOTES` are left out.
        prior: Weight of each stem in a model.

    Raises:
        TripletError: If there are fewer than three listeners.
    """
    crowd = votes.by_listener(fewest=FEWEST_VOTES)
    if len(crowd) < _FEWEST_LISTENERS:
        raise TripletError(
            f"Listeners can be compared from {_FEWEST_LISTENERS} on, each with {FEWEST_VOTES} votes or more; got "
            f"{len(crowd)}. Add votes, with the column `listener`."
        )
    weights = np.array(list(prior.values()))
    model = _Crowd(crowd, WeightPrior.around(weights, votes.deltas, spread=_SHARED[0]))
    shared, between = model.fit()
    best = model.evidence(shared, between)
    ratios = []
    for stem in range(len(prior)):
        held = model.fit(start=(shared, between), without=stem)
        ratios.append(max(0.0, 2.0 * (best - model.evidence(*held))))
    fits = model.posterior(shared, between)
    along = fits.mean @ shared / np.square(shared).sum()
    scales = np.maximum(along, 0.1)[:, None]
    beside = np.eye(len(prior)) - np.outer(shared, shared) / np.square(shared).sum()
    unit = float(np.linalg.norm(shared) / np.linalg.norm(weights))
    spread = np.sqrt(np.einsum("si,lij,sj->ls", beside, fits.covariance, beside)) / scales
    return ListenerWeights(
        stems=tuple(prior),
        shared=shared / unit,
        shared_spread=model.shared_spread(shared, between) / unit,
        between=between / unit,
        p_values=np.minimum(1.0, 0.5 * len(prior) * chdtrc(1.0, np.array(ratios))),
        listeners=tuple(crowd),
        votes=tuple(map(len, crowd.values())),
        departures=(fits.mean / scales) @ beside / unit,
        departure_spread=spread / unit,
    )


class _Crowd:
    """The votes of all listeners, and the prior of their shared weights."""

    def __init__(self, crowd: dict[str, ListenerVotes], prior: WeightPrior) -> None:
        self.deltas, self.choices = padded(
            [one.deltas for one in crowd.values()], [one.choices for one in crowd.values()]
        )
        self.mean = prior.mean
        self.precision = np.linalg.inv(prior.covariance + _SHARED[1] ** 2 * np.outer(prior.mean, prior.mean))
        self.size = float(np.sqrt(np.square(prior.mean).mean()))

    def posterior(self, shared: FloatArray, between: FloatArray) -> Posterior:
        """Return the weights of every listener, given the shared ones and the spread."""
        covariance = np.diag(np.square(between)) + _DECIDED**2 * np.outer(shared, shared)
        return weight_posterior(self.deltas, self.choices, WeightPrior(shared, covariance))

    def evidence(self, shared: FloatArray, between: FloatArray) -> float:
        """Return the log evidence of all votes and of the shared weights, up to a constant."""
        away = shared - self.mean
        return float(self.posterior(shared, between).evidence.sum() - 0.5 * away @ self.precision @ away)

    def fit(
        self, *, start: tuple[FloatArray, FloatArray] | None = None, without: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return shared weights and spread of the largest evidence; `without` holds one spread at its lower end."""
        stems = len(self.mean)
        shared, between = start or (self.mean, np.full(stems, 0.3 * self.size))
        ends = np.log([self.size * end for end in _RANGE])
        bounds = [(None, None)] * stems + [tuple(ends)] * stems
        logs = np.log(between)
        if without is not None:
            bounds[stems + without] = (ends[0], ends[0])
            logs[without] = ends[0]
        scaled = np.concatenate([shared / self.size, logs])

        def loss(at: FloatArray) -> float:
            return -self.evidence(self.size * at[:stems], np.exp(at[stems:]))

        found = minimize(loss, scaled, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
        return self.size * found[:stems], np.exp(found[stems:])

    def shared_spread(self, shared: FloatArray, between: FloatArray) -> FloatArray:
        """Return the standard deviation of each shared weight, given the spread.

        The votes of a listener say about the shared weights what they say about the listener's, less the difference.
        """
        differ = np.diag(np.square(between)) + _DECIDED**2 * np.outer(shared, shared)
        said = np.linalg.inv(self.posterior(shared, between).covariance) - np.linalg.inv(differ)
        information = (said @ np.linalg.inv(np.eye(len(shared)) + differ @ said)).sum(axis=0)
        deviation: FloatArray = np.sqrt(np.diag(np.linalg.inv(self.precision + information)))
        return deviation
