"""`stemsim tables`: the paper's tables, ours beside the published figures."""

import csv
import json
import logging
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from stemsim.paper.tables import Cell, PaperTables

__all__ = ["tables_command"]

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
        from stemsim.paper.tables import INSTRUMENTS, Reproduction, paper_tables
        from stemsim.separators import Demucs

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        logging.getLogger("stemsim").setLevel(logging.INFO)
        known = {"clap": ("CLAP", LaionClap), "muq": ("MuQ-MuLan", MuQMuLan), "spectral": ("Spectral", Spectral)}
        tables = paper_tables(
            Reproduction(
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
            )
        )
    _print(tables)
    typer.echo("Wrote " + ", ".join(map(str, _write(tables, output))))


def _chosen(option: str, names: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the names in an option, each once."""
    from stemsim.errors import ConfigError

    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted or not set(wanted) <= set(known):
        msg = f"{option} names some of {', '.join(known)}, comma-separated; got {names!r}."
        raise ConfigError(msg)
    return wanted


def _text(cell: "Cell | None", between: str = " / ", *, spreads: bool = True) -> str:
    """Return our figure, the paper's and the difference."""
    if cell is None:
        return ""
    digits = 2 if cell.table == "4" else 1
    spread = "" if cell.spread is None or not spreads else f" ± {cell.spread:.{digits}f}"
    ours = "-" if cell.ours is None else f"{cell.ours:.{digits}f}{spread}"
    paper = "-" if cell.published is None else f"{cell.published:.{digits}f}"
    if cell.published_spread is not None:
        paper += f" ± {cell.published_spread:.{digits}f}"
    difference = "" if cell.difference is None else f"{between.rstrip('/ ')} ({cell.difference:+.{digits}f})"
    return f"{ours}{between}{paper}{difference}"


def _ceilings(cells: "Sequence[Cell]") -> str:
    """Return the human ceilings of a table in one line."""
    seen = sorted({round(cell.ceiling, 1) for cell in cells if cell.ceiling is not None})
    if len(seen) <= 1:
        return f"human ceiling {seen[0]} %" if seen else ""
    return f"human ceilings {seen[0]} to {seen[-1]} %"


def _print(tables: "PaperTables") -> None:
    """Print all tables; the spread of weights is in the files alone, so that all stems fit a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from stemsim.paper.tables import grid

    console = Console()
    for name, title in _TITLES.items():
        columns, by_row = grid(tables.table(name))
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_lines=True)
        table.add_column("ours\npaper\n(difference)", max_width=17, no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for row, cells in by_row.items():
            table.add_row(row.replace(", ", "\n"), *(_text(cell, "\n", spreads=name != "4") for cell in cells))
        console.print(f"[bold]{title}[/bold]  {_ceilings(tables.table(name))}", highlight=False)
        console.print(table)
    for reason in tables.skipped:
        console.print(f"[yellow]skipped:[/yellow] {reason}", highlight=False, soft_wrap=True)


def _write(tables: "PaperTables", folder: Path) -> list[Path]:
    """Write the tables as Markdown, CSV and JSON, and a picture of each."""
    from stemsim.paper.plots import plot_paper_table
    from stemsim.paper.tables import grid
    from stemsim.report.style import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# The paper's tables", "", "Each cell: ours / paper (difference). `-`: not computed, or not published."]
    written = [folder / "tables.md", folder / "tables.csv", folder / "tables.json"]
    for name, title in _TITLES.items():
        columns, by_row = grid(tables.table(name))
        lines += ["", f"## {title}", "", _ceilings(tables.table(name)), "", f"| | {' | '.join(columns)} |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [f"| {row} | {' | '.join(map(_text, cells))} |" for row, cells in by_row.items()]
        written.append(folder / f"table{name}.png")
        save_figure(plot_paper_table(tables.table(name), title), written[-1])
    lines += ["", "## Skipped", "", *(f"- {reason}" for reason in tables.skipped)] if tables.skipped else []
    records = tables.records()
    written[0].write_text("\n".join(lines) + "\n", encoding="utf-8")
    with written[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)
    document = {"settings": dict(tables.settings), "cells": records, "skipped": list(tables.skipped)}
    written[2].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return written
