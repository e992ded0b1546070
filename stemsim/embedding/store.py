"""The embedding store: every stem embedding computed once, kept by content, verified when read.

One LanceDB table for each way of computing embeddings, one row for each segment. A process killed at any instant loses
at most the batch in hand, and two processes may fill one store.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from stemsim.audio import Segment
from stemsim.errors import ConfigError, StemMismatchError, StoreError
from stemsim.lance_table import LanceTable, chunks, first_line, key_field
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

_log = logging.getLogger(__name__)

_UNIT_NORM_TOLERANCE: Final = 1e-3
_COLUMNS: Final = ("key", "levels", "vectors", "checksum")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """Everything but the audio that the numbers of an embedding depend on.

    A store, an index and a library each hold embeddings of one specification, and refuse those of another.

    Attributes:
        separator: Identity of the stem source.
        encoder: Identity of the encoder.
        preprocessing: Version and options of the steps between the two.
        stems: Stem layout.
        dim: Length of one vector.
    """

    separator: str
    encoder: str
    preprocessing: str
    stems: StemLayout
    dim: int

    @property
    def width(self) -> int:
        """Length of the vectors of all stems, concatenated."""
        return len(self.stems) * self.dim

    @property
    def text(self) -> str:
        """The specification as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def table(self) -> str:
        """Name of the store's table for such embeddings."""
        return "stems_" + hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def check(self, text: str, what: str, *, remedy: str) -> None:
        """Raise, naming both, unless stored embeddings have this specification.

        `text` is theirs as JSON (indices of old libraries do not say their preprocessing); `what` holds them, and is
        the subject of the message; `remedy` is a sentence that says what to do.

        Raises:
            StemMismatchError: If their stems are others; `ConfigError` if they differ in anything else.
        """
        mine = json.loads(self.text)
        seen = {"preprocessing": self.preprocessing, "stems": (), **json.loads(text or "{}")}
        if seen["stems"] != mine["stems"]:
            raise StemMismatchError(self.stems, tuple(seen["stems"]), what=what, remedy=remedy)
        if different := [name for name in mine if seen.get(name) != mine[name]]:
            theirs, ours = (", ".join(f"{name} {of.get(name)!r}" for name in different) for of in (seen, mine))
            raise ConfigError(f"Embeddings differ: {what} has {theirs}, expected {ours}. {remedy}")

    def key(self, content_hash: str, segment: Segment) -> str:
        """Return the key of a segment's row: its place in the audio with some content, whatever the path."""
        place = f"{content_hash}:{segment.start:.6f}:{segment.duration:.6f}"
        return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


class FoundRows(NamedTuple):
    """Keys of stored rows, in no particular order, and their stem embeddings in the same order."""

    keys: tuple[str, ...]
    embeddings: StemEmbeddings


class EmbeddingStore:
    """Stem embeddings on disk, by content.

    Args:
        root: Folder of the store (created if need be), or the URI of an object storage that LanceDB knows.
        spec: How the embeddings are made; a store holds those of any number of specifications side by side.

    Raises:
        StoreError: If the folder cannot be opened as a store.
    """

    def __init__(self, root: str | Path, spec: EmbeddingSpec) -> None:
        self.root = str(root)
        self.spec = spec
        remedy = f"If its files are damaged, move the folder {spec.table}.lance in it away: all is computed again."
        self._table = LanceTable(root, spec.table, what=f"The embedding store {root}", remedy=remedy)
        self._table.create(_schema(spec), spec.text)
        # The name of the table is a hash; its card says in full what it holds.
        spec.check(self._table.card, f"the store {root}", remedy="Use another store folder.")

    def __len__(self) -> int:
        return self._table.count()

    def get(self, keys: Sequence[str]) -> FoundRows:
        """Read the rows of distinct keys that exist and are intact.

        A row that is not finite, not of unit norm or not what was written (checksum) is dropped and logged, and so are
        the rows of a damaged file; they then count as missing.

        Raises:
            StoreError: If not even the rest of a damaged table can be read.
        """
        parts = [self._verified(self._read(chunk)) for chunk in list(chunks(keys)) or [()]]
        embeddings = StemEmbeddings(*map(torch.cat, zip(*(part.embeddings for part in parts), strict=True)))
        return FoundRows(tuple(key for part in parts for key in part.keys), embeddings)

    def put(self, keys: Sequence[str], segments: Sequence[Segment], embeddings: StemEmbeddings) -> None:
        """Store rows of distinct keys in one commit, replacing those that are there.

        The segments are for people who look into the store.

        Raises:
            StoreError: If the rows cannot be written (disk full, no permission).
        """
        vectors = embeddings.vectors.to(torch.float32).cpu().numpy().reshape(len(keys), self.spec.width)
        levels = embeddings.levels.to(torch.float32).cpu().numpy()
        columns = {
            "key": list(keys),
            "path": [str(segment.path) for segment in segments],
            "start": [segment.start for segment in segments],
            "duration": [segment.duration for segment in segments],
            "levels": pa.FixedSizeListArray.from_arrays(pa.array(levels.reshape(-1)), levels.shape[1]),
            "vectors": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.spec.width),
            "checksum": _checksums(keys, vectors, levels),
        }
        self._table.upsert(pa.table(columns, schema=_schema(self.spec)))

    def compact(self) -> None:
        """Merge the small files that commits left; readers and writers are unaffected."""
        self._table.compact()

    def _read(self, keys: Sequence[str]) -> pa.Table:
        """Read rows; if a file of the table is damaged, give it up first."""
        with suppress(StoreError):  # which may be a passing failure and no damage
            return self._table.get(keys, _COLUMNS)
        try:
            return self._table.get(keys, _COLUMNS)
        except StoreError as error:
            kept, total = self._table.salvage()
            message = "A file of the store %s is damaged (%s). Kept %d of %d rows; the others are computed again."
            _log.warning(message, self.root, first_line(error.__cause__ or error), kept, total)
        return self._table.get(keys, _COLUMNS)

    def _verified(self, rows: pa.Table) -> FoundRows:
        """Return the intact rows; drop the others from the table."""
        stems, dim = len(self.spec.stems), self.spec.dim
        keys = rows["key"].to_pylist()
        vectors, levels = _to_numpy(rows["vectors"], self.spec.width), _to_numpy(rows["levels"], stems)
        with np.errstate(over="ignore", invalid="ignore"):  # damaged bytes may be any number
            # `np.linalg.norm` copies all vectors, which takes longer than reading them. NaN and infinity show here too.
            by_stem = vectors.reshape(-1, stems, dim)
            norms = np.sqrt(np.einsum("rsd,rsd->rs", by_stem, by_stem))
        unit = (np.abs(norms - 1.0) <= _UNIT_NORM_TOLERANCE) | (norms == 0.0)
        intact = unit.all(axis=1) & np.isfinite(levels).all(axis=1)
        intact &= rows["checksum"].to_numpy() == _checksums(keys, vectors, levels)
        if broken := [key for key, ok in zip(keys, intact, strict=True) if not ok]:
            _log.warning("Dropped %d corrupt rows of the store %s; they are computed again.", len(broken), self.root)
            self._table.delete(broken)
        kept = tuple(key for key, ok in zip(keys, intact, strict=True) if ok)
        vectors, levels = by_stem[intact], levels[intact]
        present = (vectors != 0.0).any(axis=2)
        return FoundRows(kept, StemEmbeddings(*map(torch.from_numpy, (vectors, levels, present))))


def _schema(spec: EmbeddingSpec) -> pa.Schema:
    return pa.schema(
        [
            key_field(),
            pa.field("path", pa.string()),
            pa.field("start", pa.float64()),
            pa.field("duration", pa.float64()),
            pa.field("levels", pa.list_(pa.float32(), len(spec.stems))),
            pa.field("vectors", pa.list_(pa.float32(), spec.width)),
            pa.field("checksum", pa.uint32()),
        ]
    )


def _to_numpy(column: pa.ChunkedArray, width: int) -> FloatArray:
    """Return a column of lists of fixed length as `(row, width)`."""
    # Not `flatten`, which leaves missing lists out and moves all that follow; the checksum tells which were missing.
    parts = [chunk.values.slice(chunk.offset * width, len(chunk) * width) for chunk in column.chunks]
    arrays: list[FloatArray] = [part.to_numpy(zero_copy_only=False) for part in parts]
    flat = arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, np.float32), *arrays])
    return flat.reshape(-1, width)


def _checksums(keys: Sequence[str], vectors: FloatArray, levels: FloatArray) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each row's key, vectors and levels."""
    sums = [
        zlib.crc32(level.tobytes(), zlib.crc32(vector.tobytes(), zlib.crc32(key.encode())))
        for key, vector, level in zip(keys, vectors, levels, strict=True)
    ]
    return np.array(sums, dtype=np.uint32)
