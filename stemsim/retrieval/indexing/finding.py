"""Audio files on the disk, and which of them may have changed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stemsim.audio import is_audio_path
from stemsim.errors import DataNotFoundError
from stemsim.retrieval.catalogue import FileRecord, absolute

__all__ = ["Failure", "FoundFile", "find_files", "stat_files"]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to look into.

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


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that cannot be added, with the reason and, if known, its size in bytes."""

    path: Path
    reason: str
    size: int = 0


def find_files(paths: Sequence[str | Path], *, mixes_only: bool = False) -> tuple[list[Path], list[Failure]]:
    """Find the audio files in folders and their subfolders.

    Hidden files and folders are left out, and so are links to folders, which may form cycles. A file that is named
    itself is taken whatever its extension.

    Args:
        paths: Files and folders.
        mixes_only: Take only `mix.*`: the files beside it are its stems.

    Returns:
        Absolute paths, sorted, each once; and folders that cannot be opened.

    Raises:
        DataNotFoundError: If one of `paths` does not exist.
    """
    found: set[Path] = set()
    failures: list[Failure] = []

    def cannot_open(error: OSError) -> None:
        failures.append(Failure(Path(str(error.filename)), f"Cannot open the folder: {error.strerror}."))

    for path in map(absolute, paths):
        if path.is_dir():
            for folder, subfolders, names in os.walk(path, onerror=cannot_open):
                subfolders[:] = [name for name in subfolders if not name.startswith(".")]
                files = (Path(folder) / name for name in names)
                found.update(file for file in files if is_audio_path(file) and (file.stem == "mix" or not mixes_only))
        elif path.exists() or path.is_symlink():
            found.add(path)
        else:
            msg = f"No file or folder at {path}. Check the path."
            raise DataNotFoundError(msg)
    return sorted(found), failures


def stat_files(
    paths: Sequence[Path], known: Mapping[str, FileRecord], *, always: bool = False
) -> tuple[list[FoundFile], int, list[Failure]]:
    """Separate files that may have changed from those that have not, by size and time of modification.

    Args:
        paths: The files.
        known: The library's records by path.
        always: Look into all of them.

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
