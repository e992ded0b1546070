"""Where the work of adding files is done: in this process, or elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from stemsim.embedding import StemEmbedder
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.embedding_files import EmbeddedFile, embed_files
from stemsim.retrieval.files import Failure, FoundFile, PreparedFile, Touched, prepare_files
from stemsim.retrieval.windows import Windowing

__all__ = ["Engine", "Extraction", "LocalExtraction"]


class Extraction(Protocol):
    """Prepares and embeds files."""

    def prepare(self, files: Sequence[FoundFile]) -> Iterator[PreparedFile | Touched | Failure]:
        """Yield each file hashed, described and cut, or why it cannot be read."""

    def embed(self, files: Iterable[PreparedFile]) -> Iterator[EmbeddedFile | Failure]:
        """Yield each file with its embeddings, in any order, or why it cannot be embedded."""


class Engine(Protocol):
    """Starts extractions elsewhere, such as on a cluster."""

    def started(self, card: LibraryCard, *, listen: bool) -> AbstractContextManager[Extraction]:
        """Start an extraction for a library.

        Args:
            card: How the library is made.
            listen: Whether to measure tempo and key.
        """


class LocalExtraction:
    """Prepares and embeds files in this process.

    Args:
        embedder: Separates and embeds them.
        windowing: How they are cut.
        listen: Whether to measure tempo and key.
    """

    def __init__(self, embedder: StemEmbedder, windowing: Windowing, *, listen: bool) -> None:
        self._embedder = embedder
        self._windowing = windowing
        self._listen = listen

    def prepare(self, files: Sequence[FoundFile]) -> Iterator[PreparedFile | Touched | Failure]:
        """Yield each file hashed, described and cut, or why it cannot be read."""
        source, workers = self._embedder.source, self._embedder.workers
        return prepare_files(files, source, self._windowing, listen=self._listen, workers=workers)

    def embed(self, files: Iterable[PreparedFile]) -> Iterator[EmbeddedFile | Failure]:
        """Yield each file with its embeddings, or why it cannot be embedded."""
        return embed_files(files, self._embedder, self._windowing)
