"""Files of a library on their way to being embedded: found, compared with the catalogue, hashed, tagged and cut."""

import os
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from stemsim.audio import Segment, audio_info, is_audio_path
from stemsim.errors import DataNotFoundError, StemsimError
from stemsim.retrieval.catalogue import FileRecord, absolute
from stemsim.retrieval.tags import Tags, describe_file
from stemsim.retrieval.windows import Windowing
from stemsim.separators import StemSource

__all__ = [
    "Failure",
    "FoundAudio",
    "FoundFile",
    "Prepared",
    "PreparedFile",
    "find_files",
    "prepare_files",
    "stat_files",
    "unexpected",
]

_AHEAD: Final = 8  # files prepared ahead, for each thread


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to look into, with its size in bytes and time of modification in ns; `known` is the library's record."""

    path: Path
    size: int
    mtime_ns: int
    known: FileRecord | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that cannot be added, with the reason and, if known, its size in bytes."""

    path: Path
    reason: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file before it is embedded: with the hash of all bytes that its items depend on, its windows and its tags."""

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


Prepared = PreparedFile | FoundFile | Failure
"""A prepared file, the found one if its content is unchanged, or why it cannot be read."""


@dataclass(slots=True)
class FoundAudio:
    """Result of searching folders for audio.

    Attributes:
        paths: Absolute paths, sorted, each once.
        skipped: Numbers of files and folders that were not taken, by the extension of their names in lower case, or as
            `without extension`, `hidden` or `linked folders`.
        failures: Folders that cannot be opened.
    """

    paths: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


def find_files(paths: Sequence[str | Path], *, mixes_only: bool = False, follow_links: bool = False) -> FoundAudio:
    """Find the audio files in folders and their subfolders.

    A file that is named itself is taken whatever its extension, one in a folder if `AUDIO_SUFFIXES` has it.

    Args:
        paths: Folders and files.
        mixes_only: Take only `mix.*` from folders, as the files beside it are its stems.
        follow_links: Search linked folders too, each folder once.

    Raises:
        DataNotFoundError: If one of `paths` does not exist.
    """
    result, found = FoundAudio(), set[Path]()
    for path in map(absolute, paths):
        if path.is_dir():
            found.update(_walk(path, result, mixes_only=mixes_only, follow_links=follow_links))
        elif path.exists() or path.is_symlink():
            found.add(path)
        else:
            raise DataNotFoundError(f"No file or folder at {path}. Check the path.")
    result.paths = sorted(found)
    return result


def _walk(root: Path, result: FoundAudio, *, mixes_only: bool, follow_links: bool) -> Iterator[Path]:
    """Yield the audio files of a folder; count in `result` what is skipped."""

    def cannot_open(error: OSError) -> None:
        result.failures.append(Failure(Path(str(error.filename)), f"Cannot open the folder: {error.strerror}."))

    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, onerror=cannot_open, followlinks=follow_links):
        if follow_links:
            stat = Path(folder).stat()
            if (stat.st_dev, stat.st_ino) in seen:  # links may form a circle
                subfolders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
        else:
            result.skipped["linked folders"] += sum(Path(folder, name).is_symlink() for name in subfolders)
        result.skipped["hidden"] += sum(name.startswith(".") for name in (*subfolders, *names))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for path in (Path(folder) / name for name in names if not name.startswith(".")):
            if not is_audio_path(path):
                result.skipped[path.suffix.lower() or "without extension"] += 1
            elif path.stem == "mix" or not mixes_only:
                yield path


def stat_files(
    paths: Sequence[Path], known: Mapping[str, FileRecord], *, always: bool = False
) -> tuple[list[FoundFile], int, list[Failure]]:
    """Separate files that may have changed from those that have not, by size and time of modification.

    Args:
        paths: The files.
        known: The library's records by path.
        always: Take all of them as changed.

    Returns:
        The files to look into, the number of unchanged ones, and those that cannot be accessed.
    """
    found: list[FoundFile] = []
    failures: list[Failure] = []
    unchanged = 0
    for path in paths:
        try:
            stat = path.stat()
            str(path).encode()
        except OSError as error:
            failures.append(Failure(path, f"Cannot access the file: {error.strerror}."))
            continue
        except UnicodeEncodeError:  # old archives leave names in other encodings behind
            failures.append(Failure(path, "The name of the file is not valid UTF-8. Rename it.", stat.st_size))
            continue
        record = known.get(str(path))
        if record is None or always or (stat.st_size, stat.st_mtime_ns) != (record.size, record.mtime_ns):
            found.append(FoundFile(path, stat.st_size, stat.st_mtime_ns, record))
        else:
            unchanged += 1
    return found, unchanged, failures


def prepare_files(
    files: Sequence[FoundFile], source: StemSource, windowing: Windowing, *, listen: bool, workers: int
) -> Generator[Prepared]:
    """Hash, tag and cut files in several threads, a little ahead of demand; yield them in order.

    `source` is that of their stems; `listen`: measure tempo and key.
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
        windows = [Segment(file.path, *span) for span in windowing.spans(audio_info(file.path).duration)]
        content = source.content_hash(windows[0])
        if file.known is not None and file.known.content == content:
            return file
        return PreparedFile(file, content, tuple(windows), describe_file(file.path, listen=listen))
    except StemsimError as error:
        return Failure(file.path, str(error), file.size)
    except Exception as error:  # noqa: BLE001 - whatever a file causes must not stop the others
        return Failure(file.path, unexpected(error), file.size)


def unexpected(error: Exception) -> str:
    """Describe an error that is not ours, for a list of failures."""
    return f"An unexpected {type(error).__name__}: {error}. Remove the file from the folder, or convert it to wav."
