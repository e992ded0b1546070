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
from typing import Final

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtr

from stemsim.analysis.intervals import influence
from stemsim.errors import SplitError, TripletError
from stemsim.evaluation import CrossValidation, Splits, cross_validate
from stemsim.evaluation.clusters import cluster_robust_variance, interval_reach
from stemsim.evaluation.comparison import format_p
from stemsim.regression import fit_ridge
from stemsim.triplets import EmbeddedTriplets
from stemsim.triplets.table import BoolArray, FloatArray, IntArray

_DIFFERENCE: Final = ("less_overall", "difference_lower", "difference_upper", "adjusted_p")
_COLUMNS: Final = ("question", "stem", "part", "standard_error", "lower", "upper", "true_part", *_DIFFERENCE)


@dataclass(frozen=True, slots=True, eq=False)
class Perspectives:
    """Fits to all questions, side by side.

    Attributes:
        table: One row for each `question` and `stem`: its `part`, with `standard_error` (infinite where the triplets do
            not determine the part) and the ends `lower` and `upper` of its interval; `true_part`, of simulated
            listeners; and for perspectives, where both are determined, the difference `less_overall` from the part
            overall, with the ends of its interval, `difference_lower` and `difference_upper`, and `adjusted_p`,
            two-sided, of no difference, after Holm's correction for all differences. NaN where there is no value.
        results: Cross-validation against the majorities on each question, `overall` first.
        left_out: Reason why a question was left out, by question.
        level: Nominal coverage of each interval by itself.
    """

    table: pd.DataFrame
    results: Mapping[str, CrossValidation]
    left_out: Mapping[str, str]
    level: float

    @property
    def sentences(self) -> list[str]:
        """The findings in words."""
        differences = self.table[self.table["adjusted_p"].notna()].sort_values("adjusted_p", kind="stable")
        significant = differences[differences["adjusted_p"] < 1.0 - self.level]
        said = [self._about(question) for question in self.results]
        said += [
            f"{row['stem']} counts {'more' if row['less_overall'] > 0.0 else 'less'} for {row['question']} than "
            f"overall: {row['less_overall']:+.2f}, {100 * self.level:g} % interval [{row['difference_lower']:.2f}, "
            f"{row['difference_upper']:.2f}], Holm-adjusted p {format_p(row['adjusted_p'])}."
            for row in significant.to_dict("records")
        ]
        if len(differences) and not len(significant):
            said.append("No stem counts significantly differently for a perspective than overall.")
        return [*said, *(f"{question} is left out: {reason}" for question, reason in self.left_out.items())]

    def _about(self, question: str) -> str:
        rows = self.table[(self.table["question"] == question)].sort_values("part", key=lambda part: -part.abs())
        parts = [
            f"{row['stem']} {row['part']:.2f} [{row['lower']:.2f}, {row['upper']:.2f}]"
            for row in rows[(rows["lower"] > 0.0) | (rows["upper"] < 0.0)].to_dict("records")
        ]
        result = self.results[question]
        ceiling = 100 * result.ceiling.mean
        beside = f", one listener with the others on {ceiling:.1f} %" if np.isfinite(ceiling) else ""
        named = ", ".join(parts) or "no stem has a significant part"
        return f"{question}: {named}; ridge agrees on {100 * result['ridge'].mean:.1f} %{beside}."


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
        raise TripletError("There are no triplets to compare. Relax the filter: min_agreement, min_votes, test_type.")
    question, tracks, scale = _shared(tables)
    ends = np.cumsum([len(one) for one in tables])
    parts: dict[str, _Parts] = {}
    results: dict[str, CrossValidation] = {}
    left_out: dict[str, SplitError | TripletError] = {}
    for (name, embedded), end in zip(asked.items(), ends, strict=True):
        rows = slice(end - len(embedded), end)
        try:
            one = _fit_parts(embedded, scale, question[rows], tracks[rows])
            results[name] = _cross_validated(embedded, result)
        except (TripletError, SplitError) as error:
            left_out[name] = error
        else:
            parts[name] = one
    if not parts:
        raise next(iter(left_out.values()))
    columns = []
    for name, one in parts.items():
        deviation, clusters = _error(one)
        ends = one.part + interval_reach(level, clusters) * np.array([-deviation, deviation])
        described = {"part": one.part, "standard_error": deviation, "lower": ends[0], "upper": ends[1]}
        columns.append(pd.DataFrame({"question": name, "stem": result.stems, **described}))
        if (truth := asked[name].triplets.true_weights) is not None:
            true_part = np.array(list(truth.values())) * scale
            columns[-1]["true_part"] = true_part / (np.linalg.norm(true_part) or 1.0)
        if "overall" in parts and name != "overall":
            columns[-1] = columns[-1].assign(**_difference(one, parts["overall"], level))
    table = pd.concat(columns).reindex(columns=_COLUMNS)
    compared = table["adjusted_p"].notna()
    table.loc[compared, "adjusted_p"] = _holm(table.loc[compared, "adjusted_p"].to_numpy())
    return Perspectives(table, results, {name: str(error) for name, error in left_out.items()}, level)


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


def _shared(tables: Sequence[EmbeddedTriplets]) -> tuple[IntArray, IntArray, FloatArray]:
    """Number the triplets `(triplet,)` of several tables and their tracks `(triplet, 3)`; equal ones share a number.

    The third result is the root mean square `(stem,)` of each stem feature over the distinct triplets.
    """
    numbers: dict[tuple[object, ...], int] = {}
    every = [one.triplets for one in tables]
    keys = [
        (*(table.segments[index] for index in row), instrument)
        for table in every
        for row, instrument in zip(table.members.tolist(), table.instrument.tolist(), strict=True)
    ]
    question = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    names = np.concatenate([np.array(table.tracks)[table.members] for table in every])
    tracks = np.unique(names, return_inverse=True)[1].reshape(names.shape).astype(np.int64)
    features = np.concatenate([one.deltas.numpy() for one in tables])[np.unique(question, return_index=True)[1]]
    return question, tracks, np.sqrt(np.square(features).mean(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Parts of the stems in one fit, and the error of each triplet in them."""

    part: FloatArray  # (stem,)
    influence: FloatArray  # (triplet, stem)
    undetermined: BoolArray  # (stem,)
    question: IntArray  # (triplet,) number of the triplet in all tables
    tracks: IntArray  # (triplet, 3) in numbers that all tables share


def _fit_parts(embedded: EmbeddedTriplets, scale: FloatArray, question: IntArray, tracks: IntArray) -> _Parts:
    """Fit least squares to the majorities, and turn the weights into parts."""
    rows = np.divide(embedded.deltas.numpy(), scale, out=np.zeros((len(embedded), len(scale))), where=scale > 0.0)
    fit = fit_ridge(torch.from_numpy(rows), embedded.target())
    errors, weights = influence(fit, tracks), fit.weights[0].numpy()
    length = float(np.linalg.norm(weights))
    if length == 0.0:
        raise TripletError(f"All stem weights are 0 for {embedded.triplets.source}: no stem differs between A and B.")
    part = weights / length
    across = (np.eye(len(part)) - np.outer(part, part)) / length
    return _Parts(part, errors @ across, fit.undetermined.numpy(), question, tracks)


def _difference(parts: _Parts, overall: _Parts, level: float) -> dict[str, FloatArray]:
    """Return the differences of parts from those overall, where both are determined, and their p-values."""
    error, clusters = _error(parts, overall)
    gap = np.where(np.isfinite(error), parts.part - overall.part, np.nan)
    reach = interval_reach(level, clusters) * error
    ratio = np.divide(-np.abs(gap), error, out=np.zeros_like(gap), where=error > 0.0)  # without error, p is 1
    ends = {"difference_lower": gap - reach, "difference_upper": gap + reach}
    return {"less_overall": gap, **ends, "adjusted_p": 2.0 * stdtr(clusters - 1, ratio)}


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


def _holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values `(test,)` for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1.0)
    return adjusted
