"""Items in memory, and a search that computes every similarity: what approximate answers are checked against."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.index import Index, IndexSpec
from stemsim.retrieval.item import Items

__all__ = ["ExactIndex"]

_AT_ONCE: Final = 4096


class ExactIndex(Index):
    """Exact search in memory.

    Args:
        spec: How the vectors were made.
    """

    def __init__(self, spec: IndexSpec) -> None:
        super().__init__(spec)
        self._items = Items.empty(spec.stems, spec.dim)

    def _write(self, items: Items) -> None:
        rounded = Items.from_arrow(items.to_arrow(), items.stems, items.dim)  # float16, as every engine keeps them
        kept = self._items.take(~np.isin(np.array(self._items.key, dtype=str), list(items.key)))
        self._items = Items.concatenate([kept, rounded])

    def delete(self, keys: Sequence[str]) -> None:
        """Drop items."""
        self._items = self._items.take(~np.isin(np.array(self._items.key, dtype=str), list(keys)))

    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys."""
        return self._items.take(np.isin(np.array(self._items.key, dtype=str), list(keys)))

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
        """Say how a search is answered."""
        return f"exact, in memory: {len(self._items)} items are compared one by one"

    def optimise(self) -> bool:
        """Do nothing: there is nothing to merge or to build."""
        return False

    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        kept = self._kept(where)
        similarity = kept.vectors.flatten(1) @ vector.float()
        rows = torch.topk(similarity, min(k, len(kept))).indices
        return kept.take(rows.numpy())

    def _kept(self, where: ItemFilter | None) -> Items:
        return self._items if where is None or where.empty else self._items.take(where.mask(self._items))
