"""`stemsim embed`: fill the embedding store before training, on one device or on several."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from stemsim.cli.errors import readable_errors
from stemsim.errors import ConfigError, EmbeddingError

if TYPE_CHECKING:
    from stemsim.training.data import TripletDataModule

T = TypeVar("T")


class _Shard(NamedTuple):
    """Part `number` of `total` equal parts of a sequence, counted from 1."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "_Shard":
        """Read `I/N`."""
        number, _, total = text.partition("/")
        if not number.isdecimal() or not total.isdecimal() or not 1 <= int(number) <= int(total):
            raise ConfigError(f"--shard must be I/N with I from 1 to N, such as 1/4; got {text!r}.")
        return cls(int(number), int(total))

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this part."""
        return items[len(items) * (self.number - 1) // self.total : len(items) * self.number // self.total]

    def split(self, parts: int) -> "list[_Shard]":
        """Return smaller parts that together are exactly this one."""
        return [_Shard((self.number - 1) * parts + part, self.total * parts) for part in range(1, parts + 1)]


def embed_command(
    context: typer.Context,
    config: Annotated[
        list[Path], typer.Option("--config", "-c", help="Configuration as for train.py; later files override earlier.")
    ],
    devices: Annotated[
        str | None,
        typer.Option(help="Comma-separated devices, e.g. cuda:0,cuda:1: one process for each fills the same store."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="I/N: embed only the I-th of N parts of the segments, e.g. 1/4 on the first of four machines. With "
            "several --devices, they share this part."
        ),
    ] = None,
) -> None:
    """Embed every segment that a configuration needs and keep the result in its store.

    Segments that are already in the store are skipped, so an interrupted run continues where it stopped. Any further
    arguments override the configuration, as they do for train.py: `--data.embedding_batch 32`, for example.
    """
    arguments = [*(f"--config={path}" for path in config), *context.args]
    with readable_errors():
        part = None if shard is None else _Shard.parse(shard)
        if devices is not None and "," in devices:
            _embed_on(devices.split(","), arguments, part or _Shard(1, 1))
        elif devices is not None:
            arguments += ["--data.device", devices]
        _embed(arguments, part)


def _embed_on(devices: list[str], arguments: list[str], shard: _Shard) -> None:
    """Divide a part of the segments among the devices, one process for each, and wait for all of them."""
    command = [sys.executable, "-m", "stemsim.cli", "embed", *arguments]
    processes = []
    for number, (device, part) in enumerate(zip(devices, shard.split(len(devices)), strict=True)):
        own = ["--shard", f"{part.number}/{part.total}", "--data.device", device.strip()]
        quiet = ["--data.progress", "false"] if number else []  # one progress bar is enough
        processes.append(subprocess.Popen([*command, *own, *quiet], stdout=subprocess.DEVNULL))  # noqa: S603 - our own
    failed = [device for device, process in zip(devices, processes, strict=True) if process.wait() != 0]
    if failed:
        raise EmbeddingError(
            f"The process on {', '.join(failed)} failed; its error message is printed above. Everything embedded so "
            "far is stored: run the command again to embed the rest."
        )


def _embed(arguments: list[str], shard: _Shard | None) -> None:
    """Embed in this process what the store lacks, and print a summary."""
    from stemsim.training.cli import StemsimCLI, set_up_logging

    set_up_logging()
    data = StemsimCLI(arguments, run=False).datamodule
    if shard is None:
        _show(data)
        return
    segments = sorted(data.reader.read().segments)
    part = shard.of(segments)
    data.embedder.embed(part)
    typer.echo(f"Part {shard.number} of {shard.total}: {len(part)} of {len(segments)} segments are in the store.")


def _show(data: "TripletDataModule") -> None:
    """Print in how many segments each stem sounds, and how loudly."""
    from rich.console import Console

    from stemsim.report.text import TextTable, fixed

    store, rows = data.embedder.store, []
    triplets, (_, levels, present) = data.embedded.triplets, data.embedded.embeddings
    for index, stem in enumerate(data.stems):
        heard = levels[present[:, index], index]
        level = fixed(float(heard.median())) if len(heard) else "-"
        rows.append((stem, f"{len(heard)} of {len(present)}", level))
    console = Console(soft_wrap=True)
    console.print(f"{triplets.source}: {len(triplets)} triplets over {len(triplets.segments)} segments")
    TextTable("", ("stem", "segments where it sounds", "median level there, dBFS"), tuple(rows)).print(console)
    if store is not None:
        console.print(f"Store {store.root}: {len(store)} segments of {store.spec.separator} x {store.spec.encoder}")
