"""What each stem is worth: how much agreement and explained variance are lost without it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation.agreement import agreement_credit
from stemsim.evaluation.comparison import PairedDifference, corrected_resampled_t_test
from stemsim.evaluation.crossval import ridge_path
from stemsim.evaluation.splits import PARTS, SplitKind, split_triplets
from stemsim.regression import normal_equations, solve_ridge
from stemsim.stems import StemLayout
from stemsim.triplets import Triplets

__all__ = ["StemImportance", "leave_one_stem_out"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StemImportance:
    """What is lost on the test parts when the model is fitted without a stem.

    Attributes:
        stems: Stem layout.
        agreement: Mean test agreement with all stems.
        r2: Mean coefficient of determination on the test parts with all stems.
        agreement_drop: For each stem, the drop in agreement over the same splits.
        r2_drop: For each stem, the drop in R^2; NaN where A is always right (same-song triplets), as R^2 is then not
            defined.
    """

    stems: StemLayout
    agreement: float
    r2: float
    agreement_drop: tuple[PairedDifference, ...]
    r2_drop: tuple[PairedDifference, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row a stem: both drops with their intervals and p-values."""
        columns: dict[str, list[float] | StemLayout] = {"stem": self.stems}
        for name, drops in (("agreement", self.agreement_drop), ("R2", self.r2_drop)):
            columns[f"{name} drop"] = [drop.mean for drop in drops]
            columns[f"{name} lower"] = [drop.lower for drop in drops]
            columns[f"{name} upper"] = [drop.upper for drop in drops]
            columns[f"{name} p"] = [drop.p_value for drop in drops]
        return pd.DataFrame(columns)


def leave_one_stem_out(
    deltas: Tensor,
    triplets: Triplets,
    stems: StemLayout,
    *,
    alpha: float = 0.0,
    count: int = 100,
    train_fraction: float = 0.7,
    kind: SplitKind = "stratified",
    level: float = 0.95,
    seed: int = 0,
) -> StemImportance:
    """Fit with all stems and without each one in turn, on the same splits, and compare on the test parts.

    Other stems may take over what a stem knew, so a drop says what the stem adds to them, and two stems that cannot be
    told apart each seem worthless (`collinearity`). Intervals are those of the corrected resampled t-test.

    Args:
        deltas: `(triplet, stem)` stem features.
        triplets: The triplets, each with a majority.
        stems: Stem layout of `deltas`, two stems or more.
        alpha: Ridge penalty; 0 is ordinary least squares.
        count: Number of splits.
        train_fraction: Share of the triplets (or, grouped, of the tracks) to train on; the rest is tested.
        kind: `stratified` as in the paper, or `grouped` so that no track is on both sides.
        level: Coverage of the intervals.
        seed: Seed of the splits; equal to that of a cross-validation, they are the same splits.

    Returns:
        Drops in agreement and R^2, with intervals.

    Raises:
        ConfigError: If there is only one stem.
        SplitError: If a split leaves its train or test part empty.
    """
    if len(stems) < 2:  # noqa: PLR2004 - one must remain
        msg = f"Leaving a stem out needs at least two stems; got {', '.join(stems)}."
        raise ConfigError(msg)
    parts = split_triplets(triplets, (train_fraction, 0.0, 1.0 - train_fraction), kind=kind, count=count, seed=seed)
    train, test = parts == PARTS.index("train"), parts == PARTS.index("test")
    if not (train.any(axis=1) & test.any(axis=1)).all():
        msg = f"Some {kind} splits have an empty train or test part. Use more triplets or another train fraction."
        raise SplitError(msg)
    target = torch.from_numpy(triplets.preference).double()
    masks, penalty = (torch.from_numpy(train), torch.from_numpy(test)), torch.tensor([alpha], dtype=torch.float64)

    def score(kept: list[int]) -> tuple[FloatArray, FloatArray]:
        """Return agreement and R^2 on every test part `(split,)` with some of the stems."""
        rows = deltas[:, kept].double()
        equations = normal_equations(rows, target, masks[0])
        weights = solve_ridge(equations, penalty)[:, 0].numpy()
        credit = agreement_credit(weights @ rows.numpy().T, triplets.preference)
        agreed = np.where(test, credit, 0.0).sum(axis=1) / test.sum(axis=1)
        return agreed, ridge_path(rows, target, *masks, penalty, equations).r2[:, 0]

    everything = list(range(len(stems)))
    agreed, r2 = score(everything)
    without = [score([stem for stem in everything if stem != left_out]) for left_out in everything]
    ratio = (1.0 - train_fraction) / train_fraction

    def drop(whole: FloatArray, less: FloatArray) -> PairedDifference:
        if np.isnan(whole - less).sum() > count - 2:  # test parts of one class alone have no R^2
            nothing = float("nan")
            return PairedDifference(nothing, nothing, nothing, nothing, nothing, level, 0)
        return corrected_resampled_t_test(whole - less, ratio, level=level)

    return StemImportance(
        stems=tuple(stems),
        agreement=float(agreed.mean()),
        r2=float("nan") if np.isnan(r2).all() else float(np.nanmean(r2)),
        agreement_drop=tuple(drop(agreed, less) for less, _ in without),
        r2_drop=tuple(drop(r2, less) for _, less in without),
    )
