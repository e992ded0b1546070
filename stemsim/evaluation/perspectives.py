"""Timbre, rhythm, melody and overall similarity fitted side by side: which stem drives which.

Every question is fitted to the votes on it alone. The weights are compared as parts (`stemsim.evaluation.stem_parts`),
since weights of different fits have no common unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student_t
from torch import Tensor

from stemsim.errors import ConfigError, SplitError, TripletError
from stemsim.evaluation.agreement import human_ceiling
from stemsim.evaluation.ceiling import CeilingShare, share_of_ceiling
from stemsim.evaluation.comparison import format_p, held_out_credit
from stemsim.evaluation.crossval import ALPHAS, CrossValidation, cross_validate
from stemsim.evaluation.splits import SplitKind
from stemsim.evaluation.stem_parts import (
    Numbering,
    StemParts,
    feature_scale,
    holm,
    part_difference_error,
    part_error,
    stem_parts,
)
from stemsim.stems import StemLayout
from stemsim.triplets import Triplets

__all__ = ["PerspectiveDifference", "PerspectiveFit", "Perspectives", "compare_perspectives"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PerspectiveFit:
    """What listeners go by when they are asked one question.

    Attributes:
        question: `overall`, `timbre`, `rhythm` or `melody`.
        triplets: Number of triplets with a majority on it.
        answers: Number of answers to them.
        part: `(stem,)` part of each stem; the squares add up to 1.
        standard_error: `(stem,)`; infinite where the triplets say nothing about a stem.
        lower: `(stem,)` lower ends of the intervals.
        upper: `(stem,)` upper ends.
        result: Cross-validation against the majority on this question.
        ceiling: How often one answer agrees with the majority of the others on this question; NaN where no triplet has
            two answers.
        share: The ridge model as a share of it; None where no triplet has two answers.
        true_part: `(stem,)` the parts that simulated listeners went by; None if they were real.
    """

    question: str
    triplets: int
    answers: int
    part: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    result: CrossValidation
    ceiling: float
    share: CeilingShare | None
    true_part: FloatArray | None

    def agreement(self, model: str) -> FloatArray | None:
        """Return the test agreement `(split,)` of a model of the cross-validation; None if there is no such model."""
        return next((scores.agreement[:, 0] for scores in self.result.models if scores.name == model), None)


@dataclass(frozen=True, slots=True)
class PerspectiveDifference:
    """How much more a stem counts for a perspective than over all.

    Attributes:
        question: The perspective.
        stem: The stem.
        value: Its part for the perspective less that over all.
        lower: Lower end of the interval.
        upper: Upper end of the interval.
        adjusted_p_value: Two-sided, of no difference, after Holm's correction for all differences looked at.
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
        source: What the triplets are.
        fits: One a question, `overall` first.
        differences: Of every stem and perspective from overall, where both can be known.
        left_out: Why a question was left out, by question.
        level: Nominal coverage of each interval by itself.
    """

    stems: StemLayout
    source: str
    fits: tuple[PerspectiveFit, ...]
    differences: tuple[PerspectiveDifference, ...]
    left_out: Mapping[str, str]
    level: float

    def frame(self) -> pd.DataFrame:
        """Return one row a question and stem: part, interval, true part, and difference from overall."""
        found = {(one.question, one.stem): one for one in self.differences}
        rows: list[dict[str, Any]] = []
        for fit in self.fits:
            for index, stem in enumerate(self.stems):
                row = {
                    "question": fit.question,
                    "stem": stem,
                    "part": fit.part[index],
                    "standard error": fit.standard_error[index],
                    "lower": fit.lower[index],
                    "upper": fit.upper[index],
                }
                if fit.true_part is not None:
                    row["true part (simulated)"] = fit.true_part[index]
                if (one := found.get((fit.question, stem))) is not None:
                    row |= {"less overall": one.value, "difference lower": one.lower, "difference upper": one.upper}
                    row["adjusted p"] = one.adjusted_p_value
                rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings and lists, ready for JSON; what is not finite becomes None."""
        rows = self.frame().to_dict("records")
        return {
            "source": self.source,
            "simulated": self.fits[0].result.simulated,
            "stems": list(self.stems),
            "level": self.level,
            "questions": {
                fit.question: {
                    "triplets": fit.triplets,
                    "answers": fit.answers,
                    "ceiling": _known(fit.ceiling),
                    "share_of_ceiling": None if fit.share is None else fit.share.share,
                    "by_stem": {
                        row["stem"]: {
                            str(name): _known(value) for name, value in row.items() if name not in {"question", "stem"}
                        }
                        for row in rows
                        if row["question"] == fit.question
                    },
                    "crossval": fit.result.to_dict(),
                }
                for fit in self.fits
            },
            "left_out": dict(self.left_out),
            "sentences": self.sentences,
        }

    @property
    def sentences(self) -> list[str]:
        """What the fits say, in plain words."""
        said = [_sentence(fit, self.stems) for fit in self.fits]
        told = [one for one in self.differences if one.adjusted_p_value < 1.0 - self.level]
        for one in sorted(told, key=lambda one: one.adjusted_p_value):
            how = "more" if one.value > 0.0 else "less"
            said.append(
                f"{one.stem} counts {how} for {one.question} than over all: {one.value:+.2f}, "
                f"{100 * self.level:g} % interval [{one.lower:.2f}, {one.upper:.2f}], Holm-adjusted p "
                f"{format_p(one.adjusted_p_value)}."
            )
        if self.differences and not told:
            said.append("No stem can be told to count differently for a perspective than over all.")
        return [*said, *(f"{question} is left out: {reason}" for question, reason in self.left_out.items())]


def compare_perspectives(
    asked: Mapping[str, tuple[Triplets, Tensor]],
    stems: StemLayout,
    *,
    count: int = 100,
    train_fraction: float = 0.7,
    kind: SplitKind = "stratified",
    alphas: Sequence[float] = ALPHAS,
    level: float = 0.95,
    seed: int = 0,
) -> Perspectives:
    """Fit stem weights to every question by itself, and make them comparable.

    Parts and intervals are those of least squares on all triplets of a question; agreement is that of ridge regression
    with the majority on the same question, on the test parts of random splits.

    Args:
        asked: By question: the triplets with a majority on it, and their stem features `(triplet, stem)`.
        stems: Stem layout of the features.
        count: Number of splits.
        train_fraction: Share of the triplets (grouped: of the tracks) to train on.
        kind: `stratified` or `grouped`.
        alphas: Ridge penalties to choose from.
        level: Nominal coverage of the intervals.
        seed: Seed of the splits.

    Returns:
        The fits side by side. A question with too few triplets is left out, with the reason.

    Raises:
        ConfigError: If the level is out of range.
        TripletError: If every question is left out because it has too few triplets.
        SplitError: If that is because its splits have empty parts.
    """
    if not 0.0 < level < 1.0:
        msg = f"The level of an interval lies in (0, 1), e.g. 0.95; got {level}."
        raise ConfigError(msg)
    scale, numbers = feature_scale(asked.values()), Numbering()
    parts: dict[str, StemParts] = {}
    fits: list[PerspectiveFit] = []
    left_out: dict[str, SplitError | TripletError] = {}
    settings: dict[str, Any] = {"count": count, "train_fraction": train_fraction, "kind": kind, "alphas": alphas}
    for question, (triplets, deltas) in asked.items():
        try:
            one = stem_parts(triplets, deltas, scale, numbers)
            result = cross_validate(deltas, triplets, stems, seed=seed, **settings)
        except (TripletError, SplitError) as error:
            left_out[question] = error
            continue
        parts[question] = one
        fits.append(_described(question, asked[question], one, result, scale=scale, level=level))
    if not fits:
        raise next(iter(left_out.values()))
    return Perspectives(
        stems=tuple(stems),
        source=next(iter(asked.values()))[0].source,
        fits=tuple(fits),
        differences=_differences(parts, stems, level),
        left_out={question: str(error) for question, error in left_out.items()},
        level=level,
    )


def _described(
    question: str,
    asked: tuple[Triplets, Tensor],
    parts: StemParts,
    result: CrossValidation,
    *,
    scale: FloatArray,
    level: float,
) -> PerspectiveFit:
    """Return the fit to one question with its intervals, ceiling and truth."""
    triplets, deltas = asked
    error, tracks = part_error(parts)
    reach = float(student_t.ppf(0.5 + 0.5 * level, tracks - 1)) * error
    true_part = None
    if triplets.true_weights is not None:
        true_part = np.array(list(triplets.true_weights.values())) * scale
        true_part = true_part / (np.linalg.norm(true_part) or 1.0)
    return PerspectiveFit(
        question=question,
        triplets=len(triplets),
        answers=int(triplets.votes.sum()),
        part=parts.part,
        standard_error=error,
        lower=parts.part - reach,
        upper=parts.part + reach,
        result=result,
        ceiling=human_ceiling(triplets.votes),
        share=_share(result, triplets, deltas, level),
        true_part=true_part,
    )


def _share(result: CrossValidation, triplets: Triplets, deltas: Tensor, level: float) -> CeilingShare | None:
    """Return the ridge model as a share of the ceiling, over the triplets that any split tested."""
    ridge = next(model for model in result.models if model.name == "ridge")
    credit, tested = held_out_credit(result, ridge, deltas, triplets)
    try:
        return share_of_ceiling(credit[tested], triplets.votes[tested], level=level, simulated=triplets.simulated)
    except TripletError:  # nobody answered twice
        return None


def _differences(parts: Mapping[str, StemParts], stems: StemLayout, level: float) -> tuple[PerspectiveDifference, ...]:
    """Compare every perspective with overall, stem by stem."""
    if "overall" not in parts:
        return ()
    found: list[tuple[str, str, float, float, float]] = []
    p_values: list[float] = []
    for question, one in parts.items():
        if question == "overall":
            continue
        error, tracks = part_difference_error(one, parts["overall"])
        tail = float(student_t.ppf(0.5 + 0.5 * level, tracks - 1))
        for index in np.flatnonzero(np.isfinite(error)):
            value = float(one.part[index] - parts["overall"].part[index])
            reach = tail * float(error[index])
            found.append((question, stems[index], value, value - reach, value + reach))
            p_values.append(float(2.0 * student_t.sf(abs(value) / error[index], tracks - 1)) if error[index] else 1.0)
    adjusted = holm(np.array(p_values))
    return tuple(PerspectiveDifference(*one, float(p_value)) for one, p_value in zip(found, adjusted, strict=True))


def _sentence(fit: PerspectiveFit, stems: StemLayout) -> str:
    """Say what listeners go by on one question, and how far a model gets."""
    parts = [
        f"{stems[index]} {fit.part[index]:.2f} [{fit.lower[index]:.2f}, {fit.upper[index]:.2f}]"
        for index in np.argsort(-np.abs(fit.part))
        if fit.lower[index] > 0.0 or fit.upper[index] < 0.0
    ]
    agreed = fit.agreement("ridge")
    reached = "" if agreed is None else f"; ridge agrees on {100 * np.nanmean(agreed):.1f} %"
    ceiling = f", one listener with the others on {100 * fit.ceiling:.1f} %" if np.isfinite(fit.ceiling) else ""
    return f"{fit.question}: {', '.join(parts) or 'no stem can be told to count'}{reached}{ceiling}."


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
