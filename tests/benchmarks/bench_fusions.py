"""Time fusions fitted to all splits at once against a loop of Lightning fits, one for each split.

Both start from each split's best linear weights and take as many steps of Adam on the full batch; neither has inner
folds. What users wait for, inner folds included, stands beside them. A few Lightning fits are timed and their mean is
multiplied by the number of splits; --full runs them all.

python tests/benchmarks/bench_fusions.py --help
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from stemsim.evaluation import split_triplets
from stemsim.evaluation.fusion_fit import FitSettings, fit_fusions
from stemsim.evaluation.study.fusions import draw_listening_test
from stemsim.evaluation.study.listeners import felt, scale_of
from stemsim.evaluation.study.settings import StudySettings
from stemsim.evaluation.study.songs import draw
from stemsim.fusion import AttentionFusion, LowRankFusion, MonotoneFusion, SplineFusion
from stemsim.training.data import TripletDataset
from stemsim.training.module import StemSimilarityModule

KINDS = {"spline": SplineFusion, "monotone": MonotoneFusion, "attention": AttentionFusion, "low_rank": LowRankFusion}


def listening_test(triplets, seed):
    """Return a simulated listening test whose listeners find stems alike or not; odd votes, so that none is tied."""
    settings = StudySettings()
    drawn = draw(settings.songs, 5, 1000, settings.generator("benchmark"))
    scale = scale_of(felt(drawn, "saturating", settings.songs.stems))
    return draw_listening_test(settings, "saturating", scale, triplets, np.random.default_rng(seed))


def lightning_fit(kind, stems, dataset, fits, split, steps):
    """Fit one split by Lightning from the state that the other fit starts from; return the fusion and the seconds."""
    import lightning  # after stemsim.training, which lets torchvision be imported

    module = StemSimilarityModule(list(stems), fusion=kind, l2=float(fits.alphas[split]) / len(dataset), optimizer=adam)
    module.fusion = fits.of_split(split)
    trainer = lightning.Trainer(max_epochs=steps, accelerator="cpu", barebones=True)  # nothing logged, nothing saved
    loader = DataLoader(dataset, batch_size=len(dataset), collate_fn=lambda batch: batch)
    start = time.perf_counter()
    trainer.fit(module, loader)
    return module.fusion, time.perf_counter() - start


def adam(parameters):
    return torch.optim.Adam(parameters, lr=FitSettings().learning_rate)


def timed(action):
    """Return what an action gives, and the seconds it took."""
    start = time.perf_counter()
    return action(), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusion", choices=sorted(KINDS), default="monotone")
    parser.add_argument("--triplets", type=int, default=331)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--steps", type=int, default=FitSettings().steps)
    parser.add_argument("--loop", type=int, default=3, help="Lightning fits to time; the rest is extrapolated")
    parser.add_argument("--full", action="store_true", help="run the Lightning fits of all splits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    kind, test = KINDS[given.fusion], listening_test(given.triplets, given.seed)
    stems, triplets = StudySettings().songs.stems, test.triplets
    train = torch.from_numpy(split_triplets(triplets, (0.7, 0.0, 0.3), count=given.splits, seed=given.seed) == 0)
    target = torch.from_numpy(triplets.preference).double()

    def fit(steps, folds):
        settings = FitSettings(steps=steps, folds=folds)
        return fit_fusions(kind, stems, test.embeddings, test.members.T, target, train, settings=settings)

    at_start = fit(0, 0)
    ours, our_time = timed(lambda: fit(given.steps, 0))
    _, whole_time = timed(lambda: fit(given.steps, FitSettings().folds))
    loops, largest = [], 0.0
    for split in range(given.splits if given.full else min(given.loop, given.splits)):
        dataset = TripletDataset(triplets, test.embeddings, torch.nonzero(train[split]).squeeze(1))
        fusion, seconds = lightning_fit(kind, stems, dataset, at_start, split, given.steps)
        x, a, b = (test.embeddings.take(rows) for rows in test.members.T)
        with torch.no_grad():
            gap = (fusion.preference(x, a, b) - ours.preference[split]).abs().max()
        loops, largest = [*loops, seconds], max(largest, float(gap))
    report(given, our_time, whole_time, loops, largest)


def report(given, our_time, whole_time, loops, largest):
    """Print the figures, and write them where wanted."""
    loop_time, extrapolated = float(np.mean(loops)) * given.splits, len(loops) < given.splits
    how = f"{len(loops)} timed, extrapolated" if extrapolated else "all timed"
    title = f"{given.fusion}: {given.splits} splits, {given.triplets} triplets x 7 stems, {given.steps} steps"
    table = Table(title=title)
    for column in ("", "seconds"):
        table.add_column(column)
    table.add_row(f"loop of Lightning fits ({how})", f"{loop_time:.1f}")
    table.add_row("fit_fusions, all splits at once", f"{our_time:.2f}")
    table.add_row(f"fit_fusions with {FitSettings().folds} inner folds", f"{whole_time:.2f}")
    console = Console()
    console.print(table)
    console.print(f"ratio {loop_time / our_time:.0f}; largest difference of a preference {largest:.1e}")
    figures = {
        "fusion": given.fusion,
        "splits": given.splits,
        "triplets": given.triplets,
        "steps": given.steps,
        "loop_seconds": loop_time,
        "loop_fits_timed": len(loops),
        "loop_extrapolated": extrapolated,
        "at_once_seconds": our_time,
        "with_inner_folds_seconds": whole_time,
        "ratio": loop_time / our_time,
        "largest_preference_gap": largest,
    }
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
