"""Paired comparison against textbook formulas, loops and simulated experiments."""

import re
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tables import make_triplets

from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation import agreement, cross_validate, split_triplets
from stemsim.evaluation.comparison import (
    Comparison,
    PairedDifference,
    SignTest,
    compare_fits,
    compare_models,
    corrected_resampled_t_test,
    format_p,
    sign_test,
)

LAYOUT = ("bass", "drums", "mix")
DIFFERENCES = st.lists(st.floats(-1.0, 1.0, width=16), min_size=2, max_size=40)


def voted(seed, weights, *, triplets=300, noise=0.5, stems=3):
    """Return features, and a table whose majority follows weights."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, tracks=40)
    deltas = rng.normal(size=(triplets, stems))
    wanted = deltas @ weights + noise * rng.normal(size=triplets) > 0
    flip = (wanted != (table.preference > 0))[:, None]
    return torch.from_numpy(deltas), replace(table, votes=np.where(flip, table.votes[:, ::-1], table.votes))


class TestCorrectedTTest:
    def test_is_equation_9_of_nadeau_and_bengio(self):
        differences = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
        found = corrected_resampled_t_test(differences, 30 / 70)
        statistic = differences.mean() / np.sqrt((1 / 5 + 30 / 70) * differences.var(ddof=1))
        assert found.mean == pytest.approx(0.026)
        assert found.p_value == pytest.approx(2 * stats.t.sf(statistic, 4))
        reach = stats.t.ppf(0.975, 4) * differences.mean() / statistic
        assert (found.lower, found.upper) == pytest.approx((0.026 - reach, 0.026 + reach))

    @given(DIFFERENCES)
    @settings(max_examples=50, deadline=None)
    def test_without_overlap_it_is_the_paired_t_test(self, values):
        differences = np.array(values)
        found = corrected_resampled_t_test(differences, 1e-300)
        if differences.std() > 1e-6:
            assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=1e-9)

    @given(DIFFERENCES, st.floats(0.05, 5.0))
    @settings(max_examples=50, deadline=None)
    def test_swapping_the_models_flips_the_difference_and_nothing_else(self, values, ratio):
        one, other = (corrected_resampled_t_test(sign * np.array(values), ratio) for sign in (1.0, -1.0))
        assert (one.mean, one.lower, one.upper) == (-other.mean, -other.upper, -other.lower)
        assert one.p_value == other.p_value
        assert 0.0 <= one.p_value <= 1.0
        assert one.lower <= one.mean <= one.upper
        assert (one.p_value < 0.05) == (one.lower > 0.0 or one.upper < 0.0)

    @pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
    def test_the_same_difference_everywhere(self, value, p_value):
        found = corrected_resampled_t_test(np.full(7, value), 0.4)
        assert (found.p_value, found.lower, found.upper) == (p_value, pytest.approx(value), pytest.approx(value))

    def test_splits_without_a_value_do_not_count(self):
        differences = np.array([0.1, np.nan, 0.3, 0.2])
        found = corrected_resampled_t_test(differences, 0.4)
        assert found == corrected_resampled_t_test(differences[[0, 2, 3]], 0.4)
        assert found.splits == 3

    def test_refusals(self):
        with pytest.raises(SplitError, match="at least 2 splits with a value; got 1"):
            corrected_resampled_t_test(np.array([0.1, np.nan]), 0.4)
        with pytest.raises(ConfigError, match="ratio is positive"):
            corrected_resampled_t_test(np.zeros(4), 0.0)
        with pytest.raises(ConfigError, match=r"level in \(0, 1\)"):
            corrected_resampled_t_test(np.zeros(4), 0.4, level=95.0)


class TestSignTest:
    @given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), max_size=25))
    @settings(max_examples=100, deadline=None)
    def test_is_the_binomial_sum_of_a_loop(self, pairs):
        first, second = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else (np.empty(0),) * 2
        ahead, behind = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
        found = sign_test(first, second)
        assert (found.for_first, found.for_second) == (ahead, behind)
        total = ahead + behind
        as_extreme = sum(comb(total, k) for k in range(total + 1) if min(k, total - k) <= min(ahead, behind))
        assert found.p_value == pytest.approx(as_extreme / 2**total)

    def test_known_values(self):
        assert sign_test(np.array([1.0] * 10), np.zeros(10)).p_value == pytest.approx(2 / 1024)
        assert sign_test(np.ones(3), np.ones(3)) == SignTest(0, 0, 1.0)
        assert sign_test(np.array([np.nan, 1.0]), np.array([0.0, 0.0])).for_first == 1
        third = np.array([1.0 / 3.0])
        assert sign_test(third, third + 1e-16).for_second == 0


class TestComparison:
    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_is_that_of_loops_over_splits_and_triplets(self, kind):
        deltas, table = voted(0, [1.0, 0.4, 0.2])
        result = cross_validate(deltas, table, LAYOUT, count=8, kind=kind, seed=3)
        found = compare_fits(result, ("OLS", "mix cosine"), deltas, table)
        weights = {model.name: model.weights for model in result.models}
        test = split_triplets(table, (0.7, 0.0, 0.3), kind=kind, count=8, seed=3) == 2
        x, majority = deltas.numpy(), table.preference
        gaps, by_triplet = [], [[] for _ in range(len(table))]
        for split in range(8):
            one, other = (x @ weights[name][split] for name in ("OLS", "mix cosine"))
            held = test[split]
            gaps.append(agreement(one[held], majority[held]) - agreement(other[held], majority[held]))
            for row in np.flatnonzero(held):
                by_triplet[row].append(
                    agreement(one[[row]], majority[[row]]) - agreement(other[[row]], majority[[row]])
                )
        assert found.difference == corrected_resampled_t_test(np.array(gaps), 0.3 / 0.7)
        means = [np.mean(values) for values in by_triplet if values]
        expected = (sum(mean > 1e-9 for mean in means), sum(mean < -1e-9 for mean in means))
        assert (found.signs.for_first, found.signs.for_second) == expected
        scores = {model.name: model.agreement[:, 0].mean() for model in result.models}
        assert found.agreement == pytest.approx((scores["OLS"], scores["mix cosine"]))

    def test_predictions_of_any_model_can_be_compared(self):
        rng = np.random.default_rng(1)
        majority, test = rng.choice([-1, 1], 90), rng.random((20, 90)) < 0.3
        good, bad = majority + 0.5 * rng.normal(size=(20, 90)), rng.normal(size=(1, 90))
        found = compare_models(("spline", "coin"), (good, bad), majority, test, test_train_ratio=3 / 7)
        assert found.told_apart
        assert found.verdict.startswith("spline agrees more often than coin: +")

    def test_a_model_is_not_better_than_itself(self):
        deltas, table = voted(2, [1.0, 0.4, 0.2])
        result = cross_validate(deltas, table, LAYOUT, count=5)
        found = compare_fits(result, ("ridge", "ridge"), deltas, table)
        assert (found.difference.mean, found.difference.p_value, found.signs.p_value) == (0.0, 1.0, 1.0)
        assert found.verdict.startswith("No difference between ridge and ridge can be told: +0.0 points")

    def test_models_that_are_not_there_are_named(self):
        deltas, table = voted(3, [1.0, 0.4, 0.2])
        result = cross_validate(deltas, table, LAYOUT, count=3)
        with pytest.raises(ConfigError, match=r"mix cosine, uniform weights, OLS, ridge .* got OLS and human ceiling"):
            compare_fits(result, ("OLS", "human ceiling"), deltas, table)
        with pytest.raises(ConfigError, match="and 9 triplets"):
            compare_fits(result, ("OLS", "ridge"), deltas[:9], table.select(range(9)))

    def test_verdicts(self):
        gap = PairedDifference(0.021, 0.009, 0.003, 0.039, 0.02, 0.95, 100)
        ahead = Comparison("A", "B", (0.9, 0.88), gap, SignTest(23, 9, 0.0201))
        assert ahead.verdict == (
            "A agrees more often than B: +2.1 points, 95 % interval [0.3, 3.9], p = 0.02 (23 triplets for A, 9 for B; "
            "sign test p = 0.02)."
        )
        flipped = PairedDifference(-0.021, 0.009, -0.039, -0.003, 0.02, 0.95, 100)
        behind = Comparison("B", "A", (0.88, 0.9), flipped, SignTest(9, 23, 0.0201))
        assert behind.verdict == ahead.verdict
        doubtful = replace(ahead, signs=SignTest(12, 9, 0.66))
        assert doubtful.verdict.endswith("sign test p = 0.66, which does not confirm it).")
        unsure = replace(ahead, difference=replace(gap, lower=-0.004, p_value=0.31))
        assert unsure.verdict.startswith("No difference between A and B can be told: +2.1 points, 95 % interval [-0.4,")

    def test_small_probabilities(self):
        assert [format_p(p) for p in (0.5, 0.0449, 0.00123, 0.0009, 0.0)] == [
            "= 0.5",
            "= 0.045",
            "= 0.0012",
            "< 0.001",
            "< 0.001",
        ]


class TestExperiments:
    """Seeds are fixed, so that nothing here depends on chance."""

    def verdicts(self, weights, count=120, **options):
        """Return which of a stem or another one is called better, over simulated listening tests."""
        found = []
        for seed in range(count):
            deltas, table = voted(seed, weights, triplets=200, **options)
            test = split_triplets(table, (0.7, 0.0, 0.3), count=30, seed=seed) == 2
            stems = (deltas.numpy()[None, :, 0], deltas.numpy()[None, :, 1])
            found.append(compare_models(("a", "b"), stems, table.preference, test, test_train_ratio=3 / 7))
        return found

    def test_equal_models_are_seldom_told_apart(self):
        found = self.verdicts([1.0, 1.0, 0.5])
        assert np.mean([one.told_apart for one in found]) <= 0.10
        assert np.mean([one.signs.p_value < 0.05 for one in found]) <= 0.10
        # The usual standard error, of independent splits, is far too small.
        naive = [one.difference.standard_error * (1 / 30 / (1 / 30 + 3 / 7)) ** 0.5 for one in found]
        fooled = [abs(one.difference.mean) > 2.05 * error for one, error in zip(found, naive, strict=True)]
        assert np.mean(fooled) > 0.4

    def test_a_better_model_is_found(self):
        found = self.verdicts([2.0, 0.7, 0.0], count=40)
        assert np.mean([one.told_apart for one in found]) >= 0.95
        assert all(re.match(r"a agrees more often than b: \+", one.verdict) for one in found if one.told_apart)
