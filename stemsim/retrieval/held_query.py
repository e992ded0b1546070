"""A query that stays while its sliders move."""

from dataclasses import replace

import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.indexes.base import SPARE, Index, RankedItems
from stemsim.retrieval.items import Items
from stemsim.retrieval.routing import Routing


class HeldQuery:
    """The cosines of every stem of one query with every stem of every item, computed once.

    After a move of the sliders, a search is one small product of the `(item, stem * stem)` cosines with the weights.
    Items added to the index afterwards are not seen.

    Args:
        index: The items, all of which are read once.
        query: `(stem, dim)` stem embeddings of the query.

    Raises:
        ConfigError: If the query does not have the shape of the index's vectors.
    """

    def __init__(self, index: Index, query: Tensor) -> None:
        spec = index.spec
        if query.shape != (len(spec.stems), spec.dim):
            raise ConfigError(f"Expected a query ({len(spec.stems)}, {spec.dim}); got {tuple(query.shape)}.")
        described, cosines = [Items.empty(spec.stems, 1)], [torch.zeros(0, len(spec.stems) ** 2)]
        for items in index.scan():
            cosines.append(torch.einsum("id,njd->nij", query.float(), items.vectors).flatten(1))
            described.append(replace(items, vectors=torch.zeros(len(items), len(spec.stems), 1)))  # saves memory
        self._items = Items.concatenate(described)
        self._cosines = torch.cat(cosines)  # (item, stem * stem)
        self._excluded: tuple[ItemFilter, Tensor] = (ItemFilter(), torch.zeros(len(self), dtype=torch.bool))

    def __len__(self) -> int:
        return len(self._items)

    def search(self, routing: Routing, k: int = 10, *, where: ItemFilter | None = None) -> RankedItems:
        """Return the `k` most similar items for other weights, among those that meet the conditions.

        Similarities are of single precision, and items come without their vectors, which `Index.items` reads.
        """
        similarity = self._cosines @ routing.matrix.flatten().float()
        if where is not None:
            similarity[self._excluded_by(where)] = -torch.inf
        rows = torch.topk(similarity, min(k + SPARE, len(similarity))).indices
        rows = rows[torch.isfinite(similarity[rows])]
        return RankedItems.best(self._items.take(rows.numpy()), similarity[rows].double(), k)

    def _excluded_by(self, where: ItemFilter) -> Tensor:
        """Return the items `(item,)` that fail the conditions, which seldom change from move to move."""
        if self._excluded[0] != where:
            self._excluded = (where, torch.from_numpy(~where.mask(self._items)))
        return self._excluded[1]
