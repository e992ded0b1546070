"""`stemsim personalize`: a model with your own weights, from your votes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import DeviceOption, JsonOption, print_json

if TYPE_CHECKING:
    from stemsim.fitting.personal import PersonalWeights


def personalize_command(
    votes: Annotated[Path, typer.Argument(metavar="FILE", help="Votes file: CSV, TSV or Parquet.")],
    prior: Annotated[str, typer.Option(help="Model to start from: a ready-made one, or the folder of a model.")],
    output: Annotated[Path, typer.Option(help="Folder of the model to write.")],
    listener: Annotated[
        str | None, typer.Option(help="The listener to fit.", show_default="all, as if they were one")
    ] = None,
    question: Annotated[
        str, typer.Option(help="Question that was answered: overall, timbre, rhythm or melody.")
    ] = "overall",
    store: Annotated[Path | None, typer.Option(help="Folder of the embedding store.", show_default="none")] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Move the weights of a model towards your votes, and write them as a model: `stemsim search --model OUTPUT`.

    Forty votes, about 20 minutes, are a good start; under 20 nobody can tell whether the weights are yours. Expect
    modest gains: pieces of music differ more than listeners do. How far listeners depart from the model is learned
    from the others in the file, where --listener is given and there are at least three.
    """
    with readable_errors():
        from stemsim.fitting.personal import ListenerVotes, linear_weights, personalize
        from stemsim.model import load
        from stemsim.triplets.votes_file import VotesFile, named_listener

        model = load(prior, store=store, device=device)
        weights, answers = linear_weights(model), VotesFile(votes).answers()
        name = None if listener is None else named_listener(answers, listener)
        everyone = ListenerVotes.of(answers, model, question=question)
        own, others = everyone, None
        if name is not None:
            own, others = everyone.select(everyone.listener == name), everyone.select(everyone.listener != name)
        found = personalize(own, weights, others=others)
        found.model(model, output.name).save(output)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found, output)


def _print(found: "PersonalWeights", output: Path) -> None:
    from rich.console import Console

    from stemsim.report.text import TextTable, fixed, percent, with_spread

    rows = tuple(
        (stem, fixed(found.prior[stem], 2), with_spread(weight, found.spread[stem], 2))
        for stem, weight in found.weights.items()
    )
    console = Console()
    TextTable(f"Weights from {found.votes} votes", ("stem", "before", "yours"), rows).print(console, compact=True)
    bins = tuple((str(one.votes), percent(one.predicted), percent(one.chosen)) for one in found.calibration)
    if bins:
        title = "Calibration: votes held out, by how sure the prediction was"
        TextTable(title, ("votes", "predicted, %", "chosen, %"), bins).print(console, compact=True)
    source = f"learned from {found.learned_from} listeners" if found.learned_from else "the usual one"
    console.print(
        f"{found.sentence}\n"
        f"Prior spread {found.prior_spread:g} ({source}); lapses {percent(found.lapse)} %; log odds of a vote = "
        f"{found.scale:.3g} x preference.\n"
        f"Wrote {output}; use it with --model {output}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
