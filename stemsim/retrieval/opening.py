"""Opening the engine that holds the items of a library."""

import os
from pathlib import Path
from typing import Final

from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.index import Index, IndexSpec
from stemsim.retrieval.lance_index import LanceIndex
from stemsim.retrieval.milvus_index import MilvusIndex

__all__ = ["index_address", "open_index"]

_COLLECTION: Final = "stemsim"
_TOKEN: Final = "MILVUS_TOKEN"  # noqa: S105 - the name of an environment variable


def index_address(uri: str | Path) -> str:
    """Return the address of a Milvus engine as a library keeps it: a local file by its absolute path.

    Args:
        uri: `http://host:19530`, or a file of milvus-lite; with `#name` for a collection other than `stemsim`.
    """
    text = str(uri)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def open_index(root: str, card: LibraryCard, *, storage_options: dict[str, str] | None = None) -> Index:
    """Open what holds the items of a library.

    Args:
        root: Folder or URI of the library.
        card: Its card.
        storage_options: Endpoint, keys and so on of an object storage.

    Returns:
        LanceDB in the library itself, or the Milvus that the card names; `MILVUS_TOKEN` is its `user:password`.

    Raises:
        StoreError: If it cannot be opened.
    """
    spec = IndexSpec(card.stems, card.dim, str(card.encoder.identity), str(card.separator.identity))
    if card.index is None:
        return LanceIndex(root, spec, storage_options=storage_options)
    uri, _, collection = card.index.partition("#")
    return MilvusIndex(uri, spec, collection=collection or _COLLECTION, token=os.environ.get(_TOKEN, ""))
