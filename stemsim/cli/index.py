"""`stemsim index`: add folders of audio to a library, and maintain it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stemsim.cli.errors import readable_errors
from stemsim.cli.groups import group_with_default
from stemsim.cli.libraries import DeviceOption, JsonOption, LibraryOption, open_library, print_json, print_table
from stemsim.cli.parts import ENCODER_HELP, SEPARATOR_HELP

if TYPE_CHECKING:
    from stemsim.retrieval.growth import CostPerItem, Needs
    from stemsim.retrieval.indexing.adding import AddReport
    from stemsim.retrieval.integrity import Fault, FaultKind
    from stemsim.retrieval.library import Library
    from stemsim.retrieval.recall import RecallCheck

__all__ = ["index_app"]

_Engine = StrEnum("_Engine", {"LOCAL": "local", "RAY": "ray"})
_Paths = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders, or single files.")]
_SILENCE: Final = -60.0  # dBFS, as everywhere but in the paper's models
_NAMED: Final = 10  # of each fault
_NO_MODEL: Final = (
    "Made with frequency bands and the encoder Spectral, which need no downloaded weights and are far behind the "
    "ready-made models (--model muq-6stem)."
)


index_app = typer.Typer(
    cls=group_with_default("add"),
    help=(
        "Add folders of loops, samples and songs to a library: `stemsim index DIR... --library L` is short for "
        "`stemsim index add DIR... --library L`. The other commands maintain it; name a folder `check` as ./check."
    ),
    no_args_is_help=True,
)


@index_app.command("add")
def add_command(
    paths: _Paths,
    library: LibraryOption,
    model: Annotated[
        str | None, typer.Option(help="Encoder, separator and weights of a ready-made model, such as muq-6stem.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP, show_default="the library's, else spectral")] = None,
    separator: Annotated[
        str | None, typer.Option(help=SEPARATOR_HELP, show_default="the library's, else bands")
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Length of an item in seconds.", show_default="the library's, else 5")
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            help="From one item's start to the next, in seconds.", show_default="the library's, else the window"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Batches processed at once; with --engine ray, actors.", show_default="one for each core"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Most items embedded at once.", show_default="16")] = None,
    device: DeviceOption = "cpu",
    index: Annotated[
        str | None,
        typer.Option(
            help="Keep the items in this Milvus: http://host:19530, or a file of milvus-lite; #name at its end names "
            "the collection."
        ),
    ] = None,
    engine: Annotated[
        _Engine, typer.Option(help="Where files are embedded: here, or on the Ray cluster that RAY_ADDRESS names.")
    ] = _Engine.LOCAL,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure tempo and key where file names do not state them.")
    ] = True,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Search folders that are linked too, each folder once.")
    ] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Add folders to a library; unchanged files are skipped, changed ones replaced.

    An interrupted run continues where it stopped, and several may fill one library. A file that cannot be read is
    listed with its reason at the end and stops nothing. A new library without --model, --encoder and --separator is
    made with spectral and bands, which need no downloaded weights and are far behind the ready-made models; an existing
    one goes on as it was made.
    """
    with readable_errors():
        computing = {"device": device, "workers": workers, "batch_size": batch_size}
        parts = {"model": model, "encoder": encoder, "separator": separator}
        opened, is_new = _open_or_make(library, **parts, computing=computing, window=window, hop=hop, index=index)
        if is_new and not as_json:
            made_with = f"New library {opened.root}: {opened.card.separator} x {opened.card.encoder}."
            typer.echo(made_with if any(parts.values()) else f"{made_with} {_NO_MODEL}")
        on = None
        if engine is _Engine.RAY:
            from stemsim.retrieval import RayEngine

            on = RayEngine(actors=workers, device=device, batch_size=batch_size)
        report = opened.add(paths, listen=measure, engine=on, follow_links=follow_links, progress=progress)
        if as_json:
            print_json({"library": opened.root, **report.to_dict()})
        else:
            _show_report(report, opened)


@index_app.command("check")
def check_command(
    library: LibraryOption,
    k: Annotated[int, typer.Option("-k", help="Number of items that each search asks for.")] = 50,
    queries: Annotated[int, typer.Option(help="Number of searches with each kind of weights.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the draw of queries and weights.")] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is wrong; files are indexed again where need be.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for damage, and compare the answers of the index with exact ones for weights of every kind.

    Damage is files that are gone, have changed or were not completed, items without a file and the reverse, and
    vectors that are not finite or of wrong length. The exit status is 1 if there is any that --repair did not mend.
    """
    with readable_errors():
        from stemsim.retrieval.recall import recall_check

        opened = open_library(library)
        found, left = opened.repair() if repair else (opened.check(),) * 2
        sound = not {"unreadable", "unsound"} & {fault.kind for fault in left}
        check = recall_check(opened.index, k=k, queries=queries, seed=seed) if sound and opened.index.count() else None
    if as_json:
        faults_left = {"found": [fault.to_dict() for fault in found], "left": [fault.to_dict() for fault in left]}
        recall = {} if check is None else {"index": check.answer, "weights": check.frame.to_dict("records")}
        print_json({"items": opened.index.count() if sound else None, "k": k, **recall, **faults_left})
    else:
        _show_faults(found, left, repair=repair)
        if check is not None:
            _show_check(check)
    if left:
        raise typer.Exit(1)


@index_app.command("stats")
def stats_command(library: LibraryOption, as_json: JsonOption = False) -> None:
    """Show the content of a library, and how it was made."""
    with readable_errors():
        opened = open_library(library)
        stats, card = opened.stats(), opened.card
    if as_json:
        print_json({"library": opened.root, **asdict(stats), "made_with": card.to_dict()})
        return
    fusion = f"; {card.fusion} ranks the best again" if card.fusion else ""
    lines = {
        "library": opened.root,
        "made with": f"{card.model + ': ' if card.model else ''}{card.separator} x {card.encoder}",
        "items": f"windows of {card.windowing.length:g} s every {card.windowing.step:g} s",
        "holds": f"{stats.files} files, {stats.hours:.2f} h, {stats.items} items ({stats.silent} files are silent)",
        "missing": f"{stats.missing} files no longer exist on the disk" if stats.missing else "",
        "stems": ", ".join(f"{stem} {count}" for stem, count in stats.stems.items()),
        "categories": ", ".join(f"{name or 'none'} {count}" for name, count in stats.categories.items()),
        "types": ", ".join(f"{name or 'unknown'} {count}" for name, count in stats.types.items()),
        "known": f"tempo of {stats.with_bpm} items, key of {stats.with_key}",
        "weights": (", ".join(f"{stem}={weight:g}" for stem, weight in card.weights.items()) or "equal") + fusion,
        "search": stats.index,
    }
    _show_lines({name: text for name, text in lines.items() if text})


@index_app.command("plan")
def plan_command(
    library: LibraryOption,
    items: Annotated[int, typer.Option(help="Number of items that the library is to hold.")] = 10_000_000,
    sample: Annotated[int, typer.Option(help="Number of its items whose files are indexed again.")] = 32,
    made: Annotated[
        int, typer.Option(help="Number of synthetic items on which disk space and searches are measured.")
    ] = 20_000,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Measure the cost of an item on this machine, and compute the needs of a larger library; takes minutes."""
    with readable_errors():
        from stemsim.retrieval.growth import measure_cost, needs

        cost = measure_cost(open_library(library, device), items=sample, made=made)
        needed = needs(cost, items)
    if as_json:
        print_json({"measured": asdict(cost), "needs": asdict(needed)})
    else:
        _show_plan(cost, needed)


@index_app.command("prune")
def prune_command(
    library: LibraryOption,
    even_all: Annotated[
        bool, typer.Option("--even-all", help="Even if not a single file exists any more: is their disk mounted?")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the files that no longer exist on the disk."""
    with readable_errors():
        _show_dropped(open_library(library).prune(even_all=even_all), as_json=as_json)


@index_app.command("remove")
def remove_command(paths: _Paths, library: LibraryOption, as_json: JsonOption = False) -> None:
    """Remove files and folders from a library, not from the disk."""
    with readable_errors():
        _show_dropped(open_library(library).remove(paths), as_json=as_json)


def _show_report(report: "AddReport", library: "Library") -> None:
    typer.echo(
        f"{report.added} files added, {report.changed} replaced, {report.unchanged} unchanged, "
        f"{len(report.failures)} cannot be read; {report.items} new items in {report.seconds:.1f} s."
    )
    if report.copied:
        typer.echo(f"{report.copied} of them have the content of other files, and were not embedded again.")
    if report.silent:
        typer.echo(f"{len(report.silent)} of them are silent, so that no search finds them:")
    for path in report.silent:
        typer.echo(f"  {path}")
    if report.skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in report.skipped.most_common())
        typer.echo(f"skipped: {counts}" + (" (--follow-links)" if "linked folders" in report.skipped else ""))
    if report.failures:
        typer.echo("cannot be read:")
    for failure in report.failures:
        named = "" if str(failure.path) in failure.reason else f"{failure.path}: "
        typer.echo(f"  {named}{failure.reason}")
    typer.echo(f"{library.root}: {library.index.describe()}.")


def _show_faults(found: "list[Fault]", left: "list[Fault]", *, repair: bool) -> None:
    from stemsim.retrieval.integrity import FAULTS

    typer.echo("\n".join(_in_words(found, {kind: done for kind, (_, done) in FAULTS.items()} if repair else {})))
    if repair and left:
        typer.echo("\n".join(["What is left:", *_in_words(left, {})]))
    elif left:
        typer.echo("Mend it: the same command with --repair.")


def _in_words(faults: "list[Fault]", done: "Mapping[FaultKind, str]") -> Iterator[str]:
    """Yield a line for each fault, with what was done about it, and the first of its names."""
    if not faults:
        yield "No damage: files, list and items agree, and every vector is sound."
    for fault in faults:
        yield fault.sentence + (f": {done[fault.kind]}" if fault.kind in done else "") + "."
        yield from (f"  {name}" for name in fault.names[:_NAMED])
        if more := fault.names[_NAMED:]:
            yield f"  and {len(more)} more (--json names all)"


def _show_check(check: "RecallCheck") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    headings = ("searches", f"recall@{check.k}", "worst", "p50, ms", "p99, ms")
    columns = {"weights": {"justify": "left"}, **{heading: {} for heading in headings}}
    forms = ("", "", ".4f", ".4f", ".1f", ".1f")
    rows = check.frame.itertuples(index=False)
    print_table(console, columns, [[format(*cell) for cell in zip(row, forms, strict=True)] for row in rows])
    console.print(check.sentence, markup=False)


def _show_plan(cost: "CostPerItem", needed: "Needs") -> None:
    unit = "GPU" if cost.device.startswith("cuda") else f"machine of {cost.cores} cores"
    write, code = 1e3 * cost.write_seconds, 1e3 * cost.code_seconds
    lines = {
        "Measured here": f"{cost.separator} x {cost.encoder} on {cost.device}, {cost.cores} cores",
        "an item takes": f"{cost.seconds:.3g} s, {cost.cpu_seconds:.3g} s of a core (files of {cost.items} items)",
        "on the disk": f"{cost.row_bytes:,.0f} bytes, {cost.code_bytes:,.0f} of codes ({cost.made:,} synthetic items)",
        "in the index": f"{write:.2g} ms to write, {code:.2g} ms to compute its codes",
        "a search": f"{1e3 * cost.least_search_seconds:.2g} ms, and {1e9 * cost.search_seconds:.3g} ns for each item",
        "": "",
        "Needed": f"for {needed.items:,} items",
        "disk": f"{needed.row_gigabytes:,.1f} GB, and {needed.code_gigabytes:,.1f} GB of codes",
        "memory": f"{needed.code_gigabytes:,.1f} GB, to keep the codes at hand",
        "extraction": f"{needed.machine_hours:,.1f} hours of one {unit}; {needed.core_hours:,.1f} core hours",
        "indexing": f"{needed.index_hours:,.1f} hours of one process",
        "search": f"{needed.search_seconds:.2g} s by one process; Milvus shares it out among machines",
    }
    _show_lines(lines)


def _show_lines(lines: dict[str, str]) -> None:
    """Print names and texts in two columns."""
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        typer.echo(f"{name:<{width}}{text}".rstrip())


def _show_dropped(dropped: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"dropped": [str(path) for path in dropped]})
    else:
        typer.echo("\n".join([*(f"  {path}" for path in dropped), f"{len(dropped)} files removed."]))


def _open_or_make(
    root: str,
    *,
    model: str | None,
    encoder: str | None,
    separator: str | None,
    computing: dict[str, Any],
    **settings: Any,
) -> "tuple[Library, bool]":
    """Open a library, or make one; return it, and whether it is new.

    A new one needs no downloaded weights unless it is told otherwise. `computing` are `device`, `workers` and
    `batch_size` of the embedder, `settings` are `window`, `hop` and `index` of the library.
    """
    from stemsim.cli.parts import make_encoder, make_separator
    from stemsim.embedding import StemEmbedder
    from stemsim.errors import ConfigError
    from stemsim.retrieval.catalogue import Catalogue
    from stemsim.retrieval.library import Library

    if model is not None and (encoder is not None or separator is not None):
        raise ConfigError("--model names an encoder and a separator already; leave --encoder and --separator out.")
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
        for part, text in ((card.encoder, encoder), (card.separator, separator)):
            if text is not None and part.name not in {None, text.partition(":")[0]}:  # noticed before it is loaded
                raise ConfigError(
                    f"The library {root} was made with the {part.kind} {part}, and --{part.kind} says {text}: their "
                    "vectors cannot be compared. Leave the option out, or make another library."
                )
        embedder = card.build_embedder(
            separator=None if separator is None else make_separator(separator),
            encoder=None if encoder is None else make_encoder(encoder),
            **computing,
        )
    return Library(root, embedder, weights=weights, model=model, **settings, **computing), card is None
