"""Threads that work on batches side by side."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Final, TypeVar

import torch

from stemsim.embedding.allocator import kept_memory

__all__ = ["default_workers", "work"]

_MOST: Final = 8  # each holds the activations of a batch
_ON_GPU: Final = 2

Task = TypeVar("Task")
Result = TypeVar("Result")


def default_workers(device: torch.device) -> int:
    """Return how many workers make the best of a device.

    Args:
        device: Where they compute.
    """
    return min(torch.get_num_threads(), _MOST) if device.type == "cpu" else _ON_GPU


def work(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, device: torch.device
) -> Iterator[tuple[Task, Result]]:
    """Call a function on tasks in several threads, and yield each result as soon as it is there.

    On a CPU the threads share the cores evenly: one a core, each computing alone, does more than all cores together on
    one batch after the other, since no operation waits for the slowest core.

    Args:
        function: What is done with a task.
        tasks: Taken as they are needed.
        workers: Number of threads.
        device: Where they compute.

    Yields:
        Task and result, in the order in which they get ready. After an error no new task begins, and what the other
        threads had in hand is yielded before it is raised.
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
    memory = kept_memory() if device.type == "cpu" else nullcontext()
    try:
        with memory:
            yield from _completed(pool, attempt, iter(tasks), workers)
    finally:
        failed.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a part of it is the whole process'


def _completed(
    pool: ThreadPoolExecutor,
    attempt: Callable[[Task], list[tuple[Task, Result]]],
    tasks: Iterator[Task],
    workers: int,
) -> Iterator[tuple[Task, Result]]:
    """Keep the pool busy with one task in waiting; raise the first error at the end."""
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
