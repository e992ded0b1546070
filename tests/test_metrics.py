"""The logged metrics against the plain functions, batch by batch."""

import numpy as np
import pytest
import torch

from stemsim.evaluation import agreement, human_ceiling
from stemsim.similarity import StemEmbeddings
from stemsim.training.data import TripletBatch
from stemsim.training.module import StemSimilarityModule, agreement_means, baseline_means

RNG = np.random.default_rng(0)
VOTES = RNG.integers(0, 6, size=(90, 2))
VOTES = VOTES[VOTES[:, 0] != VOTES[:, 1]]
SIZE = len(VOTES)
MAJORITY = np.sign(VOTES[:, 0] - VOTES[:, 1])
PREFERENCE = np.where(RNG.random(SIZE) < 0.1, 0.0, RNG.normal(size=SIZE))
TYPES = RNG.integers(2, size=SIZE)


def batch(rows, stems=2):
    """Return triplets whose only stem feature, that of the last stem, is the preference."""
    vectors = torch.zeros(len(rows), stems, 2, dtype=torch.float64)
    preference = torch.from_numpy(PREFERENCE[rows]).clamp(-1, 1)
    x, a = vectors.clone(), vectors.clone()
    x[:, -1, 0] = 1.0
    a[:, -1, 0] = preference
    level, present = torch.zeros(len(rows), stems), torch.ones(len(rows), stems, dtype=torch.bool)
    target = torch.from_numpy(MAJORITY[rows]).double()
    said = (target, torch.ones_like(target), torch.from_numpy(VOTES[rows]), torch.from_numpy(TYPES[rows]))
    return TripletBatch(
        *(StemEmbeddings(one, level, present) for one in (x, a, vectors)), *said, torch.from_numpy(rows)
    )


def means(vote_weighted=False, stems=("bass", "mix"), rows=None):
    """Return the means of all metrics, counted in four batches."""
    module = StemSimilarityModule(list(stems))
    for part in np.array_split(np.arange(SIZE) if rows is None else rows, 4):
        one, weighted = batch(part), {"vote_weighted": vote_weighted}
        found = agreement_means(torch.from_numpy(PREFERENCE[part]), one, **weighted)
        for name, (value, weight) in (found | baseline_means(one, stems, **weighted)).items():
            module.means[f"test/{name}"].update(value, weight)
    return {name[5:]: metric.compute().item() for name, metric in module.means.items() if name.startswith("test/")}


def test_agreement_is_that_over_all_triplets_and_over_those_of_each_type():
    found = means()
    for name, rows in (("agreement", TYPES >= 0), ("agreement_xab", TYPES == 0), ("agreement_xyc", TYPES == 1)):
        assert found[name] == pytest.approx(agreement(PREFERENCE[rows], MAJORITY[rows]), abs=1e-12)
    assert found["mix_cosine"] == pytest.approx(found["agreement"])
    assert found["uniform_weights"] == pytest.approx(found["agreement"])
    assert found["human_ceiling"] == pytest.approx(human_ceiling(VOTES), abs=1e-12)


def test_vote_weighted_agreement_is_the_share_of_single_answers():
    answers = [
        0.5 if choice == 0 else float(choice == side)
        for choice, votes in zip(np.sign(PREFERENCE), VOTES, strict=True)
        for side, count in zip((1, -1), votes, strict=True)
        for _ in range(count)
    ]
    found = means(vote_weighted=True)
    for name in ("agreement", "mix_cosine", "uniform_weights"):
        assert found[name] == pytest.approx(np.mean(answers))


def test_a_metric_that_counts_nothing_is_nan():
    assert np.isnan(means(stems=("bass", "drums"))["mix_cosine"])
    alone = means(rows=np.flatnonzero((VOTES.sum(axis=1) == 1) & (TYPES == 0)))
    assert np.isnan(alone["agreement_xyc"])
    assert np.isnan(alone["human_ceiling"])
