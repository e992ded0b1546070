"""Embedding of prepared files: windows of many files in common batches."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from stemsim.embedding import StemEmbedder
from stemsim.embedding.workers import work
from stemsim.errors import StemsimError
from stemsim.retrieval.indexing.files import Failure, PreparedFile
from stemsim.retrieval.windows import Windowing, embed_windows, padding_group
from stemsim.similarity import StemEmbeddings

__all__ = ["EmbeddedFile", "embed_files"]

_WAITING: Final = 8  # batches of clips, for each worker, that may wait for others of their length

_Batch = list[tuple[PreparedFile, int]]  # windows, each by its file and its number there


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """A file with the stem embeddings `(window, stem, dim)` of all its windows."""

    prepared: PreparedFile
    embeddings: StemEmbeddings


def embed_files(
    files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing
) -> Generator[EmbeddedFile | Failure]:
    """Embed files, in batches of windows of equal length that may be from several files.

    Yields:
        Each file as soon as all its windows are embedded, or why they cannot be, which does not affect other files.
    """
    embedded: dict[Path, dict[int, StemEmbeddings]] = defaultdict(dict)  # by file and window
    failed: set[Path] = set()

    def embed(batch: _Batch) -> list[StemEmbeddings | StemsimError]:
        return _embed_batch(batch, embedder, windowing)

    batches = _batches(files, embedder, windowing)
    for batch, results in work(embed, batches, workers=embedder.workers, device=embedder.device):
        for (prepared, number), result in zip(batch, results, strict=True):
            path = prepared.file.path
            if path in failed:
                continue
            if isinstance(result, StemsimError):
                failed.add(path)
                embedded.pop(path, None)
                yield Failure(path, str(result), prepared.file.size)
                continue
            embedded[path][number] = result
            if len(embedded[path]) == len(prepared.windows):
                found = embedded.pop(path)
                columns = zip(*(found[number] for number in range(len(found))), strict=True)
                yield EmbeddedFile(prepared, StemEmbeddings(*(torch.stack(column) for column in columns)))


def _embed_batch(batch: _Batch, embedder: StemEmbedder, windowing: Windowing) -> list[StemEmbeddings | StemsimError]:
    """Embed each window of a batch; if that fails, embed file by file, to find the one that causes it."""
    try:
        embedded = embed_windows([prepared.windows[number] for prepared, number in batch], embedder, windowing)
    except StemsimError as error:
        by_file: dict[Path, _Batch] = defaultdict(list)  # in the order of the batch, where each file is in one piece
        for prepared, number in batch:
            by_file[prepared.file.path].append((prepared, number))
        if len(by_file) == 1:
            return [error] * len(batch)
        return [result for part in by_file.values() for result in _embed_batch(part, embedder, windowing)]
    return [StemEmbeddings(*window) for window in zip(*embedded, strict=True)]


def _batches(files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing) -> Iterator[_Batch]:
    """Collect windows of equal length into batches; where too many wait for others, the largest group goes ahead."""
    groups: dict[tuple[float, bool], _Batch] = defaultdict(list)
    for prepared in files:
        embedder.fit_batch(prepared.windows[0])
        for number, segment in enumerate(prepared.windows):
            kind = padding_group(segment, embedder, windowing)
            groups[kind].append((prepared, number))
            if len(groups[kind]) >= embedder.batch_size:
                yield groups.pop(kind)
        while sum(map(len, groups.values())) > _WAITING * embedder.workers * embedder.batch_size:
            yield groups.pop(max(groups, key=lambda kind: len(groups[kind])))
    yield from groups.values()
