"""`stemsim models`: which pretrained models there are, and how they get onto this disk."""

from pathlib import Path
from typing import Annotated

import typer

from stemsim.cli.errors import readable_errors

__all__ = ["models_app"]

models_app = typer.Typer(
    help="List, download and convert the pretrained models. Nothing is ever downloaded but by `download`.",
    invoke_without_command=True,
    no_args_is_help=False,
)


@models_app.callback()
def _models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        _list(as_json)


@models_app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """List the pretrained models: what they are, their size and licence, and whether they are on this disk."""
    _list(as_json)


@models_app.command("download")
def download_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names of the list, or org/name of any Hugging Face audio model."),
    ],
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Fetch the Python files of org/name too; some models need them.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Touch no network: say at once which files are missing, and where.")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="Address of a mirror of the hub.", show_default="huggingface.co")
    ] = None,
) -> None:
    """Download pretrained models into the folder of `stemsim models`, and check their hashes.

    What is there is not fetched again, and an interrupted download goes on where it stopped. STEMSIM_PRETRAINED names
    another folder; STEMSIM_OFFLINE=1 forbids the network altogether.
    """
    with readable_errors():
        from stemsim.pretrained.download import download

        for name in names:
            download(name, announce=typer.echo, with_code=with_code, offline=offline, endpoint=endpoint)


@models_app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint: .pt, .th or .bin.")],
    output: Annotated[Path | None, typer.Option(help="File to write.", show_default="FILE.safetensors")] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Run the code that FILE may hold. Only if you trust those who made it."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file to write.")] = False,
) -> None:
    """Turn a checkpoint into safetensors once: quicker to read, and no code can be in it."""
    with readable_errors():
        from stemsim.pretrained.importing import import_checkpoint

        written = import_checkpoint(file, allow_pickle=allow_pickle, output=output, overwrite=overwrite)
        sizes = [path.stat().st_size / 1e6 for path in (file, written)]
        typer.echo(f"Wrote {written} ({sizes[1]:,.1f} MB, from {sizes[0]:,.1f} MB).")


def _list(as_json: bool) -> None:
    from stemsim.pretrained import PRETRAINED, pretrained_folder
    from stemsim.pretrained.folder import find

    found = {name: find(model) for name, model in PRETRAINED.items()}
    if as_json:
        import json
        from dataclasses import asdict

        models = [{**asdict(model), "folder": _text(found[name])} for name, model in PRETRAINED.items()]
        typer.echo(json.dumps({"folder": str(pretrained_folder()), "models": models}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("model", "about MB", "licence", "here"):
        table.add_column(heading, justify="right" if heading == "about MB" else "left", no_wrap=heading != "licence")
    for name, model in PRETRAINED.items():
        terms = f"[yellow]{model.license}\nnon-commercial[/yellow]" if model.noncommercial else model.license
        what = f"[bold]{name}[/bold]\n{model.summary}\n[dim]{model.repo}[/dim]"
        table.add_row(what, f"{model.megabytes:,}" if model.megabytes else "<1", terms, _here(name, found[name]))
        table.add_section()
    console = Console()
    console.print(table)
    console.print(f"Folder: {pretrained_folder()} (STEMSIM_PRETRAINED names another)", soft_wrap=True, highlight=False)
    console.print("Get one: stemsim models download NAME", highlight=False)


def _here(name: str, folder: Path | None) -> str:
    """Return whether a model is on this disk: in our folder, or where upstream's own loaders put it."""
    from stemsim.pretrained.folder import folder_of

    if folder is None:
        return "no"
    return "yes" if folder == folder_of(name) else "in HF cache"


def _text(folder: Path | None) -> str | None:
    return None if folder is None else str(folder)
