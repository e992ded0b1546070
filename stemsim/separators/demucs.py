"""Demucs v4 (Rouard et al., ICASSP 2023, arXiv:2211.08553) as a separator."""

import hashlib
import inspect
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from stemsim.audio import Segment, fit_length, read_audio, resample, to_channels
from stemsim.audio.files import file_version
from stemsim.documents import read_yaml
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained import locate
from stemsim.pretrained.loading import load_strictly, read_checkpoint, state_hash
from stemsim.pretrained.precision import Precision, autocast, check_precision, precision_suffix
from stemsim.separators.base import Separator
from stemsim.stems import STEMS

_log = logging.getLogger(__name__)

Context = Literal["none", "neighbours", "file"]
Span = tuple[int, int]  # offset and length in samples

_OVERLAP: Final = 0.25  # of a chunk with the next, as upstream
_CHUNKS_KEPT: Final = 8  # of the current file: 16 MB each with six sources
_SUFFIXES: Final = (".safetensors", ".th")
_ALIASES: Final = {"other": "residuals"}


class Demucs(Separator):
    """Demucs v4: `htdemucs` gives the 4-stem layout, `htdemucs_6s` the 6-stem layout; `other` is called `residuals`.

    Equal to upstream with `shifts=0`, which makes it deterministic: each clip is normalised by the mean and standard
    deviation of its downmix, which is undone afterwards, so that the levels between stems are kept; clips longer than
    a chunk (7.8 s) are separated in chunks that overlap by a quarter. Nothing is written to disk.

    On a CPU, the environment variables `MALLOC_ARENA_MAX=1`, `MALLOC_MMAP_MAX_=0`, `MALLOC_TRIM_THRESHOLD_=2147483647`
    and `MALLOC_TOP_PAD_=268435456` let glibc keep its memory, which saves about a fifth of the time.

    Args:
        model: `htdemucs`, `htdemucs_6s`, or a folder with such a model: `NAME.yaml` and the `.safetensors` or `.th`
            file that it names; or one such file alone.
        context: Audio around a segment that is shorter than a chunk. `none`: zeros, as in the paper. `neighbours`: the
            audio of the file around it, at no cost. `file`: the file is separated once, in overlapping chunks, and the
            segments are cut out of the result; best for windows that cover whole songs.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
        batch_size: Maximum number of chunks separated at once. null: one on a CPU, where more gain nothing, and all of
            them on a GPU.

    Raises:
        ConfigError: If an option is out of range, the package demucs is missing, or the folder holds several models.
        DataNotFoundError: If a file does not exist.
        CheckpointError: If a file is damaged or holds another kind of model.
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
            expected = "`context` must be none, neighbours or file, and `batch_size` at least 1 or null"
            raise ConfigError(f"{expected}; got {context!r} and {batch_size}.")
        self.model = model
        self.context: Context = context
        self.precision = check_precision(precision)
        self.batch_size = batch_size
        self._model, digest = _load(locate(model))
        sources = [_ALIASES.get(source, source) for source in self._model.sources]
        self.stems = tuple(stem for stem in STEMS if stem in sources or stem == "mix")
        self._order = [sources.index(stem) for stem in self.stems[:-1]]
        self.sample_rate = int(self._model.samplerate)
        self._chunk = int(self._model.segment * self.sample_rate)
        self.identity = f"demucs-v1({digest},context={context}{precision_suffix(self.precision)})"
        self._current = threading.local()  # the file that this thread separates

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device."""
        self._model.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor) -> Tensor:
        """Separate `(batch, 2, time)` into `(batch, stem, 2, time)` on the CPU, each clip on its own."""
        time = waveforms.shape[-1]
        return self._separate(_Track(waveforms), _spans(0, time, self._chunk), 0, time)

    @torch.inference_mode()
    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Read and separate segments of equal duration: mono stems `(segment, stem, time)` at `sample_rate` Hz."""
        if self.context == "none":
            return super().read(segments, sample_rate)
        stems = torch.stack([self._in_context(segment) for segment in segments])
        return self._to_mono(stems, self.sample_rate, sample_rate, segments)

    def _in_context(self, segment: Segment) -> Tensor:
        """Separate a segment together with the audio around it in its file: `(stem, 2, time)`.

        With the context `file` the result equals upstream's on the whole file, which is never in memory as a whole.
        """
        track = self._track(segment.path)
        start, time = round(segment.start * self.sample_rate), round(segment.duration * self.sample_rate)
        if self.context == "file":
            whole = _spans(0, track.waveform.shape[-1], self._chunk)
            spans = [(at, length) for at, length in whole if at < start + time and start < at + length]
        else:
            spans = _spans(start, time, self._chunk)
        return self._separate(track, spans, start, time)[0]

    def _separate(self, track: "_Track", spans: list[Span], start: int, time: int) -> Tensor:
        """Separate a stretch of a track into `(batch, stem, 2, time)`, from the outputs of the given spans."""
        kept = track.chunks
        if missing := [span for span in spans if span not in kept]:
            inputs = torch.stack([_input(track.normalised, *span, self._chunk) for span in missing], dim=1)
            outputs = self._run(inputs.flatten(0, 1))
            outputs = outputs.reshape(*inputs.shape[:2], *outputs.shape[1:])  # (batch, span, source, 2, chunk)
            kept.update(zip(missing, outputs.unbind(1), strict=True))
        sources = _overlap_add({span: kept[span] for span in spans}, start, time, self._chunk)
        while len(kept) > max(_CHUNKS_KEPT, len(spans)):
            del kept[next(iter(kept))]  # the oldest
        sources = sources * track.deviation.unsqueeze(1) + track.mean.unsqueeze(1)
        mix = fit_length(track.waveform[..., start : start + time], time)
        return torch.cat([sources[:, self._order], mix.unsqueeze(1)], dim=1)

    def _run(self, chunks: Tensor) -> Tensor:
        """Apply the model to chunks `(n, 2, chunk)`: `(n, source, 2, chunk)`."""
        device = next(self._model.parameters()).device
        outputs = []
        for part in torch.split(chunks, self.batch_size or (1 if device.type == "cpu" else len(chunks))):
            with autocast(device, self.precision):
                outputs.append(self._model(part.to(device)).float().cpu())
        return torch.cat(outputs)

    def _track(self, path: Path) -> "_Track":
        """Return a whole file at the model's rate; each thread keeps the last one."""
        version = file_version(path)
        if getattr(self._current, "version", None) != version:
            waveform, rate = read_audio(path)
            self._current.track = _Track(resample(to_channels(waveform, 2), rate, self.sample_rate).unsqueeze(0))
            self._current.version = version
        return cast("_Track", self._current.track)


class _Track:
    """Clips, or one whole file, `(batch, 2, length)` at the model's rate while stretches of them are separated."""

    def __init__(self, waveform: Tensor) -> None:
        self.waveform = waveform
        reference = waveform.mean(dim=1, keepdim=True)
        self.mean = reference.mean(dim=2, keepdim=True)  # (batch, 1, 1), as the deviation
        self.deviation = reference.std(dim=2, keepdim=True) + 1e-8  # as upstream
        self.normalised = (waveform - self.mean) / self.deviation
        self.chunks: dict[Span, Tensor] = {}  # outputs of the last spans, (batch, source, 2, chunk) each


def _spans(start: int, time: int, chunk: int) -> list[Span]:
    """Return the overlapping spans, up to a chunk long, that cover a stretch."""
    return [(start + at, min(chunk, time - at)) for at in range(0, time, int((1 - _OVERLAP) * chunk))]


def _input(track: Tensor, offset: int, length: int, chunk: int) -> Tensor:
    """Return the model's input `(batch, 2, chunk)` for a span, which lies in the middle of it.

    A span shorter than a chunk is surrounded by the audio of the track, and by zeros beyond its ends.
    """
    start = offset - (chunk - length) // 2
    inside = track[..., max(start, 0) : max(start + chunk, 0)]
    left = max(-start, 0)
    return pad(inside, (left, chunk - left - inside.shape[-1]))


def _overlap_add(chunks: dict[Span, Tensor], start: int, time: int, chunk: int) -> Tensor:
    """Average chunks `(batch, source, 2, chunk)` over a stretch, with weights that fall from the middle to the ends."""
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


def _load(path: Path) -> tuple[Any, str]:
    """Load a frozen Hybrid Transformer Demucs from any of upstream's file layouts; return it and its hash."""
    try:
        from demucs.htdemucs import HTDemucs
    except ImportError as error:
        raise ConfigError(f"Demucs needs the package demucs ({error}): pip install 'stemsim[models]'.") from error
    file, segment = _weights_file(path)
    checkpoint = read_checkpoint(file)
    metadata = checkpoint.metadata
    seen, expected = metadata.get("klass", "model of no stated class"), "demucs.htdemucs.HTDemucs"
    if seen != expected:
        models = "htdemucs or htdemucs_6s, or a model of your own of that class"
        raise CheckpointError(f"{file} holds a {seen}, expected {expected}: {models}.")
    known = inspect.signature(HTDemucs).parameters
    settings = {name: value for name, value in metadata["kwargs"].items() if name in known}
    if dropped := sorted(set(metadata["kwargs"]) - set(settings)):
        _log.warning("%s: ignored settings that this version of demucs does not know: %s.", file, dropped)
    try:
        model = HTDemucs(*metadata["args"], **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"{file} describes a model that cannot be built ({error}). Download it again.") from error
    load_strictly(model, checkpoint.state, str(file))
    if segment is not None and segment <= model.segment:
        model.segment = segment
    if unknown := [source for source in model.sources if _ALIASES.get(source, source) not in STEMS[:-1]]:
        raise CheckpointError(
            f"{file} separates {', '.join(unknown)}, expected only {', '.join(STEMS[:-1])} (or other)."
        )
    return model.requires_grad_(requires_grad=False).eval(), state_hash(checkpoint.state)


def _weights_file(path: Path) -> tuple[Path, float | None]:
    """Return the file with the weights, and the length of a chunk in seconds if the description sets one."""
    if path.suffix in _SUFFIXES:
        return path, None
    bags = [path] if path.suffix == ".yaml" else sorted(path.glob("*.yaml"))
    alone = [file for suffix in _SUFFIXES for file in sorted(path.glob(f"*{suffix}"))]
    if not bags and len({file.stem for file in alone}) == 1:
        return alone[0], None
    if len(bags) != 1:
        raise (ConfigError if bags else DataNotFoundError)(
            f"{path} has {len(bags)} models ({', '.join(bag.name for bag in bags)}): expected one NAME.yaml with the "
            ".safetensors or .th file that it names. Name one of the files instead of the folder."
        )
    signature, segment = _read_bag(bags[0])
    folder = bags[0].parent
    named = [[folder / f"{signature}{end}", *sorted(folder.glob(f"{signature}-*{end}"))] for end in _SUFFIXES]
    file = next((file for files in named for file in files if file.is_file()), None)
    if file is None:
        raise DataNotFoundError(
            f"{bags[0]} names the model {signature}, but {folder} has no {signature}.safetensors or {signature}.th."
        )
    _check_name(file)
    return file, segment


def _read_bag(path: Path) -> tuple[str, float | None]:
    """Return the signature of the only model of a bag (upstream's word), and its chunk length in seconds."""
    try:
        bag = read_yaml(path.read_text(encoding="utf-8"))
        models, segment = [str(model) for model in bag["models"]], bag.get("segment")
        seconds = None if segment is None else float(segment)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not describe a Demucs model ({error!r}): expected `models: [SIGNATURE]`."
        ) from error
    if len(models) != 1:
        expected = "which would be that many times as slow; expected one, as in htdemucs and htdemucs_6s"
        raise ConfigError(f"{path} is a bag of {len(models)} models, {expected}.")
    return models[0], seconds


def _check_name(file: Path) -> None:
    """Compare a `.th` file with the beginning of its SHA-256, which upstream puts into its name."""
    _, dash, expected = file.stem.partition("-")
    if file.suffix != ".th" or not dash:
        return
    with file.open("rb") as opened:
        seen = hashlib.file_digest(opened, "sha256").hexdigest()[: len(expected)]
    if seen != expected:
        raise CheckpointError(
            f"{file} has the SHA-256 {seen}..., but its name says {expected}: it is damaged. Download it again."
        )
