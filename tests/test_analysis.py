"""Intervals, collinearity, importance, penalty, leakage, perspectives and summary against loops and experiments."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from tables import LAYOUT, make_triplets, preferring, rows_of, voted, with_features

from stemsim.analysis import perspectives as perspectives_module
from stemsim.analysis import summarise
from stemsim.analysis.collinearity import collinearity
from stemsim.analysis.importance import leave_one_stem_out
from stemsim.analysis.intervals import influence, weight_intervals
from stemsim.analysis.leakage import leakage, same_test_leak
from stemsim.analysis.penalty import nested_cross_validation, weight_path
from stemsim.analysis.perspectives import compare_perspectives
from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import SplitFits, Splits, agreement, cross_validate, split_triplets
from stemsim.evaluation.clusters import cluster_robust_variance
from stemsim.regression import fit_ridge
from stemsim.report.results import CrossvalResults, PerspectivesResults

SEEDS = st.integers(0, 100_000)


def cross(embedded, alphas=(0.1, 2.0, 100.0), models=(), **options):
    """Cross-validate over few splits."""
    return cross_validate(embedded, Splits.draw(embedded.triplets, **({"count": 5} | options)), models, alphas=alphas)


def experiment(seed, *, triplets=200, tracks=40, stems=3, track_effects=0.0, noise=1.0):
    """Return features, targets, tracks, and the weights that least squares finds with unlimited tracks."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(tracks, stems))
    drawn = np.argsort(rng.random((triplets, tracks)), axis=1)[:, :3]
    drawn[:, 1] = np.where(rng.random(triplets) < 0.6, drawn[:, 0], drawn[:, 1])
    x, a, b = (embedding[drawn[:, role]] + 0.5 * rng.normal(size=(triplets, stems)) for role in range(3))
    deltas = np.abs(x - b) - np.abs(x - a)
    weights = np.linspace(0.2, 1.0, stems)
    popular, slopes = rng.normal(size=tracks), rng.normal(size=(tracks, stems))
    target = deltas @ weights + noise * rng.normal(size=triplets)
    target += track_effects * (popular[drawn[:, 1]] - popular[drawn[:, 2]])
    target += track_effects * (deltas * slopes[drawn[:, 0]]).sum(axis=1)
    return torch.from_numpy(deltas), torch.from_numpy(target), drawn.astype(np.int64), weights


def intervals(deltas, target, tracks, **options):
    return weight_intervals(fit_ridge(deltas, target), tracks, **options)


class TestClusters:
    @given(SEEDS, st.integers(1, 25), st.integers(2, 8), st.integers(1, 3))
    @settings(max_examples=50, deadline=None)
    def test_variance_is_that_of_a_loop_over_pairs(self, seed, observations, units, places):
        rng = np.random.default_rng(seed)
        rows, scores = rng.integers(units, size=(observations, places)), rng.normal(size=(observations, 2))
        found = cluster_robust_variance(scores, rows)
        robust = sum(
            scores[one] * scores[other] * bool(set(rows[one]) & set(rows[other]))
            for one in range(observations)
            for other in range(observations)
        )
        count = min(observations, len(np.unique(rows)))
        if count == 1:
            assert np.isinf(found).all(), "one unit tells nothing about others"
        else:
            expected = np.maximum(robust, (scores**2).sum(axis=0)) * count / (count - 1)
            np.testing.assert_allclose(found, expected, atol=1e-9)

    def test_units_of_two_kinds_are_not_mistaken_for_each_other(self):
        rng = np.random.default_rng(0)
        listener, triplet = rng.integers(5, size=(60, 1)), rng.integers(7, size=(60, 1))
        scores = rng.normal(size=(60, 1))
        same = (listener == listener.T) | (triplet == triplet.T)
        expected = max((scores.T @ same @ scores).item(), (scores**2).sum()) * 5 / 4
        assert cluster_robust_variance(scores, listener, triplet)[0] == pytest.approx(expected)


def least_squares_errors(deltas, target):
    """Return the textbook's standard errors, of independent triplets."""
    x, y = deltas.numpy(), target.numpy()
    inverse = np.linalg.inv(x.T @ x)
    return np.sqrt(((y - x @ inverse @ x.T @ y) ** 2).sum() / (len(y) - x.shape[1]) * np.diag(inverse))


def bootstrap_errors(deltas, target, tracks, replicates=1000):
    """Return standard errors from refits to tracks drawn with replacement; a triplet needs all of its tracks."""
    x, y, count = deltas.numpy(), target.numpy(), tracks.max() + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1.0 / count), size=replicates)
    counts = np.stack([draws[:, np.unique(row)].prod(axis=1) for row in tracks], axis=1)
    refits = [np.linalg.lstsq((x.T * w) @ x, (x.T * w) @ y, rcond=None)[0] for w in counts]
    return np.std(refits, axis=0, ddof=1)


class TestIntervals:
    def test_are_those_of_a_loop_over_pairs_of_triplets(self):
        deltas, target, tracks, _ = experiment(3, triplets=50, tracks=12, track_effects=1.0)
        found = intervals(deltas, target, tracks)
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
        np.testing.assert_allclose(found.estimate, inverse @ x.T @ y)

    def test_influence_is_that_of_leaving_a_triplet_out(self):
        deltas, target, tracks, _ = experiment(4)
        fit = fit_ridge(deltas, target)
        scores = influence(fit, tracks)
        for row in range(5):
            counts = torch.ones(200)
            counts[row] = 0.0
            without = fit_ridge(deltas, target, counts=counts).weights[0]
            np.testing.assert_allclose(fit.weights[0] - without, scores[row], atol=1e-10)

    def test_of_triplets_that_share_nothing_they_are_least_squares_and_repetition_makes_nothing_surer(self):
        deltas, target, _, _ = experiment(4, triplets=80, tracks=25)
        tracks = np.arange(240).reshape(80, 3)
        once = intervals(deltas, target, tracks)
        thrice = intervals(deltas.repeat(3, 1), target.repeat(3), np.tile(tracks, (3, 1)))
        np.testing.assert_allclose(once.standard_error, least_squares_errors(deltas, target), rtol=0.15)
        np.testing.assert_allclose(thrice.standard_error, once.standard_error, rtol=0.1)
        fooled = least_squares_errors(deltas.repeat(3, 1), target.repeat(3))
        np.testing.assert_allclose(fooled, least_squares_errors(deltas, target) / np.sqrt(3), rtol=0.05)

    def test_standard_errors_are_those_of_experiments_and_of_the_bootstrap_over_tracks(self):
        drawn = [experiment(seed, track_effects=0.5, tracks=60) for seed in range(150)]
        found = [intervals(*one[:3]) for one in drawn]
        spread = np.std([one.estimate for one in found], axis=0)
        np.testing.assert_allclose(np.mean([one.standard_error for one in found], axis=0), spread, rtol=0.15)
        # The bootstrap counts the product of two triplets that share n tracks 2^n - 1 times instead of once.
        deltas, target, tracks, _ = experiment(6, triplets=331, tracks=132, track_effects=0.5)
        scores, sets = influence(fit_ridge(deltas, target), tracks), [set(row) for row in tracks.tolist()]
        times = np.array([[2 ** len(one & other) - 1 for other in sets] for one in sets])
        robust, plain = (np.einsum("is,ij,js->s", scores, counted, scores) for counted in (times > 0, times))
        robust = np.maximum(robust, np.square(scores).sum(axis=0))  # at least that of independent triplets
        deflated = np.sqrt(robust / plain) * bootstrap_errors(deltas, target, tracks)
        np.testing.assert_allclose(deflated, intervals(deltas, target, tracks).standard_error, rtol=0.15)

    @pytest.mark.parametrize(("track_effects", "tracks"), [(0.0, 40), (0.7, 60)])
    def test_cover_whether_or_not_tracks_matter(self, track_effects, tracks):
        """Nominal 95 %. The seeds are fixed, so that nothing here depends on chance."""
        robust, plain = [], []
        for seed in range(200):
            *drawn, weights = experiment(seed, track_effects=track_effects, tracks=tracks)
            found = intervals(*drawn)
            robust.append(found.covers(weights))
            reach = stats.t.ppf(0.975, 197) * least_squares_errors(*drawn[:2])
            plain.append(np.abs(found.estimate - weights) <= reach)
        assert 0.92 <= np.mean(robust) <= 0.98
        assert (np.mean(plain) < 0.90) == bool(track_effects), "intervals that ignore tracks fail where they matter"

    def test_silent_and_identical_stems_have_unbounded_intervals_and_the_others_are_as_without(self):
        deltas, target, tracks, _ = experiment(11)
        wide = torch.cat([deltas, torch.zeros(200, 1), deltas[:, :1]], dim=1)
        found, without = intervals(wide, target, tracks), intervals(deltas, target, tracks)
        assert np.isinf(found.upper).tolist() == np.isinf(found.lower).tolist() == [True, False, False, True, True]
        np.testing.assert_allclose(found.lower[1:3], without.lower[1:], rtol=1e-6)

    def test_refusals(self):
        deltas, target, tracks, _ = experiment(0)
        with pytest.raises(TripletError, match="more than 3 triplets, of at least 3 tracks; got 3 triplets"):
            intervals(deltas[:3], target[:3], tracks[:3])
        with pytest.raises(TripletError, match="got 200 triplets of 2 tracks"):
            intervals(deltas, target, tracks % 2)
        with pytest.raises(ConfigError, match="between 0 and 1"):
            intervals(deltas, target, tracks, level=95.0)


class TestCollinearity:
    def test_inflation_is_one_over_the_share_that_other_stems_do_not_explain_in_any_units(self):
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
        other = collinearity(torch.from_numpy(rows * [1e-3, 1.0, 50.0, 1.0]), found.stems)
        np.testing.assert_allclose(found.inflation, other.inflation)

    def test_orthogonal_stems_can_be_estimated_separately(self):
        found = collinearity(torch.eye(3, dtype=torch.float64).repeat(5, 1), LAYOUT)
        np.testing.assert_allclose([*found.inflation, found.condition], 1.0)
        assert found.groups == ()
        assert found.sentence.startswith("All weights can be estimated separately on these triplets: the largest var")

    @pytest.mark.parametrize(("sign", "known"), [(1.0, "sum"), (-1.0, "difference")])
    def test_pairs_are_named(self, sign, known):
        rows = np.random.default_rng(2).normal(size=(300, 5))
        rows[:, 2] = sign * rows[:, 3] + 0.1 * rows[:, 2]
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "guitar", "piano", "mix"))
        assert found.groups == (("guitar", "piano"),)
        assert found.sentence.startswith("The weights of guitar and piano cannot be estimated separately on these trip")
        assert f"only the {known} of their weights is well known" in found.sentence
        assert f"correlate at {sign * 0.99:+.2f}"[:-1] in found.sentence
        rows[:, 1] = rows[:, 0] + 0.05 * rows[:, 1]
        assert collinearity(torch.from_numpy(rows), found.stems).groups == (("bass", "drums"), ("guitar", "piano"))

    def test_a_mix_that_is_a_sum_of_stems_is_one_group_with_them(self):
        rows = np.random.default_rng(3).normal(size=(200, 5))
        rows[:, 4] = rows[:, 0] + rows[:, 1] + rows[:, 2] + 0.05 * rows[:, 4]
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "guitar", "piano", "mix"))
        assert found.groups == (("bass", "drums", "guitar", "mix"),)
        assert found.inflation[3] < 1.2
        assert "weights of bass, drums, guitar and mix cannot be estimated separately" in found.sentence
        assert "only their joint contribution" in found.sentence

    def test_equal_silent_and_too_many_stems(self):
        rows = np.random.default_rng(5).normal(size=(60, 4))
        rows[:, 1], rows[:, 3] = rows[:, 0], 0.0
        found = collinearity(torch.from_numpy(rows), ("bass", "drums", "mix", "vocals"))
        assert np.isinf([*found.inflation[:2], found.condition]).all()
        assert found.silent == ("vocals",)
        assert found.groups == (("bass", "drums"),)
        assert "variance inflation without bound" in found.sentence
        assert "vocals is silent, or equal in both candidates, in all triplets" in found.sentence
        assert "are silent" in collinearity(torch.zeros(9, 3), LAYOUT).sentence
        few = collinearity(torch.from_numpy(np.random.default_rng(6).normal(size=(2, 3))), LAYOUT)
        assert (few.condition, few.groups) == (np.inf, (LAYOUT,))

    def test_the_standard_error_grows_with_the_root_of_the_inflation(self):
        deltas, target, _, _ = experiment(13, triplets=400)
        x, y = deltas.numpy(), target.numpy()
        variance = ((y - LinearRegression(fit_intercept=False).fit(x, y).predict(x)) ** 2).sum() / 397
        alone = np.sqrt(variance / (x**2).sum(axis=0))
        inflation = collinearity(deltas, LAYOUT).inflation
        np.testing.assert_allclose(least_squares_errors(deltas, target) / alone, np.sqrt(inflation))


class TestImportance:
    def test_is_that_of_a_loop_that_refits_every_split(self):
        embedded = voted(0, [1.0, 0.3, 0.0], triplets=120, noise=0.3)
        result = cross(embedded, seed=3)
        found, alpha = leave_one_stem_out(result), result.best_alpha
        x, y = embedded.deltas.numpy(), embedded.triplets.preference
        drops, r2_drops = np.zeros((5, 3)), np.zeros((5, 3))
        for split, (fit, held) in enumerate(zip(result.splits.train, result.splits.test, strict=True)):
            full = Ridge(alpha, fit_intercept=False).fit(x[fit], y[fit])
            for stem in range(3):
                kept = np.delete(x, stem, axis=1)
                less = Ridge(alpha, fit_intercept=False).fit(kept[fit], y[fit])
                drops[split, stem] = agreement(full.predict(x[held]), y[held]) - agreement(
                    less.predict(kept[held]), y[held]
                )
                r2_drops[split, stem] = full.score(x[held], y[held]) - less.score(kept[held], y[held])
        np.testing.assert_allclose([drop.mean for drop in found.agreement_drop], drops.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose([drop.mean for drop in found.r2_drop], r2_drops.mean(axis=0), atol=1e-9)

    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_the_stem_that_listeners_follow_matters_and_the_other_does_not(self, kind):
        found = leave_one_stem_out(cross(voted(0, [1.5, 0.8, 0.0], triplets=400, noise=0.3), kind=kind, count=50))
        bass, drums, mix = found.agreement_drop
        assert bass.mean > drums.mean > mix.mean
        assert bass.p_value < 0.01
        assert mix.p_value > 0.2
        assert found.r2_drop[0].lower > 0

    def test_where_a_is_always_right_there_is_no_r2_and_one_stem_alone_is_refused(self):
        rng = np.random.default_rng(0)
        table = make_triplets(rng, 90, same_song=True)
        deltas = rng.normal(0.5, 1.0, size=(90, 3))
        found = leave_one_stem_out(cross(with_features(table, deltas)))
        assert np.isnan([drop.mean for drop in found.r2_drop]).all()
        assert np.isfinite([drop.p_value for drop in found.agreement_drop]).all()
        with pytest.raises(ConfigError, match="at least two stems"):
            leave_one_stem_out(cross(with_features(table, deltas[:, :1], ["mix"])))


class TestPenalty:
    def test_the_path_is_that_of_ridge_and_of_leave_one_out(self):
        embedded, alphas = voted(0, [1.0, 0.3, 0.1], triplets=40, noise=3.0), (100.0, 0.1, 1.0, 10.0, 1000.0)
        path = weight_path(cross(embedded, alphas))
        x, y = embedded.deltas.numpy(), embedded.triplets.preference.astype(float)
        np.testing.assert_array_equal(path.alphas, sorted(alphas))
        expected = RidgeCV(sorted(alphas), fit_intercept=False, store_cv_results=True).fit(x, y)
        assert path.best_alpha == expected.alpha_
        np.testing.assert_allclose(path.left_out_error, expected.cv_results_.mean(axis=0))
        for index, alpha in enumerate(sorted(alphas)):
            np.testing.assert_allclose(path.weights[index], Ridge(alpha, fit_intercept=False).fit(x, y).coef_)

    @pytest.mark.parametrize("kind", ["stratified", "grouped"])
    def test_nested_cross_validation_is_that_of_a_loop(self, kind):
        embedded, alphas = voted(0, [1.0, 0.3, 0.1], triplets=220, noise=4.0, tracks=14), (0.1, 10.0, 100.0, 1000.0)
        result = cross(embedded, alphas, count=4, kind=kind, seed=5)
        found = nested_cross_validation(result, inner=6)
        within = split_triplets(embedded.triplets, (0.7, 0.0, 0.3), kind=kind, count=24, seed=6)
        x, y = embedded.deltas.numpy(), embedded.triplets.preference
        for split, (train, test) in enumerate(zip(result.splits.train, result.splits.test, strict=True)):
            parts = within[6 * split : 6 * split + 6]
            folds = [(np.flatnonzero(train & (one == 0)), np.flatnonzero(train & (one == 2))) for one in parts]
            scores = [
                [Ridge(alpha, fit_intercept=False).fit(x[fit], y[fit]).score(x[held], y[held]) for alpha in alphas]
                for fit, held in folds
                if len(fit) and len(held) and len(set(y[held])) > 1
            ]
            assert found.alphas[split] == alphas[int(np.mean(scores, axis=0).argmax())]
            ridge = Ridge(found.alphas[split], fit_intercept=False).fit(x[train], y[train])
            assert found.agreement[split, 0] == pytest.approx(agreement(ridge.predict(x[test]), y[test]))

    def test_train_parts_that_cannot_be_split_again_are_refused(self):
        embedded = voted(0, [1.0, 1.0, 0.0], triplets=60, tracks=6)
        splits = Splits.draw(embedded.triplets, count=1, train_fraction=0.34, kind="grouped", seed=1)
        with pytest.raises(SplitError, match="cannot be split again"):
            nested_cross_validation(cross_validate(embedded, splits), inner=2)


TRACKS = 24


def popularity_contest(seed=0, triplets=900):
    """Return features that name the tracks, and votes for the candidate of the more popular track."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, tracks=TRACKS)
    _, a, b = np.array([[int(table.tracks[i][5:]) for i in column] for column in table.members.T])
    popular = rng.normal(size=TRACKS)
    names = [f"track {index}" for index in range(TRACKS)]
    return with_features(preferring(table, popular[a] - popular[b]), np.eye(TRACKS)[a] - np.eye(TRACKS)[b], names)


def honest(easy=False, triplets=900):
    """Return features that mean the same for any track; `easy`: XYC triplets are never mistaken."""
    rng = np.random.default_rng(0)
    table, deltas = make_triplets(rng, triplets, tracks=TRACKS), rng.normal(size=(triplets, 3))
    noise = np.where((table.test_type == "XYC") & easy, 0.0, 2.0) * rng.normal(size=triplets)
    return with_features(preferring(table, deltas @ [1.0, 0.5, 0.25] + noise), deltas)


def row_of(found, model):
    (row,) = [row for row in found.rows if row.model == model]
    return row


class TestLeakage:
    def test_where_a_model_can_learn_tracks_by_heart_the_random_split_lies(self):
        found = leakage(cross(popularity_contest(), count=30))
        for model in ("OLS", "ridge"):
            row = row_of(found, model)
            assert row.stratified > 0.85
            assert row.grouped < 0.6, "new tracks have no weight but rounding"
            assert row.matched - row.grouped > 0.3
        uniform = row_of(found, "uniform weights")
        assert abs(uniform.stratified - uniform.grouped) < 1e-9, "nothing was learned, so nothing leaks"
        assert all(one.difference.mean > 0.3 and one.significant for one in found.same_test)
        assert found.sentence.endswith(": tracks leak.")

    @pytest.mark.parametrize("easy", [False, True])
    def test_where_the_weights_hold_for_all_tracks_nothing_leaks_though_xyc_triplets_are_easy(self, easy):
        result = cross(honest(easy, 1500 if easy else 900), count=60)
        found = leakage(result)
        grouped = cross(result.embedded, count=60, kind="grouped")
        assert not easy or grouped["OLS"].mean > result["OLS"].mean + 0.02, "a grouped split keeps more easy triplets"
        for row in found.rows:
            assert abs(row.matched - row.grouped) < 0.03, row
        cosine = row_of(found, "mix cosine")
        assert abs(cosine.stratified - cosine.matched) < 0.01
        for one in found.same_test:
            assert abs(one.difference.mean) < 0.02
            assert not one.significant

    def test_splits_of_either_kind_lead_to_the_same_decomposition(self):
        embedded = honest()
        by_kind = {kind: cross(embedded, kind=kind, seed=4) for kind in ("stratified", "grouped")}
        first, second = map(leakage, by_kind.values())
        assert first.rows == second.rows
        assert first.same_test == second.same_test == same_test_leak(by_kind["grouped"])
        xab = (embedded.triplets.test_type == "XAB").mean()
        ols = by_kind["grouped"]["OLS"].agreement
        expected = xab * np.nanmean(ols[:, 1]) + (1 - xab) * np.nanmean(ols[:, 2])
        assert row_of(first, "OLS").grouped == pytest.approx(expected)
        assert first.train_size[1] < first.train_size[0]

    def test_one_test_type_alone_will_do_and_too_few_tracks_are_an_error(self):
        embedded = honest()
        found = leakage(cross(rows_of(embedded, np.flatnonzero(embedded.triplets.test_type == "XYC"))))
        assert all(np.isfinite(row.grouped) for row in found.rows)
        with pytest.raises(SplitError, match="empty train or test part"):
            leakage(cross(honest(triplets=20), train_fraction=0.95, count=20))


WEIGHTS = {"overall": (1.0, 1.5, 0.4), "timbre": (0.0, 0.0, 1.0), "rhythm": (0.3, 2.0, 0.0)}


def asked_about(seed=0, triplets=400, weights=WEIGHTS, listeners=7):
    """Return triplets by question, of listeners who follow known weights, on tables that overlap."""
    rng = np.random.default_rng(seed)
    table, deltas = make_triplets(rng, triplets, tracks=40), rng.normal(size=(triplets, 3)) * [1.0, 0.5, 2.0]
    asked = {}
    for question, truth in weights.items():
        for_a = rng.binomial(listeners, 1 / (1 + np.exp(-2 * deltas @ np.array(truth))))
        named = dict(zip(LAYOUT, map(float, truth), strict=True))
        one = replace(table, votes=np.stack([for_a, listeners - for_a], axis=1), true_weights=named)
        rows = np.flatnonzero(rng.random(triplets) < 0.8)
        asked[question] = with_features(one.select(rows), deltas[rows])
    return asked


def perspectives(asked, **options):
    return compare_perspectives(cross(next(iter(asked.values())), count=2), asked, **options)


def parts_of(asked):
    """Return the parts of each question, before they are described."""
    (question, tracks, scale), start, found = perspectives_module._shared(list(asked.values())), 0, {}
    for name, one in asked.items():
        rows = slice(start, start := start + len(one))
        found[name] = perspectives_module._fit_parts(one, scale, question[rows], tracks[rows])
    return found


def slow_errors(parts, less=None):
    """Return standard errors by a sum over pairs of triplets that share a track."""
    rows = list(zip(parts.question.tolist(), parts.tracks.tolist(), parts.influence, strict=True))
    if less is not None:
        rows += [
            (q, t, -s) for q, t, s in zip(less.question.tolist(), less.tracks.tolist(), less.influence, strict=True)
        ]
    total = sum(one * other for _, t, one in rows for _, u, other in rows if set(t) & set(u))
    by_question = {}
    for question, _, score in rows:
        by_question[question] = by_question.get(question, 0) + score
    count = len({track for _, tracks, _ in rows for track in tracks})
    return np.sqrt(np.maximum(total, sum(map(np.square, by_question.values()))) * count / (count - 1))


class TestPerspectives:
    def test_known_parts_come_back_within_their_intervals(self):
        covered = []
        for seed in range(60):
            table = perspectives(asked_about(seed)).table
            np.testing.assert_allclose(table["part"].pow(2).groupby(table["question"]).sum(), 1.0)
            covered.append((table["lower"] <= table["true_part"]) & (table["true_part"] <= table["upper"]))
        assert 0.92 < np.mean(covered) < 0.98, "540 intervals of 95 %"

    def test_the_stems_that_drive_a_perspective_are_named_and_equal_questions_seldom_differ(self):
        found = perspectives(asked_about())
        differ = {(row.question, row.stem) for row in found.table.itertuples() if row.adjusted_p < 0.05}
        assert {("rhythm", "drums"), ("timbre", "mix")} <= differ
        assert any(said.startswith("mix counts less for rhythm than overall: -") for said in found.sentences)
        rhythm = next(said for said in found.sentences if said.startswith("rhythm: "))
        assert "mix" not in rhythm, "a stem whose interval holds 0 is not named"
        false = 0
        for seed in range(12):
            same = perspectives(asked_about(seed, weights=dict.fromkeys(WEIGHTS, (0.3, 0.5, 1.0))))
            false += (same.table["adjusted_p"] < 0.05).any()
        assert false <= 2, "0.6 are to be expected"

    def test_errors_are_those_of_a_slow_sum_over_pairs_of_triplets_that_share_a_track(self):
        parts = parts_of(asked_about(triplets=60))
        first, second = parts["overall"], parts["rhythm"]
        np.testing.assert_allclose(perspectives_module._error(first)[0], slow_errors(first))
        np.testing.assert_allclose(perspectives_module._error(first, second)[0], slow_errors(first, second))
        assert (perspectives_module._error(first, first)[0] == 0.0).all(), "errors in common cancel"

    def test_questions_with_the_same_answers_do_not_differ(self):
        asked = asked_about()
        found = perspectives({"overall": asked["overall"], "timbre": asked["overall"]})
        differences = found.table[found.table["question"] == "timbre"].filter(regex="less|difference|adjusted")
        assert differences.to_numpy().tolist() == [[0, 0, 0, 1]] * 3

    def test_influence_is_that_of_leaving_a_triplet_out(self):
        asked = {"overall": asked_about(triplets=200)["overall"]}
        (parts,) = parts_of(asked).values()
        for row in range(5):
            others = np.delete(np.arange(len(asked["overall"])), row)
            (without,) = parts_of({"overall": rows_of(asked["overall"], others)}).values()
            np.testing.assert_allclose(parts.part - without.part, parts.influence[row], atol=3e-3)

    def test_units_of_a_stem_do_not_matter(self):
        asked = asked_about()
        grown = {
            name: with_features(one.triplets, one.deltas * torch.tensor([1.0, 1e-3, 5.0]))
            for name, one in asked.items()
        }
        one, other = perspectives(asked).table, perspectives(grown).table
        np.testing.assert_allclose(one["part"], other["part"], atol=1e-9)
        np.testing.assert_allclose(one["standard_error"], other["standard_error"], atol=1e-9)

    def test_silent_and_identical_stems_have_unbounded_intervals_and_no_differences(self):
        asked = {}
        for question, one in asked_about().items():
            wide = torch.cat([one.deltas, one.deltas[:, :1], torch.zeros(len(one), 1)], dim=1)
            table = replace(one.triplets, true_weights=None)
            asked[question] = with_features(table, wide, ("bass", "drums", "mix", "guitar", "vocals"))
        found = perspectives(asked)
        assert len(found.results) == 3
        for _, rows in found.table.groupby("question"):
            assert np.isinf(rows["standard_error"]).tolist() == [True, False, False, True, True]
            part = rows["part"].tolist()
            assert part[4] == 0.0
            assert part[0] == pytest.approx(part[3]), "the shortest solution"
        assert set(found.table.loc[found.table["adjusted_p"].notna(), "stem"]) == {"drums", "mix"}
        json.loads(PerspectivesResults.of(found).model_dump_json())

    def test_holm_is_the_step_down_of_bonferroni(self):
        holm = perspectives_module._holm
        np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
        np.testing.assert_allclose(holm(np.array([0.6, 0.6])), [1.0, 1.0])
        assert len(holm(np.array([]))) == 0

    def test_questions_with_too_few_triplets_are_left_out_with_the_reason(self):
        asked = asked_about()
        few, silent = (
            rows_of(asked["rhythm"], [0, 1]),
            with_features(asked["timbre"].triplets, 0 * asked["timbre"].deltas),
        )
        found = perspectives({**asked, "rhythm": few})
        assert list(found.results) == ["overall", "timbre"]
        reason = "rhythm is left out: Standard errors of 3 weights need more than 3 triplets"
        assert found.sentences[-1].startswith(reason)
        result = cross(asked["overall"], count=2)
        with pytest.raises(TripletError, match="need more than 3 triplets"):
            compare_perspectives(result, {"rhythm": few})
        with pytest.raises(TripletError, match="no triplets"):
            compare_perspectives(result, {"rhythm": rows_of(few, [])})
        with pytest.raises(TripletError, match="All stem weights are 0"):
            compare_perspectives(result, {"timbre": silent})
        with pytest.raises(SplitError):
            compare_perspectives(
                cross(asked["overall"], kind="grouped"), {"timbre": rows_of(asked["timbre"], range(9))}
            )
        with pytest.raises(ConfigError, match="level"):
            compare_perspectives(result, asked, level=95)


class Always:
    """Prefers A wherever it is `right`, and B elsewhere."""

    name = "always"

    def fit(self, embedded, splits):
        return SplitFits(embedded.triplets.preference[None].astype(float))


class TestSummary:
    def test_everything_is_there_on_request(self):
        embedded = voted(3, [0.0, 1.0, 0.3], triplets=260, noise=0.6, tracks=30)
        plain, full = (
            summarise(cross(embedded, count=20, models=[Always()]), wanted)
            for wanted in ((), ("importance", "penalty", "leakage"))
        )
        assert (plain.importance, plain.path, plain.nested, plain.leakage) == (None,) * 4
        bass, drums, mix = full.importance.agreement_drop
        assert drums.mean > max(bass.mean, mix.mean)
        assert full.intervals.lower[1] > 0.0 > full.intervals.lower[0]
        assert [(one.first, one.second) for one in full.comparisons] == [("ridge", "mix cosine"), ("always", "ridge")]
        assert full.sentences[0].startswith("ridge agrees more often than mix cosine")
        assert full.sentences[1].startswith("always agrees more often than ridge")
        said = " ".join(full.sentences)
        assert "Penalty within the train parts: median alpha" in said
        assert "Leakage, ridge on the same test triplets" in said
        written = json.loads(CrossvalResults.of(full).model_dump_json())
        assert written["by_stem"]["drums"]["variance_inflation"] == pytest.approx(1, abs=0.1)

    def test_whatever_cannot_be_computed_is_left_out_with_the_reason(self):
        rng = np.random.default_rng(0)
        single = with_features(make_triplets(rng, 40, same_song=True), rng.normal(0.5, 1.0, size=(40, 1)), ["mix"])
        summary = summarise(cross(single), ("importance",))
        assert (summary.share, summary.importance, summary.comparisons) == (None, None, ())
        few = voted(0, [1.0] * 5, triplets=4, stems=("bass", "drums", "guitar", "piano", "mix"))
        summary = summarise(cross(few, count=3), ("penalty", "leakage"))
        assert summary.intervals is None
        assert summary.sentences[-2].startswith("No intervals of the weights: Standard errors of 5 weights")
        assert summary.sentences[-1].startswith("No splits by track: ")
