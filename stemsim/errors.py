"""Every error that stemsim raises on purpose.

A message says what was expected, what was seen and what to do next. Catch `StemsimError` to catch them all.
"""

import errno
from typing import Final

__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "DataNotFoundError",
    "EmbeddingError",
    "OutputError",
    "ResultsError",
    "SplitError",
    "StemMismatchError",
    "StemsimError",
    "StoreError",
    "TripletError",
    "system_message",
]

_DENIED: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}


def system_message(error: OSError) -> str | None:
    """Return what to do where the system does not let a file be read or written; None for any other error."""
    if error.errno not in _DENIED:
        return None
    return (
        f"{error.strerror}: {error.filename or 'a file'}. Make room or allow this user to write there, or name another "
        "folder."
    )


class StemsimError(Exception):
    """Base of all errors raised by stemsim."""


class AudioError(StemsimError):
    """An audio file cannot be read, or does not contain the requested segment."""


class DataNotFoundError(StemsimError):
    """A folder or file that the user has to supply is missing."""


class ConfigError(StemsimError):
    """Two settings contradict each other, or a value is out of range."""


class StemMismatchError(StemsimError):
    """Two things that must share one stem layout do not."""

    def __init__(self, expected: tuple[str, ...], seen: tuple[str, ...], what: str, remedy: str) -> None:
        super().__init__(expected, seen, what, remedy)  # its arguments, so that it can be pickled for worker processes
        self.expected = expected
        self.seen = seen

    def __str__(self) -> str:
        expected, seen, what, remedy = self.args
        layouts = f"{what} has ({', '.join(seen)}), expected ({', '.join(expected)})"
        return f"Stem layouts differ: {layouts}. The order counts. {remedy}"


class EmbeddingError(StemsimError):
    """An encoder or separator returned something that is not an embedding or a stem."""


class OutputError(StemsimError):
    """A result cannot be written to its file."""


class StoreError(StemsimError):
    """The embedding store cannot be opened, read or written."""


class TripletError(StemsimError):
    """A triplet table breaks its own rules, or a listening test cannot be read."""


class SplitError(StemsimError):
    """A split of the triplets has an empty part."""


class CheckpointError(StemsimError):
    """A checkpoint is missing, damaged or of another kind."""


class ResultsError(StemsimError):
    """The results of a run are damaged, or of another kind."""
