"""Exact least squares against scikit-learn, explicit loops and brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from stemsim.errors import ConfigError
from stemsim.regression import normal_equations, ridge_weights, solve_ridge

ALPHAS = (0.0, 0.01, 1.0, 30.0)
SEEDS = st.integers(0, 100_000)


def problem(seed, triplets=60, stems=7, rank=None):
    """Return features with singular values in [0.3, 3], so that 1e-8 can be asked of any size and rank, and votes."""
    rng = np.random.default_rng(seed)
    rank = min(triplets, stems) if rank is None else rank
    left, right = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in (triplets, stems))
    deltas = (left * rng.uniform(0.3, 3.0, rank)) @ right.T
    return torch.from_numpy(deltas), torch.from_numpy(rng.choice([-1.0, 1.0], triplets))


def solve_all(deltas, preference, alpha=0.0):
    """Return what the normal equations of all triplets give."""
    everything = torch.ones(len(deltas), dtype=torch.bool)
    return solve_ridge(normal_equations(deltas, preference, everything), torch.tensor([alpha], dtype=torch.float64))[0]


def shortest(deltas, preference):
    """Return the minimum-norm least squares solution, with a cut-off far above rounding."""
    return np.linalg.pinv(deltas.numpy(), rcond=1e-9) @ preference.numpy()


@given(SEEDS, st.integers(1, 120), st.integers(1, 9), st.sampled_from(ALPHAS))
@settings(max_examples=80, deadline=None)
def test_weights_are_those_of_scikit_learn_for_any_size(seed, triplets, stems, alpha):
    deltas, preference = problem(seed, triplets, stems)
    model = Ridge(alpha, fit_intercept=False) if alpha else LinearRegression(fit_intercept=False, tol=1e-12)
    expected = model.fit(deltas.numpy(), preference.numpy()).coef_
    np.testing.assert_allclose(ridge_weights(deltas, preference, alpha), expected, atol=1e-8, rtol=0)
    np.testing.assert_allclose(solve_all(deltas, preference, alpha), expected, atol=1e-8, rtol=0)


@given(SEEDS, st.integers(1, 60), st.integers(1, 5), st.sampled_from(ALPHAS))
@settings(max_examples=60, deadline=None)
def test_nonnegative_weights_are_the_best_of_all_sets_of_active_stems(seed, triplets, stems, alpha):
    deltas, preference = problem(seed, triplets, stems)
    rows = np.vstack([deltas.numpy(), alpha**0.5 * np.eye(stems)])
    target = np.append(preference.numpy(), np.zeros(stems))
    best = target @ target  # no stem at all
    for size in range(1, stems + 1):
        for active in combinations(range(stems), size):
            weights = np.linalg.lstsq(rows[:, active], target, rcond=None)[0]
            if (weights >= 0).all():
                best = min(best, ((rows[:, active] @ weights - target) ** 2).sum())
    found = ridge_weights(deltas, preference, alpha, nonnegative=True).numpy()
    assert (found >= 0).all()
    assert ((rows @ found - target) ** 2).sum() == pytest.approx(best, abs=1e-9)


@given(SEEDS, st.integers(10, 90), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_nonnegative_least_squares_is_that_of_scikit_learn(seed, triplets, stems):
    deltas, preference = problem(seed, triplets, stems)
    expected = LinearRegression(fit_intercept=False, positive=True).fit(deltas.numpy(), preference.numpy()).coef_
    found = ridge_weights(deltas, preference, nonnegative=True)
    np.testing.assert_allclose(found, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_nonnegative_ridge_is_that_of_scikit_learn_as_far_as_its_iterations_go(seed, alpha):
    deltas, preference = problem(seed)
    model = Ridge(alpha, fit_intercept=False, positive=True, tol=1e-14, max_iter=100_000)
    expected = model.fit(deltas.numpy(), preference.numpy()).coef_
    found = ridge_weights(deltas, preference, alpha, nonnegative=True)
    assert (found == 0).any(), "the problem must have an active constraint"
    assert (found > 0).any()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@given(SEEDS, st.integers(1, 60), st.integers(2, 7), st.data())
@settings(max_examples=50, deadline=None)
def test_features_of_any_rank_get_the_shortest_solution(seed, triplets, stems, data):
    rank = data.draw(st.integers(1, min(triplets, stems)))
    deltas, preference = problem(seed, triplets, stems, rank)
    expected = shortest(deltas, preference)
    np.testing.assert_allclose(ridge_weights(deltas, preference), expected, atol=1e-8, rtol=0)
    np.testing.assert_allclose(solve_all(deltas, preference), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("triplets", [9, 331, 27_000])
@pytest.mark.parametrize("relation", ["silent", "identical", "scaled", "sum"])
def test_stems_that_cannot_be_told_apart_get_the_shortest_solution_however_many_triplets(relation, triplets):
    """The rounding of the Gram matrix grows with the triplets: identical stems once got weights of 1e13."""
    deltas, preference = problem(5, triplets)
    deltas *= triplets**0.5  # entries of the same size for any number of triplets
    if relation == "silent":
        deltas[:, 2] = 0.0
    elif relation == "identical":
        deltas[:, 4] = deltas[:, 5]
    elif relation == "scaled":
        deltas[:, 4] = 0.37 * deltas[:, 5]
    else:
        deltas[:, 6] = deltas[:, :3].sum(dim=1)
    subsets = torch.from_numpy(np.random.default_rng(1).random((10, triplets)) < 0.9)
    subsets[0] = True
    solved = solve_ridge(normal_equations(deltas, preference, subsets), torch.zeros(1))[:, 0]
    for subset, weights in zip(subsets, solved, strict=True):
        expected = shortest(deltas[subset], preference[subset])
        np.testing.assert_allclose(weights, expected, atol=1e-7 * max(1.0, np.abs(expected).max()), rtol=0)
        np.testing.assert_allclose(
            ridge_weights(deltas[subset], preference[subset]),
            expected,
            atol=1e-8 * max(1.0, np.abs(expected).max()),
            rtol=0,
        )
    if relation == "silent":
        assert solved[:, 2].abs().max() < 1e-12


def test_features_without_any_sound_get_no_weight():
    deltas, preference = torch.zeros(12, 3, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    for alpha in ALPHAS:
        assert (solve_all(deltas, preference, alpha) == 0).all()
        for nonnegative in (False, True):
            assert (ridge_weights(deltas, preference, alpha, nonnegative=nonnegative) == 0).all()


def test_a_weak_stem_beside_strong_ones_keeps_its_ridge_weight():
    """What rounding hides from least squares must not be hidden from a penalty that is well above rounding."""
    rng = np.random.default_rng(0)
    deltas, preference = torch.from_numpy(rng.normal(size=(27_000, 3))), torch.from_numpy(rng.choice([-1.0, 1], 27_000))
    deltas[:, 2] *= 1e-6  # its eigenvalue lies below the tolerance of the open directions
    preference += 1e3 * deltas[:, 2]
    expected = Ridge(1e-6, fit_intercept=False).fit(deltas.numpy(), preference.numpy()).coef_
    assert abs(expected[2]) > 1.0
    np.testing.assert_allclose(solve_all(deltas, preference, 1e-6), expected, rtol=1e-4, atol=1e-6)


def test_batched_splits_equal_explicit_refits_of_each_split():
    deltas, preference = problem(7, 80)
    subsets = torch.from_numpy(np.random.default_rng(1).random((3, 4, len(deltas))) < 0.7)
    solved = solve_ridge(normal_equations(deltas, preference, subsets), torch.tensor(ALPHAS, dtype=torch.float64))
    assert solved.shape == (3, 4, len(ALPHAS), 7)
    assert solved.dtype == torch.float64
    for place in np.ndindex(3, 4):
        rows, target = deltas[subsets[place]].numpy(), preference[subsets[place]].numpy()
        for index, alpha in enumerate(ALPHAS):
            model = Ridge(alpha, fit_intercept=False) if alpha else LinearRegression(fit_intercept=False)
            np.testing.assert_allclose(solved[place][index], model.fit(rows, target).coef_, atol=1e-8, rtol=0)


@given(SEEDS, st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_normal_equations_are_those_of_a_loop_over_triplets(seed, triplets, stems, splits):
    rng = np.random.default_rng(seed)
    deltas, preference = rng.normal(size=(triplets, stems)), rng.normal(size=triplets)
    subsets = rng.random((splits, triplets)) < 0.5
    found = normal_equations(*(torch.from_numpy(array) for array in (deltas, preference, subsets)))
    for split in range(splits):
        gram, moment, size, square, total = np.zeros((stems, stems)), np.zeros(stems), 0, 0.0, 0.0
        for row in range(triplets):
            if subsets[split, row]:
                for i in range(stems):
                    moment[i] += deltas[row, i] * preference[row]
                    for j in range(stems):
                        gram[i, j] += deltas[row, i] * deltas[row, j]
                size += 1
                square += preference[row] ** 2
                total += preference[row]
        for array, expected in zip(found, (gram, moment, size, square, total), strict=True):
            np.testing.assert_allclose(array[split], expected, atol=1e-12)
        np.testing.assert_array_equal(found.gram[split], found.gram[split].T)


def test_fitting_mutates_nothing_and_single_precision_is_fitted_in_double():
    deltas, preference = problem(2)
    single = deltas.float()
    before = single.clone(), preference.clone()
    for nonnegative in (False, True):
        found = ridge_weights(single, preference, 0.5, nonnegative=nonnegative)
        torch.testing.assert_close(found, ridge_weights(single.double(), preference, 0.5, nonnegative=nonnegative))
        assert found.dtype == torch.float64
    torch.testing.assert_close(solve_all(single, preference), solve_all(single.double(), preference))
    assert torch.equal(single, before[0])
    assert torch.equal(preference, before[1])


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_penalties_out_of_range_are_refused(alpha):
    deltas, preference = problem(0)
    for nonnegative in (False, True):
        with pytest.raises(ConfigError, match="at least 0"):
            ridge_weights(deltas, preference, alpha, nonnegative=nonnegative)
    with pytest.raises(ConfigError, match="at least 0"):
        solve_all(deltas, preference, alpha)


class TestPrior:
    """Ridge that shrinks towards weights other than 0."""

    @given(SEEDS, st.integers(1, 80), st.integers(1, 7), st.sampled_from(ALPHAS[1:]))
    @settings(max_examples=40, deadline=None)
    def test_is_ridge_on_what_the_prior_leaves(self, seed, triplets, stems, alpha):
        deltas, preference = problem(seed, triplets, stems)
        prior = torch.from_numpy(np.random.default_rng(seed).normal(size=stems))
        left = (preference - deltas @ prior).numpy()
        expected = prior.numpy() + Ridge(alpha, fit_intercept=False).fit(deltas.numpy(), left).coef_
        found = ridge_weights(deltas, preference, alpha, prior=prior)
        np.testing.assert_allclose(found, expected, atol=1e-8, rtol=0)
        equations = normal_equations(deltas, preference, torch.ones(1, triplets, dtype=torch.bool))
        solved = solve_ridge(equations, torch.tensor([alpha]).double(), prior=prior)[0, 0]
        np.testing.assert_allclose(solved, expected, atol=1e-8, rtol=0)

    def test_minimises_the_penalised_error(self):
        deltas, preference = problem(1, 50, 4)
        prior = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

        def loss(weights):
            return ((deltas @ weights - preference) ** 2).sum() + 5.0 * ((weights - prior) ** 2).sum()

        found = ridge_weights(deltas, preference, 5.0, prior=prior)
        for step in torch.eye(4, dtype=torch.float64) * 1e-4:
            assert loss(found) < min(loss(found + step), loss(found - step))

    @pytest.mark.parametrize("nonnegative", [False, True])
    def test_the_prior_0_is_none_and_a_huge_penalty_is_the_prior(self, nonnegative):
        deltas, preference = problem(2, 60, 3)
        prior = torch.tensor([1.0, 0.2, 0.7], dtype=torch.float64)
        none, zero, firm = (
            ridge_weights(deltas, preference, alpha, nonnegative=nonnegative, prior=p)
            for alpha, p in ((2.0, None), (2.0, torch.zeros(3)), (1e12, prior))
        )
        np.testing.assert_allclose(none, zero, atol=1e-12)
        np.testing.assert_allclose(firm, prior, atol=1e-6)

    def test_nonnegative_weights_are_the_best_of_all_sets_of_active_stems(self):
        deltas, preference = problem(3, 40, 4)
        prior = torch.tensor([0.5, -1.5, 0.1, -0.2], dtype=torch.float64)
        rows = np.vstack([deltas.numpy(), 2.0**0.5 * np.eye(4)])
        target = np.append(preference.numpy(), 2.0**0.5 * prior.numpy())
        best = target @ target
        for active in (list(chosen) for size in range(1, 5) for chosen in combinations(range(4), size)):
            weights = np.linalg.lstsq(rows[:, active], target, rcond=None)[0]
            if (weights >= 0).all():
                best = min(best, ((rows[:, active] @ weights - target) ** 2).sum())
        found = ridge_weights(deltas, preference, 2.0, nonnegative=True, prior=prior).numpy()
        assert (found >= 0).all()
        assert (found == 0).any()
        assert ((rows @ found - target) ** 2).sum() == pytest.approx(best, abs=1e-9)

    def test_a_silent_stem_keeps_the_priors_weight(self):
        deltas, preference = problem(4, 60, 3)
        deltas[:, 1] = 0.0
        prior = torch.tensor([1.0, 0.4, 2.0], dtype=torch.float64)
        equations = normal_equations(deltas, preference, torch.ones(1, 60, dtype=torch.bool))
        for alpha in (0.0, 1.0):
            assert ridge_weights(deltas, preference, alpha, prior=prior)[1] == pytest.approx(0.4)
            assert solve_ridge(equations, torch.tensor([alpha]), prior=prior)[0, 0, 1] == pytest.approx(0.4)

    def test_each_subset_may_have_a_prior_of_its_own(self):
        deltas, preference = problem(5, 60, 3)
        subsets = torch.from_numpy(np.random.default_rng(1).random((2, 4, 60)) < 0.6)
        priors = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 4, 3)))
        alphas = torch.tensor([0.0, 3.0], dtype=torch.float64)
        solved = solve_ridge(normal_equations(deltas, preference, subsets), alphas, prior=priors)
        assert solved.shape == (2, 4, 2, 3)
        for place in np.ndindex(2, 4):
            chosen = subsets[place]
            for index, alpha in enumerate(alphas.tolist()):
                expected = ridge_weights(deltas[chosen], preference[chosen], alpha, prior=priors[place])
                np.testing.assert_allclose(solved[place][index], expected, atol=1e-8)

    @pytest.mark.parametrize("prior", [torch.ones(2), torch.tensor(1.0), torch.tensor([1.0, np.nan, 0.0])])
    def test_what_is_no_weight_a_stem_is_refused(self, prior):
        deltas, preference = problem(6, 20, 3)
        with pytest.raises(ConfigError, match="one finite number for each of the 3 stems"):
            ridge_weights(deltas, preference, 1.0, prior=prior)
        equations = normal_equations(deltas, preference, torch.ones(1, 20, dtype=torch.bool))
        with pytest.raises(ConfigError, match="one finite number for each of the 3 stems"):
            solve_ridge(equations, torch.ones(1), prior=prior)

    def test_one_fit_takes_one_prior(self):
        deltas, preference = problem(6, 20, 3)
        with pytest.raises(ConfigError, match="got shape \\(2, 3\\)"):
            ridge_weights(deltas, preference, 1.0, prior=torch.ones(2, 3))
