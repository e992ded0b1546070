"""`stemsim votes`: counts of the listening test Inst-Sim-ABX; no audio is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors

if TYPE_CHECKING:
    from stemsim.evaluation.listening_test import ListeningTest, VoteCount

__all__ = ["votes_command"]


def votes_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Copy of the repository zume06/Inst-Sim-ABX-Dataset, with csvs/ and sample_configs/."
        ),
    ],
    instrument: Annotated[
        str | None,
        typer.Option(
            help="Instrument that was heard: bass, drums, guitar, piano, residuals or mix.", show_default="all"
        ),
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
        bool, typer.Option("--pool", help="Count the same question in both runs of the test as one triplet.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Count the votes of the listening test Inst-Sim-ABX, and measure how far its listeners agree.

    The human ceiling is the share of answers to the retained triplets that agree with the majority of the other
    listeners, a tie among them counting 0.5. Its 95 % interval allows for other listeners and other triplets.
    """
    with readable_errors():
        from stemsim.evaluation.listening_test import describe_listening_test

        test = describe_listening_test(
            folder,
            instrument=instrument,
            test_type=test_type,
            min_agreement=min_agreement,
            min_votes=min_votes,
            screen=screen,
            perspective=perspective,
            pool=pool,
        )
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(test), indent=2))
    else:
        _print(test)


def _print(test: "ListeningTest") -> None:
    """Print the counts as a table, and a summary of the whole test below it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    about = "" if test.perspective == "overall" else f", {test.perspective}"
    title = f"Votes in Inst-Sim-ABX{about}{', both runs pooled' if test.pooled else ''}"
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title=title, title_justify="left")
    for heading in ("instrument", "test"):
        table.add_column(heading, no_wrap=True)
    retained = f"retained\nat {test.min_agreement:g}"
    for heading in (
        "triplets",
        retained,
        "answers",
        "votes,\nmedian",
        "chose\nfirst,\n%",
        "sure,\n%",
        "human\nceiling,\n%",
        "95 %\ninterval",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for count in test.counts:
        table.add_row(*_cells(count), end_section=count is test.counts[-1])
    if len(test.counts) > 1:
        table.add_row(*_cells(test.chosen), style="bold")
    console = Console()
    console.print(table)
    total, wrong = test.total, test.wrong_dummies
    console.print(
        f"In all: {total.triplets} triplets ({total.distinct} distinct"
        f"{'' if test.pooled else ', as both runs of the test asked about the same stems; see --pool'}), "
        f"{total.answers} answers, {test.subjects} listeners; {test.dummy_checks} dummy checks, {len(wrong)} wrong.",
        highlight=False,
    )
    for check in wrong:
        said = f"{check.answer} where {check.expected} is the reference (line {check.line})"
        fate = "left out" if test.screened else "counted; see --screen"
        console.print(f"  {check.subject}: {said}, {fate}", highlight=False)


def _cells(count: "VoteCount") -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        count.instrument,
        count.test_type,
        str(count.triplets),
        str(count.retained),
        str(count.answers),
        "-" if count.median_votes is None else f"{count.median_votes:g}",
        _percent(count.chose_first),
        _percent(count.sure),
        _percent(count.ceiling),
        "-" if (ends := count.ceiling_interval) is None else f"{_percent(ends[0])}-{_percent(ends[1])}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
