"""Demucs v4 (Rouard et al., ICASSP 2023, arXiv:2211.08553) as a separator."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from stemsim.audio import Segment, audio_info, read_audio, resample, to_channels
from stemsim.errors import ConfigError
from stemsim.pretrained import locate
from stemsim.pretrained.precision import Precision, autocast, check_precision, precision_suffix
from stemsim.separators.base import Separator, fit_length
from stemsim.separators.demucs_loading import load_htdemucs
from stemsim.stems import STEMS

__all__ = ["Demucs"]

Context = Literal["none", "neighbours", "file"]

_OVERLAP: Final = 0.25  # of a chunk with the next, as upstream
_EPSILON: Final = 1e-8  # added to the standard deviation, as upstream
_CHUNKS_KEPT: Final = 8  # of the file at hand: 16 MB each with six sources


class Demucs(Separator):
    """Demucs v4: `htdemucs` gives the 4-stem layout, `htdemucs_6s` the 6-stem layout; `other` is called `residuals`.

    As upstream with `shifts=0`, which makes it deterministic: each clip is normalised by mean and deviation of its
    channels' mean, which is undone afterwards, so that the levels between stems are kept; clips longer than a chunk
    (7.8 s) are separated in chunks that overlap by a quarter. Nothing is written to disk.

    Args:
        model: `htdemucs`, `htdemucs_6s`, or a folder with such a model: `NAME.yaml` and the `.safetensors` or `.th`
            file that it names; or one such file alone.
        context: What lies around a segment shorter than a chunk. `none`: zeros, as in the paper. `neighbours`: what the
            file holds there, at no cost. `file`: the file is separated once, in overlapping chunks, and the segments
            are cut out of the result; best for windows that cover whole songs.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
        batch_size: Most chunks separated at once; null is one on a CPU, where more gain nothing, and all that are asked
            for on a GPU.
    """

    channels = 2
    sample_rate: int

    def __init__(
        self,
        model: str = "htdemucs",
        context: Context = "none",
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        if context not in {"none", "neighbours", "file"} or (batch_size is not None and batch_size < 1):
            msg = (
                "`context` is none, neighbours or file, and `batch_size` is at least 1, or null; got "
                f"{context!r} and {batch_size}."
            )
            raise ConfigError(msg)
        self.model = model
        self.context: Context = context
        self.precision = check_precision(precision)
        self.batch_size = batch_size
        self._model, sources, digest = load_htdemucs(locate(model))
        self.stems = tuple(stem for stem in STEMS if stem in sources or stem == "mix")
        self._order = [sources.index(stem) for stem in self.stems[:-1]]
        self.sample_rate = int(self._model.samplerate)
        self._chunk = int(self._model.segment * self.sample_rate)
        self.identity = f"demucs-v1({digest},context={context}{precision_suffix(self.precision)})"
        self._at_hand = threading.local()  # the file that this thread separates

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self._model.parameters()).device
        return device

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device."""
        self._model.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor) -> Tensor:
        """Separate `(batch, 2, time)` into `(batch, stem, 2, time)` on the CPU, each clip on its own."""
        mean, deviation = _scale(waveforms)
        sources = self._separate((waveforms - mean) / deviation, 0, waveforms.shape[-1])
        return self._with_mix(sources * deviation.unsqueeze(1) + mean.unsqueeze(1), waveforms)

    @torch.inference_mode()
    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Read and separate segments of equal duration: mono stems `(segment, stem, time)` at `sample_rate` Hz."""
        if self.context == "none":
            return super().read(segments, sample_rate)
        stems = torch.stack([self._in_context(segment) for segment in segments])
        return self.to_mono(stems, self.sample_rate, sample_rate, segments)

    def _in_context(self, segment: Segment) -> Tensor:
        """Separate a segment among what lies around it in its file: `(stem, 2, time)`."""
        track = self._track(segment.path)
        start, time = round(segment.start * self.sample_rate), round(segment.duration * self.sample_rate)
        mix = fit_length(track.waveform[..., start : start + time], time)
        if self.context == "file":
            sources = self._cut(track, start, time)
        else:
            sources = self._separate(track.normalised, start, time)
        return self._with_mix(sources * track.deviation.unsqueeze(1) + track.mean.unsqueeze(1), mix)[0]

    def _separate(self, normalised: Tensor, start: int, time: int) -> Tensor:
        """Separate a stretch of normalised tracks `(batch, 2, length)` into `(batch, source, 2, time)`."""
        spans = [(start + offset, length) for offset, length in _spans(time, self._chunk)]
        heard = torch.stack([_heard(normalised, *span, self._chunk) for span in spans], dim=1)
        outputs = self._run(heard.flatten(0, 1))
        outputs = outputs.reshape(*heard.shape[:2], *outputs.shape[1:])  # (batch, chunk, source, 2, chunk length)
        chunks = {span: outputs[:, index] for index, span in enumerate(spans)}
        return _overlap_add(chunks, start, time, self._chunk)

    def _cut(self, track: "_Track", start: int, time: int) -> Tensor:
        """Cut `(1, source, 2, time)` out of the separation of a whole file, chunk by chunk as they are needed.

        The result is that of upstream on the whole file, which is never in memory as a whole.
        """
        spans = [
            (offset, length)
            for offset, length in _spans(track.waveform.shape[-1], self._chunk)
            if offset < start + time and start < offset + length
        ]
        missing = [span for span in spans if span not in track.chunks]
        if missing:
            outputs = self._run(torch.cat([_heard(track.normalised, *span, self._chunk) for span in missing]))
            track.chunks.update((span, output.unsqueeze(0)) for span, output in zip(missing, outputs, strict=True))
        result = _overlap_add({span: track.chunks[span] for span in spans}, start, time, self._chunk)
        while len(track.chunks) > max(_CHUNKS_KEPT, len(spans)):
            track.chunks.popitem(last=False)
        return result

    def _run(self, chunks: Tensor) -> Tensor:
        """Apply the model to chunks `(n, 2, chunk)`: `(n, source, 2, chunk)`."""
        size = self.batch_size or (1 if self.device.type == "cpu" else len(chunks))
        outputs = []
        for part in torch.split(chunks, size):
            with autocast(self.device, self.precision):
                outputs.append(self._model(part.to(self.device)).float().cpu())
        return torch.cat(outputs)

    def _with_mix(self, sources: Tensor, mix: Tensor) -> Tensor:
        """Put sources `(batch, source, 2, time)` into the order of the stem layout, and the mix last."""
        return torch.cat([sources[:, self._order], mix.unsqueeze(1)], dim=1)

    def _track(self, path: Path) -> "_Track":
        """Return a whole file at the model's rate; the last one is kept."""
        audio_info(path)  # says what is wrong with a file that is not there
        stat = path.stat()
        version = (path, stat.st_size, stat.st_mtime_ns)
        track: _Track | None = getattr(self._at_hand, "track", None)
        if track is None or track.version != version:
            waveform, rate = read_audio(path, 0.0, audio_info(path).duration)
            track = _Track(version, resample(to_channels(waveform, 2), rate, self.sample_rate).unsqueeze(0))
            self._at_hand.track = track
        return track


class _Track:
    """A whole file while its segments are separated.

    Args:
        version: What changes when the file does.
        waveform: `(1, 2, length)` at the model's rate.
    """

    def __init__(self, version: tuple[Any, ...], waveform: Tensor) -> None:
        self.version = version
        self.waveform = waveform
        self.mean, self.deviation = _scale(waveform)
        self.normalised = (waveform - self.mean) / self.deviation
        self.chunks: OrderedDict[tuple[int, int], Tensor] = OrderedDict()  # (offset, length): (1, source, 2, chunk)


def _scale(waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `(batch, 1, 1)` of the channels' mean."""
    reference = waveforms.mean(dim=1, keepdim=True)
    return reference.mean(dim=2, keepdim=True), reference.std(dim=2, keepdim=True) + _EPSILON


def _spans(time: int, chunk: int) -> list[tuple[int, int]]:
    """Return offset and length in samples of the overlapping chunks that cover a stretch."""
    return [(offset, min(chunk, time - offset)) for offset in range(0, time, int((1 - _OVERLAP) * chunk))]


def _heard(track: Tensor, offset: int, length: int, chunk: int) -> Tensor:
    """Return what the model hears of a span: the span in the middle of a full chunk `(batch, 2, chunk)`.

    Around a span shorter than a chunk lies what the track holds there, and zeros beyond its ends.
    """
    start = offset - (chunk - length) // 2
    inside = track[..., max(start, 0) : max(start + chunk, 0)]
    left = max(-start, 0)
    return pad(inside, (left, chunk - left - inside.shape[-1]))


def _overlap_add(chunks: dict[tuple[int, int], Tensor], start: int, time: int, chunk: int) -> Tensor:
    """Average what chunks say of a stretch, each with a weight that falls from its middle to its ends.

    Args:
        chunks: By offset and length of their spans, `(batch, source, 2, chunk)`, the span in the middle.
        start: First sample of the stretch.
        time: Its length.
        chunk: Length of a full chunk.

    Returns:
        `(batch, source, 2, time)`.
    """
    middle = chunk // 2
    triangle = torch.cat([torch.arange(1, middle + 1), torch.arange(chunk - middle, 0, -1)])
    triangle = triangle / triangle.max()
    first = next(iter(chunks.values()))
    total = first.new_zeros(*first.shape[:3], time)
    weights = torch.zeros(time)
    for (offset, length), output in chunks.items():
        margin = (chunk - length) // 2
        begin, end = max(offset, start), min(offset + length, start + time)
        inside = slice(begin - offset, end - offset)
        weight = triangle[:length][inside]
        total[..., begin - start : end - start] += weight * output[..., margin : margin + length][..., inside]
        weights[begin - start : end - start] += weight
    # A segment may end after its file does, by less than a sample of rounding.
    return total / torch.where(weights > 0.0, weights, 1.0)
