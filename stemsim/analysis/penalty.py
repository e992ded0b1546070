"""The ridge penalty: weights as functions of it, and its choice by nested cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stemsim.errors import SplitError
from stemsim.evaluation import PARTS, CrossValidation, ModelScores, SplitFits, split_triplets
from stemsim.evaluation.crossval import held_out_r2, score_fits
from stemsim.regression import fit_ridge


@dataclass(frozen=True, slots=True)
class WeightPath:
    """Ridge weights on all triplets as functions of the penalty."""

    alphas: Sequence[float]  # penalties, ascending and above 0
    weights: Sequence[Sequence[float]]  # by penalty and stem
    left_out_error: Sequence[float]  # mean squared error on left-out triplets, by penalty
    best_alpha: float  # penalty of the least `left_out_error`


def weight_path(result: CrossValidation) -> WeightPath:
    """Return ridge regression on all triplets of a cross-validation, with every penalty."""
    fit = result.on_all
    order = [index for index in fit.alphas.argsort().tolist() if fit.alphas[index] > 0.0]
    error, alphas = fit.left_out_error()[order] / len(result.embedded), fit.alphas[order].tolist()
    return WeightPath(alphas, fit.weights[order].tolist(), error.tolist(), alphas[int(error.argmin())])


def nested_cross_validation(result: CrossValidation, *, inner: int = 10) -> ModelScores:
    """Choose the penalty within each train part by inner splits, and score ridge regression with it on the test part.

    Inner splits are splits of all triplets (or tracks) restricted to the train part, so that they are of the same kind:
    grouped inner splits choose a penalty for new tracks, which leave-one-out cannot do.

    Args:
        result: The outer cross-validation.
        inner: Number of inner splits of each train part.

    Raises:
        SplitError: If an inner split leaves its train or test part empty.
    """
    splits, triplets, outer = result.splits, result.embedded.triplets, result.on_train
    count, fractions = len(splits), (splits.train_fraction, 0.0, 1.0 - splits.train_fraction)
    within = split_triplets(triplets, fractions, kind=splits.kind, count=count * inner, seed=splits.seed + 1)
    train, held = (
        (within == PARTS.index(part)).reshape(count, inner, -1) & splits.train[:, None] for part in ("train", "test")
    )
    usable = train.any(axis=2) & held.any(axis=2)  # (outer, inner)
    if not usable.any(axis=1).all():
        raise SplitError(
            f"Some {splits.kind} train parts cannot be split again. Use more triplets or tracks, or another train "
            "fraction."
        )
    chosen = torch.empty(count, dtype=torch.int64)
    for split in range(count):  # all inner splits of one outer split at once, which bounds the memory
        rows = usable[split]
        inner_fits = fit_ridge(outer.features, outer.target, outer.alphas, counts=torch.from_numpy(train[split][rows]))
        chosen[split] = held_out_r2(inner_fits, torch.from_numpy(held[split][rows]), first=1)[1]
    weights = outer.weights[torch.arange(count), chosen]
    fits = SplitFits((weights @ outer.deltas.T).numpy(), weights.numpy(), outer.alphas[chosen].numpy())
    return score_fits("ridge, nested", fits, result.embedded, splits)
