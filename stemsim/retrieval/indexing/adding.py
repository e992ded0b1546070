"""Adding files to a library: new files are embedded, and complete ones committed batch by batch."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.catalogue import Catalogue, FileRecord
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.indexing.embedding import EmbeddedFile, embed_files
from stemsim.retrieval.indexing.files import Failure, FoundFile, Prepared, PreparedFile, prepare_files
from stemsim.retrieval.items import Items, item_key
from stemsim.retrieval.windows import Windowing
from stemsim.stems import StemLayout

__all__ = ["AddReport", "Adding", "Engine", "Extraction", "progress_bar"]

_ITEMS_PER_COMMIT: Final = 512
_SECONDS_PER_COMMIT: Final = 5.0
_FILES_PER_READ: Final = 256


class Extraction(NamedTuple):
    """Prepares and embeds the files of one library; either yields files in any order, and reports failures."""

    prepare: Callable[[Sequence[FoundFile]], Generator[Prepared]]
    embed: Callable[[Iterable[PreparedFile]], Generator[EmbeddedFile | Failure]]

    @classmethod
    def local(cls, embedder: StemEmbedder, windowing: Windowing, *, listen: bool) -> Self:
        """Return one that works in this process; `listen`: measure tempo and key."""
        return cls(
            lambda files: prepare_files(files, embedder.source, windowing, listen=listen, workers=embedder.workers),
            lambda files: embed_files(files, embedder, windowing),
        )


class Engine(Protocol):
    """Starts extractions elsewhere, such as on a cluster."""

    def started(self, card: LibraryCard, *, listen: bool) -> AbstractContextManager[Extraction]:
        """Start an extraction for a library, and stop it in the end; `listen`: measure tempo and key."""


@dataclass(slots=True)
class AddReport:
    """Result of one run of adding files.

    Attributes:
        added: New files.
        changed: Files whose new content replaced the old one.
        unchanged: Files that were in the library already.
        copied: Added or changed files with the content of another file, which were not embedded again.
        silent: Added or changed files without an audible window, which no search can find.
        skipped: Numbers of files and folders that were not looked into, by extension or reason.
        items: Items of the added and changed files.
        seconds_of_audio: Length of the embedded audio.
        seconds: Duration of the run.
        failures: Files that cannot be read or embedded, with the reasons.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    copied: int = 0
    silent: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    items: int = 0
    seconds_of_audio: float = 0.0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        failures = [{"path": str(failure.path), "reason": failure.reason} for failure in self.failures]
        skipped, silent = dict(self.skipped.most_common()), list(map(str, self.silent))
        plain = asdict(replace(self, failures=[], silent=[], skipped=Counter()))
        return plain | {"failures": failures, "silent": silent, "skipped": skipped}


@contextmanager
def progress_bar(
    files: Sequence[FoundFile], *, show: bool, watch: Callable[[float, AddReport], None] | None = None
) -> Iterator[Callable[[int, AddReport], None]]:
    """Show progress in bytes, as durations are not known yet; yield the function that advances it by one file.

    `watch` is called then, with the share that is done.
    """
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    begun, numbers = time.monotonic(), count(1)
    with Progress("Adding files", *columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(f"0/{len(files)} files", total=max(1, sum(file.size for file in files)))

        def advance(size: int, report: AddReport) -> None:
            seconds = max(time.monotonic() - begun, 1e-9)
            rate = f"{report.items / seconds:.1f} items/s, {report.seconds_of_audio / seconds:.0f} x real time"
            bar.update(task, advance=size, description=f"{next(numbers)}/{len(files)} files {rate}")
            if watch is not None:
                watch(bar.tasks[0].percentage / 100.0, report)

        yield advance


@dataclass
class Adding:
    """One run of adding files to a library; complete files are committed every few seconds.

    `advance` is called with the size of each file that is finished, and the counts so far.
    """

    catalogue: Catalogue
    index: Index
    extraction: Extraction
    windowing: Windowing
    advance: Callable[[int, AddReport], None]
    report: AddReport = field(default_factory=AddReport)
    _complete: dict[str, FileRecord] = field(default_factory=dict)  # by content
    _begun: set[str] = field(default_factory=set)  # contents
    _copies: list[PreparedFile] = field(default_factory=list)
    _touched: list[FileRecord] = field(default_factory=list)
    _waiting: list[tuple[PreparedFile, Items]] = field(default_factory=list)
    _committed: float = field(default_factory=time.monotonic)

    def run(self, files: Sequence[FoundFile], known: Sequence[FileRecord]) -> AddReport:
        """Add files, given the library's records; commit what is complete, however the run ends."""
        self._complete = {record.content: record for record in known if record.done}
        try:
            # Closed at once, however the run ends: a later garbage collection might wait for their threads in a thread
            # that others wait for.
            with closing(self._new(files)) as new:
                self._embed(new)
            self._commit()
            self._copy()
        finally:
            self._commit()
        return self.report

    def _new(self, files: Sequence[FoundFile]) -> Generator[PreparedFile]:
        """Yield the files with new content; those whose content is known or already yielded are copied later."""
        with closing(self.extraction.prepare(files)) as results:
            for result in results:
                if isinstance(result, Failure):
                    self._fail(result)
                elif isinstance(result, FoundFile):
                    self._touch(result)
                elif result.content in self._complete or result.content in self._begun:
                    self._copies.append(result)
                else:
                    self._begun.add(result.content)
                    yield result

    def _embed(self, files: Iterable[PreparedFile]) -> None:
        with closing(self.extraction.embed(files)) as results:
            for result in results:
                if isinstance(result, Failure):
                    self._fail(result)
                    continue
                self.report.seconds_of_audio += sum(window.duration for window in result.prepared.windows)
                self._take(result.prepared, _items_of(result, self.index.spec.stems))

    def _copy(self) -> None:
        """Give files whose content the library holds the vectors of the file that has it."""
        for start in range(0, len(self._copies), _FILES_PER_READ):
            files = self._copies[start : start + _FILES_PER_READ]
            originals = {file.content: self._complete[file.content] for file in files if file.content in self._complete}
            found = self.index.items([key for one in originals.values() for key in one.item_keys(self.windowing)])
            lacking: list[PreparedFile] = []
            for file in files:
                items = _copied(found, file)
                if file.content in originals and len(items) == originals[file.content].items:
                    self.report.copied += 1
                    self._take(file, items)
                else:  # its original failed, or was removed in the meantime
                    lacking.append(file)
            self._embed(lacking)

    def _take(self, prepared: PreparedFile, items: Items) -> None:
        """Count a complete file, and commit if there is enough to commit."""
        self.report.added += prepared.file.known is None
        self.report.changed += prepared.file.known is not None
        if not len(items):
            self.report.silent.append(prepared.file.path)
        self.report.items += len(items)
        self._waiting.append((prepared, items))
        self.advance(prepared.file.size, self.report)
        enough = sum(len(items) for _, items in self._waiting) >= _ITEMS_PER_COMMIT
        if enough or time.monotonic() - self._committed >= _SECONDS_PER_COMMIT:
            self._commit()

    def _touch(self, file: FoundFile) -> None:
        if file.known is not None:
            self._touched.append(replace(file.known, size=file.size, mtime_ns=file.mtime_ns))
        self.report.unchanged += 1
        self.advance(file.size, self.report)

    def _fail(self, failure: Failure) -> None:
        self.report.failures.append(failure)
        self.advance(failure.size, self.report)

    def _commit(self) -> None:
        """Write complete files: new items first, then old ones are deleted, and only then the files count as done."""
        files, self._waiting = self._waiting, []
        touched, self._touched = self._touched, []
        self._committed = time.monotonic()
        if not files and not touched:
            return
        done = [prepared.record(len(items)) for prepared, items in files]
        with self.catalogue.writing():
            ids = {record.id for record in done}
            older = self.catalogue.records_of([record.path for record in done])
            stale = [record for record in older if record.id not in ids]
            # A file that another process completed in the meantime stays as it is: killed here, this one would undo it.
            complete = {record.id for record in older if record.done}
            self.catalogue.put([replace(record, done=False) for record in done if record.id not in complete])
            lacking = [items for record, (_, items) in zip(done, files, strict=True) if record.id not in complete]
            if lacking:
                self.index.upsert(Items.concatenate(lacking))
            self.index.delete([key for record in stale for key in record.item_keys(self.windowing)])
            self.catalogue.delete(stale)
            self.catalogue.put([*done, *touched])
        self._complete.update((record.content, record) for record in done)


def _items_of(embedded: EmbeddedFile, stems: StemLayout) -> Items:
    """Return the items of a file: the windows in which any stem sounds."""
    sounding = embedded.embeddings.present.any(dim=1).nonzero().squeeze(1)
    vectors, levels, present = embedded.embeddings.take(sounding)
    if "mix" in stems:
        loudness = levels[:, stems.index("mix")]
    else:  # of uncorrelated stems together
        loudness = 10.0 * torch.log10(torch.pow(10.0, levels / 10.0).sum(dim=1))
    windows = [embedded.prepared.windows[row] for row in sounding.tolist()]
    return Items(
        stems=stems,
        start=np.array([window.start for window in windows], np.float64),
        duration=np.array([window.duration for window in windows], np.float64),
        loudness=loudness.double().numpy(),
        present=present.numpy(),
        vectors=vectors.float(),
        **_columns_of(embedded.prepared, windows),
    )


def _copied(found: Items, prepared: PreparedFile) -> Items:
    """Return the items of a file from those of another one with the same content."""
    original = [row for row, content in enumerate(found.content) if content == prepared.content]
    # Several files may have that content: of equal places, the first will do.
    places = {round(float(found.start[row]), 6): row for row in reversed(original)}
    windows = [window for window in prepared.windows if round(window.start, 6) in places]
    rows = found.take([places[round(window.start, 6)] for window in windows])
    return replace(rows, **_columns_of(prepared, windows))


def _columns_of(prepared: PreparedFile, windows: Sequence[Segment]) -> dict[str, Any]:
    """Return the columns that windows of a file have from its path, its content and its tags."""
    path, content, tags, size = str(prepared.file.path), prepared.content, prepared.tags, len(windows)
    keys = [item_key(path, content, window.start, window.duration) for window in windows]
    shared = {
        "content": content,
        "path": path,
        "file_duration": tags.duration,
        "bpm": np.nan if tags.bpm is None else tags.bpm,
        "musical_key": tags.musical_key or "",
    }
    columns = {name: np.full(size, value) for name, value in shared.items()}
    names = (*tags.categories, tags.type) if tags.type else tags.categories
    return {"key": np.array(keys, object), "tags": np.fromiter([names] * size, object, size), **columns}
