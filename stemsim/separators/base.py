"""Sources of stems: the interface, separators that compute stems from the mix, and the mix alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from stemsim.audio import Segment, downmix, fit_length, is_finite, read_audio, resample, to_channels
from stemsim.errors import AudioError, EmbeddingError
from stemsim.stems import StemLayout


class StemSource(ABC):
    """A source of the stems of segments, as mono waveforms.

    Attributes:
        stems: Stem layout of the result.
        identity: Name, checkpoint hash and every option that changes numbers. Part of the key of a stored embedding.
    """

    stems: StemLayout
    identity: str

    @abstractmethod
    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Return the mono stems `(segment, stem, time)` of segments of equal duration, at `sample_rate` Hz.

        Each has `round(duration * sample_rate)` samples; a stem that a song lacks is all zeros.
        """

    def content_hash(self, segment: Segment) -> str:
        """Return a hash of all bytes that the stems of this segment depend on."""
        return segment.content_hash

    def check_unchanged(self, segment: Segment, content: str) -> None:
        """Raise an `AudioError` if the stems of a segment were read while their files changed from a content hash."""
        if self.content_hash(segment) != content:
            raise AudioError(f"{segment.path} changed while it was being read. Run this again when it is complete.")

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device; sources without a model, or quick on a CPU, stay where they are."""
        del device
        return self


class Separator(StemSource):
    """A source that computes stems from the mix. Subclasses set the attributes and implement `__call__`.

    Attributes:
        sample_rate: Sample rate of its input and output in Hz; None if it works at any rate.
        channels: Number of channels of its input; None if it takes any number.
    """

    sample_rate: int | None
    channels: int | None

    @abstractmethod
    def __call__(self, waveforms: Tensor) -> Tensor:
        """Separate waveforms `(batch, channel, time)` at `sample_rate` into `(batch, stem, channel, time)`."""

    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Read segments of equal duration and separate them in one batch: mono stems `(segment, stem, time)`."""
        rate = self.sample_rate or sample_rate
        heard = (read_audio(segment.path, segment.start, segment.duration) for segment in segments)
        clips = [self._prepared(waveform, own, rate, segments[0].duration) for waveform, own in heard]
        return self._to_mono(self(torch.stack(clips)), rate, sample_rate, segments)

    def separate(self, waveforms: Tensor, rate: int, sample_rate: int) -> Tensor:
        """Separate waveforms `(batch, channel, time)` at `rate` Hz into mono stems `(batch, stem, time)`.

        The stems have `round(duration * sample_rate)` samples, at `sample_rate` Hz.
        """
        own = self.sample_rate or sample_rate
        segment = Segment(Path("waveform"), 0.0, waveforms.shape[-1] / rate)  # for the length and for messages
        prepared = self._prepared(waveforms, rate, own, segment.duration)
        return self._to_mono(self(prepared), own, sample_rate, [segment] * len(waveforms))

    def _prepared(self, waveform: Tensor, rate: int, own: int, duration: float) -> Tensor:
        """Convert a waveform `(..., channel, time)` to the channels, the rate and the exact length of the input."""
        mixed = to_channels(waveform, self.channels or 1)  # one if any will do: stems become mono in the end
        return fit_length(resample(mixed, rate, own), round(duration * own))

    def _to_mono(self, stems: Tensor, rate: int, sample_rate: int, segments: Sequence[Segment]) -> Tensor:
        """Verify stems `(segment, stem, channel, time)` at `rate`, downmix and resample them to `sample_rate`."""
        expected = (len(segments), len(self.stems), round(segments[0].duration * rate))
        seen = (*stems.shape[:2], stems.shape[-1]) if stems.ndim == 4 else None  # noqa: PLR2004 - see `stems`
        if seen != expected or not is_finite(stems):
            raise EmbeddingError(
                f"Expected finite stems (segment={expected[0]}, stem={expected[1]}, channel, time={expected[2]}) from "
                f"the separator {self.identity!r}; got shape {tuple(stems.shape)}, or NaN or infinite samples. The "
                f"first segment was {segments[0]}. Check the separator's weights and precision."
            )
        mono = resample(downmix(stems), rate, sample_rate)
        return fit_length(mono, round(segments[0].duration * sample_rate))


class MixOnly(Separator):
    """No separation: the mix as the only stem, for the cosine baseline of the paper (section 3.2)."""

    stems = ("mix",)
    identity = "none"
    sample_rate = None
    channels = None

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Return `(batch, 1, channel, time)`."""
        return waveforms.unsqueeze(1)
