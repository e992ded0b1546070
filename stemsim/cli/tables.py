"""`stemsim tables`: the paper's tables, ours beside the published figures."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from stemsim.encoders import Encoder
    from stemsim.evaluation.paper_tables import Cell, PaperTables
    from stemsim.separators import StemSource

__all__ = ["tables_command"]

_TITLES = {
    "1": "Table 1: agreement of the cosine, %",
    "2-3": "Tables 2 and 3: weighted sums on the mix triplets, test agreement in %",
    "4": "Table 4: weights, mean over the splits",
}


def tables_command(
    abx: Annotated[Path, typer.Argument(metavar="INST_SIM_ABX", help="Folder of the listening test.")],
    slakh: Annotated[
        Path | None, typer.Option(envvar="SLAKH2100", help="Folder of Slakh2100.", show_default="none")
    ] = None,
    encoders: Annotated[str, typer.Option(help="Encoders apart by commas: clap, muq, spectral.")] = "clap,muq",
    instruments: Annotated[
        str, typer.Option(help="What listeners heard, for Table 1, apart by commas.")
    ] = "drums,bass,guitar,piano,residuals,mix",
    output: Annotated[Path, typer.Option(help="Folder for tables.md, .csv, .json and one picture a table.")] = Path(
        "runs/tables"
    ),
    store: Annotated[
        Path | None, typer.Option(help="Folder of the embedding store.", show_default="OUTPUT/embeddings")
    ] = None,
    splits: Annotated[int, typer.Option(help="Number of shuffle splits.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the splits.")] = 0,
    device: Annotated[str, typer.Option(help="Where the models compute: cpu, cuda:0, ...")] = "cpu",
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Compute Tables 1 to 4 of arXiv:2601.19109 again, beside the published figures and the human ceiling.

    What is missing (Slakh2100, the weights of a model) is named and skipped. Embeddings are stored: an interrupted run
    goes on where it stopped.
    """
    with readable_errors():
        from stemsim.evaluation.paper_tables import Study, paper_tables
        from stemsim.training.cli import set_up_logging

        set_up_logging()
        study = Study(
            abx=abx,
            slakh=slakh,
            encoders=_encoders(encoders),
            separators=_separators(),
            instruments=_instruments(instruments),
            store=store or output / "embeddings",
            splits=splits,
            seed=seed,
            device=device,
            progress=progress,
        )
        tables = paper_tables(study)
    _print(tables)
    written = _write(tables, output)
    typer.echo("Wrote " + ", ".join(str(path) for path in written))


def _encoders(names: str) -> "dict[str, Callable[[], Encoder]]":
    """Return what makes each encoder, by the paper's name of it."""
    from stemsim.encoders import LaionClap, MuQMuLan, Spectral

    known: dict[str, tuple[str, Callable[[], Encoder]]] = {
        "clap": ("CLAP", LaionClap),
        "muq": ("MuQ-MuLan", MuQMuLan),
        "spectral": ("Spectral", Spectral),
    }
    return dict(known[name] for name in _chosen("--encoders", names, known))


def _instruments(names: str) -> tuple[str, ...]:
    from stemsim.evaluation.paper_tables import INSTRUMENTS

    return _chosen("--instruments", names, INSTRUMENTS)


def _chosen(option: str, names: str, known: "Collection[str]") -> tuple[str, ...]:
    """Return the names in an option, each once."""
    from stemsim.errors import ConfigError

    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted or not set(wanted) <= set(known):
        msg = f"{option} names some of {', '.join(known)}, apart by commas; got {names!r}."
        raise ConfigError(msg)
    return wanted


def _separators() -> "dict[str, Callable[[], StemSource]]":
    from functools import partial

    from stemsim.separators import Demucs

    return {"4-stem": partial(Demucs, "htdemucs"), "6-stem": partial(Demucs, "htdemucs_6s")}


def _text(cell: "Cell", between: str = " / ", *, spreads: bool = True) -> str:
    """Return ours, the paper's and the difference."""
    digits = 2 if cell.table == "4" else 1
    spread = "" if cell.spread is None or not spreads else f" ± {cell.spread:.{digits}f}"
    ours = "-" if cell.ours is None else f"{cell.ours:.{digits}f}{spread}"
    paper = "-" if cell.published is None else f"{cell.published:.{digits}f}"
    if cell.published_spread is not None:
        paper += f" ± {cell.published_spread:.{digits}f}"
    difference = "" if cell.difference is None else f"{between.rstrip('/ ')} ({cell.difference:+.{digits}f})"
    return f"{ours}{between}{paper}{difference}"


def _of(tables: "PaperTables", table: str) -> "list[Cell]":
    return [cell for cell in tables.cells if cell.table == table]


def _ceilings(cells: "Sequence[Cell]") -> str:
    """Return the human ceilings of a table in one line."""
    seen = sorted({round(cell.ceiling, 1) for cell in cells if cell.ceiling is not None})
    if len(seen) <= 1:
        return f"human ceiling {seen[0]} %" if seen else ""
    return f"human ceilings {seen[0]} to {seen[-1]} %"


def _print(tables: "PaperTables") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from stemsim.evaluation.paper_tables import pivot

    console = Console()
    for name, title in _TITLES.items():
        cells = _of(tables, name)
        frame = pivot(cells, _lines)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=True)
        table.add_column("ours\npaper\n(difference)", max_width=17, no_wrap=True)
        for column in frame.columns:
            table.add_column(str(column), justify="right", no_wrap=True)
        for row, texts in zip(frame.index, frame.to_numpy().tolist(), strict=True):
            table.add_row(str(row).replace(", ", "\n"), *texts)
        console.print(f"[bold]{title}[/bold]  {_ceilings(cells)}", highlight=False)
        console.print(table)
    for reason in tables.skipped:
        console.print(f"[yellow]skipped:[/yellow] {reason}", highlight=False, soft_wrap=True)


def _lines(cell: "Cell") -> str:
    """Return the same as lines; the spread of weights is in the files alone, so that all stems fit a terminal."""
    return _text(cell, "\n", spreads=cell.table != "4")


def _write(tables: "PaperTables", folder: Path) -> list[Path]:
    """Write the tables as Markdown, CSV and JSON, and one picture of each."""
    from dataclasses import asdict

    from stemsim.evaluation.paper_plots import plot_paper_table
    from stemsim.evaluation.paper_tables import pivot
    from stemsim.evaluation.plots import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# The paper's tables", "", "Each cell: ours / paper (difference). `-`: not computed, or not published."]
    for name, title in _TITLES.items():
        cells = _of(tables, name)
        frame = pivot(cells, _text)
        lines += ["", f"## {title}", "", _ceilings(cells), "", f"| | {' | '.join(map(str, frame.columns))} |"]
        lines += ["|---" * (len(frame.columns) + 1) + "|"]
        lines += [
            f"| {row} | {' | '.join(texts)} |"
            for row, texts in zip(frame.index, frame.to_numpy().tolist(), strict=True)
        ]
    lines += ["", "## Skipped", "", *(f"- {reason}" for reason in tables.skipped)] if tables.skipped else []
    written = [folder / "tables.md", folder / "tables.csv", folder / "tables.json"]
    written[0].write_text("\n".join(lines) + "\n", encoding="utf-8")
    tables.frame().to_csv(written[1], index=False)
    document = {
        "settings": dict(tables.settings),
        "cells": [{**asdict(cell), "difference": cell.difference} for cell in tables.cells],
        "skipped": list(tables.skipped),
    }
    written[2].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for name, title in _TITLES.items():
        written.append(folder / f"table{name}.png")
        save_figure(plot_paper_table(_of(tables, name), title), written[-1])
    return written
