"""How far fitted weights are from the truth, and what they are worth on held-out triplets.

In each experiment the true weights are the paper's (Table 4), each times a lognormal factor of its own. Weights are
compared up to scale, as votes say which candidate is closer and not by how much: by the angle between them, whose sine
is the relative error that the best scale leaves.

| method | weights |
|---|---|
| OLS | least squares on the majority choice |
| ridge | shrunk towards 0 |
| prior-ridge | shrunk towards the paper's weights, at the scale that fits the votes best |
| wrong prior | the same towards the paper's weights in reverse order of stems: a prior that is wrong |

Penalties are chosen by leave-one-out among those of the cross-validation.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from stemsim.evaluation.agreement import agreement_credit, ceiling_credit
from stemsim.evaluation.crossval import ALPHAS
from stemsim.evaluation.study.listeners import Hearing, Scale, felt, hear
from stemsim.evaluation.study.needed import needed_triplets
from stemsim.evaluation.study.settings import WORKERS, StudySettings
from stemsim.evaluation.study.songs import draw
from stemsim.regression import NormalEquations, solve_ridge

__all__ = ["FITTED", "Recovery", "RidgeBatch", "angles", "recover_weights", "scaled_prior"]

FITTED: Final = ("OLS", "ridge", "prior-ridge", "wrong prior")

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Recovery(NamedTuple):
    """What fitted weights are worth, and how many triplets they need.

    Attributes:
        figures: One row for each combination and model: quartiles of the angle to the true weights (degrees) over the
            experiments, mean and standard deviation of held-out agreement with the majority, and the median penalty;
            NaN where a model has none. The ceiling is leave-one-listener-out, of the same held-out triplets.
        needed: One row for each method, number of votes and noise: triplets from which on its median angle is small,
            and the ends of the 95 % interval; infinite where none that was tried is enough.
    """

    figures: pd.DataFrame
    needed: pd.DataFrame


class RidgeBatch:
    """Ridge regression of many experiments at once, with the penalty of least leave-one-out error in each.

    What depends on the stem features alone is computed once, so that many votes can be fitted to the same triplets. For
    one experiment, equal to `leave_one_out_alpha` and `ridge_weights`.

    Args:
        deltas: `(experiment, triplet, stem)` stem features.
        alphas: Penalties to choose from.
    """

    def __init__(self, deltas: Tensor, alphas: tuple[float, ...] = ALPHAS) -> None:
        self.deltas = deltas.double()
        self.alphas = torch.tensor(alphas, dtype=torch.float64)
        self.gram = self.deltas.mT @ self.deltas
        values, self._vectors = torch.linalg.eigh(self.gram)
        self._gain = 1.0 / (values.clamp(min=0.0)[:, None] + self.alphas[:, None]).clamp(min=1e-12)
        self._rotated = self.deltas @ self._vectors  # (experiment, triplet, stem)
        hat = self._rotated.square() @ self._gain.mT  # (experiment, triplet, alpha)
        self._left_out = 1.0 / (1.0 - hat).clamp(min=1e-12)

    def equations(self, target: Tensor) -> NormalEquations:
        """Return the sufficient statistics of all triplets, for targets `(experiment, triplet)`."""
        moment = torch.einsum("ens,en->es", self.deltas, target)
        size = torch.full((len(target),), float(target.shape[1]), dtype=torch.float64)
        return NormalEquations(self.gram, moment, size, target.square().sum(dim=1), target.sum(dim=1))

    def least_squares(self, target: Tensor) -> Tensor:
        """Fit without a penalty: weights `(experiment, stem)`."""
        return solve_ridge(self.equations(target), torch.zeros(1))[:, 0]

    def ridge(self, target: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fit with the penalty of least leave-one-out error.

        Args:
            target: `(experiment, triplet)` preferences.
            prior: `(experiment, stem)` weights to shrink towards; default 0.

        Returns:
            Weights `(experiment, stem)`, and penalties `(experiment,)`.
        """
        left = target if prior is None else target - torch.einsum("ens,es->en", self.deltas, prior)
        moment = torch.einsum("ens,en->es", self._rotated, left)
        predicted = self._rotated @ (self._gain * moment[:, None]).mT  # (experiment, triplet, alpha)
        error = ((left.unsqueeze(-1) - predicted) * self._left_out).square().sum(dim=1)
        chosen = error.argmin(dim=1)
        weights = solve_ridge(self.equations(target), self.alphas, prior=prior)
        return weights[torch.arange(len(chosen)), chosen], self.alphas[chosen]


def scaled_prior(equations: NormalEquations, weights: Tensor) -> Tensor:
    """Scale prior weights `(stem,)` to the votes of each experiment, by least squares: `(experiment, stem)`."""
    power = torch.einsum("s,est,t->e", weights, equations.gram, weights)
    scale = (equations.moment @ weights) / power.clamp(min=1e-300)
    return scale.unsqueeze(-1) * weights


def angles(weights: FloatArray, truth: FloatArray) -> FloatArray:
    """Return the angles `(...)` between weights and true weights `(..., stem)`, in degrees; 90 where all are 0."""
    size = np.linalg.norm(weights, axis=-1) * np.linalg.norm(truth, axis=-1)
    cosine = np.divide((weights * truth).sum(axis=-1), size, out=np.zeros(np.shape(size)), where=size > 0.0)
    degrees: FloatArray = np.degrees(np.arccos(cosine.clip(-1.0, 1.0)))
    return degrees


def recover_weights(settings: StudySettings, scale: Scale, advance: Callable[[int], None]) -> Recovery:
    """Fit weights for every number of triplets and votes, and every noise, and test them on triplets of other songs.

    Args:
        settings: What is tried.
        scale: What linear listeners feel.
        advance: Told the number of triplets done.

    Returns:
        Weight error, held-out agreement, and triplets needed.
    """
    rng = settings.generator("truths")
    factors = np.exp(settings.prior_spread * rng.standard_normal((settings.experiments, len(settings.songs.stems))))
    truth = settings.paper_weights * factors
    held_out = _Experiments(settings, scale, truth, settings.held_out, "held-out")
    paper = torch.from_numpy(settings.paper_weights)

    def recover(count: int) -> tuple[list[dict[str, Any]], FloatArray]:
        train = _Experiments(settings, scale, truth, count, "train")
        batch = RidgeBatch(torch.from_numpy(train.deltas))
        rows: list[dict[str, Any]] = []
        errors = []
        for noise, votes in settings.conditions:
            fitted = _fit(batch, train.majority(noise, votes), paper)
            place = {"triplets": count, "votes": votes, "noise": noise}
            rows += [place | row for row in _score(fitted, truth, held_out, noise, votes, settings)]
            errors.append([angles(weights, truth) for weights, _ in fitted.values()])
        advance(count)
        return rows, np.array(errors)  # (condition, method, experiment)

    with ThreadPoolExecutor(WORKERS) as pool:  # the largest first, so that nobody waits for it
        parts = list(pool.map(recover, reversed(settings.triplets)))[::-1]
    figures = pd.DataFrame([row for rows, _ in parts for row in rows])
    return Recovery(figures, _needed(settings, np.stack([errors for _, errors in parts])))


def _needed(settings: StudySettings, errors: FloatArray) -> pd.DataFrame:
    """Return the triplets needed, from angles `(size, condition, method, experiment)`."""
    rows = []
    for condition, (noise, votes) in enumerate(settings.conditions):
        for method, name in enumerate(FITTED):
            found = needed_triplets(settings.triplets, errors[:, condition, method], seed=settings.seed)
            ends = {"needed": found.value, "lower": found.lower, "upper": found.upper, "text": str(found)}
            rows.append({"model": name, "votes": votes, "noise": noise} | ends)
    return pd.DataFrame(rows)


class _Experiments:
    """Triplets of many experiments, and what their listeners feel."""

    def __init__(self, settings: StudySettings, scale: Scale, truth: FloatArray, count: int, part: str) -> None:
        rng = settings.generator(part, count)
        drawn = draw(settings.songs, len(truth), count, rng)
        self.deltas = drawn.deltas
        features = felt(drawn, "linear", settings.songs.stems)
        self.hearing: Hearing = hear(features, truth, scale, settings.listeners, max(settings.votes), rng)

    def majority(self, noise: float, votes: int) -> IntArray:
        """Return the majority choices `(experiment, triplet)`, +1 = A and -1 = B."""
        counts = self.hearing.votes(noise, votes)
        return np.sign(counts[..., 0] - counts[..., 1])


def _fit(batch: RidgeBatch, majority: IntArray, paper: Tensor) -> dict[str, tuple[FloatArray, float]]:
    """Return the weights `(experiment, stem)` of every method, and its median penalty."""
    target = torch.from_numpy(majority).double()
    equations = batch.equations(target)
    priors = {"prior-ridge": paper, "wrong prior": paper.flip(0)}
    fitted = {"OLS": (batch.least_squares(target).numpy(), 0.0)}
    for name in FITTED[1:]:
        prior = scaled_prior(equations, priors[name]) if name in priors else None
        weights, alphas = batch.ridge(target, prior)
        fitted[name] = (weights.numpy(), float(alphas.median()))
    return fitted


def _score(
    fitted: Mapping[str, tuple[FloatArray, float]],
    truth: FloatArray,
    held_out: _Experiments,
    noise: float,
    votes: int,
    settings: StudySettings,
) -> list[dict[str, Any]]:
    """Return a row for each model, the ceiling first."""
    stems = settings.songs.stems
    counts = held_out.hearing.votes(noise, votes)
    majority = np.sign(counts[..., 0] - counts[..., 1])
    credit, answers = ceiling_credit(counts.reshape(-1, 2))
    shape = majority.shape
    total = answers.reshape(shape).sum(axis=1)
    ceiling = np.divide(credit.reshape(shape).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0.0)
    rows = [{"model": "simulated ceiling", **_agreement(ceiling), "alpha": np.nan, **_angles(None)}]
    baselines = {
        "mix cosine": np.eye(len(stems))[[stems.index("mix")]],
        "uniform weights": np.ones((1, len(stems))),
        "paper's weights": settings.paper_weights[None],
    }
    models = {name: (np.broadcast_to(weights, truth.shape), np.nan) for name, weights in baselines.items()}
    for name, (weights, alpha) in {**models, **fitted, "true weights": (truth, np.nan)}.items():
        preference = np.einsum("ens,es->en", held_out.deltas, weights)
        agreed = agreement_credit(preference, majority).mean(axis=1)
        rows.append({"model": name, **_agreement(agreed), "alpha": alpha, **_angles(angles(weights, truth))})
    return rows


def _agreement(values: FloatArray) -> dict[str, float]:
    """Return mean and standard deviation over the experiments; NaN where there is none (one vote has no others)."""
    return {"agreement": float(values.mean()), "agreement_std": float(values.std(ddof=1))}


def _angles(values: FloatArray | None) -> dict[str, float]:
    names = ("angle", "angle_lower", "angle_upper")
    if values is None:
        return dict.fromkeys(names, np.nan)
    return dict(zip(names, np.quantile(values, [0.5, 0.25, 0.75]).tolist(), strict=True))
