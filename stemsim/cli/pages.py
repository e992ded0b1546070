"""Pages on the command line: common options, and serving one."""

import webbrowser
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["AuthOption", "BrowserOption", "HostOption", "PortOption", "check_packages", "serve_page"]

PortOption = Annotated[int, typer.Option(help="Port of the page; 0: a free one.")]
HostOption = Annotated[str, typer.Option(help="Address to serve at; others than this machine need --auth.")]
AuthOption = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", help="Secret of the address, 16 characters or more.", show_default="random"),
]
BrowserOption = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")]


def check_packages() -> None:
    """Raise a `ConfigError` if the packages of the pages are not installed."""
    from stemsim.errors import ConfigError

    if missing := [name for name in ("starlette", "uvicorn", "pyloudnorm") if find_spec(name) is None]:
        raise ConfigError(f"The page needs {', '.join(missing)}: pip install 'stemsim[app]'.")


def serve_page(
    make: "Callable[[Path, str], Starlette]", *, host: str, port: int, auth: str | None, browser: bool
) -> None:
    """Serve an application until Ctrl-C; print its address, and open it in a browser if asked to."""
    from stemsim.app.server import serve

    def announce(address: str) -> None:
        typer.echo(address)
        if browser:
            webbrowser.open(address)

    serve(make, host=host, port=port, token=auth, announce=announce)
