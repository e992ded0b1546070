"""Agreement, ceiling, splits and cross-validation against slow, explicit oracles."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from tables import make_triplets

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import DROPPED, agreement, cross_validate, crossval, human_ceiling, ridge_path, split_triplets
from stemsim.evaluation.crossval import leave_one_out_alpha
from stemsim.evaluation.plots import plot_cross_validation, save_figure

STEMS = ("bass", "drums", "mix")
ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)


def problem(seed=0, triplets=120, **options):
    """Return stem features that explain the majority of a table's votes, with noise, and the table."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, **options)
    signal = np.outer(table.preference, [0.1, 0.3, 0.2])
    return torch.from_numpy(signal + rng.normal(scale=0.3, size=(triplets, 3))), table


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
@settings(max_examples=200)
def test_human_ceiling_is_that_of_a_loop_over_answers(votes):
    earned = []
    for for_a, for_b in votes:
        if for_a + for_b < 2:
            continue
        for mine, others_mine, others_other in [(for_a, for_a - 1, for_b), (for_b, for_b - 1, for_a)]:
            earned += [1.0 if others_mine > others_other else 0.5 if others_mine == others_other else 0.0] * mine
    expected = np.mean(earned) if earned else np.nan
    np.testing.assert_allclose(human_ceiling(np.array(votes)), expected)


def test_agreement_counts_a_tie_half_and_weighs_by_votes():
    majority = np.array([1, -1, 1, 1])
    assert agreement(np.array([0.2, -3.0, -0.1, 0.0]), majority) == pytest.approx(2.5 / 4)
    assert agreement(np.array([0.2, -3.0, -0.1, 0.0]), majority, np.array([1.0, 1, 6, 2])) == pytest.approx(0.3)
    with pytest.raises(TripletError, match="1 of them tied"):
        agreement(np.array([1.0]), np.array([0]))


@given(st.integers(0, 1000), st.integers(20, 200))
@settings(max_examples=25, deadline=None)
def test_stratified_splits_keep_every_stratum_in_proportion(seed, triplets):
    table = make_triplets(np.random.default_rng(seed), triplets)
    parts = split_triplets(table, (0.6, 0.1, 0.3), count=3, seed=seed)
    assert set(np.unique(parts)) <= {0, 1, 2}
    strata = np.array([f"{t}{p}" for t, p in zip(table.test_type, table.preference, strict=True)])
    for split in parts:
        for stratum in set(strata):
            chosen = split[strata == stratum]
            for part, share in enumerate((0.6, 0.1, 0.3)):
                assert abs((chosen == part).sum() - share * len(chosen)) <= 1.0


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_grouped_splits_have_no_track_on_two_sides_and_drop_only_what_straddles(seed):
    table = make_triplets(np.random.default_rng(seed), 150, tracks=12)
    for split in split_triplets(table, (0.5, 0.2, 0.3), kind="grouped", count=4, seed=seed):
        owner = {}
        for part in range(3):
            for track in set(table.track_ids[split == part].flat):
                assert owner.setdefault(track, part) == part
        for row in np.flatnonzero(split == DROPPED):
            assert len({owner.get(track, -track - 2) for track in table.track_ids[row]}) > 1


def test_splits_follow_their_seed_and_refuse_odd_fractions():
    table = make_triplets(np.random.default_rng(0), 60)
    first, again, other = (split_triplets(table, (0.7, 0, 0.3), count=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    for fractions in [(0.7, 0.3), (0.7, 0.7, -0.4), (0.5, 0.2, 0.2)]:
        with pytest.raises(ConfigError, match="add up to 1"):
            split_triplets(table, fractions)


def test_ridge_path_is_ridge_cv_over_the_same_splits():
    deltas, table = problem(1)
    parts = split_triplets(table, (0.7, 0, 0.3), count=15, seed=3)
    train, test = torch.from_numpy(parts == 0), torch.from_numpy(parts == 2)
    target = torch.from_numpy(table.preference).double()
    path = ridge_path(deltas, target, train, test, torch.tensor(ALPHAS, dtype=torch.float64))
    folds = [(np.flatnonzero(part == 0), np.flatnonzero(part == 2)) for part in parts]
    expected = RidgeCV(ALPHAS, cv=folds, fit_intercept=False).fit(deltas.numpy(), target.numpy())
    assert path.best_alpha == expected.alpha_
    np.testing.assert_allclose(path.weights, expected.coef_, atol=1e-9)
    model = Ridge(1.0, fit_intercept=False).fit(deltas[train[0]].numpy(), target[train[0]].numpy())
    assert path.r2[0, 2] == pytest.approx(model.score(deltas[test[0]].numpy(), target[test[0]].numpy()))


@pytest.mark.parametrize("at_once", [20_000_000, 1])
def test_leave_one_out_chooses_as_ridge_cv_does(monkeypatch, at_once):
    monkeypatch.setattr(crossval, "_ELEMENTS_AT_ONCE", at_once)
    chosen = []
    for seed in range(4):
        deltas, table = problem(seed, 40)
        train = torch.from_numpy(split_triplets(table, (0.6, 0, 0.4), count=5, seed=seed) == 0)
        target = torch.from_numpy(table.preference).double()
        alphas = leave_one_out_alpha(deltas, target, train, torch.tensor(ALPHAS, dtype=torch.float64))
        for part, alpha in zip(train, alphas, strict=True):
            model = RidgeCV(ALPHAS, fit_intercept=False).fit(deltas[part].numpy(), target[part].numpy())
            assert alpha.item() == pytest.approx(model.alpha_)
        chosen += alphas.tolist()
    assert len(set(chosen)) > 1, "the test must be able to tell penalties apart"


@pytest.mark.parametrize("kind", ["stratified", "grouped"])
def test_cross_validation_is_that_of_a_loop_over_splits(kind):
    deltas, table = problem(2, 400, tracks=9)
    result = cross_validate(deltas, table, STEMS, count=6, kind=kind, alphas=ALPHAS, seed=5)
    models = {model.name: model for model in result.models}
    parts = split_triplets(table, (0.7, 0.0, 0.3), kind=kind, count=6, seed=5)
    x, y = deltas.numpy(), table.preference
    for index, split in enumerate(parts):
        train, test = split == 0, split == 2
        ols = LinearRegression(fit_intercept=False).fit(x[train], y[train])
        ridge = RidgeCV(ALPHAS, fit_intercept=False).fit(x[train], y[train])
        np.testing.assert_allclose(models["OLS"].weights[index], ols.coef_, atol=1e-9)
        np.testing.assert_allclose(models["ridge"].weights[index], ridge.coef_, atol=1e-9)
        assert models["ridge"].alphas[index] == pytest.approx(ridge.alpha_)
        for name, weights in [("OLS", ols.coef_), ("mix cosine", [0, 0, 1]), ("uniform weights", [1, 1, 1])]:
            right = [np.sign(x[row] @ weights) == y[row] for row in np.flatnonzero(test)]
            assert models[name].agreement[index, 0] == pytest.approx(np.mean(right))
        for column, test_type in enumerate(("XAB", "XYC"), start=1):
            rows = test & (table.test_type == test_type)
            assert models["OLS"].agreement[index, column] == pytest.approx(agreement(x[rows] @ ols.coef_, y[rows]))
            expected = human_ceiling(table.votes[rows])
            assert models["human ceiling"].agreement[index, column] == pytest.approx(expected)


def test_triplets_of_one_class_without_listeners_make_numbers_and_valid_json(tmp_path):
    deltas, table = problem(3, 80, same_song=True)
    result = cross_validate(deltas, table, STEMS, count=5, alphas=ALPHAS)
    assert np.isfinite(result.path.weights).all()
    text = json.dumps(result.to_dict(), allow_nan=False)
    scores = json.loads(text)["models"]
    assert scores["human ceiling"]["agreement"]["all"]["mean"] is None
    assert scores["OLS"]["agreement"]["XAB"]["mean"] is None
    assert scores["OLS"]["agreement"]["XYC"]["mean"] > 0.5
    save_figure(plot_cross_validation(result), tmp_path / "sub" / "figure.png")
    assert (tmp_path / "sub" / "figure.png").stat().st_size > 5000


def test_settings_out_of_range_and_empty_parts_are_refused():
    deltas, table = problem(4, 30)
    for settings_ in ({"count": 0}, {"train_fraction": 1.0}, {"alphas": ()}):
        with pytest.raises(ConfigError, match="at least one split"):
            cross_validate(deltas, table, STEMS, **settings_)
    with pytest.raises(SplitError, match="empty train or test part"):
        cross_validate(deltas, table, STEMS, kind="grouped", train_fraction=0.05)
