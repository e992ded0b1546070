"""Variance of a sum over observations that share units: triplets that share tracks, answers that share listeners.

Triplets that share a track are not independent, and neither are the answers of one listener. The estimate that is
robust to sharing counts the joint contribution of every pair of observations with a unit in common, once (Cameron,
Gelbach and Miller, "Robust inference with multiway clustering", Journal of Business and Economic Statistics 29(2),
2011; Aronow, Samii and Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 23(4), 2015).
By inclusion and exclusion it is a sum over the sets of units that observations have in common, so that no pair of
observations is visited.
"""

from itertools import combinations

import numpy as np
from scipy.special import stdtrit

from stemsim.errors import ConfigError
from stemsim.triplets.table import FloatArray, IntArray


def cluster_robust_variance(scores: FloatArray, *units: IntArray) -> FloatArray:
    """Estimate the variance of the sum of scores over observations that share units.

    The estimate is at least that of independent observations. It is multiplied by C / (C - 1), where C is the number of
    units of the rarest kind, or of observations if there are fewer.

    Args:
        scores: `(observation, statistic)` contribution of each observation to an estimate's error, with mean 0.
        units: For each kind of unit, `(observation, place)` numbers of the units of each observation; a unit may occur
            twice in one observation.

    Returns:
        `(statistic,)` variances; infinite if there is a single unit of some kind, which tells nothing about others.
    """
    columns, offset, fewest = [], 0, len(scores)
    for kind in units:
        names, numbers = np.unique(kind, return_inverse=True)
        rows = np.sort(numbers.reshape(kind.shape), axis=1).astype(np.int64)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # a repetition counts once
        columns.append(np.where(rows < 0, -1, rows + offset))
        offset += len(names)
        fewest = min(fewest, len(names))
    if fewest < 2:  # noqa: PLR2004
        return np.full(scores.shape[1], np.inf)
    rows = np.sort(np.concatenate(columns, axis=1), axis=1)
    variance = np.zeros(scores.shape[1])
    for size in range(1, rows.shape[1] + 1):
        variance += (1 if size % 2 else -1) * _squares_of_sums(scores, rows, size, offset)
    independent = np.square(scores).sum(axis=0)
    robust: FloatArray = np.maximum(variance, independent) * fewest / (fewest - 1.0)
    return robust


def interval_reach(level: float, clusters: int) -> float:
    """Return half the width of an interval in standard errors: Student's t with `clusters - 1` degrees of freedom.

    Raises:
        ConfigError: If the level does not lie between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"The level of an interval lies between 0 and 1, e.g. 0.95; got {level}.")
    return float(stdtrit(clusters - 1, 0.5 + 0.5 * level))


def _squares_of_sums(scores: FloatArray, rows: IntArray, size: int, count: int) -> FloatArray:
    """Return the squared sum of the scores that share a set of `size` units, summed over all such sets."""
    holders: list[IntArray] = []
    keys: list[IntArray] = []
    for places in combinations(range(rows.shape[1]), size):
        chosen = rows[:, places]
        whole = np.flatnonzero((chosen >= 0).all(axis=1))
        holders.append(whole)
        keys.append(chosen[whole] @ np.power(count, np.arange(size), dtype=np.int64))
    observation = np.concatenate(holders)
    _, group = np.unique(np.concatenate(keys), return_inverse=True)
    return np.array([np.square(np.bincount(group, weights=column)).sum() for column in scores[observation].T])
