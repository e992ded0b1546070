"""Cross-validation against scikit-learn and against a loop that refits every split, and its picture."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from tables import make_triplets

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import cross_validate, crossval, ridge_path, split_triplets
from stemsim.evaluation.crossval import leave_one_out_alpha
from stemsim.stems import STEMS

LAYOUT = ("bass", "drums", "mix")
ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)
SEEDS = st.integers(0, 100_000)
TYPES = ("XAB", "XYC")


def problem(seed=0, triplets=120, *, stems=3, noise=0.3, **options):
    """Return stem features that explain the majority of a table's votes, with noise, and the table."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, triplets, **options)
    signal = np.outer(table.preference, rng.uniform(0.05, 0.3, stems))
    return torch.from_numpy(signal + rng.normal(scale=noise, size=(triplets, stems))), table


def halves(table, count, seed, *, train_fraction=0.7, kind="stratified"):
    """Return the train and test masks of splits, and the targets."""
    fractions = (train_fraction, 0.0, 1.0 - train_fraction)
    parts = split_triplets(table, fractions, kind=kind, count=count, seed=seed)
    return (
        torch.from_numpy(parts == 0),
        torch.from_numpy(parts == 2),
        torch.from_numpy(table.preference).double(),
    )


def doubles(alphas):
    return torch.tensor(alphas, dtype=torch.float64)


def folds(train, test):
    return [(np.flatnonzero(fit), np.flatnonzero(held)) for fit, held in zip(train, test, strict=True)]


@given(SEEDS, st.integers(40, 150), st.integers(1, 7), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_the_ridge_path_is_that_of_ridge_cv_over_the_same_splits(seed, triplets, stems, count):
    deltas, table = problem(seed, triplets, stems=stems)
    train, test, target = halves(table, count, seed)
    path = ridge_path(deltas, target, train, test, doubles(ALPHAS))
    expected = RidgeCV(ALPHAS, cv=folds(train, test), fit_intercept=False).fit(deltas.numpy(), target.numpy())
    assert path.best_alpha == expected.alpha_
    np.testing.assert_allclose(path.weights, expected.coef_, atol=1e-8, rtol=0)


def test_the_ridge_path_chooses_different_penalties_for_different_data():
    chosen = set()
    for seed in range(12):
        deltas, table = problem(seed, 40, stems=7, noise=(0.05, 0.5, 3.0)[seed % 3])
        chosen.add(ridge_path(deltas, *reorder(halves(table, 8, seed)), doubles(ALPHAS)).best_alpha)
    assert len(chosen) >= 3, "the comparisons with scikit-learn must be able to tell penalties apart"


def reorder(masks):
    train, test, target = masks
    return target, train, test


def test_the_scores_of_the_ridge_path_are_those_of_every_model_on_every_split():
    deltas, table = problem(1)
    train, test, target = halves(table, 6, 3)
    path = ridge_path(deltas, target, train, test, doubles(ALPHAS))
    assert path.r2.shape == (6, len(ALPHAS))
    for split, (fit, held) in enumerate(zip(train, test, strict=True)):
        for index, alpha in enumerate(ALPHAS):
            model = Ridge(alpha, fit_intercept=False).fit(deltas[fit].numpy(), target[fit].numpy())
            assert path.r2[split, index] == pytest.approx(model.score(deltas[held].numpy(), target[held].numpy()))


def test_test_parts_of_one_class_do_not_choose_the_penalty():
    deltas, table = problem(8, 90, noise=1.0)
    train, test, target = halves(table, 9, 0)
    test[:4] &= target == 1.0
    path = ridge_path(deltas, target, train, test, doubles(ALPHAS))
    assert np.isnan(path.r2[:4]).all()
    assert np.isfinite(path.r2[4:]).all()
    expected = RidgeCV(ALPHAS, cv=folds(train[4:], test[4:]), fit_intercept=False).fit(deltas.numpy(), target.numpy())
    assert path.best_alpha == expected.alpha_


def test_where_a_is_always_right_the_penalty_is_that_of_the_least_squared_error():
    chosen = set()
    for seed in range(6):
        deltas, table = problem(seed, 40, same_song=True, noise=(0.1, 0.6, 3.0)[seed % 3])
        train, test, target = halves(table, 8, seed)
        path = ridge_path(deltas, target, train, test, doubles(ALPHAS))
        errors = np.zeros(len(ALPHAS))
        for fit, held in zip(train, test, strict=True):
            for index, alpha in enumerate(ALPHAS):
                model = Ridge(alpha, fit_intercept=False).fit(deltas[fit].numpy(), target[fit].numpy())
                errors[index] += ((model.predict(deltas[held].numpy()) - target[held].numpy()) ** 2).sum()
        assert path.best_alpha == ALPHAS[errors.argmin()]
        assert np.isfinite(path.weights).all()
        chosen.add(path.best_alpha)
    assert len(chosen) > 1


@given(SEEDS, st.integers(12, 60), st.integers(1, 7), st.sampled_from([1, 700, 20_000_000]))
@settings(max_examples=20, deadline=None)
def test_leave_one_out_chooses_the_penalty_that_ridge_cv_does(seed, triplets, stems, at_once):
    deltas, table = problem(seed, triplets, stems=stems, noise=1.0)
    train, _, target = halves(table, 4, seed, train_fraction=0.6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossval, "_ELEMENTS_AT_ONCE", at_once)
        alphas = leave_one_out_alpha(deltas, target, train, doubles(ALPHAS))
    for part, alpha in zip(train, alphas, strict=True):
        assert (
            alpha.item() == RidgeCV(ALPHAS, fit_intercept=False).fit(deltas[part].numpy(), target[part].numpy()).alpha_
        )


def test_leave_one_out_is_that_of_refits_without_each_triplet():
    chosen = set()
    for seed in range(4):
        deltas, table = problem(seed, 24, noise=(0.1, 0.4, 1.0, 3.0)[seed])
        train, _, target = halves(table, 2, seed)
        alphas = leave_one_out_alpha(deltas, target, train, doubles(ALPHAS))
        for part, alpha in zip(train, alphas, strict=True):
            rows = np.flatnonzero(part)
            errors = np.zeros(len(ALPHAS))
            for left_out in rows:
                others = rows[rows != left_out]
                for index, candidate in enumerate(ALPHAS):
                    model = Ridge(candidate, fit_intercept=False).fit(deltas[others].numpy(), target[others].numpy())
                    errors[index] += (target[left_out] - deltas[left_out].numpy() @ model.coef_).item() ** 2
            assert alpha.item() == ALPHAS[errors.argmin()]
            chosen.add(alpha.item())
    assert len(chosen) > 1, "the test must be able to tell penalties apart"


def slow_agreement(weights, deltas, wanted, rows):
    """Return agreement on some rows by a loop, None where there are none."""
    credits_ = []
    for row in rows:
        predicted = sum(weight * delta for weight, delta in zip(weights, deltas[row], strict=True))
        credits_.append(0.5 if predicted == 0 else float((predicted > 0) == (wanted[row] > 0)))
    return np.mean(credits_) if credits_ else np.nan


def slow_ceiling(votes, rows):
    """Return the human ceiling on some rows by a loop over answers."""
    credits_ = []
    for row in rows:
        for_a, for_b = votes[row]
        if for_a + for_b < 2:
            continue
        for mine, other in [(for_a, for_b)] * for_a + [(for_b, for_a)] * for_b:
            credits_.append(1.0 if mine - 1 > other else 0.5 if mine - 1 == other else 0.0)
    return np.mean(credits_) if credits_ else np.nan


@pytest.mark.parametrize(("kind", "seed"), [("stratified", 5), ("stratified", 6), ("grouped", 7)])
def test_cross_validation_is_that_of_a_loop_that_refits_every_split(kind, seed):
    deltas, table = problem(seed, 300, tracks=9)
    deltas[:40, 2] = 0.0  # ties of the mix
    result = cross_validate(deltas, table, LAYOUT, count=6, train_fraction=0.6, kind=kind, alphas=ALPHAS, seed=seed)
    models = {model.name: model for model in result.models}
    assert list(models) == ["human ceiling", "mix cosine", "uniform weights", "OLS", "ridge"]
    train, test, _ = halves(table, 6, seed, train_fraction=0.6, kind=kind)
    x, y = deltas.numpy(), table.preference
    np.testing.assert_array_equal(result.test_size, test.sum(dim=1))
    for split in range(6):
        fit = train[split].numpy()
        ols = LinearRegression(fit_intercept=False).fit(x[fit], y[fit]).coef_
        ridge = RidgeCV(ALPHAS, fit_intercept=False).fit(x[fit], y[fit])
        expected = {"mix cosine": [0, 0, 1], "uniform weights": [1, 1, 1], "OLS": ols, "ridge": ridge.coef_}
        assert models["ridge"].alphas[split] == ridge.alpha_
        for column, types in enumerate((TYPES, *((name,) for name in TYPES))):
            rows = np.flatnonzero(test[split].numpy() & np.isin(table.test_type, types))
            for name, weights in expected.items():
                np.testing.assert_allclose(models[name].weights[split], weights, atol=1e-8, rtol=0)
                slow = slow_agreement(weights, x, y, rows)
                np.testing.assert_allclose(models[name].agreement[split, column], slow, rtol=1e-12)
            slow = slow_ceiling(table.votes, rows)
            np.testing.assert_allclose(models["human ceiling"].agreement[split, column], slow, rtol=1e-12)
    assert models["human ceiling"].weights is None
    assert models["OLS"].alphas is None
    again = ridge_path(deltas, *reorder(halves(table, 6, seed, train_fraction=0.6, kind=kind)), doubles(ALPHAS))
    assert result.path.best_alpha == again.best_alpha
    np.testing.assert_array_equal(result.path.weights, again.weights)


def test_the_dictionary_holds_the_figures_of_the_models():
    deltas, table = problem(3)
    result = cross_validate(deltas, table, LAYOUT, count=7, alphas=ALPHAS, seed=4)
    report = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert report["triplets"] == 120
    assert report["stems"] == list(LAYOUT)
    assert report["splits"]["count"] == 7
    assert report["splits"]["seed"] == 4
    assert report["splits"]["mean_test_size"] == pytest.approx(result.test_size.mean())
    for model in result.models:
        entry = report["models"][model.name]
        assert entry["agreement_by_split"] == model.agreement[:, 0].tolist()
        for column, name in enumerate(("all", *TYPES)):
            assert entry["agreement"][name]["mean"] == pytest.approx(model.agreement[:, column].mean())
            assert entry["agreement"][name]["std"] == pytest.approx(model.agreement[:, column].std())
        for index, stem in enumerate(LAYOUT if model.weights is not None else ()):
            assert entry["weights"][stem]["mean"] == pytest.approx(model.weights[:, index].mean())
    assert report["models"]["ridge"]["median_alpha"] == np.median(result.models[-1].alphas)
    assert list(report["refit"]["weights"].values()) == result.path.weights.tolist()


def test_the_figures_follow_the_seed_and_the_features_stay_as_they_were():
    deltas, table = problem(3)
    before = deltas.clone()
    first, again, other = (cross_validate(deltas, table, LAYOUT, count=4, seed=seed) for seed in (1, 1, 2))
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert first.to_dict()["models"]["OLS"] != other.to_dict()["models"]["OLS"]
    assert torch.equal(deltas, before)


def test_scaling_the_features_scales_least_squares_weights_and_moves_no_agreement():
    deltas, table = problem(6)
    one, ten = (cross_validate(scale * deltas, table, LAYOUT, count=5) for scale in (1.0, 8.0))
    for before, after in zip(one.models[:4], ten.models[:4], strict=True):
        np.testing.assert_array_equal(before.agreement, after.agreement)
    np.testing.assert_allclose(one.models[3].weights, 8.0 * ten.models[3].weights, rtol=1e-9)


def test_stems_that_cannot_be_told_apart_share_their_weight_on_every_split():
    deltas, table = problem(5, 3000)
    deltas[:, 0] = deltas[:, 1]
    result = cross_validate(deltas, table, LAYOUT, count=30)
    for model in result.models[3:]:
        np.testing.assert_allclose(model.weights[:, 0], model.weights[:, 1], atol=1e-9)
        assert np.abs(model.weights).max() < 10


def test_without_a_mix_there_is_no_mix_cosine_and_simulated_listeners_are_called_so():
    deltas, table = problem(2)
    table = replace(table, true_weights={"bass": 1.0, "drums": 0.0, "vocals": 0.0})
    result = cross_validate(deltas, table, ("bass", "drums", "vocals"), count=3)
    assert [model.name for model in result.models] == ["simulated ceiling", "uniform weights", "OLS", "ridge"]
    assert result.simulated
    assert result.to_dict()["simulated"] is True


@pytest.mark.parametrize("kind", ["stratified", "grouped"])
def test_same_song_triplets_of_one_vote_make_numbers_and_valid_json(kind):
    deltas, table = problem(3, 150, same_song=True, tracks=9)
    result = cross_validate(deltas, table, LAYOUT, count=5, kind=kind, alphas=ALPHAS)
    assert np.isfinite(result.path.weights).all()
    assert all(np.isfinite(model.weights).all() for model in result.models[1:])
    report = json.loads(json.dumps(result.to_dict(), allow_nan=False))["models"]
    nothing = {"mean": None, "std": None}
    assert all(value == nothing for value in report["human ceiling"]["agreement"].values()), "one vote has no ceiling"
    assert report["human ceiling"]["agreement_by_split"] == [None] * 5
    assert report["OLS"]["agreement"]["XAB"] == nothing
    assert report["OLS"]["agreement"]["XYC"] == report["OLS"]["agreement"]["all"]
    assert report["OLS"]["agreement"]["XYC"]["mean"] > 0.5


def test_a_type_that_some_test_parts_lack_is_averaged_over_the_others():
    deltas, table = problem(4, 200, tracks=9)
    rows = np.concatenate([np.flatnonzero(table.test_type == "XYC"), np.flatnonzero(table.test_type == "XAB")[:12]])
    result = cross_validate(deltas[rows], table.select(rows), LAYOUT, count=12, kind="grouped", alphas=ALPHAS)
    scores = next(model for model in result.models if model.name == "OLS").agreement[:, 1]
    assert 0 < np.isnan(scores).sum() < 12
    report = json.loads(json.dumps(result.to_dict(), allow_nan=False))["models"]["OLS"]["agreement"]["XAB"]
    assert report["mean"] == pytest.approx(np.nanmean(scores))
    assert report["std"] == pytest.approx(np.nanstd(scores))


@pytest.mark.parametrize("options", [{"count": 0}, {"train_fraction": 1.0}, {"train_fraction": 0.0}, {"alphas": ()}])
def test_settings_out_of_range_are_refused(options):
    deltas, table = problem(4, 30)
    with pytest.raises(ConfigError, match="at least one split"):
        cross_validate(deltas, table, LAYOUT, **options)


def test_negative_penalties_are_refused():
    deltas, table = problem(4, 30)
    with pytest.raises(ConfigError, match="at least 0"):
        cross_validate(deltas, table, LAYOUT, alphas=(1.0, -1.0))


def test_a_split_with_an_empty_part_is_refused():
    deltas, table = problem(4, 30)
    with pytest.raises(SplitError, match="empty train or test part"):
        cross_validate(deltas, table, LAYOUT, kind="grouped", train_fraction=0.05)
    with pytest.raises(SplitError, match="empty train or test part"):
        cross_validate(deltas[:1], table.select([0]), LAYOUT)
    with pytest.raises(SplitError, match="empty train or test part"):
        cross_validate(deltas[:0], table.select([]), LAYOUT)


def test_triplets_without_a_majority_are_refused():
    deltas, table = problem(4, 30)
    tied = replace(table, votes=np.where(np.arange(30)[:, None] < 2, [3, 3], table.votes))
    with pytest.raises(TripletError, match="2 of 30 triplets have no majority"):
        cross_validate(deltas, tied, LAYOUT)


def drawn_texts(figure):
    """Return the visible texts of a figure with their boxes."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    # Matplotlib keeps ticks that lie outside the axes and does not draw them.
    ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()}
    shown = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis._update_ticks()
        for label in (tick.label1, tick.label2)
    }
    kept = [text for text in texts if text not in ticks or text in shown]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in kept]


SOURCES = [
    "simulated listeners, 7 songs of everything-is-free/",
    "Inst-Sim-ABX, answers of 281 listeners to segments of Slakh2100, instrument mix, agreement of at least 80 %",
    (
        "Inst-Sim-ABX, answers of 281 listeners to 5 s segments of 133 tracks of Slakh2100, instruments bass, drums, "
        "guitar, piano, residuals and mix, votes with agreement of at least 80 %, screened listeners only"
    ),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["stratified", "grouped"])
def test_the_picture_says_what_it_shows_and_no_text_is_cut_or_covers_another(tmp_path, source, kind):
    pytest.importorskip("matplotlib")
    from stemsim.evaluation.plots import plot_cross_validation, save_figure

    deltas, table = problem(9, 331, stems=7, tracks=12)
    table = replace(table, source=source)
    figure = plot_cross_validation(cross_validate(deltas, table, STEMS, count=20, kind=kind))
    texts = drawn_texts(figure)
    title = " ".join(figure.get_suptitle().split())
    assert source in title
    assert "331 triplets" in title
    assert f"20 {kind} splits" in title
    for text, box in texts:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text
    for index, (text, box) in enumerate(texts):
        for other, other_box in texts[index + 1 :]:
            assert not box.overlaps(other_box), f"{text!r} covers {other!r}"
    save_figure(figure, tmp_path / "sub" / "figure.png")
    assert (tmp_path / "sub" / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_picture_of_triplets_without_a_ceiling_leaves_it_out():
    pytest.importorskip("matplotlib")
    from stemsim.evaluation.plots import plot_cross_validation

    deltas, table = problem(3, 80, same_song=True)
    figure = plot_cross_validation(cross_validate(deltas, table, LAYOUT, count=5))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["ridge", "OLS", "uniform weights", "mix cosine"]
