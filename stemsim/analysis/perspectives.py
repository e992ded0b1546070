"""Perspectives: stem weights fitted separately to timbre, rhythm, melody and overall similarity, and compared.

Weights of different fits have no common unit, as votes tell which candidate is closer and not by how much. The *part*
of stem i is its weight times the root mean square of its stem feature, divided by the norm of all such products: the
typical contribution of the stem to the preference, whatever the noise of the answers. The squares of all parts add up
to 1.

Standard errors carry those of least squares over to the parts by the delta method; they are robust to triplets that
share tracks (`stemsim.analysis.intervals`). Several fits may be about the same triplets and listeners: a difference of
parts is one sum over triplets, in which errors that the fits have in common cancel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtr

from stemsim.analysis.intervals import influence
from stemsim.errors import SplitError, TripletError
from stemsim.evaluation import CrossValidation, Splits, cross_validate
from stemsim.evaluation.agreement import CeilingShare, share_of_ceiling
from stemsim.evaluation.clusters import cluster_robust_variance, interval_reach
from stemsim.evaluation.comparison import format_p
from stemsim.regression import fit_ridge
from stemsim.stems import StemLayout
from stemsim.triplets import EmbeddedTriplets, Triplets
from stemsim.triplets.table import BoolArray, FloatArray, IntArray

__all__ = ["PerspectiveDifference", "PerspectiveFit", "Perspectives", "compare_perspectives"]


@dataclass(frozen=True, slots=True, eq=False)
class PerspectiveFit:
    """Fit to the votes on one question.

    Attributes:
        question: `overall`, `timbre`, `rhythm` or `melody`.
        answers: Number of answers to the triplets with a majority on it.
        part: `(stem,)` part of each stem; the squares add up to 1.
        standard_error: `(stem,)`; infinite where the triplets do not determine a part.
        lower: `(stem,)` lower ends of the intervals.
        upper: `(stem,)` upper ends.
        result: Cross-validation against the majority on this question.
        share: Ridge regression as a share of the ceiling; None where no triplet has two answers.
        true_part: `(stem,)` the parts of simulated listeners; None if they were real.
    """

    question: str
    answers: int
    part: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    result: CrossValidation
    share: CeilingShare | None
    true_part: FloatArray | None


@dataclass(frozen=True, slots=True)
class PerspectiveDifference:
    """Part of a stem for one perspective, less its part overall.

    Attributes:
        question: The perspective.
        stem: The stem.
        value: The difference of the parts.
        lower: Lower end of its interval.
        upper: Upper end.
        adjusted_p_value: Two-sided, of no difference, after Holm's correction for all differences.
    """

    question: str
    stem: str
    value: float
    lower: float
    upper: float
    adjusted_p_value: float


@dataclass(frozen=True, slots=True, eq=False)
class Perspectives:
    """Fits to all questions, side by side.

    Attributes:
        stems: Stem layout.
        source: Source of the triplets.
        fits: One for each question, `overall` first.
        differences: Of every stem and perspective from overall, where both are determined.
        left_out: Reason why a question was left out, by question.
        level: Nominal coverage of each interval by itself.
    """

    stems: StemLayout
    source: str
    fits: tuple[PerspectiveFit, ...]
    differences: tuple[PerspectiveDifference, ...]
    left_out: Mapping[str, str]
    level: float

    def frame(self) -> pd.DataFrame:
        """Return one row for each question and stem: part, interval, true part, and difference from overall."""
        found = {(one.question, one.stem): one for one in self.differences}
        rows = []
        for fit in self.fits:
            for index, stem in enumerate(self.stems):
                row: dict[str, str | float] = {"question": fit.question, "stem": stem}
                row |= {name: getattr(fit, name)[index] for name in ("part", "standard_error", "lower", "upper")}
                if fit.true_part is not None:
                    row["true_part"] = fit.true_part[index]
                if (one := found.get((fit.question, stem))) is not None:
                    row |= {"less_overall": one.value, "difference_lower": one.lower, "difference_upper": one.upper}
                    row["adjusted_p"] = one.adjusted_p_value
                rows.append(row)
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> list[str]:
        """The findings in words."""
        said = [_sentence(fit, self.stems) for fit in self.fits]
        significant = [one for one in self.differences if one.adjusted_p_value < 1.0 - self.level]
        said += [
            f"{one.stem} counts {'more' if one.value > 0.0 else 'less'} for {one.question} than overall: "
            f"{one.value:+.2f}, {100 * self.level:g} % interval [{one.lower:.2f}, {one.upper:.2f}], Holm-adjusted p "
            f"{format_p(one.adjusted_p_value)}."
            for one in sorted(significant, key=lambda one: one.adjusted_p_value)
        ]
        if self.differences and not significant:
            said.append("No stem counts significantly differently for a perspective than overall.")
        return [*said, *(f"{question} is left out: {reason}" for question, reason in self.left_out.items())]


def compare_perspectives(
    result: CrossValidation, asked: Mapping[str, EmbeddedTriplets], *, level: float = 0.95
) -> Perspectives:
    """Fit stem weights to every question by itself, and make them comparable.

    Parts and intervals are those of least squares on all triplets of a question; agreement is that of ridge regression
    with the majority on the same question, on the test parts of random splits.

    Args:
        result: Cross-validation of one of the questions, which is used again; the others are split in the same way.
        asked: By question: the triplets with a majority on it.
        level: Nominal coverage of the intervals.

    Returns:
        The fits side by side. A question with too few triplets is left out, with the reason.

    Raises:
        ConfigError: If the level does not lie between 0 and 1.
        TripletError: If every question is left out because it has too few triplets.
        SplitError: If that is because its splits have empty parts.
    """
    tables = list(asked.values())
    if not sum(map(len, tables)):
        msg = "There are no triplets to compare. Relax the filter: min_agreement, min_votes, test_type."
        raise TripletError(msg)
    question, tracks = _numbered([one.triplets for one in tables])
    scale = _feature_scale(tables, question)
    ends = np.cumsum([len(one) for one in tables])
    parts: dict[str, _Parts] = {}
    fits: list[PerspectiveFit] = []
    left_out: dict[str, SplitError | TripletError] = {}
    for (name, embedded), end in zip(asked.items(), ends, strict=True):
        rows = slice(end - len(embedded), end)
        try:
            one = _fit_parts(embedded, scale, question[rows], tracks[rows])
            fits.append(_described(name, one, _cross_validated(embedded, result), scale, level))
        except (TripletError, SplitError) as error:
            left_out[name] = error
        else:
            parts[name] = one
    if not fits:
        raise next(iter(left_out.values()))
    return Perspectives(
        stems=result.stems,
        source=tables[0].triplets.source,
        fits=tuple(fits),
        differences=_differences(parts, result.stems, level),
        left_out={name: str(error) for name, error in left_out.items()},
        level=level,
    )


def _cross_validated(embedded: EmbeddedTriplets, result: CrossValidation) -> CrossValidation:
    """Return a cross-validation as another one: the other one itself if it is of the same triplets."""
    one, other, splits = embedded.triplets, result.embedded.triplets, result.splits
    same = np.array_equal(one.members, other.members) and np.array_equal(one.votes, other.votes)
    if same and one.segments == other.segments:
        return result
    drawn = Splits.draw(
        one, count=len(splits), train_fraction=splits.train_fraction, kind=splits.kind, seed=splits.seed
    )
    return cross_validate(embedded, drawn, alphas=result.on_train.alphas[1:].tolist())


def _numbered(tables: Sequence[Triplets]) -> tuple[IntArray, IntArray]:
    """Number the triplets `(triplet,)` of several tables and their tracks `(triplet, 3)`; equal ones share a number."""
    numbers: dict[tuple[object, ...], int] = {}
    keys = [
        (*(table.segments[index] for index in row), instrument)
        for table in tables
        for row, instrument in zip(table.members.tolist(), table.instrument.tolist(), strict=True)
    ]
    question = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    names = np.concatenate([np.array(table.tracks)[table.members] for table in tables])
    return question, np.unique(names, return_inverse=True)[1].reshape(names.shape).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Parts of the stems in one fit, and the error of each triplet in them."""

    part: FloatArray  # (stem,)
    influence: FloatArray  # (triplet, stem)
    undetermined: BoolArray  # (stem,)
    question: IntArray  # (triplet,) number of the triplet in all tables
    tracks: IntArray  # (triplet, 3) in numbers that all tables share


def _feature_scale(tables: Sequence[EmbeddedTriplets], question: IntArray) -> FloatArray:
    """Return the root mean square of each stem feature over the distinct triplets of some tables, `(stem,)`."""
    features = np.concatenate([table.deltas.numpy() for table in tables])
    _, first = np.unique(question, return_index=True)
    scale: FloatArray = np.sqrt(np.square(features[first]).mean(axis=0))
    return scale


def _fit_parts(embedded: EmbeddedTriplets, scale: FloatArray, question: IntArray, tracks: IntArray) -> _Parts:
    """Fit least squares to the majorities, and turn the weights into parts."""
    rows = np.divide(embedded.deltas.numpy(), scale, out=np.zeros((len(embedded), len(scale))), where=scale > 0.0)
    fit = fit_ridge(torch.from_numpy(rows), embedded.target())
    errors, weights = influence(fit, tracks), fit.weights[0].numpy()
    length = float(np.linalg.norm(weights))
    if length == 0.0:
        msg = f"All stem weights are 0 for {embedded.triplets.source}: no stem differs between A and B."
        raise TripletError(msg)
    part = weights / length
    across = (np.eye(len(part)) - np.outer(part, part)) / length
    return _Parts(part, errors @ across, fit.undetermined.numpy(), question, tracks)


def _described(
    question: str, parts: _Parts, result: CrossValidation, scale: FloatArray, level: float
) -> PerspectiveFit:
    """Return the fit to one question with its intervals."""
    triplets = result.embedded.triplets
    error, clusters = _error(parts)
    reach = interval_reach(level, clusters) * error
    true_part = None
    if triplets.true_weights is not None:
        true_part = np.array(list(triplets.true_weights.values())) * scale
        true_part = true_part / (np.linalg.norm(true_part) or 1.0)
    return PerspectiveFit(
        question=question,
        answers=int(triplets.votes.sum()),
        part=parts.part,
        standard_error=error,
        lower=parts.part - reach,
        upper=parts.part + reach,
        result=result,
        share=share_of_ceiling(result, result["ridge"], level=level),
        true_part=true_part,
    )


def _error(parts: _Parts, less: _Parts | None = None) -> tuple[FloatArray, int]:
    """Return standard errors `(stem,)` of parts, or of a difference of parts, and the number of tracks."""
    both = [parts] if less is None else [parts, less]
    question, tracks = (np.concatenate([getattr(one, name) for one in both]) for name in ("question", "tracks"))
    scores = np.concatenate([one.influence * sign for one, sign in zip(both, (1.0, -1.0), strict=False)])
    _, first, place = np.unique(question, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), scores.shape[1]))
    np.add.at(sums, place, scores)  # a triplet that was asked both questions is one observation
    error = np.sqrt(cluster_robust_variance(sums, tracks[first]))
    undetermined = np.any([one.undetermined for one in both], axis=0)
    return np.where(undetermined, np.inf, error), len(np.unique(tracks))


def _differences(parts: Mapping[str, _Parts], stems: StemLayout, level: float) -> tuple[PerspectiveDifference, ...]:
    """Compare every perspective with overall, stem by stem."""
    found: list[tuple[str, str, float, float, float]] = []
    p_values: list[float] = []
    overall = parts.get("overall")
    for question, one in parts.items():
        if overall is None or one is overall:
            continue
        error, clusters = _error(one, overall)
        for index in np.flatnonzero(np.isfinite(error)):
            value = float(one.part[index] - overall.part[index])
            reach = interval_reach(level, clusters) * float(error[index])
            found.append((question, stems[index], value, value - reach, value + reach))
            p_values.append(2.0 * float(stdtr(clusters - 1, -abs(value) / error[index])) if error[index] else 1.0)
    adjusted = _holm(np.array(p_values))
    return tuple(PerspectiveDifference(*one, float(p_value)) for one, p_value in zip(found, adjusted, strict=True))


def _holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values `(test,)` for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1.0)
    return adjusted


def _sentence(fit: PerspectiveFit, stems: StemLayout) -> str:
    parts = [
        f"{stems[index]} {fit.part[index]:.2f} [{fit.lower[index]:.2f}, {fit.upper[index]:.2f}]"
        for index in np.argsort(-np.abs(fit.part))
        if fit.lower[index] > 0.0 or fit.upper[index] < 0.0
    ]
    ceiling = fit.result.ceiling.mean
    beside = f", one listener with the others on {100 * ceiling:.1f} %" if np.isfinite(ceiling) else ""
    named = ", ".join(parts) or "no stem has a significant part"
    return f"{fit.question}: {named}; ridge agrees on {100 * fit.result['ridge'].mean:.1f} %{beside}."
