"""Recall of an approximate index on a user's own items: the share of the exact answers that it finds."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.retrieval.indexes.base import Index
from stemsim.retrieval.routing import Routing

_SAME: Final = 1e-6  # similarities that differ by less are equal: either item is right


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """Recall of an index of some `items`, asked for `k` of them; `answer` describes the index."""

    frame: pd.DataFrame  # by kind of weights: queries, recall (mean), worst (query), `p50 ms` and `p99 ms` of a search
    k: int
    items: int
    answer: str

    @property
    def sentence(self) -> str:
        """The check in plain words."""
        worst = self.frame.sort_values("recall", kind="stable").iloc[0]
        return (
            f"{self.items} items; {self.answer}. Least recall@{self.k}: {worst['recall']:.4f} "
            f"({worst['weights']} weights)."
        )


def recall_check(index: Index, *, k: int = 50, queries: int = 20, seed: int = 0) -> RecallCheck:
    """Compare the answers of an index with exact ones, for weights of every kind.

    Queries, `queries` for each kind of weights, are items of the index. An item counts as found if it is at least as
    close as the last one of the exact answer.

    Raises:
        ConfigError: If the index is empty, or a number is not positive.
    """
    total = index.count()
    if min(total, k, queries) < 1:
        raise ConfigError(f"A check of recall needs 1 or more items, k and queries; got {total}, {k} and {queries}.")
    rng = np.random.default_rng(seed)
    keys = index.table(["key"])["key"].to_pylist()
    chosen = index.items([keys[row] for row in rng.integers(total, size=queries)])
    kinds, folded = [], []
    for number in range(queries):
        for kind, routing in _routings(index.spec.stems, rng):
            kinds.append(kind)
            folded.append(routing.fold(chosen.vectors[number % len(chosen)]))
    vectors = torch.stack(folded)
    least = _least(index, vectors, min(k, total))
    recalls, times = [], []
    for vector, bound in zip(vectors, least.tolist(), strict=True):
        start = time.perf_counter()
        found = index.search(vector, k)
        times.append(1000.0 * (time.perf_counter() - start))
        recalls.append(float((found.similarity >= bound - _SAME).sum()) / min(k, total))
    searches = pd.DataFrame({"weights": kinds, "recall": recalls, "ms": times}).groupby("weights", sort=False)
    frame = searches.agg(
        queries=("recall", "size"),
        recall=("recall", "mean"),
        worst=("recall", "min"),
        **{"p50 ms": ("ms", "median"), "p99 ms": ("ms", lambda ms: ms.quantile(0.99))},
    ).reset_index()
    return RecallCheck(frame, k, total, index.describe())


def _routings(stems: tuple[str, ...], rng: np.random.Generator) -> Iterator[tuple[str, Routing]]:
    """Yield weights of every kind: random sliders, a single stem, some negative, and stems against other stems."""
    size = len(stems)
    positive = rng.uniform(0.05, 1.0, size)
    one, flipped = (np.arange(size) == rng.integers(size) for _ in range(2))
    kinds = {"random": positive, "single stem": one, "negative": np.where(flipped, -positive, positive)}
    for kind, weights in kinds.items():
        yield kind, Routing(stems, torch.diag(torch.from_numpy(weights).double()))
    yield "cross-stem", Routing(stems, torch.from_numpy(rng.normal(size=(size, size))))


def _least(index: Index, vectors: Tensor, k: int) -> Tensor:
    """Return the similarity of the k-th best item for each vector `(query,)`, by comparing everything."""
    kept = torch.empty(len(vectors), 0, dtype=torch.float64)
    for items in index.scan():
        similarity = vectors @ items.vectors.double().flatten(1).T  # (query, item)
        kept = torch.cat([kept, similarity], dim=1)
        kept, _ = torch.topk(kept, min(k, kept.shape[1]), dim=1)
    return kept[:, -1]
