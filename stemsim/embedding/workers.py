"""Threads that work on batches in parallel."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def default_workers(device: torch.device) -> int:
    """Return the best number of threads for a device: one per core of a CPU, up to eight, and two for a GPU."""
    if device.type == "cpu":
        return min(torch.get_num_threads(), 8)  # each holds the activations of a batch
    return 2  # one reads audio while the other computes


def work(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, device: torch.device
) -> Iterator[tuple[Task, Result]]:
    """Apply a function to tasks in several threads and yield each result as soon as it is ready.

    On a CPU the threads share the cores evenly. One thread per core, each computing alone, is faster than all cores
    together on one batch after the other, because no operation has to wait for the slowest core.

    Yields:
        Task and result, in order of completion. After an error no new task is started; the results of the tasks that
        were already running are yielded before the error is raised.
    """
    failed = threading.Event()

    def attempt(task: Task) -> list[Result]:
        if failed.is_set():
            return []
        try:
            return [function(task)]
        except BaseException:
            failed.set()
            raise

    before = torch.get_num_threads()
    each = max(1, before // workers) if device.type == "cpu" else before
    pool = ThreadPoolExecutor(workers, "stemsim", initializer=torch.set_num_threads, initargs=(each,))
    queue, errors = iter(tasks), list[BaseException]()
    running: dict[Future[list[Result]], Task] = {}
    try:
        while True:
            if not errors:  # one task waits, so that no thread ever does
                running |= {pool.submit(attempt, task): task for task in islice(queue, workers + 1 - len(running))}
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                if (error := future.exception()) is not None:
                    errors.append(error)
                else:
                    yield from ((task, result) for result in future.result())
        if errors:
            raise errors[0]
    finally:
        failed.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # part of this setting is shared by the whole process
