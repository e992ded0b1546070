"""`stemsim app`: the page in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import DeviceOption, LibraryOption
from stemsim.cli.pages import AuthOption, BrowserOption, HostOption, PortOption, check_packages, serve_page

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["app_command"]


def app_command(
    library: LibraryOption,
    port: PortOption = 8423,
    host: HostOption = "127.0.0.1",
    auth: AuthOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model whose weights the sliders start from.", show_default="the library's"),
    ] = None,
    votes: Annotated[
        Path | None,
        typer.Option(help="Votes file of a listening test on these sounds, in a tab of its own.", show_default="none"),
    ] = None,
    browser: BrowserOption = True,
    device: DeviceOption = "cpu",
) -> None:
    """Open a library as a page: drop a song, move the sliders of its stems, and hear what sounds like it.

    The address of the page is printed as one line. Nothing leaves this machine. Ctrl-C ends it.
    """
    with readable_errors():
        check_packages()
        from stemsim.app.listen import library_test
        from stemsim.app.server import create_app
        from stemsim.retrieval import Library

        # Small batches, so that the progress of a query moves.
        opened = Library(library, device=device, batch_size=4 if device == "cpu" else None)
        if model is not None:
            opened.take_weights(model)
        listening = None if votes is None else library_test(opened, votes)

        def make(folder: Path, token: str) -> "Starlette":
            return create_app(opened, folder, token=token, host=host, listening=listening)

        serve_page(make, host=host, port=port, auth=auth, browser=browser)
