"""Errors of stemsim as messages without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from stemsim.errors import StemsimError, system_message


@contextmanager
def readable_errors() -> Iterator[None]:
    """Print an error that the user can correct and exit with status 2; any other is a bug and keeps its traceback."""
    try:
        yield
    except (StemsimError, OSError) as error:
        message = system_message(error) if isinstance(error, OSError) else str(error)
        if message is None:
            raise
        typer.secho("error: ", fg="red", err=True, nl=False)
        typer.echo(message, err=True)
        raise typer.Exit(2) from error
