"""Routing: which stem of the query is compared with which stem of the library, and with which weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.stems import StemLayout

if TYPE_CHECKING:
    from stemsim.fusion import Fusion

_LEAST, _MOST = 1e-6, 1e6  # beyond, similarities are rounded to nothing, or overflow in an engine
_SYNTAX: Final = (
    "Write sliders as drums=1,bass=0.5; a stem of the query against another one of the library as drums:mix=1; a stem "
    "alone as drums; or a preset, learned or equal, which entries after it change: learned,drums=2"
)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """Weights W of pairs of stems: similarity(q, d) = sum_ij W_ij cos(q_i, d_j).

    As cosines of unit vectors are inner products, any W folds into the query: block j of the folded query is
    sum_i W_ij q_i, and its inner product with the concatenated stored vectors d_1 ... d_S is the similarity. So one
    stored matrix serves all weights, exactly. A silent stem is a block of zeros and adds nothing.

    Attributes:
        stems: Stem layout of query and library.
        matrix: `(query stem, library stem)` weights, float64. The sliders are its diagonal.
        fusion: Nonlinear fusion that ranks the best items of the weighted sum again; None: the weighted sum decides.
    """

    stems: StemLayout
    matrix: Tensor
    fusion: "Fusion | None" = None

    def __post_init__(self) -> None:
        """Verify the shape, and that weights are finite, not all zero and of a sensible size."""
        size = len(self.stems)
        if self.matrix.shape != (size, size) or self.matrix.dtype != torch.float64:
            raise ConfigError(
                f"Routing between {', '.join(self.stems)} needs weights ({size}, {size}) in float64; got "
                f"{tuple(self.matrix.shape)} in {self.matrix.dtype}."
            )
        largest = float(self.matrix.abs().amax())
        if not _LEAST <= largest <= _MOST:  # NaN is not
            seen = "all 0" if largest == 0.0 else f"a largest of {largest:g}"
            raise ConfigError(
                f"Weights must be finite, one of them other than 0, and the largest from {_LEAST:g} to {_MOST:g} in "
                f"size; got {seen}. {_SYNTAX}."
            )

    @classmethod
    def sliders(cls, stems: StemLayout, weights: Mapping[str, float]) -> Self:
        """Compare each stem with the same stem; a stem without a weight has weight 0."""
        return cls.pairs_of(stems, {(stem, stem): weight for stem, weight in weights.items()})

    @classmethod
    def equal(cls, stems: StemLayout) -> Self:
        """Compare each stem with the same stem, all with weight 1."""
        return cls.sliders(stems, dict.fromkeys(stems, 1.0))

    @classmethod
    def pairs_of(cls, stems: StemLayout, weights: Mapping[tuple[str, str], float]) -> Self:
        """Compare pairs of stems, given weights by stem of the query and stem of the library."""
        matrix = torch.zeros(len(stems), len(stems), dtype=torch.float64)
        for pair, weight in weights.items():
            if unknown := [stem for stem in pair if stem not in stems]:
                raise ConfigError(f"There is no stem {unknown[0]!r} here, but {', '.join(stems)}. {_SYNTAX}.")
            query, library = map(stems.index, pair)
            matrix[query, library] = weight
        return cls(tuple(stems), matrix)

    @classmethod
    def parse(cls, text: str, stems: StemLayout, learned: Mapping[str, float] | None = None) -> Self:
        """Read weights as written on the command line.

        Args:
            text: Comma-separated entries: `drums=1`, `drums:mix=0.5` (stem of the query:stem of the library), a stem or
                pair alone with weight 1; or first of all a preset, `learned` or `equal`, that the entries change.
            stems: Stem layout.
            learned: Weights of the preset `learned`; None if there are none.

        Raises:
            ConfigError: If it cannot be read, or there are no learned weights.

        Example:
            >>> Routing.parse("drums:mix=2,bass", ("bass", "drums", "mix")).pairs
            (('bass', 'bass', 1.0), ('drums', 'mix', 2.0))
        """
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        weights: dict[tuple[str, str], float] = {}
        for number, entry in enumerate(entries):
            if entry in {"learned", "equal"} and number == 0:
                preset = learned if entry == "learned" else dict.fromkeys(stems, 1.0)
                if not preset:
                    raise ConfigError("This library has no learned weights. Make it with --model, or name weights.")
                weights = {(stem, stem): float(weight) for stem, weight in preset.items()}
                continue
            names, _, value = entry.partition("=")
            query, colon, library = (part.strip() for part in names.partition(":"))
            try:
                weights[query, library if colon else query] = float(value) if "=" in entry else 1.0
            except ValueError as error:
                raise ConfigError(f"The weight in {entry!r} is not a finite number. {_SYNTAX}.") from error
        if not weights:
            raise ConfigError(f"No weights in {text!r}. {_SYNTAX}.")
        return cls.pairs_of(stems, weights)

    @property
    def pairs(self) -> tuple[tuple[str, str, float], ...]:
        """Stem of the query, stem of the library and weight of each pair whose weight is not 0."""
        return tuple(
            (query, library, weight)
            for query, row in zip(self.stems, self.matrix.tolist(), strict=True)
            for library, weight in zip(self.stems, row, strict=True)
            if weight
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The pairs as `drums` or `drums:mix` (query:library)."""
        return tuple(query if query == library else f"{query}:{library}" for query, library, _ in self.pairs)

    @property
    def text(self) -> str:
        """The weights as `parse` reads them."""
        return ",".join(f"{name}={pair[2]:g}" for name, pair in zip(self.names, self.pairs, strict=True))

    def fold(self, vectors: Tensor) -> Tensor:
        """Fold queries `(..., stem, dim)` to `(..., stem * dim)` float64, whose inner product is the similarity."""
        blocks = torch.einsum("ij,...id->...jd", self.matrix, vectors.double())
        return blocks.flatten(start_dim=-2)

    def contributions(self, query: Tensor, items: Tensor) -> Tensor:
        """Return the contribution of each pair of stems to the similarity of a query `(stem, dim)` and some items.

        Returns:
            `(item, pair)` float64, in the order of `pairs`; they sum to the similarity.
        """
        rows, columns = self.matrix.nonzero().unbind(1)
        cosines = torch.einsum("pd,npd->np", query.double()[rows], items.double()[:, columns])
        return self.matrix[rows, columns] * cosines
