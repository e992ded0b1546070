"""Triplets (x, a, b) with listeners' votes, and where they come from."""

from stemsim.triplets.inst_sim_abx import InstSimABX
from stemsim.triplets.reader import TripletReader
from stemsim.triplets.same_song import SameSong
from stemsim.triplets.simulated import SimulatedListeners
from stemsim.triplets.table import PERSPECTIVES, TEST_TYPES, TestType, Triplets

__all__ = [
    "PERSPECTIVES",
    "TEST_TYPES",
    "InstSimABX",
    "SameSong",
    "SimulatedListeners",
    "TestType",
    "TripletReader",
    "Triplets",
]
