"""`stemsim study`: recovery of stem weights, coverage of intervals and gains of fusions where the truth is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from stemsim.cli.errors import readable_errors

__all__ = ["study_command"]


def study_command(
    output: Annotated[
        Path, typer.Option(help="Folder for study.json, study.md, study.png and the figures as CSV.")
    ] = Path("runs/study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few experiments, which take seconds and give rough figures.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    triplets: Annotated[
        str | None, typer.Option(help="Comma-separated numbers of triplets to try.", show_default="50 to 2000")
    ] = None,
    votes: Annotated[
        str | None, typer.Option(help="Comma-separated odd numbers of votes per triplet.", show_default="1 to 15")
    ] = None,
    noises: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated noises of the listeners: the uncertainty of an answer relative to the perceived "
            "difference. Listeners with noise 0 never err; 0.25 gives the ceilings of Inst-Sim-ABX.",
            show_default="0.1,0.25,0.6",
        ),
    ] = None,
    hold: Annotated[
        str | None,
        typer.Option(
            metavar="TRIPLETS,VOTES,NOISE",
            help="Condition to hold while something else varies; the nearest values that are tried are used.",
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
        typer.Option(help="Comma-separated numbers of triplets to fit fusions to.", show_default="100 to 3000"),
    ] = None,
    fusion_experiments: Annotated[
        int | None, typer.Option(help="Simulated listening tests for each of these.", show_default="20")
    ] = None,
    heads: Annotated[
        bool,
        typer.Option(
            "--heads",
            help="Also fit SplineFusion and AttentionFusion, not only fusions that ridge regression fits exactly. Takes "
            "far longer: combine with fewer --fusion-experiments.",
        ),
    ] = False,
    unheard: Annotated[
        float, typer.Option(help="What listeners hear and no stem embedding shows, relative to what the stems show.")
    ] = 0.5,
    collinearity: Annotated[
        float, typer.Option(help="Share of the differences between songs that all their stems have in common: 0 to 1.")
    ] = 0.35,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Simulate listening tests with known stem weights, and measure how well the weights are recovered.

    Every test has songs, triplets and listeners of its own, like Inst-Sim-ABX:
    triplets share references and songs, stems are collinear, some are silent,
    and listeners differ in taste. The true weights are the paper's, each
    multiplied by a random factor. The study reports

    1. the angle between fitted and true weights: with OLS, with ridge, and with
    ridge towards the paper's weights (prior-ridge) or towards wrong ones;

    2. agreement with the majorities of held-out triplets of other songs, beside
    that of one listener and that of the true weights;

    3. the coverage of 95 % intervals of the weights, which should be 93 to 97 %;

    4. the gain of nonlinear fusions over ridge where listeners are linear, are
    saturating (a stem is alike or not), or weight a stem by its loudness, and
    how often the paired test finds the gain.

    No audio is needed. The whole study takes minutes, `--quick` seconds.
    """
    with readable_errors():
        from stemsim.errors import ConfigError
        from stemsim.study import StudySettings, run_study

        if output.exists() and not output.is_dir():
            msg = f"--output must be a folder, but {output} is a file. Choose another."
            raise ConfigError(msg)
        chosen: dict[str, Any] = {
            "triplets": _numbers("--triplets", triplets, int, "50,331"),
            "votes": _numbers("--votes", votes, int, "1,5"),
            "noises": _numbers("--noises", noises, float, "0.25,0.6"),
            "reference": _numbers("--hold", hold, float, "331,5,0.25", size=3),
            "experiments": experiments,
            "coverage_experiments": coverage_experiments,
            "fusion_triplets": _numbers("--fusion-triplets", fusion_triplets, int, "100,331"),
            "fusion_experiments": fusion_experiments,
            "unheard": unheard,
            "collinearity": collinearity,
        }
        base = StudySettings.quick(seed=seed) if quick else StudySettings(seed=seed)
        settings = replace(base, **{name: value for name, value in chosen.items() if value is not None})
        findings = run_study(settings, heads=heads, progress=progress)
    from rich.console import Console
    from rich.markdown import Markdown

    from stemsim.study.report import bullets, tables, write_study

    Console().print(Markdown(f"{tables(findings)}\n{bullets(findings)}"))
    typer.echo("Wrote " + ", ".join(map(str, write_study(findings, output))))


def _numbers(
    option: str, text: str | None, kind: Callable[[str], float], example: str, *, size: int | None = None
) -> tuple[float, ...] | None:
    """Return the comma-separated numbers of an option, if it was given."""
    from stemsim.errors import ConfigError

    if text is None:
        return None
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or size not in {None, len(values)}:
        what = "whole numbers" if kind is int else "numbers"
        count = "" if size is None else f"{size} "
        msg = f"{option} takes {count}comma-separated {what}, such as {example}; got {text!r}."
        raise ConfigError(msg)
    return values
