"""Hits: items that a search shows, with contributions, near-identical ones folded into the best."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from stemsim.errors import ConfigError
from stemsim.retrieval.indexes.base import RankedItems
from stemsim.retrieval.items import TYPES, Items
from stemsim.retrieval.query import Query
from stemsim.retrieval.routing import Routing
from stemsim.similarity import StemEmbeddings

if TYPE_CHECKING:
    from stemsim.fusion import Fusion

Measured = Callable[[list[str]], Mapping[str, frozenset[str]]]  # which tags of each of some paths were measured

FOLD: Final = 0.95
"""Mean cosine of the stems from which two windows of the same audio count as one."""

_OVERLAP: Final = 0.5  # of the shorter window, from which two count as one
_PLAIN: Final = ("key", "start", "duration", "file_duration", "loudness")  # columns that a hit has as they are
_SPARE: Final = 4  # times as many items as hits are searched first, since some are folded into others


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that a search found.

    Attributes:
        key: Name of the item in the library.
        path: The file.
        start: Where the item begins in it, in seconds.
        duration: Its length in seconds.
        similarity: Its similarity to the query; higher is closer.
        contributions: Share of each weighted pair of stems in the similarity, by `drums` or `drums:mix`
            (query:library); they sum to it.
        stems: The stems that sound in it.
        file_duration: Length of the file in seconds.
        categories: Some of `CATEGORIES`, guessed from the path; empty if unknown.
        type: One of `TYPES`; None if unknown.
        bpm: Tempo; None if unknown.
        musical_key: `A minor`, or a note alone; None if unknown.
        loudness: Level of the mix in dBFS (root mean square, a full-scale sine having -3).
        measured: Which of `bpm` and `musical_key` were measured in the audio; the others are from file names.
        folded: Number of near-identical windows of the same audio that this one stands for, besides itself.
        also: Other files with the same content.
        fusion: Class of the nonlinear fusion that similarity and contributions are of; None: the weighted sum.
    """

    key: str
    path: Path
    start: float
    duration: float
    similarity: float
    contributions: Mapping[str, float]
    stems: tuple[str, ...]
    file_duration: float
    categories: tuple[str, ...]
    type: str | None
    bpm: float | None
    musical_key: str | None
    loudness: float
    measured: frozenset[str] = frozenset()
    folded: int = 0
    also: tuple[Path, ...] = ()
    fusion: str | None = None

    @property
    def end(self) -> float:
        """End of the item in its file, in seconds."""
        return self.start + self.duration

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, for JSON for instance."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            **values,
            "path": str(self.path),
            "contributions": dict(self.contributions),
            "stems": list(self.stems),
            "categories": list(self.categories),
            "measured": sorted(self.measured),
            "also": list(map(str, self.also)),
        }


def rerank(found: RankedItems, query: Query, fusion: "Fusion") -> RankedItems:
    """Rank the candidates of a search again, by a fusion instead of the weighted sum.

    Raises:
        ConfigError: If the fusion needs the levels of candidates' stems, which a library does not keep.
    """
    similarity = _fused(found.items, query, fusion).sum(dim=1)
    return RankedItems.best(found.items, similarity, len(found))


def _fused(items: Items, query: Query, fusion: "Fusion") -> Tensor:
    """Return the contributions `(item, stem)` of a fusion; items have no levels, which are NaN here."""
    count = len(items)
    unknown = torch.full((count, len(items.stems)), torch.nan)
    levels = unknown if query.levels is None else query.levels.expand(count, -1)
    asked = StemEmbeddings(query.vectors.expand(count, -1, -1), levels, query.present.expand(count, -1))
    candidates = StemEmbeddings(items.vectors, unknown, torch.from_numpy(items.present))
    with torch.inference_mode():
        contributions = fusion.contributions(asked, candidates)
    if not bool(torch.isfinite(contributions).all()):
        raise ConfigError(
            f"The fusion {type(fusion).__name__} gives similarities that are not finite. A library keeps no levels of "
            "its items' stems, so that a fusion can use those of the query alone; search with weights (equal, or "
            "sliders)."
        )
    return contributions


class Comparison(NamedTuple):
    """A ranking, and what its items are compared by: vectors, or cosines that were computed before."""

    ranked: RankedItems
    names: tuple[str, ...]  # of the contributions
    contributions: Callable[[list[int]], Tensor]  # of some of the items `(item, name)`
    cosines: Callable[[int, int], Tensor]  # of the stems of two of the items `(stem,)`


def compare_vectors(ranked: RankedItems, query: Query, routing: Routing, fusion: "Fusion | None") -> Comparison:
    """Compare items that have vectors."""
    items = ranked.items
    vectors = items.vectors

    def contributions(rows: list[int]) -> Tensor:
        if fusion is None:
            return routing.contributions(query.vectors, vectors[rows])
        return _fused(items.take(rows), query, fusion)

    def cosines(one: int, other: int) -> Tensor:
        return (vectors[one].double() * vectors[other].double()).sum(dim=1)

    return Comparison(ranked, routing.names if fusion is None else fusion.stems, contributions, cosines)


def find_hits(
    search: Callable[[int], Comparison],
    query: Query,
    routing: Routing,
    k: int,
    *,
    total: int,
    measured: Measured,
    wanted: int = 0,
    fusion: str | None = None,
    include_self: bool = False,
    fold: float = FOLD,
) -> list[Hit]:
    """Search more and more items until `k` hits are left after folding, best first.

    Args:
        search: Returns a number of the most similar items.
        query: The query, in whose own audio nothing that overlaps it is a hit.
        routing: Weights of the search.
        k: Most hits.
        total: Number of items.
        measured: Returns which tags of some paths were measured, see `Hit.measured`.
        wanted: Items to search first, if more than four for each hit.
        fusion: Class of the nonlinear fusion that ranks, if one does.
        include_self: Let the query find itself.
        fold: Mean cosine from which windows of the same audio count as one.
    """
    wanted = max(wanted, _SPARE * k)
    compared = sorted({routing.stems.index(library) for _, library, _ in routing.pairs})
    while True:
        found = search(max(1, min(wanted, total)))
        folds = _folded(found, query, compared, fold, include_self=include_self)
        if len(folds) >= k or len(found.ranked) < wanted or wanted >= total:
            return _hits(found, dict(list(folds.items())[:k]), fusion, measured)
        wanted *= _SPARE


def _folded(
    found: Comparison, query: Query, compared: Sequence[int], fold: float, *, include_self: bool
) -> dict[int, list[int]]:
    """Return the rows to show, best first, each with those that it stands for.

    Left out is what overlaps the query in the very audio that it was cut from. Of windows of the same audio that
    overlap by half, or nearly coincide in the compared stems, the best stands for all.
    """
    items = found.ranked.items
    folds: dict[int, list[int]] = {}
    shown: dict[str, list[int]] = defaultdict(list)  # by content
    places = zip(items.content.tolist(), items.start.tolist(), items.end.tolist(), strict=True)
    for row, (content, start, end) in enumerate(places):
        if not include_self and query.overlaps(content, start, end):
            continue
        best = next((other for other in shown[content] if _coincide(found, other, row, compared, fold)), None)
        if best is None:
            shown[content].append(row)
            folds[row] = []
        else:
            folds[best].append(row)
    return folds


def _hits(found: Comparison, folds: Mapping[int, list[int]], fusion: str | None, measured: Measured) -> list[Hit]:
    rows = list(folds)
    items, shown = found.ranked.items, found.ranked.items.take(rows)
    similarity, contributions = found.ranked.similarity[rows].tolist(), found.contributions(rows).tolist()
    # As lists, since NumPy's numbers are slow one by one.
    columns = (getattr(shown, name).tolist() for name in _PLAIN)
    plain = [dict(zip(_PLAIN, row, strict=True)) for row in zip(*columns, strict=True)]
    paths, tempi, present = shown.path.tolist(), shown.bpm.tolist(), shown.present.tolist()
    known = measured(paths)
    hits = []
    for place, path in enumerate(paths):
        others = [items.path[other] for other in folds[rows[place]]]
        tags = shown.tags[place]
        hits.append(
            Hit(
                **plain[place],
                path=Path(path),
                similarity=similarity[place],
                contributions=dict(zip(found.names, contributions[place], strict=True)),
                stems=tuple(compress(shown.stems, present[place])),
                categories=tuple(tag for tag in tags if tag not in TYPES),
                type=next((tag for tag in tags if tag in TYPES), None),
                bpm=None if math.isnan(tempi[place]) else tempi[place],
                musical_key=shown.musical_key[place] or None,
                measured=known.get(path, frozenset()),
                folded=others.count(path),
                also=tuple(Path(other) for other in dict.fromkeys(others) if other != path),
                fusion=fusion,
            )
        )
    return hits


def _coincide(found: Comparison, one: int, other: int, compared: Sequence[int], fold: float) -> bool:
    """Return whether two windows of the same audio count as one."""
    items = found.ranked.items
    overlap = min(items.end[one], items.end[other]) - max(items.start[one], items.start[other])
    if overlap >= _OVERLAP * min(items.duration[one], items.duration[other]):
        return True
    both = [stem for stem in compared if items.present[one, stem] or items.present[other, stem]]
    return not both or bool(found.cosines(one, other)[both].mean() >= fold)
