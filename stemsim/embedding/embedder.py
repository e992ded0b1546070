"""Separator x encoder: from segments to stem embeddings."""

import logging
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from torch import Tensor

from stemsim.audio import Segment, level_dbfs
from stemsim.embedding.store import EmbeddingSpec, EmbeddingStore
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, EmbeddingError
from stemsim.separators import StemSource
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

__all__ = ["StemEmbedder"]

_log = logging.getLogger(__name__)

# Raise it whenever what happens between separator and encoder changes a number: old rows are then left aside.
_PREPROCESSING: Final = "v1"
_READ_AHEAD: Final = 2  # batches
_UNIT_NORM_TOLERANCE: Final = 1e-3


class StemEmbedder:
    """Separates segments, measures and encodes their stems, and keeps the result in a store.

    A stem is silent where its level lies below `silence`: it is not encoded, and its vector is all zeros.

    Args:
        source: Where stems come from.
        encoder: Frozen encoder.
        store: Folder of the embedding store; None computes everything anew.
        silence: Level in dBFS under which a stem is silent; None encodes every stem whatever its level, as the paper
            does.
        batch_size: Segments separated, encoded and stored at once.
        device: Where the encoder runs, e.g. `cpu` or `cuda`.
        progress: Show a progress bar on standard error.
    """

    def __init__(
        self,
        source: StemSource,
        encoder: Encoder,
        *,
        store: str | Path | None = None,
        silence: float | None = -60.0,
        batch_size: int = 16,
        device: str = "cpu",
        progress: bool = True,
    ) -> None:
        if batch_size < 1:
            msg = f"`batch_size` must be at least 1, got {batch_size}."
            raise ConfigError(msg)
        self.source = source
        self.encoder = encoder.eval().to(device)
        self.silence = silence
        self.batch_size = batch_size
        self.device = device
        self.progress = progress
        preprocessing = f"{_PREPROCESSING};silence={silence}"
        self.spec = EmbeddingSpec(source.identity, encoder.identity, preprocessing, source.stems, encoder.dim)
        self.store = None if store is None else EmbeddingStore(store, self.spec)

    @property
    def stems(self) -> StemLayout:
        """Stem layout of the embeddings."""
        return self.spec.stems

    def embed(self, segments: Sequence[Segment]) -> StemEmbeddings:
        """Return the stem embeddings of segments, computing and storing those that the store lacks.

        Args:
            segments: Segments in any order, of any duration; one that occurs twice is embedded once.

        Returns:
            Stem embeddings `(segment, stem, dim)` on the CPU, in the order of `segments`.

        Raises:
            AudioError: If a file cannot be read; what was stored before it stays stored.
            EmbeddingError: If separator or encoder return something that is not finite or has the wrong shape.
        """
        hashed = track(
            segments, "Hashing audio", console=Console(stderr=True), transient=True, disable=not self.progress
        )  # seconds for a few songs, a minute for all of Slakh2100
        keys = [self.spec.key(self.source.content_hash(segment), segment) for segment in hashed]
        distinct = dict(zip(keys, segments, strict=True))
        parts: list[StemEmbeddings] = []
        order: list[str] = []
        if self.store is not None:
            found = self.store.get(list(distinct))
            order += found.keys
            parts.append(found.embeddings)
        known = set(order)
        missing = {key: segment for key, segment in distinct.items() if key not in known}
        for batch_keys, embeddings in self._fill(missing):
            order += batch_keys
            parts.append(embeddings)
        if not parts:
            return self._empty()
        rows = {key: row for row, key in enumerate(order)}
        everything = StemEmbeddings(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        return everything.take(torch.tensor([rows[key] for key in keys], dtype=torch.long))

    def compute(self, segments: Sequence[Segment]) -> StemEmbeddings:
        """Embed segments of equal duration in one batch, without the store.

        Args:
            segments: Segments that last equally long.

        Returns:
            Stem embeddings `(segment, stem, dim)` on the CPU.
        """
        return self._encode(segments, self._read(segments))

    def _fill(self, missing: dict[str, Segment]) -> Iterator[tuple[list[str], StemEmbeddings]]:
        """Embed and store what is missing, batch by batch."""
        if not missing:
            return
        _log.info("Embedding %d segments: %s x %s.", len(missing), self.source.identity, self.encoder.identity)
        columns = (
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), disable=not self.progress) as bar:
            task = bar.add_task("Embedding segments", total=len(missing), rate="")
            for keys, segments, stems in self._read_ahead(missing):
                embeddings = self._encode(segments, stems)
                if self.store is not None:
                    self.store.put(keys, segments, embeddings)
                speed = bar.tasks[0].speed
                bar.update(task, advance=len(keys), rate=f"{speed:.1f}/s" if speed else "")
                yield keys, embeddings
        if self.store is not None:
            self.store.compact()

    def _read_ahead(self, missing: dict[str, Segment]) -> Iterator[tuple[list[str], list[Segment], Tensor]]:
        """Read and separate the coming batches in a thread while the encoder works on this one."""
        pending: deque[tuple[list[str], list[Segment], Future[Tensor]]] = deque()
        with ThreadPoolExecutor(max_workers=1) as reader:
            try:
                for keys, segments in self._batches(missing):
                    pending.append((keys, segments, reader.submit(self._read, segments)))
                    if len(pending) > _READ_AHEAD:
                        ready_keys, ready_segments, stems = pending.popleft()
                        yield ready_keys, ready_segments, stems.result()
                while pending:
                    ready_keys, ready_segments, stems = pending.popleft()
                    yield ready_keys, ready_segments, stems.result()
            finally:
                reader.shutdown(cancel_futures=True)

    def _batches(self, missing: dict[str, Segment]) -> Iterator[tuple[list[str], list[Segment]]]:
        """Group segments by duration, in order of file and time, and cut the groups into batches."""
        groups: dict[float, list[tuple[Segment, str]]] = defaultdict(list)
        for key, segment in missing.items():
            groups[segment.duration].append((segment, key))
        for group in groups.values():
            group.sort()
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                yield [key for _, key in batch], [segment for segment, _ in batch]

    def _read(self, segments: Sequence[Segment]) -> Tensor:
        """Return stems `(segment, stem, time)` at the encoder's rate."""
        if segments[0].duration < self.encoder.min_duration:
            msg = (
                f"{segments[0]} is too short for the encoder {self.encoder.identity!r}, which needs "
                f"{self.encoder.min_duration} s. Leave it out, or take a longer segment."
            )
            raise EmbeddingError(msg)
        with torch.inference_mode():
            stems = self.source.read(segments, self.encoder.sample_rate)
        expected = (len(segments), len(self.stems), round(segments[0].duration * self.encoder.sample_rate))
        if stems.shape != expected or not torch.isfinite(stems).all():
            msg = (
                f"The stem source {self.source.identity!r} returned shape {tuple(stems.shape)}, expected {expected}, "
                f"or samples that are not finite, for segments from {segments[0]} to {segments[-1]}. Mend its `read`."
            )
            raise EmbeddingError(msg)
        return stems

    def _encode(self, segments: Sequence[Segment], stems: Tensor) -> StemEmbeddings:
        """Encode the stems that are not silent."""
        levels = level_dbfs(stems)
        present = torch.ones_like(levels, dtype=torch.bool) if self.silence is None else levels > self.silence
        vectors = torch.zeros(*levels.shape, self.encoder.dim)
        if not present.any():  # `split` would make one empty batch of nothing
            return StemEmbeddings(vectors, levels, present)
        with torch.inference_mode():
            audible = torch.split(stems[present], self.batch_size)  # of (batch, time)
            encoded = [self.encoder(waveforms.to(self.device)).float().cpu() for waveforms in audible]
        vectors[present] = self._verified(torch.cat(encoded), int(present.sum()), segments)
        return StemEmbeddings(vectors, levels, present)

    def _verified(self, encoded: Tensor, expected: int, segments: Sequence[Segment]) -> Tensor:
        """Return what the encoder gave, if it is finite unit vectors of the right shape."""
        if encoded.shape != (expected, self.encoder.dim):
            msg = (
                f"The encoder {self.encoder.identity!r} returned shape {tuple(encoded.shape)}, expected "
                f"{(expected, self.encoder.dim)}. Mend its `dim` or its `forward`."
            )
            raise EmbeddingError(msg)
        sound = (encoded.norm(dim=1) - 1.0).abs() < _UNIT_NORM_TOLERANCE  # False for NaN too
        if not sound.all():
            msg = (
                f"The encoder {self.encoder.identity!r} returned {int((~sound).sum())} of {expected} vectors that are "
                f"NaN or not of unit norm, for segments from {segments[0]} to {segments[-1]}. Nothing of this batch "
                "was stored. Check its weights and precision."
            )
            raise EmbeddingError(msg)
        return encoded

    def _empty(self) -> StemEmbeddings:
        levels = torch.zeros(0, len(self.stems))
        return StemEmbeddings(torch.zeros(0, len(self.stems), self.encoder.dim), levels, levels.bool())
