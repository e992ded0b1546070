"""Triplets (x, a, b) with listeners' votes, and the readers that provide them."""

from typing import TYPE_CHECKING

from stemsim.lazy import lazy_names
from stemsim.triplets.table import PERSPECTIVES, QUESTIONS, TARGETS, TEST_TYPES, TargetKind, TestType, Triplets

if TYPE_CHECKING:
    from stemsim.triplets.embedded import EmbeddedTriplets, TripletReader
    from stemsim.triplets.inst_sim_abx import InstSimABX
    from stemsim.triplets.songs import SameSong, SimulatedListeners
    from stemsim.triplets.votes_file import VotesFile

__all__ = [
    "PERSPECTIVES",
    "QUESTIONS",
    "TARGETS",
    "TEST_TYPES",
    "EmbeddedTriplets",
    "InstSimABX",
    "SameSong",
    "SimulatedListeners",
    "TargetKind",
    "TestType",
    "TripletReader",
    "Triplets",
    "VotesFile",
]

_EMBEDDED = dict.fromkeys(("EmbeddedTriplets", "TripletReader"), "embedded")
_SONGS = dict.fromkeys(("SameSong", "SimulatedListeners"), "songs")
_READERS = {"InstSimABX": "inst_sim_abx", "VotesFile": "votes_file"}
__getattr__ = lazy_names(__name__, {**_EMBEDDED, **_SONGS, **_READERS})  # `stemsim votes`: no torch
