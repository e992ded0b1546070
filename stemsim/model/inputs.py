"""Inputs of `StemSimilarity`: files, segments, waveforms and stem embeddings, one or many."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemsim.audio import Segment
from stemsim.errors import AudioError, ConfigError, EmbeddingError
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

Waveform = tuple[Tensor | npt.NDArray[np.floating[Any]], int]
Input = str | Path | Segment | Waveform | StemEmbeddings
Inputs = Input | Sequence[str] | Sequence[Path] | Sequence[Segment] | Sequence[Waveform]

_EXPECTED: Final = (
    "the path of an audio file, a Segment, a tuple (waveform, sample_rate), StemEmbeddings, or a list of one of the "
    "first three"
)


@dataclass(frozen=True, slots=True, eq=False)
class ParsedInputs:
    """One verified argument, of one of three kinds; `single` is False for a batch."""

    single: bool
    segments: tuple[Segment, ...] = ()
    waveforms: tuple[tuple[Tensor, int], ...] = ()  # `(channel, time)` float32 on the CPU, sample rates in Hz
    embeddings: StemEmbeddings | None = None

    def __len__(self) -> int:
        if self.embeddings is not None:
            return len(self.embeddings.vectors)
        return len(self.segments) + len(self.waveforms)


def parse_inputs(inputs: object, stems: StemLayout, dim: int) -> ParsedInputs:
    """Verify one argument of `StemSimilarity`, given the stems and the dimension of stem embeddings.

    A tuple that starts with a waveform is one input, not a batch.

    Raises:
        ConfigError: If it is something else, or a list of several kinds.
        AudioError: If a waveform has a wrong shape or type, is empty or not finite, or has no valid sample rate.
        EmbeddingError: If stem embeddings belong to another model.
        DataNotFoundError: If a file is missing.
    """
    if isinstance(inputs, StemEmbeddings):
        _check_embeddings(inputs, stems, dim)
        return ParsedInputs(single=len(inputs.vectors) == 1, embeddings=inputs)
    single = _is_item(inputs)
    if not single and not isinstance(inputs, list | tuple):
        hint = " A waveform needs its sample rate beside it." if isinstance(inputs, Tensor | np.ndarray) else ""
        raise ConfigError(f"Expected {_EXPECTED}; got {_kind(inputs)}.{hint}")
    items: Sequence[Any] = [inputs] if single else inputs  # type: ignore[assignment]
    if not all(map(_is_item, items)) or len(set(map(_is_waveform, items))) > 1:
        kinds = ", ".join(dict.fromkeys(map(_kind, items)))
        raise ConfigError(f"Expected {_EXPECTED}; got a list of {kinds}. Embed each kind, and pass the embeddings.")
    if items and _is_waveform(items[0]):
        return ParsedInputs(single, waveforms=tuple(map(_waveform, items)))
    segments = (item if isinstance(item, Segment) else Segment.whole(Path(item)) for item in items)
    return ParsedInputs(single, segments=tuple(segments))


def _is_item(value: object) -> bool:
    return isinstance(value, str | Path | Segment) or _is_waveform(value)


def _is_waveform(value: object) -> bool:
    """Distinguish a tuple that starts with a waveform, whatever follows, from a tuple of several inputs."""
    is_tuple = isinstance(value, tuple) and not isinstance(value, StemEmbeddings)
    return is_tuple and bool(value) and isinstance(value[0], Tensor | np.ndarray)  # type: ignore[index]


def _waveform(item: tuple[Any, ...]) -> tuple[Tensor, int]:
    """Return a verified waveform `(channel, time)` and its sample rate."""
    samples, *rates = item
    if len(rates) != 1 or type(rates[0]) is bool or not isinstance(rates[0], int | np.integer) or rates[0] <= 0:
        raise AudioError(f"A waveform comes as (waveform, sample_rate), a positive integer in Hz; got {tuple(rates)}.")
    floating = samples.is_floating_point() if isinstance(samples, Tensor) else samples.dtype.kind == "f"
    if not floating:
        raise AudioError(f"Expected a waveform of floats, got {samples.dtype}. Divide 16-bit integers by 32768.")
    if isinstance(samples, Tensor):
        waveform = samples.detach().to("cpu", torch.float32)
    else:
        waveform = torch.from_numpy(np.array(samples, dtype=np.float32, order="C"))
    shape = tuple(waveform.shape)
    waveform = waveform.unsqueeze(0) if waveform.ndim == 1 else waveform
    if waveform.ndim != 2 or not waveform.numel() or waveform.shape[0] > waveform.shape[1]:  # noqa: PLR2004 - a matrix
        raise AudioError(
            f"Expected a waveform (time,) or (channel, time) with at least one sample, got the shape {shape}. "
            "Transpose it if it is (time, channel), as soundfile reads it."
        )
    if not torch.isfinite(waveform).all():
        raise AudioError(f"A waveform of shape {shape} holds NaN or infinite samples. Render it again.")
    return waveform, int(rates[0])


def _check_embeddings(embeddings: StemEmbeddings, stems: StemLayout, dim: int) -> None:
    """Verify that stem embeddings belong to the model's stems and encoder, as far as their shapes show it."""
    batch = len(embeddings.vectors) if embeddings.vectors.ndim else 0
    expected = ((batch, len(stems), dim), (batch, len(stems)), (batch, len(stems)))
    seen = tuple(tuple(tensor.shape) for tensor in embeddings)
    if seen != expected:
        raise EmbeddingError(
            f"Expected stem embeddings of {', '.join(stems)} with vectors (n, {len(stems)}, {dim}) and levels and "
            f"present (n, {len(stems)}); got {', '.join(map(str, seen))}. Embed them with this model's `embed`."
        )
    if not torch.isfinite(embeddings.vectors).all():
        raise EmbeddingError("Stem embeddings hold NaN or infinity. Embed them again.")


def _kind(value: object) -> str:
    return "waveforms with sample rates" if _is_waveform(value) else type(value).__name__
