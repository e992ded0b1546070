"""Statistics of a library."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stemsim.retrieval.catalogue import FileRecord
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.items import TYPES


@dataclass(frozen=True, slots=True)
class LibraryStats:
    """Counts of a library."""

    files: int
    items: int
    hours: float
    silent: int  # files without an item
    missing: int  # files that no longer exist on the disk; `prune` removes them
    categories: Mapping[str, int]  # items of each, most frequent first; the empty name is for those without
    types: Mapping[str, int]  # likewise
    with_bpm: int  # items whose tempo is known
    with_key: int
    stems: Mapping[str, int]  # items in which each sounds
    index: str  # its description


def stats_of(records: Sequence[FileRecord], index: Index) -> LibraryStats:
    """Count the files and items of a library."""
    done = [record for record in records if record.done]
    stems = index.spec.stems
    rows = index.table(["tags", "bpm", "musical_key", *(f"has_{stem}" for stem in stems)])
    tags = [set(names) for names in rows["tags"].to_pylist()]
    bpm = np.asarray(rows["bpm"].to_numpy(zero_copy_only=False), np.float64)
    return LibraryStats(
        files=len(done),
        items=len(rows),
        hours=sum(record.duration for record in done) / 3600.0,
        silent=sum(record.items == 0 for record in done),
        missing=sum(not os.path.lexists(record.path) for record in done),
        categories=dict(Counter(name for names in tags for name in names.difference(TYPES) or {""}).most_common()),
        types=dict(Counter(name for names in tags for name in names.intersection(TYPES) or {""}).most_common()),
        with_bpm=int((~np.isnan(bpm)).sum()),
        with_key=sum(bool(key) for key in rows["musical_key"].to_pylist()),
        stems={stem: int(np.count_nonzero(rows[f"has_{stem}"].to_pylist())) for stem in stems},
        index=index.describe(),
    )
