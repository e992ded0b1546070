"""What every encoder is: a frozen module from mono waveforms to unit vectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from stemsim.errors import ConfigError

__all__ = ["Encoder"]


class Encoder(nn.Module, ABC):
    """A frozen map from mono waveforms `(batch, time)` to unit vectors `(batch, dim)`.

    An encoder never trains: its parameters need no gradient, and `train()` leaves it in evaluation mode. Subclasses set
    the four attributes below and implement `forward`; those that also know text override `encode_text`.

    Attributes:
        sample_rate: Rate of the waveforms it takes, in Hz.
        dim: Length of its vectors.
        identity: Name, checkpoint hash and every option that changes numbers. Part of the key of a stored embedding.
        min_duration: Shortest waveform it describes, in seconds.
    """

    sample_rate: int
    dim: int
    identity: str
    min_duration: float = 0.0

    @abstractmethod
    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms.

        Args:
            waveforms: `(batch, time)` at `sample_rate`, floats nominally in [-1, 1].

        Returns:
            Unit vectors `(batch, dim)`.
        """

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions in words into the space of the audio.

        Args:
            texts: Descriptions such as "warm analog bass".

        Returns:
            Unit vectors `(len(texts), dim)`.

        Raises:
            ConfigError: If this encoder knows no text.
        """
        msg = f"The encoder {self.identity!r} has no text tower, so it cannot embed {list(texts)!r}."
        raise ConfigError(msg)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: an encoder is frozen."""
        del mode
        return super().train(mode=False)
