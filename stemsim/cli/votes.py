"""`stemsim votes`: counts of the listening test Inst-Sim-ABX; no audio is needed."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import JsonOption, print_json

if TYPE_CHECKING:
    from stemsim.evaluation.listening_test import ListeningTest, VoteCount


def votes_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Copy of zume06/Inst-Sim-ABX-Dataset: csvs/, sample_configs/.")
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
        bool, typer.Option("--pool", help="Count the same question in both runs of the test as one triplet.")
    ] = False,
    as_json: JsonOption = False,
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
        print_json(asdict(test))
    else:
        _print(test)


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
    title = f"Votes in Inst-Sim-ABX{about}{', both runs pooled' if test.pooled else ''}"
    retained = f"retained\nat {test.min_agreement:g}"
    headings = ("instrument", "test", "triplets", retained, "answers", "votes,\nmedian")
    shares = ("chose\nfirst,\n%", "sure,\n%", "human\nceiling,\n%", "95 %\ninterval")
    counts = [*test.counts, test.chosen] if len(test.counts) > 1 else test.counts
    table = TextTable(title, headings + shares, tuple(map(cells, counts)), strong=len(test.counts))
    console = Console()
    table.print(console, compact=True)
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
