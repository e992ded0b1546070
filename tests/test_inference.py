"""Intervals of the weights against loops, closed forms and simulated experiments; collinearity, importance, penalty."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize
from sklearn.linear_model import BayesianRidge, LinearRegression, Ridge, RidgeCV
from tables import make_triplets

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import agreement, split_triplets
from stemsim.evaluation.collinearity import collinearity
from stemsim.evaluation.importance import leave_one_stem_out
from stemsim.evaluation.inference import (
    WeightIntervals,
    bayesian_intervals,
    bootstrap_intervals,
    cluster_intervals,
    least_squares_intervals,
    weight_intervals,
)
from stemsim.evaluation.penalty import nested_cross_validation, weight_path
from stemsim.evaluation.pigeonhole import distinct_units, replicate_weights, shared_variance

SEEDS = st.integers(0, 100_000)
LAYOUT = ("bass", "drums", "mix")


def experiment(seed, *, triplets=200, tracks=40, stems=3, track_effects=0.0, noise=1.0):
    """Return features, targets, tracks and the weights that least squares finds with endless tracks."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(tracks, stems))
    drawn = np.argsort(rng.random((triplets, tracks)), axis=1)[:, :3]
    drawn[rng.random(triplets) < 0.6, 1] = -1
    drawn[:, 1] = np.where(drawn[:, 1] < 0, drawn[:, 0], drawn[:, 1])
    x, a, b = (embedding[drawn[:, role]] + 0.5 * rng.normal(size=(triplets, stems)) for role in range(3))
    deltas = np.abs(x - b) - np.abs(x - a)
    weights = np.linspace(0.2, 1.0, stems)
    popular, slopes = rng.normal(size=tracks), rng.normal(size=(tracks, stems))
    target = deltas @ weights + noise * rng.normal(size=triplets)
    target += track_effects * (popular[drawn[:, 1]] - popular[drawn[:, 2]])
    target += track_effects * (deltas * slopes[drawn[:, 0]]).sum(axis=1)
    return torch.from_numpy(deltas), torch.from_numpy(target), drawn.astype(np.int64), weights


class TestPigeonhole:
    @given(SEEDS, st.integers(1, 25), st.integers(2, 8), st.integers(1, 3))
    @settings(max_examples=60, deadline=None)
    def test_variances_are_those_of_loops_over_pairs(self, seed, observations, units, places):
        rng = np.random.default_rng(seed)
        rows, scores = rng.integers(units, size=(observations, places)), rng.normal(size=(observations, 2))
        robust = pigeonhole = 0.0
        for one in range(observations):
            for other in range(observations):
                shared = len(set(rows[one]) & set(rows[other]))
                product = scores[one] * scores[other]
                robust = robust + product * (shared > 0)
                pigeonhole = pigeonhole + product * (2**shared - 1)
        found = shared_variance(scores, [rows])
        independent = (scores**2).sum(axis=0)
        np.testing.assert_allclose(found.independent, independent)
        np.testing.assert_allclose(found.robust, np.maximum(robust, independent), atol=1e-9)
        np.testing.assert_allclose(found.pigeonhole, np.maximum(pigeonhole, independent), atol=1e-9)

    def test_units_of_two_kinds_are_not_mistaken_for_each_other(self):
        rng = np.random.default_rng(0)
        listener, triplet = rng.integers(5, size=(60, 1)), rng.integers(7, size=(60, 1))
        scores = rng.normal(size=(60, 1))
        found = shared_variance(scores, [listener, triplet])
        same = (listener == listener.T) | (triplet == triplet.T)
        assert found.robust[0] == pytest.approx(max((scores.T @ same @ scores).item(), (scores**2).sum()))

    @given(SEEDS, st.integers(1, 12))
    @settings(max_examples=30, deadline=None)
    def test_units_are_named_once_an_observation(self, seed, observations):
        rows = np.random.default_rng(seed).integers(-3, 4, size=(observations, 3))
        numbered, count = distinct_units(rows)
        assert count == len(np.unique(rows))
        for row, found in zip(rows, numbered, strict=True):
            assert sorted(np.unique(rows)[found[found >= 0]]) == sorted(set(row))

    def test_weights_are_products_of_how_often_distinct_units_were_drawn(self):
        rows = np.array([[0, 0, 1], [1, 2, 3], [3, 3, 3], [2, 0, 2]])
        (weights,) = replicate_weights([rows], 500, np.random.default_rng(3))
        draws = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), size=500)
        expected = np.array([[np.prod([draw[unit] for unit in set(row)]) for row in rows.tolist()] for draw in draws])
        np.testing.assert_array_equal(weights, expected)

    def test_memory_does_not_change_what_is_drawn_but_how_much_at_once(self, monkeypatch):
        rows = np.arange(20).reshape(10, 2)
        monkeypatch.setattr("stemsim.evaluation.pigeonhole._ELEMENTS_AT_ONCE", 35)
        pieces = list(replicate_weights([rows], 8, np.random.default_rng(0)))
        assert [len(piece) for piece in pieces] == [3, 3, 2]
        (whole,) = replicate_weights([rows[:1]], 8, np.random.default_rng(0))
        assert whole.shape == (8, 1)


class TestLeastSquares:
    def test_is_the_textbook(self):
        deltas, target, _, _ = experiment(1, triplets=60)
        found = least_squares_intervals(deltas, target, LAYOUT, level=0.9)
        x, y = deltas.numpy(), target.numpy()
        fit = LinearRegression(fit_intercept=False).fit(x, y)
        variance = ((y - fit.predict(x)) ** 2).sum() / 57
        error = np.sqrt(variance * np.diag(np.linalg.inv(x.T @ x)))
        np.testing.assert_allclose(found.estimate, fit.coef_)
        np.testing.assert_allclose(found.standard_error, error)
        np.testing.assert_allclose(found.upper - found.estimate, stats.t.ppf(0.95, 57) * error)
        np.testing.assert_allclose(found.estimate - found.lower, stats.t.ppf(0.95, 57) * error)

    def test_one_stem_is_linear_regression_through_the_origin(self):
        deltas, target, _, _ = experiment(2, triplets=30, stems=1)
        found = least_squares_intervals(deltas, target, ("mix",))
        x, y = deltas.numpy()[:, 0], target.numpy()
        slope = x @ y / (x @ x)
        t_value = slope / np.sqrt(((y - slope * x) ** 2).sum() / 29 / (x @ x))
        assert found.estimate[0] / found.standard_error[0] == pytest.approx(t_value)


class TestClusters:
    def test_is_that_of_a_loop_over_pairs_of_triplets(self):
        deltas, target, tracks, _ = experiment(3, triplets=50, tracks=12, track_effects=1.0)
        found = cluster_intervals(deltas, target, tracks, LAYOUT)
        x, y = deltas.numpy(), target.numpy()
        inverse = np.linalg.inv(x.T @ x)
        residual = (y - x @ inverse @ x.T @ y) / (1.0 - np.diag(x @ inverse @ x.T))
        meat = np.zeros((3, 3))
        for one in range(50):
            for other in range(50):
                if set(tracks[one]) & set(tracks[other]):
                    meat += residual[one] * residual[other] * np.outer(x[one], x[other])
        count = len(np.unique(tracks))
        expected = np.sqrt(np.diag(inverse @ meat @ inverse) * count / (count - 1))
        independent = np.sqrt(np.square((x * residual[:, None]) @ inverse).sum(axis=0) * count / (count - 1))
        np.testing.assert_allclose(found.standard_error, np.maximum(expected, independent))
        np.testing.assert_allclose(found.upper - found.lower, 2 * stats.t.ppf(0.975, count - 1) * found.standard_error)

    def test_triplets_asked_twice_do_not_make_weights_surer(self):
        deltas, target, _, _ = experiment(4, triplets=80, tracks=25)
        tracks = np.arange(240).reshape(80, 3)  # otherwise nothing is shared
        once = cluster_intervals(deltas, target, tracks, LAYOUT)
        thrice = cluster_intervals(deltas.repeat(3, 1), target.repeat(3), np.tile(tracks, (3, 1)), LAYOUT)
        np.testing.assert_allclose(thrice.standard_error, once.standard_error, rtol=0.1)
        plain = least_squares_intervals(deltas, target, LAYOUT)
        fooled = least_squares_intervals(deltas.repeat(3, 1), target.repeat(3), LAYOUT)
        np.testing.assert_allclose(fooled.standard_error, plain.standard_error / np.sqrt(3), rtol=0.05)


class TestBootstrap:
    def test_replicates_are_refits_with_the_triplets_repeated(self):
        deltas, target, tracks, _ = experiment(5, triplets=60, tracks=15)
        found = bootstrap_intervals(deltas, target, tracks, LAYOUT, alpha=2.0, replicates=40, deflate=False, seed=9)
        (weights,) = replicate_weights([tracks], 40, np.random.default_rng(9))
        refits = []
        for row in weights.astype(int):
            index = np.repeat(np.arange(60), row)
            refits.append(Ridge(2.0, fit_intercept=False).fit(deltas[index].numpy(), target[index].numpy()).coef_)
        np.testing.assert_allclose(found.lower, np.quantile(refits, 0.025, axis=0))
        np.testing.assert_allclose(found.upper, np.quantile(refits, 0.975, axis=0))
        np.testing.assert_allclose(found.standard_error, np.std(refits, axis=0, ddof=1))

    def test_has_the_width_of_the_robust_interval_and_the_plain_scheme_is_far_wider(self):
        deltas, target, tracks, _ = experiment(6, triplets=331, tracks=132, track_effects=0.5)
        boot, robust = (f(deltas, target, tracks, LAYOUT) for f in (bootstrap_intervals, cluster_intervals))
        plain = bootstrap_intervals(deltas, target, tracks, LAYOUT, deflate=False)
        np.testing.assert_allclose(boot.upper - boot.lower, robust.upper - robust.lower, rtol=0.12)
        assert ((plain.upper - plain.lower) / (boot.upper - boot.lower) > 1.4).all()

    def test_follows_the_seed_and_leaves_its_arguments_alone(self):
        deltas, target, tracks, _ = experiment(7)
        before = deltas.clone(), target.clone(), tracks.copy()
        first, again, other = (
            bootstrap_intervals(deltas, target, tracks, LAYOUT, replicates=50, seed=seed) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first.lower, again.lower)
        assert (first.lower != other.lower).all()
        assert torch.equal(deltas, before[0])
        assert torch.equal(target, before[1])
        np.testing.assert_array_equal(tracks, before[2])


class TestBayes:
    @given(SEEDS, st.integers(12, 80), st.integers(1, 6))
    @settings(max_examples=20, deadline=None)
    def test_without_a_prior_it_is_least_squares(self, seed, triplets, stems):
        deltas, target, _, _ = experiment(seed, triplets=triplets, stems=stems, tracks=9)
        names = tuple(f"stem {index}" for index in range(stems))
        flat, plain = (
            bayesian_intervals(deltas, target, names, alpha=0.0),
            least_squares_intervals(deltas, target, names),
        )
        np.testing.assert_allclose(flat.lower, plain.lower, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(flat.upper, plain.upper, rtol=1e-8, atol=1e-10)

    def test_the_posterior_is_that_of_a_grid_over_weight_and_noise(self):
        deltas, target, _, _ = experiment(8, triplets=12, stems=1)
        x, y, alpha = deltas.numpy()[:, 0], target.numpy(), 3.0
        found = bayesian_intervals(deltas, target, ("mix",), alpha=alpha)
        w = np.linspace(-3.0, 4.0, 3001)
        log_s = np.linspace(-3.0, 3.0, 1501)
        variance = np.exp(2 * log_s)
        squares = ((y[:, None] - x[:, None] * w) ** 2).sum(axis=0) + alpha * w**2
        # Likelihood and prior of w, both normal; 1 / s^2 for s^2 is flat in log s.
        log_density = -0.5 * squares[:, None] / variance - (len(y) + 1) * log_s
        density = np.exp(log_density - log_density.max()).sum(axis=1)
        cumulative = np.cumsum(density) / density.sum()
        lower, upper = np.interp([0.025, 0.975], cumulative, w)
        assert found.lower[0] == pytest.approx(lower, abs=5e-3)
        assert found.upper[0] == pytest.approx(upper, abs=5e-3)
        mean = (w * density).sum() / density.sum()
        assert found.standard_error[0] == pytest.approx(np.sqrt((w**2 * density).sum() / density.sum() - mean**2), 5e-3)

    @pytest.mark.parametrize("seed", range(4))
    def test_the_penalty_and_noise_of_largest_evidence_are_scikit_learns(self, seed):
        deltas, target, _, _ = experiment(seed, triplets=120, noise=(0.3, 1.0, 2.0, 3.0)[seed])
        found = bayesian_intervals(deltas, target, LAYOUT, noise="evidence")
        tiny = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 1e-12)
        model = BayesianRidge(fit_intercept=False, max_iter=5000, tol=1e-10, **tiny).fit(deltas.numpy(), target.numpy())
        assert found.alpha == pytest.approx(model.lambda_ / model.alpha_, rel=1e-3)
        np.testing.assert_allclose(found.estimate, model.coef_, rtol=1e-5)
        np.testing.assert_allclose(found.standard_error, np.sqrt(np.diag(model.sigma_)), rtol=1e-3)

    def test_the_noise_of_largest_evidence_is_that_of_a_search(self):
        deltas, target, _, _ = experiment(9, triplets=50)
        found = bayesian_intervals(deltas, target, LAYOUT, alpha=5.0, noise="evidence")
        x, y = deltas.numpy(), target.numpy()
        covariance = np.eye(50) + x @ x.T / 5.0
        best = minimize(
            lambda v: -stats.multivariate_normal(cov=np.exp(v[0]) * covariance).logpdf(y), [0.0], method="Nelder-Mead"
        )
        posterior = np.exp(best.x[0]) * np.linalg.inv(x.T @ x + 5.0 * np.eye(3))
        np.testing.assert_allclose(found.standard_error, np.sqrt(np.diag(posterior)), rtol=1e-4)
        residual = bayesian_intervals(deltas, target, LAYOUT, alpha=5.0, noise="residual")
        hat = x @ np.linalg.inv(x.T @ x + 5.0 * np.eye(3)) @ x.T
        variance = ((y - hat @ y) ** 2).sum() / (50 - np.trace(hat))
        expected = np.sqrt(variance * np.diag(np.linalg.inv(x.T @ x + 5.0 * np.eye(3))))
        np.testing.assert_allclose(residual.standard_error, expected)

    def test_a_strong_prior_holds_the_weights_near_zero(self):
        deltas, target, _, _ = experiment(10)
        weak, strong = (bayesian_intervals(deltas, target, LAYOUT, alpha=alpha) for alpha in (1.0, 1e6))
        assert np.abs(strong.upper).max() < 0.05 < np.abs(weak.upper).max()


class TestCoverage:
    """Nominal 95 %. The seeds are fixed, so that nothing here depends on chance."""

    def covered(self, track_effects, count=200, **options):
        hits = {}
        for seed in range(count):
            deltas, target, tracks, weights = experiment(seed, track_effects=track_effects, **options)
            for found in weight_intervals(deltas, target, tracks, LAYOUT, replicates=200, seed=seed):
                hits.setdefault(found.method, []).append(found.covers(weights))
        return {method: np.mean(values) for method, values in hits.items()}

    def test_where_tracks_have_no_say_of_their_own_all_methods_cover(self):
        rates = self.covered(0.0)
        assert len(rates) == 4
        assert all(0.93 <= rate <= 0.98 for rate in rates.values()), rates

    def test_where_they_do_only_those_that_know_of_tracks_cover(self):
        rates = self.covered(0.7, tracks=60)
        assert 0.92 <= rates["track bootstrap"] <= 0.98, rates
        assert 0.92 <= rates["cluster-robust"] <= 0.98, rates
        assert rates["least squares"] < 0.90, rates
        assert rates["Bayesian ridge"] < 0.90, rates


class TestOpenWeights:
    def test_a_silent_stem_has_no_end_and_the_others_are_as_without_it(self):
        deltas, target, tracks, _ = experiment(11)
        wide = torch.cat([deltas, torch.zeros(len(deltas), 1)], dim=1)
        names = (*LAYOUT, "vocals")
        for found, without in zip(
            weight_intervals(wide, target, tracks, names, replicates=100),
            weight_intervals(deltas, target, tracks, LAYOUT, replicates=100),
            strict=True,
        ):
            assert (found.lower[3], found.upper[3]) == (-np.inf, np.inf), found.method
            np.testing.assert_allclose(found.lower[:3], without.lower, rtol=1e-6)
            np.testing.assert_allclose(found.upper[:3], without.upper, rtol=1e-6)

    def test_under_a_prior_its_posterior_is_the_prior(self):
        deltas, target, tracks, _ = experiment(11)
        wide = torch.cat([deltas, torch.zeros(len(deltas), 1)], dim=1)
        found = bayesian_intervals(wide, target, (*LAYOUT, "vocals"), alpha=2.0)
        assert np.isfinite(found.upper).all()
        assert found.upper[3] > found.upper[:3].max() - 1.0
        assert cluster_intervals(wide, target, tracks, (*LAYOUT, "vocals"), alpha=2.0).upper[3] == np.inf

    def test_two_equal_stems_have_no_end(self):
        deltas, target, _, _ = experiment(12)
        deltas[:, 0] = deltas[:, 1]
        found = least_squares_intervals(deltas, target, LAYOUT)
        assert np.isinf(found.upper).tolist() == [True, True, False]


def test_what_cannot_be_is_refused():
    deltas, target, tracks, _ = experiment(0)
    with pytest.raises(TripletError, match="more than 3 triplets; got 3"):
        least_squares_intervals(deltas[:3], target[:3], LAYOUT)
    with pytest.raises(TripletError, match="at least 3 of them distinct; got 200 rows and 2 tracks"):
        cluster_intervals(deltas, target, tracks % 2, LAYOUT)
    with pytest.raises(TripletError, match="got 5 rows"):
        bootstrap_intervals(deltas, target, tracks[:5], LAYOUT)
    with pytest.raises(ConfigError, match="at least 2 replicates"):
        bootstrap_intervals(deltas, target, tracks, LAYOUT, replicates=1)
    with pytest.raises(ConfigError, match="at least 0"):
        bayesian_intervals(deltas, target, LAYOUT, alpha=-1.0)
    with pytest.raises(ConfigError, match="in \\(0, 1\\)"):
        least_squares_intervals(deltas, target, LAYOUT, level=95.0)
    with pytest.raises(ConfigError, match="one number a stem"):
        WeightIntervals("by hand", LAYOUT, *(np.zeros(2) for _ in range(4)), level=0.95, alpha=0.0)


def test_the_frame_has_one_row_a_stem():
    deltas, target, _, _ = experiment(0)
    frame = least_squares_intervals(deltas, target, LAYOUT).frame()
    assert frame["stem"].tolist() == list(LAYOUT)
    assert (frame["lower"] < frame["weight"]).all()


class TestCollinearity:
    def test_inflation_is_one_over_what_the_other_stems_do_not_explain(self):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(90, 4)) @ rng.normal(size=(4, 4)) + 0.5
        found = collinearity(torch.from_numpy(rows), ("a", "b", "c", "d"))
        for stem in range(4):
            others = np.delete(rows, stem, axis=1)
            fit = LinearRegression(fit_intercept=False).fit(others, rows[:, stem])
            left = ((rows[:, stem] - fit.predict(others)) ** 2).sum() / (rows[:, stem] ** 2).sum()
            assert found.inflation[stem] == pytest.approx(1.0 / left)
        scaled = rows / np.linalg.norm(rows, axis=0)
        assert found.condition == pytest.approx(np.linalg.cond(scaled))
        np.testing.assert_allclose(found.correlation, scaled.T @ scaled)

    def test_scale_of_the_features_does_not_count(self):
        rows = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 3)))
        one, other = collinearity(rows, LAYOUT), collinearity(rows * torch.tensor([1e-3, 1.0, 50.0]), LAYOUT)
        np.testing.assert_allclose(one.inflation, other.inflation)
        assert one.condition == pytest.approx(other.condition)

    def test_orthogonal_stems_can_be_told_apart(self):
        found = collinearity(torch.eye(3, dtype=torch.float64).repeat(5, 1), LAYOUT)
        np.testing.assert_allclose(found.inflation, 1.0)
        assert found.condition == pytest.approx(1.0)
        assert found.groups == ()
        assert found.sentence.startswith("All stems can be told apart on these triplets: the largest variance infl")

    @pytest.mark.parametrize(("sign", "known"), [(1.0, "sum"), (-1.0, "difference")])
    def test_a_pair_is_named(self, sign, known):
        rng = np.random.default_rng(2)
        rows = rng.normal(size=(200, 5))
        rows[:, 2] = sign * rows[:, 3] + 0.1 * rows[:, 2]
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "guitar", "piano", "mix"))
        assert found.groups == (("guitar", "piano"),)
        assert found.sentence.startswith("guitar and piano cannot be told apart on these triplets: their similarity")
        assert f"only the {known} of their weights is well known" in found.sentence
        assert f"correlate at {sign * 0.99:+.2f}"[:-1] in found.sentence

    def test_a_mix_that_is_a_sum_of_stems_is_one_group_with_them(self):
        rows = np.random.default_rng(3).normal(size=(200, 5))
        rows[:, 4] = rows[:, 0] + rows[:, 1] + rows[:, 2] + 0.05 * rows[:, 4]
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "guitar", "piano", "mix"))
        assert found.groups == (("bass", "drums", "guitar", "mix"),)
        assert found.inflation[3] < 1.2
        assert "bass, drums, guitar and mix cannot be told apart" in found.sentence
        assert "only their joint contribution" in found.sentence

    def test_two_pairs_are_two_groups(self):
        rows = np.random.default_rng(4).normal(size=(300, 4))
        rows[:, 1] = rows[:, 0] + 0.05 * rows[:, 1]
        rows[:, 3] = rows[:, 2] + 0.05 * rows[:, 3]
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "guitar", "piano"))
        assert found.groups == (("bass", "drums"), ("guitar", "piano"))

    def test_equal_and_silent_stems(self):
        rows = np.random.default_rng(5).normal(size=(60, 4))
        rows[:, 1] = rows[:, 0]
        rows[:, 3] = 0.0
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "mix", "vocals"))
        assert np.isinf(found.inflation[:2]).all()
        assert np.isinf(found.condition)
        assert np.isnan(found.inflation[3])
        assert found.groups == (("bass", "drums"),)
        assert "variance inflation without bound" in found.sentence
        assert "vocals is silent, or alike in both candidates, in all triplets" in found.sentence

    def test_the_standard_error_grows_with_the_root_of_the_inflation(self):
        deltas, target, _, _ = experiment(13, triplets=400)
        found = collinearity(deltas, LAYOUT)
        full = least_squares_intervals(deltas, target, LAYOUT)
        x, y = deltas.numpy(), target.numpy()
        variance = ((y - x @ full.estimate) ** 2).sum() / 397
        alone = np.sqrt(variance / (x**2).sum(axis=0))
        np.testing.assert_allclose(full.standard_error / alone, np.sqrt(found.inflation))

    def test_silence_alone_and_few_triplets_make_sentences(self):
        assert "are silent" in collinearity(torch.zeros(9, 3), LAYOUT).sentence
        few = collinearity(torch.from_numpy(np.random.default_rng(6).normal(size=(2, 3))), LAYOUT)
        assert np.isinf(few.condition)
        assert few.groups == (LAYOUT,)


def votes_of(weights, *, seed=0, triplets=400, noise=0.3, tracks=30):
    """Return features, and a table whose majority follows weights."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, tracks=tracks)
    deltas = rng.normal(size=(triplets, len(weights)))
    wanted = np.where(deltas @ weights + noise * rng.normal(size=triplets) > 0, 1, -1)
    flip = (wanted != table.preference)[:, None]
    from dataclasses import replace

    return torch.from_numpy(deltas), replace(table, votes=np.where(flip, table.votes[:, ::-1], table.votes))


class TestImportance:
    def test_is_that_of_a_loop_that_refits_every_split(self):
        deltas, table = votes_of([1.0, 0.3, 0.0], triplets=120)
        found = leave_one_stem_out(deltas, table, LAYOUT, alpha=2.0, count=5, seed=3)
        parts = split_triplets(table, (0.7, 0.0, 0.3), count=5, seed=3)
        x, y = deltas.numpy(), table.preference.astype(float)
        drops, r2_drops = np.zeros((5, 3)), np.zeros((5, 3))
        for split in range(5):
            fit, held = parts[split] == 0, parts[split] == 2
            full = Ridge(2.0, fit_intercept=False).fit(x[fit], y[fit])
            for stem in range(3):
                kept = np.delete(x, stem, axis=1)
                less = Ridge(2.0, fit_intercept=False).fit(kept[fit], y[fit])
                drops[split, stem] = agreement(full.predict(x[held]), table.preference[held]) - agreement(
                    less.predict(kept[held]), table.preference[held]
                )
                r2_drops[split, stem] = full.score(x[held], y[held]) - less.score(kept[held], y[held])
        np.testing.assert_allclose([drop.mean for drop in found.agreement_drop], drops.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose([drop.mean for drop in found.r2_drop], r2_drops.mean(axis=0), atol=1e-9)

    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_the_stem_that_listeners_follow_matters_and_the_other_does_not(self, kind):
        deltas, table = votes_of([1.5, 0.8, 0.0])
        found = leave_one_stem_out(deltas, table, LAYOUT, kind=kind, count=50)
        bass, drums, mix = found.agreement_drop
        assert bass.mean > drums.mean > mix.mean
        assert bass.p_value < 0.01
        assert mix.p_value > 0.2
        assert found.frame()["stem"].tolist() == list(LAYOUT)
        assert found.r2_drop[0].lower > 0

    def test_where_a_is_always_right_there_is_no_r2(self):
        rng = np.random.default_rng(0)
        table = make_triplets(rng, 90, same_song=True)
        deltas = torch.from_numpy(rng.normal(0.5, 1.0, size=(90, 3)))
        found = leave_one_stem_out(deltas, table, LAYOUT, count=10)
        assert np.isnan([found.r2, *(drop.mean for drop in found.r2_drop)]).all()
        assert np.isfinite([drop.p_value for drop in found.agreement_drop]).all()

    def test_refusals(self):
        deltas, table = votes_of([1.0, 1.0], triplets=30)
        with pytest.raises(ConfigError, match="at least two stems"):
            leave_one_stem_out(deltas[:, :1], table, ("mix",))
        with pytest.raises(SplitError, match="empty"):
            leave_one_stem_out(deltas, table, ("bass", "mix"), kind="grouped", train_fraction=0.03)


class TestPenalty:
    def test_the_path_is_that_of_ridge_and_of_leave_one_out(self):
        deltas, target, _, _ = experiment(14, triplets=40, noise=3.0)
        alphas = (100.0, 0.1, 1.0, 10.0, 1000.0)
        path = weight_path(deltas, target, LAYOUT, alphas=alphas)
        x, y = deltas.numpy(), target.numpy()
        np.testing.assert_array_equal(path.alphas, sorted(alphas))
        expected = RidgeCV(sorted(alphas), fit_intercept=False, store_cv_results=True).fit(x, y)
        assert path.best_alpha == expected.alpha_
        np.testing.assert_allclose(path.left_out_error, expected.cv_results_.mean(axis=0))
        for index, alpha in enumerate(sorted(alphas)):
            np.testing.assert_allclose(path.weights[index], Ridge(alpha, fit_intercept=False).fit(x, y).coef_)
            hat = x @ np.linalg.inv(x.T @ x + alpha * np.eye(3)) @ x.T
            assert path.effective[index] == pytest.approx(np.trace(hat))

    def test_without_a_penalty_the_path_begins_at_least_squares(self):
        deltas, target, _, _ = experiment(15)
        path = weight_path(deltas, target, LAYOUT, alphas=(0.0, 1.0))
        plain = least_squares_intervals(deltas, target, LAYOUT).estimate
        np.testing.assert_allclose(path.weights[0], plain)
        assert path.effective[0] == pytest.approx(3.0)

    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_nested_cross_validation_is_that_of_a_loop(self, kind):
        deltas, table = votes_of([1.0, 0.3, 0.1], triplets=220, noise=4.0, tracks=14)
        alphas = (0.1, 10.0, 100.0, 1000.0)
        found = nested_cross_validation(deltas, table, alphas=alphas, count=4, inner=6, kind=kind, seed=5)
        outer = split_triplets(table, (0.7, 0.0, 0.3), kind=kind, count=4, seed=5)
        within = split_triplets(table, (0.7, 0.0, 0.3), kind=kind, count=24, seed=6)
        x, y = deltas.numpy(), table.preference
        for split in range(4):
            train, test = outer[split] == 0, outer[split] == 2
            folds = [
                (np.flatnonzero(train & (part == 0)), np.flatnonzero(train & (part == 2)))
                for part in within[6 * split : 6 * split + 6]
            ]
            usable = [(fit, held) for fit, held in folds if len(fit) and len(held)]
            scores = np.array(
                [
                    [Ridge(alpha, fit_intercept=False).fit(x[fit], y[fit]).score(x[held], y[held]) for alpha in alphas]
                    for fit, held in usable
                    if len(set(y[held])) > 1
                ]
            )
            assert found.alphas[split] == alphas[int(scores.mean(axis=0).argmax())]
            ridge = Ridge(found.alphas[split], fit_intercept=False).fit(x[train], y[train])
            assert found.agreement[split] == pytest.approx(agreement(ridge.predict(x[test]), y[test]))
            left_out = RidgeCV(alphas, fit_intercept=False).fit(x[train], y[train])
            assert found.left_out_alphas[split] == left_out.alpha_
            assert found.left_out_agreement[split] == pytest.approx(agreement(left_out.predict(x[test]), y[test]))

    def test_empty_parts_are_refused(self):
        deltas, table = votes_of([1.0, 1.0], triplets=30)
        with pytest.raises(SplitError, match="empty part"):
            nested_cross_validation(deltas, table, kind="grouped", train_fraction=0.03)


def test_pictures_of_intervals_and_of_the_ridge_path(tmp_path):
    pytest.importorskip("matplotlib")
    from stemsim.evaluation.plots import plot_intervals, plot_ridge_path, save_figure

    deltas, target, tracks, _ = experiment(16)
    deltas[:, 2] = 0.0
    figure = plot_intervals(weight_intervals(deltas, target, tracks, LAYOUT, replicates=50), "made up")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LAYOUT)
    assert len(figure.legends[0].get_texts()) == 4
    path = plot_ridge_path(weight_path(deltas, target, LAYOUT), "made up")
    assert len(path.axes[0].get_lines()) == 3 + 2  # stems, zero, and the best penalty
    for index, one in enumerate((figure, path)):
        save_figure(one, tmp_path / f"{index}.png")
        assert (tmp_path / f"{index}.png").stat().st_size > 5000
