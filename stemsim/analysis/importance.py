"""Importance of each stem: agreement and explained variance lost without it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from stemsim.errors import ConfigError
from stemsim.evaluation import CrossValidation, SplitFits
from stemsim.evaluation.comparison import PairedDifference, corrected_resampled_t_test
from stemsim.evaluation.crossval import held_out_r2, known_mean, score_fits
from stemsim.regression import RidgeFit, fit_ridge
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

    A drop is the contribution of a stem beyond that of the others, so that two collinear stems each seem worthless
    (`stemsim.analysis.collinearity`). The penalty is the best one of the cross-validation (`RidgePath.best_alpha`);
    intervals are those of the corrected resampled t-test.

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
    test, whole = torch.from_numpy(splits.test), result.on_train
    best = int((whole.alphas == result.path.best_alpha).double().argmax())

    def score(fit: RidgeFit, penalty: int) -> tuple[FloatArray, FloatArray]:
        """Return agreement and R^2 on every test part `(split,)`."""
        fits = SplitFits((fit.weights[:, penalty] @ fit.deltas.T).numpy())
        agreed = score_fits("", fits, result.embedded, splits).agreement[:, 0]
        return agreed, held_out_r2(fit, test)[0][:, penalty]

    def drop(all_stems: FloatArray, less: FloatArray) -> PairedDifference:
        if np.isnan(all_stems - less).sum() > len(splits) - 2:  # test parts of one class alone have no R^2
            nothing = float("nan")
            return PairedDifference(nothing, nothing, nothing, nothing, nothing, level, 0)
        return corrected_resampled_t_test(all_stems - less, splits.test_train_ratio, level=level)

    agreed, r2 = score(whole, best)
    without = []
    for left_out in range(len(stems)):
        kept = whole.deltas[:, [stem for stem in range(len(stems)) if stem != left_out]]
        without.append(score(fit_ridge(kept, whole.target, whole.alphas[[best]], counts=whole.counts), 0))
    return StemImportance(
        stems=stems,
        agreement=float(agreed.mean()),
        r2=known_mean(r2),
        agreement_drop=tuple(drop(agreed, less) for less, _ in without),
        r2_drop=tuple(drop(r2, less) for _, less in without),
    )
