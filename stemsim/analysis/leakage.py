"""Leakage: agreement that comes from tracks on both sides of a split."""

from dataclasses import dataclass, replace

import numpy as np

from stemsim.evaluation import (
    Comparison,
    CrossValidation,
    ModelScores,
    SplitKind,
    Splits,
    compare_models,
    cross_validate,
)
from stemsim.evaluation.comparison import format_p
from stemsim.evaluation.crossval import known_mean
from stemsim.triplets import TEST_TYPES
from stemsim.triplets.table import FloatArray


@dataclass(frozen=True, slots=True)
class LeakageRow:
    """Mean test agreement of one model by both kinds of split; test types are weighted as in the whole table.

    Stratified minus matched is what fewer train triplets cost, matched minus grouped what the model learned of tracks.
    """

    model: str
    stratified: float  # on random splits, which share tracks
    matched: float  # on the same test parts, trained on as few triplets as the grouped splits have
    grouped: float  # on splits that share no track
    grouped_std: float  # standard deviation of the last over the splits that test every type


@dataclass(frozen=True, slots=True, eq=False)
class Leakage:
    """Cross-validations by both kinds of split, side by side."""

    rows: tuple[LeakageRow, ...]  # one for each model
    train_size: tuple[float, float]  # mean number of train triplets, stratified and grouped
    same_test: tuple[Comparison, ...]  # OLS and ridge, trained with and without the tested tracks

    @property
    def sentence(self) -> str:
        """The leak of ridge regression on the same test triplets, in words."""
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


def leakage(result: CrossValidation) -> Leakage:
    """Cross-validate by random splits and by splits that share no track, and decompose the difference.

    Two things besides leakage make them differ. A grouped split keeps a triplet only if all its tracks are on one side:
    XYC triplets, of two tracks, are kept more often than XAB triplets, of three, and are easier; so agreement is
    averaged within each test type, and the types are weighted as in the whole table. And fewer triplets are left to
    train on; so the random splits are also fitted with as few.

    Splits of the other kind are drawn with the same count, fraction and seed. Models without a fit should show no leak.

    Raises:
        SplitError: If a split leaves its train or test part empty.
    """
    embedded, splits = result.embedded, result.splits
    triplets, alphas = embedded.triplets, result.on_train.alphas[1:].tolist()
    other: SplitKind = "grouped" if splits.kind == "stratified" else "stratified"
    drawn = Splits.draw(triplets, count=len(splits), train_fraction=splits.train_fraction, kind=other, seed=splits.seed)
    by_kind = {splits.kind: result, other: cross_validate(embedded, drawn, alphas=alphas)}
    stratified, grouped = by_kind["stratified"], by_kind["grouped"]
    by_triplet, by_track = stratified.splits, grouped.splits
    sizes = by_track.train_sizes(triplets)
    few = np.rint(np.broadcast_to(sizes.mean(axis=0), sizes.shape)).astype(np.int64)
    matched = cross_validate(embedded, by_triplet.retrained(triplets, by_triplet.train, few), alphas=alphas)
    share = np.array([(triplets.test_type == kind).mean() for kind in TEST_TYPES])
    rows = tuple(
        LeakageRow(
            model.name,
            _standardised(stratified[model.name], share)[0],
            _standardised(model, share)[0],
            *_standardised(grouped[model.name], share),
        )
        for model in matched.models
    )
    train_size = float(by_triplet.train.sum(axis=1).mean()), float(by_track.train.sum(axis=1).mean())
    return Leakage(rows, train_size, same_test_leak(grouped))


def same_test_leak(grouped: CrossValidation) -> tuple[Comparison, ...]:
    """Test the same triplets of grouped splits after training with their tracks, and without.

    Only the sharing of tracks differs: on each split, the first model trains on triplets drawn at random from all that
    are not tested, as many of each test type as the second one has, whose triplets share no track with those tested.
    The results are paired comparisons of OLS and of ridge.
    """
    embedded, splits = grouped.embedded, grouped.splits
    seen = splits.retrained(embedded.triplets, ~splits.test, splits.train_sizes(embedded.triplets))
    with_tracks = cross_validate(embedded, seen, alphas=grouped.on_train.alphas[1:].tolist())
    return tuple(
        compare_models(
            replace(with_tracks[name], name=f"{name} trained with the tested tracks"),
            replace(grouped[name], name=f"{name} trained without them"),
            splits,
        )
        for name in ("OLS", "ridge")
    )


def _standardised(model: ModelScores, share: FloatArray) -> tuple[float, float]:
    """Return mean and standard deviation over the splits, the test types weighted by their share of the triplets.

    The mean is taken within each type; the standard deviation over the splits that test all types.
    """
    by_type, weights = model.agreement[:, 1:][:, share > 0], share[share > 0]
    whole = by_type @ weights
    known = whole[~np.isnan(whole)]
    mean = float(np.array([known_mean(column) for column in by_type.T]) @ weights)
    return mean, float(known.std()) if len(known) else float("nan")
