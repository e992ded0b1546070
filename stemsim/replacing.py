"""Files that are written beside their place, and take it once they are whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stemsim.errors import OutputError

__all__ = ["PARTIAL", "replacing", "write_text"]

PARTIAL = ".partial-"
"""With what the hidden folder begins in which files are written; a killed process leaves it."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file to, which then takes the place of another in one step.

    After an error, or in a process that is killed, the old file is as it was. A link is followed, the mode of an old
    file is kept, a missing folder is made; a pipe or another device is written to itself.

    Args:
        path: The file to write.

    Raises:
        OutputError: If it cannot be written, such as on a full disk.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=PARTIAL) as folder:
            partial = Path(folder) / target.name  # some writers look at the suffix
            yield partial
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            partial.replace(target)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}). Make room, allow writing there, or name another "
            "file; nothing was changed."
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text file by `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
