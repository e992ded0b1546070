"""Importance of each stem: agreement and explained variance lost without it."""

from dataclasses import dataclass

import numpy as np
import torch

from stemsim.errors import ConfigError
from stemsim.evaluation import CrossValidation, SplitFits
from stemsim.evaluation.comparison import PairedDifference, corrected_resampled_t_test
from stemsim.evaluation.crossval import held_out_r2, score_fits
from stemsim.regression import RidgeFit, fit_ridge
from stemsim.triplets.table import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class StemImportance:
    """Loss on the test parts when the model is fitted without a stem."""

    agreement_drop: tuple[PairedDifference, ...]  # (stem,) drop in agreement without each stem, over the same splits
    r2_drop: tuple[PairedDifference, ...]  # (stem,) drop in R^2; NaN where A is always right (same-song triplets)


def leave_one_stem_out(result: CrossValidation, *, level: float = 0.95) -> StemImportance:
    """Fit ridge regression without each stem in turn, on the splits of a cross-validation, and compare the test parts.

    A drop is the contribution of a stem beyond that of the others, so that two collinear stems each seem worthless
    (`stemsim.analysis.collinearity`). The penalty is the best one of the cross-validation (`best_alpha`); intervals, of
    the nominal coverage `level`, are those of the corrected resampled t-test.

    Raises:
        ConfigError: If there is only one stem.
    """
    stems, splits, whole, best = result.stems, result.splits, result.on_train, result.best_row
    if len(stems) < 2:  # noqa: PLR2004 - one must remain
        raise ConfigError(f"Leaving a stem out needs at least two stems; got {', '.join(stems)}.")

    def score(fit: RidgeFit, penalty: int) -> tuple[FloatArray, FloatArray]:
        """Return agreement and R^2 on every test part `(split,)`."""
        fits = SplitFits((fit.weights[:, penalty] @ fit.deltas.T).numpy())
        agreed = score_fits("", fits, result.embedded, splits).agreement[:, 0]
        return agreed, held_out_r2(fit, torch.from_numpy(splits.test))[0][:, penalty]

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
        tuple(drop(agreed, less) for less, _ in without), tuple(drop(r2, less) for _, less in without)
    )
