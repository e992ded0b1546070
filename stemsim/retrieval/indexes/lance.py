"""Items in a LanceDB table: in a folder or an object storage, without a server."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from torch import Tensor

from stemsim.embedding.store import EmbeddingSpec
from stemsim.lance_table import LanceTable
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.items import Items, item_schema, stored_width

_TABLE: Final = "items"
_VECTORS: Final = "vectors"
_AT_ONCE: Final = 512  # items; LanceDB reads a dozen such batches ahead
_INDEX_FROM: Final = 20_000  # items: below, comparing all takes less than 0.3 s
_RESCORED: Final = 3  # times as many as asked for are scored again from full vectors,
_LEAST_RESCORED: Final = 64  # or as many as this
_BITS: Final = 8
_ALL_PARTITIONS: Final = 1_000_000  # one is built, but LanceDB splits it when the table grows


class LanceIndex(Index):
    """Items in a LanceDB table.

    From 20 000 items on, `optimise` quantises vectors to 8 bits a component (RaBitQ). A search reads all these codes,
    and scores the best candidates again from the full vectors: an index that prunes instead loses items exactly where a
    user mutes stems. Shorter codes are no faster, as more candidates then have to be read in full.

    Args:
        root: Folder, created if need be; or the URI of an object storage that LanceDB knows.
        spec: How the vectors were made.
        storage_options: Endpoint, credentials and so on of an object storage.

    Raises:
        StoreError: If it cannot be opened.
        StemMismatchError: If it holds items of other stems; `ConfigError` if they were made in another way.
    """

    def __init__(self, root: str | Path, spec: EmbeddingSpec, *, storage_options: dict[str, str] | None = None) -> None:
        super().__init__(spec)
        self.root = str(root)
        remedy = (
            "Check the path, its permissions and the free space; if its files are damaged, move "
            f"{_TABLE}.lance in it away and index the files again."
        )
        what = f"The index {root}"
        self._table = LanceTable(root, _TABLE, what=what, remedy=remedy, storage_options=storage_options)
        self._table.create(item_schema(spec.stems, spec.dim), spec.text)
        remedy = "Open it with the models that it was made with, or make another index."
        spec.check(self._table.card, f"the index {root}", remedy=remedy)
        if "category" in self._table.raw.schema.names:  # up to version 1 of libraries, an item had one or ""
            with self._table.lock(".create.lock"):
                self._table.do("updated", self._turn_categories_into_tags)

    def _turn_categories_into_tags(self) -> None:
        """Do what another process has not done, or not to the end."""
        if "tags" not in self._table.raw.schema.names:
            self._table.raw.add_columns({"tags": "array_remove(make_array(category), '')"})
        if "category" in self._table.raw.schema.names:
            self._table.raw.drop_columns(["category"])

    def _write(self, items: Items) -> None:
        self._table.upsert(items.to_arrow())

    def delete(self, keys: Sequence[str]) -> None:
        """Delete items by key."""
        self._table.delete(keys)

    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys."""
        return self._of(self._table.get(keys))

    def table(self, columns: Sequence[str], where: ItemFilter | None = None) -> pa.Table:
        """Return some columns of all items that meet the conditions."""
        return self._table.select(columns, self._condition(where))

    def batches(self) -> Iterator[pa.Table]:
        """Yield the columns of all items, some hundred at a time."""
        batches = iter(self._table.do("read", lambda: self._table.raw.search().to_batches(_AT_ONCE)))
        while (batch := self._table.do("read", lambda: next(batches, None))) is not None:
            yield pa.Table.from_batches([batch])

    def salvage(self) -> None:
        """Rewrite the table from the items that can still be read."""
        self._table.salvage()

    def count(self, where: ItemFilter | None = None) -> int:
        """Return the number of items that meet the conditions."""
        return self._table.count(self._condition(where) or None)

    def describe(self) -> str:
        """Return in words whether searches are exact or approximate."""
        total, fresh = self.count(), self._unindexed()
        if fresh is None:
            return f"exact: {total} items are compared one by one"
        rest = f"; {fresh} newer ones are compared one by one" if fresh else ""
        return f"approximate: codes of {_BITS} bits of {total - fresh} items, the best scored again exactly{rest}"

    def optimise(self) -> bool:
        """Merge small files, and build the approximate index if it is due; return whether it was built."""
        if not self.merge() or self.count() < _INDEX_FROM or self._unindexed() is not None:
            return False
        return self.build()

    def merge(self) -> bool:
        """Merge small files and add new items to the approximate index; return False if another process wrote."""
        return self._table.compact()

    def build(self) -> bool:
        """Build the approximate index over all items; return False if there are too few (some hundred) for one."""
        from lancedb.index import BTree, IvfRq

        codes = IvfRq(distance_type="dot", num_partitions=1, num_bits=_BITS)
        for column, config in ((_VECTORS, codes), ("key", BTree())):
            self._table.do("indexed", partial(self._table.raw.create_index, column, config=config, replace=True))
        return self._unindexed() is not None

    def _unindexed(self) -> int | None:
        """Return the number of items that the approximate index lacks; None if there is no index."""
        for index in self._table.do("read", self._table.raw.list_indices):
            if _VECTORS in index.columns:
                stats = self._table.do("read", partial(self._table.raw.index_stats, index.name))
                return None if stats is None else int(stats.num_unindexed_rows)
        return None

    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        padded = np.zeros(stored_width(len(self.spec.stems), self.spec.dim), np.float32)
        padded[: self.spec.width] = vector.numpy()
        query: Any = self._table.raw.search(padded, vector_column_name=_VECTORS).distance_type("dot")
        # `Index.search` scores them again; LanceDB's own `refine_factor` would read them once more.
        query = query.nprobes(_ALL_PARTITIONS).limit(max(_RESCORED * k, _LEAST_RESCORED))
        if condition := self._condition(where):
            query = query.where(condition, prefilter=True)
        # Its `to_arrow` would ask for the schema twice more.
        return self._of(self._table.do("searched", lambda: query.to_batches().read_all()))

    def _condition(self, where: ItemFilter | None) -> str:
        return "" if where is None else where.sql(self.spec.stems)

    def _of(self, rows: pa.Table) -> Items:
        return Items.from_arrow(rows, self.spec.stems, self.spec.dim)
