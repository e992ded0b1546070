"""Embedding of prepared files: windows of many files in common batches."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.embedding.workers import work
from stemsim.errors import StemsimError
from stemsim.retrieval.indexing.finding import Failure
from stemsim.retrieval.indexing.preparing import PreparedFile
from stemsim.retrieval.windows import Windowing, embed_windows, padding_group
from stemsim.similarity import StemEmbeddings

__all__ = ["EmbeddedFile", "embed_files"]

_WAITING: Final = 8  # batches of clips, for each worker, that may wait for others of their length


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """A file with the stem embeddings `(window, stem, dim)` of all its windows."""

    prepared: PreparedFile
    embeddings: StemEmbeddings


@dataclass(slots=True)
class _Part:
    """Windows of one file in one batch, by their numbers in the file."""

    prepared: PreparedFile
    numbers: list[int] = field(default_factory=list)

    @property
    def segments(self) -> list[Segment]:
        return [self.prepared.windows[number] for number in self.numbers]


_Done = list[tuple[_Part, StemEmbeddings | StemsimError]]


def embed_files(
    files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing
) -> Iterator[EmbeddedFile | Failure]:
    """Embed files, in batches of windows of equal length that may be from several files.

    Yields:
        Each file as soon as all its windows are embedded, or why they cannot be, which does not affect other files.
    """
    parts: dict[Path, list[tuple[_Part, StemEmbeddings]]] = defaultdict(list)
    failed: set[Path] = set()

    def embed(batch: list[_Part]) -> _Done:
        return _embed_parts(batch, embedder, windowing)

    batches = _batches(files, embedder, windowing)
    for _, done in work(embed, batches, workers=embedder.workers, device=embedder.device):
        for part, result in done:
            prepared, path = part.prepared, part.prepared.file.path
            if path in failed:
                continue
            if isinstance(result, StemsimError):
                failed.add(path)
                parts.pop(path, None)
                yield Failure(path, str(result), prepared.file.size)
                continue
            parts[path].append((part, result))
            if sum(len(part.numbers) for part, _ in parts[path]) == len(prepared.windows):
                yield EmbeddedFile(prepared, _in_order(parts.pop(path)))


def _embed_parts(batch: list[_Part], embedder: StemEmbedder, windowing: Windowing) -> _Done:
    """Embed a batch; if that fails, embed file by file, to find the one that causes it."""
    try:
        embedded = embed_windows([segment for part in batch for segment in part.segments], embedder, windowing)
    except StemsimError as error:
        if len(batch) == 1:
            return [(batch[0], error)]
        return [done for part in batch for done in _embed_parts([part], embedder, windowing)]
    sizes = [len(part.numbers) for part in batch]
    split = zip(*(torch.split(tensor, sizes) for tensor in embedded), strict=True)
    return [(part, StemEmbeddings(*tensors)) for part, tensors in zip(batch, split, strict=True)]


def _batches(files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing) -> Iterator[list[_Part]]:
    """Collect windows of equal length into batches; where too many wait for others, the largest group goes ahead."""
    groups: dict[tuple[float, bool], list[_Part]] = defaultdict(list)
    sizes: dict[tuple[float, bool], int] = defaultdict(int)
    for prepared in files:
        embedder.fit_batch(prepared.windows[0])
        for number, segment in enumerate(prepared.windows):
            batch = padding_group(segment, embedder, windowing)
            group = groups[batch]
            if not group or group[-1].prepared is not prepared:
                group.append(_Part(prepared))
            group[-1].numbers.append(number)
            sizes[batch] += 1
            if sizes[batch] >= embedder.batch_size:
                del sizes[batch]
                yield groups.pop(batch)
        while sum(sizes.values()) > _WAITING * embedder.workers * embedder.batch_size:
            largest = max(sizes, key=lambda batch: sizes[batch])
            del sizes[largest]
            yield groups.pop(largest)
    yield from groups.values()


def _in_order(parts: list[tuple[_Part, StemEmbeddings]]) -> StemEmbeddings:
    """Join the windows of a file in order of time."""
    numbers = [number for part, _ in parts for number in part.numbers]
    tensors = zip(*(embeddings for _, embeddings in parts), strict=True)
    return StemEmbeddings(*(torch.cat(list(column)) for column in tensors)).take(torch.tensor(numbers).argsort())
