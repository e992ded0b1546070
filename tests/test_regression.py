"""Exact least squares against scikit-learn, explicit loops and brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV

from stemsim import regression
from stemsim.errors import ConfigError
from stemsim.regression import fit_ridge, normal_equations, ridge_weights

ALPHAS = (0.0, 0.01, 1.0, 30.0)
SEEDS = st.integers(0, 100_000)


def problem(seed, triplets=60, stems=7, rank=None):
    """Return features with singular values in [0.3, 3], so that 1e-8 can be asked of any size and rank, and votes."""
    rng = np.random.default_rng(seed)
    rank = min(triplets, stems) if rank is None else rank
    left, right = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in (triplets, stems))
    deltas = (left * rng.uniform(0.3, 3.0, rank)) @ right.T
    return torch.from_numpy(deltas), torch.from_numpy(rng.choice([-1.0, 1.0], triplets))


def fit_all(deltas, target, alpha=0.0):
    return fit_ridge(deltas, target, [alpha]).weights[0]


def shortest(deltas, target):
    """Return the minimum-norm least squares solution, with a cut-off far above rounding."""
    return np.linalg.pinv(deltas.numpy(), rcond=1e-9) @ target.numpy()


@given(SEEDS, st.integers(1, 120), st.integers(1, 9), st.sampled_from(ALPHAS))
@settings(max_examples=60, deadline=None)
def test_weights_are_those_of_scikit_learn_for_any_size(seed, triplets, stems, alpha):
    deltas, target = problem(seed, triplets, stems)
    model = Ridge(alpha, fit_intercept=False) if alpha else LinearRegression(fit_intercept=False, tol=1e-12)
    expected = model.fit(deltas.numpy(), target.numpy()).coef_
    for found in (ridge_weights(deltas, target, alpha), fit_all(deltas, target, alpha)):
        np.testing.assert_allclose(found, expected, atol=1e-8, rtol=0)


def best_of_all_active_sets(rows, target):
    """Return the least squared error of weights of at least 0, over all sets of stems that may be above 0."""
    best = target @ target
    for size in range(1, rows.shape[1] + 1):
        for active in combinations(range(rows.shape[1]), size):
            weights = np.linalg.lstsq(rows[:, active], target, rcond=None)[0]
            if (weights >= 0).all():
                best = min(best, ((rows[:, active] @ weights - target) ** 2).sum())
    return best


@given(SEEDS, st.integers(1, 60), st.integers(1, 5), st.sampled_from(ALPHAS))
@settings(max_examples=40, deadline=None)
def test_nonnegative_weights_are_the_best_of_all_sets_of_active_stems(seed, triplets, stems, alpha):
    deltas, target = problem(seed, triplets, stems)
    rows, wanted = np.vstack([deltas, alpha**0.5 * np.eye(stems)]), np.append(target, np.zeros(stems))
    found = ridge_weights(deltas, target, alpha, nonnegative=True).numpy()
    assert (found >= 0).all()
    assert ((rows @ found - wanted) ** 2).sum() == pytest.approx(best_of_all_active_sets(rows, wanted), abs=1e-9)
    if not alpha and triplets >= 10:
        expected = LinearRegression(fit_intercept=False, positive=True).fit(deltas.numpy(), target.numpy()).coef_
        np.testing.assert_allclose(found, expected, atol=1e-8, rtol=0)


@given(SEEDS, st.integers(1, 60), st.integers(2, 7), st.data())
@settings(max_examples=40, deadline=None)
def test_features_of_any_rank_get_the_shortest_solution(seed, triplets, stems, data):
    rank = data.draw(st.integers(1, min(triplets, stems)))
    deltas, target = problem(seed, triplets, stems, rank)
    for found in (ridge_weights(deltas, target), fit_all(deltas, target)):
        np.testing.assert_allclose(found, shortest(deltas, target), atol=1e-8, rtol=0)


@pytest.mark.parametrize("triplets", [9, 331, 27_000])
@pytest.mark.parametrize("relation", ["silent", "identical", "scaled", "sum"])
def test_undetermined_directions_are_recognised_however_many_triplets(relation, triplets):
    """The rounding of the Gram matrix grows with the triplets: identical stems once got weights of 1e13."""
    deltas, target = problem(5, triplets)
    deltas *= triplets**0.5  # entries of the same size for any number of triplets
    tied = {"silent": [2], "identical": [4, 5], "scaled": [4, 5], "sum": [0, 1, 2, 6]}[relation]
    if relation == "silent":
        deltas[:, 2] = 0.0
    elif relation == "sum":
        deltas[:, 6] = deltas[:, :3].sum(dim=1)
    else:
        deltas[:, 4] = (0.37 if relation == "scaled" else 1.0) * deltas[:, 5]
    subsets = torch.from_numpy(np.random.default_rng(1).random((10, triplets)) < 0.9)
    subsets[0] = True
    fit = fit_ridge(deltas, target, counts=subsets)
    assert np.flatnonzero(fit.undetermined[0]).tolist() == tied
    for subset, weights in zip(subsets, fit.weights[:, 0], strict=True):
        expected = shortest(deltas[subset], target[subset])
        size = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(weights, expected, atol=1e-7 * size, rtol=0)
        np.testing.assert_allclose(ridge_weights(deltas[subset], target[subset]), expected, atol=1e-8 * size, rtol=0)
    assert relation != "silent" or fit.weights[..., 2].abs().max() < 1e-12


def test_features_without_any_sound_get_no_weight():
    deltas, target = torch.zeros(12, 3, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    fit = fit_ridge(deltas, target, ALPHAS)
    assert (fit.weights == 0).all()
    assert fit.undetermined.all()
    assert all((ridge_weights(deltas, target, a, nonnegative=sign) == 0).all() for a in ALPHAS for sign in (0, 1))


def test_a_weak_stem_beside_strong_ones_keeps_its_ridge_weight():
    """What rounding hides from least squares must not be hidden from a penalty that is well above rounding."""
    rng = np.random.default_rng(0)
    deltas, target = torch.from_numpy(rng.normal(size=(27_000, 3))), torch.from_numpy(rng.choice([-1.0, 1], 27_000))
    deltas[:, 2] *= 1e-6  # its eigenvalue lies below the tolerance of undetermined directions
    target += 1e3 * deltas[:, 2]
    expected = Ridge(1e-6, fit_intercept=False).fit(deltas.numpy(), target.numpy()).coef_
    assert abs(expected[2]) > 1.0
    np.testing.assert_allclose(fit_all(deltas, target, 1e-6), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
@pytest.mark.parametrize("own_features", [False, True])
@pytest.mark.parametrize("at_once", [1, 700, 20_000_000])
def test_batched_subsets_equal_explicit_refits_of_each(kind, own_features, at_once, monkeypatch):
    monkeypatch.setattr(regression, "_ELEMENTS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    deltas, target = problem(7, 80)
    counts = torch.from_numpy(rng.integers(0, 3, size=(3, 4, 80)) * (1.0 if kind != torch.float64 else 0.7)).to(kind)
    if own_features:
        deltas = deltas * torch.from_numpy(rng.uniform(0.5, 2.0, size=(3, 4, 80, 7)))
        target = target * torch.from_numpy(rng.choice([-1.0, 1.0], size=(3, 4, 80)))
    fit = fit_ridge(deltas, target, ALPHAS, counts=counts)
    assert (fit.weights.shape, fit.weights.dtype) == ((3, 4, len(ALPHAS), 7), torch.float64)
    errors, (weights, alphas) = fit.left_out_error(), fit.best(first=1)
    for place in np.ndindex(3, 4):
        rows, wanted = (deltas[place], target[place]) if own_features else (deltas, target)
        weight, used = counts[place].double().numpy(), counts[place].numpy() > 0
        for index, alpha in enumerate(ALPHAS):
            model = Ridge(alpha, fit_intercept=False) if alpha else LinearRegression(fit_intercept=False)
            expected = model.fit(rows[used].numpy(), wanted[used].numpy(), weight[used])
            np.testing.assert_allclose(fit.weights[place][index], expected.coef_, atol=1e-8, rtol=0)
        loo = RidgeCV(ALPHAS[1:], fit_intercept=False).fit(rows[used].numpy(), wanted[used].numpy(), weight[used])
        assert alphas[place] == loo.alpha_
        np.testing.assert_allclose(weights[place], loo.coef_, atol=1e-8)
        assert errors[place][1:].argmin() == ALPHAS[1:].index(loo.alpha_)


@pytest.mark.parametrize("penalty", [None, torch.diag(torch.tensor([1.0, 0.0, 2.0]))])
def test_leave_one_out_is_that_of_refits_without_each_triplet(penalty):
    deltas, target = problem(2, 24, 3)
    fit = fit_ridge(deltas, target, ALPHAS, penalty=penalty)
    errors = np.zeros(len(ALPHAS))
    for row in range(24):
        counts = torch.ones(24)
        counts[row] = 0.0
        others = fit_ridge(deltas, target, ALPHAS, counts=counts, penalty=penalty).weights
        errors += (target[row] - others @ deltas[row]).square().numpy()
    np.testing.assert_allclose(fit.left_out_error(), errors)
    np.testing.assert_allclose(fit.residual, target - fit.weights @ deltas.T)
    np.testing.assert_allclose(fit.leverage[0].sum(), 3.0)


def test_a_penalty_matrix_weighs_directions():
    deltas, target = problem(1, 50, 4)
    root = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 4)))
    found = fit_ridge(deltas, target, [0.0, 5.0], penalty=root.T @ root).weights
    rows, wanted = np.vstack([deltas, 5.0**0.5 * root]), np.append(target, np.zeros(4))
    np.testing.assert_allclose(found[0], ridge_weights(deltas, target), atol=1e-9)
    np.testing.assert_allclose(found[1], np.linalg.lstsq(rows, wanted, rcond=None)[0], atol=1e-9)
    identity = fit_ridge(deltas, target, ALPHAS, penalty=torch.eye(4))
    np.testing.assert_allclose(identity.weights, fit_ridge(deltas, target, ALPHAS).weights, atol=1e-10)


@given(SEEDS, st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_normal_equations_are_those_of_a_loop_over_triplets(seed, triplets, stems, splits):
    rng = np.random.default_rng(seed)
    deltas, target = rng.normal(size=(triplets, stems)), rng.normal(size=triplets)
    subsets = rng.random((splits, triplets)) < 0.5
    found = normal_equations(*(torch.from_numpy(array) for array in (deltas, target, subsets)))
    for split in range(splits):
        gram, moment, size, square, total = np.zeros((stems, stems)), np.zeros(stems), 0, 0.0, 0.0
        for row in np.flatnonzero(subsets[split]):
            gram += np.outer(deltas[row], deltas[row])
            moment += deltas[row] * target[row]
            size, square, total = size + 1, square + target[row] ** 2, total + target[row]
        for array, expected in zip(found, (gram, moment, size, square, total), strict=True):
            np.testing.assert_allclose(array[split], expected, atol=1e-12)
        np.testing.assert_array_equal(found.gram[split], found.gram[split].T)


def test_fitting_mutates_nothing_and_single_precision_is_fitted_in_double():
    deltas, target = problem(2)
    single = deltas.float()
    before = single.clone(), target.clone()
    for fit in (ridge_weights, lambda *given_: ridge_weights(*given_, nonnegative=True), fit_all):
        found = fit(single, target, 0.5)
        torch.testing.assert_close(found, fit(single.double(), target, 0.5))
        assert found.dtype == torch.float64
    assert torch.equal(single, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_penalties_out_of_range_are_refused(alpha):
    deltas, target = problem(0)
    for fit in (ridge_weights, fit_all):
        with pytest.raises(ConfigError, match="at least 0"):
            fit(deltas, target, alpha)
    with pytest.raises(ConfigError, match="one or more"):
        fit_ridge(deltas, target, [])
