"""Readers of triplets: where triplets and votes come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from stemsim.embedding import StemEmbedder
from stemsim.triplets.embedded import EmbeddedTriplets
from stemsim.triplets.table import QUESTIONS, Triplets

__all__ = ["TripletReader"]


class TripletReader(ABC):
    """Source of a triplet table: a listening test, songs alone, or simulated listeners. Subclasses implement `read`."""

    @abstractmethod
    def read(self) -> Triplets:
        """Return the triplets, each with a majority; simulated listeners vote only when the segments are embedded."""

    def read_questions(self) -> dict[str, Triplets]:
        """Return the triplets by the question that listeners answered, each table with the votes on that question.

        A reader that chooses triplets by their votes chooses each table by its own. This default takes the triplets of
        `read`, without those on which nobody answered the question.

        Returns:
            Tables by question, `overall` first.
        """
        table = self.read()
        about = {question: table.about(question).filter() for question in QUESTIONS}
        return {question: one for question, one in about.items() if len(one)}

    def embed(self, embedder: StemEmbedder, check: Callable[[Triplets], None] | None = None) -> EmbeddedTriplets:
        """Return the triplets of `read` with the stem embeddings of their segments.

        Args:
            embedder: Embeds the segments.
            check: Called with the triplets as soon as their votes are known, to refuse them before they are embedded.
        """
        triplets = self.read()
        if check is not None:
            check(triplets)
        return EmbeddedTriplets.of(triplets, embedder)

    def embed_questions(self, embedder: StemEmbedder) -> dict[str, EmbeddedTriplets]:
        """Return the tables of `read_questions` with the stem embeddings of their segments."""
        return EmbeddedTriplets.of_tables(self.read_questions(), embedder)
