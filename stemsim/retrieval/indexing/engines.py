"""Engines: where files are prepared and embedded, in this process or elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from stemsim.embedding import StemEmbedder
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.indexing.embedding import EmbeddedFile, embed_files
from stemsim.retrieval.indexing.finding import Failure, FoundFile
from stemsim.retrieval.indexing.preparing import PreparedFile, Touched, prepare_files

__all__ = ["Engine", "Extraction", "LocalEngine"]


class Extraction(Protocol):
    """Prepares and embeds the files of one library."""

    def prepare(self, files: Sequence[FoundFile]) -> Iterator[PreparedFile | Touched | Failure]:
        """Yield each file hashed, tagged and cut, or why it cannot be read."""

    def embed(self, files: Iterable[PreparedFile]) -> Iterator[EmbeddedFile | Failure]:
        """Yield each file with its embeddings, in any order, or why it cannot be embedded."""


class Engine(Protocol):
    """Starts extractions, such as on a cluster."""

    @contextmanager
    def started(self, card: LibraryCard, *, listen: bool) -> Iterator[Extraction]:
        """Start an extraction for a library, and stop it in the end.

        Args:
            card: How the library is made.
            listen: Whether to measure tempo and key.
        """


class LocalEngine:
    """Prepares and embeds files in this process, with an embedder."""

    def __init__(self, embedder: StemEmbedder) -> None:
        self._embedder = embedder

    @contextmanager
    def started(self, card: LibraryCard, *, listen: bool) -> Iterator[Extraction]:
        """Yield the extraction for a library."""
        yield _LocalExtraction(self._embedder, card, listen)


class _LocalExtraction:
    def __init__(self, embedder: StemEmbedder, card: LibraryCard, listen: bool) -> None:
        self._embedder = embedder
        self._windowing = card.windowing
        self._listen = listen

    def prepare(self, files: Sequence[FoundFile]) -> Iterator[PreparedFile | Touched | Failure]:
        source, workers = self._embedder.source, self._embedder.workers
        return prepare_files(files, source, self._windowing, listen=self._listen, workers=workers)

    def embed(self, files: Iterable[PreparedFile]) -> Iterator[EmbeddedFile | Failure]:
        return embed_files(files, self._embedder, self._windowing)
