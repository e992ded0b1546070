"""Linear fusion, the paper's: a weighted sum."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from stemsim.errors import ConfigError
from stemsim.fusion.base import StemPairs, WeightedFusion


class LinearFusion(WeightedFusion):
    """Bias-free weighted sum of per-stem cosines: similarity = sum_i w_i cos_i (paper, section 3.4).

    Args:
        stems: Stem layout, in order.
        nonnegative: Allow no negative weights: w = v^2, with v learned.
    """

    def __init__(self, stems: Sequence[str], nonnegative: bool = False) -> None:
        super().__init__(stems)
        self.nonnegative = nonnegative
        if nonnegative:  # stays at ones: at v = 0 the gradient vanishes
            parametrize.register_parametrization(self, "weight", _Square())
        else:
            # Least squares is convex: zeros are as good a start as any, and leave a stem that never sounds at zero.
            nn.init.zeros_(self.weight)

    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return weight times cosine of each stem, `(batch, stem)`."""
        return self.weight * pairs.cosines

    def start_from(self, weights: Tensor) -> None:
        """Set the weights `(stem,)`, none of which is negative where none may be."""
        if self.nonnegative and bool((weights < 0.0).any()):
            raise ConfigError(f"Expected nonnegative weights for {', '.join(self.stems)}; got {weights.tolist()}.")
        super().start_from(weights)


class _Square(nn.Module):
    """Maps a free vector to nonnegative weights."""

    def forward(self, root: Tensor) -> Tensor:
        return root.square()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.sqrt()
