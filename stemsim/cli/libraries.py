"""Libraries on the command line: common options, and opening or making one."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from stemsim.model import Part
    from stemsim.retrieval.library import Library

__all__ = ["DeviceOption", "JsonOption", "LibraryOption", "open_library", "open_or_make", "print_json"]

LibraryOption = Annotated[str, typer.Option("--library", "-l", help="Folder of the library, or s3://...")]
DeviceOption = Annotated[str, typer.Option(help="Where the models compute: cpu, cuda:0, ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

_SILENCE: Final = -60.0  # dBFS, as everywhere but in the paper's models


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2))


def open_library(root: str, device: str = "cpu") -> "Library":
    """Open an existing library, whose models would compute on a device."""
    from stemsim.retrieval import Library

    return Library(root, device=device)


def open_or_make(
    root: str,
    *,
    model: str | None,
    encoder: str | None,
    separator: str | None,
    computing: dict[str, Any],
    **settings: Any,
) -> "tuple[Library, bool]":
    """Open a library, or make one; a new one needs no downloaded weights unless it is told otherwise.

    Args:
        root: Its folder.
        model: Name or folder of a model; None: what an existing library was made with.
        encoder: Name of an encoder.
        separator: Name of a separator.
        computing: `device`, `workers` and `batch_size` of the embedder.
        settings: `window`, `hop` and `index` of `Library`.

    Returns:
        The library, and whether it is new.

    Raises:
        ConfigError: If model and parts contradict each other, or differ from the library's.
    """
    from stemsim.cli.parts import make_encoder, make_separator
    from stemsim.embedding import StemEmbedder
    from stemsim.errors import ConfigError
    from stemsim.retrieval.catalogue import Catalogue
    from stemsim.retrieval.library import Library

    if model is not None and (encoder is not None or separator is not None):
        msg = "--model names an encoder and a separator already; leave --encoder and --separator out."
        raise ConfigError(msg)
    card = Catalogue(root).read_card()
    weights: dict[str, float] | None = None
    embedder: StemEmbedder | None = None
    if model is not None:
        from stemsim.fusion import WeightedFusion
        from stemsim.model import load

        loaded = load(model)
        weights, made = loaded.weights if isinstance(loaded.fusion, WeightedFusion) else None, loaded.embedder
        embedder = StemEmbedder(made.source, made.encoder, silence=made.silence, progress=False, **computing)
    elif card is None:
        source, chosen = make_separator(separator or "bands"), make_encoder(encoder or "spectral")
        embedder = StemEmbedder(source, chosen, silence=_SILENCE, progress=False, **computing)
    elif encoder or separator:
        _check_named("encoder", encoder, card.encoder, root)
        _check_named("separator", separator, card.separator, root)
        embedder = card.build_embedder(
            separator=None if separator is None else make_separator(separator),
            encoder=None if encoder is None else make_encoder(encoder),
            **computing,
        )
    return Library(root, embedder, weights=weights, model=model, **settings, **computing), card is None


def _check_named(kind: str, text: str | None, part: "Part", root: str) -> None:
    """Raise if an option names another kind of part than the library was made with, before it is loaded."""
    from stemsim.errors import ConfigError

    if text is not None and part.name is not None and text.partition(":")[0] != part.name:
        msg = (
            f"The library {root} was made with the {kind} {part}, and --{kind} says {text}: their vectors cannot be "
            "compared. Leave the option out, or make another library."
        )
        raise ConfigError(msg)
