"""Where stems come from: a separator that computes them, or files that hold them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from stemsim.audio import Segment, downmix, is_finite, read_audio, resample, to_channels
from stemsim.errors import EmbeddingError
from stemsim.stems import StemLayout

__all__ = ["Separator", "StemSource"]


class StemSource(ABC):
    """Gives the stems of segments as mono waveforms, whatever way it has to them.

    Attributes:
        stems: The stem layout of what it gives.
        identity: Name, checkpoint hash and every option that changes numbers. Part of the key of a stored embedding.
    """

    stems: StemLayout
    identity: str

    @abstractmethod
    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Return the stems of segments of equal duration.

        Args:
            segments: Segments that last equally long.
            sample_rate: Rate of the result in Hz.

        Returns:
            Mono stems `(segment, stem, time)` with `round(duration * sample_rate)` samples; a stem that a song lacks
            is all zeros.
        """

    def content_hash(self, segment: Segment) -> str:
        """Return a hash of all bytes that the stems of this segment depend on."""
        return segment.content_hash

    def to(self, device: str | torch.device) -> Self:
        """Move what computes to a device; sources that only read files, or are quick on a CPU, stay where they are."""
        del device
        return self


class Separator(StemSource):
    """Separates waveforms `(batch, channel, time)` into stems `(batch, stem, channel, time)`.

    Subclasses set the attributes and implement `__call__`.

    Attributes:
        sample_rate: Rate of the waveforms it takes and gives, in Hz; None if it works at any rate.
        channels: Number of channels it takes; None if it takes any.
    """

    sample_rate: int | None
    channels: int | None

    @abstractmethod
    def __call__(self, waveforms: Tensor) -> Tensor:
        """Separate a batch of waveforms.

        Args:
            waveforms: `(batch, channel, time)` at `sample_rate`.

        Returns:
            Stems `(batch, stem, channel, time)` in the order of `stems`.
        """

    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Read the segments, separate them in one batch, downmix and resample the stems."""
        rate = self.sample_rate or sample_rate
        waveforms = torch.stack([self._load(segment, rate) for segment in segments])
        return self.to_mono(self(waveforms), rate, sample_rate, segments)

    def separate(self, waveforms: Tensor, rate: int, sample_rate: int) -> Tensor:
        """Return the stems of waveforms in memory.

        Args:
            waveforms: `(batch, channel, time)` at `rate`.
            rate: Their sample rate in Hz.
            sample_rate: Rate of the result in Hz.

        Returns:
            Mono stems `(batch, stem, time)` with `round(duration * sample_rate)` samples.
        """
        duration = waveforms.shape[-1] / rate
        own = self.sample_rate or sample_rate
        taken = fit_length(resample(self._with_channels(waveforms), rate, own), round(duration * own))
        segment = Segment(Path("waveform"), 0.0, duration)  # for the length and for messages
        return self.to_mono(self(taken), own, sample_rate, [segment] * len(waveforms))

    def to_mono(self, stems: Tensor, rate: int, sample_rate: int, segments: Sequence[Segment]) -> Tensor:
        """Verify what a separator gave, downmix and resample it.

        Args:
            stems: `(segment, stem, channel, time)` at `rate`.
            rate: Sample rate of the stems in Hz.
            sample_rate: Rate of the result in Hz.
            segments: What was separated.

        Returns:
            Mono stems `(segment, stem, time)`.

        Raises:
            EmbeddingError: If the shape is another one, or a sample is not finite.
        """
        expected = (len(segments), len(self.stems), round(segments[0].duration * rate))
        if stems.ndim != 4 or (*stems.shape[:2], stems.shape[-1]) != expected:  # noqa: PLR2004 - see `stems`
            msg = (
                f"The separator {self.identity!r} returned shape {tuple(stems.shape)} for {expected[0]} segments, "
                f"{expected[1]} stems and {expected[2]} samples. The first segment was {segments[0]}."
            )
            raise EmbeddingError(msg)
        if not is_finite(stems):
            msg = (
                f"The separator {self.identity!r} returned NaN or infinite samples. The first segment was "
                f"{segments[0]}. Check its weights and precision."
            )
            raise EmbeddingError(msg)
        mono = resample(downmix(stems), rate, sample_rate)
        return fit_length(mono, round(segments[0].duration * sample_rate))

    def _load(self, segment: Segment, rate: int) -> Tensor:
        """Return the segment's waveform `(channel, time)` as the separator takes it."""
        waveform, file_rate = read_audio(segment.path, segment.start, segment.duration)
        resampled = resample(self._with_channels(waveform), file_rate, rate)
        return fit_length(resampled, round(segment.duration * rate))

    def _with_channels(self, waveform: Tensor) -> Tensor:
        """Give a waveform the channels that the separator takes; stems are downmixed in the end."""
        return to_channels(waveform, 1 if self.channels is None else self.channels)


def fit_length(waveform: Tensor, time: int) -> Tensor:
    """Cut a waveform, or fill it with zeros, to an exact number of samples.

    Two roundings of one duration at two rates may differ by a sample, and some encoders (CLAP) answer 240 001 samples
    quite otherwise than 240 000.

    Args:
        waveform: `(..., old_time)`.
        time: Number of samples wanted.

    Returns:
        Waveform `(..., time)`.
    """
    missing = time - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, missing)) if missing else waveform
