"""Every error that stemsim raises on purpose.

A message says what was expected, what was seen and what to do next. Catch `StemsimError` to catch them all.
"""

from functools import partial
from typing import Any

__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "DataNotFoundError",
    "EmbeddingError",
    "ResultsError",
    "SplitError",
    "StemMismatchError",
    "StemsimError",
    "StoreError",
    "TripletError",
]


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

    def __init__(self, expected: tuple[str, ...], seen: tuple[str, ...], *, what: str, remedy: str) -> None:
        super().__init__(
            f"Stem layouts differ: {what} has ({', '.join(seen)}), expected ({', '.join(expected)}). "
            f"The order counts. {remedy}"
        )
        self.expected = expected
        self.seen = seen
        self._words = {"what": what, "remedy": remedy}

    def __reduce__(self) -> tuple[Any, ...]:
        """Make the error picklable, for worker processes."""
        return partial(StemMismatchError, self.expected, self.seen, **self._words), ()


class EmbeddingError(StemsimError):
    """An encoder or separator returned something that is not an embedding or a stem."""


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
