"""The interface of an index: items, and a search over them by one folded query vector."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stemsim.embedding.store import EmbeddingSpec
from stemsim.errors import ConfigError
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.items import Items
from stemsim.stems import check_same_layout

SPARE: Final = 8
"""Extra items that are scored again exactly, because the first scores of an engine are rounded."""

_DIGITS: Final = 12  # after the point, to which similarities are compared: sums in another order differ beyond


@dataclass(frozen=True, slots=True, eq=False)
class RankedItems:
    """The result of a search, best first."""

    items: Items
    similarity: Tensor  # `(item,)` float64; higher is closer

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def best(cls, items: Items, similarity: Tensor, k: int) -> Self:
        """Return the `k` most similar items; of similarities that are equal up to rounding the smaller key is first."""
        order = np.lexsort((items.key.astype(str), -similarity.numpy().round(_DIGITS)))[:k]
        return cls(items.take(order), similarity[torch.from_numpy(order)])


class Index(ABC):
    """Items, and a search over them by one folded query (`Routing.fold`).

    Vectors are stored in float16. However an engine finds its candidates, `search` computes their similarities again in
    float64 from the stored vectors, so that all engines return the same.
    """

    def __init__(self, spec: EmbeddingSpec) -> None:
        self.spec = spec

    def upsert(self, items: Items) -> None:
        """Insert items, in one commit where the engine has commits; of items with the same key the last one stays."""
        remedy = "Make another index for such items."
        check_same_layout(self.spec.stems, items.stems, what="the set of items", remedy=remedy)
        if items.dim != self.spec.dim:
            raise ConfigError(f"The index holds vectors of length {self.spec.dim}; got items of {items.dim}. {remedy}")
        if len(items):
            self._write(items.distinct())

    @abstractmethod
    def _write(self, items: Items) -> None:
        """Insert at least one item, all keys distinct; items with the same key are replaced."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete items by key; keys without an item are ignored."""

    @abstractmethod
    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys, as far as there are any, in no particular order."""

    @abstractmethod
    def table(self, columns: Sequence[str], where: ItemFilter | None = None) -> pa.Table:
        """Return some columns (see `item_schema`) of all items that meet the conditions."""

    @abstractmethod
    def batches(self) -> Iterator[pa.Table]:
        """Yield the columns of all items (see `item_schema`) as they are stored, some hundred at a time."""

    def scan(self) -> Iterator[Items]:
        """Yield all items, some hundred at a time."""
        for rows in self.batches():
            yield Items.from_arrow(rows, self.spec.stems, self.spec.dim)

    @abstractmethod
    def salvage(self) -> None:
        """Keep what can be read of items whose files are damaged."""

    @abstractmethod
    def count(self, where: ItemFilter | None = None) -> int:
        """Return the number of items that meet the conditions."""

    @abstractmethod
    def describe(self) -> str:
        """Return in words whether searches are exact or approximate, and by what method."""

    @abstractmethod
    def optimise(self) -> bool:
        """Merge small files, and build the approximate index if it is due; return whether it was built."""

    @abstractmethod
    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        """Return at least the `k` items that the engine finds closest to a vector `(stem * dim,)`."""

    def search(self, vector: Tensor, k: int = 10, *, where: ItemFilter | None = None) -> RankedItems:
        """Return up to `k` items: those with the largest inner product with a folded query `(stem * dim,)`.

        Conditions are applied within the search: `k` items that meet them are found if they exist.

        Raises:
            ConfigError: If the vector has a wrong length or is not finite, or `k` is not positive.
        """
        if vector.shape != (self.spec.width,) or not bool(torch.isfinite(vector).all()) or k < 1:
            raise ConfigError(
                f"A search needs a finite vector of length {self.spec.width} ({len(self.spec.stems)} stems x "
                f"{self.spec.dim}) and a positive number of items; got {tuple(vector.shape)} and {k}."
            )
        found = self._candidates(vector.double(), k + SPARE, where)
        return RankedItems.best(found, found.vectors.double().flatten(1) @ vector.double(), k)
