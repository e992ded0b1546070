"""`stemsim search`: find sounds in a library by audio, words, or both."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.libraries import DeviceOption, JsonOption, LibraryOption, open_library, print_json, print_table

if TYPE_CHECKING:
    from stemsim.retrieval import Hit

__all__ = ["search_command"]


def search_command(  # noqa: PLR0913, PLR0917 - each is an option
    library: LibraryOption,
    query: Annotated[
        Path | None, typer.Argument(metavar="[QUERY]", help="Audio file to search with.", show_default=False)
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help='Words to search with, such as "warm analog bass"; the encoder must encode text.'),
    ] = None,
    text_weight: Annotated[float, typer.Option(help="Share of the words beside an audio query, from 0 to 1.")] = 0.5,
    text_stems: Annotated[
        str | None, typer.Option(help="Comma-separated stems that the words are about.", show_default="all")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help=(
                "Such as drums=1,bass=0.5; drums:mix for the query's drums against whole sounds; learned; equal; "
                "learned,drums=2; or @FILE, a preset that the page has saved."
            ),
            show_default="the library's, else equal; mix for words alone",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model whose weights are the learned ones: your own, say.", show_default="the library's"),
    ] = None,
    start: Annotated[float | None, typer.Option("--from", help="Start of the query in its file, in seconds.")] = None,
    end: Annotated[float | None, typer.Option("--to", help="End of the query, in seconds.")] = None,
    k: Annotated[int, typer.Option("-k", help="Most hits.")] = 10,
    category: Annotated[str | None, typer.Option(help="Such as kick, or kick,snare; a type too: loop.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="one-shot, loop or song: --category bass --type loop for bass loops.")
    ] = None,
    bpm: Annotated[str | None, typer.Option(help="Tempo: 118:124, 120 (within half a BPM), 90: or :100.")] = None,
    octaves: Annotated[bool, typer.Option("--octaves", help="Half and double the tempo of --bpm will do too.")] = False,
    key: Annotated[str | None, typer.Option(help="Such as Am, or Am,C; F# for either mode.")] = None,
    duration: Annotated[str | None, typer.Option(help="Seconds of an item: 0.1:2.")] = None,
    loudness: Annotated[str | None, typer.Option(help="Level in dBFS: -20:-6, written --loudness=-20:-6.")] = None,
    stems: Annotated[str | None, typer.Option(help="Stems that must sound, such as drums,vocals.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Only files in this folder.")] = None,
    include_self: Annotated[bool, typer.Option("--include-self", help="Let the query find itself.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write the hits as wav files into this folder.")] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Find what in a library sounds most like a piece of audio, a description in words, or both.

    Of nearly identical windows of one file only the best is shown. The query itself, if it is in the library, is left
    out.
    """
    with readable_errors():
        from stemsim.audio import Segment
        from stemsim.retrieval import ItemFilter
        from stemsim.retrieval.catalogue import absolute
        from stemsim.retrieval.items import TYPES
        from stemsim.retrieval.tags.vocabulary import CATEGORIES

        opened = open_library(library, device)
        where = ItemFilter(
            category=_tags(category, (*CATEGORIES, *TYPES)),
            type=_tags(kind, TYPES),
            bpm=_span("--bpm", bpm, around=0.5),
            octaves=octaves,
            musical_key=_keys(key),
            duration=_span("--duration", duration),
            loudness=_span("--loudness", loudness),
            stems=_names(stems),
            path_prefix=None if folder is None else f"{absolute(folder)}/",
        )
        if model is not None:
            opened.take_weights(model)
        routing = opened.routing(_weights(weights) or (model and "learned"), words_only=query is None)
        hits = opened.search(
            None if query is None else Segment.between(query, start, end),
            text=text,
            text_weight=text_weight,
            text_stems=_names(text_stems),
            routing=routing,
            k=k,
            where=where,
            include_self=include_self,
        )
        written, left = ([], {}) if export is None else _export(hits, export)
    fusion = hits[0].fusion if hits else None
    if as_json:
        asked = {"query": None if query is None else str(query), "text": text, "weights": routing.text}
        found = [hit.to_dict() for hit in hits]
        files: dict[str, Any] = {}
        if export is not None:
            files = {"exported": [str(path) for path in written], "not_exported": left}
        print_json({**asked, "octaves": octaves, "fusion": fusion, "library": opened.root, "hits": found, **files})
        return
    _print(hits, routing.text)
    if octaves:
        typer.echo(f"Tempo {bpm}, or half or double of it.")
    if fusion is not None:
        typer.echo(f"The best items by these weights were ranked again by the {fusion} of {opened.card.model}.")
    if export is not None:
        typer.echo(f"Wrote {len(written)} files to {export}.")
    for path, reason in left.items():
        typer.echo(f"Not written: {path}: {reason}", err=True)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Split comma-separated names, if any are given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _weights(text: str | None) -> str | None:
    """Return weights as they are given, or as the file holds them that `@FILE` names."""
    from stemsim.errors import ConfigError

    if text is None or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The weights {text} cannot be read ({error}). A preset is a text file with one line: drums=1,bass=0.5."
        ) from error


def _tags(text: str | None, tags: Sequence[str]) -> tuple[str, ...] | None:
    from stemsim.retrieval.tags.categories import tag_named

    names = _names(text)
    return None if names is None else tuple(tag_named(name, tags) for name in names)


def _keys(text: str | None) -> tuple[str, ...] | None:
    from stemsim.retrieval.tags.names import keys_named

    names = _names(text)
    return None if names is None else tuple(dict.fromkeys(key for part in names for key in keys_named(part)))


def _span(flag: str, text: str | None, *, around: float | None = None) -> tuple[float | None, float | None] | None:
    """Parse `low:high`, either of which may be missing; or one number, for the values around it."""
    from stemsim.errors import ConfigError

    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        if not colon and around is not None:
            return float(low) - around, float(low) + around
        if colon and (low.strip() or high.strip()):
            return float(low) if low.strip() else None, float(high) if high.strip() else None
    except ValueError:
        pass
    raise ConfigError(f"{flag} is two numbers with a colon between them, such as 118:124, 90: or :100; got {text!r}.")


def _export(hits: "Sequence[Hit]", folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Write each hit as a wav file: a copy of a whole wav file, else the part of it.

    Returns:
        The files, and the sources that could not be read or written, each with the reason.
    """
    from stemsim.errors import ConfigError, StemsimError
    from stemsim.retrieval.export import export_item

    written: list[Path] = []
    left: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass  # a folder that cannot be written to is one error, not one for each hit
    except OSError as error:
        raise ConfigError(
            f"The hits cannot be written to {folder}: {error}. Name another folder, or make room."
        ) from error
    for rank, hit in enumerate(hits, start=1):
        try:
            written.append(export_item(folder, rank, hit.path, hit.start, hit.duration, hit.file_duration))
        except (StemsimError, OSError) as error:
            left[str(hit.path)] = str(error)
    return written, left


def _print(hits: "Sequence[Hit]", routing: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not hits:
        console.print("Nothing meets these conditions.")
        return
    folder = Path(os.path.commonpath([hit.path.parent for hit in hits]))
    narrow, left = {"no_wrap": True}, {"no_wrap": True, "justify": "left"}
    columns: dict[str, dict[str, Any]] = {"": narrow, "similarity": narrow, "category": left, "type": left}
    columns |= {
        "BPM": narrow,
        "key": left,
        "dBFS": narrow,
        "at, s": narrow,
        "file": {"justify": "left", "overflow": "fold"},
    }
    rows = [
        (
            str(rank),
            f"{hit.similarity:.3f}",
            ", ".join(hit.categories),
            hit.type or "",
            "" if hit.bpm is None else f"{hit.bpm:.0f}{'*' if 'bpm' in hit.measured else ' '}",
            "" if hit.musical_key is None else f"{hit.musical_key}{'*' if 'musical_key' in hit.measured else ''}",
            f"{hit.loudness:.0f}",
            f"{hit.start:.1f}-{hit.end:.1f}",
            Text(
                f"{hit.path.relative_to(folder)}{f' (and {hit.folded} like it)' if hit.folded else ''}"
                + "".join(f"\n= {path}" for path in hit.also)
            ),
        )
        for rank, hit in enumerate(hits, start=1)
    ]
    console.print(f"In {folder}", markup=False)
    print_table(console, columns, rows)
    starred = any(hit.measured for hit in hits)
    console.print(f"weights {routing}{'; * measured in the audio' if starred else ''}", markup=False)
