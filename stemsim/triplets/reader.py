"""What every reader of triplets is."""

from abc import ABC, abstractmethod

from stemsim.embedding import StemEmbedder
from stemsim.triplets.table import QUESTIONS, Triplets

__all__ = ["TripletReader"]


class TripletReader(ABC):
    """Makes a triplet table: from a listening test, from songs alone, or from simulated listeners."""

    @abstractmethod
    def read(self, embedder: StemEmbedder) -> Triplets:
        """Return the triplets.

        Args:
            embedder: Embeds segments; only simulated listeners, who vote by what they hear, use it.
        """

    def read_perspectives(self, embedder: StemEmbedder) -> dict[str, Triplets]:
        """Return the triplets by what listeners were asked about them, each table with the votes on that question.

        A reader that chooses triplets by their votes chooses each table by its own; this default has the triplets that
        `read` chose, without those that nobody was asked about.

        Args:
            embedder: Embeds segments.

        Returns:
            Tables by question, `overall` first.
        """
        table = self.read(embedder)
        about = {question: table.about(question) for question in QUESTIONS}
        return {question: one.select(one.votes.any(axis=1)) for question, one in about.items() if one.votes.any()}
