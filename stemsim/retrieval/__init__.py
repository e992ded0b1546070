"""Libraries of loops, samples and songs, searched by stem, by words, and by what is known of the files."""

from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.hits import Hit
from stemsim.retrieval.library import Library
from stemsim.retrieval.report import AddReport
from stemsim.retrieval.routing import Routing

__all__ = ["AddReport", "Hit", "ItemFilter", "Library", "Routing"]
