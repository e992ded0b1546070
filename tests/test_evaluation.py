"""Agreement, ceiling, cross-validation and comparisons against scikit-learn, loops and simulated experiments."""

from collections import Counter
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from tables import listening_test, make_triplets, saturating, voted, with_features

from stemsim.analysis import ANALYSES, summarise
from stemsim.analysis.perspectives import compare_perspectives
from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import (
    TIE,
    Splits,
    agreement,
    agreement_credit,
    ceiling_credit,
    compare_models,
    cross_validate,
    human_ceiling,
)
from stemsim.evaluation.agreement import CeilingShare, answer_credit, ceiling, share_of_ceiling
from stemsim.evaluation.comparison import (
    Comparison,
    PairedDifference,
    SignTest,
    corrected_resampled_t_test,
    format_p,
    sign_test,
)
from stemsim.evaluation.crossval import SplitFits, held_out_r2, ridge_on_train, score_fits
from stemsim.fitting import FitSettings, FusionModel
from stemsim.fusion import SplineFusion
from stemsim.report.results import CrossvalResults
from stemsim.report.tables import tables

ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)
SEEDS = st.integers(0, 100_000)
TYPES = ("XAB", "XYC")
VOTES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)
JUDGED = st.lists(
    st.tuples(st.sampled_from([-2.0, -1e-300, 0.0, -0.0, 1e-300, 0.3]), st.sampled_from([-1, 1])), min_size=1
)
ANSWERS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-1, 1])), min_size=1, max_size=40)
DIFFERENCES = st.lists(st.floats(-1.0, 1.0, width=16), min_size=2, max_size=40)


def loop_over_answers(for_a, for_b):
    """Return the credit of every single answer on a triplet against the other ones."""
    credits_ = []
    for mine, others in [(for_a, for_b)] * for_a + [(for_b, for_a)] * for_b:
        credits_.append(1.0 if mine - 1 > others else TIE if mine - 1 == others else 0.0)
    return credits_ if for_a + for_b > 1 else []


class TestAgreement:
    @given(JUDGED)
    @settings(max_examples=60, deadline=None)
    def test_is_that_of_a_loop_over_triplets(self, judged):
        preference, majority = (np.array(column) for column in zip(*judged, strict=True))
        loop = [TIE if predicted == 0 else float((predicted > 0) == (wanted > 0)) for predicted, wanted in judged]
        np.testing.assert_array_equal(agreement_credit(preference, majority), loop)
        np.testing.assert_array_equal(agreement_credit(np.stack([preference] * 2), majority), [loop] * 2)
        assert agreement(preference, majority) == pytest.approx(np.mean(loop))
        assert agreement(-preference, majority) == pytest.approx(1 - np.mean(loop))

    def test_without_triplets_or_with_tied_ones_it_is_an_error(self):
        with pytest.raises(TripletError, match="got 0, 0 of them tied"):
            agreement(np.array([]), np.array([], dtype=np.int64))
        with pytest.raises(TripletError, match="got 3, 2 of them tied"):
            agreement(np.ones(3), np.array([0, 1, 0]))


def panel(seed, *, listeners=40, triplets=60, votes=5, spread=0.0):
    """Return choices, triplets and listeners: some listeners are less reliable than others, some triplets harder."""
    rng = np.random.default_rng(seed)
    clear, careless = rng.exponential(1.0, triplets), np.exp(spread * rng.normal(size=listeners))
    triplet = np.repeat(np.arange(triplets), votes)
    listener = np.argsort(rng.random((triplets, listeners)), axis=1)[:, :votes].reshape(-1)
    right = rng.random(len(triplet)) < 1.0 / (1.0 + np.exp(-2.0 * clear[triplet] / careless[listener]))
    return np.where(right, 1, -1), triplet, listener


class TestCeiling:
    @given(VOTES)
    @settings(max_examples=100, deadline=None)
    def test_is_that_of_a_loop_over_answers_whichever_candidate_is_a(self, votes):
        table = np.array(votes, dtype=np.int64).reshape(-1, 2)
        earned = [loop_over_answers(*row) for row in votes]
        for counted in (table, table[:, ::-1]):
            credit, answers = ceiling_credit(counted)
            np.testing.assert_array_equal(credit, [sum(row) for row in earned])
            np.testing.assert_array_equal(answers, [len(row) for row in earned])
        every = [value for row in earned for value in row]
        np.testing.assert_allclose(human_ceiling(table), np.mean(every) if every else np.nan, rtol=1e-14)

    @pytest.mark.parametrize(
        ("votes", "expected"),
        [
            ([[0, 1], [0, 0]], np.nan),
            ([[2, 0]], 1.0),
            ([[2, 1]], 1 / 3),  # each of the two is tied by the others, the third is outvoted
            ([[2, 2]], 0.0),
            ([[3, 2]], 0.3),  # each of the three meets two against two
            ([[4, 1], [1, 0], [0, 0]], 0.8),  # those without two votes do not count
            ([[9, 0], [1, 1]], 9 / 11),  # answers count alike, triplets by their answers
        ],
    )
    def test_of_known_votes(self, votes, expected):
        np.testing.assert_allclose(human_ceiling(np.array(votes)), expected)

    @given(ANSWERS)
    @settings(max_examples=60, deadline=None)
    def test_credit_of_answers_is_that_of_a_loop_and_adds_up_to_that_of_the_votes(self, answers):
        triplet, choice = (np.array(column) for column in zip(*answers, strict=True))
        credit = answer_credit(choice, triplet)
        for index, (asked, chosen) in enumerate(answers):
            others = sum(other for row, (t, other) in enumerate(answers) if t == asked and row != index)
            alone = sum(t == asked for t, _ in answers) == 1
            np.testing.assert_equal(credit[index], np.nan if alone else 0.5 * (1 + np.sign(others) * chosen))
        votes = np.stack([np.bincount(triplet[choice == side], minlength=6) for side in (1, -1)], axis=1)
        sums = np.bincount(triplet, weights=np.nan_to_num(credit), minlength=6)
        np.testing.assert_allclose(sums, ceiling_credit(votes)[0])
        found = ceiling(choice, triplet, np.arange(len(choice)))
        np.testing.assert_allclose(np.nan if found is None else found.value, human_ceiling(votes))

    def test_order_and_names_of_answers_do_not_count_and_more_triplets_narrow_the_interval(self):
        choice, triplet, listener = panel(1)
        order = np.random.default_rng(0).permutation(len(choice))
        names = np.array([f"subject{index:03d}" for index in listener])
        one, other = ceiling(choice, triplet, listener), ceiling(choice[order], triplet[order], names[order])
        assert one == pytest.approx(other)
        assert 0.0 <= one.lower < one.value < one.upper <= 1.0
        few, many = (np.diff(ceiling(*panel(3, triplets=n, listeners=80))[1:])[0] for n in (30, 480))
        assert many < 0.5 * few
        alike, apart = (np.diff(ceiling(*panel(2, listeners=12, triplets=300, spread=s))[1:])[0] for s in (0.0, 2.0))
        assert apart > 1.5 * alike, "unequal listeners widen it"

    def test_full_agreement_is_not_certainty_and_one_triplet_tells_nothing_about_others(self):
        triplet = np.repeat(np.arange(20), 3)
        assert ceiling(np.ones(60, int), triplet, np.tile(np.arange(3), 20)) == (1.0, pytest.approx(0.025**0.05), 1.0)
        assert ceiling(-np.ones(3, int), np.arange(3), np.arange(3)) is None
        assert ceiling(np.array([1, 1, 1, -1]), np.zeros(4, int), np.arange(4)) == (0.75, 0.0, 1.0)

    @pytest.mark.parametrize("spread", [0.0, 1.0])
    def test_the_interval_covers_and_has_the_width_of_a_bootstrap(self, spread):
        """Nominal 95 %; the seeds are fixed, so that nothing here depends on chance."""
        truth = np.mean([ceiling(*panel(s, triplets=2000, listeners=2000, spread=spread)).value for s in range(9)])
        found = [ceiling(*panel(seed, spread=spread)) for seed in range(200)]
        assert 0.91 <= np.mean([one.lower <= truth <= one.upper for one in found]) <= 0.99
        spread_of_values = 2 * 2.0 * np.std([one.value for one in found])
        assert np.mean([one.upper - one.lower for one in found]) == pytest.approx(spread_of_values, rel=0.2)


class TestShareOfCeiling:
    def test_is_the_ratio_of_the_means_that_tables_give(self):
        embedded = voted(0, [1.0, 0.4, 0.2], triplets=120)
        result = cross_validate(embedded, Splits.draw(embedded.triplets, count=7))
        for model in result.models[1:]:
            found = share_of_ceiling(result, model)
            assert found.share == found.agreement / found.ceiling == result.share_of_ceiling(model)
            assert (found.agreement, found.ceiling) == (model.mean, result.ceiling.mean)
            assert found.lower < found.share < found.upper

    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_the_interval_covers_and_its_error_is_that_of_experiments(self, kind):
        """Nothing is fitted here: the true share is that of huge tests."""

        def share(seed, triplets, count, tracks=60):
            embedded = voted(seed, [1.0, 0.5, 0.25], triplets=triplets, noise=1.0, tracks=tracks)
            splits = Splits.draw(embedded.triplets, count=count, kind=kind, seed=seed)
            result = cross_validate(embedded, splits, alphas=[1.0])
            return share_of_ceiling(result, result["uniform weights"])

        truth = np.mean(
            [share(seed, 4000, 5, tracks=1000 if kind == "stratified" else 60).share for seed in range(1000, 1008)]
        )
        found = [share(seed, 250, 30) for seed in range(150)]
        assert 0.90 <= np.mean([one.lower <= truth <= one.upper for one in found]) <= 0.99
        width = np.mean([one.upper - one.lower for one in found])
        assert width == pytest.approx(4.0 * np.std([one.share for one in found]), rel=0.25)

    def test_sentences_say_on_which_side_of_the_ceiling_a_model_is(self):
        share = CeilingShare(0.83, 0.9, 0.922, 0.88, 0.96, 0.95)
        assert share.sentence == (
            "Agreement 83.0 % is 92.2 % of the human ceiling of 90.0 % (95 % interval [88.0, 96.0]): below it."
        )
        assert replace(share, upper=1.02).sentence.endswith(": not significantly different from it.")
        assert replace(share, lower=1.01, upper=1.02, simulated=True).sentence.endswith(": above it.")
        assert "simulated ceiling" in replace(share, simulated=True).sentence


def problem(seed=0, triplets=120, *, stems=3, noise=0.3, **options):
    """Return triplets with features that explain the majority of their votes, with noise."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, **options)
    deltas = np.outer(table.preference, rng.uniform(0.05, 0.3, stems)) + rng.normal(scale=noise, size=(triplets, stems))
    return with_features(table, deltas, [*(f"stem {index}" for index in range(stems - 1)), "mix"])


def split(embedded, count=8, seed=0, **options):
    return Splits.draw(embedded.triplets, count=count, seed=seed, **options)


def folds(splits):
    return [(np.flatnonzero(fit), np.flatnonzero(held)) for fit, held in zip(splits.train, splits.test, strict=True)]


class TestRidgePath:
    @given(SEEDS, st.integers(40, 150), st.integers(1, 7), st.integers(1, 12))
    @settings(max_examples=15, deadline=None)
    def test_is_that_of_ridge_cv_over_the_same_splits(self, seed, triplets, stems, count):
        embedded = problem(seed, triplets, stems=stems, noise=(0.05, 0.5, 3.0)[seed % 3])
        splits = split(embedded, count, seed)
        result = cross_validate(embedded, splits, alphas=ALPHAS)
        x, y = embedded.deltas.numpy(), embedded.triplets.preference
        expected = RidgeCV(ALPHAS, cv=folds(splits), fit_intercept=False).fit(x, y)
        assert result.best_alpha == expected.alpha_
        np.testing.assert_allclose(result.refit, expected.coef_, atol=1e-8, rtol=0)

    def test_scores_are_those_of_every_model_and_test_parts_of_one_class_have_none(self):
        embedded, chosen = problem(8, 90, noise=1.0), set()
        splits = split(embedded, 9)
        splits.test[:4] &= embedded.triplets.preference == 1
        x, y = embedded.deltas.numpy(), embedded.triplets.preference
        result = cross_validate(embedded, splits, alphas=ALPHAS)
        r2, _ = held_out_r2(result.on_train, torch.from_numpy(splits.test))
        assert np.isnan(r2[:4]).all()
        for number, (fit, held) in enumerate(folds(splits)[4:], 4):
            for index, alpha in enumerate(ALPHAS):
                model = Ridge(alpha, fit_intercept=False).fit(x[fit], y[fit])
                assert r2[number, 1 + index] == pytest.approx(model.score(x[held], y[held]))
        assert result.best_alpha == RidgeCV(ALPHAS, cv=folds(splits)[4:], fit_intercept=False).fit(x, y).alpha_
        for seed in range(12):
            other = problem(seed, 40, stems=7, noise=(0.05, 0.5, 3.0)[seed % 3])
            chosen.add(cross_validate(other, split(other), alphas=ALPHAS).best_alpha)
        assert len(chosen) >= 3, "the comparisons with scikit-learn can distinguish penalties"

    def test_where_a_is_always_right_the_penalty_is_that_of_the_least_squared_error(self):
        chosen = set()
        for seed in range(6):
            embedded = problem(seed, 40, same_song=True, noise=(0.1, 0.6, 3.0)[seed % 3])
            splits, x, y = split(embedded, seed=seed), embedded.deltas.numpy(), embedded.triplets.preference
            errors = np.zeros(len(ALPHAS))
            for fit, held in folds(splits):
                for index, alpha in enumerate(ALPHAS):
                    model = Ridge(alpha, fit_intercept=False).fit(x[fit], y[fit])
                    errors[index] += ((model.predict(x[held]) - y[held]) ** 2).sum()
            result = cross_validate(embedded, splits, alphas=ALPHAS)
            assert result.best_alpha == ALPHAS[errors.argmin()]
            assert np.isfinite(result.refit).all()
            chosen.add(result.best_alpha)
        assert len(chosen) > 1


def slow_agreement(weights, deltas, wanted):
    """Return agreement by a loop, NaN where there are no triplets."""
    credits_ = []
    for row, majority in zip(deltas, wanted, strict=True):
        predicted = sum(weight * delta for weight, delta in zip(weights, row, strict=True))
        credits_.append(0.5 if predicted == 0 else float((predicted > 0) == (majority > 0)))
    return np.mean(credits_) if credits_ else np.nan


class TestCrossValidation:
    @pytest.mark.parametrize(("kind", "seed"), [("stratified", 5), ("stratified", 6), ("grouped", 7)])
    def test_is_that_of_a_loop_that_refits_every_split(self, kind, seed):
        embedded = problem(seed, 300, tracks=9)
        embedded.deltas[:40, 2] = 0.0  # ties of the mix
        splits, table = split(embedded, 6, seed, train_fraction=0.6, kind=kind), embedded.triplets
        result = cross_validate(embedded, splits, alphas=ALPHAS)
        assert [model.name for model in result.models] == [
            "human ceiling",
            "mix cosine",
            "uniform weights",
            "OLS",
            "ridge",
        ]
        assert [model.slug for model in result.models] == ["ceiling", "mix_cosine", "uniform_weights", "ols", "ridge"]
        x, y = embedded.deltas.numpy(), table.preference
        for number, (fit, held) in enumerate(folds(splits)):
            ols = LinearRegression(fit_intercept=False).fit(x[fit], y[fit]).coef_
            ridge = RidgeCV(ALPHAS, fit_intercept=False).fit(x[fit], y[fit])
            expected = {"mix cosine": [0, 0, 1], "uniform weights": [1, 1, 1], "OLS": ols, "ridge": ridge.coef_}
            assert result["ridge"].alphas[number] == ridge.alpha_
            for column, types in enumerate((TYPES, ("XAB",), ("XYC",))):
                rows = held[np.isin(table.test_type[held], types)]
                for name, weights in expected.items():
                    np.testing.assert_allclose(result[name].weights[number], weights, atol=1e-8, rtol=0)
                    slow = slow_agreement(weights, x[rows], y[rows])
                    np.testing.assert_allclose(result[name].agreement[number, column], slow, rtol=1e-12)
                every = [value for row in rows for value in loop_over_answers(*table.votes[row])]
                slow = np.mean(every) if every else np.nan
                np.testing.assert_allclose(result.ceiling.agreement[number, column], slow, rtol=1e-12)
        assert result.ceiling.weights is None
        assert result["OLS"].alphas is None
        assert result.ceiling.predicts is False

    def test_scaling_the_features_scales_least_squares_weights_and_moves_no_agreement(self):
        embedded = problem(6)
        splits, before = split(embedded, 5), embedded.deltas.clone()
        scaled = with_features(embedded.triplets, 8.0 * embedded.deltas, embedded.stems)
        one, ten = (cross_validate(each, splits) for each in (embedded, scaled))
        assert torch.equal(embedded.deltas, before)
        for first, second in zip(one.models[:4], ten.models[:4], strict=True):
            np.testing.assert_array_equal(first.agreement, second.agreement)
        np.testing.assert_allclose(one["OLS"].weights, 8.0 * ten["OLS"].weights, rtol=1e-9)

    def test_identical_stems_share_their_weight_on_every_split(self):
        embedded = problem(5, 3000)
        embedded.deltas[:, 0] = embedded.deltas[:, 1]
        for model in cross_validate(embedded, split(embedded, 30)).models[3:]:
            np.testing.assert_allclose(model.weights[:, 0], model.weights[:, 1], atol=1e-9)
            assert np.abs(model.weights).max() < 10

    def test_further_models_are_scored_on_their_predictions(self):
        embedded = problem(2)
        splits = split(embedded, 4)

        class Always:
            name = "always A"

            def fit(self, embedded, splits):
                return SplitFits(np.ones((len(splits), len(embedded))))

        result = cross_validate(embedded, splits, [Always()])
        share = [(embedded.triplets.preference[held] > 0).mean() for held in splits.test]
        np.testing.assert_allclose(result["always A"].agreement[:, 0], share)
        perfect = score_fits("oracle", SplitFits(embedded.triplets.preference[None].astype(float)), embedded, splits)
        assert (perfect.agreement[:, 0] == 1.0).all()
        assert "oracle" not in result
        with pytest.raises(KeyError):
            result["oracle"]

    def test_without_a_mix_there_is_no_mix_cosine_and_simulated_listeners_are_named(self):
        embedded = problem(2)
        table = replace(embedded.triplets, true_weights={"bass": 1.0, "drums": 0.0, "vocals": 0.0})
        other = with_features(table, embedded.deltas, ("bass", "drums", "vocals"))
        result = cross_validate(other, split(other, 3))
        assert [model.name for model in result.models] == ["simulated ceiling", "uniform weights", "OLS", "ridge"]
        assert result.ceiling.slug == "ceiling"

    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_same_song_triplets_of_one_vote_have_no_ceiling_and_finite_weights(self, kind):
        embedded = problem(3, 150, same_song=True, tracks=9)
        result = cross_validate(embedded, split(embedded, 5, kind=kind), alphas=ALPHAS)
        assert np.isnan(result.ceiling.agreement).all()
        assert np.isnan([result.ceiling.mean, result.share_of_ceiling(result["OLS"])]).all()
        assert share_of_ceiling(result, result["ridge"]) is None
        assert all(np.isfinite(model.weights).all() for model in result.models[1:])
        np.testing.assert_array_equal(result["OLS"].agreement[:, 0], result["OLS"].agreement[:, 2])
        assert np.isnan(result["OLS"].agreement[:, 1]).all()
        assert result["OLS"].mean > 0.5

    def test_refusals(self):
        embedded = problem(4, 30)
        with pytest.raises(ConfigError, match="at least 0"):
            cross_validate(embedded, split(embedded), alphas=(1.0, -1.0))
        table = embedded.triplets
        tied = replace(table, votes=np.where(np.arange(30)[:, None] < 2, [3, 3], table.votes))
        with pytest.raises(TripletError, match="2 of 30 triplets of made up have no majority"):
            cross_validate(with_features(tied, embedded.deltas), split(embedded))


class TestOneFigure:
    """One agreement, one figure: in the table, in the sentences and in the results that are written."""

    def test_the_agreement_of_ridge_is_the_same_everywhere(self):
        embedded = voted(5, [0.6, 0.4, 0.2], triplets=157, noise=1.5)
        for kind in ("stratified", "grouped"):
            result = cross_validate(embedded, Splits.draw(embedded.triplets, count=9, kind=kind))
            summary = summarise(result)
            results, mean = CrossvalResults.of(summary), result["ridge"].agreement[:, 0].mean()
            assert result["ridge"].mean == summary.share.agreement == summary.comparisons[0].agreement[0] == mean
            (written,) = [model for model in results.models if model.name == "ridge"]
            assert written.agreement["all"].mean == mean
            assert f"Ridge: Agreement {100 * mean:.1f} % is {100 * mean / result.ceiling.mean:.1f} %" in " ".join(
                results.verdicts
            )
            assert f"{100 * mean:.1f}" in str([table.rows for table in tables(results)])
            by_triplet = np.where(result.splits.test, result["ridge"].credit, np.nan)[:, result.splits.test.any(axis=0)]
            assert np.nanmean(by_triplet, axis=0).mean() != mean, "another mean would be another figure"


class TestNothingTwice:
    """A summary with everything draws each kind of split once, and repeats no solve."""

    def test_draws_and_solves_of_a_whole_cross_validation(self, monkeypatch):
        embedded = listening_test(saturating, noise=0.3, triplets=240, songs=24)
        draws, solves = Counter(), Counter()
        drawn, solved = Splits.draw.__func__, torch.linalg.eigh

        def draw(cls, table, **options):
            draws[options.get("kind", "stratified"), len(table)] += 1
            return drawn(cls, table, **options)

        def eigh(matrix):
            solves.update(tuple(row.reshape(-1).tolist()) for row in matrix.reshape(-1, *matrix.shape[-2:]))
            return solved(matrix)

        monkeypatch.setattr(Splits, "draw", classmethod(draw))
        monkeypatch.setattr(torch.linalg, "eigh", eigh)
        ridge_on_train.cache_clear()
        fusion = FusionModel("spline", SplineFusion, settings=FitSettings(steps=2, folds=2))
        result = cross_validate(embedded, Splits.draw(embedded.triplets, count=6), [fusion])
        summary = summarise(result, ANALYSES)
        found = compare_perspectives(result, {"overall": embedded, "rhythm": embedded.select(np.arange(200))})
        assert draws == {("stratified", 240): 1, ("grouped", 240): 1, ("stratified", 200): 1}
        assert set(solves.values()) == {1}
        assert [one is result for one in found.results.values()] == [True, False]
        assert summary.leakage is not None
        assert summary.nested is not None


class TestCorrectedTTest:
    def test_is_equation_9_of_nadeau_and_bengio(self):
        differences = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
        found = corrected_resampled_t_test(differences, 30 / 70)
        statistic = differences.mean() / np.sqrt((1 / 5 + 30 / 70) * differences.var(ddof=1))
        reach = stats.t.ppf(0.975, 4) * differences.mean() / statistic
        assert found.p_value == pytest.approx(2 * stats.t.sf(statistic, 4))
        assert (found.mean, found.lower, found.upper) == pytest.approx((0.026, 0.026 - reach, 0.026 + reach))
        assert corrected_resampled_t_test(np.insert(differences, 2, np.nan), 30 / 70) == found, "NaN does not count"

    @given(DIFFERENCES, st.floats(0.05, 5.0))
    @settings(max_examples=50, deadline=None)
    def test_swapping_flips_the_difference_and_without_overlap_it_is_the_paired_t_test(self, values, ratio):
        differences = np.array(values)
        one, other = (corrected_resampled_t_test(sign * differences, ratio) for sign in (1.0, -1.0))
        assert (one.mean, one.lower, one.upper) == (-other.mean, -other.upper, -other.lower)
        assert one.p_value == other.p_value
        assert 0.0 <= one.p_value <= 1.0
        assert one.lower <= one.mean <= one.upper
        assert (one.p_value < 0.05) == (one.lower > 0.0 or one.upper < 0.0)
        if differences.std() > 1e-6:
            expected = stats.ttest_1samp(differences, 0.0).pvalue
            assert corrected_resampled_t_test(differences, 1e-300).p_value == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
    def test_the_same_difference_everywhere(self, value, p_value):
        found = corrected_resampled_t_test(np.full(7, value), 0.4)
        assert (found.p_value, found.lower, found.upper) == (p_value, pytest.approx(value), pytest.approx(value))

    def test_refusals(self):
        with pytest.raises(SplitError, match="at least 2 splits with a value; got 1"):
            corrected_resampled_t_test(np.array([0.1, np.nan]), 0.4)
        with pytest.raises(ConfigError, match="train parts is positive"):
            corrected_resampled_t_test(np.zeros(4), 0.0)
        with pytest.raises(ConfigError, match="between 0 and 1"):
            corrected_resampled_t_test(np.arange(4.0), 0.4, level=95.0)


class TestSignTest:
    @given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2), max_size=25))
    @settings(max_examples=60, deadline=None)
    def test_is_the_binomial_sum_of_a_loop(self, pairs):
        first, second = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else (np.empty(0),) * 2
        ahead, behind = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
        found, total = sign_test(first, second), ahead + behind
        assert (found.for_first, found.for_second) == (ahead, behind)
        as_extreme = sum(comb(total, k) for k in range(total + 1) if min(k, total - k) <= min(ahead, behind))
        assert found.p_value == pytest.approx(as_extreme / 2**total)

    def test_triplets_that_were_not_tested_and_rounding_do_not_count(self):
        assert sign_test(np.array([np.nan, 1.0]), np.zeros(2)).for_first == 1
        assert sign_test(np.ones(1) / 3, np.ones(1) / 3 + 1e-16).for_second == 0


class TestComparison:
    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_is_that_of_loops_over_splits_and_triplets(self, kind):
        embedded = voted(0, [1.0, 0.4, 0.2])
        splits, x, majority = split(embedded, 8, 3, kind=kind), embedded.deltas.numpy(), embedded.triplets.preference
        result = cross_validate(embedded, splits)
        found = compare_models(result["OLS"], result["mix cosine"], splits)
        gaps, by_triplet = [], [[] for _ in range(len(embedded))]
        for number, held in enumerate(splits.test):
            one, other = (
                agreement_credit(x @ result[name].weights[number], majority) for name in ("OLS", "mix cosine")
            )
            gaps.append(one[held].mean() - other[held].mean())
            for row in np.flatnonzero(held):
                by_triplet[row].append(one[row] - other[row])
        assert found.difference.mean == pytest.approx(np.mean(gaps))
        assert found.difference.p_value == pytest.approx(corrected_resampled_t_test(np.array(gaps), 0.3 / 0.7).p_value)
        means = [np.mean(values) for values in by_triplet if values]
        expected = (sum(mean > 1e-9 for mean in means), sum(mean < -1e-9 for mean in means))
        assert (found.signs.for_first, found.signs.for_second) == expected
        assert found.agreement == (result["OLS"].mean, result["mix cosine"].mean)
        same = compare_models(result["ridge"], result["ridge"], splits)
        assert (same.difference.mean, same.difference.p_value, same.signs.p_value) == (0.0, 1.0, 1.0)
        assert same.verdict.startswith("No significant difference between ridge and ridge: +0.0 points")

    def test_verdicts(self):
        gap = PairedDifference(0.021, 0.009, 0.003, 0.039, 0.02, 0.95, 100)
        ahead = Comparison("A", "B", (0.9, 0.88), gap, SignTest(12, 9, 0.66))
        assert ahead.verdict == (
            "A agrees more often than B: +2.1 points, 95 % interval [0.3, 3.9], p = 0.02 (corrected resampled t-test)."
        ), "one test decides"
        flipped = PairedDifference(-0.021, 0.009, -0.039, -0.003, 0.02, 0.95, 100)
        assert Comparison("B", "A", (0.88, 0.9), flipped, SignTest(9, 12, 0.66)).verdict == ahead.verdict
        unsure = replace(ahead, difference=replace(gap, lower=-0.004, p_value=0.31))
        assert unsure.verdict.startswith("No significant difference between A and B: +2.1 points, 95 % interval [-0.4,")
        expected = ["= 0.5", "= 0.045", "= 0.0012", "< 0.001", "< 0.001"]
        assert [format_p(p) for p in (0.5, 0.0449, 0.00123, 0.0009, 0.0)] == expected

    def verdicts(self, weights, count, **options):
        """Compare one stem with another over simulated listening tests; seeds are fixed."""
        for seed in range(count):
            embedded = voted(seed, weights, triplets=200, **options)
            splits = split(embedded, 30, seed)
            fits = [SplitFits(embedded.deltas.numpy()[None, :, stem]) for stem in (0, 1)]
            yield compare_models(*(score_fits(n, f, embedded, splits) for n, f in zip("ab", fits, strict=True)), splits)

    def test_equal_models_seldom_differ_significantly(self):
        found = list(self.verdicts([1.0, 1.0, 0.5], 120))
        assert np.mean([one.significant for one in found]) <= 0.10
        assert np.mean([one.signs.p_value < 0.05 for one in found]) <= 0.10
        # The usual standard error, of independent splits, is far too small.
        naive = [one.difference.standard_error * (1 / 30 / (1 / 30 + 3 / 7)) ** 0.5 for one in found]
        fooled = [abs(one.difference.mean) > 2.05 * error for one, error in zip(found, naive, strict=True)]
        assert np.mean(fooled) > 0.4

    def test_a_better_model_is_found(self):
        found = list(self.verdicts([2.0, 0.7, 0.0], 40))
        assert np.mean([one.significant for one in found]) >= 0.95
        assert all(one.verdict.startswith("a agrees more often than b: +") for one in found if one.significant)
