"""The catalogue of a library: its card, and the files that were added, with the state of each.

One LanceDB table beside the items. A file is listed as begun before its items are written, and as done when all of them
are in the index. A process killed at any instant leaves a file that is done, or one that is added again under the same
keys; all that it wrote is listed, so that nothing is left behind in the index.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from stemsim.lance_table import LanceTable, key_field
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.items import item_key
from stemsim.retrieval.windows import Windowing


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when it was added; of one path there may be several versions, one of which is done."""

    path: str  # absolute
    size: int  # bytes
    mtime_ns: int
    content: str  # hash of all bytes that its items depend on
    items: int  # 0 if it is silent
    duration: float  # seconds
    bpm_measured: bool  # not read from its name
    key_measured: bool
    done: bool  # all its items are in the index

    @property
    def measured(self) -> frozenset[str]:
        """Those of `bpm` and `musical_key` that were measured."""
        flags = {"bpm": self.bpm_measured, "musical_key": self.key_measured}
        return frozenset(name for name, measured in flags.items() if measured)

    @property
    def id(self) -> str:
        """Key of this version of this file."""
        text = f"{self.content}:{self.path}"
        return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def item_keys(self, windowing: Windowing) -> list[str]:
        """Return the keys of all items that it may have, given how it was cut."""
        return [item_key(self.path, self.content, *span) for span in windowing.spans(self.duration)]


class Catalogue:
    """The card and the files of a library, given its folder or the URI and options of an object storage."""

    def __init__(self, root: str | Path, *, storage_options: dict[str, str] | None = None) -> None:
        self.root = str(root)
        what, remedy = f"The library {root}", "Check the path, its permissions and the free space."
        self._table = LanceTable(root, "files", key="id", what=what, remedy=remedy, storage_options=storage_options)
        self.compact, self.salvage = self._table.compact, self._table.salvage

    def read_card(self) -> LibraryCard | None:
        """Return the card of the library, or None if there is no library yet."""
        return LibraryCard.from_json(self._table.card, self.root) if self._table.exists() else None

    def create(self, card: LibraryCard) -> LibraryCard:
        """Make an empty library unless there is one; return the card of the library that exists now."""
        self._table.create(_SCHEMA, card.to_json())
        return LibraryCard.from_json(self._table.card, self.root)

    def writing(self) -> AbstractContextManager[object]:
        """Return a lock that keeps the processes of this machine from writing at once; an object storage has none."""
        return self._table.lock(".write.lock")

    def records(self) -> list[FileRecord]:
        """Return all versions of all files."""
        return _records(self._table.select())

    def records_of(self, paths: Sequence[str]) -> list[FileRecord]:
        """Return all versions of some files, given their absolute paths."""
        return _records(self._table.get(paths, by="path"))

    def put(self, records: Sequence[FileRecord]) -> None:
        """List versions of files in one commit; those that are listed already are replaced."""
        if records:
            rows = [{"id": record.id, **asdict(record)} for record in records]
            self._table.upsert(pa.Table.from_pylist(rows, schema=_SCHEMA))

    def delete(self, records: Sequence[FileRecord]) -> None:
        """Remove versions of files from the list."""
        self._table.delete([record.id for record in records])


_TYPES: Final[dict[Any, pa.DataType]] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_COLUMNS: Final = {
    field.name: pa.int32() if field.name == "items" else _TYPES[field.type] for field in fields(FileRecord)
}
_SCHEMA: Final = pa.schema([key_field("id"), *_COLUMNS.items()])


def _records(rows: pa.Table) -> list[FileRecord]:
    return [FileRecord(**row) for row in rows.select(list(_COLUMNS)).to_pylist()]


def absolute(path: str | Path) -> Path:
    """Return an absolute path without following links: the path by which the user knows the file."""
    # Not those of `Path`: `resolve` follows links, and `expanduser` raises for `~name` of nobody.
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111
