"""Fits to votes against scikit-learn, fusions against a loop and on known truths, priors against brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from tables import linear, listening_test, make_triplets, rows_of, saturating, with_features

from stemsim import regression
from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation import Splits, compare_models, cross_validate
from stemsim.fitting import (
    FitSettings,
    FusionModel,
    PriorModel,
    distinct_vote_models,
    fit_fusions,
    fit_weights,
    pretrain,
)
from stemsim.fitting.fusions import _inner_folds, ridge_towards
from stemsim.fitting.votes import VOTE_MODELS, VoteModel
from stemsim.fusion import (
    AttentionFusion,
    LinearFusion,
    LowRankFusion,
    MonotoneFusion,
    SplineFusion,
    StemPairs,
    WeightedFusion,
)
from stemsim.losses import Logistic, SquaredError, SquaredHinge
from stemsim.regression import ridge_weights
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.triplets import EmbeddedTriplets

ALPHAS = torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64)
SEEDS = st.integers(0, 10_000)
LOSSES = pytest.mark.parametrize("loss", [Logistic(), SquaredHinge()], ids=lambda loss: type(loss).__name__)
MODELS = pytest.mark.parametrize("model", VOTE_MODELS, ids=lambda model: model.name)


def problem(seed, triplets=80, stems=4):
    """Return features, votes for A and for B, and weighted subsets."""
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(triplets, stems)) * rng.uniform(0.2, 2.0, stems)
    votes = rng.integers(0, 5, size=(triplets, 2)) + np.eye(2, dtype=int)[rng.integers(2, size=triplets)]
    subsets = (rng.random((3, triplets)) < 0.7) * rng.uniform(0.2, 2.0, triplets)
    return torch.from_numpy(deltas), votes, torch.from_numpy(subsets)


def share(votes):
    return torch.from_numpy((votes[:, 0] - votes[:, 1]) / votes.sum(axis=1))


def graded_test(seed=0, triplets=120, stems=3, listeners=(1, 9)):
    """Return graded triplets of listeners who differ in number and follow known weights."""
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(triplets, stems))
    closer = 1 / (1 + np.exp(-2 * deltas @ np.linspace(1.0, 0.2, stems)))
    total = rng.integers(*listeners, size=triplets)
    for_a = rng.binomial(total, closer)
    votes = np.stack([for_a, total - for_a], axis=1)
    table = replace(make_triplets(rng, triplets, tracks=20), votes=votes, sure_votes=rng.binomial(votes, 0.4))
    names = [f"stem {index}" for index in range(stems)]
    return rows_of(with_features(table, deltas, names), np.flatnonzero(table.preference))


def splits_of(embedded, count=4):
    return Splits.draw(embedded.triplets, count=count, train_fraction=0.6)


class TestVotes:
    @given(SEEDS)
    @settings(max_examples=8, deadline=None)
    def test_fits_are_those_of_scikit_learn_on_hard_and_soft_labels(self, seed):
        deltas, votes, subsets = problem(seed)
        rows, labels = np.concatenate([deltas.numpy()] * 2), np.repeat([1.0, -1.0], len(deltas))
        for counted in (np.where(votes[:, :1] >= votes[:, 1:], [1, 0], [0, 1]), votes):
            found = {
                type(loss): fit_weights(deltas, share(counted), subsets, ALPHAS, loss=loss).weights
                for loss in (None, Logistic(), SquaredHinge())
            }
            for place in np.ndindex(3, 3):
                alpha, weight = ALPHAS[place[1]].item(), subsets[place[0]].numpy()
                each = ((counted / counted.sum(axis=1, keepdims=True)).T * weight).reshape(-1)
                logistic = LogisticRegression(C=0.5 / alpha, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
                hinge = LinearSVC(C=0.5 / alpha, fit_intercept=False, dual=False, tol=1e-13, max_iter=100_000)
                ridge = Ridge(alpha, fit_intercept=False).fit(deltas.numpy(), share(counted).numpy(), weight).coef_
                np.testing.assert_allclose(found[type(None)][place], ridge, atol=1e-9)
                for loss, model, tolerance in ((Logistic, logistic, 1e-9), (SquaredHinge, hinge, 1e-5)):
                    expected = model.fit(rows[each > 0], labels[each > 0], each[each > 0]).coef_[0]
                    size = max(1.0, np.abs(expected).max())
                    np.testing.assert_allclose(found[loss][place], expected, atol=tolerance * size)

    @pytest.mark.parametrize("loss", [SquaredError(), Logistic(), SquaredHinge()], ids=lambda loss: type(loss).__name__)
    def test_leave_one_out_is_that_of_refits(self, loss):
        deltas, votes, subsets = problem(3, triplets=40, stems=3)
        target, counts = share(votes), subsets[:1]
        fit = fit_weights(deltas, target, counts, ALPHAS, loss=loss)
        expected = torch.zeros(3, dtype=torch.float64)
        for triplet in np.flatnonzero(counts[0].numpy()):
            others = counts.clone()
            others[0, triplet] = 0.0
            predicted = fit_weights(deltas, target, others, ALPHAS, loss=loss).weights[0] @ deltas[triplet]
            expected += counts[0, triplet] * loss.terms(predicted, target[triplet]).value
        # Exact for the squared error; elsewhere to first order, which must be far better than no correction at all.
        fitted = (counts.unsqueeze(1) * loss.terms(fit.weights @ deltas.T, target).value).sum(dim=-1)[0]
        tolerance = 1e-9 if isinstance(loss, SquaredError) else 0.1 * float((expected - fitted).abs().min())
        np.testing.assert_allclose(fit.left_out_error()[0], expected, atol=tolerance)
        assert fit.best()[1] == ALPHAS[fit.left_out_error()[0].argmin()]

    @MODELS
    def test_the_test_part_has_no_influence_and_swapping_a_and_b_changes_no_weight(self, model):
        embedded = graded_test()
        splits, table = splits_of(embedded), embedded.triplets
        splits.train[:, :20] = False
        votes, sure = table.votes.copy(), table.sure_votes.copy()
        votes[:20], sure[:20] = 5 * votes[:20, ::-1] + [0, 1], 0
        other = with_features(replace(table, votes=votes, sure_votes=sure), embedded.deltas, embedded.stems)
        swapped = replace(table, votes=table.votes[:, ::-1], sure_votes=table.sure_votes[:, ::-1])
        before, after, back = (
            model.fit(one, splits)
            for one in (embedded, other, with_features(swapped, -embedded.deltas, embedded.stems))
        )
        np.testing.assert_array_equal(before.alphas, after.alphas)
        np.testing.assert_allclose(before.weights, after.weights, rtol=1e-9)
        np.testing.assert_allclose(before.weights, back.weights, rtol=1e-12)
        np.testing.assert_allclose(before.preference, before.weights @ embedded.deltas.numpy().T)

    @LOSSES
    def test_stems_and_splits_are_treated_alike(self, loss, monkeypatch):
        deltas, votes, subsets = problem(0)
        together = fit_weights(deltas, share(votes), subsets, ALPHAS, loss=loss)
        alone = [fit_weights(deltas, share(votes), one[None], ALPHAS, loss=loss).weights[0] for one in subsets]
        torch.testing.assert_close(together.weights, torch.stack(alone), atol=1e-9, rtol=1e-9)
        monkeypatch.setattr(regression, "_ELEMENTS_AT_ONCE", 1)
        pieces = fit_weights(deltas, share(votes), subsets, ALPHAS, loss=loss)
        torch.testing.assert_close(together.weights, pieces.weights)
        torch.testing.assert_close(together.left_out_error(), pieces.left_out_error())
        deltas[:, 1], deltas[:, 3] = 0.0, deltas[:, 2]
        found = fit_weights(deltas, share(votes), subsets, ALPHAS, loss=loss).weights
        assert (found[..., 1] == 0.0).all(), "a silent stem"
        torch.testing.assert_close(found[..., 2], found[..., 3])

    def test_separable_votes_have_a_minimum_with_any_penalty_and_none_without(self):
        deltas = problem(0)[0]
        target, subsets = deltas[:, 0].sign(), torch.ones(2, len(deltas))
        found = fit_weights(deltas, target, subsets, [1e-9], loss=Logistic()).weights
        assert torch.isfinite(found).all()
        assert ((found @ deltas.T).sign() == target).all()
        for alpha in (0.0, -1.0, float("nan")):
            with pytest.raises(ConfigError, match="above 0"):
                fit_weights(deltas, target, subsets, [alpha], loss=Logistic())
        with pytest.raises(ConfigError, match=r"do not converge.*Use larger penalties"):
            fit_weights(1e12 * deltas[:, [0, 0]], target, subsets, [1e-9], loss=SquaredHinge())

    def test_as_models_they_are_scored_against_the_majority_beside_ridge(self):
        embedded = graded_test()
        result = cross_validate(embedded, splits_of(embedded, 8), [VoteModel("again"), *distinct_vote_models(embedded)])
        np.testing.assert_array_equal(result["again"].alphas, result["ridge"].alphas)
        np.testing.assert_allclose(result["again"].weights, result["ridge"].weights, atol=1e-12)
        assert [model.name for model in result.models[-len(VOTE_MODELS) :]] == [model.name for model in VOTE_MODELS]
        assert all(0.7 < model.mean <= 1.0 for model in result.models[-len(VOTE_MODELS) :])

    def test_models_that_coincide_on_the_votes_are_left_out(self):
        def names(table):
            return [model.name for model in distinct_vote_models(with_features(table, embedded.deltas, embedded.stems))]

        embedded = graded_test(listeners=(5, 6))
        table = embedded.triplets
        assert "ridge, weighted by votes" not in names(table), "all have five votes"
        assert "ridge, graded" not in names(replace(table, sure_votes=None))
        unanimous = replace(table, votes=np.where(table.votes > table.votes[:, ::-1], 1, 0), sure_votes=None)
        assert names(unanimous) == ["squared hinge", "logistic"]
        positive = distinct_vote_models(embedded, alphas=(0.0, 2.0))
        assert {model.alphas for model in positive} == {(2.0,)}
        with pytest.raises(TripletError, match="graded target"):
            VOTE_MODELS[2].fit(with_features(unanimous, embedded.deltas, embedded.stems), splits_of(embedded))

    def test_every_vote_recovers_known_weights_better_than_majorities_do(self):
        truth, errors = np.linspace(1.0, 0.2, 5), {"logistic, every vote": [], "logistic": []}
        for seed in range(12):
            embedded = graded_test(seed, triplets=200, stems=5)
            splits = splits_of(embedded, 1)
            splits.train[:] = True
            for model in VOTE_MODELS:
                if model.name in errors:
                    weights = model.fit(embedded, splits).weights[0]
                    errors[model.name].append(1 - weights @ truth / np.linalg.norm(weights) / np.linalg.norm(truth))
        assert np.mean(errors["logistic, every vote"]) < 0.8 * np.mean(errors["logistic"])


KINDS = {"spline": SplineFusion, "monotone": MonotoneFusion, "attention": AttentionFusion, "low_rank": LowRankFusion}
SMALL = FitSettings(steps=12, folds=3)


class BentFusion(WeightedFusion):
    """A user's own fusion: each stem's cosine and its square."""

    def __init__(self, stems):
        super().__init__(stems)
        self.bend = torch.nn.Parameter(torch.zeros(len(self.stems), dtype=torch.float64))

    def fuse(self, pairs):
        return self.weight * (pairs.cosines + self.bend * pairs.cosines.square())

    def roughness(self):
        return 0.01 * self.bend.square().sum()


def loudness(x, y):
    """Return the similarity to listeners to whom loud stems count."""
    power = torch.where(x.present, 10.0 ** (x.levels.double() / 10.0), 0.0)
    return (power / power.sum(dim=1, keepdim=True) * stem_cosines(x, y)).sum(dim=1)


def metric(x, y):
    """Return the similarity to listeners to whom the first three dimensions of the mix count."""
    heard = [torch.nn.functional.normalize(one.vectors[:, -1, :3], dim=1).double() for one in (x, y)]
    return (heard[0] * heard[1]).sum(dim=1)


def masks(splits):
    return torch.from_numpy(splits.train)


def loop_fit(kind, embedded, part, counted, alpha, steps):
    """Fit one fusion by the book on the rows `counted`, having observed `part`; return its preference at each step."""
    fusion, target = kind(list(embedded.stems)), embedded.target()
    x, a, b = embedded.roles(torch.nonzero(part).squeeze(1))
    query = StemEmbeddings(*(torch.cat([one, one]) for one in x))
    candidate = StemEmbeddings(*(torch.cat(both) for both in zip(a, b, strict=True)))
    fusion.observe(StemPairs.of(query, candidate))
    fusion.start_from(ridge_weights(embedded.deltas[counted], target[counted], alpha))
    optimizer, found = torch.optim.Adam(fusion.parameters(), lr=FitSettings().learning_rate), []
    for _ in range(steps + 1):
        preference = fusion.preference(*embedded.roles())
        found.append(preference.detach())
        optimizer.zero_grad()
        error = (preference[counted] - target[counted]).square().mean()
        (error + alpha / int(counted.sum()) * fusion.penalty() + fusion.roughness()).backward()
        optimizer.step()
    return torch.stack(found)


def compared(embedded, splits, **models):
    """Cross-validate fusions, and compare each with ridge."""
    result = cross_validate(embedded, splits, [FusionModel(name, kind) for name, kind in models.items()])
    return [compare_models(result[name], result["ridge"], splits) for name in models]


class TestFusions:
    @pytest.mark.parametrize("kind", [*KINDS.values(), BentFusion])
    def test_all_splits_at_once_are_a_loop_over_splits_and_inner_folds(self, kind):
        embedded = listening_test(saturating, noise=0.2, triplets=80)
        splits, target = splits_of(embedded, 2), embedded.target()
        train = masks(splits)
        fits, folds = fit_fusions(FusionModel("", kind, settings=SMALL), embedded, train), _inner_folds(train, SMALL)
        ridge = cross_validate(embedded, splits)["ridge"]
        np.testing.assert_array_equal(fits.alphas, ridge.alphas)
        np.testing.assert_allclose(fits.linear, ridge.weights, atol=1e-12)
        for split, part in enumerate(train):
            losses = torch.zeros(SMALL.steps + 1, len(target), dtype=torch.float64)
            for fold in range(SMALL.folds):
                out = folds[split] == fold
                found = loop_fit(kind, embedded, part, part & ~out, float(fits.alphas[split]), SMALL.steps)
                losses[:, out] = (found - target).square()[:, out]
            held = losses[:, part]
            excess = held - held[held.mean(dim=1).argmin()]
            within = excess.mean(dim=1) <= excess.std(dim=1, correction=0) / part.sum().sqrt()
            stop = int(within.double().argmax())
            assert int(fits.stopped_at[split]) == stop
            expected = loop_fit(kind, embedded, part, part, float(fits.alphas[split]), stop)[-1]
            torch.testing.assert_close(fits.preference[split], expected, atol=1e-8, rtol=1e-7)

    @pytest.mark.parametrize("name", KINDS)
    def test_without_steps_a_fit_is_ridge_and_the_state_of_a_split_is_that_of_its_fusion(self, name):
        embedded = listening_test(linear, noise=0.2, triplets=90)
        splits = splits_of(embedded)
        still = FusionModel(name, KINDS[name], settings=FitSettings(steps=0)).fit(embedded, splits)
        ridge = cross_validate(embedded, splits)["ridge"].weights @ embedded.deltas.numpy().T
        np.testing.assert_allclose(still.preference, ridge, atol=1e-10, rtol=1e-9)
        fits = fit_fusions(FusionModel(name, KINDS[name], settings=FitSettings(5, folds=0)), embedded, masks(splits))
        fusion = KINDS[name](list(embedded.stems))
        fusion.load_state_dict({key: values[2] for key, values in fits.state.items()})
        with torch.no_grad():
            preference = fusion.preference(*embedded.roles())
        torch.testing.assert_close(preference, fits.preference[2], atol=1e-10, rtol=1e-9)

    def test_the_test_part_has_no_influence_on_a_fit(self):
        embedded = listening_test(saturating, noise=0.2, triplets=80)
        train, table = masks(splits_of(embedded, 1)), embedded.triplets
        votes = np.where(train[0].numpy()[:, None], table.votes, table.votes[:, ::-1])
        other = replace(embedded, triplets=replace(table, votes=votes))
        first, second = (
            fit_fusions(FusionModel("", SplineFusion, settings=SMALL), one, train) for one in (embedded, other)
        )
        assert torch.equal(first.preference, second.preference)
        assert int(first.stopped_at) == int(second.stopped_at)

    @pytest.mark.parametrize(
        ("name", "truth", "options"),
        [
            ("spline", saturating, {}),
            ("monotone", saturating, {}),
            ("attention", loudness, {"triplets": 500, "seed": 2}),
            ("low_rank", metric, {"triplets": 600, "seed": 2, "dim": 8}),
        ],
    )
    def test_on_its_own_truth_a_fusion_beats_ridge_significantly(self, name, truth, options):
        embedded = listening_test(truth, noise=0.1, **options)
        (comparison,) = compared(embedded, Splits.draw(embedded.triplets, count=12), **{name: KINDS[name]})
        assert comparison.significant, comparison.verdict
        assert comparison.difference.mean > 0.0, comparison.verdict

    def test_where_listeners_are_linear_no_fusion_is_worse_than_ridge(self):
        embedded = listening_test(linear, noise=0.6)
        for comparison in compared(embedded, Splits.draw(embedded.triplets, count=10), **KINDS):
            assert not (comparison.significant and comparison.difference.mean < 0.0), comparison.verdict
            assert comparison.difference.mean > -0.01, comparison.verdict

    def test_inner_folds_keep_groups_together_and_need_enough_of_them(self):
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
        embedded = listening_test(linear, noise=0.2, triplets=80)
        grouped, seen = Splits.draw(embedded.triplets, count=1, kind="grouped", train_fraction=0.8), []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "stemsim.fitting.fusions._inner_folds", lambda *given_: seen.append(given_[2]) or _inner_folds(*given_)
            )
            FusionModel("spline", SplineFusion, settings=SMALL).fit(embedded, grouped)
        np.testing.assert_array_equal(seen[0], embedded.triplets.track_ids[:, 0])

    def test_wrong_shapes_and_too_few_triplets_say_what_to_do(self):
        embedded = listening_test(linear, noise=0.2, triplets=80)
        train = masks(splits_of(embedded))
        for wrong in (train.T, train.double()):
            with pytest.raises(ConfigError, match=r"Expected train parts \(split, 80\) of bool"):
                fit_fusions(FusionModel("", SplineFusion), embedded, wrong)
        with pytest.raises(SplitError, match="fewer"):
            fit_fusions(FusionModel("", SplineFusion), embedded, torch.zeros_like(train))
        with pytest.raises(ConfigError, match="learning rate above 0"):
            FitSettings(learning_rate=0.0)
        with pytest.raises(ConfigError, match="0 folds or at least 2"):
            FitSettings(folds=1)


def by_augmented_least_squares(rows, target, prior, alpha):
    """Minimise |D (s p + v) - y|^2 + alpha |v|^2 over scale s and step v, as one least-squares problem."""
    stems = len(prior)
    top = np.column_stack([rows @ prior, rows])
    bottom = np.column_stack([np.zeros(stems), alpha**0.5 * np.eye(stems)])
    solution = np.linalg.lstsq(np.vstack([top, bottom]), np.concatenate([target, np.zeros(stems)]), rcond=None)[0]
    return solution[0] * prior + solution[1:]


class TestPriors:
    @given(SEEDS)
    @settings(max_examples=12, deadline=None)
    def test_ridge_towards_a_prior_is_least_squares_over_scale_and_step_and_leaves_one_out_exactly(self, seed):
        rng = np.random.default_rng(seed)
        rows, prior = rng.normal(size=(25, 3)), rng.normal(size=3)
        target, alphas = np.sign(rows @ rng.normal(size=3) + 0.5 * rng.normal(size=25)), (0.01, 1.0, 100.0)
        train = rng.random((2, 25)) < 0.7
        found = ridge_towards(*map(torch.from_numpy, (prior, rows, target, train)), alphas)
        for part, weights, chosen in zip(train, *found, strict=True):
            kept, errors = np.flatnonzero(part), []
            for alpha in alphas:
                left_out = [
                    by_augmented_least_squares(rows[others := kept[kept != row]], target[others], prior, alpha)
                    @ rows[row]
                    for row in kept
                ]
                errors.append(np.square(left_out - target[kept]).sum())
            assert chosen.item() == alphas[int(np.argmin(errors))]
            expected = by_augmented_least_squares(rows[part], target[part], prior, chosen.item())
            np.testing.assert_allclose(weights.numpy(), expected, atol=1e-8)

    def test_only_its_direction_counts_an_unlimited_penalty_leaves_nothing_else_and_silence_is_harmless(self):
        rng = np.random.default_rng(0)
        rows, target = torch.from_numpy(rng.normal(size=(40, 3))), torch.from_numpy(np.sign(rng.normal(size=40)))
        prior, everything = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.ones(1, 40)
        first, scaled = (ridge_towards(scale * prior, rows, target, everything)[0] for scale in (1.0, -7.0))
        torch.testing.assert_close(first, scaled, atol=1e-10, rtol=0)
        along = rows @ prior
        firm = ridge_towards(prior, rows, target, everything, [1e6])[0][0]
        torch.testing.assert_close(firm, prior * (along @ target / (along @ along)), atol=1e-5, rtol=0)
        rows[:, 1] = 0.0
        weights = ridge_towards(prior, rows, target, everything, [1.0])[0][0]
        expected = by_augmented_least_squares(rows.numpy(), target.numpy(), prior.numpy(), 1.0)
        np.testing.assert_allclose(rows @ weights, rows.numpy() @ expected, atol=1e-8)
        assert weights.isfinite().all()

    @pytest.mark.parametrize("prior", [torch.zeros(3), torch.ones(2), torch.tensor([1.0, torch.nan, 0.0])])
    def test_a_prior_that_is_none_is_refused(self, prior):
        with pytest.raises(ConfigError, match="one finite weight for each of 3 stems"):
            ridge_towards(prior, torch.ones(5, 3), torch.ones(5), torch.ones(1, 5))

    def test_right_weights_beat_ridge_where_votes_are_few(self):
        rng = np.random.default_rng(3)
        rows, truth = rng.normal(size=(400, 12)), rng.uniform(0.2, 2.0, size=12)
        felt = rows @ truth
        for_a = (felt + 0.3 * felt.std() * rng.logistic(size=400) > 0).astype(int)
        table = replace(make_triplets(rng, 400), votes=np.stack([for_a, 1 - for_a], axis=1))
        embedded = with_features(table, rows, [f"stem {index}" for index in range(12)])
        splits = Splits.draw(table, count=15, train_fraction=0.06)
        result = cross_validate(embedded, splits, [PriorModel("prior", torch.from_numpy(0.3 * truth))])
        comparison = compare_models(result["prior"], result["ridge"], replace(splits, train_fraction=0.9))
        assert comparison.significant, comparison.verdict
        assert comparison.difference.mean > 0.02, comparison.verdict


LAYOUT = ("drums", "bass", "mix")
SONGS, EACH, DIM = 40, 5, 12
NUISANCE = torch.linalg.qr(torch.randn(3, DIM, 2, generator=torch.Generator().manual_seed(5)))[0]  # (stem, dim, 2)


def world(seed, count, *, same_song=False):
    """Return triplets over songs whose segments differ most in what listeners do not hear, and their votes."""
    rng = np.random.default_rng(seed)
    table = make_triplets(rng, count, tracks=SONGS, per_track=EACH, same_song=same_song)
    song = torch.from_numpy(rng.normal(size=(SONGS, 1, 3, DIM)))
    heard = 0.8 * song + 0.4 * torch.from_numpy(rng.normal(size=(SONGS, EACH, 3, DIM)))
    heard = heard - torch.einsum("ijsd,sdr,ser->ijse", heard, NUISANCE.double(), NUISANCE.double())
    noise = 2.5 * torch.from_numpy(rng.normal(size=(SONGS, EACH, 3, 2)))
    unheard = torch.einsum("ijsr,sdr->ijsd", noise, NUISANCE.double())
    quiet, present = torch.zeros(SONGS * EACH, 3), torch.ones(SONGS * EACH, 3, dtype=torch.bool)
    whole, bare = (
        EmbeddedTriplets(
            table,
            StemEmbeddings(torch.nn.functional.normalize(one.flatten(0, 1), dim=2).float(), quiet, present),
            LAYOUT,
        )
        for one in (heard + unheard, heard)
    )
    if same_song:
        return whole
    felt = bare.deltas.sum(dim=1).numpy()
    for_a = rng.binomial(9, 1 / (1 + np.exp(-felt / (0.3 * felt.std()))))
    return replace(whole, triplets=replace(table, votes=np.stack([for_a, 9 - for_a], axis=1).astype(np.int64)))


class TestPretraining:
    def test_pre_training_on_songs_alone_lets_few_votes_beat_ridge(self):
        start, votes = pretrain(LowRankFusion, world(0, 400, same_song=True)), world(1, 120)
        assert int(start.stopped_at) > 5
        splits = Splits.draw(votes.triplets, count=8)
        result = cross_validate(
            votes,
            splits,
            [
                FusionModel("low-rank", LowRankFusion),
                FusionModel("low-rank, same-song", LowRankFusion, start=start),
                PriorModel("ridge, same-song", start.linear[0]),
            ],
        )
        taught = result["low-rank, same-song"]
        for worse in ("ridge", "ridge, same-song"):
            comparison = compare_models(taught, result[worse], splits)
            assert comparison.significant, comparison.verdict
            assert comparison.difference.mean > 0.03, comparison.verdict
        assert taught.mean > result["low-rank"].mean

    def test_its_weights_are_those_of_the_linear_fusion_and_other_triplets_are_refused(self):
        songs, rule = world(2, 200, same_song=True), FitSettings(steps=3, folds=0)
        everything = torch.ones(1, 200, dtype=torch.bool)
        alone = fit_fusions(FusionModel("", LinearFusion, settings=FitSettings(0)), songs, everything).state["weight"][
            0
        ]
        torch.testing.assert_close(pretrain(SplineFusion, songs, settings=rule).linear[0], alone)
        with pytest.raises(TripletError, match="same-song triplets"):
            pretrain(LinearFusion, world(4, 60))

    def test_with_a_huge_penalty_a_fit_stays_at_the_scaled_state_it_starts_from(self):
        start = pretrain(SplineFusion, world(2, 200, same_song=True), settings=FitSettings(steps=5, folds=0))
        votes, train = world(3, 80), torch.rand(2, 80) < 0.7
        rule = FitSettings(steps=3, folds=0, learning_rate=1e-9)
        fits = fit_fusions(FusionModel("", SplineFusion, [1e6], rule, start=start), votes, train)
        fusion, target = SplineFusion(LAYOUT), votes.target()
        fusion.load_state_dict({name: values[0] for name, values in start.state.items()})
        with torch.no_grad():
            first = fusion.preference(*votes.roles())
        for part, preference in zip(train, fits.preference, strict=True):
            scale = (first @ (target * part)) / (first.square() @ part.double())
            torch.testing.assert_close(preference, scale * first, atol=1e-6, rtol=0)
