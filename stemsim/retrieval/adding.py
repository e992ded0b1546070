"""Adding files to a library: what is new is embedded, what is complete is committed, batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from stemsim.retrieval.catalogue import Catalogue, FileRecord
from stemsim.retrieval.extraction import Extraction
from stemsim.retrieval.files import Failure, FoundFile, PreparedFile, Touched
from stemsim.retrieval.index import Index
from stemsim.retrieval.item import Items
from stemsim.retrieval.report import AddReport
from stemsim.retrieval.rows import copied, item_keys, rows_of
from stemsim.retrieval.windows import Windowing

__all__ = ["Adding", "Progress"]

_ITEMS_PER_COMMIT: Final = 512
_SECONDS_PER_COMMIT: Final = 5.0
_COMMITS_PER_MERGE: Final = 100
_FILES_PER_READ: Final = 256

Progress = Callable[[int, AddReport], None]
"""Called with the size in bytes of a file that is through, and the counts so far."""


class Adding:
    """One run of adding files to a library.

    Args:
        catalogue: The library's files.
        index: The library's items.
        extraction: Prepares and embeds files.
        windowing: How files are cut.
        on_progress: Told of every file that is through.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        index: Index,
        extraction: Extraction,
        *,
        windowing: Windowing,
        on_progress: Progress,
    ) -> None:
        self.report = AddReport()
        self._catalogue = catalogue
        self._index = index
        self._extraction = extraction
        self._windowing = windowing
        self._on_progress = on_progress
        self._complete: dict[str, FileRecord] = {}  # by content
        self._begun: set[str] = set()  # contents
        self._copies: list[PreparedFile] = []
        self._touched: list[FileRecord] = []
        self._waiting: list[tuple[PreparedFile, Items]] = []
        self._committed = time.monotonic()
        self._commits = 0

    def run(self, files: Sequence[FoundFile], known: Sequence[FileRecord]) -> AddReport:
        """Add files; what is complete is committed every few seconds, and whatever ends the run early.

        Args:
            files: The files to look into.
            known: What the library holds.

        Returns:
            What came of it.
        """
        self._complete = {record.content: record for record in known if record.done}
        try:
            self._embed(self._new(files))
            self._commit()
            self._copy()
        finally:
            self._commit()
        return self.report

    def _new(self, files: Sequence[FoundFile]) -> Iterator[PreparedFile]:
        """Yield the files whose content is new; those whose content is known, or on its way, are copied in the end."""
        for result in self._extraction.prepare(files):
            if isinstance(result, Failure):
                self._fail(result)
            elif isinstance(result, Touched):
                self._touch(result.file)
            elif result.content in self._complete or result.content in self._begun:
                self._copies.append(result)
            else:
                self._begun.add(result.content)
                yield result

    def _embed(self, files: Iterator[PreparedFile] | list[PreparedFile]) -> None:
        for result in self._extraction.embed(files):
            if isinstance(result, Failure):
                self._fail(result)
                continue
            self.report.seconds_of_audio += sum(window.duration for window in result.prepared.windows)
            self._take(result.prepared, rows_of(result, self._index.spec.stems))

    def _copy(self) -> None:
        """Give the files with a content that the library holds the vectors that it has of it."""
        for start in range(0, len(self._copies), _FILES_PER_READ):
            files = self._copies[start : start + _FILES_PER_READ]
            originals = {file.content: self._complete[file.content] for file in files if file.content in self._complete}
            keys = [key for record in originals.values() for key in item_keys(record, self._windowing)]
            found = self._index.items(keys)
            lacking: list[PreparedFile] = []
            for file in files:
                rows = copied(found, file)
                if file.content in originals and len(rows) == originals[file.content].items:
                    self.report.copied += 1
                    self._take(file, rows)
                else:  # its original failed, or was removed in the meantime
                    lacking.append(file)
            self._embed(lacking)

    def _take(self, prepared: PreparedFile, rows: Items) -> None:
        """Count a complete file, and commit if there is enough to commit."""
        if prepared.file.known is None:
            self.report.added += 1
        else:
            self.report.changed += 1
        self.report.silent += len(rows) == 0
        self.report.items += len(rows)
        self._waiting.append((prepared, rows))
        self._on_progress(prepared.file.size, self.report)
        enough = sum(len(rows) for _, rows in self._waiting) >= _ITEMS_PER_COMMIT
        if enough or time.monotonic() - self._committed >= _SECONDS_PER_COMMIT:
            self._commit()

    def _touch(self, file: FoundFile) -> None:
        """Note that a file has a new time of modification and nothing else new."""
        if file.known is not None:
            self._touched.append(replace(file.known, size=file.size, mtime_ns=file.mtime_ns))
        self.report.unchanged += 1
        self._on_progress(file.size, self.report)

    def _fail(self, failure: Failure) -> None:
        self.report.failures.append(failure)
        self._on_progress(failure.size, self.report)

    def _commit(self) -> None:
        """Write what is complete: new items first, then old ones go, and only then the files count as done."""
        files, self._waiting = self._waiting, []
        touched, self._touched = self._touched, []
        self._committed = time.monotonic()
        if not files and not touched:
            return
        done = [prepared.record(len(rows), done=True) for prepared, rows in files]
        with self._catalogue.writing():
            ids = {record.id for record in done}
            older = self._catalogue.records_of([record.path for record in done])
            stale = [record for record in older if record.id not in ids]
            # What another process completed in the meantime stays as it is: killed here, this one would undo it.
            there = {record.id for record in older if record.done}
            self._catalogue.put([replace(record, done=False) for record in done if record.id not in there])
            lacking = [rows for record, (_, rows) in zip(done, files, strict=True) if record.id not in there]
            if lacking:
                self._index.upsert(Items.concatenate(lacking))
            self._index.delete([key for record in stale for key in item_keys(record, self._windowing)])
            self._catalogue.delete(stale)
            self._catalogue.put([*done, *touched])
            self._commits += 1
            if self._commits % _COMMITS_PER_MERGE == 0:  # a long run leaves many small files behind
                self._index.optimise()
                self._catalogue.compact()
        self._complete.update((record.content, record) for record in done)
