"""Confidence intervals of stem weights that are robust to triplets that share tracks.

Every pair of triplets with a track in common may be correlated in any way (Cameron, Gelbach and Miller 2011; Aronow,
Samii and Assenova 2015; see `stemsim.evaluation.clusters`). The intervals are about the weights that least squares
would find with an unlimited number of tracks of the same kind, whether or not listeners are linear. `stemsim study`
measures their coverage on simulated listening tests.
"""

from dataclasses import dataclass

import numpy as np

from stemsim.errors import TripletError
from stemsim.evaluation.clusters import cluster_robust_variance, interval_reach
from stemsim.regression import RidgeFit
from stemsim.triplets.table import BoolArray, FloatArray, IntArray

_FEWEST_TRACKS = 3  # of one triplet


@dataclass(frozen=True, slots=True, eq=False)
class WeightIntervals:
    """Cluster-robust confidence interval of the weight of each stem, in the order of the stem layout."""

    estimate: FloatArray  # (stem,) weights fitted to all triplets
    standard_error: FloatArray  # (stem,) standard errors; infinite where the triplets do not determine a weight
    lower: FloatArray  # (stem,) lower ends
    upper: FloatArray  # (stem,) upper ends
    level: float  # nominal coverage of each interval by itself

    def covers(self, weights: FloatArray) -> BoolArray:
        """Return True `(stem,)` where the interval contains the weight `(stem,)`."""
        return (self.lower <= weights) & (weights <= self.upper)


def weight_intervals(fit: RidgeFit, tracks: IntArray, *, level: float = 0.95) -> WeightIntervals:
    """Return cluster-robust intervals of the least-squares weights of all triplets.

    Residuals are divided by 1 - leverage (HC3; MacKinnon and White, Journal of Econometrics 29, 1985), the variance is
    multiplied by T / (T - 1) with T tracks, and quantiles are those of Student's t with T - 1 degrees of freedom.

    Args:
        fit: A fit to all triplets, without a subset axis, whose first penalty is 0.
        tracks: `(triplet, 3)` tracks of X, A and B (`Triplets.track_ids`).
        level: Nominal coverage.

    Raises:
        ConfigError: If the level does not lie between 0 and 1.
        TripletError: If there are too few triplets or tracks.
    """
    scores = influence(fit, tracks)
    error = np.where(fit.undetermined.numpy(), np.inf, np.sqrt(cluster_robust_variance(scores, tracks)))
    reach = interval_reach(level, len(np.unique(tracks))) * error
    weights = fit.weights[0].numpy()
    return WeightIntervals(weights, error, weights - reach, weights + reach, level)


def influence(fit: RidgeFit, tracks: IntArray) -> FloatArray:
    """Return the contribution of each triplet to the error of the least-squares weights, `(triplet, stem)` (HC3).

    Raises:
        TripletError: If there are too few triplets or tracks.
    """
    triplets, stems = fit.deltas.shape
    heard = len(np.unique(tracks))
    if triplets <= stems or heard < _FEWEST_TRACKS:
        raise TripletError(
            f"Standard errors of {stems} weights need more than {stems} triplets, of at least {_FEWEST_TRACKS} tracks; "
            f"got {triplets} triplets of {heard} tracks."
        )
    residual = fit.residual[0] / (1.0 - fit.leverage[0]).clamp(min=1e-6)
    influences: FloatArray = ((fit.deltas * residual.unsqueeze(1)) @ fit.inverse[0]).numpy()
    return influences
