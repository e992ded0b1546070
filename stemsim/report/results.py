"""Results of the jobs of `train.py`, as they are written to and read from the folder of a run.

Each subclass of `Results` is one JSON file: `fit.json`, `val.json`, `test.json`, `crossval.json`, `perspectives.json`.
Tables, pictures and pages are made from these classes alone, so that they show what the file holds.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from stemsim.analysis import Summary
from stemsim.analysis.leakage import Leakage
from stemsim.analysis.penalty import WeightPath
from stemsim.analysis.perspectives import Perspectives
from stemsim.documents import read_json
from stemsim.errors import ResultsError
from stemsim.evaluation import Comparison, CrossValidation, ModelScores
from stemsim.evaluation.agreement import CeilingShare
from stemsim.evaluation.comparison import PairedDifference
from stemsim.replacing import write_text
from stemsim.report.text import with_spread
from stemsim.triplets import TEST_TYPES

__all__ = [
    "CrossvalResults",
    "FitResults",
    "ModelResult",
    "PartResults",
    "PerspectivesResults",
    "PredictionResults",
    "QuestionResult",
    "Results",
    "Score",
    "StemResult",
]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Results(_Entry):
    """Results of one job, about the triplets of a source, of real or simulated listeners."""

    job: ClassVar[str]
    source: str
    simulated: bool

    @property
    def file_stem(self) -> str:
        """Name of the file without its suffix."""
        return self.job

    def write(self, folder: Path) -> Path:
        """Write the file into the folder of a run, with null for numbers that are not finite, and return its path."""
        path = folder / f"{self.file_stem}.json"
        write_text(path, self.text)
        return path

    @property
    def text(self) -> str:
        """Content of the file."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            ResultsError: If it is damaged, or of another kind.
        """
        try:
            return cls.model_validate(_with_nan(read_json(path.read_bytes())))
        except (OSError, ValueError) as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            raise ResultsError(
                f"{path} does not hold the results of {cls.job} ({reason}). Run that job again, or move the file out "
                "of the folder."
            ) from error


def _with_nan(document: Any) -> Any:
    """Return a JSON document with NaN for every null."""
    if isinstance(document, dict):
        return {name: _with_nan(value) for name, value in document.items()}
    if isinstance(document, list):
        return [_with_nan(value) for value in document]
    return math.nan if document is None else document


class Score(_Entry):
    """Mean and standard deviation over the splits; NaN where there is no value."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Self:
        """Return the score of the values that are known."""
        known = values[~np.isnan(values)]
        return cls(mean=known.mean(), std=known.std()) if len(known) else cls(mean=math.nan, std=math.nan)

    @property
    def percent(self) -> str:
        """The score in percent, as tables show it."""
        return with_spread(100 * self.mean, 100 * self.std)


class ModelResult(_Entry):
    """One model of a cross-validation.

    Attributes:
        slug: Stable name for metric keys.
        agreement: Test agreement in [0, 1], by `all`, `XAB` and `XYC`.
        by_split: Test agreement on every split.
        share_of_ceiling: Mean agreement over that of the listeners.
        weights: Weights by stem; empty where the model is not linear.
        median_alpha: Median penalty over the splits; NaN where there is none.
    """

    name: str
    slug: str
    kind: Literal["ceiling", "baseline", "fitted"]
    agreement: Mapping[str, Score]
    by_split: tuple[float, ...]
    share_of_ceiling: float
    weights: Mapping[str, Score]
    median_alpha: float

    @classmethod
    def of(cls, model: ModelScores, result: CrossValidation) -> Self:
        """Return the entry of a model."""
        given = model.name in {"mix cosine", "uniform weights"}
        columns = zip(("all", *TEST_TYPES), model.agreement.T, strict=True)
        weights = () if model.weights is None else zip(result.stems, model.weights.T, strict=True)
        return cls(
            name=model.name,
            slug=model.slug,
            kind="ceiling" if not model.predicts else "baseline" if given else "fitted",
            agreement={column: Score.of(values) for column, values in columns},
            by_split=tuple(model.agreement[:, 0].tolist()),
            share_of_ceiling=result.share_of_ceiling(model),
            weights={stem: Score.of(values) for stem, values in weights},
            median_alpha=model.median_alpha,
        )


class SplitsResult(_Entry):
    """Settings of the splits of a cross-validation, and the mean number of triplets in their test parts."""

    kind: Literal["stratified", "grouped"]
    count: int
    train_fraction: float
    seed: int
    mean_test_size: float


class StemResult(_Entry):
    """Weight of one stem.

    Attributes:
        refit: Ridge weight on all triplets.
        variance_inflation: Variance inflation factor; NaN for a silent stem.
        weight: Least-squares weight on all triplets, with its standard error and the ends of its interval; NaN where
            there are no intervals.
        agreement_drop: Agreement lost without the stem; None unless `importance` was asked for. Likewise `r2_drop`.
    """

    refit: float
    variance_inflation: float
    weight: float = math.nan
    standard_error: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    agreement_drop: PairedDifference | None = None
    r2_drop: PairedDifference | None = None


class CrossvalResults(Results):
    """Results of `crossval`.

    Attributes:
        triplets: Number of triplets.
        models: All models; the ceiling comes first.
        level: Nominal coverage of the intervals of `by_stem`, by the `interval_method`.
        best_alpha: Penalty of the refit.
        condition_number: Condition number of the stem features.
        verdicts: The findings in plain words.
        share_of_ceiling: Ridge as a share of the ceiling; None where no triplet has two votes.
        penalty: Ridge weights by penalty; None unless asked for.
        nested: Ridge with penalties chosen by nested cross-validation; likewise, or where an inner split has an empty
            part.
        leakage: Effect of shared tracks; None unless asked for.
    """

    job: ClassVar[str] = "crossval"
    stems: tuple[str, ...]
    triplets: int
    splits: SplitsResult
    models: tuple[ModelResult, ...]
    by_stem: Mapping[str, StemResult]
    level: float
    interval_method: str = "cluster-robust"
    best_alpha: float
    condition_number: float
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[str, ...]
    share_of_ceiling: CeilingShare | None = None
    penalty: WeightPath | None = None
    nested: ModelResult | None = None
    leakage: Leakage | None = None

    @property
    def has_intervals(self) -> bool:
        """True if the interval of any weight is known."""
        return any(math.isfinite(row.lower) for row in self.by_stem.values())

    @classmethod
    def of(cls, summary: Summary) -> Self:
        """Return the results of a summarised cross-validation."""
        result, triplets, splits = summary.result, summary.result.embedded.triplets, summary.result.splits
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
            level=0.95 if summary.intervals is None else summary.intervals.level,
            best_alpha=result.best_alpha,
            condition_number=summary.collinearity.condition,
            comparisons=summary.comparisons,
            verdicts=tuple(summary.sentences),
            share_of_ceiling=summary.share,
            penalty=summary.path,
            nested=None if summary.nested is None else ModelResult.of(summary.nested, result),
            leakage=summary.leakage,
        )


def _by_stem(summary: Summary) -> dict[str, StemResult]:
    columns: dict[str, Any] = {"refit": summary.result.refit, "variance_inflation": summary.collinearity.inflation}
    if (found := summary.intervals) is not None:
        columns |= {"weight": found.estimate, "standard_error": found.standard_error}
        columns |= {"lower": found.lower, "upper": found.upper}
    if (drops := summary.importance) is not None:
        columns |= {"agreement_drop": drops.agreement_drop, "r2_drop": drops.r2_drop}
    return {
        stem: StemResult(**{name: values[row] for name, values in columns.items()})
        for row, stem in enumerate(summary.result.stems)
    }


class FitResults(Results):
    """Results of `fit`.

    Attributes:
        triplets: Number of triplets that were fitted.
        method: Loss, penalty, target and weighting of the fit, in words.
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
    max_abs_weight_gap: float
    true_weights: Mapping[str, float]
    cosine_to_true_weights: float
    metrics: Mapping[str, float]

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
            columns["true (simulated), scaled"] = {stem: factor * one for stem, one in self.true_weights.items()}
        return {name: column for name, column in columns.items() if column}


class PartResults(Results):
    """Results of `validate` or `test`.

    Attributes:
        triplets: Number of triplets in this part; likewise `tracks`.
        checkpoint: Checkpoint that was tested; `weights in memory` if they were fitted in the same process.
        metrics: Logged metrics, e.g. `test/agreement`.
    """

    job: ClassVar[str] = "validate or test"
    part: Literal["val", "test"]
    split: str
    triplets: int
    tracks: int
    checkpoint: str
    metrics: Mapping[str, float]

    @property
    def file_stem(self) -> str:
        """Name of the file without its suffix: the part."""
        return self.part


class PredictionResults(Results):
    """Results of `predict`, whose predictions are in `predictions.csv`."""

    job: ClassVar[str] = "predictions"
    triplets: int


class PartOfStem(_Entry):
    """Part of a stem in the preference on one question, with its interval, and its difference from overall."""

    part: float
    standard_error: float
    lower: float
    upper: float
    true_part: float = math.nan
    less_overall: float = math.nan
    difference_lower: float = math.nan
    difference_upper: float = math.nan
    adjusted_p: float = math.nan


class QuestionResult(_Entry):
    """Fit to the votes on one question."""

    triplets: int
    answers: int
    by_stem: Mapping[str, PartOfStem]
    models: tuple[ModelResult, ...]


class PerspectivesResults(Results):
    """Results of the analysis `perspectives` of `crossval`.

    Attributes:
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
        rows = found.table.to_dict("records")
        questions = {
            question: QuestionResult(
                triplets=len(result.embedded),
                answers=int(result.embedded.triplets.votes.sum()),
                by_stem={row["stem"]: PartOfStem.model_validate(row) for row in rows if row["question"] == question},
                models=tuple(ModelResult.of(model, result) for model in result.models),
            )
            for question, result in found.results.items()
        }
        first = next(iter(found.results.values()))
        return cls(
            source=first.embedded.triplets.source,
            simulated=first.embedded.triplets.simulated,
            stems=first.stems,
            level=found.level,
            questions=questions,
            left_out=found.left_out,
            verdicts=tuple(found.sentences),
        )
