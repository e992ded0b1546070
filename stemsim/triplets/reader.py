"""What every reader of triplets is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from stemsim.audio import Segment
from stemsim.similarity import StemEmbeddings
from stemsim.triplets.table import Triplets

__all__ = ["EmbedFunction", "TripletReader"]

EmbedFunction = Callable[[Sequence[Segment]], StemEmbeddings]
"""From segments to their stem embeddings, in the same order."""


class TripletReader(ABC):
    """Makes a triplet table: from a listening test, from songs alone, or from simulated listeners."""

    @abstractmethod
    def read(self, embed: EmbedFunction) -> Triplets:
        """Return the triplets.

        Args:
            embed: Embeds segments; only simulated listeners, who vote by what they hear, call it.
        """
