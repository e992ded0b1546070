"""Paired comparison of two models on the same splits, with a verdict in words."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr
from scipy.stats import binomtest

from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation.clusters import interval_reach
from stemsim.evaluation.crossval import ModelScores, ratio
from stemsim.evaluation.splits import Splits
from stemsim.triplets.table import FloatArray


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of paired differences over resampled splits, with its interval `lower` to `upper`."""

    mean: float  # mean difference; positive where the first model agrees more often
    standard_error: float  # its standard error, corrected for the overlap of the splits
    lower: float
    upper: float
    p_value: float  # two-sided, of no difference
    level: float  # coverage of the interval
    splits: int


@dataclass(frozen=True, slots=True)
class SignTest:
    """Exact sign test on triplets: numbers for either model, and the two-sided p-value of both being equally likely."""

    for_first: int
    for_second: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same splits.

    Attributes:
        agreement: Mean test agreement of both.
        difference: First minus second, over the splits.
        signs: The same by triplets, each counting once.
    """

    first: str
    second: str
    agreement: tuple[float, float]
    difference: PairedDifference
    signs: SignTest

    @property
    def significant(self) -> bool:
        """Significance of the difference by the corrected t-test."""
        return self.difference.p_value < 1.0 - self.difference.level

    @property
    def verdict(self) -> str:
        """The result in one sentence, which the corrected t-test alone decides."""
        gap = self.difference
        names, points = (self.first, self.second), (gap.mean, gap.lower, gap.upper)
        if gap.mean < 0.0:  # the better one is named first
            names, points = names[::-1], (-gap.mean, -gap.upper, -gap.lower)
        mean, lower, upper = (100.0 * value + 0.0 for value in points)
        figures = f"{mean:+.1f} points, {100 * gap.level:g} % interval [{lower:.1f}, {upper:.1f}]"
        found = f"{names[0]} agrees more often than {names[1]}"
        if not self.significant:
            found = f"No significant difference between {names[0]} and {names[1]}"
        return f"{found}: {figures}, p {format_p(gap.p_value)} (corrected resampled t-test)."


def corrected_resampled_t_test(
    differences: FloatArray, test_train_ratio: float, *, level: float = 0.95
) -> PairedDifference:
    """Test whether paired differences over random splits have mean 0.

    Splits share triplets, so their differences are correlated and the usual standard error s / sqrt(J) over J splits
    is far too small. Nadeau and Bengio ("Inference for the generalization error", Machine Learning 52, 2003, equation
    9) take sqrt((1 / J + n_test / n_train) s^2) instead, and Student's t with J - 1 degrees of freedom.

    Args:
        differences: `(split,)` agreement of one model minus that of the other; NaN where a split has no value.
        test_train_ratio: Size of the test parts over that of the train parts, in what was drawn: triplets or tracks.
        level: Coverage of the interval.

    Raises:
        ConfigError: If the ratio or the level is out of range.
        SplitError: If fewer than two splits have a value.
    """
    if not test_train_ratio > 0.0:
        raise ConfigError(
            f"The size of the test parts over that of the train parts is positive; got {test_train_ratio}."
        )
    known = differences[~np.isnan(differences)]
    splits = len(known)
    if splits < 2:  # noqa: PLR2004 - a spread needs two
        raise SplitError(
            f"A paired comparison needs at least 2 splits with a value; got {splits}. Ask for more splits."
        )
    mean = float(known.mean())
    error = float(np.sqrt((1.0 / splits + test_train_ratio) * known.var(ddof=1)))
    if error <= 1e-12 * max(1.0, abs(mean)):  # the same difference everywhere, up to rounding
        return PairedDifference(mean, 0.0, mean, mean, float(abs(mean) <= 1e-12), level, splits)  # noqa: PLR2004
    reach = interval_reach(level, splits) * error
    p_value = 2.0 * float(stdtr(splits - 1, -abs(mean) / error))
    return PairedDifference(mean, error, mean - reach, mean + reach, p_value, level, splits)


def sign_test(first: FloatArray, second: FloatArray) -> SignTest:
    """Test whether two models do better on equally many triplets, exactly (for fixed predictions: McNemar's test).

    Args:
        first: `(triplet,)` credit of the first model on each triplet, 1, 0 or a mean over splits; NaN: not tested.
        second: `(triplet,)` credit of the second one.

    """
    # Means of equal credits may differ in their last bit.
    for_first, for_second = int((first > second + 1e-9).sum()), int((second > first + 1e-9).sum())
    discordant = for_first + for_second
    p_value = float(binomtest(for_first, discordant).pvalue) if discordant else 1.0
    return SignTest(for_first, for_second, p_value)


def compare_models(first: ModelScores, second: ModelScores, splits: Splits, *, level: float = 0.95) -> Comparison:
    """Compare two models that were tested on the same splits.

    Raises:
        SplitError: If there are fewer than two splits.
    """
    times = splits.test.sum(axis=0)
    by_triplet = [ratio(np.where(splits.test, model.credit, 0.0).sum(axis=0), times) for model in (first, second)]
    differences = first.agreement[:, 0] - second.agreement[:, 0]
    return Comparison(
        first=first.name,
        second=second.name,
        agreement=(first.mean, second.mean),
        difference=corrected_resampled_t_test(differences, splits.test_train_ratio, level=level),
        signs=sign_test(*by_triplet),
    )


def format_p(p_value: float) -> str:
    """Write a p-value with its relation: `= 0.02` or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.2g}"  # noqa: PLR2004
