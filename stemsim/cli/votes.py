"""`stemsim votes`: counts of a listening test, and votes from ratings; no audio is needed."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.groups import group_with_default
from stemsim.cli.libraries import DeviceOption, JsonOption, print_json

if TYPE_CHECKING:
    from stemsim.evaluation.listening_test import ListeningTest, VoteCount


votes_app = typer.Typer(
    cls=group_with_default("count"),
    help=(
        "Count the votes of a listening test: `stemsim votes FILE` is short for `stemsim votes count FILE`. The other "
        "commands make votes of ratings, compare listeners, and simulate them."
    ),
    no_args_is_help=True,
)


@votes_app.command("count")
def votes_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Votes as CSV, TSV or Parquet; or a copy of zume06/Inst-Sim-ABX-Dataset, a folder."
        ),
    ],
    instrument: Annotated[
        str | None,
        typer.Option(help="Instrument heard: bass, drums, guitar, piano, residuals, mix.", show_default="all"),
    ] = None,
    test_type: Annotated[
        str | None,
        typer.Option(help="XAB: three different tracks. XYC: Y is from the same track as X.", show_default="both"),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(help="Minimum share of votes of the majority of a retained triplet.")
    ] = 0.8,
    min_votes: Annotated[int, typer.Option(help="Minimum number of votes of a retained triplet.")] = 1,
    screen: Annotated[bool, typer.Option("--screen", help="Leave out the listeners who failed a dummy check.")] = False,
    perspective: Annotated[
        str, typer.Option(help="Question that the listeners answered: overall, timbre, rhythm or melody.")
    ] = "overall",
    pool: Annotated[
        bool, typer.Option("--pool", help="Count the same question in both runs of Inst-Sim-ABX as one triplet.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Count the votes of a listening test, and measure how far its listeners agree.

    The human ceiling is the share of answers to the retained triplets that agree with the majority of the other
    listeners, a tie among them counting 0.5. 95 % intervals allow for other listeners and other triplets.
    """
    with readable_errors():
        from stemsim.evaluation.listening_test import describe_listening_test

        test = describe_listening_test(
            path,
            instrument=instrument,
            test_type=test_type,
            min_agreement=min_agreement,
            min_votes=min_votes,
            screen=screen,
            perspective=perspective,
            pool=pool,
        )
    if as_json:
        print_json(asdict(test))
    else:
        _print(test)


@votes_app.command("from-ratings")
def from_ratings_command(
    ratings: Annotated[
        list[Path],
        typer.Argument(
            metavar="MATRIX...", help="Dissimilarities, sounds by sounds, as CSV; one file for each listener."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Votes file to write.")] = Path("votes.csv"),
    audio: Annotated[
        Path | None, typer.Option(help="Folder that the names are relative to.", show_default="that of OUTPUT")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Smallest difference that counts, as a share of the range of the ratings.")
    ] = 0.1,
    most: Annotated[int, typer.Option(help="Most triplets of each matrix; beyond, they are drawn at random.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Make votes of dissimilarity ratings: A is closer to X if it was rated less dissimilar, by more than a margin.

    The sounds head the columns and begin the rows of each matrix. Pairs that were not rated stay empty.
    """
    with readable_errors():
        from stemsim.triplets.ratings import votes_from_ratings

        count = votes_from_ratings(ratings, output, audio=audio, margin=margin, most=most, seed=seed)
    typer.echo(f"Wrote {count} votes to {output}")


@votes_app.command("listeners")
def listeners_command(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Votes file; or a copy of zume06/Inst-Sim-ABX-Dataset, a folder."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model around whose weights listeners are compared; needs audio.", show_default="none"),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for listeners.json, listeners.csv and pictures.")] = Path(
        "runs/votes"
    ),
    store: Annotated[Path | None, typer.Option(help="Folder of the embedding store.", show_default="none")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Compare the listeners of a test: agreement with the others, position bias, repeats and times.

    With --model, also fit shared weights, each listener's departure from them with its interval, and test which stems
    listeners differ on. This needs the audio of a votes file.
    """
    with readable_errors():
        from stemsim.evaluation.listeners import answer_times, compare_listeners, compare_questions
        from stemsim.evaluation.listening_test import read_listening_test
        from stemsim.report.listeners import print_listeners, write_listeners

        answers = read_listening_test(path)
        weights = None
        if model is not None:
            from stemsim.fitting.listeners import compare_listener_weights
            from stemsim.fitting.personal import ListenerVotes, linear_weights
            from stemsim.model import load
            from stemsim.triplets import VotesFile

            prior = load(model, store=store, device=device)
            votes = ListenerVotes.of(VotesFile(path).answers(), prior)
            weights = compare_listener_weights(votes, linear_weights(prior))
        questions, listeners = compare_questions(answers), compare_listeners(answers)
        written = write_listeners(questions, listeners, weights, output)
    print_listeners(answers.source, questions, listeners, weights)
    if (times := answer_times(answers)) is not None:
        typer.echo("Time of an answer: median {1:.1f} s, quartiles {0:.1f} and {2:.1f} s.".format(*times))
    typer.echo("Wrote " + ", ".join(map(str, written)))


@votes_app.command("simulate")
def simulate_command(
    output: Annotated[Path, typer.Option(help="Folder for listeners.json, listeners.md and listeners.png.")] = Path(
        "runs/listeners"
    ),
    listeners: Annotated[int, typer.Option(help="Number of listeners of each kind.")] = 60,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer votes and triplets, for rough figures.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Simulate listeners with known weights: how many votes find them, and what choosing the questions saves.

    It also compares personal weights with those that they start from, for priors of the right width and of others. No
    audio is needed. It takes a minute.
    """
    with readable_errors():
        from stemsim.study.listeners import (
            ListenerSettings,
            listener_tables,
            simulate_listeners,
            write_listeners,
        )

        sizes: dict[str, Any] = (
            {"votes": (5, 10, 20), "personal_votes": (5, 20), "candidates": 200, "held_out": 500} if quick else {}
        )
        findings = simulate_listeners(ListenerSettings(listeners=listeners, seed=seed, **sizes), progress=progress)
        written = write_listeners(findings, output)
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(listener_tables(findings)))
    typer.echo("Wrote " + ", ".join(map(str, written)))


def _print(test: "ListeningTest") -> None:
    """Print the counts as a table, and a summary of the whole test below it."""
    from rich.console import Console

    from stemsim.report.text import TextTable, percent

    def cells(count: "VoteCount") -> tuple[str, ...]:
        interval = "-" if count.ceiling_interval is None else "-".join(map(percent, count.ceiling_interval))
        return (
            count.instrument,
            count.test_type,
            str(count.triplets),
            str(count.retained),
            str(count.answers),
            "-" if count.median_votes is None else f"{count.median_votes:g}",
            *map(percent, (count.chose_first, count.sure, count.ceiling)),
            interval,
        )

    about = "" if test.perspective == "overall" else f", {test.perspective}"
    title = f"Votes in {test.source}{about}{', both runs pooled' if test.pooled else ''}"
    retained = f"retained\nat {test.min_agreement:g}"
    headings = ("instrument", "test", "triplets", retained, "answers", "votes,\nmedian")
    shares = ("chose\nfirst,\n%", "sure,\n%", "human\nceiling,\n%", "95 %\ninterval")
    counts = [*test.counts, test.chosen] if len(test.counts) > 1 else test.counts
    table = TextTable(title, headings + shares, tuple(map(cells, counts)), strong=len(test.counts))
    console = Console()
    table.print(console, compact=True)
    total, wrong = test.total, test.wrong_dummies
    distinct = f" ({total.distinct} distinct, as both runs of the test asked about the same stems; see --pool)"
    distinct = distinct if total.distinct < total.triplets else ""
    named = "listeners without names" if test.subjects is None else f"{test.subjects} listeners"
    console.print(
        f"In all: {total.triplets} triplets{distinct}, "
        f"{total.answers} answers, {named}; {test.dummy_checks} dummy checks, {len(wrong)} wrong.",
        highlight=False,
    )
    if total.chose_first_interval is not None:
        bias = f"{percent(total.chose_first)} % [{'-'.join(map(percent, total.chose_first_interval))}]"
        console.print(f"First candidate chosen: {bias}; without position bias 50 %.", highlight=False, markup=False)
    if test.consistency_interval is not None:
        same = f"{percent(test.consistency)} % [{'-'.join(map(percent, test.consistency_interval))}]"
        console.print(
            f"Repeated questions: {test.repeats}, answered alike in {same}; they are not counted as votes.",
            highlight=False,
            markup=False,
        )
    for check in wrong:
        said = f"{check.answer} where {check.expected} is the reference (line {check.line})"
        fate = "left out" if test.screened else "counted; see --screen"
        console.print(f"  {check.subject}: {said}, {fate}", highlight=False)
