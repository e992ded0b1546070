"""Results of the jobs of `train.py`, as they are written to and read from the folder of a run.

Each class is one JSON file: `fit.json`, `val.json`, `test.json`, `crossval.json`, `perspectives.json`. A number that is
not finite is `null` in the file.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from stemsim.analysis import Summary
from stemsim.analysis.leakage import Leakage
from stemsim.analysis.perspectives import Perspectives
from stemsim.errors import ResultsError
from stemsim.evaluation import Comparison, CrossValidation, ModelScores
from stemsim.evaluation.comparison import PairedDifference
from stemsim.triplets import TEST_TYPES

__all__ = [
    "CrossvalResults",
    "FitResults",
    "ModelResult",
    "Number",
    "PartResults",
    "PerspectivesResults",
    "Results",
    "Score",
    "StemResult",
]

Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: float(value) if math.isfinite(value) else None, when_used="json"),
]
"""A float that may be NaN or infinite, which JSON knows as null."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=False)


class Results(_Entry):
    """Results of one job.

    Attributes:
        job: Name of the job, and of the file.
        source: Source of the triplets.
        simulated: Whether the listeners were simulated.
    """

    job: ClassVar[str]
    source: str
    simulated: bool

    def write(self, folder: Path) -> Path:
        """Write `JOB.json` into the folder of a run, and return its path."""
        path = folder / f"{self.file_stem}.json"
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @property
    def file_stem(self) -> str:
        """Name of the file without its suffix."""
        return self.job

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            ResultsError: If it is damaged, or of another kind.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            reason = (
                str(error) if first is None else f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            )
            msg = (
                f"{path} does not hold the results of {cls.job} ({reason}). Run that job again, or move the file out of "
                "the folder."
            )
            raise ResultsError(msg) from error


class Score(_Entry):
    """Mean and standard deviation over splits; NaN where there is no value."""

    mean: Number
    std: Number

    @classmethod
    def of(cls, values: "np.ndarray[Any, np.dtype[np.float64]]") -> Self:
        """Return the score of the values that are known."""
        known = values[~np.isnan(values)]
        return cls(mean=known.mean(), std=known.std()) if len(known) else cls(mean=math.nan, std=math.nan)


class ModelResult(_Entry):
    """One model of a cross-validation.

    Attributes:
        name: Name of the model in tables.
        slug: Stable name for metric keys.
        agreement: Test agreement in [0, 1], by `all`, `XAB` and `XYC`.
        by_split: Test agreement over all triplets, for each split.
        share_of_ceiling: Mean agreement over that of the listeners.
        weights: Weights by stem; empty where the model is not linear.
        median_alpha: Median penalty over the splits; NaN where there is none.
        kind: `ceiling`, `baseline` or `fitted`.
    """

    name: str
    slug: str
    agreement: Mapping[str, Score]
    by_split: tuple[Number, ...]
    share_of_ceiling: Number
    weights: Mapping[str, Score]
    median_alpha: Number
    kind: Literal["ceiling", "baseline", "fitted"]

    @classmethod
    def of(cls, model: ModelScores, result: CrossValidation) -> Self:
        """Return the entry of a model."""
        columns = dict(zip(("all", *TEST_TYPES), model.agreement.T, strict=True))
        weights = {} if model.weights is None else dict(zip(result.stems, model.weights.T, strict=True))
        given = model.name in {"mix cosine", "uniform weights"}
        return cls(
            name=model.name,
            slug=model.slug,
            agreement={name: Score.of(values) for name, values in columns.items()},
            by_split=tuple(columns["all"].tolist()),
            share_of_ceiling=result.share_of_ceiling(model),
            weights={stem: Score.of(np.asarray(values)) for stem, values in weights.items()},
            median_alpha=math.nan if model.alphas is None else float(np.median(model.alphas)),
            kind="ceiling" if not model.predicts else "baseline" if given else "fitted",
        )


class SplitsResult(_Entry):
    """Settings of the splits of a cross-validation, and the mean size of their test parts."""

    kind: Literal["stratified", "grouped"]
    count: int
    train_fraction: float
    seed: int
    mean_test_size: float


class DropResult(_Entry):
    """Paired difference over the splits, with its interval."""

    mean: Number
    lower: Number
    upper: Number
    p_value: Number

    @classmethod
    def of(cls, difference: PairedDifference) -> Self:
        """Return the entry of a paired difference."""
        return cls(**{name: getattr(difference, name) for name in cls.model_fields})


class StemResult(_Entry):
    """Weight of one stem: least squares on all triplets with its interval, importance, variance inflation.

    Attributes:
        weight: Least-squares weight on all triplets; NaN where there are no intervals.
        lower: Lower end of its cluster-robust interval.
        upper: Upper end.
        refit: Ridge weight on all triplets.
        variance_inflation: Variance inflation factor; NaN for a silent stem.
        agreement_drop: Agreement lost without the stem; None unless `importance` was asked for.
        r2_drop: R^2 lost without the stem; likewise.
    """

    weight: Number
    lower: Number
    upper: Number
    refit: Number
    variance_inflation: Number
    agreement_drop: DropResult | None = None
    r2_drop: DropResult | None = None


class ComparisonResult(_Entry):
    """Paired comparison of two models: first minus second, in points of agreement."""

    first: str
    second: str
    points: Number
    lower: Number
    upper: Number
    p_value: Number
    sign_test_p_value: Number
    significant: bool

    @classmethod
    def of(cls, one: Comparison) -> Self:
        """Return the entry of a comparison."""
        gap = one.difference
        return cls(
            first=one.first,
            second=one.second,
            points=100.0 * gap.mean,
            lower=100.0 * gap.lower,
            upper=100.0 * gap.upper,
            p_value=gap.p_value,
            sign_test_p_value=one.signs.p_value,
            significant=one.significant,
        )


class ShareResult(_Entry):
    """Ridge as a share of the human ceiling, with its interval."""

    share: Number
    lower: Number
    upper: Number


class PenaltyResult(_Entry):
    """Ridge weights `weights[alpha][stem]` and leave-one-out error as functions of the penalty, and nested choice."""

    alphas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    left_out_error: tuple[float, ...]
    best_alpha: float
    nested_median_alpha: Number
    nested_agreement: Number


class LeakageRowResult(_Entry):
    """Mean test agreement of one model by both kinds of split."""

    stratified: Number
    matched: Number
    grouped: Number
    grouped_std: Number
    difference: Number
    from_less_data: Number
    leak: Number


class LeakageResult(_Entry):
    """Effect of shared tracks on agreement."""

    models: Mapping[str, LeakageRowResult]
    same_test_triplets: tuple[ComparisonResult, ...]
    mean_train_size: Mapping[str, float]

    @classmethod
    def of(cls, found: Leakage) -> Self:
        """Return the entry of a leakage analysis."""
        names = tuple(LeakageRowResult.model_fields)
        return cls(
            models={row.model: LeakageRowResult(**{name: getattr(row, name) for name in names}) for row in found.rows},
            same_test_triplets=tuple(map(ComparisonResult.of, found.same_test)),
            mean_train_size=dict(zip(("stratified", "grouped"), found.train_size, strict=True)),
        )


class CrossvalResults(Results):
    """Results of `crossval`.

    Attributes:
        stems: Stem layout.
        triplets: Number of triplets.
        splits: Settings of the splits.
        models: All models; the ceiling comes first.
        by_stem: Weights by stem.
        level: Nominal coverage of the intervals.
        interval_method: Method of the intervals of `by_stem`.
        best_alpha: Penalty of the refit.
        condition_number: Condition number of the stem features.
        share_of_ceiling: Ridge as a share of the ceiling; None where no triplet has two votes.
        comparisons: Paired comparisons.
        penalty: Penalty path; None unless asked for.
        leakage: Effect of shared tracks; None unless asked for.
        verdicts: The findings in plain words.
    """

    job: ClassVar[str] = "crossval"
    stems: tuple[str, ...]
    triplets: int
    splits: SplitsResult
    models: tuple[ModelResult, ...]
    by_stem: Mapping[str, StemResult]
    level: float
    interval_method: str
    best_alpha: float
    condition_number: Number
    share_of_ceiling: ShareResult | None
    comparisons: tuple[ComparisonResult, ...]
    penalty: PenaltyResult | None
    leakage: LeakageResult | None
    verdicts: tuple[str, ...]

    @classmethod
    def of(cls, summary: Summary, *, level: float = 0.95) -> Self:
        """Return the results of a summarised cross-validation."""
        result = summary.result
        splits, triplets, share = result.splits, result.embedded.triplets, summary.share
        return cls(
            source=triplets.source,
            simulated=triplets.simulated,
            stems=result.stems,
            triplets=len(triplets),
            splits=SplitsResult(
                kind=splits.kind,
                count=len(splits),
                train_fraction=splits.train_fraction,
                seed=splits.seed,
                mean_test_size=float(splits.test.sum(axis=1).mean()),
            ),
            models=tuple(ModelResult.of(model, result) for model in result.models),
            by_stem=_by_stem(summary),
            level=level,
            interval_method="cluster-robust",
            best_alpha=result.path.best_alpha,
            condition_number=summary.collinearity.condition,
            share_of_ceiling=None
            if share is None
            else ShareResult(share=share.share, lower=share.lower, upper=share.upper),
            comparisons=tuple(map(ComparisonResult.of, summary.comparisons)),
            penalty=_penalty(summary),
            leakage=None if summary.leakage is None else LeakageResult.of(summary.leakage),
            verdicts=tuple(summary.sentences),
        )


def _by_stem(summary: Summary) -> dict[str, StemResult]:
    intervals, importance = summary.intervals, summary.importance
    entries = {}
    for row, stem in enumerate(summary.result.stems):
        entries[stem] = StemResult(
            weight=math.nan if intervals is None else intervals.estimate[row],
            lower=math.nan if intervals is None else intervals.lower[row],
            upper=math.nan if intervals is None else intervals.upper[row],
            refit=summary.result.path.weights[row],
            variance_inflation=summary.collinearity.inflation[row],
            agreement_drop=None if importance is None else DropResult.of(importance.agreement_drop[row]),
            r2_drop=None if importance is None else DropResult.of(importance.r2_drop[row]),
        )
    return entries


def _penalty(summary: Summary) -> PenaltyResult | None:
    path, nested = summary.path, summary.nested
    if path is None:
        return None
    return PenaltyResult(
        alphas=tuple(path.alphas.tolist()),
        weights=tuple(map(tuple, path.weights.tolist())),
        left_out_error=tuple(path.left_out_error.tolist()),
        best_alpha=path.best_alpha,
        nested_median_alpha=math.nan if nested is None else float(np.median(nested.alphas)),
        nested_agreement=math.nan if nested is None else float(nested.agreement.mean()),
    )


class FitResults(Results):
    """Results of `fit`.

    Attributes:
        method: Loss, penalty, target and weighting of the fit, in words.
        fusion: Name of the fusion's class.
        l2: Weight of the squared weights in the loss.
        weights: Fitted weight of each stem; empty where the fusion has none.
        closed_form: Exact weights; empty where there is no closed form.
        max_abs_weight_gap: Largest absolute difference between the two; NaN where there is no closed form.
        true_weights: Weights of simulated listeners; empty if they were real.
        cosine_to_true_weights: Cosine between fitted and true weights; NaN if the listeners were real.
        metrics: Logged metrics, e.g. `train/agreement`.
    """

    job: ClassVar[str] = "fit"
    method: str
    fusion: str
    l2: float
    weights: Mapping[str, float]
    closed_form: Mapping[str, float]
    max_abs_weight_gap: Number
    true_weights: Mapping[str, float]
    cosine_to_true_weights: Number
    metrics: Mapping[str, Number]


class PartResults(Results):
    """Results of `validate` or `test`.

    Attributes:
        part: `val` or `test`.
        split: Kind of the split.
        triplets: Number of triplets in this part.
        tracks: Number of tracks in this part.
        checkpoint: Checkpoint that was tested; empty if the weights were never trained.
        metrics: Logged metrics, e.g. `test/agreement`.
    """

    job: ClassVar[str] = "test"
    part: Literal["val", "test"]
    split: str
    triplets: int
    tracks: int
    checkpoint: str
    metrics: Mapping[str, Number]

    @property
    def file_stem(self) -> str:
        """Name of the file without its suffix: the part."""
        return self.part


class PerspectivePart(_Entry):
    """Part of one stem in the preference on one question, with its interval and its difference from overall."""

    part: Number
    standard_error: Number
    lower: Number
    upper: Number
    true_part: Number = math.nan
    less_overall: Number = math.nan
    difference_lower: Number = math.nan
    difference_upper: Number = math.nan
    adjusted_p: Number = math.nan


class QuestionResult(_Entry):
    """Fit to the votes on one question."""

    triplets: int
    answers: int
    share_of_ceiling: Number
    by_stem: Mapping[str, PerspectivePart]
    models: tuple[ModelResult, ...]


class PerspectivesResults(Results):
    """Results of the analysis `perspectives` of `crossval`.

    Attributes:
        stems: Stem layout.
        level: Nominal coverage of the intervals.
        questions: Fits by question, `overall` first.
        left_out: Reason why a question was left out, by question.
        verdicts: The findings in plain words.
    """

    job: ClassVar[str] = "perspectives"
    stems: tuple[str, ...]
    level: float
    questions: Mapping[str, QuestionResult]
    left_out: Mapping[str, str]
    verdicts: tuple[str, ...]

    @classmethod
    def of(cls, found: Perspectives) -> Self:
        """Return the results of the analysis."""
        rows = found.frame().to_dict("records")
        questions = {
            fit.question: QuestionResult(
                triplets=len(fit.result.embedded),
                answers=fit.answers,
                share_of_ceiling=math.nan if fit.share is None else fit.share.share,
                by_stem={
                    row["stem"]: PerspectivePart.model_validate(row) for row in rows if row["question"] == fit.question
                },
                models=tuple(ModelResult.of(model, fit.result) for model in fit.result.models),
            )
            for fit in found.fits
        }
        return cls(
            source=found.source,
            simulated=found.fits[0].result.embedded.triplets.simulated,
            stems=found.stems,
            level=found.level,
            questions=questions,
            left_out=found.left_out,
            verdicts=tuple(found.sentences),
        )
