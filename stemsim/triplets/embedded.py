"""Triplets with the stem embeddings of their segments, which every fit starts from, and the interface of readers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import torch
from torch import Tensor

from stemsim.embedding import StemEmbedder
from stemsim.errors import TripletError
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.stems import StemLayout
from stemsim.triplets.table import QUESTIONS, BoolArray, IntArray, TargetKind, Triplets

_AT_ONCE: Final = 1024  # triplets: their embeddings take 30 MB a role, and again in float64


@dataclass(frozen=True, eq=False)
class EmbeddedTriplets:
    """Triplets with the stem embeddings of their segments.

    Attributes:
        embeddings: Stem embeddings of `triplets.segments`, in that order.
        stems: Stem layout of the embeddings.
    """

    triplets: Triplets
    embeddings: StemEmbeddings
    stems: StemLayout

    def __post_init__(self) -> None:
        """Verify that there is one embedding for each segment and stem."""
        expected, seen = (len(self.triplets.segments), len(self.stems)), tuple(self.embeddings.vectors.shape[:2])
        if seen != expected:
            raise TripletError(
                f"Expected embeddings of {expected[0]} segments and {expected[1]} stems ({', '.join(self.stems)}); got "
                f"{seen[0]} and {seen[1]}. Embed `triplets.segments` with a separator of that stem layout."
            )

    @classmethod
    def of(cls, triplets: Triplets, embedder: StemEmbedder) -> Self:
        """Embed the segments of a triplet table."""
        return cls(triplets, embedder.embed(triplets.segments), embedder.stems)

    def __len__(self) -> int:
        return len(self.triplets)

    @cached_property
    def members(self) -> Tensor:
        """`(3, triplet)` rows of X, A and B in the embeddings."""
        return torch.from_numpy(self.triplets.members.T)

    @cached_property
    def deltas(self) -> Tensor:
        """`(triplet, stem)` stem features delta_i = cos(X_i, A_i) - cos(X_i, B_i), float64 (paper, section 3.4)."""
        rows = torch.split(torch.arange(len(self)), _AT_ONCE)
        return torch.cat([stem_deltas(*self.roles(some)) for some in rows])

    def roles(self, rows: Tensor | None = None) -> tuple[StemEmbeddings, StemEmbeddings, StemEmbeddings]:
        """Return the embeddings of X, A and B of all triplets, or of some rows `(n,)`."""
        members = self.members if rows is None else self.members[:, rows]
        x, a, b = (self.embeddings.take(one) for one in members)
        return x, a, b

    def target(self, kind: TargetKind = "majority") -> Tensor:
        """Return the target of a fit `(triplet,)`, float64; see `Triplets.target`."""
        return torch.from_numpy(self.triplets.target(kind))

    def vote_weights(self) -> Tensor:
        """Return the number of votes of each triplet over its mean `(triplet,)`; see `Triplets.vote_weights`."""
        return torch.from_numpy(self.triplets.vote_weights())

    def select(self, rows: IntArray | BoolArray | Sequence[int]) -> Self:
        """Return some triplets, by index or mask, with the embeddings that they use."""
        chosen = self.triplets.select(rows)
        place = {segment: index for index, segment in enumerate(self.triplets.segments)}
        used = torch.tensor([place[segment] for segment in chosen.segments], dtype=torch.long)
        return type(self)(chosen, self.embeddings.take(used), self.stems)


class TripletReader(ABC):
    """Source of a triplet table: a listening test, songs alone, or simulated listeners. Subclasses implement `read`."""

    @abstractmethod
    def read(self) -> Triplets:
        """Return the triplets, each with a majority; simulated listeners vote only when the segments are embedded."""

    def read_questions(self) -> dict[str, Triplets]:
        """Return the triplets by the question that listeners answered, each table with the votes on that question.

        A reader that chooses triplets by their votes chooses each table by its own. This default takes the triplets of
        `read`, without those on which nobody answered the question. `overall` comes first.
        """
        table = self.read()
        about = {question: table.about(question).filter() for question in QUESTIONS}
        return {question: one for question, one in about.items() if len(one)}

    def embed(self, embedder: StemEmbedder, check: Callable[[Triplets], None] | None = None) -> EmbeddedTriplets:
        """Return the triplets of `read` with the stem embeddings of their segments.

        `check` is called as soon as the votes are known, to refuse triplets before they are embedded.
        """
        triplets = self.read()
        if check is not None:
            check(triplets)
        return EmbeddedTriplets.of(triplets, embedder)

    def embed_questions(self, embedder: StemEmbedder) -> dict[str, EmbeddedTriplets]:
        """Return the tables of `read_questions` with the stem embeddings of their segments."""
        tables = self.read_questions()
        segments = tuple(dict.fromkeys(segment for table in tables.values() for segment in table.segments))
        row = {segment: index for index, segment in enumerate(segments)}
        embeddings = embedder.embed(segments)  # each distinct segment once
        found = {}
        for name, table in tables.items():
            rows = torch.tensor([row[segment] for segment in table.segments])
            found[name] = EmbeddedTriplets(table, embeddings.take(rows), embedder.stems)
        return found
