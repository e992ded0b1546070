"""What every engine that holds items can do."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from stemsim.errors import ConfigError, StemMismatchError
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.item import Items
from stemsim.stems import StemLayout, check_same_layout

__all__ = ["SPARE", "Hits", "Index", "IndexSpec", "best"]

SPARE: Final = 8  # so many more than asked for are scored again exactly: engines round otherwise


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """How the vectors of an index were made; it travels with the index.

    Attributes:
        stems: Stem layout.
        dim: Length of one vector.
        encoder: Identity of the encoder.
        separator: Identity of the stem source.
    """

    stems: StemLayout
    dim: int
    encoder: str = ""
    separator: str = ""

    @property
    def width(self) -> int:
        """Length of the vectors of all stems, end to end."""
        return len(self.stems) * self.dim

    @property
    def text(self) -> str:
        """The specification as canonical JSON."""
        parts = {"dim": self.dim, "encoder": self.encoder, "separator": self.separator, "stems": list(self.stems)}
        return json.dumps(parts, sort_keys=True)

    def check(self, text: str, where: str) -> None:
        """Verify that an index that was opened is of this kind.

        Args:
            text: What the index says of itself: the text of its specification.
            where: Its name, for the error.

        Raises:
            StemMismatchError: If its stems are others.
            ConfigError: If its encoder, separator or length of vectors is another.
        """
        seen = json.loads(text or "{}")
        stems = tuple(seen.get("stems", ()))
        remedy = "Open it with what it was made with, or make another index."
        if stems != self.stems:
            raise StemMismatchError(self.stems, stems, what=f"the index {where}", remedy=remedy)
        for name in ("encoder", "separator", "dim"):
            expected, found = getattr(self, name), seen.get(name)
            if expected != found:
                msg = f"The index {where} was made with {name} {found!r}, and this is {expected!r}. {remedy}"
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What a search found, the best first.

    Attributes:
        items: The items.
        similarity: `(item,)` float64; higher is closer.
    """

    items: Items
    similarity: Tensor

    def __len__(self) -> int:
        return len(self.items)


class Index(ABC):
    """Items, and a search over them by one folded vector (`Routing.fold`).

    Vectors are kept in float16. Whatever an engine does to be quick, the similarities that a search gives are computed
    again from the vectors that it keeps, in float64, so that all engines give the same.

    Args:
        spec: How the vectors were made.
    """

    def __init__(self, spec: IndexSpec) -> None:
        self.spec = spec

    def upsert(self, items: Items) -> None:
        """Insert items, in one commit where the engine has commits; those with the same key are replaced.

        Args:
            items: The items; where a key comes twice, the last one counts.

        Raises:
            StemMismatchError: If they have other stems.
            ConfigError: If their vectors have another length.
            StoreError: If they cannot be written.
        """
        remedy = "Make another index for such items."
        check_same_layout(self.spec.stems, items.stems, what="the set of items", remedy=remedy)
        if items.dim != self.spec.dim:
            msg = f"The index holds vectors of length {self.spec.dim}; got items of {items.dim}. {remedy}"
            raise ConfigError(msg)
        if len(items):
            self._write(items.distinct())

    @abstractmethod
    def _write(self, items: Items) -> None:
        """Insert items of distinct keys, at least one; those with the same key are replaced."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Drop items.

        Args:
            keys: Their keys; those that are not there do not matter.
        """

    @abstractmethod
    def items(self, keys: Sequence[str]) -> Items:
        """Return the items with some keys, as far as they are there, in no particular order."""

    @abstractmethod
    def table(self, columns: Sequence[str], where: ItemFilter | None = None) -> pa.Table:
        """Return some columns of all items that meet the conditions; those of `Items`, and `has_STEM`.

        Args:
            columns: Their names.
            where: Conditions.
        """

    @abstractmethod
    def scan(self) -> Iterator[Items]:
        """Yield all items, some thousand at a time."""

    @abstractmethod
    def count(self, where: ItemFilter | None = None) -> int:
        """Return the number of items that meet the conditions."""

    @abstractmethod
    def describe(self) -> str:
        """Say how a search is answered: by a scan of everything, or approximately, and how."""

    @abstractmethod
    def optimise(self) -> bool:
        """Merge what commits left, and build or extend the approximate index if it is due; return whether it was."""

    @abstractmethod
    def _candidates(self, vector: Tensor, k: int, where: ItemFilter | None) -> Items:
        """Return the `k` items or more that the engine finds closest to a vector `(stem * dim,)`."""

    def search(self, vector: Tensor, k: int = 10, *, where: ItemFilter | None = None) -> Hits:
        """Return the items of the largest inner product with a vector.

        Args:
            vector: `(stem * dim,)` a folded query.
            k: Number of items.
            where: Conditions that hold within the search, so that `k` items that meet them are found if there are.

        Returns:
            Up to `k` items; of equal similarities the smaller key comes first.

        Raises:
            ConfigError: If the vector has a wrong length or is not finite, or `k` is not positive.
        """
        if vector.shape != (self.spec.width,) or not bool(torch.isfinite(vector).all()) or k < 1:
            msg = (
                f"A search needs a finite vector of length {self.spec.width} ({len(self.spec.stems)} stems x "
                f"{self.spec.dim}) and a positive number of items; got {tuple(vector.shape)} and {k}."
            )
            raise ConfigError(msg)
        found = self._candidates(vector.double(), k + SPARE, where)
        return best(found, found.vectors.double().flatten(1) @ vector.double(), k)


def best(items: Items, similarity: Tensor, k: int) -> Hits:
    """Return the `k` best items, of equal similarities the smaller key first."""
    order = np.lexsort((np.array(items.key, dtype=str), -similarity.numpy()))[:k]
    return Hits(items.take(order), similarity[torch.from_numpy(order)])
