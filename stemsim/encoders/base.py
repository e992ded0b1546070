"""The interface of encoders, and the common part of pretrained ones that embed audio and text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from stemsim.errors import ConfigError
from stemsim.pretrained.loading import load_strictly, read_checkpoint
from stemsim.pretrained.precision import Precision, autocast, check_precision


class Encoder(nn.Module, ABC):
    """A frozen map from mono waveforms `(batch, time)` to unit vectors `(batch, dim)`.

    `train()` leaves an encoder in evaluation mode. Subclasses set the attributes below and implement `forward`; those
    that also embed text override `encode_text`.

    Attributes:
        sample_rate: Sample rate of its input in Hz.
        dim: Length of its vectors.
        identity: Name, checkpoint hash and every option that changes numbers. Part of the key of a stored embedding.
        min_duration: Shortest waveform it accepts, in seconds.
    """

    sample_rate: int
    dim: int
    identity: str
    min_duration: float = 0.0

    @abstractmethod
    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)`, floats nominally in [-1, 1], as unit vectors `(batch, dim)`."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions such as "warm analog bass" as unit vectors `(len(texts), dim)` in the audio's space.

        Raises:
            ConfigError: If this encoder does not embed text.
        """
        text = f"the text {list(texts)!r}. Use LaionClap or MuQMuLan."
        raise ConfigError(f"The encoder {self.identity!r} embeds audio only, so it cannot embed {text}")

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: an encoder is frozen."""
        del mode
        return super().train(mode=False)


class AudioTextEncoder(Encoder):
    """A pretrained encoder that averages the windows of a clip, and loads its text half when text is first embedded."""

    _prefix = ""  # of the names of the tensors in the checkpoint

    def __init__(self, weights: str, path: Path, text: str, precision: Precision) -> None:
        super().__init__()
        self.weights = weights
        self.precision = check_precision(precision)
        self._path = path
        self._text = text
        self._embed_text: Callable[[list[str]], Tensor] | None = None

    def _state(self, *parts: str) -> dict[str, Tensor]:
        """Return the tensors in the checkpoint of some parts of the model."""
        state = {name.removeprefix(self._prefix): tensor for name, tensor in read_checkpoint(self._path).state.items()}
        return {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}

    def _filled(self, state: dict[str, Tensor], **parts: nn.Module) -> nn.ModuleDict:
        """Fill parts of the model with the tensors that bear their names, and freeze them."""
        half = nn.ModuleDict(parts)
        # `position_ids` is a buffer of old versions of transformers that only holds 0, 1, 2, ...
        kept = {name: tensor for name, tensor in state.items() if not name.endswith(".position_ids")}
        load_strictly(half, kept, str(self._path))
        return half.requires_grad_(requires_grad=False).eval()

    @abstractmethod
    def _windows(self, waveforms: Tensor) -> Tensor:
        """Cut waveforms `(batch, time)` into the windows `(batch, window, time)` that the model takes."""

    @abstractmethod
    def _embed(self, windows: Tensor) -> Tensor:
        """Embed windows `(n, time)` as vectors `(n, dim)` of any norm."""

    @abstractmethod
    def _load_text_half(self) -> Callable[[list[str]], Tensor]:
        """Return a function from texts to vectors `(len(texts), dim)` of any norm."""

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)` as unit vectors `(batch, dim)`."""
        windows = self._windows(waveforms.float())
        batch, count, _ = windows.shape
        with autocast(windows.device, self.precision):
            parts = [self._embed(part) for part in torch.split(windows.flatten(0, 1), batch)]
        vectors = normalize(torch.cat(parts).float(), dim=1)  # (batch * window, dim)
        return vectors if count == 1 else normalize(vectors.reshape(batch, count, -1).mean(dim=1), dim=1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions as unit vectors `(len(texts), dim)`; the first call loads the text half."""
        if not texts:
            return torch.zeros(0, self.dim)
        if self._embed_text is None:
            self._embed_text = self._load_text_half()
        return normalize(self._embed_text(list(texts)), dim=1)
