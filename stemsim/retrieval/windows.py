"""Windows: how files are cut into items, and how windows are embedded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.audio import LEVEL_FLOOR, Segment, read_audio
from stemsim.embedding import StemEmbedder
from stemsim.embedding.embedder import Heard
from stemsim.errors import ConfigError
from stemsim.separators import Separator
from stemsim.similarity import StemEmbeddings

_TAIL: Final = 0.25  # of a window: a shorter rest of a file is left out
_TOLERANCE: Final = 1e-5  # seconds: 80 s of 5 s windows are 16, in spite of rounding
_STEP: Final = 0.1  # seconds, to a multiple of which short clips are padded with silence


@dataclass(frozen=True, slots=True)
class Windowing:
    """Length and hop of the windows that files are cut into, in seconds."""

    length: float = 5.0  # a shorter file, such as a one-shot, is one item
    hop: float | None = None  # from one window's start to the next; None: `length`, so that windows do not overlap

    def __post_init__(self) -> None:
        """Verify that windows have a length and go forward."""
        if not all(math.isfinite(value) and value > 0.0 for value in (self.length, self.step)):
            raise ConfigError(f"Windows need a length and a hop above 0 s; got {self.length} s and {self.hop} s.")
        if self.step > self.length:
            raise ConfigError(
                f"With a hop of {self.hop} s windows of {self.length} s leave parts of a file out. "
                "Choose a hop no longer than the window."
            )

    @property
    def step(self) -> float:
        """From one window's start to the next, in seconds."""
        return self.length if self.hop is None else self.hop

    def spans(self, duration: float) -> list[tuple[float, float]]:
        """Cut a duration in seconds into windows; one shorter than a window is a single span.

        A rest at the end of a quarter of a window or more is covered by one more window, which ends where the file does
        and so overlaps the one before it.

        Returns:
            Start and length of each window in seconds, in order.
        """
        if duration <= self.length * (1.0 + _TAIL):
            return [(0.0, min(duration, self.length))]
        count = int((duration - self.length + _TOLERANCE) / self.step) + 1
        starts = [number * self.step for number in range(count)]
        if duration - (starts[-1] + self.length) >= _TAIL * self.length:
            starts.append(duration - self.length)
        return [(start, self.length) for start in starts]

    def padded(self, duration: float, shortest: float) -> float:
        """Return the duration to which a clip shorter than a window is padded with silence before it is embedded.

        That is at least the shortest duration that the encoder takes, and otherwise at most a tenth of a second longer,
        so that clips of equal duration can be embedded in one batch. A full window is never padded.
        """
        if duration >= self.length and duration >= shortest:
            return duration
        steps = math.ceil(max(duration, shortest) / _STEP - 1e-6)  # 0.3 s are three tenths, in spite of rounding
        return max(duration, steps * _STEP)


def padding_group(segment: Segment, embedder: StemEmbedder, windowing: Windowing) -> tuple[float, bool]:
    """Return what windows of one batch have in common: their duration in seconds, and whether they are padded to it."""
    duration, shortest = round(segment.duration, 6), embedder.encoder.min_duration
    if duration == round(windowing.length, 6) and duration >= shortest:
        return duration, False
    if not isinstance(embedder.source, Separator):
        return segment.duration, False  # stems that come from files are taken as they are
    return round(windowing.padded(segment.duration, shortest), 6), True


def embed_windows(
    segments: Sequence[Segment], embedder: StemEmbedder, windowing: Windowing, *, heard: Heard | None = None
) -> StemEmbeddings:
    """Embed windows of one `padding_group` in one batch; `heard` is called with their stems, padding included.

    Returns:
        Stem embeddings `(window, stem, dim)`; the levels are those of the windows without padding.
    """
    padded, is_padded = padding_group(segments[0], embedder, windowing)
    if not is_padded:
        return embedder.embed_batch(segments, heard=heard)
    clips = [_read_padded(segment, padded) for segment in segments]
    embedded = embedder.embed_waveforms(clips, heard=heard and (lambda _, stems: heard(segments, stems)))
    durations = torch.tensor([segment.duration for segment in segments])
    levels = embedded.levels + 10.0 * torch.log10(padded / durations).unsqueeze(1)
    return embedded._replace(levels=torch.where(embedded.levels > LEVEL_FLOOR, levels, embedded.levels))


def _read_padded(segment: Segment, duration: float) -> tuple[Tensor, int]:
    waveform, rate = read_audio(segment.path, segment.start, segment.duration)
    missing = max(0, round(duration * rate) - waveform.shape[-1])
    return functional.pad(waveform, (0, missing)), rate
