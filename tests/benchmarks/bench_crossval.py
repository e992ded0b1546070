"""Time cross-validation from sufficient statistics against scikit-learn's RidgeCV over the same splits.

python tests/benchmarks/bench_crossval.py --help
"""

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import RidgeCV

from stemsim.audio import Segment
from stemsim.evaluation import cross_validate, ridge_path, split_triplets
from stemsim.evaluation.crossval import ALPHAS
from stemsim.stems import STEMS
from stemsim.triplets import Triplets


def made_up(triplets, seed):
    """Return features of 7 stems, and a table whose votes they explain in part."""
    rng = np.random.default_rng(seed)
    tracks = rng.integers(200, size=(triplets, 1)) + np.array([[0, 200, 400]])
    segments = tuple(Segment(f"track{track}.wav", 0.0, 5.0) for track in range(600))
    deltas = rng.normal(scale=0.2, size=(triplets, 7)) @ (np.eye(7) + 0.3)
    chance = 1 / (1 + np.exp(-4 * deltas @ rng.uniform(0.1, 2.0, 7)))
    for_a = rng.binomial(9, chance)
    table = Triplets(
        segments=segments,
        tracks=tuple(segment.path for segment in segments),
        x=tracks[:, 0],
        a=tracks[:, 1],
        b=tracks[:, 2],
        test_type=np.full(triplets, "XAB"),
        instrument=np.full(triplets, "mix"),
        votes=np.stack([for_a, 9 - for_a], axis=1),
        perspective_votes=np.zeros((triplets, 3, 2), np.int64),
        source="made up",
    )
    return torch.from_numpy(deltas), table


def timed(action, repeats=1):
    """Return what an action gives, and the seconds it took on average."""
    start = time.perf_counter()
    for _ in range(repeats):
        result = action()
    return result, (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", type=int, default=27_000)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    deltas, table = made_up(given.triplets, given.seed)
    target, alphas = torch.from_numpy(table.preference).double(), torch.tensor(ALPHAS, dtype=torch.float64)
    parts = split_triplets(table, (0.7, 0.0, 0.3), count=given.splits, seed=given.seed)
    train, test = torch.from_numpy(parts == 0), torch.from_numpy(parts == 2)
    ours, our_time = timed(lambda: ridge_path(deltas, target, train, test, alphas), repeats=5)
    folds = [(np.flatnonzero(part == 0), np.flatnonzero(part == 2)) for part in parts]
    theirs, their_time = timed(
        lambda: RidgeCV(ALPHAS, cv=folds, fit_intercept=False).fit(deltas.numpy(), target.numpy())
    )
    _, whole_time = timed(lambda: cross_validate(deltas, table, STEMS, count=given.splits, seed=given.seed))
    small_deltas, small = made_up(331, given.seed)
    _, small_time = timed(lambda: cross_validate(small_deltas, small.filter(), STEMS, count=given.splits))
    report = Table(title=f"{given.triplets} triplets x 7 stems x {len(ALPHAS)} alphas x {given.splits} splits")
    for column in ("", "seconds", "alpha"):
        report.add_column(column)
    report.add_row("scikit-learn RidgeCV(cv=splits)", f"{their_time:.2f}", f"{theirs.alpha_:.4g}")
    report.add_row("stemsim ridge_path", f"{our_time:.3f}", f"{ours.best_alpha:.4g}")
    report.add_row("stemsim cross_validate, everything", f"{whole_time:.2f}", "")
    report.add_row("the same on 331 triplets", f"{small_time:.2f}", "")
    console = Console()
    console.print(report)
    console.print(f"ratio {their_time / our_time:.0f}; largest difference of a weight ", end="")
    console.print(f"{np.abs(ours.weights - theirs.coef_).max():.1e}")


if __name__ == "__main__":
    main()
