"""`stemsim study`: recovery of stem weights, coverage of intervals and gains of fusions where the truth is known."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from stemsim.cli.errors import readable_errors

_List = str | None


def study_command(
    output: Annotated[
        Path, typer.Option(help="Folder for study.json, study.md, study.png and the figures as CSV.")
    ] = Path("runs/study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few experiments, which take seconds and give rough figures.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    triplets: Annotated[_List, typer.Option(help="Numbers of triplets to try.", show_default="50 to 2000")] = None,
    votes: Annotated[_List, typer.Option(help="Odd numbers of votes per triplet.", show_default="1 to 15")] = None,
    noises: Annotated[
        _List,
        typer.Option(
            help="Noises of the listeners, relative to the perceived difference: with 0 they never err; 0.25 gives the "
            "ceilings of Inst-Sim-ABX.",
            show_default="0.1,0.25,0.6",
        ),
    ] = None,
    hold: Annotated[
        _List,
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
        _List, typer.Option(help="Numbers of triplets to fit fusions to.", show_default="100 to 3000")
    ] = None,
    fusion_experiments: Annotated[
        int | None, typer.Option(help="Simulated listening tests for each of these.", show_default="20")
    ] = None,
    heads: Annotated[
        bool,
        typer.Option(
            "--heads",
            help="Also fit SplineFusion and AttentionFusion, beside fusions that ridge regression fits exactly. Takes "
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

    2. agreement with the majorities of held-out triplets of other songs;

    3. the coverage of 95 % intervals of the weights, which should be 93 to 97 %;

    4. the gain of nonlinear fusions over ridge, and how often the paired test
    finds it, where listeners are linear, are saturating (a stem is alike or
    not), or weight a stem by its loudness.

    No audio is needed. The whole study takes minutes, `--quick` seconds. Lists
    of numbers are comma-separated.
    """
    with readable_errors():
        from stemsim.errors import ConfigError
        from stemsim.study import StudySettings, run_study

        if output.exists() and not output.is_dir():
            raise ConfigError(f"--output must be a folder, but {output} is a file. Choose another.")
        base = StudySettings.quick(seed=seed) if quick else StudySettings(seed=seed)
        given = {
            "triplets": _numbers("--triplets", triplets, int),
            "votes": _numbers("--votes", votes, int),
            "noises": _numbers("--noises", noises, float),
            "reference": _numbers("--hold", hold, float),
            "experiments": experiments,
            "coverage_experiments": coverage_experiments,
            "fusion_triplets": _numbers("--fusion-triplets", fusion_triplets, int),
            "fusion_experiments": fusion_experiments,
        }
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        settings = replace(base, unheard=unheard, collinearity=collinearity, **chosen)
        output.mkdir(parents=True, exist_ok=True)
        findings = run_study(settings, heads=heads, progress=progress)
        from rich.console import Console
        from rich.markdown import Markdown

        from stemsim.study.report import sentences, tables, write_study

        Console().print(Markdown("\n- ".join([tables(findings), *sentences(findings)])))
        typer.echo("Wrote " + ", ".join(map(str, write_study(findings, output))))


def _numbers(option: str, text: str | None, kind: type[int] | type[float]) -> tuple[float, ...] | None:
    """Return the comma-separated numbers of an option, if it is given."""
    from stemsim.errors import ConfigError

    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        name, example = ("whole numbers", "1,3,5") if kind is int else ("numbers", "0.25,0.6")
        raise ConfigError(f"{option} takes comma-separated {name}, such as {example}; got {text!r}.") from error
