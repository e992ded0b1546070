"""`stemsim report`: several runs on one page, and as a summary in W&B."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stemsim.cli.errors import readable_errors

_MIB = 2**20


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Folders of runs: their trainer.default_root_dir.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
    worst: Annotated[int, typer.Option(min=0, help="Number of worst triplets of each run.")] = 8,
    audio: Annotated[
        bool, typer.Option("--audio/--no-audio", help="Put the segments of these triplets on the page.")
    ] = True,
    wandb_project: Annotated[
        str | None, typer.Option(help="Also log a summary run to this W&B project, offline.")
    ] = None,
    wandb_group: Annotated[
        str | None, typer.Option(help="W&B group of the summary run.", show_default="that of the runs")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Log the summary run to W&B's server.")] = False,
) -> None:
    """Compare runs of train.py on one self-contained HTML page.

    The page holds the results of fit, test and crossval: a comparison of all models, verdicts, weights, the worst
    triplets with their audio, all pictures, and the commands to reproduce them. It loads nothing from anywhere, so it
    can be mailed or printed. Missing results are named, with the command that makes them.
    """
    with readable_errors():
        from stemsim.errors import ConfigError
        from stemsim.replacing import write_text
        from stemsim.report.page import render_report
        from stemsim.report.run_files import read_runs

        if wandb_project is None and (online or wandb_group is not None):
            raise ConfigError("--online and --wandb-group are for the summary in W&B; give --wandb-project too.")
        found = read_runs(runs)
        command = f"stemsim report {shlex.join(map(str, runs))} --output {shlex.quote(str(output))} --worst {worst}"
        report = render_report(found, worst=worst, audio=audio, command=command + ("" if audio else " --no-audio"))
        write_text(output, report.html)
        for run in found:
            for job, line in run.missing.items():
                typer.echo(f"{run.name} lacks {job}: {line}")
            if run.missing and run.settings:
                typer.echo(f"Save its settings from the page as {run.settings_file}.")
        for reason in report.gone:
            typer.echo(f"No audio: {reason}")
        typer.echo(f"Wrote {output} ({output.stat().st_size / _MIB:.1f} MiB)")
        if wandb_project is None:
            return
        from stemsim.training.wandb_summary import common_group, log_summary

        group = wandb_group or common_group(found)
        place = log_summary(
            found, wandb_project, group=group, folder=output.parent, online=online, worst=worst, audio=audio
        )
        typer.echo(f"Logged to W&B: {place}")
        if not online:
            typer.echo(f"Upload it: wandb sync {shlex.quote(str(place))}")
