"""Embedding of prepared files: windows of many files in common batches."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import torch

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


_Window = tuple[PreparedFile, int]  # the file, and the number of the window in it
_Done = list[tuple[list[_Window], StemEmbeddings | StemsimError]]


def embed_files(
    files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing
) -> Iterator[EmbeddedFile | Failure]:
    """Embed files, in batches of windows of equal length that may be from several files.

    Yields:
        Each file as soon as all its windows are embedded, or why they cannot be, which does not affect other files.
    """
    rows: dict[Path, dict[int, StemEmbeddings]] = defaultdict(dict)  # by number of the window
    failed: set[Path] = set()

    def embed(batch: list[_Window]) -> _Done:
        return _embed_batch(batch, embedder, windowing)

    batches = _batches(files, embedder, windowing)
    for _, done in work(embed, batches, workers=embedder.workers, device=embedder.device):
        for windows, result in done:
            for row, (prepared, number) in enumerate(windows):
                path = prepared.file.path
                if path in failed:
                    continue
                if isinstance(result, StemsimError):
                    failed.add(path)
                    rows.pop(path, None)
                    yield Failure(path, str(result), prepared.file.size)
                    continue
                rows[path][number] = result.take(torch.tensor([row]))
                if len(rows[path]) == len(prepared.windows):
                    _, in_order = zip(*sorted(rows.pop(path).items()), strict=True)
                    yield EmbeddedFile(prepared, StemEmbeddings(*map(torch.cat, zip(*in_order, strict=True))))


def _embed_batch(batch: list[_Window], embedder: StemEmbedder, windowing: Windowing) -> _Done:
    """Embed a batch; if that fails, embed file by file, to find the one that causes it."""
    try:
        return [(batch, embed_windows([file.windows[number] for file, number in batch], embedder, windowing))]
    except StemsimError as error:
        alone = [list(windows) for _, windows in groupby(batch, key=lambda window: window[0].file.path)]
        if len(alone) == 1:
            return [(batch, error)]
        return [done for windows in alone for done in _embed_batch(windows, embedder, windowing)]


def _batches(files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing) -> Iterator[list[_Window]]:
    """Collect windows of equal length into batches; where too many wait for others, the largest group goes ahead."""
    groups: dict[tuple[float, bool], list[_Window]] = defaultdict(list)
    for prepared in files:
        embedder.fit_batch(prepared.windows[0])
        for number, segment in enumerate(prepared.windows):
            group = padding_group(segment, embedder, windowing)
            groups[group].append((prepared, number))
            if len(groups[group]) >= embedder.batch_size:
                yield groups.pop(group)
        while sum(map(len, groups.values())) > _WAITING * embedder.workers * embedder.batch_size:
            yield groups.pop(max(groups, key=lambda group: len(groups[group])))
    yield from groups.values()
