"""Resampling of what observations share: tracks of triplets, listeners and triplets of answers.

Triplets that share a track are not independent, and neither are the answers of one listener. The *pigeonhole bootstrap*
(Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007; Owen and Eckles, "Bootstrapping data arrays
of arbitrary order", same journal 6(3), 2012; for units of one kind, as tracks are, Davezies, D'Haultfoeuille and
Guyonvarch, "Empirical process results for exchangeable arrays", Annals of Statistics 49(2), 2021) draws units with
replacement and weighs an observation by the product of how often its units were drawn.

What two observations contribute jointly to the variance is then counted 2^c - 1 times, c being the number of units
that they share: once, as it must be, for c = 1, but 3 times for c = 2 and 7 times for c = 3. So noise private to a
triplet of three tracks is counted 7 times, and the bootstrap is conservative (Owen 2007, theorem 4). Counted once for
every c >= 1 it is the variance estimate that is robust to sharing (Cameron, Gelbach and Miller, Journal of Business and
Economic Statistics 29(2), 2011; Aronow, Samii and Assenova, Political Analysis 23(4), 2015). By inclusion and exclusion
both are sums over the sets of units that observations have in common, so no pair of observations is ever visited.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["SharedVariance", "distinct_units", "replicate_weights", "shared_variance"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ELEMENTS_AT_ONCE: Final = 4_000_000  # of float64: 32 MB


class SharedVariance(NamedTuple):
    """Variance of sums of scores over observations that share units.

    Attributes:
        independent: `(statistic,)` as if no observation shared anything.
        robust: `(statistic,)` pairs that share at least one unit counted once; at least `independent`.
        pigeonhole: `(statistic,)` what the pigeonhole bootstrap estimates, which is more.
    """

    independent: FloatArray
    robust: FloatArray
    pigeonhole: FloatArray


def distinct_units(units: IntArray) -> tuple[IntArray, int]:
    """Number the units anew, and name each one once an observation.

    Args:
        units: `(observation, place)` any numbers; the reference and candidate Y of an XYC triplet are of one track.

    Returns:
        `(observation, place)` numbers from 0 in ascending order, -1 instead of a repetition; and the number of units.
    """
    names, numbers = np.unique(units, return_inverse=True)
    rows = np.sort(numbers.reshape(units.shape), axis=1).astype(np.int64)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    return rows, len(names)


def replicate_weights(kinds: Sequence[IntArray], replicates: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Draw units with replacement and weigh each observation by the product of how often its units were drawn.

    Args:
        kinds: For each kind of unit, drawn by itself, `(observation, place)` the units of each observation.
        replicates: Number of bootstrap replicates.
        rng: Source of randomness.

    Yields:
        `(replicate, observation)` weights, in as many pieces as memory asks for.
    """
    numbered = [distinct_units(units) for units in kinds]
    piece = max(1, _ELEMENTS_AT_ONCE // max(1, len(kinds[0])))
    for start in range(0, replicates, piece):
        rows = min(piece, replicates - start)
        weights = np.ones((rows, len(kinds[0])))
        for units, count in numbered:
            drawn = np.ones((rows, count + 1))  # the last column stands for -1: no unit
            drawn[:, :-1] = rng.multinomial(count, np.full(count, 1.0 / count), size=rows)
            for place in units.T:
                weights *= drawn[:, place]
        yield weights


def shared_variance(scores: FloatArray, kinds: Sequence[IntArray]) -> SharedVariance:
    """Estimate the variance of the sum of scores whose observations share units.

    Args:
        scores: `(observation, statistic)` what each observation adds to an estimate's error, with mean 0.
        kinds: For each kind of unit, `(observation, place)` the units of each observation.

    Returns:
        The variances of each statistic.
    """
    columns, offset = [], 0
    for units in kinds:
        numbered, count = distinct_units(units)
        columns.append(np.where(numbered < 0, -1, numbered + offset))
        offset += count
    rows = np.sort(np.concatenate(columns, axis=1), axis=1)
    robust, pigeonhole = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for size in range(1, rows.shape[1] + 1):
        squares = _squares_of_sums(scores, rows, size, offset)
        robust += squares if size % 2 else -squares
        pigeonhole += squares
    independent = np.square(scores).sum(axis=0)
    return SharedVariance(independent, np.maximum(robust, independent), np.maximum(pigeonhole, independent))


def _squares_of_sums(scores: FloatArray, rows: IntArray, size: int, count: int) -> FloatArray:
    """Sum the scores over the observations that hold each set of `size` units; return the sum of squares over sets."""
    holders, keys = [], []
    for places in combinations(range(rows.shape[1]), size):
        chosen = rows[:, places]
        whole = np.flatnonzero((chosen >= 0).all(axis=1))
        holders.append(whole)
        keys.append(chosen[whole] @ np.power(count, np.arange(size), dtype=np.int64))
    observation = np.concatenate(holders)
    _, group = np.unique(np.concatenate(keys), return_inverse=True)
    sums = [np.bincount(group, weights=column) for column in scores[observation].T]
    return np.array([np.square(total).sum() for total in sums])
