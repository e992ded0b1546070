"""The embedding store: every stem embedding computed once, kept by content, verified when read.

One LanceDB table for each way of computing embeddings (separator, encoder, options, stem layout); one row for each
segment. LanceDB commits a batch of rows at once by writing a new version of the table, so that a process killed at any
instant loses at most the batch in hand, and two processes may fill one table.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from filelock import FileLock

from stemsim.audio import Segment
from stemsim.errors import StemMismatchError, StoreError
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

__all__ = ["EmbeddingSpec", "EmbeddingStore", "FoundRows"]

_log = logging.getLogger(__name__)

_KEYS_PER_QUERY: Final = 4096
_UNIT_NORM_TOLERANCE: Final = 1e-3
# Readers of an old version go on while a writer compacts; nobody reads one version for an hour.
_KEEP_VERSIONS: Final = timedelta(hours=1)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """How embeddings were made: everything but the segment that their numbers depend on.

    Attributes:
        separator: Identity of the stem source.
        encoder: Identity of the encoder.
        preprocessing: Version and options of what happens between the two.
        stems: Stem layout.
        dim: Length of one vector.
    """

    separator: str
    encoder: str
    preprocessing: str
    stems: StemLayout
    dim: int

    @property
    def text(self) -> str:
        """The specification as canonical JSON."""
        parts = {
            "dim": self.dim,
            "encoder": self.encoder,
            "preprocessing": self.preprocessing,
            "separator": self.separator,
            "stems": list(self.stems),
        }
        return json.dumps(parts, sort_keys=True)

    @property
    def table(self) -> str:
        """Name of the table that holds such embeddings."""
        return "stems_" + hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()

    def key(self, content_hash: str, segment: Segment) -> str:
        """Return the key of a segment's row: the content of its audio and its place in it, not its path.

        Args:
            content_hash: Hash of all the audio that the segment's stems depend on.
            segment: The segment.
        """
        place = f"{content_hash}:{segment.start:.6f}:{segment.duration:.6f}"
        return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Stored rows, as read.

    Attributes:
        keys: Keys of the rows, in no particular order.
        embeddings: Their stem embeddings, in the same order.
    """

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
        import lancedb  # takes 2 s, and much of what imports this module never opens a store

        self.root = str(root)
        self.spec = spec
        self._width = len(spec.stems) * spec.dim
        self._schema = _schema(spec)
        try:
            with _rust_panics():
                # Interval 0: rows that another process commits are seen at the next read.
                self._database = lancedb.connect(self.root, read_consistency_interval=timedelta(0))
                self._table = self._open()
        except (RuntimeError, OSError, ValueError) as error:
            raise self._failure("opened", error) from error
        self._check_layout()

    def _open(self) -> Any:
        """Open the table, or create it; of two processes that try at once, one creates and the other waits.

        Without the lock LanceDB may turn the later creation into an overwrite, which takes rows away.
        """
        try:
            return self._database.open_table(self.spec.table)
        except ValueError:  # not found
            with self._creation_lock():
                return self._database.create_table(self.spec.table, schema=self._schema, exist_ok=True)

    def _creation_lock(self) -> AbstractContextManager[object]:
        """Return a lock between the processes of one machine; object storage has none."""
        if "://" in self.root:
            return nullcontext()
        return FileLock(Path(self.root) / ".create.lock")

    def _check_layout(self) -> None:
        """Verify that the table says of itself what its name, a hash, says."""
        seen = (self._table.schema.metadata or {}).get(b"stemsim", b"{}").decode()
        if seen != self.spec.text:
            stems = tuple(json.loads(seen).get("stems", ()))
            raise StemMismatchError(
                self.spec.stems, stems, what=f"the store {self.root}", remedy="Use another store folder."
            )

    def _failure(self, verb: str, error: Exception) -> StoreError:
        return StoreError(
            f"The embedding store {self.root} cannot be {verb}: {_first_line(error)} If its files are damaged, move "
            f"the folder {self.spec.table}.lance in it away: the embeddings are computed again."
        )

    def __len__(self) -> int:
        try:
            with _rust_panics():
                return int(self._table.count_rows())
        except (RuntimeError, OSError, ValueError) as error:
            raise self._failure("read", error) from error

    def get(self, keys: Sequence[str]) -> FoundRows:
        """Read the rows that are there and sound.

        A row that is not finite, not of unit norm or not what was written (checksum) is dropped and logged, and so is
        what a damaged file of the store held; both then count as not there.

        Args:
            keys: Distinct keys.

        Returns:
            The sound rows among them.

        Raises:
            StoreError: If not even the rest of a damaged table can be read.
        """
        read: list[FoundRows] = []
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            chunk = keys[start : start + _KEYS_PER_QUERY]
            try:
                rows = self._query(chunk)
            except (RuntimeError, OSError, ValueError) as error:
                rows = self._query_salvaged(chunk, error)
            read.append(self._verified(rows))
        empty = _to_embeddings(np.zeros((0, len(self.spec.stems), self.spec.dim), np.float32), _no_levels(self.spec))
        return FoundRows(
            tuple(key for part in read for key in part.keys),
            StemEmbeddings(*(torch.cat(parts) for parts in zip(empty, *(p.embeddings for p in read), strict=True))),
        )

    def put(self, keys: Sequence[str], segments: Sequence[Segment], embeddings: StemEmbeddings) -> None:
        """Store rows in one commit; rows with the same key are replaced.

        Args:
            keys: Keys of the rows, distinct.
            segments: The segments, for people who look into the store.
            embeddings: Stem embeddings of the segments.

        Raises:
            StoreError: If the rows cannot be written (disk full, no permission).
        """
        vectors = embeddings.vectors.to(torch.float32).cpu().numpy().reshape(len(keys), self._width)
        levels = embeddings.levels.to(torch.float32).cpu().numpy()
        columns = {
            "key": list(keys),
            "path": [str(segment.path) for segment in segments],
            "start": [segment.start for segment in segments],
            "duration": [segment.duration for segment in segments],
            "levels": _fixed_lists(levels),
            "vectors": _fixed_lists(vectors),
            "checksum": _checksums(keys, vectors, levels),
        }
        rows = pa.table(columns, schema=self._schema)
        self._write(
            lambda: (
                self._table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            )
        )

    def compact(self) -> None:
        """Merge the small files that the commits left; leaves readers and writers alone, and gives way to them."""
        try:
            self._write(lambda: self._table.optimize(cleanup_older_than=_KEEP_VERSIONS))
        except StoreError as error:
            if "commit conflict" not in str(error).lower():
                raise
            _log.info("Another process changed the store %s while its files were merged; left as they are.", self.root)

    def _write(self, action: Callable[[], object]) -> None:
        try:
            with _rust_panics():
                action()
        except (RuntimeError, OSError, ValueError) as error:
            raise self._failure("written", error) from error

    def _query(self, keys: Sequence[str]) -> pa.Table:
        listed = ", ".join(f"'{key}'" for key in keys)
        columns = ["key", "levels", "vectors", "checksum"]
        with _rust_panics():
            return self._table.search().where(f"key IN ({listed})").select(columns).limit(len(keys)).to_arrow()

    def _query_salvaged(self, keys: Sequence[str], error: Exception) -> pa.Table:
        try:
            return self._query(keys)  # a passing failure is no damage
        except (RuntimeError, OSError, ValueError):
            pass
        try:
            self._salvage(error)
            return self._query(keys)
        except (RuntimeError, OSError, ValueError) as again:
            raise self._failure("read", again) from again

    def _verified(self, rows: pa.Table) -> FoundRows:
        """Return the sound rows; drop the others from the table."""
        stems, dim = len(self.spec.stems), self.spec.dim
        keys = rows["key"].to_pylist()
        vectors = _to_numpy(rows["vectors"], self._width)
        levels = _to_numpy(rows["levels"], stems)
        with np.errstate(over="ignore", invalid="ignore"):  # damaged bytes may be any number
            # `np.linalg.norm` copies all vectors, which takes longer than reading them. NaN and infinity show here too.
            by_stem = vectors.reshape(-1, stems, dim)
            norms = np.sqrt(np.einsum("rsd,rsd->rs", by_stem, by_stem))
        unit = (np.abs(norms - 1.0) <= _UNIT_NORM_TOLERANCE) | (norms == 0.0)
        sound = unit.all(axis=1) & np.isfinite(levels).all(axis=1)
        sound &= rows["checksum"].to_numpy() == _checksums(keys, vectors, levels)
        broken = [key for key, ok in zip(keys, sound, strict=True) if not ok]
        if broken:
            _log.warning("Dropped %d corrupt rows of the store %s; they are computed again.", len(broken), self.root)
            listed = ", ".join(f"'{key}'" for key in broken)
            self._write(lambda: self._table.delete(f"key IN ({listed})"))
        kept = tuple(key for key, ok in zip(keys, sound, strict=True) if ok)
        return FoundRows(kept, _to_embeddings(by_stem[sound], levels[sound]))

    def _salvage(self, error: Exception) -> None:
        """Rewrite the table from the rows that can still be read, after a file of it turned out to be damaged."""
        total = len(self)
        parts = self._readable(0, total)
        kept = sum(part.num_rows for part in parts)
        _log.warning(
            "A file of the store %s is damaged (%s). Kept %d of %d rows; the others are computed again.",
            self.root,
            _first_line(error),
            kept,
            total,
        )
        rows = pa.concat_tables(parts).cast(self._schema) if parts else self._schema.empty_table()
        self._write(
            lambda: self._database.create_table(self.spec.table, data=rows, schema=self._schema, mode="overwrite")
        )
        self._table = self._database.open_table(self.spec.table)

    def _readable(self, start: int, stop: int) -> list[pa.Table]:
        """Read rows by position, halving the range where reading fails until what fails is a single row."""
        if start >= stop:
            return []
        try:
            with _rust_panics():
                return [self._table.take_offsets(list(range(start, stop))).to_arrow()]
        except (RuntimeError, OSError, ValueError):
            middle = (start + stop) // 2
            return [] if stop - start == 1 else self._readable(start, middle) + self._readable(middle, stop)


def _first_line(error: Exception) -> str:
    """Return what an error says, without the trace that LanceDB puts below it."""
    return (str(error).splitlines() or [repr(error)])[0][:300]


@contextmanager
def _rust_panics() -> Iterator[None]:
    """Raise a panic of LanceDB, which damaged bytes may cause, as a RuntimeError: its own class is not importable."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "RustPanic":
            raise
        msg = f"LanceDB panicked ({error})."
        raise RuntimeError(msg) from error


def _schema(spec: EmbeddingSpec) -> pa.Schema:
    """Return the columns of a table; the primary key keeps two writers from inserting one key twice."""
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"}),
            pa.field("path", pa.string()),
            pa.field("start", pa.float64()),
            pa.field("duration", pa.float64()),
            pa.field("levels", pa.list_(pa.float32(), len(spec.stems))),
            pa.field("vectors", pa.list_(pa.float32(), len(spec.stems) * spec.dim)),
            pa.field("checksum", pa.uint32()),
        ],
        metadata={"stemsim": spec.text},
    )


def _fixed_lists(rows: FloatArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _to_numpy(column: pa.ChunkedArray, width: int) -> FloatArray:
    """Return a column of lists of fixed length as `(row, width)`."""
    # Not `flatten`, which leaves missing lists out and moves all that follow; the checksum tells which were missing.
    parts = [chunk.values.slice(chunk.offset * width, len(chunk) * width) for chunk in column.chunks]
    chunks: list[FloatArray] = [part.to_numpy(zero_copy_only=False) for part in parts]
    flat = chunks[0] if len(chunks) == 1 else np.concatenate([np.zeros(0, np.float32), *chunks])
    return flat.reshape(-1, width)


def _checksums(keys: Sequence[str], vectors: FloatArray, levels: FloatArray) -> npt.NDArray[np.uint32]:
    """Return one CRC-32 a row over its key, vectors and levels."""
    sums = [
        zlib.crc32(level.tobytes(), zlib.crc32(vector.tobytes(), zlib.crc32(key.encode())))
        for key, vector, level in zip(keys, vectors, levels, strict=True)
    ]
    return np.array(sums, dtype=np.uint32)


def _no_levels(spec: EmbeddingSpec) -> FloatArray:
    return np.zeros((0, len(spec.stems)), np.float32)


def _to_embeddings(vectors: FloatArray, levels: FloatArray) -> StemEmbeddings:
    """Return stem embeddings from arrays `(row, stem, dim)` and `(row, stem)`."""
    return StemEmbeddings(
        torch.from_numpy(vectors), torch.from_numpy(levels), torch.from_numpy((vectors != 0.0).any(axis=2))
    )
