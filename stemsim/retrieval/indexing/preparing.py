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

__all__ = ["PreparedFile", "Touched", "prepare_files"]

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
        return FileRecord(
            path=str(self.file.path),
            size=self.file.size,
            mtime_ns=self.file.mtime_ns,
            content=self.content,
            items=items,
            duration=self.tags.duration,
            bpm_measured="bpm" in self.tags.measured,
            key_measured="musical_key" in self.tags.measured,
            done=True,
        )


@dataclass(frozen=True, slots=True)
class Touched:
    """A file with a new time of modification and the old content."""

    file: FoundFile


def prepare_files(
    files: Sequence[FoundFile], source: StemSource, windowing: Windowing, *, listen: bool, workers: int
) -> Iterator[PreparedFile | Touched | Failure]:
    """Hash, tag and cut files, several at the same time and a little ahead of demand.

    Args:
        files: The files.
        source: The source of their stems.
        windowing: How they are cut.
        listen: Whether to measure tempo and key.
        workers: Number of threads.

    Yields:
        Each file, or why it cannot be read, in order.
    """
    remaining = iter(files)
    with ThreadPoolExecutor(workers, "stemsim-files") as pool:

        def submit(file: FoundFile) -> Future[PreparedFile | Touched | Failure]:
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


def _prepare(
    file: FoundFile, source: StemSource, windowing: Windowing, listen: bool
) -> PreparedFile | Touched | Failure:
    try:
        windows = windowing.cut(file.path)
        content = source.content_hash(windows[0])
        if file.known is not None and file.known.content == content:
            return Touched(file)
        return PreparedFile(file, content, tuple(windows), describe_file(file.path, listen=listen))
    except (StemsimError, OSError) as error:
        return Failure(file.path, str(error), file.size)
