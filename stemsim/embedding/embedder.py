"""Separator x encoder: from segments to stem embeddings."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn, track
from torch import Tensor

from stemsim.audio import Segment, is_finite, level_dbfs
from stemsim.embedding.store import EmbeddingSpec, EmbeddingStore
from stemsim.embedding.workers import default_workers, work
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, EmbeddingError
from stemsim.separators import Separator, StemSource
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

Heard = Callable[[Sequence[Segment], Tensor], None]
"""Hears the stems `(segment, stem, time)` of segments, at the encoder's rate, before they are embedded."""

_log = logging.getLogger(__name__)

# Increase it whenever a change between separator and encoder changes a number: stored rows are then not used again.
_PREPROCESSING: Final = "v2"
_BATCHES_PER_WORKER: Final = 16  # at least, where there are enough segments: nobody waits long for the last batch


class StemEmbedder:
    """Separates segments, measures and encodes their stems, and keeps the result in a store.

    A stem whose level is below `silence` counts as silent: it is not encoded, and its vector is all zeros.

    Args:
        source: Source of the stems.
        encoder: Frozen encoder.
        store: Folder of the embedding store, opened at its first use; None keeps nothing and computes everything anew.
        silence: Level in dBFS below which a stem counts as silent; None encodes every stem whatever its level, as the
            paper does.
        batch_size: Maximum number of segments separated, encoded and stored at once; halved once if memory runs out.
            null: 16 on a CPU; on a GPU, as many as fit into its free memory, judged by the first one.
        device: Device for separator and encoder, e.g. `cpu` or `cuda:0`.
        workers: Number of batches processed at the same time. null: on a CPU one per core, up to 8, which share the
            cores evenly; on a GPU two, so that one reads audio while the other computes.
        progress: Show a progress bar on standard error.

    Raises:
        ConfigError: If a number is below 1 or the device cannot be used.
    """

    def __init__(
        self,
        source: StemSource,
        encoder: Encoder,
        *,
        store: str | Path | None = None,
        silence: float | None = -60.0,
        batch_size: int | None = None,
        device: str = "cpu",
        workers: int | None = None,
        progress: bool = True,
    ) -> None:
        if any(count is not None and count < 1 for count in (batch_size, workers)):
            raise ConfigError(f"`batch_size` and `workers` must be at least 1; got {batch_size} and {workers}.")
        self.device = _checked_device(device)
        self.source = source.to(self.device)
        self.encoder = encoder.eval().to(self.device)
        self.silence = silence
        self.batch_size = batch_size or 16
        self.workers = workers or default_workers(self.device)
        self.progress = progress
        preprocessing = f"{_PREPROCESSING};silence={silence}"
        self.spec = EmbeddingSpec(source.identity, encoder.identity, preprocessing, source.stems, encoder.dim)
        self.stems: StemLayout = self.spec.stems
        self._folder = store
        self._store: EmbeddingStore | None = None
        self._lock = threading.Lock()
        self._fits = batch_size is not None or self.device.type != "cuda"
        self._ran_out = False

    @property
    def store(self) -> EmbeddingStore | None:
        """The embedding store, opened (and its folder created) when first asked for; None if there is none."""
        with self._lock:
            if self._store is None and self._folder is not None:
                self._store = EmbeddingStore(self._folder, self.spec)
            return self._store

    def embed(self, segments: Sequence[Segment]) -> StemEmbeddings:
        """Embed segments, computing and storing only those that the store lacks.

        Args:
            segments: Segments in any order and of any duration; one that occurs twice is embedded once.

        Returns:
            Stem embeddings `(segment, stem, dim)` on the CPU, in the order of `segments`.

        Raises:
            AudioError: If a file cannot be read; everything stored before stays stored.
            EmbeddingError: If separator or encoder return values that are not finite or of the wrong shape.
        """
        # Hashing takes seconds for a few songs, and a minute for all of Slakh2100.
        console = Console(stderr=True)
        hashed = track(segments, "Hashing audio", console=console, transient=True, disable=not self.progress)
        contents = [self.source.content_hash(segment) for segment in hashed]
        keys = [self.spec.key(content, segment) for content, segment in zip(contents, segments, strict=True)]
        missing = dict(zip(keys, zip(segments, contents, strict=True), strict=True))
        done = list[tuple[Sequence[str], StemEmbeddings]]()
        if self.store is not None:
            found = self.store.get(list(missing))
            done.append((found.keys, found.embeddings))
            for key in found.keys:
                del missing[key]
        done += self._fill(missing)
        rows = {key: row for row, key in enumerate(key for batch, _ in done for key in batch)}
        return self._joined([embeddings for _, embeddings in done], [rows[key] for key in keys])

    def embed_waveforms(self, waveforms: Sequence[tuple[Tensor, int]], *, heard: Heard | None = None) -> StemEmbeddings:
        """Embed audio in memory, without the store; waveforms of equal shape and rate share a batch.

        Args:
            waveforms: Pairs of a float waveform, `(time,)` or `(channel, time)`, and its sample rate in Hz.
            heard: Called with the stems of each batch before they are embedded.

        Returns:
            Stem embeddings `(waveform, stem, dim)` on the CPU.

        Raises:
            ConfigError: If the stems come from files, so that there is no way to separate a waveform.
            EmbeddingError: If a waveform is too short for the encoder.
        """
        if not isinstance(self.source, Separator):
            raise ConfigError(
                f"{self.source.identity} reads stems from files and cannot separate a waveform. Pass the path of the "
                "song's mix, or load the model with a separator (stemsim.separators.Demucs or Bands)."
            )
        groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for number, (waveform, rate) in enumerate(waveforms):
            time = waveform.shape[-1]
            groups[waveform.numel() // max(time, 1), time, rate].append(number)
        order, parts = list[int](), list[StemEmbeddings]()
        for (channels, time, rate), numbers in groups.items():
            segment = Segment(Path("waveform"), 0.0, time / rate)
            self._check_duration(segment)
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                stacked = torch.stack([waveforms[number][0].reshape(channels, time).float() for number in batch])
                with torch.inference_mode():
                    stems = self.source.separate(stacked, rate, self.encoder.sample_rate)
                if heard is not None:
                    heard([segment] * len(batch), stems)
                parts.append(self._encode([segment] * len(batch), stems))
                order += batch
        return self._joined(parts, torch.tensor(order).argsort().tolist())

    def embed_batch(self, segments: Sequence[Segment], *, heard: Heard | None = None) -> StemEmbeddings:
        """Embed segments of equal duration in one batch, without the store: `(segment, stem, dim)` on the CPU.

        `heard` is called with their stems before they are embedded; again, in parts, if memory runs out after that.

        Raises:
            EmbeddingError: If memory runs out after the batch size has been halved once, or separator or encoder return
                invalid values.
        """
        size = len(segments)
        try:
            stems = self._read(segments)
            if heard is not None:
                heard(segments, stems)
            return self._encode(segments, stems)
        except torch.OutOfMemoryError as error:
            with self._lock:
                again = self._ran_out and size <= self.batch_size
                if not self._ran_out:
                    self._ran_out = True
                    self.batch_size = max(1, min(size, self.batch_size) // 2)
            half = self.batch_size
            if again or size == 1:
                raise EmbeddingError(
                    f"Out of memory on {self.device} with {size} segments at once, although the batch has already "
                    "been halved. Everything embedded so far is stored. Set a smaller `embedding_batch`, "
                    "`workers: 1`, a shorter segment, or `precision: bfloat16`."
                ) from error
            message = str(error).splitlines()[0] if str(error) else "no details"
        _log.warning("Out of memory on %s with %d segments at once (%s): now %d.", self.device, size, message, half)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        parts = [self.embed_batch(segments[start : start + half], heard=heard) for start in range(0, size, half)]
        return self._joined(parts, range(size))

    def fit_batch(self, longest: Segment) -> None:
        """Choose once the batch size that fits into the memory of a GPU, judged by the longest segment to embed."""
        if self._fits:
            return
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.embed_batch([longest])
        taken = max(1, torch.cuda.max_memory_allocated(self.device) - before)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        fitting = int(0.6 * free / (taken * self.workers))  # not all of it: allocators waste some
        self.batch_size = max(1, min(fitting, 128))
        self._fits = True
        message = "One segment takes %.0f MB on %s, which has %.0f MB free: %d segments at once in each of %d workers."
        _log.info(message, taken / 1e6, self.device, free / 1e6, self.batch_size, self.workers)

    def _fill(self, missing: dict[str, tuple[Segment, str]]) -> Iterator[tuple[list[str], StemEmbeddings]]:
        """Embed and store the missing segments, given with the content hashes in their keys, batch by batch."""
        if not missing:
            return
        _log.info("Embedding %d segments: %s x %s.", len(missing), self.source.identity, self.encoder.identity)
        self.fit_batch(max((segment for segment, _ in missing.values()), key=lambda segment: segment.duration))
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}")
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, *times, console=Console(stderr=True), disable=not self.progress) as bar:
            task = bar.add_task("Embedding segments", total=len(missing), rate="")
            batches = self._batches({key: segment for key, (segment, _) in missing.items()})
            done = work(lambda batch: self.embed_batch(batch[1]), batches, workers=self.workers, device=self.device)
            for (keys, segments), embeddings in done:
                for key in keys:
                    self.source.check_unchanged(*missing[key])
                if self.store is not None:
                    self.store.put(keys, segments, embeddings)
                speed = bar.tasks[0].speed
                bar.update(task, advance=len(keys), rate=f"{speed:.1f}/s" if speed else "")
                yield keys, embeddings
        if self.store is not None:
            self.store.compact()

    def _batches(self, missing: dict[str, Segment]) -> Iterator[tuple[list[str], list[Segment]]]:
        """Group segments by duration, in order of file and time, and cut the groups into batches."""
        groups: dict[float, list[tuple[Segment, str]]] = defaultdict(list)
        for key, segment in missing.items():
            groups[segment.duration].append((segment, key))
        share = -(-len(missing) // (_BATCHES_PER_WORKER * self.workers))
        for group in groups.values():
            group.sort(reverse=True)
            while group:
                size = min(self.batch_size, share)  # the batch size may change on the way
                batch = [group.pop() for _ in group[:size]]
                yield [key for _, key in batch], [segment for segment, _ in batch]

    def _check_duration(self, segment: Segment) -> None:
        if segment.duration < self.encoder.min_duration:
            shortest = f"the encoder {self.encoder.identity!r}, which needs at least {self.encoder.min_duration} s"
            raise EmbeddingError(f"{segment} is too short for {shortest}. Leave it out, or use a longer segment.")

    def _read(self, segments: Sequence[Segment]) -> Tensor:
        """Return the stems `(segment, stem, time)` at the encoder's rate."""
        self._check_duration(segments[0])
        with torch.inference_mode():
            stems = self.source.read(segments, self.encoder.sample_rate)
        expected = (len(segments), len(self.stems), round(segments[0].duration * self.encoder.sample_rate))
        if stems.shape != expected or not is_finite(stems):
            raise EmbeddingError(
                f"Expected finite stems of shape {expected} from the source {self.source.identity!r} for the segments "
                f"from {segments[0]} to {segments[-1]}; got shape {tuple(stems.shape)}, or NaN or infinite samples. "
                "Correct its `read`."
            )
        return stems

    def _encode(self, segments: Sequence[Segment], stems: Tensor) -> StemEmbeddings:
        """Encode the stems that are not silent."""
        levels = level_dbfs(stems)
        present = torch.ones_like(levels, dtype=torch.bool) if self.silence is None else levels > self.silence
        vectors = torch.zeros(*levels.shape, self.encoder.dim)
        if present.any():  # `split` would make one empty batch of nothing
            with torch.inference_mode():
                audible = torch.split(stems[present], self.batch_size)  # of (batch, time)
                encoded = [self.encoder(waveforms.to(self.device)).float().cpu() for waveforms in audible]
            vectors[present] = self._verified(torch.cat(encoded), int(present.sum()), segments)
        return StemEmbeddings(vectors, levels, present)

    def _verified(self, encoded: Tensor, count: int, segments: Sequence[Segment]) -> Tensor:
        """Return the encoder's output if it consists of finite unit vectors of the right shape."""
        returned, expected = f"The encoder {self.encoder.identity!r} returned", (count, self.encoder.dim)
        if encoded.shape != expected:
            seen = tuple(encoded.shape)
            raise EmbeddingError(f"{returned} shape {seen}, expected {expected}. Correct its `dim` or its `forward`.")
        unit = torch.isclose(encoded.norm(dim=1), torch.ones(1), rtol=0.0, atol=1e-3)  # False for NaN too
        if not unit.all():
            raise EmbeddingError(
                f"{returned} {int((~unit).sum())} of {count} vectors that are NaN or not of unit norm, for the "
                f"segments from {segments[0]} to {segments[-1]}. Nothing of this batch was stored. Check its weights "
                "and precision."
            )
        return encoded

    def _joined(self, parts: Sequence[StemEmbeddings], order: Sequence[int]) -> StemEmbeddings:
        """Join embeddings, if any, and return their rows in an order."""
        levels = torch.zeros(0, len(self.stems))
        none = StemEmbeddings(torch.zeros(0, len(self.stems), self.encoder.dim), levels, levels.bool())
        joined = StemEmbeddings(*(torch.cat(tensors) for tensors in zip(none, *parts, strict=True)))
        return joined.take(torch.tensor(order, dtype=torch.long))


def _checked_device(name: str) -> torch.device:
    """Return a device that exists on this machine."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"The device {name!r} cannot be used ({first}). Use cpu, or a GPU and a CUDA build of torch."
        ) from error
    return device
