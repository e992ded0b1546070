"""Whether a nominal 95 % interval holds the weights in 95 % of all listening tests.

What an interval is about are the weights that least squares would find with endless triplets of the same kind: the
votes are reduced to the majority choice, +1 or -1, so these *population weights* are those of the best linear account
of it, whatever listeners are like. They are found from many more triplets than any experiment has. The true weights are
the paper's, and the listeners hear something that no stem embedding shows, in which songs have a say.

Besides several numbers of triplets, with as many songs for each as in the paper, few songs with many triplets each are
tried: there, triplets are far from independent.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import beta

from stemsim.evaluation.inference import (
    WeightIntervals,
    bayesian_intervals,
    bootstrap_intervals,
    cluster_intervals,
    least_squares_intervals,
)
from stemsim.evaluation.study.listeners import Scale, felt, hear
from stemsim.evaluation.study.settings import WORKERS, StudySettings
from stemsim.evaluation.study.songs import SongModel, draw

__all__ = ["LEVEL", "coverage", "coverage_interval", "population_weights"]

LEVEL: Final = 0.95
"""Nominal coverage."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_TRIPLETS_AT_ONCE: Final = 50_000


def population_weights(settings: StudySettings, scale: Scale) -> FloatArray:
    """Find the weights that least squares would give with endless triplets.

    Args:
        settings: Songs, listeners, the numbers of votes and the noise that are held, and how many triplets stand for
            endless ones.
        scale: What linear listeners feel.

    Returns:
        `(stem,)` weights.
    """
    count = max(settings.coverage_triplets)
    size = len(settings.songs.stems)
    gram, moment = np.zeros((size, size)), np.zeros(size)
    left, piece = -(-settings.population // count), max(1, _TRIPLETS_AT_ONCE // count)
    rng = settings.generator("population")
    while left > 0:
        deltas, target, _ = _experiments(settings, settings.songs, scale, (min(piece, left), count), rng)
        gram += np.einsum("ens,ent->st", deltas, deltas)
        moment += np.einsum("ens,en->s", deltas, target)
        left -= piece
    weights: FloatArray = np.linalg.lstsq(gram, moment, rcond=None)[0]
    return weights


def coverage(settings: StudySettings, scale: Scale, truth: FloatArray, advance: Callable[[int], None]) -> pd.DataFrame:
    """Count how often the intervals of `stemsim.evaluation.inference` hold the population weights.

    Args:
        settings: How many triplets, experiments and bootstrap replicates.
        scale: What linear listeners feel.
        truth: `(stem,)` the population weights.
        advance: Told the number of experiments done.

    Returns:
        One row for each number of triplets and songs, method and stem, and a row `all` for all stems: share of the
        experiments (and stems) covered, its 95 % interval, and the median width of the intervals.
    """
    held = min(settings.coverage_triplets, key=lambda count: abs(count - settings.reference[0]))
    few = replace(settings.songs, tracks_per_triplet=settings.few_songs)
    rows: list[dict[str, Any]] = []
    for count, songs in [*((count, settings.songs) for count in settings.coverage_triplets), (held, few)]:
        found = _intervals(settings, songs, scale, count, advance)
        for method in dict.fromkeys(one.method for one in found):
            chosen = [one for one in found if one.method == method]
            covered = np.array([one.covers(truth) for one in chosen])  # (experiment, stem)
            width = np.array([one.upper - one.lower for one in chosen])
            place = {"triplets": count, "songs": songs.tracks(count), "method": method}
            rows += [place | row for row in _rates(covered, width, settings.songs.stems)]
    return pd.DataFrame(rows)


def _experiments(
    settings: StudySettings, songs: SongModel, scale: Scale, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Draw experiments with the paper's weights: stem features, majority choices and tracks."""
    drawn = draw(songs, *shape, rng)
    truth = np.broadcast_to(settings.paper_weights, (shape[0], len(settings.paper_weights)))
    votes = settings.reference[1]
    hearing = hear(felt(drawn, "linear", songs.stems), truth, scale, settings.listeners, votes, rng)
    counts = hearing.votes(settings.listeners.noise, votes)
    return drawn.deltas, np.sign(counts[..., 0] - counts[..., 1]).astype(np.float64), drawn.tracks


def _intervals(
    settings: StudySettings, songs: SongModel, scale: Scale, count: int, advance: Callable[[int], None]
) -> list[WeightIntervals]:
    """Return the intervals of all methods in all experiments."""
    rng = settings.generator("coverage", count)
    piece = max(1, _TRIPLETS_AT_ONCE // count)
    found: list[WeightIntervals] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in range(0, settings.coverage_experiments, piece):
            size = min(piece, settings.coverage_experiments - start)
            deltas, target, tracks = _experiments(settings, songs, scale, (size, count), rng)
            seeds = [settings.seed + start + index for index in range(size)]
            tensors = (torch.from_numpy(deltas), torch.from_numpy(target))
            for intervals in pool.map(partial(_all_methods, settings), *tensors, tracks, seeds):
                found += intervals
                advance(1)
    return found


def _all_methods(
    settings: StudySettings, deltas: torch.Tensor, target: torch.Tensor, tracks: IntArray, seed: int
) -> tuple[WeightIntervals, ...]:
    """Return the intervals of one experiment."""
    stems = settings.songs.stems
    return (
        bootstrap_intervals(deltas, target, tracks, stems, replicates=settings.replicates, level=LEVEL, seed=seed),
        cluster_intervals(deltas, target, tracks, stems, level=LEVEL),
        bayesian_intervals(deltas, target, stems, level=LEVEL),
        least_squares_intervals(deltas, target, stems, level=LEVEL),
    )


def _rates(covered: BoolArray, width: FloatArray, stems: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row for all stems, and one for each."""
    columns = {"all": covered, **{stem: covered[:, [index]] for index, stem in enumerate(stems)}}
    widths = {"all": width, **{stem: width[:, [index]] for index, stem in enumerate(stems)}}
    rows = []
    for stem, values in columns.items():
        lower, upper = coverage_interval(values)
        median = float(np.median(widths[stem]))
        rows.append(
            {
                "stem": stem,
                "experiments": len(values),
                "covered": float(values.mean()),
                "lower": lower,
                "upper": upper,
                "width": median,
            }
        )
    return rows


def coverage_interval(covered: BoolArray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the binomial interval of a coverage.

    The stems of an experiment are not independent. The interval of Clopper and Pearson is taken with an effective
    number of draws, the one that explains how coverage varies between experiments (Korn and Graubard, Survey
    Methodology 24(2), 1998); of a single stem, it is the number of experiments.

    Args:
        covered: `(experiment, stem)` whether an interval held the weight.
        level: Of the interval.

    Returns:
        Lower and upper end.
    """
    share, experiments = float(covered.mean()), len(covered)
    variance = float(covered.mean(axis=1).var(ddof=1)) / experiments
    draws = float(experiments) if variance == 0.0 else share * (1.0 - share) / variance
    draws = min(max(draws, float(experiments)), float(covered.size))
    if covered.shape[1] == 1:
        draws = float(experiments)
    hits, tail = share * draws, 0.5 - 0.5 * level
    lower = 0.0 if share == 0.0 else float(beta.ppf(tail, hits, draws - hits + 1.0))
    upper = 1.0 if share == 1.0 else float(beta.ppf(1.0 - tail, hits + 1.0, draws - hits))
    return lower, upper
