"""Embedding of prepared files: windows of many files in common batches."""

import logging
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from stemsim.embedding import StemEmbedder
from stemsim.embedding.workers import work
from stemsim.errors import EmbeddingError, StemsimError
from stemsim.retrieval.indexing.files import Failure, PreparedFile, unexpected
from stemsim.retrieval.windows import Windowing, embed_windows, padding_group
from stemsim.similarity import StemEmbeddings

__all__ = ["EmbeddedFile", "embed_files"]

_log = logging.getLogger(__name__)

_MOST_DAMAGED: Final = 0.1  # share of the windows of a file
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
        Of a file with a damaged spot, the windows that can be embedded, if they are at least 90 % of all.
    """
    waiting: dict[Path, dict[int, StemEmbeddings | StemsimError]] = defaultdict(dict)  # results by file and window

    def embed(batch: _Batch) -> list[StemEmbeddings | StemsimError]:
        return _embed_batch(batch, embedder, windowing)

    batches = _batches(files, embedder, windowing)
    for batch, results in work(embed, batches, workers=embedder.workers, device=embedder.device):
        for (prepared, number), result in zip(batch, results, strict=True):
            found = waiting[prepared.file.path]
            found[number] = result
            if len(found) == len(prepared.windows):
                embedded = _joined(prepared, waiting.pop(prepared.file.path))
                try:
                    embedder.source.check_unchanged(prepared.windows[0], prepared.content)
                except StemsimError as error:
                    embedded = Failure(prepared.file.path, str(error), prepared.file.size)
                yield embedded


def _joined(prepared: PreparedFile, results: dict[int, StemEmbeddings | StemsimError]) -> EmbeddedFile | Failure:
    """Join the results of all windows of a file."""
    errors = [str(result) for result in results.values() if isinstance(result, StemsimError)]
    good = {number: result for number, result in sorted(results.items()) if isinstance(result, StemEmbeddings)}
    if len(errors) > _MOST_DAMAGED * len(results):
        return Failure(prepared.file.path, errors[0], prepared.file.size)
    if errors:
        count = f"{len(errors)} of {len(results)} windows"
        _log.warning("%s: %s are left out, as they cannot be embedded: %s", prepared.file.path, count, errors[0])
        prepared = replace(prepared, windows=tuple(prepared.windows[number] for number in good))
    return EmbeddedFile(prepared, StemEmbeddings(*map(torch.stack, zip(*good.values(), strict=True))))


def _embed_batch(batch: _Batch, embedder: StemEmbedder, windowing: Windowing) -> list[StemEmbeddings | StemsimError]:
    """Embed each window of a batch; if that fails, file by file and then window by window, to find the damaged one."""
    try:
        embedded = embed_windows([prepared.windows[number] for prepared, number in batch], embedder, windowing)
    except Exception as error:  # noqa: BLE001 - whatever a file causes must not stop the others
        by_file: dict[Path, _Batch] = defaultdict(list)  # in the order of the batch, where each file is in one piece
        for prepared, number in batch:
            by_file[prepared.file.path].append((prepared, number))
        parts = list(by_file.values()) if len(by_file) > 1 else [[window] for window in batch]
        if len(parts) == 1:
            return [error if isinstance(error, StemsimError) else EmbeddingError(unexpected(error))]
        return [result for part in parts for result in _embed_batch(part, embedder, windowing)]
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
