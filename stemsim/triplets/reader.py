"""What every reader of triplets is."""

from abc import ABC, abstractmethod

from stemsim.embedding import StemEmbedder
from stemsim.triplets.table import Triplets

__all__ = ["TripletReader"]


class TripletReader(ABC):
    """Makes a triplet table: from a listening test, from songs alone, or from simulated listeners."""

    @abstractmethod
    def read(self, embedder: StemEmbedder) -> Triplets:
        """Return the triplets.

        Args:
            embedder: Embeds segments; only simulated listeners, who vote by what they hear, use it.
        """
