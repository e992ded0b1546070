"""No separation: the mix alone."""

from torch import Tensor

from stemsim.separators.base import Separator

__all__ = ["MixOnly"]


class MixOnly(Separator):
    """Gives the mix as the only stem: the cosine baseline of the paper (section 3.2)."""

    stems = ("mix",)
    identity = "none"
    sample_rate = None
    channels = None

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Return `(batch, 1, channel, time)`."""
        return waveforms.unsqueeze(1)
