"""Integrity of a library: whether files, list and items agree and every vector is sound, and mending what is not."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from stemsim.errors import DataNotFoundError, StoreError
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.catalogue import Catalogue, FileRecord
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.indexing.files import Failure, FoundFile, prepare_files, stat_files
from stemsim.retrieval.windows import Windowing

__all__ = ["FAULTS", "Fault", "FaultKind", "find_faults", "mend"]

FaultKind = Literal["unreadable", "missing", "changed", "refused", "begun", "lacking", "unsound", "left over"]

FAULTS: Final[Mapping[FaultKind, tuple[str, str]]] = {
    "unreadable": ("tables have damaged files", "rewritten from the rows that can be read"),
    "missing": ("files no longer exist on the disk", "removed"),
    "changed": ("files have changed since they were added", "indexed again"),
    "refused": ("files can no longer be read", "left as they are"),
    "begun": ("files were begun and not completed", "indexed again"),
    "lacking": ("files lack some of their items", "indexed again"),
    "unsound": ("files have vectors that are not finite, or not of unit length", "indexed again"),
    "left over": ("items are of no file of the library", "removed"),
}
"""What may be wrong with a library, and what mending does about it, in words that follow a number."""

_UNIT_NORM_TOLERANCE: Final = 1e-2  # vectors are stored in float16
_HASHING: Final = 4  # threads

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a library, and the names of the files, tables or items that it is wrong with."""

    kind: FaultKind
    names: tuple[str, ...]  # sorted, each once

    @property
    def sentence(self) -> str:
        """The fault in words."""
        return f"{len(self.names)} {FAULTS[self.kind][0]}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fault as plain lists and texts."""
        return {"kind": self.kind, "count": len(self.names), "names": list(self.names)}


def find_faults(catalogue: Catalogue, index: Index, card: LibraryCard) -> list[Fault]:
    """Find what is wrong with a library; nothing is written.

    Files that another process is adding at this moment may be listed as begun.
    """
    unreadable: list[str] = []
    records = _read(catalogue.records, "files", unreadable) or []
    compared = _read(lambda: _compare(records, index, card.windowing), "items", unreadable)
    if unreadable or compared is None:  # what the rest lacks is known once these are mended
        return _listed({"unreadable": unreadable})
    return _listed({**_look(records, card), **compared.names})


def mend(catalogue: Catalogue, index: Index, card: LibraryCard) -> tuple[list[Fault], list[Path]]:
    """Mend what is wrong with a library, but for the files that are to be indexed again.

    These are listed as begun, so that a process killed at any instant leaves them to the next one. A file that a killed
    process was removing counts as begun too, and stays.

    Returns:
        The faults, and the files to index again.

    Raises:
        DataNotFoundError: If not a single file exists, which may be because a disk is not mounted.
        StoreError: If the library cannot be written.
    """
    unreadable: list[str] = []
    windowing = card.windowing
    with catalogue.writing():
        if _read(catalogue.records, "files", unreadable) is None:
            catalogue.salvage()
        if _read(lambda: _compare([], index, windowing), "items", unreadable) is None:
            index.salvage()
    looked = _look(catalogue.records(), card)  # not locked, as it takes long; `Library.add` looks at each file again
    gone = set(looked["missing"])
    with catalogue.writing():  # nobody is amid a commit
        records = catalogue.records()
        if gone and gone.issuperset(record.path for record in records):
            raise DataNotFoundError(
                f"None of the {len(records)} files of the library {catalogue.root} is on this machine; is their disk "
                "mounted? To remove them all the same: stemsim index prune --even-all."
            )
        compared = _compare(records, index, windowing)
        wrong = [record for record in records if record.id in compared.wrong or record.path in gone]
        catalogue.put([replace(record, done=False) for record in wrong])
        index.delete([*compared.names["left over"], *(key for one in wrong for key in one.item_keys(windowing))])
        whole = {record.path for record in records if record.done} - {record.path for record in wrong if record.done}
        catalogue.delete([one for one in wrong if one.path in whole or not os.path.lexists(one.path)])
    again = {*looked["changed"], *(record.path for record in wrong if os.path.lexists(record.path))}
    return _listed({"unreadable": unreadable, **looked, **compared.names}), sorted(map(Path, again))


def _listed(names: Mapping[FaultKind, Iterable[str]]) -> list[Fault]:
    """Return the faults that there are, in the order of `FAULTS`."""
    distinct = {kind: tuple(sorted(set(names.get(kind, ())))) for kind in FAULTS}
    return [Fault(kind, found) for kind, found in distinct.items() if found]


def _read(read: Callable[[], Result], table: str, unreadable: list[str]) -> Result | None:
    """Read a table; if it cannot be read, list it as such and return None."""
    with suppress(StoreError):  # which may be a passing failure and no damage
        return read()
    try:
        return read()
    except StoreError:
        unreadable.append(table)
        return None


def _look(records: Sequence[FileRecord], card: LibraryCard) -> dict[FaultKind, list[str]]:
    """Compare the files on the disk with their records."""
    done = {record.path: record for record in records if record.done}
    missing = [path for path in done if not os.path.lexists(path)]
    there = [Path(path) for path in done if path not in set(missing)]
    # The stems of a song may change while its mix does not.
    found, _, refused = stat_files(there, done, always=card.is_multitrack)
    changed: list[str] = []
    source = card.build_hash_source()
    with closing(prepare_files(found, source, card.windowing, listen=False, workers=_HASHING)) as prepared:
        for file in prepared:
            if isinstance(file, Failure):
                refused.append(file)
            elif not isinstance(file, FoundFile):
                changed.append(str(file.file.path))
    return {"missing": missing, "changed": changed, "refused": [str(failure.path) for failure in refused]}


class _Compared(NamedTuple):
    """Result of comparing a library's list of files with its items: ids of the records that are wrong, and names."""

    wrong: set[str]
    names: dict[FaultKind, list[str]]


def _compare(records: Sequence[FileRecord], index: Index, windowing: Windowing) -> _Compared:
    """Compare a library's list of files with its items."""
    sound: dict[str, bool] = {}
    for rows in index.batches():
        sound.update(zip(rows["key"].to_pylist(), _sound(rows, index.spec.width, index.spec.dim), strict=True))
    names: dict[FaultKind, list[str]] = {"begun": [], "lacking": [], "unsound": []}
    wrong: set[str] = set()
    listed: set[str] = set()
    for record in records:
        keys = [key for key in record.item_keys(windowing) if key in sound]
        listed.update(keys)
        kinds: dict[FaultKind, bool] = {
            "begun": not record.done,
            "lacking": record.done and len(keys) != record.items,
            "unsound": record.done and not all(sound[key] for key in keys),
        }
        for kind in (kind for kind, present in kinds.items() if present):
            names[kind].append(record.path)
            wrong.add(record.id)
    return _Compared(wrong, {**names, "left over": [key for key in sound if key not in listed]})


def _sound(rows: pa.Table, width: int, dim: int) -> list[bool]:
    """Return of each item whether all its vectors are there, finite, and of unit length or zero."""
    column = rows["vectors"].combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    stored = column.type.list_size
    # Not `flatten`, which leaves missing lists out and moves all that follow.
    flat = column.values.slice(column.offset * stored, len(column) * stored).to_numpy(zero_copy_only=False)
    vectors = flat.reshape(-1, stored)[:, :width].astype(np.float64)
    norms = np.linalg.norm(vectors.reshape(len(rows), -1, dim), axis=2)
    sound: list[bool] = (there & ((np.abs(norms - 1.0) <= _UNIT_NORM_TOLERANCE) | (norms == 0.0)).all(axis=1)).tolist()
    return sound
