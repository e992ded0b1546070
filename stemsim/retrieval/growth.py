"""What a larger library would need, computed from what one item costs on this machine."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

import numpy as np
import torch
from torch.nn.functional import normalize

from stemsim.embedding import StemEmbedder
from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.retrieval.index import IndexSpec
from stemsim.retrieval.item import Items
from stemsim.retrieval.lance_index import LanceIndex
from stemsim.retrieval.library import Library

__all__ = ["CostPerItem", "Needs", "measure_cost", "needs"]

_FIRST: Final = 0.25  # of the made-up items, at which the first searches are timed
_SEARCHES: Final = 40
_AT_ONCE: Final = 4096
_LEAST_MADE: Final = 4000  # LanceDB makes no codes of a few hundred


@dataclass(frozen=True, slots=True)
class CostPerItem:
    """What one item costs, measured on this machine.

    Attributes:
        encoder: What embedded the items.
        separator: What separated them.
        device: Where both computed.
        cores: Cores of this machine.
        items: Number of the library's own items that were indexed again.
        seconds: Time of adding one of them from the file on, with all cores at work.
        cpu_seconds: Time of all cores together.
        made: Number of made-up items of the same shape that the rest was measured on.
        row_bytes: Size of its vectors and metadata on the disk.
        code_bytes: Size of its codes, which every search reads.
        write_seconds: Time of writing it.
        code_seconds: Time of making its codes.
        search_seconds: By how much it makes a search longer.
        least_search_seconds: Time of a search in an index of no size.
    """

    encoder: str
    separator: str
    device: str
    cores: int
    items: int
    seconds: float
    cpu_seconds: float
    made: int
    row_bytes: float
    code_bytes: float
    write_seconds: float
    code_seconds: float
    search_seconds: float
    least_search_seconds: float


@dataclass(frozen=True, slots=True)
class Needs:
    """What a library of some size needs, if every item costs what it did where it was measured.

    Attributes:
        items: Number of items.
        row_gigabytes: Disk for vectors and metadata.
        code_gigabytes: Disk for codes; and memory, if searches are not to read them from the disk.
        machine_hours: Time of adding all of them with one machine (one GPU, if it was measured on one).
        core_hours: The same in time of single cores.
        index_hours: Time of writing them and making codes.
        search_seconds: A search by one process.
    """

    items: int
    row_gigabytes: float
    code_gigabytes: float
    machine_hours: float
    core_hours: float
    index_hours: float
    search_seconds: float


def needs(cost: CostPerItem, items: int) -> Needs:
    """Compute what a library of some size needs.

    Args:
        cost: What one item costs.
        items: Number of items.

    Raises:
        ConfigError: If the number is not positive.
    """
    if items < 1:
        msg = f"A library has at least 1 item; got {items}."
        raise ConfigError(msg)
    return Needs(
        items,
        row_gigabytes=items * cost.row_bytes / 1e9,
        code_gigabytes=items * cost.code_bytes / 1e9,
        machine_hours=items * cost.seconds / 3600.0,
        core_hours=items * cost.cpu_seconds / 3600.0,
        index_hours=items * (cost.write_seconds + cost.code_seconds) / 3600.0,
        search_seconds=cost.least_search_seconds + items * cost.search_seconds,
    )


def measure_cost(library: Library, *, items: int = 32, made: int = 20_000, seed: int = 0) -> CostPerItem:
    """Measure what one item costs: adding some of a library's own files, and keeping made-up items of its shape.

    Args:
        library: The library; it stays as it is.
        items: Of how many of its items, at least, the files are indexed again.
        made: Number of made-up items.
        seed: Seed of the draw of files.

    Raises:
        ConfigError: If a number is too small.
        DataNotFoundError: If the library has no file that is on this machine.
    """
    if items < 1 or made < _LEAST_MADE:
        msg = f"A measurement takes at least 1 item and {_LEAST_MADE} made-up ones; got {items} and {made}."
        raise ConfigError(msg)
    counts, embedder = library.item_counts(), library.embedder
    there = [path for path, count in sorted(counts.items()) if count and path.exists()]
    if not there:
        msg = f"No file of the library {library.root} that sounds is on this machine; add some first."
        raise DataNotFoundError(msg)
    order = np.random.default_rng(seed).permutation(len(there))
    chosen: list[Path] = []
    while len(chosen) < len(there) and sum(counts[path] for path in chosen) < items:
        chosen.append(there[order[len(chosen)]])
    with tempfile.TemporaryDirectory(prefix="stemsim-") as folder:
        extraction = _add_again(library, embedder, chosen, Path(folder))
        keeping = _keep_made(library.index.spec, made, Path(folder))
    return CostPerItem(
        encoder=str(library.card.encoder),
        separator=str(library.card.separator),
        device=str(embedder.device),
        cores=os.cpu_count() or 1,
        made=made,
        **extraction,
        **keeping,
    )


class _Adding(TypedDict):
    items: int
    seconds: float
    cpu_seconds: float


class _Keeping(TypedDict):
    row_bytes: float
    code_bytes: float
    write_seconds: float
    code_seconds: float
    search_seconds: float
    least_search_seconds: float


def _add_again(library: Library, embedder: StemEmbedder, files: list[Path], folder: Path) -> _Adding:
    """Add files to a library of the same kind; return what an item took, after one file that warms everything up."""
    windowing = library.card.windowing
    warm, measured = (
        Library(folder / name, embedder, window=windowing.length, hop=windowing.hop) for name in ("warm", "measured")
    )
    warm.add(files[:1])
    wall, cpu = time.perf_counter(), time.process_time()
    added = measured.add(files).items
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not added:
        msg = f"None of {len(files)} files of the library {library.root} can be read any more; index them again."
        raise DataNotFoundError(msg)
    return _Adding(items=added, seconds=wall / added, cpu_seconds=cpu / added)


def _keep_made(spec: IndexSpec, made: int, folder: Path) -> _Keeping:
    """Keep made-up items in indices of two sizes; return what an item costs."""
    first = int(_FIRST * made)
    early = _kept(LanceIndex(folder / "first", spec), first)
    index = LanceIndex(folder / "made", spec)
    late = _kept(index, made)
    slope = max(late.search - early.search, 0.0) / (made - first) or late.search / made
    return _Keeping(
        row_bytes=_largest((folder / "made").glob("*/data/*")) / made,
        code_bytes=_largest((folder / "made").glob("*/_indices/*")) / made,
        write_seconds=late.write / made,
        code_seconds=late.code / made,
        search_seconds=slope,
        least_search_seconds=max(late.search - slope * made, 0.0),
    )


class _Seconds(NamedTuple):
    write: float
    code: float
    search: float


def _kept(index: LanceIndex, made: int) -> _Seconds:
    """Write made-up items, make codes of them, and search them; return how long each took."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for items in _made_items(index.spec, rng, made):
        index.upsert(items)
    index.merge()
    written = time.perf_counter()
    index.build()
    built = time.perf_counter()
    times = []
    for _ in range(_SEARCHES):
        vector = torch.from_numpy(rng.standard_normal(index.spec.width))
        begun = time.perf_counter()
        index.search(vector, 10)
        times.append(time.perf_counter() - begun)
    return _Seconds(written - start, built - written, min(times))  # the difference of two medians is mostly noise


def _largest(paths: Iterable[Path]) -> int:
    """Return the size in bytes of the largest of some files or folders: the others are of older versions."""
    return max(
        sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        for path in paths
    )


def _made_items(spec: IndexSpec, rng: np.random.Generator, made: int) -> Iterator[Items]:
    """Yield items of random directions in all stems."""
    for start in range(0, made, _AT_ONCE):
        count = min(_AT_ONCE, made - start)
        vectors = torch.from_numpy(rng.standard_normal((count, len(spec.stems), spec.dim), dtype=np.float32))
        yield Items(
            stems=spec.stems,
            key=tuple(f"{row:032x}" for row in range(start, start + count)),
            content=tuple(f"{row // 6:032x}" for row in range(start, start + count)),
            path=tuple(f"/library/pack {row // 600}/loop {row // 6}.wav" for row in range(start, start + count)),
            start=np.zeros(count),
            duration=np.full(count, 5.0),
            file_duration=np.full(count, 30.0),
            category=("",) * count,
            bpm=np.full(count, 120.0),
            musical_key=("A minor",) * count,
            loudness=np.full(count, -14.0),
            present=np.ones((count, len(spec.stems)), bool),
            vectors=normalize(vectors, dim=2),
        )
