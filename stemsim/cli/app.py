"""`stemsim app`: the page in a browser."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import DeviceOption, LibraryOption

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["app_command"]


def app_command(
    library: LibraryOption,
    port: Annotated[int, typer.Option(help="Port of the page; 0: a free one.")] = 8423,
    host: Annotated[str, typer.Option(help="Address to serve at; others than this machine need --auth.")] = "127.0.0.1",
    auth: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Secret of the address, 16 characters or more.", show_default="random"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model whose weights the sliders start from.", show_default="the library's"),
    ] = None,
    votes: Annotated[
        Path | None,
        typer.Option(help="Votes file of a listening test on these sounds, in a tab of its own.", show_default="none"),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    device: DeviceOption = "cpu",
) -> None:
    """Open a library as a page: drop a song, move the sliders of its stems, and hear what sounds like it.

    The address of the page is printed as one line. Nothing leaves this machine. Ctrl-C ends it.
    """
    with readable_errors():
        from importlib.util import find_spec

        from stemsim.errors import ConfigError

        if find_spec("starlette") is None or find_spec("uvicorn") is None:
            raise ConfigError("The page needs two packages more: pip install 'stemsim[app]'.")
        from stemsim.app.listen import library_test
        from stemsim.app.server import create_app, serve
        from stemsim.retrieval import Library

        def announce(address: str) -> None:
            typer.echo(address)
            if browser:
                webbrowser.open(address)

        # Small batches, so that the progress of a query moves.
        opened = Library(library, device=device, batch_size=4 if device == "cpu" else None)
        if model is not None:
            opened.take_weights(model)
        listening = None if votes is None else library_test(opened, votes)

        def make(folder: Path, token: str) -> "Starlette":
            return create_app(opened, folder, token=token, host=host, listening=listening)

        serve(make, host=host, port=port, token=auth, announce=announce)
