"""`stemsim compare`: the similarity of two pieces, and the contribution of each stem."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import DeviceOption, JsonOption, print_json
from stemsim.cli.parts import ENCODER_HELP, SEPARATOR_HELP

if TYPE_CHECKING:
    from stemsim.model import Explanation, StemSimilarity
    from stemsim.stems import StemLayout


def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="Audio file.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Audio file.")],
    model: Annotated[
        str | None, typer.Option(help="Ready-made model, such as muq-6stem, or the folder of a model of your own.")
    ] = None,
    fusion: Annotated[
        str | None, typer.Option(help="Class of your own fusion, my_module.MyFusion, if --model was fitted with one.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP, show_default="spectral, or the model's")] = None,
    separator: Annotated[str | None, typer.Option(help=SEPARATOR_HELP, show_default="bands, or the model's")] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of stems: drums=1,bass=0.5; others get 0.", show_default="equal, or the model's"),
    ] = None,
    start: Annotated[float, typer.Option("--from", help="Start of the comparison in both files, in seconds.")] = 0.0,
    end: Annotated[
        float | None,
        typer.Option("--to", help="End of the comparison in both files, in seconds.", show_default="end of file"),
    ] = None,
    device: DeviceOption = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Save a plot of the contributions, for example to x.png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two pieces: their similarity as a sum over their stems, and the contribution of each stem.

    Without --model, --encoder and --separator the stems are frequency bands, embedded by classical audio features: this
    needs no downloaded weights, but is far behind the ready-made models.
    """
    with readable_errors():
        from stemsim.audio import Segment

        segments = [Segment.between(path, start, end) for path in (a, b)]
        similarity = _similarity(model, fusion, encoder, separator, weights, device)
        explanation: Any = similarity.explain(*segments)
        card = similarity.card
        linear = card.fusion.name == "linear"
        if plot is not None:
            _plot(explanation, a, b, plot, linear=linear)
    if as_json:
        parts = {"encoder": card.encoder.identity, "separator": card.separator.identity, "fusion": str(card.fusion)}
        print_json({"a": str(a), "b": str(b), "model": card.name, **parts, **explanation.to_dict()})
        return
    name = "" if card.name == "custom" else f"{card.name}: "
    fusion_used = "" if linear else f", fusion {card.fusion}"
    typer.echo(f"A  {a}\nB  {b}\n\n{explanation}\n\n{name}{card.separator} x {card.encoder}{fusion_used}")
    if plot is not None:
        typer.echo(f"Wrote {plot}")


def _similarity(
    model: str | None, fusion: str | None, encoder: str | None, separator: str | None, weights: str | None, device: str
) -> "StemSimilarity":
    """Return the model that is asked for by name or by its parts."""
    from stemsim.cli.parts import import_fusion, make_encoder, make_separator
    from stemsim.embedding import StemEmbedder
    from stemsim.errors import ConfigError
    from stemsim.fusion import WeightedFusion
    from stemsim.model import StemSimilarity, load

    if model is not None:
        loaded = load(
            model,
            encoder=None if encoder is None else make_encoder(encoder),
            separator=None if separator is None else make_separator(separator),
            fusion=None if fusion is None else import_fusion(fusion),
            device=device,
        )
        if weights is None:
            return loaded
        learned = loaded.weights if isinstance(loaded.fusion, WeightedFusion) else None
        return StemSimilarity(loaded.embedder, _weights(weights, loaded.stems, learned))
    if fusion is not None:
        raise ConfigError("--fusion is for a --model that was fitted with a fusion of your own; name that model.")
    embedder = StemEmbedder(
        make_separator(separator or "bands"), make_encoder(encoder or "spectral"), device=device, progress=False
    )
    equal = dict.fromkeys(embedder.stems, 1.0)
    return StemSimilarity(embedder, equal if weights is None else _weights(weights, embedder.stems))


def _weights(text: str, stems: "StemLayout", learned: "Mapping[str, float] | None" = None) -> dict[str, float]:
    """Read the weights of the stems; a search also knows pairs of different stems, a comparison does not."""
    from stemsim.errors import ConfigError
    from stemsim.retrieval.routing import Routing

    weights = dict.fromkeys(stems, 0.0)
    for query, library, weight in Routing.parse(text, stems, learned).pairs:
        if query != library:
            raise ConfigError(
                f"Two pieces are compared stem by stem, so --weights cannot pair {query} with {library} as in a "
                f"search. Write {query}={weight:g}."
            )
        weights[query] = weight
    return weights


def _plot(explanation: "Explanation", a: Path, b: Path, path: Path, *, linear: bool) -> None:
    """Draw the contributions as bars, and the similarity of each stem beside its name."""
    from importlib.util import find_spec

    from stemsim.errors import ConfigError

    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs the package matplotlib: pip install matplotlib.")
    from stemsim.replacing import replacing
    from stemsim.report.style import PUBLISHED_COLOR, SERIES_COLORS, new_figure

    stems = list(reversed(explanation.stems))
    colors = SERIES_COLORS[0], PUBLISHED_COLOR
    figure, axes = new_figure(7.0, 1.2 + 0.38 * len(stems))
    values = [explanation.contributions[stem] for stem in stems]
    axes.barh(range(len(stems)), values, color=[colors[value < 0.0] for value in values])
    labels = [
        f"{stem}  (silent)" if stem in explanation.silent else f"{stem}  {explanation.cosines[stem]:.2f}"
        for stem in stems
    ]
    axes.set_yticks(range(len(stems)), labels)
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_xlabel("contribution = weight x similarity of the stem" if linear else "contribution of the stem")
    names = [file.name if a.name != b.name else f"{file.parent.name}/{file.name}" for file in (a, b)]
    axes.set_title(f"{names[0]} - {names[1]}: similarity {explanation.similarity:.3f}", fontsize=10, parse_math=False)
    axes.spines["left"].set_visible(False)
    try:
        with replacing(path) as partial:
            figure.savefig(partial, dpi=120)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be written: {error}. Name another file, such as x.png.") from error
