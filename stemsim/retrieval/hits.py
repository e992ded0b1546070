"""What a search finds: items with the reasons why, near-identical ones folded into the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from stemsim.retrieval.index import Hits
from stemsim.retrieval.item import Items
from stemsim.retrieval.query import Query
from stemsim.retrieval.routing import Routing

__all__ = ["FOLD", "Hit", "fold_hits"]

FOLD: Final = 0.95
"""Mean cosine of the stems from which two windows of the same audio count as one."""

_OVERLAP: Final = 0.5  # of the shorter window, from which two count as one


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that a search found.

    Attributes:
        path: The file.
        start: Where the item begins in it, in seconds.
        duration: Its length in seconds.
        similarity: Its similarity to the query; higher is closer.
        contributions: What each weighted pair of stems adds to it, by `drums` or `drums:mix` (query:library).
        stems: The stems that sound in it.
        file_duration: Length of the file in seconds.
        category: Guessed from the path; None if no word of it names one.
        bpm: Tempo; None if it is not known.
        musical_key: `A minor`, or a note alone; None if it is not known.
        loudness: Level of the mix in dBFS (root mean square, a full-scale sine having -3).
        measured: Which of `bpm` and `musical_key` were measured in the audio; the others are from file names.
        folded: Number of near-identical windows of the same audio that this one stands for, besides itself.
        also: Other files with the same content.
    """

    path: Path
    start: float
    duration: float
    similarity: float
    contributions: Mapping[str, float]
    stems: tuple[str, ...]
    file_duration: float
    category: str | None
    bpm: float | None
    musical_key: str | None
    loudness: float
    measured: frozenset[str] = frozenset()
    folded: int = 0
    also: tuple[Path, ...] = ()

    @property
    def end(self) -> float:
        """Where it ends in the file, in seconds."""
        return self.start + self.duration

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dictionaries and lists, for JSON for instance."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            **values,
            "path": str(self.path),
            "contributions": dict(self.contributions),
            "stems": list(self.stems),
            "measured": sorted(self.measured),
            "also": [str(path) for path in self.also],
        }


@dataclass(slots=True)
class _Fold:
    """A row that is shown, and those that it stands for."""

    row: int
    folded: int = 0
    also: dict[str, None] = field(default_factory=dict)


def fold_hits(found: Hits, query: Query, routing: Routing, *, include_self: bool, fold: float = FOLD) -> list[Hit]:
    """Turn the answer of an index into what is shown.

    Left out is what overlaps the query in the very audio that it was cut from. Of windows of the same audio that
    overlap by half, or all but coincide in what is compared, the best stands for all.

    Args:
        found: Items and similarities, the best first.
        query: What was searched with.
        routing: How.
        include_self: Leave the query's own audio in.
        fold: Mean cosine, over the stems compared, from which two windows count as one.

    Returns:
        The hits, the best first.
    """
    items = found.items
    compared = sorted({routing.stems.index(library) for _, library, _ in routing.pairs})
    folds: list[_Fold] = []
    for row in range(len(items)):
        start, end = float(items.start[row]), float(items.end[row])
        if not include_self and query.overlaps(items.content[row], start, end):
            continue
        same = [other for other in folds if items.content[other.row] == items.content[row]]
        best = next((other for other in same if _coincide(items, other.row, row, compared, fold)), None)
        if best is None:
            folds.append(_Fold(row))
        elif items.path[best.row] == items.path[row]:
            best.folded += 1
        else:
            best.also[items.path[row]] = None
    return _hits(found, query.vectors, routing, folds)


def _coincide(items: Items, one: int, other: int, compared: Sequence[int], fold: float) -> bool:
    """Tell whether two windows of the same audio count as one."""
    overlap = min(items.end[one], items.end[other]) - max(items.start[one], items.start[other])
    if overlap >= _OVERLAP * min(items.duration[one], items.duration[other]):
        return True
    both = [stem for stem in compared if items.present[one, stem] or items.present[other, stem]]
    if not both:
        return True
    cosines = (items.vectors[one, both].double() * items.vectors[other, both].double()).sum(dim=1)
    return bool(cosines.mean() >= fold)


def _hits(found: Hits, query: Tensor, routing: Routing, folds: Sequence[_Fold]) -> list[Hit]:
    rows = np.array([fold.row for fold in folds], dtype=np.int64)
    items = found.items.take(rows)
    names = [query if query == library else f"{query}:{library}" for query, library, _ in routing.pairs]
    contributions = routing.contributions(query, items.vectors).tolist()
    similarity = found.similarity[torch.from_numpy(rows)].tolist()
    return [
        replace(
            _hit(items, place, similarity[place], dict(zip(names, contributions[place], strict=True))),
            folded=fold.folded,
            also=tuple(Path(path) for path in fold.also),
        )
        for place, fold in enumerate(folds)
    ]


def _hit(items: Items, row: int, similarity: float, contributions: Mapping[str, float]) -> Hit:
    bpm = float(items.bpm[row])
    return Hit(
        path=Path(items.path[row]),
        start=float(items.start[row]),
        duration=float(items.duration[row]),
        similarity=similarity,
        contributions=contributions,
        stems=tuple(stem for stem, sounds in zip(items.stems, items.present[row].tolist(), strict=True) if sounds),
        file_duration=float(items.file_duration[row]),
        category=items.category[row] or None,
        bpm=None if np.isnan(bpm) else bpm,
        musical_key=items.musical_key[row] or None,
        loudness=float(items.loudness[row]),
    )
