"""How much of an agreement comes from tracks that are on both sides of a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from stemsim.evaluation.comparison import Comparison, compare_models
from stemsim.evaluation.crossval import ALPHAS, CrossValidation, cross_validate
from stemsim.evaluation.splits import PARTS, SplitKind, split_triplets
from stemsim.evaluation.vote_fit import VoteModel, fit_votes
from stemsim.stems import StemLayout
from stemsim.triplets import TEST_TYPES, Triplets

__all__ = ["Leakage", "LeakageRow", "leakage", "same_test_leak"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeakageRow:
    """Mean test agreement of one model by both kinds of split; test types count as in the whole table.

    Attributes:
        model: Its name.
        stratified: On random splits, which share tracks.
        matched: On random splits with as few triplets to train on as the grouped ones have.
        grouped: On splits that share no track.
        grouped_std: Standard deviation of the last over the splits that test every type.
    """

    model: str
    stratified: float
    matched: float
    grouped: float
    grouped_std: float

    @property
    def difference(self) -> float:
        """Stratified minus grouped: what a random split promises too much."""
        return self.stratified - self.grouped

    @property
    def from_less_data(self) -> float:
        """The part of the difference that is there because grouped splits train on fewer triplets."""
        return self.stratified - self.matched

    @property
    def leak(self) -> float:
        """The rest: what is there because tracks are shared."""
        return self.matched - self.grouped


@dataclass(frozen=True, slots=True, eq=False)
class Leakage:
    """Cross-validations by both kinds of split, side by side.

    Attributes:
        rows: One a model.
        stratified: The cross-validation by random splits.
        grouped: The one by splits that share no track.
        train_size: Mean number of triplets trained on, stratified and grouped.
        same_test: OLS and ridge on the same test triplets, trained with and without their tracks (`same_test_leak`).
    """

    rows: tuple[LeakageRow, ...]
    stratified: CrossValidation
    grouped: CrossValidation
    train_size: tuple[float, float]
    same_test: tuple[Comparison, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row a model, in shares of 1."""
        names = ("model", "stratified", "matched", "grouped", "grouped_std", "difference", "from_less_data", "leak")
        return pd.DataFrame([[getattr(row, name) for name in names] for row in self.rows], columns=list(names))

    @property
    def sentence(self) -> str:
        """What the fitted models owe to shared tracks, in plain words."""
        said = [
            f"{row.model}: {100 * row.stratified:.1f} % on random splits, {100 * row.grouped:.1f} % where no track is "
            f"shared; of the {100 * row.difference:+.1f} points, {100 * row.from_less_data:+.1f} come from less to "
            f"train on and {100 * row.leak:+.1f} from shared tracks."
            for row in self.rows
            if row.model in {"OLS", "ridge"}
        ]
        return " ".join(said)


def leakage(
    deltas: Tensor,
    triplets: Triplets,
    stems: StemLayout,
    *,
    count: int = 100,
    train_fraction: float = 0.7,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> Leakage:
    """Cross-validate by random splits and by splits that share no track, and say what the difference is made of.

    Two things besides leakage would set them apart. A grouped split keeps a triplet only if all its tracks are on one
    side: XYC triplets, of two tracks, stay more often than XAB triplets, of three, and are easier; so agreement is
    averaged within each test type, and the types are weighed as in the whole table. And fewer triplets are left to
    train on; so there are also random splits with as few.

    Args:
        deltas: `(triplet, stem)` stem features.
        triplets: The triplets, each with a majority.
        stems: Stem layout of `deltas`.
        count: Number of splits of each kind.
        train_fraction: Share of the triplets, or tracks, to train on; the rest is tested.
        alphas: Ridge penalties to choose from.
        seed: Seed of the splits.

    Returns:
        Agreement of every model by both kinds of split. Models without a fit should show no leak.

    Raises:
        SplitError: If a split leaves its train or test part empty.
    """
    fractions = (train_fraction, 0.0, 1.0 - train_fraction)

    def validate(kind: SplitKind, fraction: float) -> CrossValidation:
        return cross_validate(
            deltas,
            triplets,
            stems,
            count=count,
            train_fraction=fraction,
            kind=kind,
            alphas=alphas,
            seed=seed,
        )

    stratified, grouped = validate("stratified", train_fraction), validate("grouped", train_fraction)
    parts = split_triplets(triplets, fractions, kind="grouped", count=count, seed=seed)
    trained = float((parts == PARTS.index("train")).sum(axis=1).mean())
    matched = validate("stratified", trained / len(triplets))
    share = np.array([(triplets.test_type == kind).mean() for kind in TEST_TYPES])
    rows = tuple(
        LeakageRow(
            first.name,
            _standardised(first.agreement, share),
            _standardised(second.agreement, share),
            _standardised(third.agreement, share),
            _spread(third.agreement, share),
        )
        for first, second, third in zip(stratified.models, matched.models, grouped.models, strict=True)
    )
    same_test = same_test_leak(deltas, triplets, count=count, train_fraction=train_fraction, alphas=alphas, seed=seed)
    return Leakage(rows, stratified, grouped, (train_fraction * len(triplets), trained), same_test)


def same_test_leak(
    deltas: Tensor,
    triplets: Triplets,
    *,
    count: int = 100,
    train_fraction: float = 0.7,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Test the same triplets of grouped splits after training with their tracks, and without.

    Nothing but the sharing of tracks differs: on each split, the first model trains on triplets drawn at random from
    all that are not tested, as many of each test type as the second one has, whose triplets share no track with those
    tested.

    Args:
        deltas: `(triplet, stem)` stem features.
        triplets: The triplets, each with a majority.
        count: Number of grouped splits.
        train_fraction: Share of the tracks to train on.
        alphas: Ridge penalties to choose from.
        seed: Seed of the splits (those of a grouped cross-validation with it) and of the draws.

    Returns:
        Paired comparisons of OLS and of ridge.
    """
    parts = split_triplets(
        triplets, (train_fraction, 0.0, 1.0 - train_fraction), kind="grouped", count=count, seed=seed
    )
    unseen, test = parts == PARTS.index("train"), parts == PARTS.index("test")
    seen = _peers(triplets, unseen, test, np.random.default_rng([seed, 1]))
    found = []
    for name, penalties in (("OLS", [0.0]), ("ridge", alphas)):
        first, second = (
            fit_votes(VoteModel(name), deltas, triplets, train, alphas=penalties).preference for train in (seen, unseen)
        )
        found.append(
            compare_models(
                (f"{name} trained with the tested tracks", f"{name} trained without them"),
                (first, second),
                triplets.preference,
                test,
                test_train_ratio=(1.0 - train_fraction) / train_fraction,
            )
        )
    return tuple(found)


def _peers(triplets: Triplets, train: BoolArray, test: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Draw, for every split, as many triplets of each test type as it trains on, from all that it does not test."""
    order = np.where(test, np.inf, rng.random(test.shape))
    drawn = np.zeros_like(train)
    for kind in TEST_TYPES:
        of_kind = triplets.test_type == kind
        rank = np.argsort(np.argsort(np.where(of_kind, order, np.inf), axis=1), axis=1)
        drawn |= rank < (train & of_kind).sum(axis=1, keepdims=True)
    return drawn


def _standardised(agreement: FloatArray, share: FloatArray) -> float:
    """Return the mean over the splits within each test type, the types weighed by their share of the triplets."""
    columns, present = agreement[:, 1:], share > 0
    known = ~np.isnan(columns)
    means = np.where(known, columns, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return float((means[present] * share[present]).sum())


def _spread(agreement: FloatArray, share: FloatArray) -> float:
    """Return the standard deviation over the splits that test all types."""
    present = share > 0
    values = agreement[:, 1:][:, present] @ share[present]
    known = values[~np.isnan(values)]
    return float(known.std()) if len(known) else float("nan")
