"""Triplets (x, a, b) with listeners' votes, and where they come from."""

from stemsim.triplets.embedded import EmbeddedTriplets
from stemsim.triplets.inst_sim_abx import InstSimABX
from stemsim.triplets.reader import TripletReader
from stemsim.triplets.same_song import SameSong
from stemsim.triplets.simulated import SimulatedListeners
from stemsim.triplets.table import PERSPECTIVES, QUESTIONS, TARGETS, TEST_TYPES, TargetKind, TestType, Triplets

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
]
