"""Time fusions fitted to all splits at once against a loop of fits, one for each split.

Both start from each split's best linear weights and take as many steps of Adam on the full batch; neither has inner
folds. The time with inner folds, as in `train.py crossval`, is shown as well. A few fits of the loop are timed and
their mean is multiplied by the number of splits; --full runs them all.

python tests/benchmarks/bench_fusions.py --help
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from stemsim.evaluation import Splits
from stemsim.fitting import FitSettings, fit_fusions
from stemsim.fusion import AttentionFusion, LowRankFusion, MonotoneFusion, SplineFusion, StemPairs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tables import listening_test, saturating

KINDS = {"spline": SplineFusion, "monotone": MonotoneFusion, "attention": AttentionFusion, "low_rank": LowRankFusion}


def single_fit(fusion, embedded, rows, alpha, steps):
    """Fit one split from the state of a fusion; return the preference for all triplets."""
    x, a, b = embedded.roles(rows)
    to_a, to_b = (pairs._replace(features=fusion.prepare(pairs)) for pairs in (StemPairs.of(x, a), StemPairs.of(x, b)))
    target, optimizer = embedded.target()[rows], torch.optim.Adam(fusion.parameters(), lr=FitSettings().learning_rate)
    for _ in range(steps):
        preference = fusion.similarity(to_a) - fusion.similarity(to_b)
        loss = (preference - target).square().mean() + alpha / len(rows) * fusion.penalty() + fusion.roughness()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return fusion.preference(*embedded.roles())


def timed(action):
    """Return the result of an action, and the seconds it took."""
    start = time.perf_counter()
    return action(), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusion", choices=sorted(KINDS), default="monotone")
    parser.add_argument("--triplets", type=int, default=331)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--steps", type=int, default=FitSettings().steps)
    parser.add_argument("--loop", type=int, default=3, help="fits of the loop to time; the rest is extrapolated")
    parser.add_argument("--full", action="store_true", help="run the fits of all splits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    kind = KINDS[given.fusion]
    embedded = listening_test(saturating, noise=0.3, triplets=given.triplets, seed=given.seed)
    splits = Splits.draw(embedded.triplets, count=given.splits, seed=given.seed)
    train = torch.from_numpy(splits.train)

    def fit(steps, folds):
        return fit_fusions(kind, embedded, train, settings=FitSettings(steps=steps, folds=folds))

    at_start = fit(0, 0)
    ours, our_time = timed(lambda: fit(given.steps, 0))
    _, whole_time = timed(lambda: fit(given.steps, FitSettings().folds))
    loop, largest = [], 0.0
    for split in range(given.splits if given.full else min(given.loop, given.splits)):
        fusion, rows = at_start.of_split(split), torch.nonzero(train[split]).squeeze(1)
        alpha = float(at_start.alphas[split])
        preference, seconds = timed(lambda: single_fit(fusion, embedded, rows, alpha, given.steps))  # noqa: B023
        loop.append(seconds)
        largest = max(largest, float((preference - ours.preference[split]).abs().max()))
    report(given, our_time, whole_time, loop, largest)


def report(given, our_time, whole_time, loop, largest):
    """Print the figures, and write them if asked."""
    loop_time, extrapolated = float(np.mean(loop)) * given.splits, len(loop) < given.splits
    how = f"{len(loop)} timed, extrapolated" if extrapolated else "all timed"
    table = Table(
        title=f"{given.fusion}: {given.splits} splits, {given.triplets} triplets x 7 stems, {given.steps} steps"
    )
    for column in ("", "seconds"):
        table.add_column(column)
    table.add_row(f"loop of fits ({how})", f"{loop_time:.1f}")
    table.add_row("fit_fusions, all splits at once", f"{our_time:.2f}")
    table.add_row(f"fit_fusions with {FitSettings().folds} inner folds", f"{whole_time:.2f}")
    console = Console()
    console.print(table)
    console.print(f"ratio {loop_time / our_time:.1f}; largest difference of a preference {largest:.1e}")
    figures = {
        "fusion": given.fusion,
        "splits": given.splits,
        "triplets": given.triplets,
        "steps": given.steps,
        "loop_seconds": loop_time,
        "loop_fits_timed": len(loop),
        "at_once_seconds": our_time,
        "with_inner_folds_seconds": whole_time,
        "largest_preference_gap": largest,
    }
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
