"""Libraries of loops, samples and songs, searched by stem, by words, and by tags of the files."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stemsim.retrieval.filter import ItemFilter
    from stemsim.retrieval.hits import Hit
    from stemsim.retrieval.indexing.adding import AddReport
    from stemsim.retrieval.indexing.ray import RayEngine
    from stemsim.retrieval.library import Library
    from stemsim.retrieval.routing import Routing

__all__ = ["AddReport", "Hit", "ItemFilter", "Library", "RayEngine", "Routing"]

# Imported on first use, so that a search does not import what adds files.
_LAZY: Final = {
    "AddReport": "stemsim.retrieval.indexing.adding",
    "Hit": "stemsim.retrieval.hits",
    "ItemFilter": "stemsim.retrieval.filter",
    "Library": "stemsim.retrieval.library",
    "RayEngine": "stemsim.retrieval.indexing.ray",
    "Routing": "stemsim.retrieval.routing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LAZY[name]), name)
