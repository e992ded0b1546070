"""Exact fits to votes against scikit-learn, brute force and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from tables import make_triplets

from stemsim.errors import ConfigError, TripletError
from stemsim.evaluation import cross_validate
from stemsim.evaluation.crossval import leave_one_out_alpha
from stemsim.evaluation.vote_fit import VOTE_MODELS, VoteModel, fit_votes, fit_weights, left_out_loss, vote_challenger
from stemsim.losses import Logistic, SquaredError, SquaredHinge

STEMS = ("bass", "drums", "mix")
ALPHAS = torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64)
SEEDS = st.integers(0, 10_000)


def problem(seed, triplets=80, stems=4):
    """Return features, votes for A and for B, and float subsets."""
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(triplets, stems)) * rng.uniform(0.2, 2.0, stems)
    votes = rng.integers(0, 5, size=(triplets, 2)) + np.eye(2, dtype=int)[rng.integers(2, size=triplets)]
    subsets = (rng.random((3, triplets)) < 0.7) * rng.uniform(0.2, 2.0, triplets)
    return torch.from_numpy(deltas), votes, torch.from_numpy(subsets)


def target_of(votes):
    return torch.from_numpy((votes[:, 0] - votes[:, 1]) / votes.sum(axis=1))


def listening_test(seed=0, triplets=120, stems=3, listeners=(1, 9)):
    """Return features, and a graded table whose listeners differ in number and follow known weights."""
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(triplets, stems))
    closer = 1 / (1 + np.exp(-2 * deltas @ np.linspace(1.0, 0.2, stems)))
    total = rng.integers(*listeners, size=triplets)
    for_a = rng.binomial(total, closer)
    votes = np.stack([for_a, total - for_a], axis=1)
    table = replace(make_triplets(rng, triplets, tracks=20), votes=votes, sure_votes=rng.binomial(votes, 0.4))
    rows = np.flatnonzero(table.preference)
    return torch.from_numpy(deltas[rows]), table.select(rows)


def doubled(deltas, votes, counts):
    """Return hard labels: each triplet once with the label A and once with B, weighed by votes."""
    rows = np.concatenate([deltas.numpy()] * 2)
    labels = np.repeat([1.0, -1.0], len(deltas))
    share = (votes / votes.sum(axis=1, keepdims=True)).T
    return rows, labels, (share * counts.numpy()).reshape(-1)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_logistic_fits_are_those_of_scikit_learn_on_hard_and_soft_labels(seed):
    deltas, votes, subsets = problem(seed)
    hard = np.where(votes[:, :1] >= votes[:, 1:], [1, 0], [0, 1])
    for counted in (hard, votes):
        found = fit_weights(deltas, target_of(counted), subsets, ALPHAS, loss=Logistic())
        assert found.shape == (3, 3, 4)
        for place in np.ndindex(3, 3):
            rows, labels, weight = doubled(deltas, counted, subsets[place[0]])
            model = LogisticRegression(
                C=0.5 / ALPHAS[place[1]].item(), fit_intercept=False, tol=1e-12, solver="newton-cholesky"
            )
            expected = model.fit(rows[weight > 0], labels[weight > 0], weight[weight > 0]).coef_[0]
            np.testing.assert_allclose(found[place], expected, atol=1e-9 * max(1.0, np.abs(expected).max()))


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_squared_hinge_fits_are_those_of_scikit_learn(seed):
    deltas, votes, subsets = problem(seed)
    found = fit_weights(deltas, target_of(votes), subsets, ALPHAS, loss=SquaredHinge())
    for place in np.ndindex(3, 3):
        rows, labels, weight = doubled(deltas, votes, subsets[place[0]])
        model = LinearSVC(C=0.5 / ALPHAS[place[1]].item(), fit_intercept=False, dual=False, tol=1e-13, max_iter=100_000)
        expected = model.fit(rows[weight > 0], labels[weight > 0], weight[weight > 0]).coef_[0]
        np.testing.assert_allclose(found[place], expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_weighted_ridge_is_that_of_scikit_learn(seed):
    deltas, votes, subsets = problem(seed)
    found = fit_weights(deltas, target_of(votes), subsets, ALPHAS)
    for place in np.ndindex(3, 3):
        model = Ridge(ALPHAS[place[1]].item(), fit_intercept=False)
        expected = model.fit(deltas.numpy(), target_of(votes).numpy(), subsets[place[0]].numpy()).coef_
        np.testing.assert_allclose(found[place], expected, atol=1e-9)


@pytest.mark.parametrize("loss", [SquaredError(), Logistic(), SquaredHinge()], ids=lambda loss: type(loss).__name__)
def test_leave_one_out_is_that_of_refits(loss):
    deltas, votes, subsets = problem(3, triplets=40, stems=3)
    target, counts = target_of(votes), subsets[:1]
    fitted = fit_weights(deltas, target, counts, ALPHAS, loss=loss)
    found = left_out_loss(deltas, target, counts, ALPHAS, fitted, loss=loss)[0]
    expected = torch.zeros(3, dtype=torch.float64)
    for triplet in np.flatnonzero(counts[0].numpy()):
        others = counts.clone()
        others[0, triplet] = 0.0
        predicted = fit_weights(deltas, target, others, ALPHAS, loss=loss)[0] @ deltas[triplet]
        expected += counts[0, triplet] * loss.terms(predicted, target[triplet]).value
    # Exact for the squared error; elsewhere to first order, which must be far better than no correction at all.
    fitted_loss = (counts.unsqueeze(1) * loss.terms(fitted @ deltas.T, target).value).sum(dim=-1)[0]
    tolerance = 1e-9 if isinstance(loss, SquaredError) else 0.1 * float((expected - fitted_loss).abs().min())
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_plain_ridge_is_that_of_the_cross_validation():
    deltas, table = listening_test()
    train = np.random.default_rng(1).random((6, len(table))) < 0.7
    alphas = [0.01, 0.1, 1.0, 10.0]
    found = fit_votes(VoteModel("ridge"), deltas, table, train, alphas=alphas)
    target = torch.from_numpy(table.target())
    chosen = leave_one_out_alpha(deltas, target, torch.from_numpy(train), torch.tensor(alphas, dtype=torch.float64))
    np.testing.assert_array_equal(found.alphas, chosen)
    np.testing.assert_allclose(found.preference, found.weights @ deltas.numpy().T)


@pytest.mark.parametrize("model", VOTE_MODELS, ids=lambda model: model.name)
def test_the_test_part_has_no_say(model):
    deltas, table = listening_test()
    train = np.random.default_rng(1).random((4, len(table))) < 0.6
    train[:, :20] = False
    votes, sure = table.votes.copy(), table.sure_votes.copy()
    votes[:20], sure[:20] = 5 * votes[:20, ::-1] + [0, 1], 0
    before = fit_votes(model, deltas, table, train)
    after = fit_votes(model, deltas, replace(table, votes=votes, sure_votes=sure), train)
    np.testing.assert_array_equal(before.alphas, after.alphas)
    np.testing.assert_allclose(before.weights, after.weights, rtol=1e-9)


@pytest.mark.parametrize("model", VOTE_MODELS, ids=lambda model: model.name)
def test_swapping_a_and_b_changes_no_weight(model):
    deltas, table = listening_test()
    train = np.random.default_rng(1).random((4, len(table))) < 0.6
    swapped = replace(table, votes=table.votes[:, ::-1], sure_votes=table.sure_votes[:, ::-1])
    there, back = fit_votes(model, deltas, table, train), fit_votes(model, -deltas, swapped, train)
    np.testing.assert_allclose(there.weights, back.weights, rtol=1e-12)


@pytest.mark.parametrize("loss", [Logistic(), SquaredHinge()], ids=lambda loss: type(loss).__name__)
def test_silent_and_identical_stems_are_weighed_as_ridge_weighs_them(loss):
    deltas, votes, subsets = problem(0)
    deltas[:, 1] = 0.0
    deltas[:, 3] = deltas[:, 2]
    found = fit_weights(deltas, target_of(votes), subsets, ALPHAS, loss=loss)
    assert (found[..., 1] == 0.0).all()
    torch.testing.assert_close(found[..., 2], found[..., 3])


@pytest.mark.parametrize("loss", [Logistic(), SquaredHinge()], ids=lambda loss: type(loss).__name__)
def test_many_splits_are_fitted_as_each_by_itself_wherever_newton_starts(loss, monkeypatch):
    deltas, votes, subsets = problem(0)
    together = fit_weights(deltas, target_of(votes), subsets, ALPHAS, loss=loss)
    alone = [fit_weights(deltas, target_of(votes), subset[None], ALPHAS, loss=loss)[0] for subset in subsets]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-9, rtol=1e-9)
    monkeypatch.setattr("stemsim.evaluation.vote_fit._ELEMENTS_AT_ONCE", 1)
    torch.testing.assert_close(together, fit_weights(deltas, target_of(votes), subsets, ALPHAS, loss=loss))


def test_separable_votes_have_a_minimum_with_any_penalty_and_none_without():
    deltas = problem(0)[0]
    target, subsets = deltas[:, 0].sign(), torch.ones(2, len(deltas))
    found = fit_weights(deltas, target, subsets, torch.tensor([1e-9]), loss=Logistic())
    assert torch.isfinite(found).all()
    assert ((found @ deltas.T).sign() == target).all()
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="above 0"):
            fit_weights(deltas, target, subsets, torch.tensor([alpha]), loss=Logistic())
    with pytest.raises(ConfigError, match=r"do not converge.*Use larger penalties"):
        fit_weights(1e12 * deltas[:, [0, 0]], target, subsets, torch.tensor([1e-9]), loss=SquaredHinge())


def test_challengers_stand_beside_ridge_and_are_measured_against_the_majority():
    deltas, table = listening_test()
    result = cross_validate(deltas, table, STEMS, count=8, challengers=[vote_challenger(deltas, table)])
    names = [model.name for model in result.models]
    assert names[-len(VOTE_MODELS) :] == [model.name for model in VOTE_MODELS]
    assert all(model.weights.shape == (8, 3) for model in result.models[-len(VOTE_MODELS) :])
    assert all(0.7 < model.agreement[:, 0].mean() <= 1.0 for model in result.models[-len(VOTE_MODELS) :])


def test_models_that_the_votes_do_not_tell_apart_are_left_out():
    def names(table):
        return list(vote_challenger(deltas, table)(np.ones((2, len(table)), bool)))

    deltas, table = listening_test(listeners=(5, 6))
    assert "ridge, weighted by votes" not in names(table), "all have five votes"
    assert "ridge, graded" not in names(replace(table, sure_votes=None))
    unanimous = replace(table, votes=np.where(table.votes > table.votes[:, ::-1], 1, 0), sure_votes=None)
    assert names(unanimous) == ["squared hinge", "logistic"]
    with pytest.raises(TripletError, match="graded target"):
        fit_votes(VOTE_MODELS[2], deltas, unanimous, np.ones((1, len(table)), bool))


def test_every_vote_recovers_known_weights_better_than_majorities_do():
    truth, errors = np.linspace(1.0, 0.2, 5), {"logistic, every vote": [], "logistic": []}
    for seed in range(12):
        deltas, table = listening_test(seed, triplets=200, stems=5)
        train = np.ones((1, len(table)), bool)
        for model in VOTE_MODELS:
            if model.name in errors:
                weights = fit_votes(model, deltas, table, train).weights[0]
                errors[model.name].append(1 - weights @ truth / np.linalg.norm(weights) / np.linalg.norm(truth))
    assert np.mean(errors["logistic, every vote"]) < 0.8 * np.mean(errors["logistic"])
