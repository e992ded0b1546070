"""Jobs: heavy work that a single thread does, one job after another."""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stemsim.errors import DataNotFoundError, StemsimError, system_message

_log = logging.getLogger(__name__)

_REMEMBERED: Final = 200
_PATIENCE: Final = 10.0  # seconds that closing waits for the job in hand

State = Literal["queued", "running", "done", "failed", "cancelled"]


class CancelledError(Exception):
    """A job was cancelled while it ran."""


@dataclass(eq=False)
class Job:
    """One piece of work, and how far it is."""

    kind: str
    work: Callable[["Job"], dict[str, Any]]
    query: str | None = None  # id of the query that it takes in
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "queued"
    stage: str = "waiting"
    progress: float = 0.0  # from 0 to 1
    message: str | None = None
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    _end: float | None = None  # expected, on the monotonic clock

    @property
    def is_finished(self) -> bool:
        """Whether it will not change any more."""
        return self.state not in {"queued", "running"}

    def advance(self, stage: str, progress: float, seconds_left: float | None = None) -> None:
        """Report how far the work is.

        Raises:
            CancelledError: If the job is to stop.
        """
        if self.cancelled.is_set():
            raise CancelledError
        self.stage, self.progress = stage, progress
        self._end = None if seconds_left is None else time.monotonic() + seconds_left

    def run(self) -> None:
        """Do the work; an error becomes part of the job."""
        self.state = "running"
        try:
            self.result = self.work(self)
        except CancelledError:
            self.state = "cancelled"
        except StemsimError as error:
            self.state, self.error = "failed", {"kind": type(error).__name__, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - one job must not end the thread
            kind, message = type(error).__name__, system_message(error) if isinstance(error, OSError) else None
            if message is None:
                _log.exception("The job %s failed.", self.kind)
                kind, message = "Unexpected", f"An unexpected {kind} stopped this. The terminal shows the details."
            self.state, self.error = "failed", {"kind": kind, "message": message}
        else:
            self.state, self.stage, self.progress = "done", "done", 1.0
        self._end = None
        del self.work  # a finished job is remembered, but must not keep its query in memory

    def to_dict(self) -> dict[str, Any]:
        """Return what the page shows."""
        names = ("id", "kind", "query", "stage", "progress", "message", "result", "error")
        left = None if self._end is None else max(0.0, self._end - time.monotonic())
        state = "cancelled" if self.state == "queued" and self.cancelled.is_set() else self.state
        return {**{name: getattr(self, name) for name in names}, "state": state, "seconds_left": left}


class Jobs:
    """A queue of jobs and the thread that does them."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # A daemon: a batch that takes minutes must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="stemsim-app-jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job:
        """Put a job at the end of the queue."""
        for old in [one for one in self._jobs.values() if one.is_finished][: max(0, len(self._jobs) - _REMEMBERED)]:
            self._jobs.pop(old.id, None)
        self._jobs[job.id] = job
        self._queue.put(job)
        return job

    def get(self, job: str) -> Job:
        """Return a job by its id.

        Raises:
            DataNotFoundError: If there is none.
        """
        found = self._jobs.get(job)
        if found is None:
            raise DataNotFoundError(
                f"There is no job {job!r}; it may be of an earlier run of the server. Start it again."
            )
        return found

    def unfinished(self) -> list[Job]:
        """Return the jobs that wait or run, in order."""
        return [job for job in list(self._jobs.values()) if not job.is_finished]

    def close(self) -> None:
        """Stop the job in hand and forget the others."""
        for job in self.unfinished():
            job.cancelled.set()
        self._queue.put(None)
        self._thread.join(_PATIENCE)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
