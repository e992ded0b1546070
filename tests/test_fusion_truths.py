"""Fusions beside ridge in a listening test of the paper's size: 7 stems, 331 triplets, nine noisy votes a triplet."""

import numpy as np
import pytest
import torch

from stemsim.evaluation.comparison import compare_models
from stemsim.evaluation.fusion_fit import FitSettings, fit_fusions
from stemsim.fusion import AttentionFusion, LinearFusion, LowRankFusion, MonotoneFusion, SplineFusion
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.stems import STEMS

WEIGHTS = torch.tensor([0.32, 0.83, 0.61, 0.27, 0.33, 1.27, 1.64], dtype=torch.float64)  # the paper's, table 4
KINDS = {"spline": SplineFusion, "monotone": MonotoneFusion, "attention": AttentionFusion, "low_rank": LowRankFusion}
SONGS, EACH, DIM = 60, 6, 20


def linear(cosines):
    return cosines


def saturating(cosines):
    """Stems are alike or not; a silent one adds nothing."""
    return torch.where(cosines == 0.0, 0.0, torch.sigmoid((cosines - 0.75) / 0.05))


def listening_test(felt, noise, splits, seed):
    """Return embeddings, members, the majority of nine votes, and 70/30 train parts."""
    rng = np.random.default_rng(seed)
    shared, song = rng.normal(size=(7, DIM)), rng.normal(size=(SONGS, 1, 7, DIM))
    vectors = 0.8 * shared + 0.6 * song + 0.45 * rng.normal(size=(SONGS, EACH, 7, DIM))
    present = torch.from_numpy(rng.random((SONGS * EACH, 7)) > 0.08)
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors).flatten(0, 1), dim=2) * present.unsqueeze(2)
    levels = torch.from_numpy(rng.normal(-30.0, 8.0, size=(SONGS * EACH, 7)))
    embeddings = StemEmbeddings(unit.float(), torch.where(present, levels, -120.0).float(), present)
    tracks = np.array([rng.choice(SONGS, 3, replace=False) for _ in range(331)])
    place = rng.integers(EACH, size=(331, 3))
    same = rng.random(331) < 0.6  # XYC: A is another segment of X's song
    tracks[same, 1], place[same, 1] = tracks[same, 0], (place[same, 0] + 1) % EACH
    members = torch.from_numpy(tracks * EACH + place).T
    x, a, b = (embeddings.take(rows) for rows in members)
    closer = (felt(stem_cosines(x, a)) - felt(stem_cosines(x, b))) @ WEIGHTS
    votes = rng.binomial(9, torch.sigmoid(closer / (noise * closer.std())).numpy())
    train = torch.from_numpy(rng.permuted(np.tile(np.arange(331), (splits, 1)), axis=1) < 232)
    return embeddings, members, torch.from_numpy(np.sign(2 * votes - 9)).double(), train


def compared(name, test):
    """Compare a fusion with ridge, the linear fusion that no step is taken from."""
    fusion, ridge = (
        fit_fusions(KINDS[name], STEMS, *test),
        fit_fusions(LinearFusion, STEMS, *test, settings=FitSettings(steps=0)),
    )
    return compare_models(
        (name, "ridge"),
        (fusion.preference.numpy(), ridge.preference.numpy()),
        test[2].long().numpy(),
        ~test[3].numpy(),
        test_train_ratio=99 / 232,
    )


@pytest.mark.parametrize("name", KINDS)
def test_where_listeners_are_linear_a_fusion_is_not_worse_than_ridge(name):
    comparison = compared(name, listening_test(linear, 0.6, 10, seed=0))
    assert not (comparison.told_apart and comparison.difference.mean < 0.0), comparison.verdict
    assert comparison.difference.mean > -0.01, comparison.verdict


@pytest.mark.parametrize("name", ["spline", "monotone"])
def test_where_likeness_saturates_a_monotone_fusion_beats_ridge(name):
    comparison = compared(name, listening_test(saturating, 0.1, 20, seed=0))
    assert comparison.told_apart, comparison.verdict
    assert comparison.difference.mean > 0.0, comparison.verdict
