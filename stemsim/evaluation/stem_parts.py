"""Stem weights of different fits made comparable: the part that each stem has in a preference.

Weights of different fits have no common unit, as votes say which candidate is closer and not by how much. The *part* of
stem i is its weight times the root mean square s_i of its stem feature, divided by the norm of all such products: what
the stem typically moves the preference by, whatever the noise of the answers. The squares of all parts add up to 1.

Standard errors carry those of least squares over to the parts (delta method). They count every pair of triplets that
share a track once, with residuals over 1 - leverage (HC3), as `stemsim.evaluation.inference.cluster_intervals` does.
Several fits may be about the same triplets and listeners: a difference of parts is one sum over triplets, in which
errors that the fits have in common cancel.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stemsim.errors import TripletError
from stemsim.evaluation.pigeonhole import shared_variance
from stemsim.triplets import Triplets

__all__ = ["Numbering", "StemParts", "feature_scale", "holm", "part_difference_error", "part_error", "stem_parts"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_FEWEST_TRACKS = 3  # of one triplet


class Numbering:
    """Numbers segments and tracks alike in all tables."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def of(self, names: Sequence[Hashable]) -> IntArray:
        """Return the number of each name; equal names have equal numbers."""
        return np.array([self._known.setdefault(name, len(self._known)) for name in names], dtype=np.int64)

    def questions(self, triplets: Triplets) -> IntArray:
        """Return what tells a triplet from others: segments and instrument, `(triplet, 4)`."""
        segments = self.of(triplets.segments)
        roles = [segments[role] for role in (triplets.x, triplets.a, triplets.b)]
        return np.stack([*roles, self.of(triplets.instrument.tolist())], axis=1)

    def tracks(self, triplets: Triplets) -> IntArray:
        """Return the tracks of X, A and B, `(triplet, 3)`."""
        return self.of(triplets.tracks)[np.stack([triplets.x, triplets.a, triplets.b], axis=1)]


@dataclass(frozen=True, slots=True, eq=False)
class StemParts:
    """Parts of the stems in one fit, and how each triplet errs in them.

    Attributes:
        part: `(stem,)`; the squares add up to 1.
        influence: `(triplet, stem)` what each triplet adds to the error of the parts.
        open: `(stem,)` whether the triplets say nothing about a stem: it never sounds, or always like others.
        question: `(triplet, 4)` which triplet it is, in numbers that all tables share.
        tracks: `(triplet, 3)` the tracks of X, A and B, in numbers that all tables share.
    """

    part: FloatArray
    influence: FloatArray
    open: BoolArray
    question: IntArray
    tracks: IntArray


def feature_scale(tables: Iterable[tuple[Triplets, Tensor]]) -> FloatArray:
    """Return the root mean square of each stem feature over the distinct triplets of some tables.

    Args:
        tables: Triplets and their stem features `(triplet, stem)`.

    Returns:
        `(stem,)`; 0 for a stem that never sounds.

    Raises:
        TripletError: If there are no triplets.
    """
    numbers, rows, features = Numbering(), [], []
    for triplets, deltas in tables:
        rows.append(numbers.questions(triplets))
        features.append(deltas.double().numpy())
    if not sum(map(len, rows)):
        msg = "There are no triplets to compare. Loosen the filter: min_agreement, min_votes, test_type."
        raise TripletError(msg)
    _, first = np.unique(np.concatenate(rows), axis=0, return_index=True)
    scale: FloatArray = np.sqrt(np.square(np.concatenate(features)[first]).mean(axis=0))
    return scale


def stem_parts(triplets: Triplets, deltas: Tensor, scale: FloatArray, numbers: Numbering) -> StemParts:
    """Fit least squares to the majorities of a table, and make the weights parts.

    Args:
        triplets: The triplets, each with a majority.
        deltas: `(triplet, stem)` their stem features.
        scale: `(stem,)` root mean square of the features, one for all tables that are compared.
        numbers: Numbers of segments and tracks, one for all tables that are compared.

    Returns:
        The parts; of stems that cannot be told apart, those of the shortest solution.

    Raises:
        TripletError: If there are too few triplets or tracks, or all weights are 0.
    """
    tracks = numbers.tracks(triplets)
    (count, stems), heard = deltas.shape, len(np.unique(tracks))
    if count <= stems or heard < _FEWEST_TRACKS:
        msg = (
            f"Errors of {stems} weights need more than {stems} triplets, of at least {_FEWEST_TRACKS} tracks; got "
            f"{count} triplets of {heard} tracks."
        )
        raise TripletError(msg)
    rows = np.divide(deltas.double().numpy(), scale, out=np.zeros((count, stems)), where=scale > 0.0)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    known = values > max(stems * count * np.finfo(np.float64).eps * values[-1], 1e-300)  # as in solve_ridge
    inverse = (vectors * np.divide(1.0, values, out=np.zeros(stems), where=known)) @ vectors.T
    target = triplets.target()
    weights = inverse @ (rows.T @ target)
    length = float(np.linalg.norm(weights))
    if length == 0.0:
        msg = f"All stem weights are 0 for {triplets.source}: no stem differs between A and B, or none ever sounds."
        raise TripletError(msg)
    leverage = np.einsum("ts,sr,tr->t", rows, inverse, rows)
    residual = (target - rows @ weights) / (1.0 - leverage).clip(min=1e-6)
    part = weights / length
    return StemParts(
        part=part,
        influence=(rows * residual[:, None]) @ inverse @ (np.eye(stems) - np.outer(part, part)) / length,
        open=np.square(vectors[:, ~known]).sum(axis=1) > 1e-9,  # noqa: PLR2004 - rounding
        question=numbers.questions(triplets),
        tracks=tracks,
    )


def part_error(parts: StemParts) -> tuple[FloatArray, int]:
    """Return the standard error of each part.

    Args:
        parts: Of one fit.

    Returns:
        `(stem,)` standard errors, infinite where the triplets say nothing about a stem; and the number of tracks.
    """
    error, count = _error(parts.question, parts.tracks, parts.influence)
    return np.where(parts.open, np.inf, error), count


def part_difference_error(first: StemParts, second: StemParts) -> tuple[FloatArray, int]:
    """Return the standard error of each part of one fit less that of another.

    Args:
        first: Of one fit.
        second: Of another one, with the same scale and numbers.

    Returns:
        `(stem,)` standard errors, infinite where the triplets say nothing about a stem; and the number of tracks.
    """
    error, count = _error(
        np.concatenate([first.question, second.question]),
        np.concatenate([first.tracks, second.tracks]),
        np.concatenate([first.influence, -second.influence]),
    )
    return np.where(first.open | second.open, np.inf, error), count


def holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values `(test,)` for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    Returns:
        `(test,)`; calling those under 0.05 discoveries, there is a chance of at most 0.05 that any of them is false.
    """
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1.0)
    return adjusted


def _error(question: IntArray, tracks: IntArray, influence: FloatArray) -> tuple[FloatArray, int]:
    """Return the standard error `(stem,)` of a sum over triplets, of which some have two rows; and the tracks."""
    _, first, place = np.unique(question, axis=0, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), influence.shape[1]))
    np.add.at(sums, place.reshape(-1), influence)
    count = len(np.unique(tracks))
    return np.sqrt(shared_variance(sums, [tracks[first]]).robust * count / (count - 1.0)), count
