"""The list of the files of a library: what was added, in which version, and whether it is all in.

One LanceDB table beside the items. Before items of a file are written, the file is listed as begun, and when all of
them are in, as done. A process killed at any instant leaves a file that is done, or one that is added again over the
same keys; and whatever it wrote is known, so that nothing is left behind in the index.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
from filelock import FileLock

from stemsim.errors import DataNotFoundError, StoreError
from stemsim.retrieval.card import LibraryCard, card_of_json

__all__ = ["Catalogue", "FileRecord"]

_TABLE: Final = "files"
_LOCK: Final = ".write.lock"
_PER_QUERY: Final = 1024
_KEEP_VERSIONS: Final = timedelta(hours=1)
_ATTEMPTS: Final = 5
_PAUSE: Final = 0.2  # seconds, doubled with each attempt

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when it was added; of one path there may be several versions, of which one is done.

    Attributes:
        path: Its absolute path.
        size: Bytes.
        mtime_ns: Time of modification in ns.
        content: Hash of all bytes that its items depend on.
        items: Number of its items; 0 if it is silent all through.
        duration: Length in seconds.
        bpm_measured: Whether its tempo was measured, and not read off its name.
        key_measured: Whether its key was.
        done: Whether all its items are in the index.
    """

    path: str
    size: int
    mtime_ns: int
    content: str
    items: int
    duration: float
    bpm_measured: bool
    key_measured: bool
    done: bool

    @property
    def measured(self) -> frozenset[str]:
        """Which of `bpm` and `musical_key` were measured."""
        flags = {"bpm": self.bpm_measured, "musical_key": self.key_measured}
        return frozenset(name for name, measured in flags.items() if measured)

    @property
    def id(self) -> str:
        """What names this version of this file."""
        return hashlib.blake2b(
            f"{self.content}:{self.path}".encode(errors="surrogateescape"), digest_size=16
        ).hexdigest()


class Catalogue:
    """The card and the files of a library.

    Args:
        root: Folder of the library, or the URI of an object storage that LanceDB knows.
        storage_options: Endpoint, keys and so on of an object storage.
    """

    def __init__(self, root: str | Path, *, storage_options: dict[str, str] | None = None) -> None:
        self.root = str(root)
        self._storage_options = storage_options
        self._table: Any = None

    @property
    def is_local(self) -> bool:
        """Whether the library is a folder of this machine."""
        return "://" not in self.root

    @cached_property
    def _database(self) -> Any:
        import lancedb  # takes 2 s

        # Interval 0: what another process commits is seen at the next read.
        return lancedb.connect(self.root, read_consistency_interval=timedelta(0), storage_options=self._storage_options)

    def read_card(self) -> LibraryCard | None:
        """Return the card of the library, or None if there is no library yet.

        Raises:
            StoreError: If the folder cannot be opened, or holds something else.
        """
        if self._table is None:
            if self.is_local and not Path(self.root).is_dir():
                return None
            with self._failures("opened"):
                try:
                    self._table = self._database.open_table(_TABLE)
                except ValueError as error:
                    if "not found" not in str(error):
                        raise
                    return None
        text = (self._table.schema.metadata or {}).get(b"stemsim", b"").decode()
        return card_of_json(text, self.root)

    def create(self, card: LibraryCard) -> LibraryCard:
        """Make an empty library, unless there is one: of two processes that try at once, one makes it.

        Args:
            card: Its card.

        Returns:
            The card of the library that is there now.
        """
        with self._failures("made"):
            if self.is_local:
                Path(self.root).mkdir(parents=True, exist_ok=True)
        with self.writing(), self._failures("made"):
            if (found := self.read_card()) is not None:
                return found
            schema = _SCHEMA.with_metadata({"stemsim": json.dumps(card.to_dict(), sort_keys=True)})
            self._table = self._database.create_table(_TABLE, schema=schema, exist_ok=True)
        return card

    def writing(self) -> AbstractContextManager[object]:
        """Return a lock that keeps the processes of this machine from writing at once; object storage has none."""
        return FileLock(Path(self.root) / _LOCK) if self.is_local else nullcontext()

    def records(self) -> list[FileRecord]:
        """Return all versions of all files."""
        with self._failures("read"):
            return _records(self._opened().to_arrow())

    def records_of(self, paths: Sequence[str]) -> list[FileRecord]:
        """Return all versions of some files.

        Args:
            paths: Absolute paths.
        """
        found: list[FileRecord] = []
        for listed in _listed(paths):
            with self._failures("read"):
                query = self._opened().search().where(f"path IN ({listed})").limit(len(self) + 1)
                found += _records(query.to_arrow())
        return found

    def put(self, records: Sequence[FileRecord]) -> None:
        """List versions of files, in one commit; those that are listed already are replaced.

        Args:
            records: What there is to list.
        """
        if not records:
            return
        rows = pa.Table.from_pylist([{"id": record.id, **asdict(record)} for record in records], schema=_SCHEMA)
        merge = self._opened().merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        self._write(lambda: merge.execute(rows))

    def delete(self, records: Sequence[FileRecord]) -> None:
        """Strike versions of files off the list.

        Args:
            records: Which.
        """
        for listed in _listed([record.id for record in records]):
            self._write(lambda listed=listed: self._opened().delete(f"id IN ({listed})"))  # type: ignore[misc]

    def compact(self) -> None:
        """Merge the small files that the commits left, and forget old versions."""
        self._write(lambda: self._opened().optimize(cleanup_older_than=_KEEP_VERSIONS))

    def __len__(self) -> int:
        with self._failures("read"):
            return int(self._opened().count_rows())

    def _opened(self) -> Any:
        if self._table is None and self.read_card() is None:
            msg = f"There is no library at {self.root}. Make one: stemsim index FOLDER --library {self.root}"
            raise DataNotFoundError(msg)
        return self._table

    def _write(self, action: Callable[[], Result]) -> Result:
        """Write, again after a while where another machine wrote at the same instant."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return self._attempt(action)
            except StoreError as error:
                if "conflict" not in str(error).lower():
                    raise
                time.sleep(_PAUSE * 2**attempt)
        return self._attempt(action)

    def _attempt(self, action: Callable[[], Result]) -> Result:
        with self._failures("written"):
            return action()

    @contextmanager
    def _failures(self, verb: str) -> Iterator[None]:
        """Raise what LanceDB raises as errors of ours."""
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            first = (str(error).splitlines() or [repr(error)])[0][:300]
            msg = (
                f"The library {self.root} cannot be {verb}: {first} Check the path, its permissions and the free space."
            )
            raise StoreError(msg) from error


_SCHEMA: Final = pa.schema(
    [
        # The primary key keeps two writers from inserting one version twice.
        pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"}),
        pa.field("path", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("content", pa.string()),
        pa.field("items", pa.int32()),
        pa.field("duration", pa.float64()),
        pa.field("bpm_measured", pa.bool_()),
        pa.field("key_measured", pa.bool_()),
        pa.field("done", pa.bool_()),
    ]
)


def _listed(texts: Sequence[str]) -> Iterator[str]:
    """Yield SQL lists of texts, none of them too long."""
    for start in range(0, len(texts), _PER_QUERY):
        yield ", ".join("'" + text.replace("'", "''") + "'" for text in texts[start : start + _PER_QUERY])


def _records(rows: pa.Table) -> list[FileRecord]:
    columns = [rows[field.name].to_pylist() for field in fields(FileRecord)]
    return [FileRecord(*values) for values in zip(*columns, strict=True)]
