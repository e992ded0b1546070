"""Items in a LanceDB table: in a folder, or in an object storage; no server."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock
from torch import Tensor

from stemsim.errors import StoreError
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.index import Index, IndexSpec
from stemsim.retrieval.item import Items, schema, stored_width

__all__ = ["LanceIndex"]

_log = logging.getLogger(__name__)

_TABLE: Final = "items"
_VECTORS: Final = "vectors"
_KEYS_PER_QUERY: Final = 2048
_AT_ONCE: Final = 4096
_INDEX_FROM: Final = 20_000  # items: below, comparing all takes less than 0.3 s
_RESCORED: Final = 3  # times as many as asked for are scored again from full vectors,
_LEAST_RESCORED: Final = 64  # or as many as this
_BITS: Final = 8
_ALL_PARTITIONS: Final = 1_000_000  # one is built, but LanceDB splits it when the table grows
_KEEP_VERSIONS: Final = timedelta(hours=1)  # readers of an old version go on while a writer merges

Result = TypeVar("Result")


class LanceIndex(Index):
    """Items in a LanceDB table.

    From 20 000 items on, `optimise` builds codes of 8 bits a component (RaBitQ). A search reads all codes, and scores
    the best again from the full vectors: an index that prunes instead loses items exactly where a user mutes stems.
    Shorter codes are no quicker, as more items have then to be read in full.

    Args:
        root: Folder, made if need be; or the URI of an object storage that LanceDB knows.
        spec: How the vectors were made.
        storage_options: Endpoint, keys and so on of an object storage.

    Raises:
        StoreError: If it cannot be opened.
        StemMismatchError: If it holds items of other stems.
        ConfigError: If it was made with another encoder or separator.
    """

    def __init__(self, root: str | Path, spec: IndexSpec, *, storage_options: dict[str, str] | None = None) -> None:
        import lancedb  # takes 2 s

        super().__init__(spec)
        self.root = str(root)
        with self._failures("opened"):
            # Interval 0: what another process commits is seen at the next read.
            self._database = lancedb.connect(
                self.root, read_consistency_interval=timedelta(0), storage_options=storage_options
            )
            self._table = self._open()
        spec.check((self._table.schema.metadata or {}).get(b"stemsim", b"{}").decode(), self.root)

    def _open(self) -> Any:
        """Open the table, or create it: of two processes that try at once, one creates and the other waits."""
        try:
            return self._database.open_table(_TABLE)
        except ValueError:  # not found
            made = schema(self.spec.stems, self.spec.dim, self.spec.text)
            with self._creation_lock():
                return self._database.create_table(_TABLE, schema=made, exist_ok=True)

    def _creation_lock(self) -> AbstractContextManager[object]:
        """Return a lock between the processes of one machine; object storage has none."""
        return nullcontext() if "://" in self.root else FileLock(Path(self.root) / ".create.lock")

    def _write(self, items: Items) -> None:
        rows = items.to_arrow()
        merge = self._table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
        self._do("written", lambda: merge.execute(rows))

    def delete(self, keys: Sequence[str]) -> None:
        """Drop items."""
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            listed = _listed(keys[start : start + _KEYS_PER_QUERY])
            self._do("written", partial(self._table.delete, f"key IN ({listed})"))

    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys."""
        found = [Items.empty(self.spec.stems, self.spec.dim)]
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            chunk = keys[start : start + _KEYS_PER_QUERY]
            query = self._table.search().where(f"key IN ({_listed(chunk)})").limit(len(chunk))
            found.append(self._of(self._do("read", query.to_arrow)))
        return Items.concatenate(found)

    def table(self, columns: Sequence[str], where: ItemFilter | None = None) -> pa.Table:
        """Return some columns of all items that meet the conditions."""
        query = self._filtered(self._table.search(), where).select(list(columns)).limit(max(1, self.count()))
        return self._do("read", query.to_arrow)

    def scan(self) -> Iterator[Items]:
        """Yield all items, some thousand at a time."""
        total = self.count()
        if total:
            batches = self._do("read", lambda: self._table.search().limit(total).to_batches(_AT_ONCE))
            for batch in batches:
                yield self._of(pa.Table.from_batches([batch]))

    def count(self, where: ItemFilter | None = None) -> int:
        """Return the number of items that meet the conditions."""
        condition = None if where is None or where.empty else where.sql(self.spec.stems)
        return int(self._do("read", lambda: self._table.count_rows(condition)))

    def describe(self) -> str:
        """Say how a search is answered."""
        total, fresh = self.count(), self._unindexed()
        if fresh is None:
            return f"exact: {total} items are compared one by one"
        rest = f"; {fresh} newer ones are compared one by one" if fresh else ""
        return f"approximate: codes of {_BITS} bits of {total - fresh} items, the best scored again exactly{rest}"

    def optimise(self) -> bool:
        """Merge what commits left, and build or extend the approximate index if it is due."""
        if not self.merge() or self.count() < _INDEX_FROM or self._unindexed() is not None:
            return False
        return self.build()

    def merge(self) -> bool:
        """Merge small files, and take new items into the indices; give way to another process that writes.

        Returns:
            Whether there was no such process.
        """
        try:
            self._do("merged", lambda: self._table.optimize(cleanup_older_than=_KEEP_VERSIONS))
        except StoreError as error:
            if "commit conflict" not in str(error).lower():
                raise
            _log.info("Another process changed the items of %s while they were merged; left as they are.", self.root)
            return False
        return True

    def build(self) -> bool:
        """Build the approximate index over all items, however few.

        Returns:
            Whether there is one now; there are too few items for one below some hundred.
        """
        from lancedb.index import BTree, IvfRq

        codes = IvfRq(distance_type="dot", num_partitions=1, num_bits=_BITS)
        for column, config in ((_VECTORS, codes), ("key", BTree())):
            self._do("indexed", partial(self._table.create_index, column, config=config, replace=True))
        return self._unindexed() is not None

    def _unindexed(self) -> int | None:
        """Return the number of items that the approximate index lacks; None if there is no index."""
        for index in self._do("read", self._table.list_indices):
            if _VECTORS in index.columns:
                stats = self._do("read", partial(self._table.index_stats, index.name))
                return None if stats is None else int(stats.num_unindexed_rows)
        return None

    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        padded = np.zeros(stored_width(len(self.spec.stems), self.spec.dim), np.float32)
        padded[: self.spec.width] = vector.numpy()
        query = self._table.search(padded, vector_column_name=_VECTORS).distance_type("dot")
        # `Index.search` scores them again; LanceDB's own `refine_factor` would read them once more.
        query = self._filtered(query.nprobes(_ALL_PARTITIONS).limit(max(_RESCORED * k, _LEAST_RESCORED)), where)
        # Its `to_arrow` would ask for the schema twice more.
        return self._of(self._do("searched", lambda: query.to_batches().read_all()))

    def _filtered(self, query: Any, where: ItemFilter | None) -> Any:
        condition = "" if where is None else where.sql(self.spec.stems)
        return query.where(condition, prefilter=True) if condition else query

    def _of(self, rows: pa.Table) -> Items:
        return Items.from_arrow(rows, self.spec.stems, self.spec.dim)

    def _do(self, verb: str, action: Callable[[], Result]) -> Result:
        with self._failures(verb):
            return action()

    @contextmanager
    def _failures(self, verb: str) -> Iterator[None]:
        """Raise what LanceDB raises as an error of ours."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, RuntimeError | OSError | ValueError) and type(error).__name__ != "RustPanic":
                raise
            first = (str(error).splitlines() or [repr(error)])[0][:300]
            msg = (
                f"The items of {self.root} cannot be {verb}: {first} Check the path, its permissions and the free "
                f"space; if its files are damaged, move {_TABLE}.lance in it away and index the files again."
            )
            raise StoreError(msg) from error


def _listed(keys: Sequence[str]) -> str:
    return ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
