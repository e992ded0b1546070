"""Leakage: agreement that comes from tracks on both sides of a split."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.evaluation import (
    ALPHAS,
    Comparison,
    CrossValidation,
    ModelScores,
    Splits,
    compare_models,
    cross_validate,
)
from stemsim.evaluation.comparison import format_p
from stemsim.evaluation.crossval import score_fits
from stemsim.evaluation.splits import draw_by_type
from stemsim.fitting import VoteModel
from stemsim.triplets import TEST_TYPES, EmbeddedTriplets, Triplets

__all__ = ["Leakage", "LeakageRow", "leakage", "same_test_leak"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LeakageRow:
    """Mean test agreement of one model by both kinds of split; test types are weighted as in the whole table.

    Attributes:
        model: Name of the model.
        stratified: On random splits, which share tracks.
        matched: On the same test parts, trained on as few triplets as the grouped splits have.
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
        """Stratified minus grouped: the excess that a random split promises."""
        return self.stratified - self.grouped

    @property
    def from_less_data(self) -> float:
        """The part of the difference that comes from the fewer train triplets of grouped splits."""
        return self.stratified - self.matched

    @property
    def leak(self) -> float:
        """The rest of the difference, which comes from shared tracks."""
        return self.matched - self.grouped


@dataclass(frozen=True, slots=True, eq=False)
class Leakage:
    """Cross-validations by both kinds of split, side by side.

    Attributes:
        rows: One for each model.
        train_size: Mean number of train triplets, stratified and grouped.
        same_test: OLS and ridge on the same test triplets, trained with and without their tracks (`same_test_leak`).
    """

    rows: tuple[LeakageRow, ...]
    train_size: tuple[float, float]
    same_test: tuple[Comparison, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row for each model, in shares of 1."""
        names = ("model", "stratified", "matched", "grouped", "grouped_std", "difference", "from_less_data", "leak")
        return pd.DataFrame([[getattr(row, name) for name in names] for row in self.rows], columns=list(names))

    @property
    def sentence(self) -> str:
        """The leak of ridge regression on the same test triplets, in plain words."""
        ridge = self.same_test[-1]
        seen, unseen = (100.0 * value for value in ridge.agreement)
        gap = ridge.difference
        verdict = "no significant leak" if not ridge.significant else "tracks leak" if gap.mean > 0.0 else "the reverse"
        return (
            f"Leakage, ridge on the same test triplets: {seen:.1f} % when trained on {self.train_size[1]:.0f} triplets "
            f"that may share their tracks, {unseen:.1f} % on as many that share none; {100 * gap.mean:+.1f} points, "
            f"{100 * gap.level:g} % interval [{100 * gap.lower:.1f}, {100 * gap.upper:.1f}], p "
            f"{format_p(gap.p_value)}: {verdict}."
        )


def leakage(embedded: EmbeddedTriplets, splits: Splits, *, alphas: tuple[float, ...] = ALPHAS) -> Leakage:
    """Cross-validate by random splits and by splits that share no track, and decompose the difference.

    Two things besides leakage set them apart. A grouped split keeps a triplet only if all its tracks are on one side:
    XYC triplets, of two tracks, stay more often than XAB triplets, of three, and are easier; so agreement is averaged
    within each test type, and the types are weighted as in the whole table. And fewer triplets are left to train on; so
    the random splits are also fitted with as few.

    Args:
        embedded: The triplets, each with a majority.
        splits: Splits of either kind; those of the other kind are drawn with the same count, fraction and seed.
        alphas: Ridge penalties to choose from.

    Returns:
        Agreement of every model by both kinds of split. Models without a fit should show no leak.

    Raises:
        SplitError: If a split leaves its train or test part empty.
    """
    triplets = embedded.triplets
    by_triplet, by_track = (
        splits
        if splits.kind == kind
        else Splits.draw(triplets, count=len(splits), train_fraction=splits.train_fraction, kind=kind, seed=splits.seed)
        for kind in ("stratified", "grouped")
    )
    trained = _train_sizes(by_track, triplets)
    few = np.rint(np.broadcast_to(trained.mean(axis=0), trained.shape)).astype(np.int64)
    stratified, matched, grouped = (
        cross_validate(embedded, one, alphas=alphas)
        for one in (by_triplet, by_triplet.thinned(triplets, few), by_track)
    )
    share = np.array([(triplets.test_type == kind).mean() for kind in TEST_TYPES])
    rows = tuple(
        LeakageRow(
            first.name,
            stratified=_standardised(first, share),
            matched=_standardised(second, share),
            grouped=_standardised(third, share),
            grouped_std=_spread(third, share),
        )
        for first, second, third in zip(stratified.models, matched.models, grouped.models, strict=True)
    )
    sizes = float(by_triplet.train.sum(axis=1).mean()), float(by_track.train.sum(axis=1).mean())
    return Leakage(rows, sizes, same_test_leak(grouped, alphas=alphas))


def same_test_leak(grouped: CrossValidation, *, alphas: tuple[float, ...] = ALPHAS) -> tuple[Comparison, ...]:
    """Test the same triplets of grouped splits after training with their tracks, and without.

    Only the sharing of tracks differs: on each split, the first model trains on triplets drawn at random from all that
    are not tested, as many of each test type as the second one has, whose triplets share no track with those tested.

    Args:
        grouped: A cross-validation by grouped splits.
        alphas: Ridge penalties to choose from.

    Returns:
        Paired comparisons of OLS and of ridge.
    """
    embedded, splits = grouped.embedded, grouped.splits
    draw = np.random.default_rng([splits.seed, 1]).random(splits.test.shape)
    order = np.where(splits.test, np.inf, draw)
    seen = draw_by_type(order, embedded.triplets, _train_sizes(splits, embedded.triplets))
    with_tracks = Splits(seen, splits.test, splits.kind, splits.train_fraction, splits.seed)
    found = []
    for name, penalties in (("OLS", (0.0,)), ("ridge", alphas)):
        fits = VoteModel(name, alphas=penalties).fit(embedded, with_tracks)
        first = score_fits(f"{name} trained with the tested tracks", fits, embedded, splits)
        second = grouped[name]
        second = ModelScores(f"{name} trained without them", second.credit, second.agreement)
        found.append(compare_models(first, second, splits))
    return tuple(found)


def _train_sizes(splits: Splits, triplets: Triplets) -> IntArray:
    """Return the number of train triplets of each test type, `(split, test type)`."""
    return np.stack([splits.train[:, triplets.test_type == kind].sum(axis=1) for kind in TEST_TYPES], axis=1)


def _standardised(model: ModelScores, share: FloatArray) -> float:
    """Return the mean over the splits within each test type, the types weighted by their share of the triplets."""
    columns, present = model.agreement[:, 1:], share > 0
    known = ~np.isnan(columns)
    means = np.where(known, columns, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    return float((means[present] * share[present]).sum())


def _spread(model: ModelScores, share: FloatArray) -> float:
    """Return the standard deviation over the splits that test all types."""
    present = share > 0
    values = model.agreement[:, 1:][:, present] @ share[present]
    known = values[~np.isnan(values)]
    return float(known.std()) if len(known) else float("nan")
