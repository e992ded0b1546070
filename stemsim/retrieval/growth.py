"""Resources that a larger library would need, computed from the cost of one item on this machine."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.nn.functional import normalize

from stemsim.embedding import EmbeddingSpec
from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.retrieval.indexes.lance import LanceIndex
from stemsim.retrieval.items import Items
from stemsim.retrieval.library import Library

_FIRST: Final = 0.25  # of the synthetic items, at which the first searches are timed
_SEARCHES: Final = 40
_AT_ONCE: Final = 4096
_LEAST_MADE: Final = 4000  # LanceDB does not quantise a few hundred


@dataclass(frozen=True, slots=True)
class CostPerItem:
    """Cost of one item, measured on this machine: of adding it from its file, and of keeping it in an index."""

    encoder: str
    separator: str
    device: str  # where both computed
    cores: int
    items: int  # of the library's own, that were indexed again
    seconds: float  # of adding one of them on all cores
    cpu_seconds: float  # of the same
    made: int  # synthetic items of the same shape, on which the rest was measured
    row_bytes: float  # of vectors and metadata on the disk
    code_bytes: float  # of the codes, which every search reads
    write_seconds: float
    code_seconds: float  # of computing the codes
    search_seconds: float  # that it adds to a search
    least_search_seconds: float  # of a search in a tiny index


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of a library of some number of items: disk (codes: memory too), hours of adding and of writing, a search.

    `machine_hours` are of one machine like the one measured on (one GPU, if it has one).
    """

    items: int
    row_gigabytes: float
    code_gigabytes: float
    machine_hours: float
    core_hours: float
    index_hours: float
    search_seconds: float


def needs(cost: CostPerItem, items: int) -> Needs:
    """Return the needs of a library of some number of items."""
    if items < 1:
        raise ConfigError(f"A library has at least 1 item; got {items}.")
    return Needs(
        items,
        row_gigabytes=items * cost.row_bytes / 1e9,
        code_gigabytes=items * cost.code_bytes / 1e9,
        machine_hours=items * cost.seconds / 3600.0,
        core_hours=items * cost.cpu_seconds / 3600.0,
        index_hours=items * (cost.write_seconds + cost.code_seconds) / 3600.0,
        search_seconds=cost.least_search_seconds + items * cost.search_seconds,
    )


def measure_cost(library: Library, *, items: int = 32, made: int = 20_000) -> CostPerItem:
    """Measure the cost of adding files of a library again (of at least `items` items), and of `made` synthetic items.

    Raises:
        ConfigError: If a number is too small.
        DataNotFoundError: If no file of the library is on this machine.
    """
    if items < 1 or made < _LEAST_MADE:
        raise ConfigError(f"Measuring takes at least 1 item and {_LEAST_MADE} synthetic ones; got {items} and {made}.")
    counts = library.item_counts()
    existing = [path for path, count in sorted(counts.items()) if count and path.exists()]
    if not existing:
        raise DataNotFoundError(f"The library {library.root} has no audible file on this machine; add some first.")
    order = np.random.default_rng(0).permutation(len(existing))
    totals = np.cumsum([counts[existing[row]] for row in order])
    chosen = [existing[row] for row in order[: np.searchsorted(totals, items) + 1]]
    with tempfile.TemporaryDirectory(prefix="stemsim-") as name:
        folder, spec = Path(name), library.card.spec
        added, seconds, cpu_seconds = _add_again(library, chosen, folder)
        first = int(_FIRST * made)
        _, _, early_search = _keep(folder / "first", spec, first)
        write, code, search = _keep(folder / "made", spec, made)
        slope = max(search - early_search, 0.0) / (made - first) or search / made
        return CostPerItem(
            encoder=str(library.card.encoder),
            separator=str(library.card.separator),
            device=str(library.embedder.device),
            cores=os.cpu_count() or 1,
            items=added,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            made=made,
            row_bytes=_largest((folder / "made").glob("*/data/*")) / made,
            code_bytes=_largest((folder / "made").glob("*/_indices/*")) / made,
            write_seconds=write / made,
            code_seconds=code / made,
            search_seconds=slope,
            least_search_seconds=max(search - slope * made, 0.0),
        )


def _add_again(library: Library, files: list[Path], folder: Path) -> tuple[int, float, float]:
    """Add files to another library of the same kind; return the number of items, and wall and CPU seconds of one."""
    card = library.card
    warm, measured = (
        Library(folder / name, library.embedder, window=card.window, hop=card.hop) for name in ("warm", "measured")
    )
    warm.add(files[:1])  # loads and compiles everything
    wall, cpu = time.perf_counter(), time.process_time()
    added = measured.add(files).items
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not added:
        raise DataNotFoundError(f"No file of the library {library.root} can be read any more; index them again.")
    return added, wall / added, cpu / added


def _keep(folder: Path, spec: EmbeddingSpec, made: int) -> tuple[float, float, float]:
    """Keep synthetic items; return the seconds of writing them, of computing their codes, and of a search."""
    index = LanceIndex(folder, spec)
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for items in _synthetic_items(spec, rng, made):
        index.upsert(items)
    index.merge()
    written = time.perf_counter()
    index.build()
    built = time.perf_counter()
    times = []
    for vector in torch.from_numpy(rng.standard_normal((_SEARCHES, spec.width))):
        begun = time.perf_counter()
        index.search(vector, 10)
        times.append(time.perf_counter() - begun)
    return written - start, built - written, min(times)  # the difference of two medians is mostly noise


def _largest(paths: Iterable[Path]) -> int:
    """Return the size in bytes of the largest of some files or folders: the others are of older versions."""
    return max(
        sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        for path in paths
    )


def _synthetic_items(spec: EmbeddingSpec, rng: np.random.Generator, made: int) -> Iterator[Items]:
    """Yield items of random directions in all stems."""
    for start in range(0, made, _AT_ONCE):
        count = min(_AT_ONCE, made - start)
        vectors = torch.from_numpy(rng.standard_normal((count, len(spec.stems), spec.dim), dtype=np.float32))
        yield Items(
            stems=spec.stems,
            key=np.array([f"{row:032x}" for row in range(start, start + count)]),
            content=np.array([f"{row // 6:032x}" for row in range(start, start + count)]),
            path=np.array([f"/library/pack {row // 600}/loop {row // 6}.wav" for row in range(start, start + count)]),
            start=np.zeros(count),
            duration=np.full(count, 5.0),
            file_duration=np.full(count, 30.0),
            tags=np.fromiter([("loop",)] * count, object, count),
            bpm=np.full(count, 120.0),
            musical_key=np.full(count, "A minor"),
            loudness=np.full(count, -14.0),
            present=np.ones((count, len(spec.stems)), bool),
            vectors=normalize(vectors, dim=2),
        )
