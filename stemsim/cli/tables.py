"""`stemsim tables`: the paper's tables, ours beside the published figures."""

import json
import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from stemsim.paper.tables import Cell, PaperTables
    from stemsim.report.text import TextTable

_TITLES: Final = {
    "1": "Table 1: agreement of the cosine, %",
    "2-3": "Tables 2 and 3: weighted sums on the mix triplets, test agreement in %",
    "4": "Table 4: weights, mean over the splits",
}


def tables_command(
    abx: Annotated[Path, typer.Argument(metavar="INST_SIM_ABX", help="Folder of the listening test.")],
    slakh: Annotated[
        Path | None, typer.Option(envvar="SLAKH2100", help="Folder of Slakh2100.", show_default="none")
    ] = None,
    encoders: Annotated[str, typer.Option(help="Encoders, comma-separated: clap, muq, spectral.")] = "clap,muq",
    instruments: Annotated[
        str, typer.Option(help="Instruments of Table 1, comma-separated.")
    ] = "drums,bass,guitar,piano,residuals,mix",
    output: Annotated[Path, typer.Option(help="Folder for tables.md, .csv and .json, and one picture per table.")] = (
        Path("runs/tables")
    ),
    store: Annotated[
        Path | None, typer.Option(help="Folder of the embedding store.", show_default="OUTPUT/embeddings")
    ] = None,
    splits: Annotated[int, typer.Option(help="Number of random splits.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the splits.")] = 0,
    device: Annotated[str, typer.Option(help="Device of the models: cpu, cuda:0, ...")] = "cpu",
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Compute Tables 1 to 4 of arXiv:2601.19109 again, beside the published figures and the human ceiling.

    If Slakh2100 or the weights of a model are missing, this is said, and the rest is computed. Embeddings are stored:
    run the command again to continue after an interruption.
    """
    with readable_errors():
        from stemsim.encoders import LaionClap, MuQMuLan, Spectral
        from stemsim.paper.tables import INSTRUMENTS, Reproduction
        from stemsim.separators import Demucs

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        logging.getLogger("stemsim").setLevel(logging.INFO)
        known = {"clap": ("CLAP", LaionClap), "muq": ("MuQ-MuLan", MuQMuLan), "spectral": ("Spectral", Spectral)}
        tables = Reproduction(
            abx=abx,
            slakh=slakh,
            encoders=dict(known[name] for name in _chosen("--encoders", encoders, known)),
            separators={"4-stem": partial(Demucs, "htdemucs"), "6-stem": partial(Demucs, "htdemucs_6s")},
            instruments=_chosen("--instruments", instruments, INSTRUMENTS),
            store=store or output / "embeddings",
            splits=splits,
            seed=seed,
            device=device,
            progress=progress,
        ).tables()
    _print(tables)
    typer.echo("Wrote " + ", ".join(map(str, _write(tables, output))))


def _chosen(option: str, names: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the names in an option, each once."""
    from stemsim.errors import ConfigError

    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted or not set(wanted) <= set(known):
        raise ConfigError(f"{option} names some of {', '.join(known)}, comma-separated; got {names!r}.")
    return wanted


def _text_table(tables: "PaperTables", name: str, *, narrow: bool) -> "TextTable":
    """Return one table as text; a narrow one has several lines in each cell, and no spread of the weights."""
    from stemsim.paper.tables import grid
    from stemsim.report.text import TextTable, with_spread

    digits, join = 2 if name == "4" else 1, "\n".join if narrow else " / ".join

    def text(cell: "Cell | None") -> str:
        if cell is None:
            return ""
        ours = with_spread(cell.ours, None if narrow and name == "4" else cell.spread, digits)
        paper = with_spread(cell.published, cell.published_spread, digits)
        difference = "" if cell.difference is None else f"\n({cell.difference:+.{digits}f})"
        return join([ours, paper]) + difference

    cells = tables.table(name)
    columns, by_row = grid(cells)
    seen = sorted({round(cell.ceiling, 1) for cell in cells if cell.ceiling is not None})
    title = _TITLES[name]
    if seen:
        title += f"\nhuman ceiling{f's {seen[0]} to' if seen[1:] else ''} {seen[-1]} %"
    rows = ((row.replace(", ", "\n") if narrow else row, *map(text, found)) for row, found in by_row.items())
    return TextTable(title, ("ours\npaper\n(difference)" if narrow else "", *columns), tuple(rows))


def _print(tables: "PaperTables") -> None:
    """Print all tables, so narrow that all stems fit a terminal."""
    from rich.console import Console

    console = Console()
    for name in _TITLES:
        _text_table(tables, name, narrow=True).print(console, compact=True)
    for reason in tables.skipped:
        console.print(f"[yellow]skipped:[/yellow] {reason}", highlight=False, soft_wrap=True)


def _write(tables: "PaperTables", folder: Path) -> list[Path]:
    """Write the tables as Markdown, CSV and JSON, and a picture of each."""
    import pandas as pd

    from stemsim.paper.plots import plot_paper_table
    from stemsim.replacing import write_text
    from stemsim.report.style import save_figure

    parts = ["# The paper's tables", "Each cell: ours / paper (difference). `-`: not computed, or not published."]
    written = [folder / "tables.md", folder / "tables.csv", folder / "tables.json"]
    for name, title in _TITLES.items():
        table = _text_table(tables, name, narrow=False)
        parts += [f"## {table.title}".replace("\n", "\n\n"), table.markdown()]
        written.append(folder / f"table{name}.png")
        save_figure(plot_paper_table(tables.table(name), title), written[-1])
    if tables.skipped:
        parts += ["## Skipped", "\n".join(f"- {reason}" for reason in tables.skipped)]
    records = tables.records()
    write_text(written[0], "\n\n".join(parts) + "\n")
    write_text(written[1], pd.DataFrame(records).astype({"triplets": "Int64"}).to_csv(index=False))
    document = {"settings": dict(tables.settings), "cells": records, "skipped": list(tables.skipped)}
    write_text(written[2], json.dumps(document, indent=2) + "\n")
    return written
