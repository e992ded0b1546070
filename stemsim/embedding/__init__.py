"""Stem embeddings: separator x encoder over many segments, kept in a store by content."""

from stemsim.embedding.embedder import StemEmbedder
from stemsim.embedding.store import EmbeddingSpec, EmbeddingStore

__all__ = ["EmbeddingSpec", "EmbeddingStore", "StemEmbedder"]
