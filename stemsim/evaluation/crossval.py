"""Cross-validation: agreement over many random splits, from sufficient statistics (paper, section 4)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from stemsim.evaluation.agreement import agreement_credit, ceiling_credit
from stemsim.evaluation.splits import Splits
from stemsim.regression import RidgeFit, fit_ridge, normal_equations
from stemsim.stems import StemLayout
from stemsim.triplets import TEST_TYPES, EmbeddedTriplets, Triplets
from stemsim.triplets.table import BoolArray, FloatArray, IntArray

ALPHAS: Final = tuple(float(alpha) for alpha in np.logspace(-3, 3, 20))
"""Ridge penalties tried by default."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitFits:
    """One model fitted to the train part of every split.

    Attributes:
        preference: `(split, triplet)` prediction of each split's fit for every triplet; `(1, triplet)` if all are the
            same.
        weights: `(split, stem)` stem weights; None where the model is not linear.
        alphas: `(split,)` penalties chosen; None where there are none.
    """

    preference: FloatArray
    weights: FloatArray | None = None
    alphas: FloatArray | None = None


class SplitModel(Protocol):
    """A model that can be fitted to the train parts of all splits at once."""

    @property
    def name(self) -> str:
        """Name of the model in tables."""

    def fit(self, embedded: EmbeddedTriplets, splits: Splits) -> SplitFits:
        """Fit the model to the train part of every split."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelScores:
    """Agreement of one model with the listeners on the test parts.

    Attributes:
        credit: `(split, triplet)` or `(1, triplet)` credit of the model on every triplet (`agreement_credit`); for the
            human ceiling, the mean credit of the answers to each.
        agreement: `(split, 1 + test type)` test agreement over all triplets, then by test type; NaN where a test part
            has no triplet of a type.
        weights: `(split, stem)` stem weights; None for the human ceiling and for nonlinear fusions.
        alphas: `(split,)` penalties chosen; None where there are none.
        predicts: Whether it is a model; the human ceiling is not.
    """

    name: str
    credit: FloatArray
    agreement: FloatArray
    weights: FloatArray | None = None
    alphas: FloatArray | None = None
    predicts: bool = True

    @property
    def slug(self) -> str:
        """Stable name for metric keys, such as `mix_cosine`; `ceiling` whoever the listeners were."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_") if self.predicts else "ceiling"

    @property
    def median_alpha(self) -> float:
        """Median penalty over the splits; NaN where there are none."""
        return math.nan if self.alphas is None else float(np.median(self.alphas))

    @property
    def mean(self) -> float:
        """Test agreement, mean over the splits: the figure in every table and sentence."""
        return known_mean(self.agreement[:, 0])


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Result of a cross-validation, with everything that it was computed from.

    Attributes:
        models: Scores of the human ceiling, the baselines and the fitted models, in this order.
        on_train: OLS (alpha 0, first) and ridge regression on every train part.
    """

    embedded: EmbeddedTriplets
    splits: Splits
    models: tuple[ModelScores, ...]
    on_train: RidgeFit

    @cached_property
    def on_all(self) -> RidgeFit:
        """The same as `on_train` on all triplets."""
        return fit_ridge(self.on_train.features, self.on_train.target, self.on_train.alphas)

    @cached_property
    def best_row(self) -> int:
        """Index in `on_train.alphas` of the ridge penalty with the highest mean R^2 on the test parts.

        Equal to the choice of scikit-learn's `RidgeCV(cv=splits, fit_intercept=False)`.
        """
        return held_out_r2(self.on_train, torch.from_numpy(self.splits.test), first=1)[1]

    @property
    def best_alpha(self) -> float:
        """The ridge penalty of `best_row`."""
        return float(self.on_train.alphas[self.best_row])

    @property
    def refit(self) -> FloatArray:
        """`(stem,)` weights fitted to all triplets with the penalty `best_alpha`."""
        weights: FloatArray = self.on_all.weights[self.best_row].numpy()
        return weights

    @property
    def stems(self) -> StemLayout:
        """Stem layout of all weights."""
        return self.embedded.stems

    @property
    def ceiling(self) -> ModelScores:
        """Agreement of one listener with the majority of the others, on the same test parts."""
        return self.models[0]

    def __getitem__(self, name: str) -> ModelScores:
        """Return the scores of a model by its name."""
        return {model.name: model for model in self.models}[name]

    def __contains__(self, name: str) -> bool:
        return any(model.name == name for model in self.models)

    def share_of_ceiling(self, model: ModelScores) -> float:
        """Return a model's mean agreement over that of the listeners on the same test parts; NaN without answers."""
        return model.mean / self.ceiling.mean if self.ceiling.mean else float("nan")


def cross_validate(
    embedded: EmbeddedTriplets,
    splits: Splits,
    models: Sequence[SplitModel] = (),
    *,
    alphas: Sequence[float] = ALPHAS,
) -> CrossValidation:
    """Fit and test models over random splits (paper, section 4).

    Compared are the human ceiling, the mix-only cosine, uniform weights, OLS, ridge regression with the penalty that
    leave-one-out chooses within each train part, and any further models.

    Args:
        embedded: The triplets, each with a majority.
        splits: Random splits of them.
        models: Further models: other losses and targets, nonlinear fusions, other priors.
        alphas: Ridge penalties to choose from.

    Raises:
        ConfigError: If a penalty is out of range.
        TripletError: If there are no triplets, or some have no majority.
    """
    triplets, stems = embedded.triplets, embedded.stems
    triplets.check()
    on_train, ridge, chosen = ridge_on_train(embedded, splits, tuple(alphas))
    rows = on_train.deltas.numpy()

    def linear(name: str, weights: FloatArray, alphas: FloatArray | None = None) -> ModelScores:
        """Score weights `(split, stem)`, or `(1, stem)` that are the same on every split."""
        broadcast = np.broadcast_to(weights, (len(splits), len(stems)))
        return score_fits(name, SplitFits(weights @ rows.T, broadcast, alphas), embedded, splits)

    scored = [_ceiling(triplets, splits)]
    if "mix" in stems:
        scored.append(linear("mix cosine", np.eye(len(stems))[[stems.index("mix")]]))
    scored += [
        linear("uniform weights", np.ones((1, len(stems)))),
        linear("OLS", on_train.weights[:, 0].numpy()),
        linear("ridge", ridge.numpy(), chosen.numpy()),
        *(score_fits(model.name, model.fit(embedded, splits), embedded, splits) for model in models),
    ]
    ridge_on_train.cache_clear()  # it holds the embeddings
    return CrossValidation(embedded, splits, tuple(scored), on_train)


@lru_cache(maxsize=1)  # within a cross-validation, models that start from ridge regression find it solved
def ridge_on_train(
    embedded: EmbeddedTriplets, splits: Splits, alphas: tuple[float, ...]
) -> tuple[RidgeFit, Tensor, Tensor]:
    """Fit OLS and ridge regression to the majorities of every train part.

    Returns:
        The fits with alpha 0 and then `alphas`; weights `(split, stem)` and penalty `(split,)` of ridge regression, the
        penalty being chosen by leave-one-out within each train part.
    """
    train = torch.from_numpy(splits.train)
    fit = fit_ridge(embedded.deltas, embedded.target(), [0.0, *alphas], counts=train)
    return (fit, *fit.best(first=1))


def held_out_r2(fit: RidgeFit, test: Tensor, *, first: int = 0) -> tuple[FloatArray, int]:
    """Score ridge regression with every penalty on the test parts.

    The squared error of a test part is y^T y - 2 w^T m + w^T G w in its sufficient statistics G and m, so that no
    prediction is computed.

    Args:
        fit: Fits to the train parts.
        test: `(split, triplet)` True where a triplet is tested on.
        first: Index of the first penalty to choose from.

    Returns:
        Coefficient of determination `(split, alpha)`, NaN on a test part of one class, and the index of the penalty
        with the highest mean.
    """
    held = normal_equations(fit.features, fit.target, test)
    quadratic = torch.einsum("kas,kst,kat->ka", fit.weights, held.gram, fit.weights)
    error = held.square[:, None] - 2.0 * torch.einsum("kas,ks->ka", fit.weights, held.moment) + quadratic
    spread = held.square - held.total.square() / held.size
    # A test part of one class has no spread: R^2 is not defined there, and such parts do not choose the penalty.
    r2 = torch.where(spread[:, None] > 0.0, 1.0 - error / spread[:, None].clamp(min=1e-300), torch.nan)
    mean = torch.nanmean(r2, dim=0)
    # Without any spread at all (same-song triplets: A is always right), the squared error alone decides.
    best = torch.where(mean.isnan(), -error.mean(dim=0), mean)[first:].argmax()
    return r2.numpy(), first + int(best)


def score_fits(name: str, fits: SplitFits, embedded: EmbeddedTriplets, splits: Splits) -> ModelScores:
    """Score a fitted model, with its name in tables, on the test parts of the splits that it was fitted to."""
    triplets = embedded.triplets
    credit = agreement_credit(fits.preference, triplets.preference)
    columns = [ratio(np.where(mask, credit, 0.0).sum(axis=1), mask.sum(axis=1)) for mask in _masks(triplets, splits)]
    return ModelScores(name, credit, np.stack(columns, axis=1), fits.weights, fits.alphas)


def _ceiling(triplets: Triplets, splits: Splits) -> ModelScores:
    """Score the listeners against each other; every answer counts once."""
    earned, answers = ceiling_credit(triplets.votes)
    columns = [ratio(mask @ earned, mask @ answers) for mask in _masks(triplets, splits)]
    name = "simulated ceiling" if triplets.simulated else "human ceiling"
    return ModelScores(name, ratio(earned, answers)[None], np.stack(columns, axis=1), predicts=False)


def _masks(triplets: Triplets, splits: Splits) -> list[BoolArray]:
    """Return the test mask `(split, triplet)` of all triplets, and of each test type."""
    return [splits.test, *(splits.test & (triplets.test_type == kind) for kind in TEST_TYPES)]


def known_mean(values: FloatArray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def ratio(numerator: FloatArray, denominator: FloatArray | IntArray) -> FloatArray:
    """Divide, giving NaN where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
