"""A library of loops, samples and songs that is searched by stem."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.model.inputs import Input
from stemsim.model.parts import build_encoder
from stemsim.retrieval.adding import Adding
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.catalogue import Catalogue, FileRecord
from stemsim.retrieval.extraction import Engine, Extraction, LocalExtraction
from stemsim.retrieval.files import FoundFile, absolute, find_files, stat_files
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.hits import FOLD, Hit, fold_hits
from stemsim.retrieval.index import Index
from stemsim.retrieval.opening import index_address, open_index
from stemsim.retrieval.progress import adding_progress
from stemsim.retrieval.query import Query, audio_query, check_heard, stems_to_sound, text_query, with_text
from stemsim.retrieval.report import AddReport
from stemsim.retrieval.routing import Routing
from stemsim.retrieval.rows import item_keys
from stemsim.retrieval.stats import LibraryStats, stats_of
from stemsim.retrieval.windows import Windowing
from stemsim.stems import StemLayout, check_same_layout

__all__ = ["Library"]

_WINDOW = 5.0  # seconds, as the segments of the paper
_SPARE = 4  # times as many items as asked for are looked at first, since some are folded into others


class Library:
    """Files of audio, embedded stem by stem, and a search over them.

    Its items are windows of files; a file shorter than a window is one item. A library remembers how it was made, so
    that an existing one is opened by its folder alone. Several processes may add to it and search it at the same time.

    Args:
        root: Folder of the library, made if need be; or the URI of an object storage, such as `s3://bucket/library`.
        embedder: Separates and embeds. Needed for a new library; an existing one makes the one that it was made with.
        window: Length of an item in seconds; None: the library's, 5 s in a new one.
        hop: From one item's start to the next in seconds; None: the library's, `window` in a new one.
        weights: Weight of each stem in a search that is told none; None: equal. Kept by a new library.
        model: Name of the ready-made model that embedder and weights are of. Kept by a new library.
        index: Address of a Milvus that holds the items: `http://host:19530`, or a file of milvus-lite, with `#name` for
            a collection other than `stemsim`; None: the library's, in a new one the folder itself (LanceDB).
        storage_options: Endpoint, keys and so on of an object storage.
        device: Where the embedder computes that an existing library makes.
        workers: Batches that it has in work at the same time; None: one a core.
        batch_size: Most items that it embeds at once; None: 16, or as many as fit on a GPU.

    Raises:
        DataNotFoundError: If there is no library, and no embedder to make one.
        StoreError: If the library cannot be opened.
        StemMismatchError: If the embedder has other stems than the library.
        ConfigError: If the embedder, or a setting, is another one than the library was made with.

    Example:
        >>> import stemsim
        >>> library = stemsim.Library("my-library")  # doctest: +SKIP
        >>> library.add(["loops", "songs"])  # doctest: +SKIP
        >>> library.search("song.wav", routing="drums=1,bass=0.5", k=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        embedder: StemEmbedder | None = None,
        *,
        window: float | None = None,
        hop: float | None = None,
        weights: Mapping[str, float] | None = None,
        model: str | None = None,
        index: str | Path | None = None,
        storage_options: dict[str, str] | None = None,
        device: str = "cpu",
        workers: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._catalogue = Catalogue(root, storage_options=storage_options)
        self._storage_options = storage_options
        self._embedder = embedder
        self._computing = device, workers, batch_size
        self._encoder: Encoder | None = None
        self._opened: Index | None = None
        address = None if index is None else index_address(index)
        card = self._catalogue.read_card()
        if card is None:
            if embedder is None:
                msg = (
                    f"There is no library at {root}. Make one: stemsim index FOLDER --library {root}, or "
                    "Library(root, embedder)."
                )
                raise DataNotFoundError(msg)
            windowing = Windowing(_WINDOW if window is None else window, hop)
            new = LibraryCard.of(embedder, windowing=windowing, weights=weights, model=model, index=address)
            card = self._catalogue.create(new)
        self.card: LibraryCard = card
        if embedder is not None:
            card.check_embedder(embedder.spec)
        self._check("windows of (s)", window, card.windowing.length)
        self._check("a hop of (s)", hop, card.windowing.step)
        self._check("its items in", address, card.index or "its own folder")

    def _check(self, what: str, given: float | str | None, own: float | str) -> None:
        """Raise if a setting is given that is not the library's."""
        if given is not None and given != own:
            msg = (
                f"The library {self.root} was made with {what} {own}; got {given}. Leave the setting out, or make "
                "another library."
            )
            raise ConfigError(msg)

    @property
    def root(self) -> str:
        """Folder or URI of the library."""
        return self._catalogue.root

    @property
    def stems(self) -> StemLayout:
        """Stem layout of its items."""
        return self.card.stems

    @property
    def encoder(self) -> Encoder:
        """What embeds; made when it is first needed."""
        if self._embedder is not None:
            return self._embedder.encoder
        if self._encoder is None:
            self._encoder = build_encoder(self.card.encoder)
        return self._encoder

    @property
    def embedder(self) -> StemEmbedder:
        """What separates and embeds; made when it is first needed."""
        if self._embedder is None:
            device, workers, batch_size = self._computing
            self._embedder = self.card.build_embedder(
                encoder=self.encoder, device=device, workers=workers, batch_size=batch_size
            )
        return self._embedder

    @property
    def index(self) -> Index:
        """What holds the items; opened when it is first needed."""
        if self._opened is None:
            self._opened = open_index(self.root, self.card, storage_options=self._storage_options)
        return self._opened

    def add(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        listen: bool = True,
        engine: Engine | None = None,
        progress: bool = False,
    ) -> AddReport:
        """Add files and folders; what is in already is skipped, and what has changed is replaced.

        A file whose size and time of modification are those of its last time is skipped at once, others by a hash of
        their content. Whatever interrupts a run, the next one goes on where it stopped. A file that cannot be read is
        reported, and stops nothing.

        Args:
            paths: Files, and folders with all their subfolders. Of multitrack songs the mixes alone are taken.
            listen: Whether to measure tempo and key where file names do not say them.
            engine: Where files are separated and embedded, such as `stemsim.retrieval.RayEngine()`; None: here.
            progress: Show a progress bar on standard error.

        Returns:
            What came of it, with the files that cannot be read and the reasons.

        Raises:
            DataNotFoundError: If one of `paths` is not there.
            StoreError: If the library cannot be written.
        """
        begun = time.monotonic()
        listed = [paths] if isinstance(paths, str | Path) else paths
        multitrack = self.card.is_multitrack
        found, failures = find_files(listed, mixes_only=multitrack)
        known = self._catalogue.records()
        done = {file.path: file for file in known if file.done}
        # The stems of a song may change while its mix does not.
        files, unchanged, unseen = stat_files(found, done, always=multitrack)
        report = self._embed(files, known, engine, listen=listen, progress=progress) if files else AddReport()
        if report.added or report.changed:
            self._tidy()
        report.failures[:0] = [*failures, *unseen]
        report.unchanged += unchanged
        report.seconds = time.monotonic() - begun
        return report

    def _embed(
        self,
        files: Sequence[FoundFile],
        known: Sequence[FileRecord],
        engine: Engine | None,
        *,
        listen: bool,
        progress: bool,
    ) -> AddReport:
        windowing = self.card.windowing
        started: AbstractContextManager[Extraction] = (
            nullcontext(LocalExtraction(self.embedder, windowing, listen=listen))
            if engine is None
            else engine.started(self.card, listen=listen)
        )
        size = sum(file.size for file in files)
        with (
            started as extraction,
            adding_progress(len(files), size, show=progress) as on_progress,
        ):
            adding = Adding(self._catalogue, self.index, extraction, windowing=windowing, on_progress=on_progress)
            return adding.run(files, known)

    def remove(self, paths: str | Path | Sequence[str | Path]) -> list[Path]:
        """Drop files from the library, and not from the disk.

        Args:
            paths: Files, and folders with all their subfolders, whether they are still on the disk or not.

        Returns:
            The files that were dropped.

        Raises:
            DataNotFoundError: If nothing of the library has one of these paths.
        """
        listed = [paths] if isinstance(paths, str | Path) else paths
        known = self._catalogue.records()
        chosen: list[FileRecord] = []
        for path in map(str, map(absolute, listed)):
            folder = path.rstrip(os.sep) + os.sep
            inside = [record for record in known if record.path == path or record.path.startswith(folder)]
            if not inside:
                msg = f"The library {self.root} has no file {path}, and none in a folder of that name. Check the path."
                raise DataNotFoundError(msg)
            chosen += inside
        return self._drop(chosen)

    def prune(self, *, even_all: bool = False) -> list[Path]:
        """Drop the files that are not on the disk any more.

        Args:
            even_all: Drop them even if none is left: a disk may just not be there.

        Returns:
            The files that were dropped.

        Raises:
            DataNotFoundError: If no file at all is on the disk.
        """
        known = self._catalogue.records()
        missing = [record for record in known if not os.path.lexists(record.path)]
        if missing and len(missing) == len(known) and not even_all:
            msg = (
                f"None of the {len(known)} files of the library {self.root} is on this machine; is their disk there? "
                "If they are to be dropped all the same: --even-all."
            )
            raise DataNotFoundError(msg)
        # What was begun and not completed, by a process that was killed, goes too.
        return self._drop([*missing, *(record for record in known if not record.done and record not in missing)])

    def _drop(self, records: Sequence[FileRecord]) -> list[Path]:
        with self._catalogue.writing():
            self._catalogue.put([replace(record, done=False) for record in records])  # if killed, none is done but gone
            self.index.delete([key for record in records for key in item_keys(record, self.card.windowing)])
            self._catalogue.delete(records)
        if records:
            self._tidy()
        return sorted({Path(record.path) for record in records if record.done})

    def _tidy(self) -> None:
        """Merge what commits left; build or extend the approximate index if it is due."""
        with self._catalogue.writing():
            self.index.optimise()
            self._catalogue.compact()

    def search(
        self,
        query: Input | None = None,
        *,
        text: str | None = None,
        text_weight: float = 0.5,
        text_stems: Sequence[str] | None = None,
        routing: Routing | Mapping[str, float] | str | None = None,
        k: int = 10,
        where: ItemFilter | None = None,
        include_self: bool = False,
        fold: float = FOLD,
    ) -> list[Hit]:
        """Find what sounds most like a piece of audio, a description in words, or both.

        Args:
            query: A path, a `Segment`, `(waveform, sample_rate)`, or `StemEmbeddings` of the library's stems.
            text: A description, such as "warm analog bass"; the library's encoder must know text.
            text_weight: Share of the description where there is a query too, from 0 to 1.
            text_stems: Stems that the description is about, beside a query; None: all.
            routing: Weights of stems, as a `Routing`, by name, or as on the command line (`drums=1,bass=0.5`,
                `drums:mix`, `learned`, `equal`). None: those of the library, else equal; for words alone, the mix.
            k: Most hits.
            where: Conditions that hits must meet.
            include_self: Let the query find itself: the same audio at the same time.
            fold: Mean cosine from which windows of the same audio count as one.

        Returns:
            Up to `k` hits, the best first.

        Raises:
            ConfigError: If there is nothing to search with, or every stem that counts is silent in the query.
            StemsimError: If the query cannot be read or embedded.
        """
        if k < 1:
            msg = f"A search returns at least 1 hit; got k={k}."
            raise ConfigError(msg)
        asked = self.query(query, text=text, text_weight=text_weight, text_stems=text_stems)
        chosen = self.routing(routing, words_only=query is None)
        check_heard(asked, chosen)
        vector, conditions = chosen.fold(asked.vectors), stems_to_sound(where, chosen)
        wanted, total = _SPARE * k, self.index.count()
        while True:
            found = self.index.search(vector, max(1, min(wanted, total)), where=conditions)
            hits = fold_hits(found, asked, chosen, include_self=include_self, fold=fold)[:k]
            if len(hits) == k or len(found) < wanted or wanted >= total:
                return self._with_sources(hits)
            wanted *= _SPARE

    def query(
        self,
        query: Input | None = None,
        *,
        text: str | None = None,
        text_weight: float = 0.5,
        text_stems: Sequence[str] | None = None,
    ) -> Query:
        """Return what a search would search with.

        Args:
            query: As for `search`.
            text: As for `search`.
            text_weight: As for `search`.
            text_stems: As for `search`.

        Raises:
            ConfigError: If there is neither a query nor a text.
        """
        if query is None:
            if text is None:
                msg = "There is nothing to search with: give a piece of audio, a text, or both."
                raise ConfigError(msg)
            return text_query(text, self.encoder, self.stems)
        asked = audio_query(query, self.embedder, self.card.windowing)
        return asked if text is None else with_text(asked, text, self.encoder, weight=text_weight, stems=text_stems)

    def routing(
        self, routing: Routing | Mapping[str, float] | str | None = None, *, words_only: bool = False
    ) -> Routing:
        """Return the weights that a search would take.

        Args:
            routing: As for `search`.
            words_only: Whether the query is words alone: then the mix alone is the default, as text towers are trained
                with whole recordings.

        Raises:
            StemMismatchError: If a `Routing` is between other stems than the library's.
            ConfigError: If it names a stem that the library lacks.
        """
        if isinstance(routing, Routing):
            remedy = "Make a routing between the stems of the library."
            check_same_layout(self.stems, routing.stems, what="the routing", remedy=remedy)
            return routing
        if isinstance(routing, str):
            return Routing.parse(routing, self.stems, self.card.weights or None)
        if routing is not None:
            return Routing.sliders(self.stems, routing)
        if words_only and "mix" in self.stems:
            return Routing.sliders(self.stems, {"mix": 1.0})
        return Routing.sliders(self.stems, self.card.weights) if self.card.weights else Routing.equal(self.stems)

    def stats(self) -> LibraryStats:
        """Count what is in the library."""
        return stats_of(self._catalogue.records(), self.index)

    def item_counts(self) -> dict[Path, int]:
        """Return the number of items of each file."""
        return {Path(record.path): record.items for record in self._catalogue.records() if record.done}

    def _with_sources(self, hits: list[Hit]) -> list[Hit]:
        """Add to hits which of their figures were measured."""
        paths = list({str(hit.path) for hit in hits})
        measured = {record.path: record.measured for record in self._catalogue.records_of(paths) if record.done}
        return [replace(hit, measured=measured.get(str(hit.path), hit.measured)) for hit in hits]
