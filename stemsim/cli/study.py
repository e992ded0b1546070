"""`stemsim study`: what weights, agreement, intervals and fusions are worth where the truth is known."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from rich.console import Console

    from stemsim.evaluation.study import Findings, StudySettings
    from stemsim.evaluation.study.fusions import MakeChallenger
    from stemsim.evaluation.study.tables import TextTable

__all__ = ["study_command"]

_Number = TypeVar("_Number", int, float)


def study_command(
    output: Annotated[
        Path, typer.Option(help="Folder for study.json, study.md, study.png and the figures as CSV.")
    ] = Path("runs/study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A look within seconds: few experiments, rough figures.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    triplets: Annotated[
        str | None, typer.Option(help="Numbers of triplets to try, apart by commas.", show_default="50 to 2000")
    ] = None,
    votes: Annotated[
        str | None, typer.Option(help="Votes a triplet to try, odd numbers apart by commas.", show_default="1 to 15")
    ] = None,
    noises: Annotated[
        str | None,
        typer.Option(
            help="Noises of the listeners to try, apart by commas: how unsure an answer is, relative to what is felt. "
            "0 is infallible; 0.25 gives the ceilings of Inst-Sim-ABX.",
            show_default="0.1,0.25,0.6",
        ),
    ] = None,
    hold: Annotated[
        str | None,
        typer.Option(
            metavar="TRIPLETS,VOTES,NOISE",
            help="What is held while something else varies; those tried that are nearest to it.",
            show_default="331,5,0.25, as in the paper",
        ),
    ] = None,
    experiments: Annotated[
        int | None, typer.Option(help="Simulated listening tests for each number of triplets.", show_default="200")
    ] = None,
    coverage_experiments: Annotated[
        int | None, typer.Option(help="Simulated listening tests for each coverage.", show_default="600")
    ] = None,
    fusion_triplets: Annotated[
        str | None,
        typer.Option(
            help="Numbers of triplets on which fusions are tried, apart by commas.", show_default="100 to 3000"
        ),
    ] = None,
    fusion_experiments: Annotated[
        int | None, typer.Option(help="Simulated listening tests for each of these.", show_default="20")
    ] = None,
    heads: Annotated[
        bool,
        typer.Option(
            "--heads",
            help="Try SplineFusion and AttentionFusion as well, beside the fusions that ridge fits exactly. Takes far "
            "longer: combine with fewer --fusion-experiments.",
        ),
    ] = False,
    unheard: Annotated[
        float, typer.Option(help="What listeners hear and no stem embedding shows, relative to what the stems show.")
    ] = 0.5,
    collinearity: Annotated[
        float, typer.Option(help="Share of what sets songs apart that all their stems have in common, in [0, 1).")
    ] = 0.35,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Draw songs, stem weights and listeners, and see how well the weights are found again.

    Every simulated listening test has songs, triplets and listeners of its own,
    like Inst-Sim-ABX: triplets share references and songs, stems are collinear,
    some are silent, listeners have tastes. The true weights are the paper's,
    each times a random factor. Shown are

    1. the angle between fitted and true weights: by OLS, by ridge, and by ridge
    towards the paper's weights (prior-ridge) or towards wrong ones;

    2. agreement with the majorities of held-out triplets of other songs, beside
    one listener's and that of the true weights;

    3. how often 95 % intervals of the weights hold them: 93 to 97 % of the
    time, if they are to be believed;

    4. what a nonlinear fusion gains over ridge where listeners are linear, are
    saturating (a stem is alike or not), or weigh a stem by its loudness, and
    how often the paired test finds the gain.

    No audio is needed. The whole study takes minutes, `--quick` seconds.
    """
    with readable_errors():
        from stemsim.errors import ConfigError
        from stemsim.evaluation.study import StudySettings, run_study

        if output.exists() and not output.is_dir():
            msg = f"--output is a folder, and {output} is a file. Choose another."
            raise ConfigError(msg)
        base = StudySettings.quick(seed=seed) if quick else StudySettings(seed=seed)
        tried = (
            _numbers("--triplets", triplets, int, base.triplets),
            _numbers("--votes", votes, int, base.votes),
            _numbers("--noises", noises, float, base.noises),
        )
        held = _numbers("--hold", hold, float, (331.0, 5.0, 0.25))
        settings = _settings(base, tried, held, unheard=unheard, collinearity=collinearity)
        settings = replace(
            settings,
            experiments=_given(experiments, settings.experiments),
            coverage_experiments=_given(coverage_experiments, settings.coverage_experiments),
            fusion_experiments=_given(fusion_experiments, settings.fusion_experiments),
            fusion_triplets=_numbers("--fusion-triplets", fusion_triplets, int, base.fusion_triplets),
        )
        study = run_study(settings, fusions=_fusions(settings) if heads else None, progress=progress)
    _print(study)
    typer.echo("Wrote " + ", ".join(str(path) for path in _write(study, output)))


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _fusions(settings: "StudySettings") -> "Mapping[str, MakeChallenger]":
    """Return all fusions that the study can try."""
    from stemsim.evaluation.study.exact_fusions import exact_fusions
    from stemsim.evaluation.study.heads import head_fusions

    return {**exact_fusions(settings.songs.stems), **head_fusions(settings.songs.stems)}


def _numbers(
    option: str, text: str | None, kind: Callable[[str], _Number], default: Sequence[_Number]
) -> tuple[_Number, ...]:
    """Return the numbers in an option."""
    from stemsim.errors import ConfigError

    if text is None:
        return tuple(default)
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        name = "whole numbers" if kind is int else "numbers"
        example = ",".join(f"{value:g}" for value in default)
        msg = f"{option} takes {name} apart by commas, such as {example}; got {text!r}."
        raise ConfigError(msg) from error


def _settings(
    base: "StudySettings",
    tried: tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]],
    held: tuple[float, ...],
    *,
    unheard: float,
    collinearity: float,
) -> "StudySettings":
    """Return settings that hold those of the tried values that are nearest to what should be held."""
    from stemsim.errors import ConfigError

    if len(held) != len(tried):
        msg = f"--hold takes triplets, votes and noise, such as 331,5,0.25; got {len(held)} numbers."
        raise ConfigError(msg)
    counts, votes, noises = tried
    nearest = [values[_nearest(values, wanted)] for values, wanted in zip(tried, held, strict=True)]
    return replace(
        base,
        triplets=counts,
        votes=votes,
        noises=noises,
        reference=(int(nearest[0]), int(nearest[1])),
        listeners=replace(base.listeners, noise=float(nearest[2]), unheard=unheard),
        songs=replace(base.songs, shared=collinearity),
    )


def _nearest(values: Sequence[float], wanted: float) -> int:
    """Return the index of the value that is nearest to the one wanted."""
    return min(range(len(values)), key=lambda index: abs(values[index] - wanted))


def _print(study: "Findings") -> None:
    from rich.console import Console

    from stemsim.evaluation.study.tables import study_tables

    console = Console()
    for table in study_tables(study):
        _print_table(console, table)
    for sentence in study.sentences:
        console.print(f"- {sentence}", highlight=False, markup=False)


def _print_table(console: "Console", table: "TextTable") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(table.title, style="bold"))
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=any("\n" in row[-1] for row in table.rows))
    for index, heading in enumerate(table.header):
        drawn.add_column(heading, justify="right" if index else "left", no_wrap=index == 0)
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


def _write(study: "Findings", folder: Path) -> list[Path]:
    """Write the figures as JSON, CSV and Markdown, and the picture."""
    from stemsim.evaluation.plots import save_figure
    from stemsim.evaluation.study.plots import plot_study
    from stemsim.evaluation.study.tables import study_tables

    folder.mkdir(parents=True, exist_ok=True)
    document, text, picture = folder / "study.json", folder / "study.md", folder / "study.png"
    document.write_text(json.dumps(study.to_dict(), indent=2) + "\n", encoding="utf-8")
    said = "\n".join(f"- {sentence}" for sentence in study.sentences)
    tables = "\n".join(table.markdown() for table in study_tables(study))
    text.write_text(f"# Simulated truth\n\n{said}\n\n{tables}", encoding="utf-8")
    written = [document, text]
    for name, frame in study.frames.items():
        written.append(folder / f"study_{name}.csv")
        frame.to_csv(written[-1], index=False)
    save_figure(plot_study(study), picture)
    return [*written, picture]
