"""`stemsim embed`: fill the embedding store ahead of training, on one device or several."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from stemsim.training.data import TripletDataModule

__all__ = ["embed_command"]


def embed_command(
    context: typer.Context,
    config: Annotated[
        list[Path], typer.Option("--config", "-c", help="Configuration as for train.py; later files override earlier.")
    ],
    devices: Annotated[
        str | None,
        typer.Option(help="Devices apart by commas, e.g. cuda:0,cuda:1: one process each fills the same store."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="I/N: embed the I-th of N parts of the segments, e.g. 1/4 on the first of four machines."),
    ] = None,
) -> None:
    """Embed every segment that a configuration needs, and keep the result in its store.

    Segments already in the store are skipped, so an interrupted run goes on where it stopped. Further arguments
    override the configuration as they do for train.py, e.g. `--data.embedding_batch 32`.
    """
    arguments = [*(f"--config={path}" for path in config), *context.args]
    with readable_errors():
        if devices is not None and "," in devices:
            _embed_on(devices.split(","), arguments)
        elif devices is not None:
            arguments += ["--data.device", devices]
        _embed(arguments, shard)


def _embed_on(devices: list[str], arguments: list[str]) -> None:
    """Start one process a device, each with a part of the segments, and wait for all of them."""
    from stemsim.errors import EmbeddingError

    command = [sys.executable, "-m", "stemsim.cli", "embed", *arguments]
    processes = []
    for index, device in enumerate(devices):
        quiet = ["--data.progress", "false"] if index else []  # one bar is enough
        part = ["--shard", f"{index + 1}/{len(devices)}", "--data.device", device.strip(), *quiet]
        processes.append(subprocess.Popen([*command, *part], stdout=subprocess.DEVNULL))  # noqa: S603 - our own
    failed = [device for device, process in zip(devices, processes, strict=True) if process.wait() != 0]
    if failed:
        msg = (
            f"The process on {', '.join(failed)} failed; what it says is above. What was embedded is stored: run the "
            "command again to embed the rest."
        )
        raise EmbeddingError(msg)


def _embed(arguments: list[str], shard: str | None) -> None:
    from stemsim.training.cli import StemsimCLI, set_up_logging

    set_up_logging()
    data = StemsimCLI(arguments, run=False).datamodule
    if shard is not None:
        segments = sorted(data.read().segments)
        index, count = _parse_shard(shard)
        part = segments[len(segments) * (index - 1) // count : len(segments) * index // count]
        data.embedder.embed(part)
        typer.echo(f"Part {index} of {count}: {len(part)} of {len(segments)} segments are in the store.")
        return
    data.prepare_data()
    data.setup("embed")
    _show(data)


def _parse_shard(shard: str) -> tuple[int, int]:
    """Return which of how many parts, counted from 1."""
    from stemsim.errors import ConfigError

    index, slash, count = shard.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
        msg = f"--shard is I/N with I from 1 to N, such as 1/4; got {shard!r}."
        raise ConfigError(msg)
    return int(index), int(count)


def _show(data: "TripletDataModule") -> None:
    """Print how much of each stem there is."""
    from rich.console import Console
    from rich.table import Table

    store = data.embedder.store
    table = Table()
    for column in ("stem", "segments where it sounds", "median level there, dBFS"):
        table.add_column(column, justify="left" if column == "stem" else "right")
    present, levels = data.embeddings.present, data.embeddings.levels
    for index, stem in enumerate(data.stems):
        heard = levels[present[:, index], index]
        level = f"{heard.median():.1f}" if len(heard) else "-"
        table.add_row(stem, f"{len(heard)} of {len(present)}", level)
    console = Console(soft_wrap=True)
    console.print(f"{data.table().source}: {len(data.table())} triplets over {len(data.table().segments)} segments")
    console.print(table)
    if store is not None:
        console.print(f"Store {store.root}: {len(store)} segments of {store.spec.separator} x {store.spec.encoder}")
