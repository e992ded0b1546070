"""Fusions fitted to all splits at once: against a loop, and against ridge on data whose truth is known."""

import numpy as np
import pytest
import torch

from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation.comparison import compare_models
from stemsim.evaluation.crossval import ALPHAS, leave_one_out_alpha
from stemsim.evaluation.fusion_fit import FitSettings, _inner_folds, fit_fusions
from stemsim.fusion import AttentionFusion, LowRankFusion, MonotoneFusion, SplineFusion, StemPairs, WeightedFusion
from stemsim.regression import ridge_weights
from stemsim.similarity import StemEmbeddings, stem_cosines, stem_deltas

STEMS = ["bass", "drums", "vocals", "mix"]
KINDS = {"spline": SplineFusion, "monotone": MonotoneFusion, "attention": AttentionFusion, "low_rank": LowRankFusion}
WEIGHTS = torch.tensor([0.8, 1.2, 0.6, 1.0], dtype=torch.float64)
SMALL = FitSettings(steps=12, folds=3)
DIM = 16


class BentFusion(WeightedFusion):
    """A fusion that somebody else may write: each stem's cosine and its square."""

    def __init__(self, stems):
        super().__init__(stems)
        self.bend = torch.nn.Parameter(torch.zeros(len(self.stems), dtype=torch.float64))

    def fuse(self, pairs):
        return self.weight * (pairs.cosines + self.bend * pairs.cosines.square())

    def roughness(self):
        return 0.01 * self.bend.square().sum()


def songs(rng, count=300):
    """Return stem embeddings of many segments, whose cosines spread over 0 to 1."""
    kind = torch.from_numpy(rng.normal(size=(12, 4, DIM)))[torch.from_numpy(rng.integers(12, size=count))]
    own = torch.from_numpy(rng.normal(size=(count, 4, DIM)) * rng.uniform(0.3, 1.2, size=(count, 1, 1)))
    present = torch.from_numpy(rng.random((count, 4)) > 0.05)
    present[:, 3] = True
    vectors = torch.nn.functional.normalize(kind + 0.7 + own, dim=2) * present.unsqueeze(2)
    levels = torch.where(present, torch.from_numpy(rng.normal(-30.0, 8.0, size=(count, 4))), -torch.inf)
    return StemEmbeddings(vectors.float(), levels.float(), present)


def alike(cosines):
    """Return whether stems are alike, from 0 to 1: half at the median cosine; a silent stem adds nothing."""
    return torch.where(cosines == 0.0, 0.0, torch.sigmoid((cosines - 0.25) / 0.05))


def linear(x, y):
    return stem_cosines(x, y) @ WEIGHTS


def saturating(x, y):
    return alike(stem_cosines(x, y)) @ WEIGHTS


def loudness(x, y):
    power = torch.where(x.present, 10.0 ** (x.levels.double() / 10.0), 0.0)
    return (power / power.sum(dim=1, keepdim=True) * stem_cosines(x, y)) @ WEIGHTS


def metric(x, y):
    """Of all dimensions of an embedding, the first three count."""
    heard = [one._replace(vectors=torch.nn.functional.normalize(one.vectors[..., :3], dim=2)) for one in (x, y)]
    return stem_cosines(*heard) @ WEIGHTS


def listening_test(truth, triplets, splits, seed=0, noise=0.2):
    """Return embeddings, members, what listeners with noise prefer, and 70/30 train parts."""
    rng = np.random.default_rng(seed)
    embeddings = songs(rng)
    members = torch.from_numpy(rng.permuted(np.tile(np.arange(300), (triplets, 1)), axis=1)[:, :3].T.copy())
    x, a, b = (embeddings.take(rows) for rows in members)
    felt = truth(x, a) - truth(x, b)
    felt = felt / felt.std() + noise * torch.from_numpy(rng.logistic(size=triplets))
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(triplets), (splits, 1)), axis=1))
    return embeddings, members, torch.where(felt > 0.0, 1.0, -1.0).double(), order < 0.7 * triplets


def fit(kind, test, **settings):
    return fit_fusions(kind, STEMS, *test, **settings)


def ridge_preferences(test):
    """Return what ridge predicts on every split, one split after the other."""
    embeddings, members, target, train = test
    deltas = stem_deltas(*(embeddings.take(rows) for rows in members))
    alphas = leave_one_out_alpha(deltas, target, train, torch.tensor(ALPHAS, dtype=torch.float64))
    weights = [ridge_weights(deltas[part], target[part], float(a)) for part, a in zip(train, alphas, strict=True)]
    return torch.stack(weights) @ deltas.T, alphas


def loop_fit(kind, test, part, counted, alpha, steps):
    """Fit one fusion by the book, on the rows `counted`, having observed `part`; return its preference at each step."""
    embeddings, members, target, _ = test
    x, a, b = (embeddings.take(rows) for rows in members)
    fusion = kind(STEMS)
    rows = torch.nonzero(part).squeeze(1)
    pairs = [StemPairs.of(x.take(rows), one.take(rows)) for one in (a, b)]
    fusion.observe(
        StemPairs.of(
            *(
                StemEmbeddings(*map(torch.cat, zip(*side, strict=True)))
                for side in zip(*((pair.query, pair.candidate) for pair in pairs), strict=True)
            )
        )
    )
    fusion.start_from(ridge_weights(stem_deltas(x, a, b)[counted], target[counted], alpha))
    optimizer, found = torch.optim.Adam(fusion.parameters(), lr=FitSettings().learning_rate), []
    for _ in range(steps + 1):
        preference = fusion.preference(x, a, b)
        found.append(preference.detach())
        optimizer.zero_grad()
        error = (preference[counted] - target[counted]).square().mean()
        (error + alpha / int(counted.sum()) * fusion.penalty() + fusion.roughness()).backward()
        optimizer.step()
    return torch.stack(found)


@pytest.mark.parametrize("kind", [*KINDS.values(), BentFusion])
def test_all_splits_at_once_are_a_loop_over_splits_and_inner_folds(kind):
    test = listening_test(saturating, 80, 3)
    _, _, target, train = test
    fits, (_, alphas) = fit(kind, test, settings=SMALL), ridge_preferences(test)
    torch.testing.assert_close(fits.alphas, alphas)
    folds = _inner_folds(train, SMALL)
    for split, part in enumerate(train):
        losses = torch.zeros(SMALL.steps + 1, len(target), dtype=torch.float64)
        for fold in range(SMALL.folds):
            out = folds[split] == fold
            found = loop_fit(kind, test, part, part & ~out, float(alphas[split]), SMALL.steps)
            losses[:, out] = (found - target).square()[:, out]
        held = losses[:, part]
        torch.testing.assert_close(fits.held_out[split], held.mean(dim=1), atol=1e-9, rtol=1e-7)
        excess = held - held[held.mean(dim=1).argmin()]
        within = excess.mean(dim=1) <= excess.std(dim=1, correction=0) / part.sum().sqrt()
        stop = int(within.double().argmax())
        assert int(fits.stopped_at[split]) == stop
        expected = loop_fit(kind, test, part, part, float(alphas[split]), stop)[-1]
        torch.testing.assert_close(fits.preference[split], expected, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_without_steps_a_fit_is_ridge_and_a_split_gives_its_fusion_back(name):
    test = listening_test(linear, 90, 4)
    ridge, _ = ridge_preferences(test)
    torch.testing.assert_close(
        fit(KINDS[name], test, settings=FitSettings(steps=0)).preference, ridge, atol=1e-10, rtol=1e-9
    )
    fits = fit(KINDS[name], test, settings=FitSettings(steps=5, folds=0))
    x, a, b = (test[0].take(rows) for rows in test[1])
    with torch.no_grad():
        preference = fits.of_split(2).preference(x, a, b)
    torch.testing.assert_close(preference, fits.preference[2], atol=1e-10, rtol=1e-9)


def test_the_test_part_has_no_say_in_a_fit():
    embeddings, members, target, train = listening_test(saturating, 80, 1)
    other = torch.where(train[0], target, -target)
    first, second = (fit(SplineFusion, (embeddings, members, said, train), settings=SMALL) for said in (target, other))
    assert torch.equal(first.preference, second.preference)
    assert int(first.stopped_at) == int(second.stopped_at)


def compared(kind, test):
    """Compare a fusion with ridge on the test parts."""
    ridge, _ = ridge_preferences(test)
    return compare_models(
        ("fusion", "ridge"),
        (fit(kind, test).preference.numpy(), ridge.numpy()),
        test[2].long().numpy(),
        ~test[3].numpy(),
        test_train_ratio=0.3 / 0.7,
    )


@pytest.mark.parametrize(
    ("name", "truth"),
    [("spline", saturating), ("attention", loudness), ("low_rank", metric)],
)
def test_on_its_own_truth_a_fusion_beats_ridge_significantly(name, truth):
    comparison = compared(KINDS[name], listening_test(truth, 500, 8, seed=2, noise=0.1))
    assert comparison.told_apart, comparison.verdict
    assert comparison.difference.mean > 0.0, comparison.verdict


def test_wrong_shapes_and_too_few_triplets_say_what_to_do():
    embeddings, members, target, train = listening_test(linear, 80, 2)
    with pytest.raises(ConfigError, match=r"Expected members \(3, 80\)"):
        fit_fusions(SplineFusion, STEMS, embeddings, members.T, target, train)
    with pytest.raises(ConfigError, match="of bool"):
        fit_fusions(SplineFusion, STEMS, embeddings, members, target, train.double())
    with pytest.raises(ConfigError, match="of 3 stems"):
        fit_fusions(SplineFusion, STEMS[:3], embeddings, members, target, train)
    with pytest.raises(SplitError, match="fewer"):
        fit_fusions(SplineFusion, STEMS, embeddings, members, target, torch.zeros_like(train))
    with pytest.raises(ConfigError, match="learning rate above 0"):
        FitSettings(learning_rate=0.0)
    with pytest.raises(ConfigError, match="0 folds or at least 2"):
        FitSettings(folds=1)
