"""Files on their way into a library: found on the disk, then read, described and cut."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from stemsim.audio import Segment, is_audio_path
from stemsim.errors import DataNotFoundError, StemsimError
from stemsim.retrieval.catalogue import FileRecord
from stemsim.retrieval.metadata import Metadata, describe_file
from stemsim.retrieval.windows import Windowing
from stemsim.separators import StemSource

__all__ = ["Failure", "FoundFile", "PreparedFile", "Touched", "absolute", "find_files", "prepare_files", "stat_files"]

_AHEAD: Final = 8  # files prepared ahead, for each thread


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found.

    Attributes:
        path: Its absolute path.
        size: Bytes.
        mtime_ns: Time of modification in ns.
        known: The library's record of it; None if it is new.
    """

    path: Path
    size: int
    mtime_ns: int
    known: FileRecord | None = None

    @property
    def is_unchanged(self) -> bool:
        """Whether size and time of modification are those of the record."""
        return self.known is not None and (self.size, self.mtime_ns) == (self.known.size, self.known.mtime_ns)


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file with all that is known before it is embedded.

    Attributes:
        file: The file.
        content: Hash of all bytes that its items depend on.
        windows: What it is cut into.
        metadata: What is known of it.
    """

    file: FoundFile
    content: str
    windows: tuple[Segment, ...]
    metadata: Metadata

    def record(self, items: int, *, done: bool) -> FileRecord:
        """Return what the catalogue says of the file.

        Args:
            items: How many items it has.
            done: Whether all of them are in the index.
        """
        return FileRecord(
            str(self.file.path),
            self.file.size,
            self.file.mtime_ns,
            self.content,
            items,
            self.metadata.duration,
            "bpm" in self.metadata.measured,
            "musical_key" in self.metadata.measured,
            done,
        )


@dataclass(frozen=True, slots=True)
class Touched:
    """A file whose time of modification is new and whose content is not.

    Attributes:
        file: The file.
    """

    file: FoundFile


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that cannot be added.

    Attributes:
        path: The file.
        reason: Why.
        size: Its size in bytes, as far as it is known.
    """

    path: Path
    reason: str
    size: int = 0


def find_files(paths: Sequence[str | Path], *, mixes_only: bool = False) -> tuple[list[Path], list[Failure]]:
    """Find the audio files in folders and their subfolders.

    Hidden files and folders are left out, and so are links to folders, which may go in circles. A file that is named
    itself is taken whatever its ending.

    Args:
        paths: Files and folders.
        mixes_only: Take `mix.*` alone: the files beside it are its stems.

    Returns:
        Absolute paths, sorted, each once; and folders that cannot be opened.

    Raises:
        DataNotFoundError: If one of `paths` is not there.
    """
    found: dict[Path, None] = {}
    failures: list[Failure] = []

    def cannot_open(error: OSError) -> None:
        failures.append(Failure(Path(str(error.filename)), f"Cannot open the folder: {error.strerror}."))

    for path in map(absolute, paths):
        if path.is_dir():
            for folder, subfolders, names in os.walk(path, onerror=cannot_open):
                subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
                files = (Path(folder) / name for name in sorted(names))
                found.update((file, None) for file in files if _is_wanted(file, mixes_only=mixes_only))
        elif path.exists() or path.is_symlink():
            found[path] = None
        else:
            msg = f"No file or folder at {path}. Check the path."
            raise DataNotFoundError(msg)
    return sorted(found), failures


def absolute(path: str | Path) -> Path:
    """Return a path from the root on, with links as they are: the way by which the user knows the file.

    Args:
        path: Any path; `~` is the home folder.
    """
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - `resolve` follows links


def _is_wanted(path: Path, *, mixes_only: bool) -> bool:
    return is_audio_path(path) and (path.stem == "mix" or not mixes_only)


def prepare_files(
    files: Sequence[FoundFile], source: StemSource, windowing: Windowing, *, listen: bool, workers: int
) -> Iterator[PreparedFile | Touched | Failure]:
    """Hash, describe and cut files, several at the same time and a little ahead of what is asked for.

    Args:
        files: The files.
        source: Where their stems are going to come from.
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


def stat_files(
    paths: Sequence[Path], known: dict[str, FileRecord], *, always: bool = False
) -> tuple[list[FoundFile], int, list[Failure]]:
    """Tell the files that may have changed from those that have not, by size and time of modification.

    Args:
        paths: The files.
        known: The library's records by path.
        always: Look into all of them.

    Returns:
        The files to look into, how many others there are, and those that cannot be looked at.
    """
    found: list[FoundFile] = []
    failures: list[Failure] = []
    unchanged = 0
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            failures.append(Failure(path, f"Cannot look at the file: {error.strerror}."))
            continue
        if not _has_a_name(path):
            failures.append(Failure(path, "The name of the file is no UTF-8. Rename it.", stat.st_size))
            continue
        file = FoundFile(path, stat.st_size, stat.st_mtime_ns, known.get(str(path)))
        if file.is_unchanged and not always:
            unchanged += 1
        else:
            found.append(file)
    return found, unchanged, failures


def _has_a_name(path: Path) -> bool:
    """Tell whether a path can be stored as text; old archives leave names in other encodings behind."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
