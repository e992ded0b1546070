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
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
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
from stemsim.evaluation.crossval import ratio
from stemsim.fitting import FusionModel
from stemsim.fusion import AttentionFusion, SplineFusion
from stemsim.regression import fit_ridge
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.stems import STEMS
from stemsim.study import simulation
from stemsim.study.settings import StudySettings
from stemsim.study.simulation import SEGMENTS_PER_TRACK, TRUTHS, ImpressionScale, Truth, impressions
from stemsim.triplets import PERSPECTIVES, EmbeddedTriplets, Triplets
from stemsim.triplets.table import BoolArray, FloatArray, IntArray

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


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Result of the study.

    Attributes:
        limit: Angle in degrees between the true weights and those of least squares with unlimited triplets.
        frames: Figures by name: `weights` and `needed` (triplets), `coverage` (of intervals) and `fusion` (gains).
    """

    settings: StudySettings
    limit: float
    frames: dict[str, pd.DataFrame]


def run_study(settings: StudySettings, *, heads: bool = False, progress: bool = True) -> Findings:
    """Simulate listening tests, and measure how well weights, intervals and fusions recover the truth.

    Args:
        settings: Sizes, noises and numbers of experiments.
        heads: Compare `SplineFusion` and `AttentionFusion` with ridge regression too, which takes far longer.
        progress: Show progress bars on standard error.
    """
    fusions = (*EXACT_FUSIONS, *HEADS) if heads else EXACT_FUSIONS
    drawn = simulation.draw_triplets(settings, -(-settings.population // 1000), 1000, settings.generator("scale"))
    scales = {truth: ImpressionScale.of(impressions(drawn, truth)) for truth in TRUTHS}
    linear = scales["linear"]
    population = population_weights(settings, linear)
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bars:
        weights, needed = recover_weights(settings, linear, bars)
        coverage = measure_coverage(settings, linear, population, bars)
        fusion = measure_gains(settings, scales, fusions, bars)
    frames = {"weights": weights, "needed": needed, "coverage": coverage, "fusion": fusion}
    return Findings(settings, float(angles(population, PAPER_WEIGHTS)), frames)


def recover_weights(
    settings: StudySettings, scale: ImpressionScale, bars: Progress
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit weights in every condition, and test them on triplets of other songs.

    Returns:
        One row for each condition and model: mean and standard deviation of held-out agreement with the majority, the
        median penalty, and quartiles of the angle to the true weights (degrees); NaN where a model has none. And one
        row for each method, number of votes and noise: the triplets needed, see `needed_triplets`.
    """
    factors = settings.generator("truths").standard_normal((settings.experiments, len(STEMS)))
    truth = PAPER_WEIGHTS * np.exp(_SPREAD * factors)

    def simulate(part: str, count: int) -> tuple[FloatArray, simulation.Decisions]:
        rng = settings.generator(part, count)
        drawn = simulation.draw_triplets(settings, len(truth), count, rng)
        heard = impressions(drawn, "linear")
        return drawn.deltas, simulation.decide(settings, heard, truth, scale, max(settings.votes), rng)

    held_out, test = simulate("held-out", settings.held_out)
    scored = []
    for count in bars.track(settings.triplets, description="Weights"):
        deltas, train = simulate("train", count)
        for noise, votes in product(settings.noises, settings.votes):
            fitted = fit_all(torch.from_numpy(deltas), torch.from_numpy(train.majority(noise, votes)))
            scores = _score(fitted, truth, held_out, test.votes(noise, votes))
            scored.append(scores.assign(triplets=count, votes=votes, noise=noise))
    scores = pd.concat(scored)
    figures = scores.groupby(["triplets", "votes", "noise", "model"], sort=False).agg(
        agreement=("agreement", "mean"),
        agreement_std=("agreement", "std"),
        alpha=("alpha", lambda values: values.quantile(0.5, interpolation="lower")),
        angle=("angle", "median"),
        angle_lower=("angle", lambda values: values.quantile(0.25)),
        angle_upper=("angle", lambda values: values.quantile(0.75)),
    )
    groups = scores[scores["model"].isin(FITTED)].groupby(["noise", "votes", "model"], sort=False)["angle"]
    needed = [
        {"model": model, "votes": votes, "noise": noise}
        | needed_triplets(settings.triplets, errors.to_numpy().reshape(-1, settings.experiments), seed=settings.seed)
        for (noise, votes, model), errors in groups
    ]
    return figures.reset_index(), pd.DataFrame(needed)


def fit_all(deltas: Tensor, target: Tensor) -> dict[str, tuple[FloatArray, FloatArray | float]]:
    """Fit weights to features `(experiment, triplet, stem)` and majorities `(experiment, triplet)` by every method.

    Returns:
        Weights `(experiment, stem)` and penalties `(experiment,)`, those of least leave-one-out error.
    """
    target, paper = target.double(), torch.from_numpy(PAPER_WEIGHTS)
    fitted: dict[str, tuple[FloatArray, FloatArray | float]] = {}
    for name, prior in zip(FITTED[1:], (torch.zeros_like(paper), paper, paper.flip(0)), strict=True):
        along = deltas @ prior  # the prior is scaled to the votes by least squares
        size = (along * target).sum(dim=1, keepdim=True) / along.square().sum(dim=1, keepdim=True).clamp(min=1e-300)
        fit = fit_ridge(deltas, target - size * along, (0.0, *ALPHAS))
        weights, alphas = fit.best(first=1)
        fitted.setdefault("OLS", (fit.weights[:, 0].numpy(), 0.0))  # of the first prior, which is 0
        fitted[name] = (weights + size * prior).numpy(), alphas.numpy()
    return fitted


def _score(
    fitted: Mapping[str, tuple[FloatArray, FloatArray | float]], truth: FloatArray, deltas: FloatArray, votes: IntArray
) -> pd.DataFrame:
    """Return a row for each model and experiment, the ceiling first, from held-out triplets."""
    majority, size = np.sign(votes[..., 0] - votes[..., 1]), len(STEMS)
    credit, answers = (sums.reshape(majority.shape).sum(axis=1) for sums in ceiling_credit(votes.reshape(-1, 2)))
    baselines = {"mix cosine": np.eye(size)[-1], "uniform weights": np.ones(size), "paper's weights": PAPER_WEIGHTS}
    models = {name: (weights, np.nan) for name, weights in baselines.items()}
    rows = [{"model": "simulated ceiling", "agreement": ratio(credit, answers), "alpha": np.nan, "angle": np.nan}]
    for name, (weights, alpha) in {**models, **fitted, "true weights": (truth, np.nan)}.items():
        preference = np.einsum("ens,es->en", deltas, np.broadcast_to(weights, truth.shape))
        agreed = agreement_credit(preference, majority).mean(axis=1)
        rows.append({"model": name, "agreement": agreed, "alpha": alpha, "angle": angles(weights, truth)})
    return pd.concat(map(pd.DataFrame, rows))


def angles(weights: FloatArray, truth: FloatArray) -> FloatArray:
    """Return the angles `(...)` between weights and true weights `(..., stem)`, in degrees; 90 where all are 0."""
    size = np.linalg.norm(weights, axis=-1) * np.linalg.norm(truth, axis=-1)
    cosine = np.divide((weights * truth).sum(axis=-1), size, out=np.zeros(np.shape(size)), where=size > 0.0)
    degrees: FloatArray = np.degrees(np.arccos(cosine.clip(-1.0, 1.0)))
    return degrees


def needed_triplets(counts: Sequence[int], errors: FloatArray, *, seed: int = 0) -> dict[str, Any]:
    """Return the number of triplets from which on the median of angles `(size, experiment)` stays below `CLOSE`.

    Returns:
        `needed`, and by a bootstrap over experiments the ends of its 95 % interval, `lower` and `upper`; infinite where
        no number tried suffices; all three as `text`.
    """
    drawn = np.random.default_rng(seed).integers(errors.shape[1], size=(_REPLICATES, errors.shape[1]))
    medians = np.stack([np.median(one[drawn], axis=1) for one in errors], axis=1)  # (replicate, size)
    ends = (0.5 - 0.5 * _LEVEL, 0.5 + 0.5 * _LEVEL)  # order statistics, as some may be infinite
    lower, upper = np.quantile([crossing(counts, one) for one in medians], ends, method="nearest").tolist()
    needed = crossing(counts, np.median(errors, axis=1))
    text = f"at most {counts[0]}" if needed <= counts[0] else f"more than {counts[-1]}"
    if counts[0] < needed < np.inf:
        end = f"{rounded(upper):.0f}" if np.isfinite(upper) else f"over {counts[-1]}"
        text = f"{rounded(needed):.0f} [{rounded(lower):.0f}, {end}]"
    return {"needed": needed, "lower": lower, "upper": upper, "text": text}


def crossing(counts: Sequence[int], errors: FloatArray) -> float:
    """Return the count from which on angles `(size,)` stay below `CLOSE`, interpolated on a logarithmic scale."""
    far = np.flatnonzero(errors > CLOSE)
    if not len(far) or far[-1] == len(counts) - 1:
        return np.inf if len(far) else float(counts[0])
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
    count, rng = max(settings.coverage_triplets), settings.generator("population")
    parts = _majorities(settings, scale, -(-settings.population // count), count, rng)
    deltas, targets = zip(
        *((drawn.deltas.reshape(-1, len(STEMS)), target.ravel()) for drawn, target in parts), strict=True
    )
    weights: FloatArray = np.linalg.lstsq(np.concatenate(deltas), np.concatenate(targets), rcond=None)[0]
    return weights


def measure_coverage(
    settings: StudySettings, scale: ImpressionScale, population: FloatArray, bars: Progress
) -> pd.DataFrame:
    """Measure how often cluster-robust 95 % intervals contain the population weights `(stem,)`.

    Returns:
        One row for each number of triplets and songs and each stem, and a row `all` for all stems: share of the
        experiments (and stems) covered, its 95 % interval, and the median width of the intervals.
    """
    few = replace(settings, tracks_per_triplet=_FEW_SONGS)
    nearest = min(settings.coverage_triplets, key=lambda count: abs(count - settings.held.triplets))
    cases = [*((settings, count) for count in settings.coverage_triplets), (few, nearest)]
    rows = []
    for case, count in bars.track(cases, description="Coverage"):
        rng = settings.generator("coverage", count)
        found = [
            weight_intervals(fit_ridge(torch.from_numpy(deltas), torch.from_numpy(target)), tracks, level=_LEVEL)
            for drawn, targets in _majorities(case, scale, settings.coverage_experiments, count, rng)
            for deltas, target, tracks in zip(drawn.deltas, targets, drawn.tracks, strict=True)
        ]
        covered = np.array([one.covers(population) for one in found])  # (experiment, stem)
        width = np.array([one.upper - one.lower for one in found])
        for stem in ("all", *STEMS):
            columns = slice(None) if stem == "all" else [STEMS.index(stem)]
            hits, wide = covered[:, columns], np.median(width[:, columns])
            rows.append((count, case.tracks(count), stem, len(found), hits.mean(), *binomial_interval(hits), wide))
    names = ["triplets", "songs", "stem", "experiments", "covered", "lower", "upper", "width"]
    return pd.DataFrame(rows, columns=names)


def binomial_interval(hits: BoolArray) -> tuple[float, float]:
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
    places = [(f"song{track}", _SECONDS * place) for track in range(tracks) for place in range(each)]
    triplets = Triplets(
        segments=tuple(Segment(Path(f"{song}.wav"), start, _SECONDS) for song, start in places),
        tracks=tuple(song for song, _ in places),
        members=members[0],
        test_type=np.where(members[0, :, 0] // each == members[0, :, 1] // each, "XYC", "XAB"),
        instrument=np.full(count, "mix"),
        votes=decisions.votes(held.noise, held.votes)[0],
        perspective_votes=np.zeros((count, len(PERSPECTIVES), 2), np.int64),
        source=f"simulated listeners, {truth}",
        true_weights=dict(zip(STEMS, weights[0].tolist(), strict=True)),
    )
    embeddings = StemEmbeddings(*(torch.from_numpy(array[0]) for array in (vectors[..., :-1, :], levels, present)))
    return EmbeddedTriplets(triplets, embeddings, STEMS)


def measure_gains(
    settings: StudySettings, scales: Mapping[Truth, ImpressionScale], models: Sequence[SplitModel], bars: Progress
) -> pd.DataFrame:
    """Compare fusions with ridge regression, for every kind of listeners and number of triplets.

    Returns:
        One row for each kind of listeners, number of triplets and fusion: mean gain in held-out agreement with its 95 %
        interval over the experiments, and the shares of experiments in which the paired test finds the fusion better,
        with its binomial interval, and worse.
    """
    rows = []
    for truth, count in bars.track(list(product(TRUTHS, settings.fusion_triplets)), description="Fusions"):
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
        for model, gain, verdict in zip(models, gains, verdicts, strict=True):
            mean, better = gain.mean(), verdict > 0.0
            reach = interval_reach(_LEVEL, len(gain)) * gain.std(ddof=1) / len(gain) ** 0.5
            power = (better.mean(), *binomial_interval(better[:, None]), (verdict < 0.0).mean())
            rows.append((truth, count, model.name, len(gain), mean, mean - reach, mean + reach, *power))
    names = ["truth", "triplets", "fusion", "experiments", "gain", "lower", "upper"]
    return pd.DataFrame(rows, columns=[*names, "better", "better_lower", "better_upper", "worse"])
