"""Engines that hold the items of a library: LanceDB in the library itself, or a Milvus beside it."""

import os
import re
import secrets
from pathlib import Path, PurePath
from typing import Final

from stemsim.embedding.store import EmbeddingSpec
from stemsim.retrieval.catalogue import absolute
from stemsim.retrieval.indexes.base import Index, RankedItems

__all__ = ["Index", "RankedItems", "milvus_address", "new_collection", "open_index"]

_OLD_COLLECTION: Final = "stemsim"  # of libraries whose card names none


def milvus_address(uri: str | Path) -> tuple[str, str]:
    """Split the address of a Milvus, `URI` or `URI#collection`, in two; a file of milvus-lite gets an absolute path."""
    text, _, collection = str(uri).partition("#")
    return text if "://" in text else str(absolute(text)), collection


def new_collection(root: str) -> str:
    """Return a name for the Milvus collection of a new library, whose card keeps it: its folder's, and a random number.

    Two machines may have libraries of the same path in one server.
    """
    folder = re.sub(r"\W", "_", PurePath(root).name, flags=re.ASCII)[:40]
    return f"stemsim_{folder}_{secrets.token_hex(8)}"


def open_index(root: str, spec: EmbeddingSpec, address: str | None, storage_options: dict[str, str] | None) -> Index:
    """Open the index of a library: in the library itself, or in the Milvus whose address its card has.

    The environment variable `MILVUS_TOKEN` is the `user:password` of that Milvus.
    """
    if address is None:
        from stemsim.retrieval.indexes.lance import LanceIndex

        return LanceIndex(root, spec, storage_options=storage_options)
    from stemsim.retrieval.indexes.milvus import MilvusIndex

    uri, collection = milvus_address(address)
    return MilvusIndex(uri, spec, collection=collection or _OLD_COLLECTION, token=os.environ.get("MILVUS_TOKEN", ""))
