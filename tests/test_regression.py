"""Exact least squares against scikit-learn, and the fusion against its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from stemsim.errors import ConfigError
from stemsim.fusion import LinearFusion
from stemsim.regression import normal_equations, ridge_weights, solve_ridge
from stemsim.similarity import StemEmbeddings, stem_cosines, stem_deltas
from stemsim.stems import STEMS

ALPHAS = (0.0, 0.01, 1.0, 30.0)


def problem(seed, triplets=60, stems=7):
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(triplets, stems)) @ rng.normal(size=(stems, stems)) * 0.3
    preference = np.sign(deltas @ rng.normal(size=stems) + rng.normal(size=triplets))
    return torch.from_numpy(deltas), torch.from_numpy(preference)


def embeddings(rng, batch=5, stems=7, dim=6):
    vectors = torch.from_numpy(rng.normal(size=(batch, stems, dim))).float()
    present = torch.from_numpy(rng.random((batch, stems)) > 0.2)
    vectors = torch.nn.functional.normalize(vectors, dim=2) * present.unsqueeze(2)
    return StemEmbeddings(vectors, torch.zeros(batch, stems), present)


def one(deltas):
    return torch.ones(1, len(deltas), dtype=torch.bool)


@given(st.integers(0, 10_000), st.integers(8, 90), st.integers(1, 7), st.sampled_from(ALPHAS))
@settings(max_examples=40, deadline=None)
def test_weights_are_those_of_scikit_learn(seed, triplets, stems, alpha):
    deltas, preference = problem(seed, triplets, stems)
    model = Ridge(alpha, fit_intercept=False) if alpha else LinearRegression(fit_intercept=False)
    expected = model.fit(deltas.numpy(), preference.numpy()).coef_
    tolerance = 1e-7 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(ridge_weights(deltas, preference, alpha), expected, atol=tolerance)
    solved = solve_ridge(normal_equations(deltas, preference, one(deltas)), torch.tensor([alpha]))[0, 0]
    np.testing.assert_allclose(solved, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_nonnegative_weights_are_those_of_scikit_learn(alpha):
    deltas, preference = problem(3)
    model = Ridge(alpha, fit_intercept=False, positive=True, tol=1e-12, max_iter=100_000)
    model = model if alpha else LinearRegression(fit_intercept=False, positive=True)
    expected = model.fit(deltas.numpy(), preference.numpy()).coef_
    weights = ridge_weights(deltas, preference, alpha, nonnegative=True)
    assert (weights >= 0).all()
    assert (weights == 0).any(), "the problem must have an active constraint"
    np.testing.assert_allclose(weights, expected, atol=1e-4)


def test_open_directions_get_the_shortest_solution():
    deltas, preference = problem(5)
    deltas[:, 2] = 0.0  # a stem that never sounds
    deltas[:, 4] = deltas[:, 5]  # two stems that cannot be told apart
    for weights in (
        ridge_weights(deltas, preference),
        solve_ridge(normal_equations(deltas, preference, one(deltas)), torch.zeros(1))[0, 0],
    ):
        assert weights[2].abs() < 1e-9
        assert weights[4].item() == pytest.approx(weights[5].item(), abs=1e-7)
        np.testing.assert_allclose(weights, np.linalg.pinv(deltas.numpy()) @ preference.numpy(), atol=1e-7)


def test_batched_subsets_equal_explicit_refits():
    deltas, preference = problem(7)
    subsets = torch.from_numpy(np.random.default_rng(1).random((12, len(deltas))) < 0.7)
    solved = solve_ridge(normal_equations(deltas, preference, subsets), torch.tensor(ALPHAS))
    assert solved.shape == (12, len(ALPHAS), 7)
    for subset, weights in zip(subsets, solved, strict=True):
        for alpha, found in zip(ALPHAS, weights, strict=True):
            torch.testing.assert_close(
                found, ridge_weights(deltas[subset], preference[subset], alpha), atol=1e-8, rtol=0
            )


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_penalties_out_of_range_are_refused(alpha):
    deltas, preference = problem(0)
    with pytest.raises(ConfigError, match="at least 0"):
        ridge_weights(deltas, preference, alpha)
    with pytest.raises(ConfigError, match="at least 0"):
        solve_ridge(normal_equations(deltas, preference, one(deltas)), torch.tensor([alpha]))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_swapping_candidates_flips_the_preference_to_the_last_bit(seed, nonnegative):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng) for _ in range(3))
    fusion = LinearFusion(STEMS, nonnegative=nonnegative)
    fusion.set_weights(torch.from_numpy(rng.random(7) if nonnegative else rng.normal(size=7)))
    with torch.no_grad():
        assert torch.equal(fusion.preference(x, a, b), -fusion.preference(x, b, a))
        assert torch.equal(fusion.preference(x, a, a), torch.zeros(5, dtype=torch.float64))
        expected = stem_deltas(x, a, b) @ fusion.weight
        torch.testing.assert_close(fusion.preference(x, a, b), expected, atol=1e-12, rtol=0)
        assert torch.equal(fusion(x, a), fusion.contributions(x, a).sum(dim=1))


def test_a_silent_stem_adds_nothing():
    rng = np.random.default_rng(0)
    x, a = embeddings(rng), embeddings(rng)
    cosines = stem_cosines(x, a)
    assert (cosines[~(x.present & a.present)] == 0).all()
    assert (cosines[x.present & a.present] != 0).all()


def test_weights_set_are_weights_read_and_penalised():
    weights = torch.tensor([0.0, 1.0, 2.0])
    for nonnegative in (False, True):
        fusion = LinearFusion(("drums", "bass", "mix"), nonnegative=nonnegative)
        fusion.set_weights(weights)
        torch.testing.assert_close(fusion.weight.detach(), weights.double())
        assert fusion.penalty().item() == pytest.approx(5.0)
