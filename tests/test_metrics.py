"""The torchmetrics against the plain functions, batch by batch."""

import numpy as np
import pytest
import torch

from stemsim.evaluation import agreement, human_ceiling
from stemsim.training.metrics import Agreement, HumanCeiling
from stemsim.triplets import TEST_TYPES

RNG = np.random.default_rng(0)
VOTES = RNG.integers(0, 6, size=(90, 2))
VOTES = VOTES[VOTES[:, 0] != VOTES[:, 1]]
MAJORITY = np.sign(VOTES[:, 0] - VOTES[:, 1])
PREFERENCE = np.where(RNG.random(len(VOTES)) < 0.1, 0.0, RNG.normal(size=len(VOTES)))
TYPES = RNG.integers(2, size=len(VOTES))


def counted(metric, *columns):
    for rows in np.array_split(np.arange(len(VOTES)), 4):
        metric.update(*(torch.from_numpy(column[rows]) for column in columns))
    return metric.compute().item()


def test_agreement_over_batches_is_that_over_all_triplets():
    assert counted(Agreement(), PREFERENCE, VOTES, TYPES) == pytest.approx(agreement(PREFERENCE, MAJORITY))


@pytest.mark.parametrize("index", [0, 1])
def test_agreement_by_test_type_counts_only_that_type(index):
    rows = index == TYPES
    found = counted(Agreement(TEST_TYPES[index]), PREFERENCE, VOTES, TYPES)
    assert found == pytest.approx(agreement(PREFERENCE[rows], MAJORITY[rows]))


def test_vote_weighted_agreement_is_the_share_of_single_answers():
    answers = [
        0.5 if choice == 0 else float(choice == side)
        for choice, votes in zip(np.sign(PREFERENCE), VOTES, strict=True)
        for side, count in zip((1, -1), votes, strict=True)
        for _ in range(count)
    ]
    assert counted(Agreement(vote_weighted=True), PREFERENCE, VOTES, TYPES) == pytest.approx(np.mean(answers))


def test_human_ceiling_over_batches_is_that_over_all_triplets():
    assert counted(HumanCeiling(), VOTES) == pytest.approx(human_ceiling(VOTES))


def test_a_metric_that_counted_nothing_says_so():
    assert not Agreement("XAB").counted
    metric = HumanCeiling()
    metric.update(torch.tensor([[1, 0]]))
    assert not metric.counted
