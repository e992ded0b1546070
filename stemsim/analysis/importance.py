"""Importance of each stem: agreement and explained variance lost without it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from stemsim.errors import ConfigError
from stemsim.evaluation import CrossValidation, agreement_credit
from stemsim.evaluation.comparison import PairedDifference, corrected_resampled_t_test
from stemsim.evaluation.crossval import ridge_path
from stemsim.regression import fit_ridge
from stemsim.stems import StemLayout

__all__ = ["StemImportance", "leave_one_stem_out"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StemImportance:
    """Loss on the test parts when the model is fitted without a stem.

    Attributes:
        stems: Stem layout.
        agreement: Mean test agreement with all stems.
        r2: Mean coefficient of determination on the test parts with all stems.
        agreement_drop: Drop in agreement without each stem, over the same splits.
        r2_drop: Drop in R^2 without each stem; NaN where A is always right (same-song triplets), as R^2 is not defined
            there.
    """

    stems: StemLayout
    agreement: float
    r2: float
    agreement_drop: tuple[PairedDifference, ...]
    r2_drop: tuple[PairedDifference, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row for each stem: both drops with their intervals and p-values."""
        columns: dict[str, list[float] | StemLayout] = {"stem": self.stems}
        for name, drops in (("agreement", self.agreement_drop), ("R2", self.r2_drop)):
            columns[f"{name} drop"] = [drop.mean for drop in drops]
            columns[f"{name} lower"] = [drop.lower for drop in drops]
            columns[f"{name} upper"] = [drop.upper for drop in drops]
            columns[f"{name} p"] = [drop.p_value for drop in drops]
        return pd.DataFrame(columns)


def leave_one_stem_out(result: CrossValidation, *, level: float = 0.95) -> StemImportance:
    """Fit ridge regression without each stem in turn, on the splits of a cross-validation, and compare the test parts.

    Other stems may take over what a stem knew, so a drop is what the stem adds to them, and two collinear stems each
    seem worthless (`stemsim.analysis.collinearity`). The penalty is the best one of the cross-validation
    (`RidgePath.best_alpha`); intervals are those of the corrected resampled t-test.

    Args:
        result: A cross-validation of at least two stems and two splits.
        level: Coverage of the intervals.

    Raises:
        ConfigError: If there is only one stem.
    """
    stems, splits = result.stems, result.splits
    if len(stems) < 2:  # noqa: PLR2004 - one must remain
        msg = f"Leaving a stem out needs at least two stems; got {', '.join(stems)}."
        raise ConfigError(msg)
    majority = result.embedded.triplets.preference
    test = torch.from_numpy(splits.test)
    penalties = [0.0, result.path.best_alpha]

    def score(kept: list[int]) -> tuple[FloatArray, FloatArray]:
        """Return agreement and R^2 on every test part `(split,)` with some of the stems."""
        rows, target = result.embedded.deltas[:, kept], result.on_train.target
        on_train = fit_ridge(rows, target, penalties, counts=result.on_train.counts)
        credit = agreement_credit((on_train.weights[:, 1] @ rows.T).numpy(), majority)
        agreed = np.where(splits.test, credit, 0.0).sum(axis=1) / splits.test.sum(axis=1)
        return agreed, ridge_path(on_train, on_train, test).r2[:, 0]

    everything = list(range(len(stems)))
    agreed, r2 = score(everything)
    without = [score([stem for stem in everything if stem != left_out]) for left_out in everything]

    def drop(whole: FloatArray, less: FloatArray) -> PairedDifference:
        if np.isnan(whole - less).sum() > len(splits) - 2:  # test parts of one class alone have no R^2
            nothing = float("nan")
            return PairedDifference(nothing, nothing, nothing, nothing, nothing, level, 0)
        return corrected_resampled_t_test(whole - less, splits.test_train_ratio, level=level)

    return StemImportance(
        stems=stems,
        agreement=float(agreed.mean()),
        r2=float("nan") if np.isnan(r2).all() else float(np.nanmean(r2)),
        agreement_drop=tuple(drop(agreed, less) for less, _ in without),
        r2_drop=tuple(drop(r2, less) for _, less in without),
    )
