"""Time cross-validation from sufficient statistics against scikit-learn's RidgeCV over the same splits.

python tests/benchmarks/bench_crossval.py --help
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import RidgeCV

from stemsim.audio import Segment
from stemsim.evaluation import Splits, cross_validate
from stemsim.evaluation.crossval import ALPHAS, held_out_r2
from stemsim.regression import fit_ridge
from stemsim.similarity import StemEmbeddings
from stemsim.stems import STEMS
from stemsim.triplets import EmbeddedTriplets, Triplets


def made_up(triplets, seed, stems=STEMS):
    """Return triplets with features of their stems that explain their votes in part."""
    rng = np.random.default_rng(seed)
    tracks = rng.integers(200, size=(triplets, 1)) + np.array([[0, 200, 400]])
    segments = tuple(Segment(f"track{track}.wav", 0.0, 5.0) for track in range(600))
    deltas = rng.normal(scale=0.2, size=(triplets, len(stems))) @ (np.eye(len(stems)) + 0.3)
    chance = 1 / (1 + np.exp(-4 * deltas @ rng.uniform(0.1, 2.0, len(stems))))
    for_a = rng.binomial(9, chance)
    table = Triplets(
        segments=segments,
        tracks=tuple(segment.path for segment in segments),
        members=tracks,
        test_type=np.full(triplets, "XAB"),
        instrument=np.full(triplets, "mix"),
        votes=np.stack([for_a, 9 - for_a], axis=1),
        perspective_votes=np.zeros((triplets, 3, 2), np.int64),
        source="made up",
    )
    levels = torch.zeros(600, len(stems))
    embedded = EmbeddedTriplets(table, StemEmbeddings(levels.unsqueeze(2), levels, levels == 0.0), stems)
    vars(embedded)["deltas"] = torch.from_numpy(deltas)
    return embedded


def timed(action, repeats=1):
    """Return the result of an action, and the seconds it took on average."""
    start = time.perf_counter()
    for _ in range(repeats):
        result = action()
    return result, (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triplets", type=int, default=27_000)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--stems", type=int, default=len(STEMS), choices=range(1, len(STEMS) + 1), help="the last ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    stems = STEMS[-given.stems :]
    embedded = made_up(given.triplets, given.seed, stems)
    deltas, target = embedded.deltas, embedded.target()
    splits = Splits.draw(embedded.triplets, count=given.splits, seed=given.seed)

    def path():
        fit = fit_ridge(deltas, target, ALPHAS, counts=torch.from_numpy(splits.train))
        best = held_out_r2(fit, torch.from_numpy(splits.test))[1]
        return ALPHAS[best], fit_ridge(fit.features, target, [ALPHAS[best]]).weights[0]

    def whole(one):
        return cross_validate(one, Splits.draw(one.triplets, count=given.splits, seed=given.seed)).refit

    (best, weights), our_time = timed(path, repeats=5)
    folds = [
        (np.flatnonzero(train), np.flatnonzero(test)) for train, test in zip(splits.train, splits.test, strict=True)
    ]
    theirs, their_time = timed(
        lambda: RidgeCV(ALPHAS, cv=folds, fit_intercept=False).fit(deltas.numpy(), target.numpy())
    )
    _, whole_time = timed(lambda: whole(embedded))
    small = made_up(331, given.seed, stems)
    _, small_time = timed(lambda: whole(small))
    report = Table(
        title=f"{given.triplets} triplets x {given.stems} stems x {len(ALPHAS)} alphas x {given.splits} splits"
    )
    for column in ("", "seconds", "alpha"):
        report.add_column(column)
    report.add_row("scikit-learn RidgeCV(cv=splits)", f"{their_time:.2f}", f"{theirs.alpha_:.4g}")
    report.add_row("stemsim, the same", f"{our_time:.3f}", f"{best:.4g}")
    report.add_row("stemsim cross_validate, everything", f"{whole_time:.2f}", "")
    report.add_row("the same on 331 triplets", f"{small_time:.2f}", "")
    console = Console()
    console.print(report)
    console.print(f"ratio {their_time / our_time:.0f}; largest difference of a weight ", end="")
    difference = float(np.abs(weights.numpy() - theirs.coef_).max())
    console.print(f"{difference:.1e}")
    figures = {
        "triplets": given.triplets,
        "stems": given.stems,
        "splits": given.splits,
        "alphas": len(ALPHAS),
        "scikit-learn, s": their_time,
        "ours, s": our_time,
        "cross_validate, s": whole_time,
        "cross_validate on 331 triplets, s": small_time,
        "largest difference of a weight": difference,
    }
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
