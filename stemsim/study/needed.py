"""How many triplets weights need to be close to the truth."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["CLOSE", "Needed", "crossing", "needed_triplets", "rounded"]

CLOSE: Final = 10.0
"""Angle in degrees at which weights count as close to the truth."""

FloatArray = npt.NDArray[np.float64]

_REPLICATES: Final = 400
_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Needed:
    """Triplets from which on the median angle over the experiments is below `CLOSE`.

    Attributes:
        value: The number, interpolated; infinite where none that was tried is enough.
        lower: Lower end of its 95 % interval, with other experiments.
        upper: Upper end.
        tried: The least and the largest number that was tried.
    """

    value: float
    lower: float
    upper: float
    tried: tuple[int, int]

    def __str__(self) -> str:
        """Return the number in words, with its interval."""
        if np.isinf(self.value):
            return f"more than {self.tried[1]}"
        if self.value <= self.tried[0]:
            return f"at most {self.tried[0]}"
        upper = f"{rounded(self.upper):.0f}" if np.isfinite(self.upper) else f"over {self.tried[1]}"
        return f"{rounded(self.value):.0f} [{rounded(self.lower):.0f}, {upper}]"


def crossing(counts: FloatArray, angles: FloatArray, close: float = CLOSE) -> FloatArray:
    """Find from which number of triplets on an angle stays small, interpolated on a logarithmic scale.

    Args:
        counts: `(size,)` numbers of triplets, ascending.
        angles: `(size, curve)` angles in degrees.
        close: The angle that counts as small.

    Returns:
        `(curve,)` numbers of triplets: the least that was tried if all are enough, infinite if the largest is not.
    """
    far = angles > close
    last = len(counts) - 1 - far[::-1].argmax(axis=0)  # of the sizes that are not enough, where there is any
    here, then = last, np.minimum(last + 1, len(counts) - 1)
    curve = np.arange(angles.shape[1])
    drop = angles[here, curve] - angles[then, curve]
    share = np.divide(angles[here, curve] - close, drop, out=np.zeros(len(curve)), where=drop > 0.0)
    between = counts[here] * (counts[then] / counts[here]) ** share
    found: FloatArray = np.where(far[-1], np.inf, np.where(far.any(axis=0), between, counts[0]))
    return found


def needed_triplets(counts: tuple[int, ...], angles: FloatArray, *, seed: int = 0) -> Needed:
    """Find how many triplets are needed for a small median angle, and how sure that is.

    Args:
        counts: Numbers of triplets, ascending.
        angles: `(size, experiment)` angles in degrees; an experiment has the same true weights at every size.
        seed: Seed of the bootstrap over experiments.

    Returns:
        The number and its interval.
    """
    sizes = np.array(counts, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(angles.shape[1], size=(_REPLICATES, angles.shape[1]))
    medians = np.stack([np.median(one[drawn], axis=1) for one in angles])  # (size, replicate)
    found = crossing(sizes, medians)
    tail = 0.5 - 0.5 * _LEVEL
    # Ends are order statistics, as some may be infinite.
    lower, upper = np.quantile(found, [tail, 1.0 - tail], method="nearest")
    value = float(crossing(sizes, np.median(angles, axis=1, keepdims=True))[0])
    return Needed(value, float(lower), float(upper), (counts[0], counts[-1]))


def rounded(value: float) -> float:
    """Round to two digits."""
    digits = 10.0 ** (np.floor(np.log10(value)) - 1.0)
    return float(np.round(value / digits) * digits)
