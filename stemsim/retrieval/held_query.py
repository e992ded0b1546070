"""A query that stays while its sliders move."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.hits import FOLD, Comparison, Hit, find_hits
from stemsim.retrieval.indexes.base import SPARE, Index, RankedItems
from stemsim.retrieval.items import BoolArray, FloatArray, Items
from stemsim.retrieval.query import Query, check_audible, require_negative_stems
from stemsim.retrieval.routing import Routing
from stemsim.stems import StemLayout

_AT_ONCE: Final = 2048  # items whose vectors are read at once
Pair = tuple[int, int]  # of a stem of the query and one of the library

_TIE: Final = 1e-9  # similarities that are closer may be equal up to rounding
_GROUP: Final = 64  # most values in a group
_GROUPS: Final = 4  # at least, for each of the largest values


class HeldQuery:
    """The cosines of the stems of one query with those of every item, computed once.

    After a move of the sliders, a search is a weighted sum of these cosines: nothing is separated, embedded or read,
    and the hits are those of `Library.search` with the same weights. Held are the pairs that sliders use, each stem
    with the same stem and with the mix; for another pair the index is read once more when it first has a weight. Items
    added to the index afterwards are not seen.

    Args:
        index: The items, all of which are read once.
        query: The query.
        measured: Which tags of each path were measured, see `Hit.measured`.
        like: Another held query, whose description of the items is shared if the index still has the same ones.

    Raises:
        ConfigError: If the query does not have the shape of the index's vectors.
    """

    def __init__(
        self,
        index: Index,
        query: Query,
        *,
        measured: Mapping[str, frozenset[str]] | None = None,
        like: "HeldQuery | None" = None,
    ) -> None:
        spec = index.spec
        if query.vectors.shape != (len(spec.stems), spec.dim):
            seen = tuple(query.vectors.shape)
            raise ConfigError(f"Expected a query ({len(spec.stems)}, {spec.dim}); got {seen}.")
        self.query = query
        self._index = index
        pairs = _slider_pairs(spec.stems)
        described, cosines = [Items.empty(spec.stems, 1)], [np.zeros((len(pairs), 0))]
        for items in index.scan():
            cosines.append(_cosines(query, items, pairs))
            described.append(replace(items, vectors=torch.zeros(len(items), len(spec.stems), 1)))  # saves memory
        items = Items.concatenate(described)
        # Of each pair of a stem of the query and one of the library, (item,).
        self._cosines: dict[Pair, FloatArray] = dict(zip(pairs, np.concatenate(cosines, axis=1), strict=True))
        self.held: HeldItems
        if like is not None and np.array_equal(like.held.items.key, items.key):
            self.held = like.held
        else:
            self.held = HeldItems(items, Twins.of(index, items), dict(measured or {}))
        self._excluded: tuple[ItemFilter, BoolArray] = (ItemFilter(), np.zeros(len(self), bool))

    def __len__(self) -> int:
        return len(self.held.items)

    def search(
        self, routing: Routing, k: int = 10, *, where: ItemFilter | None = None, include_self: bool = False
    ) -> list[Hit]:
        """Return the hits of `Library.search` for these weights; a fusion of the routing is left out.

        Raises:
            ConfigError: If `k` is not positive, or every weighted stem is silent in the query.
        """
        if k < 1:
            raise ConfigError(f"A search returns at least 1 hit; got k={k}.")
        check_audible(self.query, routing)
        conditions = require_negative_stems(where, routing)

        def search(count: int) -> Comparison:
            ranked = self.ranked(routing, count, where=conditions)
            rows = [self.held.rows[key] for key in ranked.items.key]
            return Comparison(
                ranked,
                routing.names,
                lambda shown: self._contributions([rows[row] for row in shown], routing),
                lambda one, other: self.held.twins.cosines(rows[one], rows[other]),
            )

        measured = self.held.measured
        return find_hits(
            search, self.query, routing, k, total=len(self), include_self=include_self, measured=lambda _: measured
        )

    def ranked(self, routing: Routing, k: int = 10, *, where: ItemFilter | None = None) -> RankedItems:
        """Return the `k` most similar items, as `Index.search` does, but without their vectors."""
        similarity = np.zeros(len(self))
        for (_, _, weight), cosines in zip(routing.pairs, self._of(routing), strict=True):
            similarity += weight * cosines
        if where is not None:
            similarity[self._excluded_by(where)] = -np.inf
        least = _reached(similarity, k + SPARE) - _TIE
        rows = np.flatnonzero((similarity >= least) & np.isfinite(similarity))
        return RankedItems.best(self.held.items.take(rows), torch.from_numpy(similarity[rows]), k)

    def contributions(self, keys: list[str], routing: Routing) -> dict[str, dict[str, float]]:
        """Return, for those of some items that are held, the contribution of each weighted pair of stems."""
        held = [key for key in keys if key in self.held.rows]
        values = self._contributions([self.held.rows[key] for key in held], routing).tolist()
        return {key: dict(zip(routing.names, row, strict=True)) for key, row in zip(held, values, strict=True)}

    def _contributions(self, rows: list[int], routing: Routing) -> Tensor:
        """Return `(item, pair)` in the order of the routing's pairs."""
        cosines = np.stack([of_pair[rows] for of_pair in self._of(routing)], axis=1)  # (item, pair)
        weights = torch.tensor([weight for _, _, weight in routing.pairs], dtype=torch.float64)
        return weights * torch.from_numpy(cosines)

    def _of(self, routing: Routing) -> list[FloatArray]:
        """Return the cosines `(item,)` of each of the routing's pairs, reading the index for those not held yet."""
        stems = self.held.items.stems.index
        pairs = [(stems(query), stems(library)) for query, library, _ in routing.pairs]
        if missing := [pair for pair in pairs if pair not in self._cosines]:
            read = np.zeros((len(missing), len(self)))
            for items in self._index.scan():
                kept = [row for row, key in enumerate(items.key) if key in self.held.rows]
                rows = [self.held.rows[items.key[row]] for row in kept]
                read[:, rows] = _cosines(self.query, items.take(kept), missing)
            self._cosines |= zip(missing, read, strict=True)
        return [self._cosines[pair] for pair in pairs]

    def _excluded_by(self, where: ItemFilter) -> BoolArray:
        """Return the items `(item,)` that fail the conditions, which seldom change from move to move."""
        last, excluded = self._excluded
        if last != where:
            excluded = ~where.mask(self.held.items)
            self._excluded = (where, excluded)
        return excluded


def _reached(values: FloatArray, count: int) -> float:
    """Return a number that at least `count` values reach, and few more.

    The largest values of small groups are sorted instead of all values: if `count` of those reach it, so do as many
    values.
    """
    if len(values) <= count:
        return -np.inf
    groups = max(len(values) // _GROUP, min(len(values), _GROUPS * count))
    largest = values[: len(values) // groups * groups].reshape(-1, groups).max(axis=0)
    return float(np.partition(largest, groups - count)[groups - count])


def _slider_pairs(stems: StemLayout) -> list[Pair]:
    """Return each stem with the same stem, and with the mix if there is one."""
    same = [(stem, stem) for stem in range(len(stems))]
    with_mix = [(stem, stems.index("mix")) for stem in range(len(stems))] if "mix" in stems else []
    return list(dict.fromkeys(same + with_mix))


def _cosines(query: Query, items: Items, pairs: Sequence[Pair]) -> FloatArray:
    """Return the cosines `(pair, item)` of stems of a query with stems of items."""
    vectors = query.vectors.double()
    return np.stack([(items.vectors[:, library].double() @ vectors[own]).numpy() for own, library in pairs])


class HeldItems:
    """Items without their vectors, which several held queries share.

    Attributes:
        items: The items, with vectors of one component.
        twins: Cosines of windows of the same audio.
        measured: Which tags of each path were measured.
        rows: Row of each key.
    """

    def __init__(self, items: Items, twins: "Twins", measured: dict[str, frozenset[str]]) -> None:
        self.items = items
        self.twins = twins
        self.measured = measured
        self.rows = {key: row for row, key in enumerate(items.key)}


@dataclass(frozen=True, slots=True, eq=False)
class Twins:
    """Cosines of the windows of the same audio that may be folded: only of pairs that are that close in some stem."""

    pairs: npt.NDArray[np.int64]  # `(pair,)` smaller row * number of items + larger row, sorted
    stem_cosines: Tensor  # `(pair, stem)` float64
    items: int

    @classmethod
    def of(cls, index: Index, items: Items) -> "Twins":
        """Compare all windows of each audio; memory is needed for those that nearly coincide in some stem."""
        pairs, cosines = [np.zeros(0, np.int64)], [np.zeros((0, len(items.stems)))]
        for rows, vectors in _audio(index, items):
            content = items.content[rows]
            for lag in range(1, len(rows)):
                same = content[:-lag] == content[lag:]
                if not same.any():
                    break
                close = np.einsum("isd,isd->is", vectors[:-lag], vectors[lag:])
                near = same & (close >= FOLD).any(axis=1)
                pairs.append(rows[:-lag][near] * len(items) + rows[lag:][near])
                cosines.append(close[near])
        joined = np.concatenate(pairs)
        order = np.argsort(joined)
        return cls(joined[order], torch.from_numpy(np.concatenate(cosines)[order]), len(items))

    def cosines(self, one: int, other: int) -> Tensor:
        """Return the cosines `(stem,)` of two windows of the same audio; zeros if no stem is near enough."""
        pair = min(one, other) * self.items + max(one, other)
        place = int(np.searchsorted(self.pairs, pair))
        if place < len(self.pairs) and self.pairs[place] == pair:
            return self.stem_cosines[place]
        return self.stem_cosines.new_zeros(self.stem_cosines.shape[1])


def _audio(index: Index, items: Items) -> Iterator[tuple[npt.NDArray[np.int64], FloatArray]]:
    """Yield the rows and the vectors `(row, stem, dim)` of all windows of some audio, where there are several."""
    _, number, counts = np.unique(items.content.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    audio = [rows for rows in np.split(order, np.cumsum(counts)[:-1]) if len(rows) > 1]
    while audio:
        batch, size = [audio.pop()], 0
        while audio and (size := size + len(batch[-1])) < _AT_ONCE:
            batch.append(audio.pop())
        found = index.items([items.key[row] for rows in batch for row in rows])
        places = {key: place for place, key in enumerate(found.key)}
        kept = [row for rows in batch for row in rows if items.key[row] in places]  # the rest was just removed
        vectors = found.vectors[[places[items.key[row]] for row in kept]]
        yield np.array(kept, np.int64), vectors.double().numpy()
