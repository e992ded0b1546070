"""Why two pieces are similar: what each stem adds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stemsim.errors import ConfigError
from stemsim.stems import StemLayout

__all__ = ["Explanation", "SilentIn"]

SilentIn = Literal["a", "b", "both"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The similarity of two inputs A and B, stem by stem (paper, section 3.4: similarity = sum_i w_i cos_i).

    Attributes:
        stems: Stem layout, in order.
        similarity: Sum of the contributions; higher is closer.
        weights: Weight of each stem.
        cosines: Cosine similarity of each stem, in [-1, 1]; 0 where it is silent in either input.
        contributions: Weight times cosine of each stem.
        silent: The stems that are silent, and in which of the two inputs.
    """

    stems: StemLayout
    similarity: float
    weights: Mapping[str, float]
    cosines: Mapping[str, float]
    contributions: Mapping[str, float]
    silent: Mapping[str, SilentIn]

    def __post_init__(self) -> None:
        """Verify that every stem has its figures."""
        for values in (self.weights, self.cosines, self.contributions):
            if tuple(values) != self.stems or not set(self.silent) <= set(self.stems):
                msg = f"An explanation of {', '.join(self.stems)} got figures of {', '.join(values) or 'no stem'}."
                raise ConfigError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain lists and dictionaries, for JSON for instance."""
        return {**asdict(self), "stems": list(self.stems)}

    def __str__(self) -> str:
        lines = [f"similarity {self.similarity:.3f}", f"{'stem':<10}{'weight':>8}{'cosine':>8}{'contribution':>14}"]
        for stem in self.stems:
            cosine = "-" if stem in self.silent else f"{self.cosines[stem]:.3f}"
            lines.append(f"{stem:<10}{self.weights[stem]:>8.3f}{cosine:>8}{self.contributions[stem]:>14.3f}")
            if stem in self.silent:
                lines[-1] += f"   silent in {self.silent[stem]}"
        return "\n".join(lines)
