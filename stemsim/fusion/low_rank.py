"""Low-rank metric for each stem, on the embeddings themselves."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from stemsim.errors import ConfigError
from stemsim.fusion.base import MOST_UNITS, StemPairs, WeightedFusion, prepared

_LEAST_STRETCH: Final = 1e-12  # of a squared norm: a vector that the metric nearly removes has no direction left


class LowRankFusion(WeightedFusion):
    """Weighted sum of cosines under a metric: similarity = sum_i w_i <M_i x, M_i y> / (|M_i x| |M_i y|).

    M_i = I + A_i B_i^T with A_i and B_i `(dim, rank)`: a metric of low rank as in Weinberger and Saul ("Distance metric
    learning for large margin nearest neighbor classification", JMLR 10, 2009), learned as a correction of the identity
    (Hu et al., "LoRA", arXiv:2106.09685); B_i = 0 is the linear fusion. A few hundred triplets carry no information on
    most of hundreds of dimensions: A_i and B_i lie in the span of the `components` directions along which the stem's
    embeddings are longest in the training pairs, and A_i starts as the first `rank` of these, which B_i can weaken or
    strengthen.

    Args:
        stems: Stem layout, in order.
        rank: Rank of A_i B_i^T.
        components: Number of directions that the metric can use.
        smoothing: Cost of the sum of squared entries of A_i B_i^T, over all stems.
    """

    basis: Tensor
    within: Tensor

    def __init__(self, stems: Sequence[str], rank: int = 4, components: int = 16, smoothing: float = 0.03) -> None:
        super().__init__(stems, smoothing)
        if not 1 <= rank <= components <= MOST_UNITS:
            raise ConfigError(
                f"Expected a rank of at least 1, and no fewer components, at most {MOST_UNITS}; got {rank} and "
                f"{components}."
            )
        self.rank = rank
        self.components = components
        count = len(self.stems)
        first = torch.eye(components, rank, dtype=torch.float64)
        self.left = nn.Parameter(first.repeat(count, 1, 1))  # (stem, component, rank): A in the basis
        self.right = nn.Parameter(torch.zeros(count, components, rank, dtype=torch.float64))  # B
        # Orthonormal vectors, `(stem, dim, component)`.
        self.register_buffer("basis", torch.zeros(count, 0, components, dtype=torch.float64))
        self.register_buffer("within", torch.ones(components, dtype=torch.float64))  # 0: a component too many for dim

    def observe(self, pairs: StemPairs) -> None:
        """Find the directions along which each stem's embeddings are longest in the mean of squares."""
        vectors = torch.cat([pairs.query.vectors, pairs.candidate.vectors])  # (segment, stem, dim); silent ones are 0
        _, directions = torch.linalg.eigh(torch.einsum("nsd,nse->sde", vectors, vectors))  # of ascending length
        kept = torch.linalg.qr(directions.flip(2)[:, :, : self.components].double())[0]  # orthonormal in float64 too
        self.basis = nn.functional.pad(kept, (0, self.components - kept.shape[2])).contiguous()
        self.within = (torch.arange(self.components) < kept.shape[2]).double()

    def prepare(self, pairs: StemPairs) -> Tensor:
        """Return the coordinates of both segments in the basis, `(stem, 2, batch, component)`.

        Raises:
            ConfigError: If there is no basis yet, or it belongs to embeddings of another size.
        """
        dim = pairs.query.vectors.shape[2]
        if self.basis.shape[1] != dim:
            seen = f"embeddings of size {self.basis.shape[1]}" if self.basis.shape[1] else "no embeddings yet"
            raise ConfigError(
                f"The fusion was fitted to {seen}; got embeddings of size {dim}. Use the encoder of the fit, or call "
                "`observe` with pairs of segments first."
            )
        both = torch.stack([pairs.query.vectors, pairs.candidate.vectors])  # (2, batch, stem, dim)
        return torch.einsum("knsd,sdc->sknc", both.double(), self.basis).contiguous()

    def fuse(self, pairs: StemPairs) -> Tensor:
        """Return weight times the cosine under the metric of each stem, `(batch, stem)`."""
        coordinates = prepared(pairs)  # (stem, 2, batch, component)
        left = self.left * self.within.unsqueeze(1)
        # With p = A^T x and q = B^T x, <Mx, My> = <x, y> + p_x q_y + q_x p_y + q_x A^T A q_y: half of the last goes to
        # each of the two before it.
        sides = torch.cat([left + 0.5 * self.right @ (left.mT @ left), self.right], dim=2)
        projected = (coordinates.flatten(1, 2) @ sides).unflatten(1, coordinates.shape[1:3])  # type: ignore[no-untyped-call]
        p, q = projected.chunk(2, dim=3)  # (stem, 2, batch, rank) each
        inner = pairs.cosines + (p * q.flip(1)).sum(dim=(1, 3)).T
        stretch = (1.0 + 2.0 * (p * q).sum(dim=3)).clamp(min=_LEAST_STRETCH)  # |Mx|^2 and |My|^2, (stem, 2, batch)
        norm = (stretch[:, 0] * stretch[:, 1]).sqrt().T
        return torch.where(pairs.sounding, self.weight * inner / norm, 0.0)

    def roughness(self) -> Tensor:
        """Return the sum of squared entries of A_i B_i^T, times `smoothing`."""
        left = self.left * self.within.unsqueeze(1)
        return self.smoothing * (left.mT @ left * (self.right.mT @ self.right)).sum()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the size of the embeddings from a checkpoint."""
        saved = state_dict.get(f"{prefix}basis")
        if saved is not None and saved.shape[::2] == self.basis.shape[::2]:
            self.basis = self.basis.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
