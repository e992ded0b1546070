"""Items in Milvus: a server that several machines share, or a local file of milvus-lite."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stemsim.embedding.store import EmbeddingSpec
from stemsim.errors import StoreError
from stemsim.lance_table import first_line
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.items import Items, item_schema

_VECTORS: Final = "vectors"
_UNKNOWN_BPM: Final = -1.0  # Milvus has no NaN
_AT_ONCE: Final = 256  # rows in one request: vectors are long, and a request holds 64 MB
_LONGEST: Final = {"key": 64, "content": 64, "path": 8192, "tags": 64, "musical_key": 64}
_MOST_TAGS: Final = 64
_MOST: Final = 16_384  # rows that Milvus returns at once
_CARD: Final = "_card"
_REFINE: Final = 40.0  # times as many as asked for are scored again from full vectors: codes of 1 bit are coarse
_RABITQ: Final = (2, 6)  # the first version that has IVF_RABITQ

Result = TypeVar("Result")


class MilvusIndex(Index):
    """Items in a Milvus collection.

    Vectors are stored in float32 after rounding to float16, so that they equal those of the other indices. From version
    2.6 on, Milvus searches codes of one bit and scores candidates again (IVF_RABITQ); older servers and milvus-lite
    compare all items.

    Args:
        uri: `http://host:19530`, or the path of a file that ends in `.db` for milvus-lite.
        spec: How the vectors were made.
        collection: Its name.
        token: `user:password`, or an API key.

    Raises:
        StoreError: If the server cannot be reached, or pymilvus is not installed.
        StemMismatchError: If it holds items of other stems; `ConfigError` if they were made in another way.
    """

    def __init__(self, uri: str, spec: EmbeddingSpec, *, collection: str, token: str = "") -> None:
        super().__init__(spec)
        self.uri, self.collection = uri, collection
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise StoreError("Milvus needs the package pymilvus: pip install 'stemsim[milvus]'") from error
        self._client: Any = self._do("opened", lambda: MilvusClient(uri, token=token))
        self._version = str(self._do("opened", self._client.get_server_version))
        self._columns = list(item_schema(spec.stems, spec.dim).names)
        remedy = "Open it with the models that it was made with, or name another collection (URI#name)."
        spec.check(self._do("opened", self._open), f"the collection {collection} at {uri}", remedy=remedy)

    def _open(self) -> str:
        """Open the collection, created if need be; return what it says that it holds."""
        if not self._client.has_collection(self.collection):
            self._create()
        for name in (self.collection, self.collection + _CARD):  # a new process of milvus-lite has loaded neither
            self._client.load_collection(name)
        cards = self._client.query(self.collection + _CARD, filter='key == "spec"', output_fields=["text"])
        return str(cards[0]["text"]) if cards else ""

    def _create(self) -> None:
        """Create the collection, and another of a single row that says what it holds."""
        from pymilvus import DataType

        card = self._client.create_schema(auto_id=False)
        card.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
        card.add_field("text", DataType.VARCHAR, max_length=8192)
        card.add_field(_VECTORS, DataType.FLOAT_VECTOR, dim=2)  # each collection must have one
        self._make(self.collection + _CARD, card, "FLAT", {})
        row = {"key": "spec", "text": self.spec.text, _VECTORS: [0.0, 1.0]}
        self._client.upsert(self.collection + _CARD, [row])

        columns = self._client.create_schema(auto_id=False)
        for field in item_schema(self.spec.stems, self.spec.dim):
            if field.name == _VECTORS:
                columns.add_field(_VECTORS, DataType.FLOAT_VECTOR, dim=self.spec.width)
            elif pa.types.is_list(field.type):
                of = {"element_type": DataType.VARCHAR, "max_length": _LONGEST[field.name]}
                columns.add_field(field.name, DataType.ARRAY, max_capacity=_MOST_TAGS, **of)
            elif pa.types.is_string(field.type):
                longest = _LONGEST[field.name]
                columns.add_field(field.name, DataType.VARCHAR, is_primary=field.name == "key", max_length=longest)
            else:
                columns.add_field(field.name, DataType.BOOL if pa.types.is_boolean(field.type) else DataType.DOUBLE)
        if self._has_codes:
            self._make(self.collection, columns, "IVF_RABITQ", {"nlist": 1, "refine": True, "refine_type": "FP16"})
        else:
            self._make(self.collection, columns, "FLAT", {})

    def _make(self, name: str, columns: Any, kind: str, settings: dict[str, Any]) -> None:
        index = self._client.prepare_index_params()
        index.add_index(_VECTORS, index_type=kind, metric_type="IP", params=settings)
        # Strong: what another process has written is visible to the next search.
        self._client.create_collection(name, schema=columns, index_params=index, consistency_level="Strong")
        self._client.load_collection(name)

    @property
    def _has_codes(self) -> bool:
        """True if the server can search codes; milvus-lite, which has version numbers of its own, cannot."""
        found = re.match(r"v?(\d+)\.(\d+)", self._version)
        return found is not None and tuple(map(int, found.groups())) >= _RABITQ

    def _write(self, items: Items) -> None:
        for start in range(0, len(items), _AT_ONCE):
            rows = _rows(items.take(range(start, min(start + _AT_ONCE, len(items)))))
            self._do("written", partial(self._client.upsert, self.collection, rows))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete items by key."""
        for start in range(0, len(keys), _MOST):
            self._do("written", partial(self._client.delete, self.collection, ids=list(keys[start : start + _MOST])))

    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys."""
        rows: list[dict[str, Any]] = []
        for start in range(0, len(keys), _AT_ONCE):
            chunk = list(keys[start : start + _AT_ONCE])
            rows += self._do("read", partial(self._client.get, self.collection, ids=chunk, output_fields=self._columns))
        return self._of(rows)

    def table(self, columns: Sequence[str], where: ItemFilter | None = None) -> pa.Table:
        """Return some columns of all items that meet the conditions."""
        return self._to_arrow([row for batch in self._iterate(columns, where) for row in batch], columns)

    def batches(self) -> Iterator[pa.Table]:
        """Yield the columns of all items, some hundred at a time."""
        for rows in self._iterate(self._columns, None):
            yield self._to_arrow(rows, self._columns)

    def salvage(self) -> None:
        """Raise a `StoreError`: what Milvus cannot read is its own to mend."""
        raise StoreError(f"The items at {self.uri} cannot be read to their end. Restore them with the tools of Milvus.")

    def count(self, where: ItemFilter | None = None) -> int:
        """Return the number of items that meet the conditions."""
        condition = self._condition(where)
        query = partial(self._client.query, self.collection, filter=condition, output_fields=["count(*)"])
        return int(self._do("read", query)[0]["count(*)"])

    def describe(self) -> str:
        """Return in words whether searches are exact or approximate."""
        how = "approximate: codes of 1 bit, the best scored again" if self._has_codes else "exact: items are compared"
        return f"{how} ({self.count()} items in Milvus {self._version} at {self.uri})"

    def optimise(self) -> bool:
        """Return False: the server builds and merges on its own."""
        return False

    def _iterate(self, columns: Sequence[str], where: ItemFilter | None) -> Iterator[list[dict[str, Any]]]:
        """Yield rows, as many at a time as fit into a request."""
        iterate = partial(
            self._client.query_iterator,
            self.collection,
            batch_size=_AT_ONCE if _VECTORS in columns else _MOST,
            filter=self._condition(where),
            output_fields=list(columns),
        )
        iterator: Any = self._do("read", iterate)
        try:
            while rows := self._do("read", iterator.next):
                yield rows
        finally:
            self._do("read", iterator.close)

    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        refine = max(1.0, min(_REFINE, _MOST / k))
        search = partial(
            self._client.search,
            self.collection,
            [vector.float().numpy()],
            anns_field=_VECTORS,
            limit=min(k, _MOST),
            filter=self._condition(where),
            search_params={"params": {"nprobe": 1, "refine_k": refine}} if self._has_codes else None,
            output_fields=self._columns,
        )
        return self._of([hit["entity"] for hit in self._do("searched", search)[0]])

    def _condition(self, where: ItemFilter | None) -> str:
        return "" if where is None else where.milvus(self.spec.stems)

    def _of(self, rows: Sequence[dict[str, Any]]) -> Items:
        return Items.from_arrow(self._to_arrow(rows, self._columns), self.spec.stems, self.spec.dim)

    def _to_arrow(self, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
        """Return rows of Milvus as a table with some columns of `item_schema`."""
        schema = item_schema(self.spec.stems, self.spec.dim)
        values: dict[str, Any] = {name: [row[name] for row in rows] for name in columns}
        if "bpm" in values:
            values["bpm"] = [None if bpm == _UNKNOWN_BPM else bpm for bpm in values["bpm"]]
        if _VECTORS in values:
            vectors = np.zeros((len(rows), schema.field(_VECTORS).type.list_size), np.float16)
            vectors[:, : self.spec.width] = np.reshape(values[_VECTORS], (len(rows), self.spec.width))
            values[_VECTORS] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return pa.table(values, schema=pa.schema([schema.field(name) for name in columns]))

    def _do(self, verb: str, action: Callable[[], Result]) -> Result:
        """Run a request; raise what pymilvus raises as an error of ours."""
        from pymilvus.exceptions import MilvusException

        try:
            return action()
        except (MilvusException, OSError, ValueError) as error:
            raise StoreError(
                f"The items at {self.uri} cannot be {verb}: {first_line(error)} Check the address, and that the server "
                "runs."
            ) from error


def _rows(items: Items) -> list[dict[str, Any]]:
    """Return items as rows of Milvus."""
    rows: list[dict[str, Any]] = items.to_arrow().drop_columns([_VECTORS]).to_pylist()
    vectors = items.vectors.flatten(1).to(torch.float16).float().numpy()
    for row, vector in zip(rows, vectors, strict=True):
        row[_VECTORS] = vector
        row["bpm"] = _UNKNOWN_BPM if row["bpm"] is None else row["bpm"]
    return rows
