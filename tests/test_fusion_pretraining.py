"""Same-song pre-training: ridge towards a prior against brute force, and what songs alone are worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import make_triplets

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import cross_validate
from stemsim.evaluation.comparison import compare_fits, compare_models
from stemsim.evaluation.fusion_fit import FitSettings, _inner_folds, fit_fusions, fusion_challenger
from stemsim.evaluation.pretraining import pretrain, prior_challenger
from stemsim.evaluation.prior_ridge import prior_ridge
from stemsim.fusion import LinearFusion, LowRankFusion, SplineFusion
from stemsim.similarity import StemEmbeddings, stem_cosines, stem_deltas

LAYOUT = ("drums", "bass", "mix")
SONGS, EACH, DIM = 40, 5, 12
NUISANCE = torch.linalg.qr(torch.randn(3, DIM, 2, generator=torch.Generator().manual_seed(5)))[0]  # (stem, dim, 2)


def by_augmented_least_squares(rows, target, prior, alpha):
    """Minimise |D (s p + v) - y|^2 + alpha |v|^2 over scale s and step v, as one least-squares problem."""
    stems = len(prior)
    top = np.column_stack([rows @ prior, rows])
    bottom = np.column_stack([np.zeros(stems), alpha**0.5 * np.eye(stems)])
    solution = np.linalg.lstsq(np.vstack([top, bottom]), np.concatenate([target, np.zeros(stems)]), rcond=None)[0]
    return solution[0] * prior + solution[1:]


@given(st.integers(0, 100_000))
@settings(max_examples=15, deadline=None)
def test_ridge_towards_a_prior_is_least_squares_over_scale_and_step_and_leaves_one_out_exactly(seed):
    rng = np.random.default_rng(seed)
    rows, prior = rng.normal(size=(25, 3)), rng.normal(size=3)
    target, alphas = np.sign(rows @ rng.normal(size=3) + 0.5 * rng.normal(size=25)), (0.01, 1.0, 100.0)
    train = rng.random((2, 25)) < 0.7
    found = prior_ridge(*map(torch.from_numpy, (rows, target, train, prior)), alphas=alphas)
    for part, weights, chosen in zip(train, found.weights, found.alphas, strict=True):
        kept = np.flatnonzero(part)
        errors = []
        for alpha in alphas:
            left_out = [
                by_augmented_least_squares(rows[others := kept[kept != row]], target[others], prior, alpha) @ rows[row]
                for row in kept
            ]
            errors.append(np.square(left_out - target[kept]).sum())
        assert chosen.item() == alphas[int(np.argmin(errors))]
        expected = by_augmented_least_squares(rows[part], target[part], prior, chosen.item())
        np.testing.assert_allclose(weights.numpy(), expected, atol=1e-8)


def test_only_the_direction_of_a_prior_counts_and_endless_shrinking_leaves_nothing_else():
    rng = np.random.default_rng(0)
    rows, target = torch.from_numpy(rng.normal(size=(40, 3))), torch.from_numpy(np.sign(rng.normal(size=40)))
    prior, everything = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.ones(1, 40)
    first, scaled = (prior_ridge(rows, target, everything, scale * prior) for scale in (1.0, -7.0))
    torch.testing.assert_close(first.weights, scaled.weights, atol=1e-10, rtol=0)
    endless = prior_ridge(rows, target, everything, prior, alphas=[1e6]).weights[0]
    along = rows @ prior
    torch.testing.assert_close(endless, prior * (along @ target / (along @ along)), atol=1e-5, rtol=0)


def test_a_stem_that_never_sounds_keeps_the_weight_that_the_prior_gives_it():
    rng = np.random.default_rng(1)
    rows, target = torch.from_numpy(rng.normal(size=(40, 3))), torch.from_numpy(np.sign(rng.normal(size=40)))
    rows[:, 1] = 0.0
    weights = prior_ridge(rows, target, torch.ones(1, 40), torch.tensor([1.0, 2.0, 1.0]), alphas=[1.0]).weights[0]
    assert weights.isfinite().all()
    expected = by_augmented_least_squares(rows.numpy(), target.numpy(), np.array([1.0, 2.0, 1.0]), 1.0)
    np.testing.assert_allclose(rows @ weights, rows.numpy() @ expected, atol=1e-8)


@pytest.mark.parametrize("prior", [torch.zeros(3), torch.ones(2), torch.tensor([1.0, torch.nan, 0.0])])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(ConfigError, match="one finite weight for each of 3 stems"):
        prior_ridge(torch.ones(5, 3), torch.ones(5), torch.ones(1, 5), prior)


def world(seed, count, *, same_song=False):
    """Return triplets over songs whose segments differ most by what listeners do not hear, and what these prefer."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, count, tracks=SONGS, per_track=EACH, same_song=same_song)
    song = torch.from_numpy(rng.normal(size=(SONGS, 1, 3, DIM)))
    heard = 0.8 * song + 0.4 * torch.from_numpy(rng.normal(size=(SONGS, EACH, 3, DIM)))
    heard = heard - torch.einsum("ijsd,sdr,ser->ijse", heard, NUISANCE.double(), NUISANCE.double())
    unheard = torch.einsum(
        "ijsr,sdr->ijsd", 2.5 * torch.from_numpy(rng.normal(size=(SONGS, EACH, 3, 2))), NUISANCE.double()
    )
    present = torch.ones(SONGS * EACH, 3, dtype=torch.bool)
    whole, bare = (
        StemEmbeddings(
            torch.nn.functional.normalize(vectors.flatten(0, 1), dim=2).float(), torch.zeros(SONGS * EACH, 3), present
        )
        for vectors in (heard + unheard, heard)
    )
    x, a, b = (bare.take(torch.from_numpy(rows)) for rows in (table.x, table.a, table.b))
    felt = (stem_cosines(x, a) - stem_cosines(x, b)).sum(dim=1).numpy()
    if not same_song:
        for_a = rng.binomial(9, 1 / (1 + np.exp(-felt / (0.3 * felt.std()))))
        table = replace(table, votes=np.stack([for_a, 9 - for_a], axis=1).astype(np.int64))
    return whole, table


def test_pre_training_on_songs_alone_lets_few_votes_beat_ridge():
    embeddings, songs = world(0, 400, same_song=True)
    start = pretrain(LowRankFusion, LAYOUT, embeddings, songs)
    assert start.stopped_at > 5
    assert (start.triplets, start.songs, start.source) == (400, len(set(songs.track_ids[:, 0])), "made up")
    embeddings, votes = world(1, 120)
    deltas = stem_deltas(*(embeddings.take(torch.from_numpy(rows)) for rows in (votes.x, votes.a, votes.b)))
    result = cross_validate(
        deltas,
        votes,
        LAYOUT,
        count=8,
        challengers=[
            fusion_challenger("low-rank", LowRankFusion, LAYOUT, embeddings, votes),
            fusion_challenger("low-rank, same-song", LowRankFusion, LAYOUT, embeddings, votes, start=start.state),
            prior_challenger("ridge, same-song", deltas, votes, start.weights),
        ],
    )
    for worse in ("ridge", "ridge, same-song"):
        comparison = compare_fits(result, ("low-rank, same-song", worse), deltas, votes)
        assert comparison.told_apart, comparison.verdict
        assert comparison.difference.mean > 0.03, comparison.verdict
    untaught = compare_fits(result, ("low-rank, same-song", "low-rank"), deltas, votes)
    assert untaught.difference.mean > 0.0, untaught.verdict


def test_ridge_towards_right_weights_beats_ridge_where_votes_are_few():
    rng = np.random.default_rng(3)
    rows = torch.from_numpy(rng.normal(size=(400, 12)))
    truth = torch.from_numpy(rng.uniform(0.2, 2.0, size=12))
    felt = rows @ truth
    target = torch.sign(felt + 0.3 * felt.std() * torch.from_numpy(rng.logistic(size=400)))
    train = torch.from_numpy(rng.random((15, 400)) < 0.06)
    towards = prior_ridge(rows, target, train, 0.3 * truth).weights @ rows.T
    away = fit_ridge(rows, target, train) @ rows.T
    comparison = compare_models(
        ("prior", "ridge"), (towards.numpy(), away.numpy()), target.long().numpy(), ~train.numpy(), test_train_ratio=0.1
    )
    assert comparison.told_apart, comparison.verdict
    assert comparison.difference.mean > 0.02, comparison.verdict


def fit_ridge(rows, target, train):
    """Fit ridge regression by its textbook formula with the penalty that scikit-learn chooses."""
    from sklearn.linear_model import RidgeCV

    alphas = np.logspace(-3, 3, 20)
    fits = [RidgeCV(alphas, fit_intercept=False).fit(rows[part].numpy(), target[part].numpy()) for part in train]
    return torch.from_numpy(np.stack([one.coef_ for one in fits]))


def test_with_an_endless_penalty_a_fit_stays_at_the_scaled_state_it_starts_from():
    embeddings, songs = world(2, 200, same_song=True)
    state = pretrain(SplineFusion, LAYOUT, embeddings, songs, settings=FitSettings(steps=5, folds=0)).state
    embeddings, votes = world(3, 80)
    members = torch.from_numpy(np.stack([votes.x, votes.a, votes.b]))
    target, train = torch.from_numpy(votes.preference).double(), torch.rand(2, 80) < 0.7
    rule = FitSettings(steps=3, folds=0, learning_rate=1e-9)
    fits = fit_fusions(
        SplineFusion, LAYOUT, embeddings, members, target, train, settings=rule, start=state, alphas=[1e6]
    )
    fusion = SplineFusion(LAYOUT)
    fusion.load_state_dict(state)
    with torch.no_grad():
        first = fusion.preference(*(embeddings.take(rows) for rows in members))
    for part, preference in zip(train, fits.preference, strict=True):
        scale = (first @ (target * part)) / (first.square() @ part.double())
        torch.testing.assert_close(preference, scale * first, atol=1e-6, rtol=0)


def test_pre_training_refuses_what_are_no_same_song_triplets():
    embeddings, votes = world(4, 60)
    with pytest.raises(TripletError, match="same-song triplets"):
        pretrain(LinearFusion, LAYOUT, embeddings, votes)


def test_inner_folds_keep_groups_together_and_need_enough_of_them():
    rng = np.random.default_rng(0)
    train, groups = torch.from_numpy(rng.random((6, 90)) < 0.7), torch.from_numpy(rng.integers(9, size=90))
    folds = _inner_folds(train, FitSettings(folds=3), groups)
    assert ((folds == -1) == ~train).all()
    for part, fold in zip(train, folds, strict=True):
        assert set(fold[part].tolist()) == {0, 1, 2}
        for group in groups.unique():
            assert len(fold[part & (groups == group)].unique()) <= 1
    with pytest.raises(SplitError, match="as many groups"):
        _inner_folds(train, FitSettings(folds=3), groups % 2)
