"""Experiments with simulated listening tests: errors of weights, coverage of intervals, gains of nonlinear fusions.

**Weights.** In each experiment the true weights are the paper's, each times a lognormal factor. Fitted and true weights
are compared up to scale, as votes say which candidate is closer, not by how much: by the angle between them, whose sine
is the relative error that the best scale leaves.

**Coverage.** The majority choice is +1 or -1, so intervals are about the *population weights* that least squares would
find with unlimited triplets of the same kind. The true weights are the paper's here. As songs influence what no stem
embedding shows, triplets that share a track are dependent, most of all where few songs have many triplets each.

**Fusions.** In each experiment, a fusion and ridge regression are fitted to the train parts of the same splits, and
compared by the corrected resampled t-test.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rich.console import Console
from rich.progress import Progress
from scipy.stats import beta
from sklearn.preprocessing import SplineTransformer
from torch import Tensor

from stemsim.analysis.intervals import weight_intervals
from stemsim.audio import Segment
from stemsim.evaluation import ALPHAS, SplitFits, SplitModel, Splits, compare_models, cross_validate
from stemsim.evaluation.agreement import agreement_credit, ceiling_credit
from stemsim.evaluation.clusters import interval_reach
from stemsim.fitting import FusionModel
from stemsim.fusion import AttentionFusion, SplineFusion
from stemsim.regression import fit_ridge
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.stems import STEMS
from stemsim.study import simulation
from stemsim.study.settings import StudySettings
from stemsim.study.simulation import SEGMENTS_PER_TRACK, TRUTHS, ImpressionScale, Truth, impressions
from stemsim.triplets import PERSPECTIVES, EmbeddedTriplets, Triplets

__all__ = ["CLOSE", "EXACT_FUSIONS", "FITTED", "HEADS", "PAPER_WEIGHTS", "Findings", "draw_listening_test", "run_study"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Advance = Callable[[int], None]
"""Called with the amount of work done, for progress bars."""

PAPER_WEIGHTS: Final = np.array([0.32, 0.83, 0.61, 0.27, 0.33, 1.27, 1.64])
"""Weights of MuQ-MuLan with 6 stems, in the order of `STEMS` (arXiv:2601.19109, Table 4)."""

CLOSE: Final = 10.0
"""Angle in degrees at which weights count as close to the true ones."""

FITTED: Final = ("OLS", "ridge", "prior-ridge", "wrong prior")
"""Methods: least squares; ridge towards 0; towards the paper's weights; towards these in reverse order of stems."""

_SPREAD: Final = 0.5  # standard deviation of the logarithm of each true weight around the paper's
_FEW_SONGS: Final = 0.1  # tracks per triplet where few songs have many triplets each
_REPLICATES: Final = 400  # of the bootstrap over experiments
_LEVEL: Final = 0.95  # of all intervals
_SECONDS: Final = 5.0  # of a segment
_AT_ONCE: Final = 50_000  # triplets drawn together where each is used once
_WORKERS: Final = 2  # threads: NumPy and torch release the interpreter while they compute


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Result of the study.

    Attributes:
        settings: The settings.
        limit: Angle in degrees between the true weights and those of least squares with unlimited triplets.
        frames: Figures by name: `weights` and `needed` (triplets), `coverage` (of intervals) and `fusion` (gains).
    """

    settings: StudySettings
    limit: float
    frames: dict[str, pd.DataFrame]


def run_study(settings: StudySettings, *, heads: bool = False, progress: bool = True) -> Findings:
    """Simulate listening tests, and measure how well weights, intervals and fusions recover the truth.

    Args:
        settings: The settings.
        heads: Compare `SplineFusion` and `AttentionFusion` with ridge regression too, which takes far longer.
        progress: Show progress bars on standard error.
    """
    fusions = (*EXACT_FUSIONS, *HEADS) if heads else EXACT_FUSIONS
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bars:

        def counter(name: str, total: int) -> Advance:
            task = bars.add_task(name, total=total)
            return lambda count: bars.advance(task, count)

        rng = settings.generator("scale")
        drawn = simulation.draw_triplets(settings, -(-settings.population // 1000), 1000, rng)
        scales = {truth: ImpressionScale.of(impressions(drawn, truth)) for truth in TRUTHS}
        linear = scales["linear"]
        population = population_weights(settings, linear)
        weights, needed = recover_weights(settings, linear, counter("Weights", sum(settings.triplets)))
        total = (len(settings.coverage_triplets) + 1) * settings.coverage_experiments
        coverage = measure_coverage(settings, linear, population, counter("Coverage", total))
        total = len(TRUTHS) * settings.fusion_experiments * sum(settings.fusion_triplets)
        fusion = measure_gains(settings, scales, fusions, counter("Fusions", total))
    frames = {"weights": weights, "needed": needed, "coverage": coverage, "fusion": fusion}
    return Findings(settings, float(angles(population, PAPER_WEIGHTS)), frames)


def recover_weights(
    settings: StudySettings, scale: ImpressionScale, advance: Advance
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit weights in every condition, and test them on triplets of other songs.

    Returns:
        One row for each condition and model: quartiles of the angle to the true weights (degrees), mean and standard
        deviation of held-out agreement with the majority, and the median penalty; NaN where a model has none. And one
        row for each method, number of votes and noise: the triplets needed, see `needed_triplets`.
    """
    factors = settings.generator("truths").standard_normal((settings.experiments, len(STEMS)))
    truth = PAPER_WEIGHTS * np.exp(_SPREAD * factors)
    conditions = [(noise, votes) for noise in settings.noises for votes in settings.votes]

    def simulate(part: str, count: int) -> tuple[FloatArray, simulation.Decisions]:
        rng = settings.generator(part, count)
        drawn = simulation.draw_triplets(settings, len(truth), count, rng)
        heard = impressions(drawn, "linear")
        return drawn.deltas, simulation.decide(settings, heard, truth, scale, max(settings.votes), rng)

    held_out, test = simulate("held-out", settings.held_out)

    def recover(count: int) -> tuple[list[dict[str, Any]], FloatArray]:
        deltas, train = simulate("train", count)
        rows, errors = [], []
        for noise, votes in conditions:
            fitted = fit_all(torch.from_numpy(deltas), torch.from_numpy(train.majority(noise, votes)))
            place = {"triplets": count, "votes": votes, "noise": noise}
            rows += [place | row for row in _score(fitted, truth, held_out, test.votes(noise, votes))]
            errors.append([angles(weights, truth) for weights, _ in fitted.values()])
        advance(count)
        return rows, np.array(errors)  # (condition, method, experiment)

    with ThreadPoolExecutor(_WORKERS) as pool:  # the largest first, so that nothing waits for it
        parts = list(pool.map(recover, reversed(settings.triplets)))[::-1]
    error = np.stack([errors for _, errors in parts])  # (size, condition, method, experiment)
    needed = [
        {"model": model, "votes": votes, "noise": noise}
        | needed_triplets(settings.triplets, error[:, condition, method], seed=settings.seed)
        for condition, (noise, votes) in enumerate(conditions)
        for method, model in enumerate(FITTED)
    ]
    return pd.DataFrame([row for rows, _ in parts for row in rows]), pd.DataFrame(needed)


def fit_all(deltas: Tensor, target: Tensor) -> dict[str, tuple[FloatArray, float]]:
    """Fit weights by every method of `FITTED` to each experiment, with the penalty of least leave-one-out error.

    Args:
        deltas: `(experiment, triplet, stem)` stem features.
        target: `(experiment, triplet)` majority choices.

    Returns:
        For each method, weights `(experiment, stem)` and the median penalty.
    """
    target, paper = target.double(), torch.from_numpy(PAPER_WEIGHTS)
    fitted = {"OLS": (fit_ridge(deltas, target).weights[:, 0].numpy(), 0.0)}
    for name, prior in zip(FITTED[1:], (torch.zeros_like(paper), paper, paper.flip(0)), strict=True):
        along = deltas @ prior  # the prior is scaled to the votes by least squares
        size = (along * target).sum(dim=1, keepdim=True) / along.square().sum(dim=1, keepdim=True).clamp(min=1e-300)
        weights, alphas = fit_ridge(deltas, target - size * along, ALPHAS).best()
        fitted[name] = ((weights + size * prior).numpy(), float(alphas.median()))
    return fitted


def _score(
    fitted: Mapping[str, tuple[FloatArray, float]], truth: FloatArray, deltas: FloatArray, votes: IntArray
) -> list[dict[str, Any]]:
    """Return a row for each model, the ceiling first, from held-out triplets."""

    def row(model: str, agreement: FloatArray, angle: FloatArray, alpha: float = np.nan) -> dict[str, Any]:
        spread = {"agreement": float(agreement.mean()), "agreement_std": float(agreement.std(ddof=1)), "alpha": alpha}
        quartiles = zip(("angle", "angle_lower", "angle_upper"), np.quantile(angle, (0.5, 0.25, 0.75)), strict=True)
        return {"model": model, **spread, **{name: float(value) for name, value in quartiles}}

    majority = np.sign(votes[..., 0] - votes[..., 1])
    credit, answers = (sums.reshape(majority.shape).sum(axis=1) for sums in ceiling_credit(votes.reshape(-1, 2)))
    ceiling = np.divide(credit, answers, out=np.full(len(answers), np.nan), where=answers > 0.0)  # one vote: no others
    rows = [row("simulated ceiling", ceiling, np.full(len(truth), np.nan))]
    size = len(STEMS)
    baselines = {"mix cosine": np.eye(size)[-1], "uniform weights": np.ones(size), "paper's weights": PAPER_WEIGHTS}
    models = {name: (weights, np.nan) for name, weights in baselines.items()}
    for name, (weights, alpha) in {**models, **fitted, "true weights": (truth, np.nan)}.items():
        preference = np.einsum("ens,es->en", deltas, np.broadcast_to(weights, truth.shape))
        rows.append(row(name, agreement_credit(preference, majority).mean(axis=1), angles(weights, truth), alpha))
    return rows


def angles(weights: FloatArray, truth: FloatArray) -> FloatArray:
    """Return the angles `(...)` between weights and true weights `(..., stem)`, in degrees; 90 where all are 0."""
    size = np.linalg.norm(weights, axis=-1) * np.linalg.norm(truth, axis=-1)
    cosine = np.divide((weights * truth).sum(axis=-1), size, out=np.zeros(np.shape(size)), where=size > 0.0)
    degrees: FloatArray = np.degrees(np.arccos(cosine.clip(-1.0, 1.0)))
    return degrees


def needed_triplets(counts: Sequence[int], errors: FloatArray, *, seed: int = 0) -> dict[str, Any]:
    """Return the number of triplets from which on the median angle stays below `CLOSE`, with its 95 % interval.

    Args:
        counts: Numbers of triplets, ascending.
        errors: `(size, experiment)` angles in degrees; an experiment has the same true weights at every size.
        seed: Seed of the bootstrap over experiments.

    Returns:
        `needed`, `lower` and `upper` (infinite where no number tried suffices), and all three as `text`.
    """
    drawn = np.random.default_rng(seed).integers(errors.shape[1], size=(_REPLICATES, errors.shape[1]))
    medians = np.stack([np.median(one[drawn], axis=1) for one in errors], axis=1)  # (replicate, size)
    ends = (0.5 - 0.5 * _LEVEL, 0.5 + 0.5 * _LEVEL)  # order statistics, as some may be infinite
    lower, upper = np.quantile([crossing(counts, one) for one in medians], ends, method="nearest").tolist()
    needed = crossing(counts, np.median(errors, axis=1))
    end = f"{rounded(upper):.0f}" if np.isfinite(upper) else f"over {counts[-1]}"
    text = f"{rounded(needed):.0f} [{rounded(lower):.0f}, {end}]" if np.isfinite(needed) else f"more than {counts[-1]}"
    text = text if needed > counts[0] else f"at most {counts[0]}"
    return {"needed": needed, "lower": lower, "upper": upper, "text": text}


def crossing(counts: Sequence[int], errors: FloatArray) -> float:
    """Return the count from which on angles `(size,)` stay below `CLOSE`, interpolated on a logarithmic scale."""
    far = np.flatnonzero(errors > CLOSE)
    if not len(far):
        return float(counts[0])
    if far[-1] == len(counts) - 1:
        return np.inf
    around = [far[-1] + 1, far[-1]]
    return float(np.exp(np.interp(CLOSE, errors[around], np.log(counts)[around])))


def rounded(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.1e}")


def _majorities(
    settings: StudySettings, scale: ImpressionScale, experiments: int, count: int, rng: np.random.Generator
) -> Iterator[tuple[simulation.SongTriplets, FloatArray]]:
    """Yield triplets and majorities `(experiment, triplet)` under the paper's weights, some experiments at a time."""
    held, at_once = settings.held, max(1, _AT_ONCE // count)
    for start in range(0, experiments, at_once):
        truth = np.tile(PAPER_WEIGHTS, (min(at_once, experiments - start), 1))
        drawn = simulation.draw_triplets(settings, len(truth), count, rng)
        decisions = simulation.decide(settings, impressions(drawn, "linear"), truth, scale, held.votes, rng)
        yield drawn, decisions.majority(held.noise, held.votes).astype(np.float64)


def population_weights(settings: StudySettings, scale: ImpressionScale) -> FloatArray:
    """Return the weights `(stem,)` that linear listeners' majorities give with unlimited triplets."""
    count, size = max(settings.coverage_triplets), len(STEMS)
    experiments, rng = -(-settings.population // count), settings.generator("population")
    gram, moment = np.zeros((size, size)), np.zeros(size)
    for drawn, target in _majorities(settings, scale, experiments, count, rng):
        gram += np.einsum("ens,ent->st", drawn.deltas, drawn.deltas)
        moment += np.einsum("ens,en->s", drawn.deltas, target)
    weights: FloatArray = np.linalg.lstsq(gram, moment, rcond=None)[0]
    return weights


def measure_coverage(
    settings: StudySettings, scale: ImpressionScale, population: FloatArray, advance: Advance
) -> pd.DataFrame:
    """Measure how often cluster-robust 95 % intervals contain the population weights `(stem,)`.

    Returns:
        One row for each number of triplets and songs and each stem, and a row `all` for all stems: share of the
        experiments (and stems) covered, its 95 % interval, and the median width of the intervals.
    """
    few = replace(settings, tracks_per_triplet=_FEW_SONGS)
    nearest = min(settings.coverage_triplets, key=lambda count: abs(count - settings.held.triplets))
    rows = []
    for case, count in [*((settings, count) for count in settings.coverage_triplets), (few, nearest)]:
        found, rng = [], settings.generator("coverage", count)
        for drawn, targets in _majorities(case, scale, settings.coverage_experiments, count, rng):
            for deltas, target, tracks in zip(drawn.deltas, targets, drawn.tracks, strict=True):
                fit = fit_ridge(torch.from_numpy(deltas), torch.from_numpy(target))
                found.append(weight_intervals(fit, tracks, STEMS, level=_LEVEL))
                advance(1)
        covered = np.array([one.covers(population) for one in found])  # (experiment, stem)
        width = np.array([one.upper - one.lower for one in found])
        for stem in ("all", *STEMS):
            columns = slice(None) if stem == "all" else [STEMS.index(stem)]
            place = {"triplets": count, "songs": case.tracks(count), "stem": stem, "experiments": len(found)}
            lower, upper = binomial_interval(covered[:, columns])
            figures = {"covered": float(covered[:, columns].mean()), "lower": lower, "upper": upper}
            rows.append(place | figures | {"width": float(np.median(width[:, columns]))})
    return pd.DataFrame(rows)


def binomial_interval(hits: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of a share of successes `(experiment, stem)`; those of an experiment may be dependent.

    The interval of Clopper and Pearson is taken with the effective number of draws that explains the variation between
    experiments (Korn and Graubard, Survey Methodology 24(2), 1998).
    """
    share, draws, variance = float(hits.mean()), float(len(hits)), float(hits.mean(axis=1).var(ddof=1)) / len(hits)
    if hits.shape[1] > 1 and variance > 0.0:
        draws = min(max(draws, share * (1.0 - share) / variance), hits.size)
    successes, tail = share * draws, 0.5 - 0.5 * _LEVEL
    lower = 0.0 if share == 0.0 else float(beta.ppf(tail, successes, draws - successes + 1.0))
    upper = 1.0 if share == 1.0 else float(beta.ppf(1.0 - tail, successes + 1.0, draws - successes))
    return lower, upper


def spline_features(embedded: EmbeddedTriplets) -> Tensor:
    """Return the stem features, and differences of a spline basis of the cosines, `(triplet, feature)`."""
    x, a, b = embedded.roles()
    ends = np.array([[0.0], [1.0]])  # a silent stem has cosine 0; few cosines are negative
    basis = SplineTransformer(5, degree=2, knots="uniform", extrapolation="linear").fit(ends)
    to_a, to_b = (
        torch.from_numpy(basis.transform(stem_cosines(x, one).reshape(-1, 1).numpy()).reshape(len(embedded), -1))
        for one in (a, b)
    )
    return torch.cat([embedded.deltas, to_a - to_b], dim=1)


def level_features(embedded: EmbeddedTriplets) -> Tensor:
    """Return the stem features, and those of all stems but the mix times the stem's share of X's power."""
    power = 10.0 ** (embedded.roles()[0].levels[:, :-1].double() / 10.0)
    return torch.cat([embedded.deltas, embedded.deltas[:, :-1] * power / power.sum(dim=1, keepdim=True)], dim=1)


@dataclass(frozen=True, slots=True)
class _ExactFusion:
    """Nonlinear fusion that is linear in further features, so that ridge regression fits it exactly."""

    name: str
    features: Callable[[EmbeddedTriplets], Tensor]

    def fit(self, embedded: EmbeddedTriplets, splits: Splits) -> SplitFits:
        features = self.features(embedded)
        weights, alphas = fit_ridge(features, embedded.target(), ALPHAS, counts=torch.from_numpy(splits.train)).best()
        return SplitFits((weights @ features.T).numpy(), alphas=alphas.numpy())


EXACT_FUSIONS: Final[tuple[SplitModel, ...]] = (
    _ExactFusion("spline", spline_features),
    _ExactFusion("level weights", level_features),
)
"""A smooth function of each stem's cosine, and weights that depend on the stem's level."""

HEADS: Final[tuple[SplitModel, ...]] = tuple(FusionModel(one.__name__, one) for one in (SplineFusion, AttentionFusion))
"""Fusions of the package that suit the simulated listeners. They are found by a search, which takes time."""


def draw_listening_test(
    settings: StudySettings, truth: Truth, scale: ImpressionScale, count: int, rng: np.random.Generator
) -> EmbeddedTriplets:
    """Draw songs, true weights, triplets and votes of one listening test, whose listeners are of one kind."""
    tracks, each, held = settings.tracks(count), SEGMENTS_PER_TRACK, settings.held
    vectors, levels, present = simulation.draw_songs(settings, 1, tracks, rng)
    members = simulation.draw_members(1, count, tracks, rng)
    heard = impressions(simulation.compare(vectors, levels, members), truth)
    weights = PAPER_WEIGHTS * np.exp(_SPREAD * rng.standard_normal((1, len(STEMS))))
    decisions = simulation.decide(settings, heard, weights, scale, held.votes, rng)
    x, a, b = members[0].T
    places = [(f"song{track}", _SECONDS * place) for track in range(tracks) for place in range(each)]
    triplets = Triplets(
        segments=tuple(Segment(Path(f"{song}.wav"), start, _SECONDS) for song, start in places),
        tracks=tuple(song for song, _ in places),
        x=x,
        a=a,
        b=b,
        test_type=np.where(x // each == a // each, "XYC", "XAB"),
        instrument=np.full(count, "mix"),
        votes=decisions.votes(held.noise, held.votes)[0],
        perspective_votes=np.zeros((count, len(PERSPECTIVES), 2), np.int64),
        source=f"simulated listeners, {truth}",
        true_weights=dict(zip(STEMS, weights[0].tolist(), strict=True)),
    )
    embeddings = StemEmbeddings(*(torch.from_numpy(array[0]) for array in (vectors[..., :-1, :], levels, present)))
    return EmbeddedTriplets(triplets, embeddings, STEMS)


def measure_gains(
    settings: StudySettings, scales: Mapping[Truth, ImpressionScale], models: Sequence[SplitModel], advance: Advance
) -> pd.DataFrame:
    """Compare fusions with ridge regression, for every kind of listeners and number of triplets.

    Returns:
        One row for each kind of listeners, number of triplets and fusion: mean gain in held-out agreement with its 95 %
        interval over the experiments, and the shares of experiments in which the paired test finds the fusion better,
        with its binomial interval, and worse.
    """

    def compare_all(case: tuple[Truth, int]) -> list[dict[str, Any]]:
        truth, count = case
        rng = settings.generator(f"fusion, {truth}", count)
        gains, verdicts = np.zeros((2, len(models), settings.fusion_experiments))
        for number in range(settings.fusion_experiments):
            embedded = draw_listening_test(settings, truth, scales[truth], count, rng)
            splits = Splits.draw(embedded.triplets, count=settings.fusion_splits, seed=settings.seed + number)
            result = cross_validate(embedded, splits, models)
            for index, model in enumerate(models):
                comparison = compare_models(result[model.name], result["ridge"], splits)
                gains[index, number] = comparison.difference.mean
                verdicts[index, number] = np.sign(comparison.difference.mean) * comparison.significant
            advance(count)
        return [
            {"truth": truth, "triplets": count, "fusion": model.name} | _gain(*figures)
            for model, *figures in zip(models, gains, verdicts, strict=True)
        ]

    cases = [(truth, count) for truth in TRUTHS for count in settings.fusion_triplets]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return pd.DataFrame([row for rows in pool.map(compare_all, cases) for row in rows])


def _gain(gains: FloatArray, verdicts: FloatArray) -> dict[str, Any]:
    """Return mean gain and power over the experiments."""
    count, mean, better = len(gains), float(gains.mean()), verdicts > 0.0
    reach = interval_reach(_LEVEL, count) * float(gains.std(ddof=1)) / count**0.5
    lower, upper = binomial_interval(better[:, None])
    gain = {"experiments": count, "gain": mean, "lower": mean - reach, "upper": mean + reach}
    power = {"better": float(better.mean()), "better_lower": lower, "better_upper": upper}
    return {**gain, **power, "worse": float((verdicts < 0.0).mean())}
