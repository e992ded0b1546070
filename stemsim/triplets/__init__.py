"""Triplets (x, a, b) with listeners' votes, and where they come from."""

from stemsim.triplets.reader import EmbedFunction, TripletReader
from stemsim.triplets.table import PERSPECTIVES, TEST_TYPES, TestType, Triplets

__all__ = ["PERSPECTIVES", "TEST_TYPES", "EmbedFunction", "TestType", "TripletReader", "Triplets"]
