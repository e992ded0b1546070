"""Errors of stemsim as messages without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from stemsim.errors import StemsimError


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print a `StemsimError` and exit with status 2; any other error is a bug and keeps its traceback."""
    try:
        yield
    except StemsimError as error:
        typer.secho("error: ", fg="red", err=True, nl=False)
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
