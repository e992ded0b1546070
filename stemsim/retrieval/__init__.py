"""Libraries of loops, samples and songs, searched by stem, by words, and by what is known of the files."""

import os

from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.hits import Hit
from stemsim.retrieval.library import Library
from stemsim.retrieval.ray_engine import RayEngine
from stemsim.retrieval.report import AddReport
from stemsim.retrieval.routing import Routing

__all__ = ["AddReport", "Hit", "ItemFilter", "Library", "RayEngine", "Routing"]

os.environ.setdefault("LANCE_LOG", "error")  # LanceDB warns of what it does of its own accord
