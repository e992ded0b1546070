"""Results of the jobs of `train.py`, as they are written to and read from the folder of a run.

Each subclass of `Results` is one JSON file: `fit.json`, `val.json`, `test.json`, `crossval.json`, `perspectives.json`.
Tables, pictures and pages are made from these classes alone, so that they show what the file holds.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from stemsim.analysis import Summary
from stemsim.analysis.perspectives import Perspectives
from stemsim.audio import Segment
from stemsim.errors import ResultsError
from stemsim.evaluation import CrossValidation, ModelScores
from stemsim.triplets import TEST_TYPES

__all__ = [
    "CrossvalResults",
    "FitResults",
    "ModelResult",
    "PartResults",
    "PerspectivesResults",
    "PredictionResults",
    "Results",
    "Score",
    "StemResult",
    "WorstTriplet",
]

Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: float(value) if math.isfinite(value) else None, when_used="json"),
]
"""A float that may be NaN or infinite, which is null in JSON."""


class _Entry(BaseModel):
    """Part of a file; read from JSON, or from an object with attributes of the same names."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class Results(_Entry):
    """Results of one job.

    Attributes:
        source: Source of the triplets.
        simulated: Whether the listeners were simulated.
    """

    job: ClassVar[str]
    source: str
    simulated: bool

    @property
    def file_stem(self) -> str:
        """Name of the file without its suffix."""
        return self.job

    def write(self, folder: Path) -> Path:
        """Write the JSON file into the folder of a run, and return its path."""
        path = folder / f"{self.file_stem}.json"
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            ResultsError: If it is damaged, or of another kind.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            msg = (
                f"{path} does not hold results of {cls.job} ({reason}). Run that job again, or move the file out of "
                "the folder."
            )
            raise ResultsError(msg) from error


class Score(_Entry):
    """Mean and standard deviation over the splits; NaN where there is no value."""

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
        kind: `ceiling`, `baseline` (nothing is fitted) or `fitted`.
        agreement: Test agreement in [0, 1], by `all`, `XAB` and `XYC`.
        by_split: Test agreement over all triplets, for each split.
        share_of_ceiling: Mean agreement over that of the listeners.
        weights: Weights by stem; empty where the model is not linear.
        median_alpha: Median penalty over the splits; NaN where there is none.
    """

    name: str
    slug: str
    kind: Literal["ceiling", "baseline", "fitted"]
    agreement: Mapping[Literal["all", "XAB", "XYC"], Score]
    by_split: tuple[Number, ...]
    share_of_ceiling: Number
    weights: Mapping[str, Score]
    median_alpha: Number

    @classmethod
    def of(cls, model: ModelScores, result: CrossValidation) -> Self:
        """Return the entry of a model."""
        given = model.name in {"mix cosine", "uniform weights"}
        weights = {} if model.weights is None else dict(zip(result.stems, model.weights.T, strict=True))
        return cls(
            name=model.name,
            slug=model.slug,
            kind="ceiling" if not model.predicts else "baseline" if given else "fitted",
            agreement={
                column: Score.of(values) for column, values in zip(("all", *TEST_TYPES), model.agreement.T, strict=True)
            },
            by_split=tuple(model.agreement[:, 0].tolist()),
            share_of_ceiling=result.share_of_ceiling(model),
            weights={stem: Score.of(values) for stem, values in weights.items()},
            median_alpha=math.nan if model.alphas is None else float(np.median(model.alphas)),
        )


class SplitsResult(_Entry):
    """Settings of the splits of a cross-validation, and the mean number of triplets in their test parts."""

    kind: Literal["stratified", "grouped"]
    count: int
    train_fraction: float
    seed: int
    mean_test_size: float


class DifferenceResult(_Entry):
    """Mean of a paired difference over the splits, in shares of 1, with its interval and p-value."""

    mean: Number
    lower: Number
    upper: Number
    p_value: Number


class SignTestResult(_Entry):
    """Numbers of triplets on which either model does better, and the p-value of the sign test."""

    for_first: int
    for_second: int
    p_value: Number


class ComparisonResult(_Entry):
    """Paired comparison of two models: mean agreement of both, their difference, and the sign test."""

    first: str
    second: str
    agreement: tuple[Number, Number]
    difference: DifferenceResult
    signs: SignTestResult
    significant: bool


class StemResult(_Entry):
    """Weight of one stem.

    Attributes:
        weight: Least-squares weight on all triplets; NaN where there are no intervals.
        standard_error: Its cluster-robust standard error.
        lower: Lower end of its interval.
        upper: Upper end.
        refit: Ridge weight on all triplets.
        variance_inflation: Variance inflation factor; NaN for a silent stem.
        agreement_drop: Agreement lost without the stem; None unless `importance` was asked for.
        r2_drop: R^2 lost without the stem; likewise.
    """

    weight: Number = math.nan
    standard_error: Number = math.nan
    lower: Number = math.nan
    upper: Number = math.nan
    refit: Number
    variance_inflation: Number
    agreement_drop: DifferenceResult | None = None
    r2_drop: DifferenceResult | None = None


class ShareResult(_Entry):
    """Agreement of ridge regression as a share of the human ceiling, with its interval."""

    share: Number
    lower: Number
    upper: Number


class PenaltyResult(_Entry):
    """Ridge regression on all triplets as a function of the penalty, and the penalties of nested cross-validation.

    Attributes:
        alphas: Penalties, ascending.
        weights: Weights by penalty, then by stem.
        left_out_error: Mean squared error on left-out triplets, by penalty.
        best_alpha: Penalty of the least error.
        nested_median_alpha: Median penalty of nested cross-validation; NaN where an inner split has an empty part.
        nested_agreement: Mean test agreement with these penalties.
    """

    alphas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    left_out_error: tuple[float, ...]
    best_alpha: float
    nested_median_alpha: Number = math.nan
    nested_agreement: Number = math.nan


class LeakageRowResult(_Entry):
    """Mean test agreement of one model by both kinds of split; see `stemsim.analysis.leakage.LeakageRow`."""

    model: str
    stratified: Number
    matched: Number
    grouped: Number
    grouped_std: Number
    difference: Number
    from_less_data: Number
    leak: Number


class LeakageResult(_Entry):
    """Effect of shared tracks on agreement; see `stemsim.analysis.leakage.Leakage`."""

    rows: tuple[LeakageRowResult, ...]
    train_size: tuple[float, float]
    same_test: tuple[ComparisonResult, ...]


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
        penalty: Weights by penalty; None unless asked for.
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
        result, triplets, splits = summary.result, summary.result.embedded.triplets, summary.result.splits
        sizes = {"count": len(splits), "mean_test_size": splits.test.sum(axis=1).mean()}
        return cls.model_validate(
            {
                "source": triplets.source,
                "simulated": triplets.simulated,
                "stems": result.stems,
                "triplets": len(triplets),
                "splits": {name: getattr(splits, name) for name in ("kind", "train_fraction", "seed")} | sizes,
                "models": [ModelResult.of(model, result) for model in result.models],
                "by_stem": _by_stem(summary),
                "level": level,
                "interval_method": "cluster-robust",
                "best_alpha": result.path.best_alpha,
                "condition_number": summary.collinearity.condition,
                "share_of_ceiling": summary.share,
                "comparisons": summary.comparisons,
                "penalty": _penalty(summary),
                "leakage": summary.leakage,
                "verdicts": summary.sentences,
            }
        )


def _by_stem(summary: Summary) -> dict[str, dict[str, Any]]:
    """Return the fields of each stem's `StemResult`."""
    result, intervals, importance = summary.result, summary.intervals, summary.importance
    columns = {"refit": result.path.weights, "variance_inflation": summary.collinearity.inflation}
    if intervals is not None:
        columns |= {"weight": intervals.estimate, "standard_error": intervals.standard_error}
        columns |= {"lower": intervals.lower, "upper": intervals.upper}
    rows = {stem: {name: values[row] for name, values in columns.items()} for row, stem in enumerate(result.stems)}
    if importance is not None:
        for stem, agreement, r2 in zip(result.stems, importance.agreement_drop, importance.r2_drop, strict=True):
            rows[stem] |= {"agreement_drop": agreement, "r2_drop": r2}
    return rows


def _penalty(summary: Summary) -> dict[str, Any] | None:
    """Return the fields of `PenaltyResult`, if it was asked for."""
    path, nested = summary.path, summary.nested
    if path is None:
        return None
    fields = {name: getattr(path, name).tolist() for name in ("alphas", "weights", "left_out_error")}
    chosen = {} if nested is None else {"nested_median_alpha": np.median(nested.alphas)}
    chosen |= {} if nested is None else {"nested_agreement": nested.agreement.mean()}
    return fields | chosen | {"best_alpha": path.best_alpha}


class FitResults(Results):
    """Results of `fit`.

    Attributes:
        triplets: Number of triplets that were fitted.
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
    triplets: int
    method: str
    fusion: str
    l2: float
    weights: Mapping[str, float]
    closed_form: Mapping[str, float]
    max_abs_weight_gap: Number
    true_weights: Mapping[str, float]
    cosine_to_true_weights: Number
    metrics: Mapping[str, Number]

    @property
    def columns(self) -> dict[str, Mapping[str, float]]:
        """Weights by stem: fitted, exact, and true.

        Votes say which candidate is closer and not by how much, so that weights are known up to a positive factor: the
        true ones are scaled to the fitted ones by least squares.
        """
        columns = {"fitted": self.weights, "closed form": self.closed_form}
        if self.true_weights and self.weights:
            product = sum(weight * self.weights[stem] for stem, weight in self.true_weights.items())
            factor = max(product, 0.0) / sum(weight**2 for weight in self.true_weights.values())
            scaled = {stem: factor * weight for stem, weight in self.true_weights.items()}
            columns["true (simulated), scaled"] = scaled
        return {name: column for name, column in columns.items() if column}


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

    job: ClassVar[str] = "validate or test"
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


class PredictionResults(Results):
    """Results of `predict`, beside its table `predictions.csv`.

    Attributes:
        triplets: Number of triplets.
    """

    job: ClassVar[str] = "predictions"
    triplets: int


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


class WorstTriplet(_Entry):
    """Triplet on which the model is far from the listeners; one row of `test_worst_triplets.csv`.

    Attributes:
        segments: X, A and B.
        test_type: `XAB` or `XYC`.
        votes: Votes for A and for B.
        preference: Preference of the model; positive = A.
        contributions: Contribution of each stem to the preference.
    """

    segments: Mapping[Literal["X", "A", "B"], Segment]
    test_type: str
    votes: tuple[float, float]
    preference: float
    contributions: Mapping[str, float]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the triplet of a row of `prediction_frame`."""
        start = "contribution_"
        fields = {
            "segments": {
                role.upper(): {
                    "path": row[f"{role}_path"],
                    "start": row[f"{role}_start"],
                    "duration": row["duration"],
                }
                for role in ("x", "a", "b")
            },
            "votes": (row["votes_a"], row["votes_b"]),
            "contributions": {name.removeprefix(start): row[name] for name in row if name.startswith(start)},
        }
        return cls.model_validate({**row, **fields})
