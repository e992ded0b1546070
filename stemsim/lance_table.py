"""A LanceDB table: created once, upserted by key, safe for several processes, with errors of our own.

LanceDB commits by writing a new version of a table. A process killed at any instant therefore leaves whole commits
behind, and several processes may read and write one table at the same time.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
from filelock import FileLock

from stemsim.errors import StoreError

__all__ = ["LanceTable", "chunks", "first_line", "key_field", "sql_text"]

_log = logging.getLogger(__name__)

_KEYS_PER_QUERY: Final = 2048
_KEEP_VERSIONS: Final = timedelta(hours=1)  # nobody reads one version for longer
_UPSERTS_PER_MERGE: Final = 100  # each leaves a small file, and its list of all files in LanceDB's cache
_CACHE_BYTES: Final = 64 * 2**20  # of such lists; LanceDB's own limit is 1 GB
_ATTEMPTS: Final = 5
_PAUSE: Final = 0.2  # seconds before the second attempt, doubled for each further one
_CARD: Final = b"stemsim"  # key of the card in the metadata of the schema

Result = TypeVar("Result")


class LanceTable:
    """One table of a LanceDB database, opened when it is first needed.

    Args:
        root: Folder of the database, or the URI of an object storage that LanceDB knows.
        name: Name of the table.
        key: Column whose values are unique.
        what: Subject of error messages, such as "The library /music".
        remedy: What to do about an error; the last sentence of its message.
        storage_options: Endpoint, credentials and so on of an object storage.
    """

    def __init__(
        self,
        root: str | Path,
        name: str,
        *,
        what: str,
        remedy: str,
        key: str = "key",
        storage_options: dict[str, str] | None = None,
    ) -> None:
        self.root = str(root)
        self.name = name
        self._key = key
        self._what = what
        self._remedy = remedy
        self._storage_options = storage_options
        self._is_local = "://" not in self.root
        self._opened: Any = None
        self._upserts = 0

    @cached_property
    def _database(self) -> Any:
        return self._connect()

    def _connect(self) -> Any:
        os.environ.setdefault("LANCE_LOG", "error")  # otherwise LanceDB warns about its own housekeeping
        import lancedb  # takes 2 s

        return lancedb.connect(
            self.root,
            read_consistency_interval=timedelta(0),  # commits of another process are visible to the next read
            storage_options=self._storage_options,
            session=lancedb.Session(metadata_cache_size_bytes=_CACHE_BYTES),
        )

    def exists(self) -> bool:
        """Open the table if it exists; return whether it does."""
        if self._opened is None and not (self._is_local and not Path(self.root).exists()):
            self._opened = self.do("opened", self._open)
        return self._opened is not None

    def _open(self) -> Any:
        try:
            return self._database.open_table(self.name)
        except ValueError as error:
            if "not found" not in str(error):
                raise
            return None

    def create(self, schema: pa.Schema, card: str) -> None:
        """Create the table unless it exists; of two processes that try at once, one creates it and the other waits.

        The card, a description of the content, is kept in the metadata of the schema.
        """
        if not self.exists():
            self._opened = self.do("opened", partial(self._create, schema.with_metadata({_CARD: card})))

    def _create(self, schema: pa.Schema) -> Any:
        if self._is_local:
            Path(self.root).mkdir(parents=True, exist_ok=True)
        with self.lock(".create.lock"):  # without it LanceDB may overwrite a table that another process just created
            found = self._open()
            return self._database.create_table(self.name, schema=schema, exist_ok=True) if found is None else found

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock, by its file in the folder, between processes of this machine; an object storage has none."""
        with ExitStack() as held:
            if self._is_local:
                self.do("written", partial(held.enter_context, FileLock(Path(self.root) / name)))
            yield

    @property
    def raw(self) -> Any:
        """The table of LanceDB itself."""
        if not self.exists():
            raise StoreError(f"{self._what} does not exist. {self._remedy}")
        return self._opened

    @property
    def card(self) -> str:
        """The description that the table was created with."""
        return str((self.raw.schema.metadata or {}).get(_CARD, b"").decode())

    def count(self, where: str | None = None) -> int:
        """Return the number of rows, or of those that meet a condition in SQL."""
        return int(self.do("read", lambda: self.raw.count_rows(where)))

    def select(self, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Return all or some columns of all rows, or of those that meet a condition in SQL."""

        def read() -> pa.Table:
            query = self.raw.search()  # which fails, too, if the folder is gone
            query = query.where(where) if where else query
            return (query.select(list(columns)) if columns else query).to_arrow()

        return self.do("read", read)

    def get(self, keys: Sequence[str], columns: Sequence[str] | None = None, *, by: str | None = None) -> pa.Table:
        """Return the rows with some keys (in the column `by`), as far as there are any, in no particular order."""
        parts = [self.select(columns, _among(by or self._key, chunk)) for chunk in chunks(keys)]
        return pa.concat_tables(parts) if parts else self.select(columns, "false")

    def upsert(self, rows: pa.Table) -> None:
        """Insert rows of distinct keys in one commit; rows with the same key are replaced.

        Now and then the small files that commits leave are merged.
        """
        merge = self.raw.merge_insert(self._key).when_matched_update_all().when_not_matched_insert_all()
        self.do("written", lambda: merge.execute(rows))
        self._upserts += 1
        if self._upserts % _UPSERTS_PER_MERGE == 0:
            self.compact()

    def delete(self, keys: Sequence[str]) -> None:
        """Delete rows by key; keys without a row are ignored."""
        for chunk in chunks(keys):
            self.do("written", partial(self.raw.delete, _among(self._key, chunk)))

    def compact(self) -> bool:
        """Merge the small files that commits left, update indices and forget old versions; readers are unaffected.

        If another process wrote at the same time, the files stay unmerged, and False is returned.
        """
        try:
            self.do("merged", lambda: self.raw.optimize(cleanup_older_than=_KEEP_VERSIONS), attempts=1)
        except StoreError as error:
            if not _is_conflict(error):
                raise
            _log.info("Another process wrote to %s/%s while its files were merged; left as is.", self.root, self.name)
            return False
        self._database = self._connect()  # with an empty cache: the old one keeps something of every version
        self._opened = self.do("opened", self._open)
        return True

    def salvage(self) -> tuple[int, int]:
        """Rewrite a damaged table from the rows that can still be read; return their number, and that before."""
        total, schema = self.count(), self.raw.schema
        parts = self._readable(0, total)
        rows = pa.concat_tables(parts).cast(schema) if parts else schema.empty_table()
        # LanceDB refuses to write vectors with NaN, which nobody can use either.
        options = {"schema": schema, "mode": "overwrite", "on_bad_vectors": "drop"}
        self._opened = self.do("written", lambda: self._database.create_table(self.name, data=rows, **options))
        return self.count(), total

    def _readable(self, start: int, stop: int) -> list[pa.Table]:
        """Read rows by position; halve the range where reading fails, until what fails is a single row."""
        if start >= stop:
            return []
        try:
            return [self.do("read", lambda: self.raw.take_offsets(list(range(start, stop))).to_arrow())]
        except StoreError:
            middle = (start + stop) // 2
            return [] if stop - start == 1 else self._readable(start, middle) + self._readable(middle, stop)

    def do(self, verb: str, action: Callable[[], Result], *, attempts: int = _ATTEMPTS) -> Result:
        """Run something that LanceDB does, and again after a conflict with another writer, up to `attempts` times.

        Raises:
            StoreError: If LanceDB fails; `verb` is the participle in its message, such as `read` or `written`.
        """
        pause = _PAUSE
        while True:
            try:
                return action()
            except Exception as error:
                panicked = type(error).__name__ == "RustPanic"  # its class cannot be imported
                if not panicked and not isinstance(error, RuntimeError | OSError | ValueError):
                    raise
                attempts -= 1
                if not _is_conflict(error) or not attempts:
                    reason = f"LanceDB panicked ({first_line(error)})." if panicked else first_line(error)
                    raise StoreError(f"{self._what} cannot be {verb}: {reason} {self._remedy}") from error
            time.sleep(pause)
            pause *= 2.0


def key_field(name: str = "key") -> pa.Field:
    """Return the key column of a schema; LanceDB keeps two writers from inserting one key twice."""
    return pa.field(name, pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})


def chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield keys in parts that fit into one query."""
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        yield keys[start : start + _KEYS_PER_QUERY]


def sql_text(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the trace that a database appends to it."""
    return (str(error).splitlines() or [repr(error)])[0][:300]


def _among(column: str, keys: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(sql_text, keys))})"


def _is_conflict(error: BaseException) -> bool:
    return "conflict" in str(error).lower()
