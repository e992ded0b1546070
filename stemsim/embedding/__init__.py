"""Stem embeddings: separate and encode many segments, and keep the result in a store."""

from stemsim.embedding.embedder import StemEmbedder
from stemsim.embedding.store import EmbeddingSpec, EmbeddingStore

__all__ = ["EmbeddingSpec", "EmbeddingStore", "StemEmbedder"]
