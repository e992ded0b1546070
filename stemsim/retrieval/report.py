"""What came of adding files to a library."""

from dataclasses import dataclass, field
from typing import Any

from stemsim.retrieval.files import Failure

__all__ = ["AddReport"]


@dataclass(slots=True)
class AddReport:
    """Counts of one run, complete when it has ended.

    Attributes:
        added: New files.
        changed: Files whose new content replaced the old one.
        unchanged: Files that were in already.
        copied: Of these, those whose content was in under another path, so that they were not embedded again.
        silent: Of these, those without a window that sounds, which no search can find.
        items: Their items.
        seconds_of_audio: Length of what was embedded.
        seconds: How long it took.
        failures: Files that cannot be read or embedded, with the reasons.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    copied: int = 0
    silent: int = 0
    items: int = 0
    seconds_of_audio: float = 0.0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dictionaries and lists."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "failures"}
        failures = [{"path": str(failure.path), "reason": failure.reason} for failure in self.failures]
        return {**counts, "failures": failures}
