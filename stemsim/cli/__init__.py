"""The command `stemsim`. Heavy packages are imported inside the commands, so that `--help` is fast."""

from importlib.metadata import version
from typing import Annotated

import typer

from stemsim.cli.app import app_command
from stemsim.cli.compare import compare_command
from stemsim.cli.embed import embed_command
from stemsim.cli.index import index_app
from stemsim.cli.listen import listen_command
from stemsim.cli.models import models_app
from stemsim.cli.personalize import personalize_command
from stemsim.cli.report import report_command
from stemsim.cli.search import search_command
from stemsim.cli.study import study_command
from stemsim.cli.tables import tables_command
from stemsim.cli.votes import votes_app

__all__ = ["app"]

app = typer.Typer(
    help="Music similarity from the similarities of stems. To fit and test weights, use `python train.py`.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("embed", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(embed_command)
app.add_typer(votes_app, name="votes")
app.command("personalize")(personalize_command)
app.command("tables")(tables_command)
app.command("study")(study_command)
app.command("report")(report_command)
app.add_typer(models_app, name="models")
app.add_typer(index_app, name="index")
app.command("search")(search_command)
app.command("compare")(compare_command)
app.command("app")(app_command)
app.command("listen")(listen_command)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"stemsim {version('stemsim')}")
        raise typer.Exit


@app.callback()
def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del show_version
