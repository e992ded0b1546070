"""Errors of ours, shown as a message instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from stemsim.errors import StemsimError

__all__ = ["readable_errors"]


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print a `StemsimError` and exit with status 2; other errors are bugs and keep their traceback."""
    try:
        yield
    except StemsimError as error:
        typer.secho("error: ", fg="red", err=True, nl=False)
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
