"""Threads that work on batches in parallel."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

import torch

__all__ = ["default_workers", "work"]

_MOST: Final = 8  # each holds the activations of a batch
_ON_GPU: Final = 2  # one reads audio while the other computes

Task = TypeVar("Task")
Result = TypeVar("Result")


def default_workers(device: torch.device) -> int:
    """Return the number of threads that makes the best use of a device: one per core (up to 8), or two on a GPU."""
    return min(torch.get_num_threads(), _MOST) if device.type == "cpu" else _ON_GPU


def work(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, device: torch.device
) -> Iterator[tuple[Task, Result]]:
    """Apply a function to tasks in several threads and yield each result as soon as it is ready.

    On a CPU the threads share the cores evenly. One thread per core, each computing alone, is faster than all cores
    together on one batch after the other, because no operation has to wait for the slowest core.

    Args:
        function: Applied to each task.
        tasks: Consumed as they are needed.
        workers: Number of threads.
        device: Device on which the function computes.

    Yields:
        Task and result, in order of completion. After an error no new task is started; the results of the tasks that
        were already running are yielded before the error is raised.
    """
    failed = threading.Event()

    def attempt(task: Task) -> list[tuple[Task, Result]]:
        if failed.is_set():
            return []
        try:
            return [(task, function(task))]
        except BaseException:
            failed.set()
            raise

    before = torch.get_num_threads()
    each = max(1, before // workers) if device.type == "cpu" else before
    pool = ThreadPoolExecutor(workers, "stemsim", initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield from _completed(pool, attempt, iter(tasks), workers)
    finally:
        failed.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # part of this setting is shared by the whole process


def _completed(
    pool: ThreadPoolExecutor,
    attempt: Callable[[Task], list[tuple[Task, Result]]],
    tasks: Iterator[Task],
    workers: int,
) -> Iterator[tuple[Task, Result]]:
    """Keep the pool busy with one task waiting; raise the first error at the end."""
    running: set[Future[list[tuple[Task, Result]]]] = set()
    error: BaseException | None = None
    exhausted = False
    while running or not exhausted:
        while len(running) <= workers and not exhausted:
            for task in tasks:
                running.add(pool.submit(attempt, task))
                break
            else:
                exhausted = True
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            if (failure := future.exception()) is None:
                yield from future.result()
            else:
                error, exhausted = error or failure, True
    if error is not None:
        raise error
