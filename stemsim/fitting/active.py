"""Choice of the next question for a listener: what is expected to tell most about the weights, or a random one.

The information that an answer to a triplet with stem features d carries about the log odds d . theta is

    I = P'(A)^2 / (P(A) (1 - P(A)))

and the determinant of the posterior precision grows by the factor 1 + I d^T Sigma d: the candidate with the largest one
is D-optimal. A share of the questions is drawn at random, so that agreement with the answers to these is that on all
candidates. The probability of every choice is kept; candidates should be drawn afresh, thousands for each question.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from stemsim.errors import ConfigError
from stemsim.fitting.listener import Posterior, answer_probability
from stemsim.triplets.table import FloatArray

RANDOM_SHARE = 0.2
"""Share of the questions that is drawn at random by default."""


@dataclass(frozen=True, slots=True)
class Question:
    """A candidate that was chosen as the next question."""

    row: int  # of the candidates
    chosen_by: Literal["random", "active"]
    probability: float  # with which this candidate was chosen, given the candidates


def gain(posterior: Posterior, deltas: FloatArray) -> FloatArray:
    """Return the factors `(..., candidate)` by which answers would raise the determinant of the posterior precision.

    Args:
        posterior: Posterior of one listener, or of many.
        deltas: `(candidate, stem)` stem features.
    """
    lapse = posterior.lapse[..., None]
    log_odds = posterior.mean @ deltas.T
    probability = answer_probability(log_odds, lapse)
    slope = (1.0 - lapse) * expit(log_odds) * expit(-log_odds)
    information = slope**2 / (probability * (1.0 - probability)).clip(min=1e-300)
    uncertain = ((deltas @ posterior.covariance) * deltas).sum(axis=-1)
    factor: FloatArray = 1.0 + information * uncertain
    return factor


def choose_question(
    posterior: Posterior, deltas: FloatArray, rng: np.random.Generator, *, random_share: float = RANDOM_SHARE
) -> Question:
    """Choose the next question for one listener.

    Args:
        posterior: What is known of the listener's weights; after no votes, that of `weight_posterior` without votes.
        deltas: `(candidate, stem)` stem features of the candidates.
        rng: Random number generator.
        random_share: Share of the questions drawn at random; 1 is the classical test.

    Raises:
        ConfigError: If there is no candidate, or the share does not lie in [0, 1].
    """
    if not len(deltas) or not 0.0 <= random_share <= 1.0:
        raise ConfigError(
            f"A question needs candidates, and a random share in [0, 1]; got {len(deltas)} and {random_share}. Draw "
            "more triplets, or correct the share."
        )
    best = int(np.argmax(gain(posterior, deltas)))
    at_random = bool(rng.random() < random_share)
    row = int(rng.integers(len(deltas))) if at_random else best
    probability = random_share / len(deltas) + (1.0 - random_share) * (row == best)
    return Question(row, "random" if at_random else "active", probability)
