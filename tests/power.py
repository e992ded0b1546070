import torch

from stemsim.fusion import StemPairs, WeightedFusion


class PowerFusion(WeightedFusion):
    """Similarity = sum_i w_i cos_i |cos_i|^p_i: where p_i > 0, a stem counts only if it is much alike.

    Args:
        stems: Stem layout, in order; it comes from the separator.
        smoothing: Cost of the squared powers; without evidence they stay 0, which is the linear model.
    """

    def __init__(self, stems: list[str], smoothing: float = 0.01) -> None:
        super().__init__(stems)  # makes self.weight, which a fit starts at the best linear weights
        self.smoothing = smoothing
        self.power = torch.nn.Parameter(torch.zeros(len(stems), dtype=torch.float64))

    def fuse(self, pairs: StemPairs) -> torch.Tensor:
        """Return what each stem adds to the similarity, (batch, stem); a silent one has cosine 0."""
        return self.weight * pairs.cosines * pairs.cosines.abs().clamp(min=1e-6) ** self.power

    def roughness(self) -> torch.Tensor:
        """Return what departing from the linear model costs, in units of the loss."""
        return self.smoothing * self.power.square().sum()
