"""Items of a library as columns: what an index stores and a search returns."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from stemsim.errors import EmbeddingError
from stemsim.lance_table import key_field
from stemsim.stems import StemLayout

TYPES: Final = ("one-shot", "loop", "song")
"""Types of sounds, each of which has at most one; the other tags are categories."""

TextArray = npt.NDArray[Any]
TagArray = npt.NDArray[np.object_]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Items of a library as columns, each of `(item,)` unless it says otherwise."""

    stems: StemLayout
    key: TextArray  # distinct names, see `item_key`
    content: TextArray  # hash of the audio that the item is a part of
    path: TextArray  # its file
    start: FloatArray  # where it begins in the file, in seconds
    duration: FloatArray  # its length in seconds
    file_duration: FloatArray  # length of the file in seconds
    tags: TagArray  # of each a tuple of its categories, and of its type if that is known
    bpm: FloatArray  # tempo; NaN if unknown
    musical_key: TextArray  # such as `A minor`; empty if unknown
    loudness: FloatArray  # level of the mix in dBFS
    present: BoolArray  # `(item, stem)` whether the stem sounds
    vectors: Tensor  # `(item, stem, dim)` float32 stem embeddings, unit norm; zeros where the stem is silent

    def __post_init__(self) -> None:
        """Verify that all columns are equally long, and the vectors finite."""
        count, stems = len(self.key), len(self.stems)
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if set(lengths.values()) != {count} or self.present.shape != (count, stems):
            raise EmbeddingError(
                f"Items need {count} rows in every column, and {stems} stems; got {lengths}, {self.present.shape}."
            )
        if self.vectors.ndim != 3 or self.vectors.shape[:2] != (count, stems):  # noqa: PLR2004 - item, stem, dim
            raise EmbeddingError(f"Items need vectors ({count}, {stems}, dim); got {tuple(self.vectors.shape)}.")
        if not bool(torch.isfinite(self.vectors).all()):
            raise EmbeddingError("Items need finite vectors. The encoder returned NaN or infinity; leave the file out.")

    def __len__(self) -> int:
        return len(self.key)

    @property
    def dim(self) -> int:
        """Length of one vector."""
        return int(self.vectors.shape[2])

    @property
    def end(self) -> FloatArray:
        """`(item,)` where each ends in its file, in seconds."""
        return self.start + self.duration

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64] | BoolArray) -> Self:
        """Return some rows, given by indices or by a mask `(item,)`."""
        index = np.arange(len(self))[np.asarray(rows, dtype=np.int64 if not len(rows) else None)]
        columns = {name: getattr(self, name)[index] for name in _COLUMNS}
        return type(self)(stems=self.stems, **columns, vectors=self.vectors[torch.from_numpy(index)])

    def distinct(self) -> Self:
        """Return the items without duplicate keys: the last item of each key."""
        last = dict(zip(self.key, range(len(self)), strict=True))
        return self if len(last) == len(self) else self.take(sorted(last.values()))

    @classmethod
    def concatenate(cls, parts: "Sequence[Items]") -> Self:
        """Concatenate at least one set of items, all of one stem layout and vector length."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        return cls(stems=parts[0].stems, **columns, vectors=torch.cat([part.vectors for part in parts]))

    @classmethod
    def empty(cls, stems: StemLayout, dim: int) -> Self:
        """Return no items of a stem layout and a vector length."""
        return cls.from_arrow(item_schema(stems, dim).empty_table(), stems, dim)

    def to_arrow(self) -> pa.Table:
        """Return a table with the columns of `item_schema`: concatenated float16 vectors, unknown tempi as null."""
        width = len(self.stems) * self.dim
        padding = stored_width(len(self.stems), self.dim) - width
        flat = functional.pad(self.vectors.flatten(1), (0, padding)).to(torch.float16).numpy().reshape(-1)
        columns = {name: pa.array(getattr(self, name), from_pandas=True) for name in _PLAIN}
        columns["tags"] = pa.array(self.tags.tolist(), _TAGS)
        columns |= {f"has_{stem}": self.present[:, number] for number, stem in enumerate(self.stems)}
        columns["vectors"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width + padding)
        return pa.table(columns, schema=item_schema(self.stems, self.dim))

    @classmethod
    def from_arrow(cls, table: pa.Table, stems: StemLayout, dim: int) -> Self:
        """Return the items of a table that has the columns of `item_schema`."""
        rows = table.combine_chunks()
        values: dict[str, Any] = {name: rows[name].to_numpy(zero_copy_only=False) for name in _TEXTS}
        # Copied: a view of one column would keep the vectors of all these rows in memory.
        values |= {name: np.array(rows[name].to_numpy(zero_copy_only=False), np.float64) for name in _NUMBERS}
        values["tags"] = np.fromiter(map(tuple, rows["tags"].to_pylist()), object, len(rows))
        present = [rows[f"has_{stem}"].to_numpy(zero_copy_only=False).astype(bool) for stem in stems]
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in rows["vectors"].chunks]
        flat = np.concatenate([np.zeros(0, np.float16), *chunks]).reshape(-1, stored_width(len(stems), dim))
        flat = flat[:, : len(stems) * dim].reshape(-1, len(stems), dim)
        return cls(
            stems=tuple(stems),
            **values,
            present=np.stack(present, axis=1) if present else np.zeros((len(rows), 0), bool),
            vectors=torch.from_numpy(flat.copy()).float(),
        )


_MULTIPLE: Final = 8  # LanceDB quantises only vectors whose length is a multiple of it
_COLUMNS: Final = tuple(field.name for field in fields(Items) if field.name not in {"stems", "vectors"})
_TEXTS: Final = ("key", "content", "path", "musical_key")
_NUMBERS: Final = ("start", "duration", "file_duration", "bpm", "loudness")
_TAGS: Final = pa.list_(pa.string())
_PLAIN: Final = tuple(name for name in _COLUMNS if name in {*_TEXTS, *_NUMBERS})


def item_key(path: str, content: str, start: float, duration: float) -> str:
    """Return the key of an item: a hash of its path, its content, and its start and duration in seconds.

    Because of the content, items of a new version of a file can stand beside the old ones until those are removed;
    because of the path, one recording under two paths is found by the words of either.
    """
    place = f"{content}:{start:.6f}:{duration:.6f}:{path}"
    return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


def stored_width(stems: int, dim: int) -> int:
    """Return the length of the stored vectors of all stems, concatenated and padded with zeros to a multiple of 8."""
    return -(-stems * dim // _MULTIPLE) * _MULTIPLE


def item_schema(stems: StemLayout, dim: int) -> pa.Schema:
    """Return the columns of items as a table; each stem has a column `has_STEM`."""
    kinds: dict[str, pa.DataType] = dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_NUMBERS, pa.float64())
    return pa.schema(
        [
            key_field(),
            *(pa.field(name, kinds[name]) for name in _PLAIN if name != "key"),
            pa.field("tags", _TAGS),
            *(pa.field(f"has_{stem}", pa.bool_()) for stem in stems),
            pa.field("vectors", pa.list_(pa.float16(), stored_width(len(stems), dim))),
        ]
    )
