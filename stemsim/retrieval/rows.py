"""Items of files: how they are named, and how embedded and copied files become items."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from stemsim.audio import Segment
from stemsim.retrieval.catalogue import FileRecord
from stemsim.retrieval.embedding_files import EmbeddedFile
from stemsim.retrieval.files import PreparedFile
from stemsim.retrieval.item import Items
from stemsim.retrieval.windows import Windowing
from stemsim.stems import StemLayout

__all__ = ["copied", "item_key", "item_keys", "rows_of"]


def item_key(path: str, content: str, start: float, duration: float) -> str:
    """Return the key of an item: its file, the content of its audio, and its place in it.

    The content is part of it so that the items of a new version of a file stand beside the old ones until those go, and
    the path, so that the same audio under two paths is found by the words of either.

    Args:
        path: Absolute path of the file.
        content: Hash of all bytes that the item depends on.
        start: Where it begins, in seconds.
        duration: Its length in seconds.
    """
    place = f"{content}:{start:.6f}:{duration:.6f}:{path}"
    return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


def item_keys(record: FileRecord, windowing: Windowing) -> list[str]:
    """Return the keys of all items that a version of a file may have.

    Args:
        record: The version.
        windowing: How it was cut.
    """
    return [
        item_key(record.path, record.content, start, duration) for start, duration in windowing.spans(record.duration)
    ]


def rows_of(embedded: EmbeddedFile, stems: StemLayout) -> Items:
    """Return the items of a file: the windows in which any stem sounds.

    Args:
        embedded: The file.
        stems: Stem layout of its embeddings.
    """
    sounding = embedded.embeddings.present.any(dim=1)
    embeddings = embedded.embeddings.take(sounding.nonzero().squeeze(1))
    windows = [window for window, sounds in zip(embedded.prepared.windows, sounding.tolist(), strict=True) if sounds]
    loudness = _loudness(embeddings.levels, stems).double().numpy()
    return _rows(embedded.prepared, windows, stems, loudness, embeddings.present, embeddings.vectors)


def _loudness(levels: Tensor, stems: StemLayout) -> Tensor:
    """Return the level `(window,)` of the mix in dBFS; without a mix, that of stems that do not move together."""
    if "mix" in stems:
        return levels[:, stems.index("mix")]
    return 10.0 * torch.log10(torch.pow(10.0, levels / 10.0).sum(dim=1))


def copied(found: Items, prepared: PreparedFile) -> Items:
    """Return the items of a file from those of another one with the same content.

    Args:
        found: Items among which are those of the other file.
        prepared: The file.
    """
    original = [row for row, content in enumerate(found.content) if content == prepared.content]
    # Several files may have that content: of equal places, the first will do.
    places = {round(float(found.start[row]), 6): row for row in reversed(original)}
    windows = [window for window in prepared.windows if round(window.start, 6) in places]
    rows = found.take([places[round(window.start, 6)] for window in windows])
    return _rows(prepared, windows, found.stems, rows.loudness, torch.from_numpy(rows.present), rows.vectors)


def _rows(
    prepared: PreparedFile,
    windows: list[Segment],
    stems: StemLayout,
    loudness: np.ndarray[tuple[int], np.dtype[np.float64]],
    present: Tensor,
    vectors: Tensor,
) -> Items:
    """Return items of windows `(window,)` with the metadata of their file."""
    path, content, metadata = str(prepared.file.path), prepared.content, prepared.metadata
    count = len(windows)
    return Items(
        stems=stems,
        key=tuple(item_key(path, content, window.start, window.duration) for window in windows),
        content=(content,) * count,
        path=(path,) * count,
        start=np.array([window.start for window in windows], np.float64),
        duration=np.array([window.duration for window in windows], np.float64),
        file_duration=np.full(count, metadata.duration),
        category=(metadata.category or "",) * count,
        bpm=np.full(count, np.nan if metadata.bpm is None else metadata.bpm),
        musical_key=(metadata.musical_key or "",) * count,
        loudness=loudness,
        present=present.numpy(),
        vectors=vectors.float(),
    )
