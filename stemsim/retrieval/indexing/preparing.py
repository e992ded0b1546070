"""Preparation of files before they are embedded: hashed, tagged and cut."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

from stemsim.audio import Segment
from stemsim.errors import StemsimError
from stemsim.retrieval.catalogue import FileRecord
from stemsim.retrieval.indexing.finding import Failure, FoundFile
from stemsim.retrieval.tags import Tags, describe_file
from stemsim.retrieval.windows import Windowing
from stemsim.separators import StemSource

__all__ = ["Prepared", "PreparedFile", "prepare_files"]

_AHEAD: Final = 8  # files prepared ahead, for each thread


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file with everything that is known before it is embedded.

    Attributes:
        file: The file.
        content: Hash of all bytes that its items depend on.
        windows: The windows that it is cut into.
        tags: Its tags.
    """

    file: FoundFile
    content: str
    windows: tuple[Segment, ...]
    tags: Tags

    def record(self, items: int) -> FileRecord:
        """Return the catalogue's record of the file once all its items are in the index."""
        file, tags = self.file, self.tags
        bpm_measured, key_measured = "bpm" in tags.measured, "musical_key" in tags.measured
        path, content, duration = str(file.path), self.content, tags.duration
        return FileRecord(
            path, file.size, file.mtime_ns, content, items, duration, bpm_measured, key_measured, done=True
        )


Prepared = PreparedFile | FoundFile | Failure
"""A prepared file, the found one if its content is unchanged, or why it cannot be read."""


def prepare_files(
    files: Sequence[FoundFile], source: StemSource, windowing: Windowing, *, listen: bool, workers: int
) -> Iterator[Prepared]:
    """Hash, tag and cut files, several at the same time and a little ahead of demand; yield them in order.

    Args:
        files: The files.
        source: The source of their stems.
        windowing: How they are cut.
        listen: Whether to measure tempo and key.
        workers: Number of threads.
    """
    remaining = iter(files)
    with ThreadPoolExecutor(workers, "stemsim-files") as pool:

        def submit(file: FoundFile) -> Future[Prepared]:
            return pool.submit(_prepare, file, source, windowing, listen)

        ahead = [submit(file) for file in islice(remaining, _AHEAD * workers)]
        try:
            while ahead:
                result = ahead.pop(0).result()
                ahead += [submit(file) for file in islice(remaining, 1)]
                yield result
        finally:
            for future in ahead:
                future.cancel()


def _prepare(file: FoundFile, source: StemSource, windowing: Windowing, listen: bool) -> Prepared:
    try:
        windows = windowing.cut(file.path)
        content = source.content_hash(windows[0])
        if file.known is not None and file.known.content == content:
            return file
        return PreparedFile(file, content, tuple(windows), describe_file(file.path, listen=listen))
    except (StemsimError, OSError) as error:
        return Failure(file.path, str(error), file.size)
