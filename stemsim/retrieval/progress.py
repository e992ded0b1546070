"""A progress bar on standard error while files are added."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stemsim.retrieval.report import AddReport

__all__ = ["adding_progress"]


@contextmanager
def adding_progress(files: int, size: int, *, show: bool) -> Iterator[Callable[[int, AddReport], None]]:
    """Show how far a run is: by bytes, as files differ in length and their headers are read on the way.

    Args:
        files: Number of files to look into.
        size: Their size in bytes.
        show: Whether to show anything.

    Yields:
        What is to be told of every file that is through: its size, and the counts so far.
    """
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    begun = time.monotonic()
    through = 0
    with Progress(*columns, console=Console(stderr=True), disable=not show or not files) as bar:
        task = bar.add_task("Adding files", total=max(size, 1), files=f"0/{files} files", rate="")

        def advance(bytes_: int, report: AddReport) -> None:
            nonlocal through
            through += 1
            seconds = max(time.monotonic() - begun, 1e-9)
            rate = f"{report.items / seconds:.1f} items/s, {report.seconds_of_audio / seconds:.0f} x real time"
            bar.update(task, advance=bytes_, files=f"{through}/{files} files", rate=rate)

        yield advance
