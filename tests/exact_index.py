"""Items in memory and an exact search: the reference for approximate indices."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stemsim.embedding.store import EmbeddingSpec
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.items import BoolArray, Items

__all__ = ["ExactIndex"]

_AT_ONCE: Final = 4096


class ExactIndex(Index):
    """Exact search in memory.

    Args:
        spec: How the vectors were made.
    """

    def __init__(self, spec: EmbeddingSpec) -> None:
        super().__init__(spec)
        self._items = Items.empty(spec.stems, spec.dim)

    def _write(self, items: Items) -> None:
        self.delete(items.key)
        rounded = Items.from_arrow(items.to_arrow(), items.stems, items.dim)  # to float16, like all indices
        self._items = Items.concatenate([self._items, rounded])

    def delete(self, keys: Sequence[str]) -> None:
        """Delete items by key."""
        self._items = self._items.take(~self._among(keys))

    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys."""
        return self._items.take(self._among(keys))

    def _among(self, keys: Sequence[str]) -> BoolArray:
        return np.isin(np.array(self._items.key, dtype=str), list(keys))

    def table(self, columns: Sequence[str], where: ItemFilter | None = None) -> pa.Table:
        """Return some columns of all items that meet the conditions."""
        return self._kept(where).to_arrow().select(list(columns))

    def scan(self) -> Iterator[Items]:
        """Yield all items, some thousand at a time."""
        for start in range(0, len(self._items), _AT_ONCE):
            yield self._items.take(range(start, min(start + _AT_ONCE, len(self._items))))

    def count(self, where: ItemFilter | None = None) -> int:
        """Return the number of items that meet the conditions."""
        return len(self._kept(where))

    def describe(self) -> str:
        """Return in words that searches are exact."""
        return f"exact, in memory: {len(self._items)} items are compared one by one"

    def optimise(self) -> bool:
        """Return False: there is nothing to build."""
        return False

    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        kept = self._kept(where)
        similarity = kept.vectors.flatten(1) @ vector.float()
        return kept.take(torch.topk(similarity, min(k, len(kept))).indices.numpy())

    def _kept(self, where: ItemFilter | None) -> Items:
        return self._items if where is None or where.empty else self._items.take(where.mask(self._items))
