"""Libraries on the command line: common options, opening one, printing documents and tables."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from stemsim.retrieval.library import Library

__all__ = ["DeviceOption", "JsonOption", "LibraryOption", "open_library", "print_json", "print_table"]

LibraryOption = Annotated[str, typer.Option("--library", "-l", help="Folder of the library, or s3://...")]
DeviceOption = Annotated[str, typer.Option(help="Where the models compute: cpu, cuda:0, ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def open_library(root: str, device: str = "cpu") -> "Library":
    """Open an existing library, whose models would compute on a device."""
    from stemsim.retrieval import Library

    return Library(root, device=device)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2))


def print_table(
    console: "Console", columns: Mapping[str, dict[str, Any]], rows: "Iterable[Iterable[RenderableType]]"
) -> None:
    """Print a table whose columns are aligned right, unless their options for `rich.table.Column` say otherwise."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, options in columns.items():
        table.add_column(heading, **{"justify": "right", **options})
    for row in rows:
        table.add_row(*row)
    console.print(table)
