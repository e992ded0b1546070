"""How sure the stem weights are: intervals by bootstrap over tracks, by Bayesian ridge, and by least squares.

| method | sees that triplets share tracks | believes |
|---|---|---|
| `bootstrap_intervals` | yes | tracks are a sample |
| `cluster_intervals` | yes | the same, and errors of the weights are near normal |
| `bayesian_intervals` | no | the linear model with independent normal noise, and a normal prior |
| `least_squares_intervals` | no | the linear model with independent noise of one variance |

The first two are about the weights that least squares would find with endless tracks of the same kind, whether or not
listeners are linear; the other two are too narrow where tracks have a say of their own.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import norm
from scipy.stats import t as student_t
from torch import Tensor

from stemsim.errors import ConfigError, TripletError
from stemsim.evaluation.penalty import evidence_alpha
from stemsim.evaluation.pigeonhole import replicate_weights, shared_variance
from stemsim.regression import normal_equations, solve_ridge
from stemsim.stems import StemLayout

__all__ = [
    "Noise",
    "WeightIntervals",
    "bayesian_intervals",
    "bootstrap_intervals",
    "cluster_intervals",
    "least_squares_intervals",
    "weight_intervals",
]

Noise = Literal["integrated", "evidence", "residual"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class WeightIntervals:
    """An interval for the weight of each stem.

    Attributes:
        method: How the intervals were found.
        stems: Stem layout.
        estimate: `(stem,)` weights fitted to all triplets.
        standard_error: `(stem,)` standard error, or posterior standard deviation; infinite where the triplets say
            nothing about a weight.
        lower: `(stem,)` lower ends.
        upper: `(stem,)` upper ends.
        level: Nominal coverage of each interval by itself.
        alpha: Ridge penalty of the estimate; 0 is ordinary least squares.
    """

    method: str
    stems: StemLayout
    estimate: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    level: float
    alpha: float

    def __post_init__(self) -> None:
        """Verify the level, and that there is one number a stem."""
        if not 0.0 < self.level < 1.0:
            msg = f"The level of an interval lies in (0, 1), e.g. 0.95; got {self.level}."
            raise ConfigError(msg)
        sizes = {len(values) for values in (self.stems, self.estimate, self.standard_error, self.lower, self.upper)}
        if len(sizes) != 1:
            msg = f"An interval needs one number a stem ({', '.join(self.stems)}); got lengths {sorted(sizes)}."
            raise ConfigError(msg)

    def covers(self, weights: FloatArray) -> BoolArray:
        """Return which intervals `(stem,)` hold some weights `(stem,)`."""
        return (self.lower <= weights) & (weights <= self.upper)

    def frame(self) -> pd.DataFrame:
        """Return one row a stem."""
        return pd.DataFrame(
            {
                "stem": self.stems,
                "weight": self.estimate,
                "standard error": self.standard_error,
                "lower": self.lower,
                "upper": self.upper,
                "method": self.method,
            }
        )


class _Fit(NamedTuple):
    """Ridge regression on all triplets, and what every interval needs of it."""

    rows: FloatArray  # (triplet, stem)
    target: FloatArray  # (triplet,)
    weights: FloatArray  # (stem,)
    inverse: FloatArray  # (stem, stem) of the Gram matrix plus alpha, without directions that nothing determines
    open: BoolArray  # (stem,) weights that the triplets leave open
    rank: int
    residual: FloatArray  # (triplet,)
    leverage: FloatArray  # (triplet,)


def weight_intervals(
    deltas: Tensor,
    target: Tensor,
    tracks: IntArray,
    stems: StemLayout,
    *,
    alpha: float = 0.0,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[WeightIntervals, ...]:
    """Find the intervals of all methods, so that they can be shown side by side.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences: +1 = A, -1 = B, or shares in between.
        tracks: `(triplet, 3)` the tracks of X, A and B (`Triplets.track_ids`).
        stems: Stem layout of `deltas`.
        alpha: Ridge penalty of the first three; the last is always ordinary least squares.
        replicates: Number of bootstrap replicates.
        level: Nominal coverage.
        seed: Seed of the bootstrap.

    Returns:
        Bootstrap, cluster-robust, Bayesian, and ordinary least squares.
    """
    return (
        bootstrap_intervals(deltas, target, tracks, stems, alpha=alpha, replicates=replicates, level=level, seed=seed),
        cluster_intervals(deltas, target, tracks, stems, alpha=alpha, level=level),
        bayesian_intervals(deltas, target, stems, alpha=alpha, level=level),
        least_squares_intervals(deltas, target, stems, level=level),
    )


def bootstrap_intervals(
    deltas: Tensor,
    target: Tensor,
    tracks: IntArray,
    stems: StemLayout,
    *,
    alpha: float = 0.0,
    replicates: int = 2000,
    level: float = 0.95,
    deflate: bool = True,
    seed: int = 0,
) -> WeightIntervals:
    """Resample the tracks by the pigeonhole bootstrap, and refit every replicate.

    A triplet weighs the product of how often its distinct tracks were drawn (Owen 2007). All replicates are weighted
    normal equations, solved at once. The bootstrap counts noise that is private to a triplet 2^r - 1 times, r being the
    number of its tracks; with few triplets a track, as in any listening test, its intervals are twice too wide. So the
    replicates are drawn in towards the estimate until the spread of each weight is the standard error that counts
    every pair of triplets once (that of `cluster_intervals`): the bootstrap gives the shape, the sandwich the width.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        tracks: `(triplet, 3)` the tracks of X, A and B (`Triplets.track_ids`).
        stems: Stem layout of `deltas`.
        alpha: Ridge penalty, the same in every replicate.
        replicates: Number of replicates.
        level: Nominal coverage.
        deflate: Draw the replicates in; False gives Owen's conservative interval.
        seed: Seed of the draw.

    Returns:
        Percentile intervals.

    Raises:
        TripletError: If there are fewer than three tracks, or too few triplets.
        ConfigError: If a setting is out of range.
    """
    fit = _fit(deltas, target, alpha)
    _check_tracks(tracks, len(fit.rows))
    if replicates < 2:  # noqa: PLR2004 - a spread needs two
        msg = f"A bootstrap needs at least 2 replicates, better 1000; got {replicates}."
        raise ConfigError(msg)
    penalty = torch.tensor([alpha], dtype=torch.float64)
    refits, sizes = [], []
    for weights in replicate_weights([tracks], replicates, np.random.default_rng(seed)):
        equations = normal_equations(deltas, target, torch.from_numpy(weights))
        refits.append(solve_ridge(equations, penalty)[:, 0].numpy())
        sizes.append(equations.size.numpy())
    drawn = np.concatenate(refits)[np.concatenate(sizes) > 0.0]  # a draw may miss every triplet of very few tracks
    if deflate:
        # Half the distance between the quantiles at one standard deviation: a few wild refits would spoil a variance.
        spread = 0.5 * np.diff(np.quantile(drawn, norm.cdf([-1.0, 1.0]), axis=0), axis=0)[0]
        error = _robust_error(fit, tracks, alpha)
        drawn = fit.weights + np.divide(error, spread, out=np.zeros_like(error), where=spread > 0) * (
            drawn - fit.weights
        )
    tail = 0.5 - 0.5 * level
    lower, upper = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
    name = "track bootstrap" if deflate else "pigeonhole bootstrap"
    return _intervals(name, stems, fit, drawn.std(axis=0, ddof=1), lower, upper, level=level, alpha=alpha)


def cluster_intervals(
    deltas: Tensor,
    target: Tensor,
    tracks: IntArray,
    stems: StemLayout,
    *,
    alpha: float = 0.0,
    level: float = 0.95,
) -> WeightIntervals:
    """Take the sandwich estimate that is robust to triplets that share tracks.

    Every pair of triplets with a track in common may be correlated in any way (Cameron, Gelbach and Miller 2011;
    Aronow, Samii and Assenova 2015). Residuals are divided by 1 - leverage (HC3; MacKinnon and White, Journal of
    Econometrics 29, 1985), the variance is multiplied by T / (T - 1) with T tracks, and quantiles are those of
    Student's t with T - 1 degrees of freedom.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        tracks: `(triplet, 3)` the tracks of X, A and B (`Triplets.track_ids`).
        stems: Stem layout of `deltas`.
        alpha: Ridge penalty.
        level: Nominal coverage.

    Returns:
        Intervals symmetric about the estimate.

    Raises:
        TripletError: If there are fewer than three tracks, or too few triplets.
    """
    fit = _fit(deltas, target, alpha)
    _check_tracks(tracks, len(fit.rows))
    error = _robust_error(fit, tracks, alpha)
    reach = float(student_t.ppf(0.5 + 0.5 * level, len(np.unique(tracks)) - 1)) * error
    lower, upper = fit.weights - reach, fit.weights + reach
    return _intervals("cluster-robust", stems, fit, error, lower, upper, level=level, alpha=alpha)


def least_squares_intervals(
    deltas: Tensor, target: Tensor, stems: StemLayout, *, level: float = 0.95
) -> WeightIntervals:
    """Take the t-intervals of ordinary least squares, which hold triplets for independent.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        stems: Stem layout of `deltas`.
        level: Nominal coverage.

    Returns:
        Intervals symmetric about the estimate.

    Raises:
        TripletError: If there are no more triplets than stems.
    """
    fit = _fit(deltas, target, 0.0)
    freedom = len(fit.rows) - fit.rank
    error = np.sqrt(np.diag(fit.inverse) * np.square(fit.residual).sum() / freedom)
    reach = float(student_t.ppf(0.5 + 0.5 * level, freedom)) * error
    lower, upper = fit.weights - reach, fit.weights + reach
    return _intervals("least squares", stems, fit, error, lower, upper, level=level, alpha=0.0)


def bayesian_intervals(
    deltas: Tensor,
    target: Tensor,
    stems: StemLayout,
    *,
    alpha: float | None = None,
    noise: Noise = "integrated",
    level: float = 0.95,
) -> WeightIntervals:
    """Take the exact posterior of Bayesian ridge regression.

    With y | w ~ N(D w, s^2 I) and w ~ N(0, s^2 / alpha I), the posterior mean is the ridge solution m, and

    - `integrated`: with the prior 1 / s^2 of the noise variance, the posterior is Student's t with n degrees of
      freedom and scale matrix (y^T y - y^T D m) / n (D^T D + alpha I)^-1 (O'Hagan and Forster, Kendall's Advanced
      Theory of Statistics 2B, 2004, chapter 11). With alpha = 0 these are the t-intervals of least squares.
    - `evidence`: normal, with the s^2 of largest marginal likelihood, (y^T y - y^T D m) / n.
    - `residual`: normal, with s^2 the squared residuals over n less the effective number of weights.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        stems: Stem layout of `deltas`.
        alpha: Ridge penalty: ratio of the noise's variance to that of the weights; None: the one of largest marginal
            likelihood, as in scikit-learn's `BayesianRidge` without hyperpriors.
        noise: What is done about the noise's variance.
        level: Posterior probability of each interval.

    Returns:
        Credible intervals, symmetric about the ridge solution.

    Raises:
        ConfigError: If the penalty is negative.
        TripletError: If there are no more triplets than stems.
    """
    chosen = evidence_alpha(deltas, target) if alpha is None else alpha
    fit = _fit(deltas, target, chosen)
    count = len(fit.rows)
    quadratic = float(fit.target @ fit.residual)  # y^T y - y^T D m
    if noise == "residual":
        freedom = count - float(fit.leverage.sum())
        variance = float(np.square(fit.residual).sum()) / freedom
    else:
        # An improper prior, where alpha = 0, costs as many degrees of freedom as there are weights.
        freedom = count - fit.rank if chosen == 0.0 else count
        variance = quadratic / freedom
    tail = 0.5 + 0.5 * level
    reach = float(student_t.ppf(tail, freedom) if noise == "integrated" else norm.ppf(tail))
    scale = np.sqrt(np.diag(fit.inverse) * variance)
    spread = freedom / (freedom - 2.0) if noise == "integrated" and freedom > 2.0 else 1.0  # noqa: PLR2004
    lower, upper = fit.weights - reach * scale, fit.weights + reach * scale
    deviation = scale * np.sqrt(spread)
    if chosen > 0.0:  # where the triplets say nothing, the prior does
        fit = fit._replace(open=np.zeros_like(fit.open))
    return _intervals("Bayesian ridge", stems, fit, deviation, lower, upper, level=level, alpha=chosen)


def _fit(deltas: Tensor, target: Tensor, alpha: float) -> _Fit:
    """Fit ridge regression to all triplets."""
    rows, wanted = deltas.double().numpy(), target.double().numpy()
    count, stems = rows.shape
    if count <= stems:
        msg = f"Intervals for {stems} weights need more than {stems} triplets; got {count}."
        raise TripletError(msg)
    equations = normal_equations(deltas, target, torch.ones(1, count, dtype=torch.bool))
    weights = solve_ridge(equations, torch.tensor([alpha], dtype=torch.float64))[0, 0].numpy()
    values, vectors = np.linalg.eigh(equations.gram[0].numpy())
    shrunk = values + alpha
    rounding = max(stems * count * np.finfo(np.float64).eps * values[-1], 1e-300)  # as in solve_ridge
    known = shrunk > rounding
    gain = np.divide(1.0, shrunk, out=np.zeros(stems), where=known)
    inverse = (vectors * gain) @ vectors.T
    return _Fit(
        rows=rows,
        target=wanted,
        weights=weights,
        inverse=inverse,
        open=(np.square(vectors[:, values <= rounding]).sum(axis=1) > 1e-9),  # noqa: PLR2004 - rounding
        rank=int(known.sum()),
        residual=wanted - rows @ weights,
        leverage=np.einsum("ts,sr,tr->t", rows, inverse, rows),
    )


def _robust_error(fit: _Fit, tracks: IntArray, alpha: float) -> FloatArray:
    """Return standard errors `(stem,)` of the weights that are robust to triplets that share tracks."""
    residual = fit.residual / (1.0 - fit.leverage).clip(min=1e-6)
    scores = fit.rows * residual[:, None] - alpha * fit.weights / len(fit.rows)
    count = len(np.unique(tracks))
    error: FloatArray = np.sqrt(shared_variance(scores @ fit.inverse, [tracks]).robust * count / (count - 1.0))
    return error


def _check_tracks(tracks: IntArray, triplets: int) -> None:
    if len(tracks) != triplets or len(np.unique(tracks)) < 3:  # noqa: PLR2004 - a triplet has up to three
        msg = (
            f"Resampling tracks needs the tracks of all {triplets} triplets, at least 3 of them distinct; got "
            f"{len(tracks)} rows and {len(np.unique(tracks))} tracks. Use `Triplets.track_ids`."
        )
        raise TripletError(msg)


def _intervals(
    method: str,
    stems: StemLayout,
    fit: _Fit,
    error: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    *,
    level: float,
    alpha: float,
) -> WeightIntervals:
    """Return intervals, endless where the triplets say nothing about a weight."""
    return WeightIntervals(
        method=method,
        stems=tuple(stems),
        estimate=fit.weights,
        standard_error=np.where(fit.open, np.inf, error),
        lower=np.where(fit.open, -np.inf, lower),
        upper=np.where(fit.open, np.inf, upper),
        level=level,
        alpha=alpha,
    )
