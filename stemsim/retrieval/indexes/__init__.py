"""Engines that hold the items of a library: LanceDB in the library itself, or a Milvus beside it."""

import os
import re
import secrets
from pathlib import Path, PurePath
from typing import Final

from stemsim.embedding.store import EmbeddingSpec
from stemsim.retrieval.indexes.base import Index, RankedItems

__all__ = ["Index", "RankedItems", "milvus_address", "new_collection", "open_index"]

_OLD_COLLECTION: Final = "stemsim"  # of libraries whose card names none


def milvus_address(uri: str | Path) -> tuple[str, str]:
    """Split the address of a Milvus, `URI` or `URI#collection`, into its URI and its collection, which may be empty.

    A file of milvus-lite is returned by its absolute path.
    """
    text, _, collection = str(uri).partition("#")
    return text if "://" in text else os.path.abspath(Path(text).expanduser()), collection  # noqa: PTH100 - without ..


def new_collection(root: str) -> str:
    """Return a name for the Milvus collection of a new library: its folder's name, and a random number.

    Random, as two machines may have libraries of the same path in one server; the library's card keeps the name, so
    that it stays when the library is opened again or moved.
    """
    folder = re.sub(r"\W", "_", PurePath(root).name, flags=re.ASCII)[:40]
    return f"stemsim_{folder}_{secrets.token_hex(8)}"


def open_index(root: str, spec: EmbeddingSpec, address: str | None, storage_options: dict[str, str] | None) -> Index:
    """Open the index of a library: in the library itself, or in the Milvus whose address its card has.

    The environment variable `MILVUS_TOKEN` is the `user:password` of that Milvus.

    Raises:
        StoreError: If it cannot be opened.
        ConfigError: If it holds embeddings of another specification.
    """
    if address is None:
        from stemsim.retrieval.indexes.lance import LanceIndex

        return LanceIndex(root, spec, storage_options=storage_options)
    from stemsim.retrieval.indexes.milvus import MilvusIndex

    uri, collection = milvus_address(address)
    return MilvusIndex(uri, spec, collection=collection or _OLD_COLLECTION, token=os.environ.get("MILVUS_TOKEN", ""))
