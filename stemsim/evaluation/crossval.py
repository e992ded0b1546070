"""The paper's protocol: agreement over many random splits, from sufficient statistics, without a loop over splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation.agreement import agreement_credit, ceiling_credit
from stemsim.evaluation.splits import PARTS, SplitKind, split_triplets
from stemsim.regression import NormalEquations, normal_equations, solve_ridge
from stemsim.stems import StemLayout
from stemsim.triplets import TEST_TYPES, Triplets

__all__ = [
    "ALPHAS",
    "Challenger",
    "CrossValidation",
    "ModelScores",
    "RidgePath",
    "SplitFits",
    "cross_validate",
    "leave_one_out_alpha",
    "ridge_path",
]

ALPHAS: Final = tuple(float(alpha) for alpha in np.logspace(-3, 3, 20))
"""Ridge penalties tried by default."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_ELEMENTS_AT_ONCE: Final = 2_000_000  # of float64: 16 MB, which is faster than more


@dataclass(frozen=True, slots=True, eq=False)
class SplitFits:
    """A model fitted to the train part of every split.

    Attributes:
        preference: `(split, triplet)` what each split's fit predicts of every triplet.
        weights: `(split, stem)` stem weights; None where the model is not linear.
        alphas: `(split,)` ridge penalties chosen; None where there are none.
    """

    preference: FloatArray
    weights: FloatArray | None = None
    alphas: FloatArray | None = None


Challenger = Callable[[BoolArray], Mapping[str, SplitFits]]
"""Fits models to the train parts `(split, triplet)` of all splits, and names them for the table."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelScores:
    """How one model did on the test parts.

    Attributes:
        name: What the table calls it.
        agreement: `(split, 1 + test type)` test agreement over all triplets, then by test type; NaN where a test part
            has none of a type.
        weights: `(split, stem)` its weights; None where there are none (the human ceiling, nonlinear fusions).
        alphas: `(split,)` ridge penalties chosen; None where there are none.
        preference: `(split, triplet)` what it predicts, where that does not follow from weights; otherwise None.
    """

    name: str
    agreement: FloatArray
    weights: FloatArray | None = None
    alphas: FloatArray | None = None
    preference: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RidgePath:
    """Ridge regression over splits and penalties, as scikit-learn's `RidgeCV(cv=splits)` does it.

    Attributes:
        alphas: `(alpha,)` penalties.
        r2: `(split, alpha)` coefficient of determination on the test parts.
        best_alpha: The penalty with the highest mean over the splits.
        weights: `(stem,)` weights fitted to all triplets with it.
    """

    alphas: FloatArray
    r2: FloatArray
    best_alpha: float
    weights: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """Result of a cross-validation.

    Attributes:
        stems: Stem layout of all weights.
        source: What the triplets are.
        simulated: Whether the listeners were simulated.
        triplets: Number of triplets.
        kind: Kind of the splits.
        train_fraction: Share of the triplets (or tracks) to train on.
        seed: Seed of the splits.
        test_size: `(split,)` triplets in each test part.
        models: Scores of the human ceiling, the baselines and the fits.
        path: Ridge over all penalties, and the weights fitted to all triplets.
    """

    stems: StemLayout
    source: str
    simulated: bool
    triplets: int
    kind: SplitKind
    train_fraction: float
    seed: int
    test_size: npt.NDArray[np.int64]
    models: tuple[ModelScores, ...]
    path: RidgePath

    def share_of_ceiling(self, model: ModelScores) -> float:
        """Return a model's mean agreement over that of the listeners on the same test parts; NaN without answers."""
        ceiling = self.models[0].agreement[:, 0]
        known = ceiling[~np.isnan(ceiling)]
        return float(np.nanmean(model.agreement[:, 0]) / known.mean()) if len(known) and known.any() else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists, ready for JSON; NaN becomes None."""
        return {
            "source": self.source,
            "simulated": self.simulated,
            "stems": list(self.stems),
            "triplets": self.triplets,
            "splits": {
                "kind": self.kind,
                "count": len(self.test_size),
                "train_fraction": self.train_fraction,
                "seed": self.seed,
                "mean_test_size": float(self.test_size.mean()),
            },
            "models": {model.name: self._model_dict(model) for model in self.models},
            "refit": {
                "alpha": self.path.best_alpha,
                "weights": dict(zip(self.stems, self.path.weights.tolist(), strict=True)),
            },
        }

    def _model_dict(self, model: ModelScores) -> dict[str, Any]:
        columns = dict(zip(("all", *TEST_TYPES), model.agreement.T, strict=True))
        entry: dict[str, Any] = {
            "agreement": {name: _mean_and_deviation(values) for name, values in columns.items()},
            "agreement_by_split": _nan_to_none(columns["all"]),
            "share_of_ceiling": _nan_to_none(np.array([self.share_of_ceiling(model)]))[0],
        }
        if model.weights is not None:
            entry["weights"] = {
                stem: _mean_and_deviation(values) for stem, values in zip(self.stems, model.weights.T, strict=True)
            }
        if model.alphas is not None:
            entry["median_alpha"] = float(np.median(model.alphas))
        return entry


def cross_validate(
    deltas: Tensor,
    triplets: Triplets,
    stems: StemLayout,
    *,
    count: int = 100,
    train_fraction: float = 0.7,
    kind: SplitKind = "stratified",
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    challengers: Sequence[Challenger] = (),
) -> CrossValidation:
    """Fit and test stem weights over many random splits (paper, section 4).

    Compared are the human ceiling, the mix-only cosine, uniform weights, OLS, and ridge with the penalty that
    leave-one-out chooses within each train part.

    Args:
        deltas: `(triplet, stem)` stem features.
        triplets: The triplets, each with a majority.
        stems: Stem layout of `deltas`.
        count: Number of splits.
        train_fraction: Share of the triplets (or, grouped, of the tracks) to train on; the rest is tested.
        kind: `stratified` as in the paper, or `grouped` so that no track is on both sides.
        alphas: Ridge penalties to choose from.
        seed: Seed of the splits.
        challengers: Further models, fitted to the same splits: nonlinear fusions, other losses.

    Returns:
        Agreement and weights of every model on every split; the ceiling comes first.

    Raises:
        ConfigError: If the settings are out of range.
        SplitError: If a split leaves its train or test part empty.
        TripletError: If some triplets have no majority.
    """
    if count < 1 or not 0.0 < train_fraction < 1.0 or not alphas:
        msg = (
            "Cross-validation needs at least one split, a train fraction between 0 and 1 and a penalty; got "
            f"{count}, {train_fraction} and {list(alphas)}."
        )
        raise ConfigError(msg)
    if tied := int((triplets.preference == 0).sum()):
        msg = f"{tied} of {len(triplets)} triplets have no majority. Filter the table first (Triplets.filter)."
        raise TripletError(msg)
    parts = split_triplets(triplets, (train_fraction, 0.0, 1.0 - train_fraction), kind=kind, count=count, seed=seed)
    train, test = parts == PARTS.index("train"), parts == PARTS.index("test")
    _check_not_empty(train, test, kind)
    target = torch.from_numpy(triplets.preference).double()
    equations = normal_equations(deltas, target, torch.from_numpy(train))
    penalties = torch.tensor(list(alphas), dtype=torch.float64)
    ols = solve_ridge(equations, torch.zeros(1))[:, 0]
    ridge_alphas = leave_one_out_alpha(deltas, target, torch.from_numpy(train), penalties)
    chosen = (penalties == ridge_alphas.unsqueeze(1)).double().argmax(dim=1)
    ridge = solve_ridge(equations, penalties)[torch.arange(count), chosen]
    scorer = _Scorer(deltas.double().numpy(), triplets, test)
    models = [scorer.ceiling()]
    if "mix" in stems:
        models.append(scorer.model("mix cosine", np.eye(len(stems))[[stems.index("mix")]]))
    models.append(scorer.model("uniform weights", np.ones((1, len(stems)))))
    models.append(scorer.model("OLS", ols.numpy()))
    models.append(scorer.model("ridge", ridge.numpy(), ridge_alphas.numpy()))
    for challenger in challengers:
        models += [scorer.fits(name, fits) for name, fits in challenger(train).items()]
    return CrossValidation(
        stems=tuple(stems),
        source=triplets.source,
        simulated=triplets.simulated,
        triplets=len(triplets),
        kind=kind,
        train_fraction=train_fraction,
        seed=seed,
        test_size=test.sum(axis=1),
        models=tuple(models),
        path=ridge_path(deltas, target, torch.from_numpy(train), torch.from_numpy(test), penalties, equations),
    )


def ridge_path(
    deltas: Tensor,
    target: Tensor,
    train: Tensor,
    test: Tensor,
    alphas: Tensor,
    train_equations: NormalEquations | None = None,
) -> RidgePath:
    """Fit ridge regression to every train part with every penalty, and score it on the test parts.

    Equal to scikit-learn's `RidgeCV(alphas, cv=splits, fit_intercept=False)`, but the squared error of a test part is
    y^T y - 2 w^T m + w^T G w in its sufficient statistics G and m, so that no prediction is ever computed.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        train: `(split, triplet)` True where a triplet is trained on.
        test: `(split, triplet)` True where it is tested on.
        alphas: `(alpha,)` penalties.
        train_equations: The statistics of the train parts, where they are known already.

    Returns:
        Scores of all penalties, the best one, and the weights it gives on all triplets.
    """
    fitted = solve_ridge(train_equations or normal_equations(deltas, target, train), alphas)  # (split, alpha, stem)
    held = normal_equations(deltas, target, test)
    quadratic = torch.einsum("kas,kst,kat->ka", fitted, held.gram, fitted)
    error = held.square[:, None] - 2.0 * torch.einsum("kas,ks->ka", fitted, held.moment) + quadratic
    spread = held.square - held.total.square() / held.size
    # A test part of one class has no spread: R^2 is not defined there, and such parts do not choose the penalty.
    r2 = torch.where(spread[:, None] > 0.0, 1.0 - error / spread[:, None].clamp(min=1e-300), torch.nan)
    mean = torch.nanmean(r2, dim=0)
    # Without any spread at all (same-song triplets: A is always right), the squared error alone decides.
    best = int(torch.where(mean.isnan(), -error.mean(dim=0), mean).argmax())
    everything = normal_equations(deltas, target, torch.ones(1, len(target), dtype=torch.bool))
    weights = solve_ridge(everything, alphas[best : best + 1])[0, 0]
    return RidgePath(alphas.numpy(), r2.numpy(), float(alphas[best]), weights.numpy())


def leave_one_out_alpha(deltas: Tensor, target: Tensor, train: Tensor, alphas: Tensor) -> Tensor:
    """Choose a ridge penalty for each train part by its leave-one-out squared error.

    The error of a left-out triplet is (y - y_hat) / (1 - h) with the hat value h = z^T (G + alpha I)^-1 z (Golub, Heath
    and Wahba 1979), so nothing is fitted again. Equal to scikit-learn's `RidgeCV(alphas, fit_intercept=False)`.

    Args:
        deltas: `(triplet, stem)` stem features.
        target: `(triplet,)` preferences.
        train: `(split, triplet)` True where a triplet is trained on.
        alphas: `(alpha,)` penalties.

    Returns:
        `(split,)` penalties.
    """
    rows, wanted = deltas.double(), target.double()
    equations = normal_equations(rows, wanted, train)
    values, vectors = torch.linalg.eigh(equations.gram)
    gain = 1.0 / (values.clamp(min=0.0).unsqueeze(1) + alphas.unsqueeze(1)).clamp(min=1e-12)  # (split, alpha, stem)
    moment = (vectors.mT @ equations.moment.unsqueeze(-1)).squeeze(-1)  # (split, stem)
    splits_at_once = max(1, _ELEMENTS_AT_ONCE // (len(rows) * len(alphas)))
    chosen = []
    for at in torch.split(torch.arange(len(train)), splits_at_once):
        rotated = rows @ vectors[at]  # (split, triplet, stem)
        predicted = rotated @ (gain[at] * moment[at].unsqueeze(1)).mT  # (split, triplet, alpha)
        hat = rotated.square() @ gain[at].mT
        residual = (wanted[:, None] - predicted) / (1.0 - hat).clamp(min=1e-12)
        error = torch.where(train[at].unsqueeze(2), residual.square(), 0.0).sum(dim=1)  # (split, alpha)
        chosen.append(alphas[error.argmin(dim=1)])
    return torch.cat(chosen)


class _Scorer:
    """Scores weights on the test parts of all splits."""

    def __init__(self, deltas: FloatArray, triplets: Triplets, test: BoolArray) -> None:
        self.deltas = deltas
        self.triplets = triplets
        # One test mask for all triplets and one for each test type: (1 + type, split, triplet).
        self.masks = np.stack([test, *(test & (triplets.test_type == kind) for kind in TEST_TYPES)]).astype(np.float64)

    def model(self, name: str, weights: FloatArray, alphas: FloatArray | None = None) -> ModelScores:
        """Score weights `(split, stem)`, or `(1, stem)` that are the same on every split."""
        agreement = self._agreement(weights @ self.deltas.T)  # (split or 1, triplet)
        splits = self.masks.shape[1]
        return ModelScores(name, agreement, np.broadcast_to(weights, (splits, weights.shape[1])), alphas)

    def fits(self, name: str, fits: SplitFits) -> ModelScores:
        """Score what a challenger predicts."""
        preference = fits.preference if fits.weights is None else None
        return ModelScores(name, self._agreement(fits.preference), fits.weights, fits.alphas, preference)

    def _agreement(self, preference: FloatArray) -> FloatArray:
        credit = agreement_credit(preference, self.triplets.preference)
        return _ratio((self.masks * credit).sum(axis=2), self.masks.sum(axis=2)).T

    def ceiling(self) -> ModelScores:
        """Score the listeners against each other."""
        credit, answers = ceiling_credit(self.triplets.votes)
        name = "simulated ceiling" if self.triplets.simulated else "human ceiling"
        return ModelScores(name, _ratio(self.masks @ credit, self.masks @ answers).T)


def _check_not_empty(train: BoolArray, test: BoolArray, kind: SplitKind) -> None:
    """Raise unless every split has something to train and to test on."""
    empty = ~(train.any(axis=1) & test.any(axis=1))
    if empty.any():
        kept = int((train | test).sum(axis=1).mean())
        msg = (
            f"{int(empty.sum())} of {len(train)} {kind} splits have an empty train or test part "
            f"({kept} of {train.shape[1]} triplets are in either, on average). Use more triplets or tracks, "
            "another train fraction, or stratified splits."
        )
        raise SplitError(msg)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, giving NaN where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _mean_and_deviation(values: FloatArray) -> dict[str, float | None]:
    """Return mean and standard deviation over the splits that have a value; None where none has."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, "std": None}
    return {"mean": float(known.mean()), "std": float(known.std())}


def _nan_to_none(values: FloatArray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
