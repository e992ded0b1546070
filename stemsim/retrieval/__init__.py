"""Libraries of loops, samples and songs, searched by stem, by words, and by tags of the files."""

from typing import TYPE_CHECKING

from stemsim.lazy import lazy_names

if TYPE_CHECKING:
    from stemsim.retrieval.filter import ItemFilter
    from stemsim.retrieval.hits import Hit
    from stemsim.retrieval.indexing.adding import AddReport
    from stemsim.retrieval.indexing.ray import RayEngine
    from stemsim.retrieval.library import Library
    from stemsim.retrieval.routing import Routing

__all__ = ["AddReport", "Hit", "ItemFilter", "Library", "RayEngine", "Routing"]

# So that a search does not import what adds files.
__getattr__ = lazy_names(
    __name__,
    {
        "AddReport": "indexing.adding",
        "Hit": "hits",
        "ItemFilter": "filter",
        "Library": "library",
        "RayEngine": "indexing.ray",
        "Routing": "routing",
    },
    together=False,
)
