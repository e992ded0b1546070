"""From prepared files to their stem embeddings, batch by batch over many files."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from stemsim.audio import LEVEL_FLOOR, Segment, read_audio
from stemsim.embedding import StemEmbedder
from stemsim.embedding.workers import work
from stemsim.errors import StemsimError
from stemsim.retrieval.files import Failure, PreparedFile
from stemsim.retrieval.windows import Windowing
from stemsim.separators import Separator
from stemsim.similarity import StemEmbeddings

__all__ = ["EmbeddedFile", "embed_clips", "embed_files"]

_WAITING: Final = 8  # batches of clips, for each worker, that may wait for others of their length


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """A file with the embeddings of all its windows.

    Attributes:
        prepared: The file.
        embeddings: Stem embeddings `(window, stem, dim)`.
    """

    prepared: PreparedFile
    embeddings: StemEmbeddings


@dataclass(slots=True)
class _Part:
    """Windows of one file in one batch."""

    prepared: PreparedFile
    numbers: list[int] = field(default_factory=list)

    @property
    def segments(self) -> list[Segment]:
        return [self.prepared.windows[number] for number in self.numbers]


_Done = list[tuple[_Part, StemEmbeddings | StemsimError]]


def embed_clips(segments: Sequence[Segment], embedder: StemEmbedder, windowing: Windowing) -> StemEmbeddings:
    """Embed windows in one batch; those shorter than a full one are filled up with silence first.

    Args:
        segments: Full windows, or shorter ones that `Windowing.filled` fills to one duration.
        embedder: Separates and embeds them.
        windowing: How they were cut.

    Returns:
        Stem embeddings `(window, stem, dim)`; the levels are those of the windows without what filled them up.

    Raises:
        StemsimError: If one of them cannot be read or embedded.
    """
    filled, as_it_is = _batch_of(segments[0], embedder, windowing)
    if as_it_is:
        return embedder.embed_batch(segments)
    embedded = embedder.embed_waveforms([_read_filled(segment, filled) for segment in segments])
    durations = torch.tensor([segment.duration for segment in segments])
    levels = embedded.levels + 10.0 * torch.log10(filled / durations).unsqueeze(1)
    return embedded._replace(levels=torch.where(embedded.levels > LEVEL_FLOOR, levels, embedded.levels))


def _batch_of(segment: Segment, embedder: StemEmbedder, windowing: Windowing) -> tuple[float, bool]:
    """Return what the windows of a batch have in common: their duration, and whether they need no filling."""
    duration = round(segment.duration, 6)
    if duration == round(windowing.length, 6) and duration >= embedder.encoder.min_duration:
        return duration, True
    if not isinstance(embedder.source, Separator):
        return segment.duration, True  # stems that come from files are taken as they are
    return round(windowing.filled(segment.duration, embedder.encoder.min_duration), 6), False


def _read_filled(segment: Segment, duration: float) -> tuple[Tensor, int]:
    """Read a clip and fill it up with silence."""
    waveform, rate = read_audio(segment.path, segment.start, segment.duration)
    missing = max(0, round(duration * rate) - waveform.shape[-1])
    return torch.nn.functional.pad(waveform, (0, missing)), rate


def embed_files(
    files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing
) -> Iterator[EmbeddedFile | Failure]:
    """Embed files, in batches of windows of equal length that may be of several files.

    Args:
        files: Taken as they are needed.
        embedder: Separates and embeds them.
        windowing: How they were cut.

    Yields:
        Each file as soon as all its windows are embedded, or why they cannot be. A file that fails takes no other
        with it.
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
    """Embed a batch; if that fails, file by file, to learn whose fault it is."""
    try:
        embedded = embed_clips([segment for part in batch for segment in part.segments], embedder, windowing)
    except StemsimError as error:
        if len(batch) == 1:
            return [(batch[0], error)]
        return [done for part in batch for done in _embed_parts([part], embedder, windowing)]
    sizes = [len(part.numbers) for part in batch]
    split = zip(*(torch.split(tensor, sizes) for tensor in embedded), strict=True)
    return [(part, StemEmbeddings(*tensors)) for part, tensors in zip(batch, split, strict=True)]


def _batches(files: Iterable[PreparedFile], embedder: StemEmbedder, windowing: Windowing) -> Iterator[list[_Part]]:
    """Gather windows of equal length into batches; where too many wait for others, the largest group goes ahead."""
    groups: dict[tuple[float, bool], list[_Part]] = defaultdict(list)
    sizes: dict[tuple[float, bool], int] = defaultdict(int)
    for prepared in files:
        embedder.fit_batch(prepared.windows[0])
        for number, segment in enumerate(prepared.windows):
            batch = _batch_of(segment, embedder, windowing)
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
    """Put the windows of a file together, in order of time."""
    numbers = [number for part, _ in parts for number in part.numbers]
    tensors = zip(*(embeddings for _, embeddings in parts), strict=True)
    return StemEmbeddings(*(torch.cat(list(column)) for column in tensors)).take(torch.tensor(numbers).argsort())
