"""`stemsim report`: several runs on one page, and as a summary in W&B."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stemsim.evaluation.run_results import RunResults

__all__ = ["report_command"]

_MIB = 2**20


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Folders of runs: what trainer.default_root_dir was.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    worst: Annotated[int, typer.Option(min=0, help="Worst triplets of each run.")] = 8,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Put their segments on the page, to hear.")] = True,
    wandb_project: Annotated[
        str | None, typer.Option(help="Also log a summary run to this W&B project, offline.")
    ] = None,
    wandb_group: Annotated[
        str | None, typer.Option(help="W&B group of the summary run.", show_default="that of the runs")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Log the summary run to W&B's server.")] = False,
) -> None:
    """Compare runs of train.py on one self-contained HTML page.

    The page holds what fit, test and crossval found: the comparison of all models, verdicts, weights, the worst
    triplets with their audio, all pictures, and how to reproduce them. It loads nothing from anywhere, so it can be
    mailed or printed. What a run lacks is named, with the command that makes it.
    """
    with readable_errors():
        from stemsim.errors import ConfigError
        from stemsim.evaluation.report_page import render_report
        from stemsim.evaluation.run_files import read_runs

        if wandb_project is None and (online or wandb_group is not None):
            msg = "--online and --wandb-group are of the summary in W&B; name its project by --wandb-project."
            raise ConfigError(msg)
        found = read_runs(runs)
        sound = "" if audio else " --no-audio"
        command = (
            f"stemsim report {shlex.join(map(str, runs))} --output {shlex.quote(str(output))} --worst {worst}{sound}"
        )
        report = render_report(found, worst=worst, audio=audio, command=command)
        _write(output, report.html)
        for run in found:
            for job, line in run.missing().items():
                typer.echo(f"{run.name} lacks {job}: {line}")
            if run.missing() and run.settings:
                typer.echo(f"The page holds the settings, {run.settings_file}, to save.")
        for reason in report.gone:
            typer.echo(f"No audio: {reason}")
        typer.echo(f"Wrote {output} ({output.stat().st_size / _MIB:.1f} MiB)")
        if wandb_project is not None:
            _log(found, output, wandb_project, wandb_group, online=online, worst=worst, audio=audio)


def _write(output: Path, page: str) -> None:
    """Write the page, making its folder if need be."""
    from stemsim.errors import ConfigError

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        msg = f"Cannot write the page to {output} ({error.strerror}). Name another file by --output."
        raise ConfigError(msg) from error


def _log(
    runs: "Sequence[RunResults]",
    output: Path,
    project: str,
    group: str | None,
    *,
    online: bool,
    worst: int,
    audio: bool,
) -> None:
    from stemsim.training.wandb_summary import common_group, log_summary

    place = log_summary(
        runs,
        project,
        group=group or common_group(runs),
        folder=output.parent,
        online=online,
        worst=worst,
        audio=audio,
    )
    typer.echo(f"Logged to W&B: {place}")
    if not online:
        typer.echo(f"Upload it: wandb sync {shlex.quote(str(place))}")
