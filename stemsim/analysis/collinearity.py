"""Collinearity diagnostics: variance inflation and condition number of the stem features."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from stemsim.stems import StemLayout
from stemsim.triplets.table import FloatArray

INFLATION_LIMIT: Final = 10.0
"""Variance inflation from which stems count as collinear: the weight is as unsure as with a tenth of the triplets."""

_LINKED: Final = 0.8  # correlation of two weights' errors from which one is known only together with the other
_UNKNOWN: Final = 1e10  # inflation beyond which rounding decides


@dataclass(frozen=True, slots=True, eq=False)
class Collinearity:
    """Collinearity of the stem features of triplets.

    Attributes:
        inflation: `(stem,)` variance inflation factor; 1 at best, infinite where a stem is a sum of the others, NaN
            where it is silent, or equal in both candidates, in every triplet.
        condition: Condition number of the features, each scaled to unit length; 1 at best.
        correlation: `(stem, stem)` cosine between the features of two stems; NaN where one is silent.
        groups: Groups of two or more stems whose weights cannot be estimated separately.
    """

    stems: StemLayout
    inflation: FloatArray
    condition: float
    correlation: FloatArray
    groups: tuple[tuple[str, ...], ...]

    @property
    def silent(self) -> tuple[str, ...]:
        """The stems whose feature is 0 in every triplet."""
        return tuple(stem for stem, value in zip(self.stems, self.inflation, strict=True) if np.isnan(value))

    @property
    def sentence(self) -> str:
        """The diagnosis in plain words."""
        said = [self._about(group) for group in self.groups]
        if self.silent:
            subject = f"{_listed(self.silent)} {'is' if len(self.silent) == 1 else 'are'}"
            said.append(f"{subject} silent, or equal in both candidates, in all triplets: no weight can be learned.")
        alone = [
            f"{stem} is nearly a weighted sum of other stems (variance inflation {_factor(value)})."
            for stem, value in zip(self.stems, self.inflation, strict=True)
            if value >= INFLATION_LIMIT and not any(stem in group for group in self.groups)
        ]
        if not said + alone:
            worst = int(np.argmax(self.inflation))
            return (
                f"All weights can be estimated separately on these triplets: the largest variance inflation is "
                f"{self.inflation[worst]:.1f} ({self.stems[worst]}), the condition number {self.condition:.1f}."
            )
        return " ".join(said + alone)

    def _about(self, group: tuple[str, ...]) -> str:
        rows = [self.stems.index(stem) for stem in group]
        worst = _factor(float(self.inflation[rows].max()))
        start = f"The weights of {_listed(group)} cannot be estimated separately on these triplets: "
        if len(group) == 2:  # noqa: PLR2004 - a pair
            cosine = float(self.correlation[rows[0], rows[1]])
            known = "sum" if cosine > 0.0 else "difference"
            return (
                f"{start}their similarity differences correlate at {cosine:+.2f} (variance inflation {worst}), so "
                f"that only the {known} of their weights is well known."
            )
        return (
            f"{start}each is nearly a weighted sum of the others (variance inflation up to {worst}), so that only "
            "their joint contribution is well known."
        )


def collinearity(deltas: Tensor, stems: StemLayout) -> Collinearity:
    """Diagnose collinear stem features `(triplet, stem)`.

    The model has no intercept, so nothing is centred: with the Gram matrix G of the features, the variance inflation of
    stem i is G_ii (G^-1)_ii = 1 / (1 - R_i^2), R_i^2 being the share of its squares that the other stems explain; the
    condition number is that of the features scaled to unit length (Belsley, Kuh and Welsch, Regression Diagnostics,
    1980, chapter 3). Stems with an inflation of at least `INFLATION_LIMIT` whose weights' errors correlate by at least
    0.8 are one group: a near dependency v makes G^-1 nearly v v^T, so that errors of all stems in it correlate by +-1.
    """
    rows = deltas.double().numpy()
    length = np.linalg.norm(rows, axis=0)
    heard = np.flatnonzero(length > 1e-12 * max(float(length.max(initial=0.0)), 1e-300))
    count = len(stems)
    inflation, correlation = np.full(count, np.nan), np.full((count, count), np.nan)
    groups: tuple[tuple[str, ...], ...] = ()
    condition = 1.0
    if len(heard):
        scaled = rows[:, heard] / length[heard]
        singular, vectors = np.linalg.svd(np.linalg.qr(scaled, mode="r"), full_matrices=True)[1:]
        singular = np.pad(singular, (0, len(heard) - len(singular)))  # fewer triplets than stems
        condition = float(singular[0] / singular[-1]) if singular[-1] > 1e-10 * singular[0] else np.inf
        inverse = (vectors.T / np.square(singular.clip(min=1e-9 * singular[0]))) @ vectors
        factors = np.diag(inverse)
        correlation[np.ix_(heard, heard)] = scaled.T @ scaled
        inflation[heard] = np.where(factors > _UNKNOWN, np.inf, factors)
        errors, affected = np.abs(inverse / np.sqrt(np.outer(factors, factors))), factors >= INFLATION_LIMIT
        number, label = connected_components((errors >= _LINKED) & np.outer(affected, affected), directed=False)
        members = [tuple(stems[row] for row in heard[label == which]) for which in range(number)]
        groups = tuple(group for group in members if len(group) > 1)
    return Collinearity(tuple(stems), inflation, condition, correlation, groups)


def _listed(names: tuple[str, ...]) -> str:
    """Join names to a list in words."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _factor(value: float) -> str:
    return "without bound" if np.isinf(value) else f"{value:.0f}"
