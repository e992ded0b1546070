"""`stemsim embed`: fill the embedding store ahead of training."""

from pathlib import Path
from typing import Annotated

import typer

from stemsim.cli.errors import readable_errors

__all__ = ["embed_command"]


def embed_command(
    context: typer.Context,
    config: Annotated[
        list[Path], typer.Option("--config", "-c", help="Configuration as for train.py; later files override earlier.")
    ],
) -> None:
    """Embed every segment that a configuration needs, and keep the result in its store.

    Segments already in the store are skipped, so an interrupted run goes on where it stopped. Further arguments
    override the configuration as they do for train.py, e.g. `--data.embedding_batch 32`.
    """
    with readable_errors():
        _embed([*(f"--config={path}" for path in config), *context.args])


def _embed(arguments: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from stemsim.training.cli import StemsimCLI, set_up_logging

    set_up_logging()
    data = StemsimCLI(arguments, run=False).datamodule
    data.prepare_data()
    data.setup("embed")
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
