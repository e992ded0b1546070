"""Opening a library by what one types on the command line."""

from typing import TYPE_CHECKING, Final

from stemsim.errors import ConfigError

if TYPE_CHECKING:
    from stemsim.embedding import StemEmbedder
    from stemsim.model import Part
    from stemsim.retrieval.card import LibraryCard
    from stemsim.retrieval.library import Library

__all__ = ["open_library", "open_or_make"]

_SILENCE: Final = -60.0  # dBFS, as everywhere but in the paper's models


def open_library(root: str, *, device: str) -> "Library":
    """Open a library to search it.

    Args:
        root: Its folder.
        device: Where its models compute; they are made when they are first needed.
    """
    from stemsim.retrieval.library import Library

    return Library(root, device=device)


def open_or_make(
    root: str,
    *,
    model: str | None,
    encoder: str | None,
    separator: str | None,
    windows: tuple[float | None, float | None],
    computing: tuple[str, int | None, int | None],
    index: str | None,
) -> "tuple[Library, bool]":
    """Open a library, or make one.

    Args:
        root: Its folder.
        model: A ready-made model; None for a library that is there: what it was made with.
        encoder: Name of an encoder.
        separator: Name of a separator.
        windows: Length and hop in seconds.
        computing: Device, workers and batch size.
        index: Address of a Milvus.

    Returns:
        The library, and whether it is new.

    Raises:
        ConfigError: If model and parts contradict each other, or are not those of the library.
    """
    from stemsim.retrieval.catalogue import Catalogue
    from stemsim.retrieval.library import Library

    if model is not None and (encoder is not None or separator is not None):
        msg = "--model names an encoder and a separator already; leave --encoder and --separator out."
        raise ConfigError(msg)
    card = Catalogue(root).read_card()
    device, workers, batch_size = computing
    window, hop = windows
    if card is not None:
        _check_named("encoder", encoder, card.encoder, root)
        _check_named("separator", separator, card.separator, root)
    if card is None or model or encoder or separator:
        embedder, weights = _embedder(card, model, encoder, separator, computing)
        library = Library(root, embedder, window=window, hop=hop, weights=weights, model=model, index=index)
        return library, card is None
    library = Library(root, window=window, hop=hop, index=index, device=device, workers=workers, batch_size=batch_size)
    return library, False


def _embedder(
    card: "LibraryCard | None",
    model: str | None,
    encoder: str | None,
    separator: str | None,
    computing: tuple[str, int | None, int | None],
) -> "tuple[StemEmbedder, dict[str, float] | None]":
    """Make the embedder that is asked for; what is not said is the library's, or in a new one needs no weights."""
    from stemsim.cli.parts import make_encoder, make_separator
    from stemsim.embedding import StemEmbedder

    device, workers, batch_size = computing
    if model is None and card is not None:
        embedder = card.build_embedder(
            separator=None if separator is None else make_separator(separator),
            encoder=None if encoder is None else make_encoder(encoder),
            device=device,
            workers=workers,
            batch_size=batch_size,
        )
        return embedder, None
    weights: dict[str, float] | None = None
    silence: float | None = _SILENCE
    if model is None:
        source, chosen = make_separator(separator or "bands"), make_encoder(encoder or "spectral")
    else:
        from stemsim.model import load

        loaded = load(model)
        source, chosen, silence = loaded.embedder.source, loaded.embedder.encoder, loaded.embedder.silence
        weights = loaded.weights
    embedder = StemEmbedder(
        source, chosen, silence=silence, device=device, workers=workers, batch_size=batch_size, progress=False
    )
    return embedder, weights


def _check_named(kind: str, text: str | None, part: "Part", root: str) -> None:
    """Raise if what is asked for is not even of the kind that the library was made with: before it is loaded."""
    if text is not None and part.name is not None and text.partition(":")[0] != part.name:
        msg = (
            f"The library {root} was made with the {kind} {part}, and --{kind} says {text}: their vectors cannot be "
            "compared. Leave the option out, or make another library."
        )
        raise ConfigError(msg)
