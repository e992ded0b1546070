"""`stemsim models`: list, download and convert pretrained models."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import JsonOption, print_json

models_app = typer.Typer(
    help="List, download and convert the pretrained models. Only `download` ever uses the network.",
    invoke_without_command=True,
    no_args_is_help=False,
)


@models_app.callback()
def _models(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_command(as_json)


@models_app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the pretrained models with size, license of the weights, and location on this disk."""
    from stemsim.pretrained import PRETRAINED, pretrained_folder
    from stemsim.pretrained.folder import find, folder_of

    found = {name: find(model) for name, model in PRETRAINED.items()}
    if as_json:
        models = [{**asdict(PRETRAINED[name]), "folder": folder and str(folder)} for name, folder in found.items()]
        print_json({"folder": str(pretrained_folder()), "models": models})
        return
    for name, model in PRETRAINED.items():
        here = {None: "not on this disk", folder_of(name): "on this disk"}.get(found[name], "in the Hugging Face cache")
        typer.echo(f"{typer.style(name, bold=True)}: {model.summary}")
        typer.echo(f"    {'about ' if model.megabytes else 'less than '}{model.megabytes or 1:,} MB, {here}")
        typer.secho(f"    license: {model.terms}", fg="yellow" if model.noncommercial else None)
        typer.echo(f"    {model.license_source}")
    typer.echo(f"\nFolder: {pretrained_folder()} (set STEMSIM_PRETRAINED for another)")
    typer.echo("To download one: stemsim models download NAME (or org/name of another audio model of the hub)")


@models_app.command("download")
def download_command(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names from the list, or org/name of another audio model.")
    ],
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Download the Python files of org/name too; some models need them.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not use the network: only report which files are missing, and where.")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="Address of a mirror of the hub.", show_default="huggingface.co")
    ] = None,
) -> None:
    """Download pretrained models into the folder that `stemsim models` shows, and verify their hashes.

    The license of the weights is printed first. Files that are there already are not downloaded again; an
    interrupted file starts again. STEMSIM_PRETRAINED sets another folder; STEMSIM_OFFLINE=1 forbids the network.
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
        bool, typer.Option("--allow-pickle", help="Run the code that FILE may hold. Only if you trust its authors.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
) -> None:
    """Convert a checkpoint to safetensors, which are quicker to read and cannot hold code."""
    with readable_errors():
        from stemsim.pretrained.loading import import_checkpoint

        written = import_checkpoint(file, allow_pickle=allow_pickle, output=output, overwrite=overwrite)
        sizes = [path.stat().st_size / 1e6 for path in (file, written)]
        typer.echo(f"Wrote {written} ({sizes[1]:,.1f} MB, from {sizes[0]:,.1f} MB).")
