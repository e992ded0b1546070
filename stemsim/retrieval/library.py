"""A library of loops, samples and songs that is searched by stem."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, DataNotFoundError, StemsimError
from stemsim.model.inputs import Input
from stemsim.model.parts import build
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.catalogue import Catalogue, FileRecord, absolute
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.held_query import HeldQuery
from stemsim.retrieval.hits import FOLD, Comparison, Hit, compare_vectors, find_hits, rerank
from stemsim.retrieval.indexes import Index, milvus_address, new_collection, open_index
from stemsim.retrieval.query import (
    Listener,
    Query,
    audio_query,
    check_audible,
    require_negative_stems,
    text_query,
    with_text,
)
from stemsim.retrieval.routing import Routing
from stemsim.stems import StemLayout, check_same_layout

if TYPE_CHECKING:
    from stemsim.fusion import Fusion
    from stemsim.retrieval.indexing.adding import AddReport, Engine
    from stemsim.retrieval.integrity import Fault
    from stemsim.retrieval.stats import LibraryStats

_WINDOW: Final = 5.0  # seconds, like the segments of the paper
_RERANKED: Final = 10  # times as many items as hits are ranked again by a nonlinear fusion,
_LEAST_RERANKED: Final = 200  # or as many as this


class Library:
    """Audio files, embedded stem by stem, and a search over them.

    Its items are windows of files; a file shorter than a window is one item. A library remembers how it was made, so
    that an existing one is opened by its folder alone. Several processes may add to it and search it at the same time.

    Args:
        root: Folder of the library, created if need be; or the URI of an object storage, such as `s3://bucket/library`.
        embedder: Separates and embeds. Needed for a new library; an existing one builds the one that it was made with.
        window: Length of an item in seconds; None: the library's, 5 s in a new one.
        hop: From one item's start to the next in seconds; None: the library's, `window` in a new one.
        weights: Default weight of each stem in a search; None: equal. Kept by a new library.
        model: Name or folder of the model that embedder and weights are from. Kept by a new library, whose searches use
            the model's fusion if that is nonlinear.
        index: Address of a Milvus that holds the items: `http://host:19530`, or a file of milvus-lite; `#name` at its
            end names the collection, which is otherwise one of the library's own. None: the library's, in a new one the
            folder itself (LanceDB).
        storage_options: Endpoint, credentials and so on of an object storage.
        device: Where the embedder computes that an existing library builds.
        workers: Batches that it processes at the same time; None: one for each core.
        batch_size: Most items that it embeds at once; None: 16, or as many as fit on a GPU.

    Raises:
        DataNotFoundError: If there is no library, and no embedder to make one.
        StoreError: If the library cannot be opened.
        StemMismatchError: If the embedder has other stems than the library.
        ConfigError: If the embedder, or a setting, differs from the library's.

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
        self.root = str(root)
        self._catalogue = Catalogue(root, storage_options=storage_options)
        self._storage_options = storage_options
        self._embedder = embedder
        self._computing: dict[str, Any] = {"device": device, "workers": workers, "batch_size": batch_size}
        uri, collection = ("", "") if index is None else milvus_address(index)
        card = self._catalogue.read_card()
        if card is None:
            if embedder is None:
                raise DataNotFoundError(
                    f"There is no library at {root}. Make one: stemsim index FOLDER --library {root}, or "
                    "Library(root, embedder)."
                )
            settings: dict[str, Any] = {"window": _WINDOW if window is None else window, "hop": hop}
            settings |= {"weights": dict(weights or {}), "index": None}
            if uri:
                settings["index"] = f"{uri}#{collection or new_collection(self.root)}"
            if model is not None:
                settings["model"], settings["fusion"] = _model_of(model)
            card = self._catalogue.create(LibraryCard.of(embedder, **settings))
        self.card: LibraryCard = card
        if embedder is not None:
            card.check_embedder(embedder)
        own_uri, own_collection = ("", "") if card.index is None else milvus_address(card.index)
        self._check("windows of (s)", window, card.windowing.length)
        self._check("a hop of (s)", hop, card.windowing.step)
        self._check("its items in", uri or None, own_uri or "its own folder")
        self._check("the collection", collection or None, own_collection or "stemsim")

    def _check(self, what: str, given: float | str | None, own: float | str) -> None:
        """Raise if a setting is given that is not the library's."""
        if given is not None and given != own:
            raise ConfigError(
                f"The library {self.root} was made with {what} {own}; got {given}. Leave the setting out, or make "
                "another library."
            )

    @property
    def stems(self) -> StemLayout:
        """Stem layout of its items."""
        return self.card.stems

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, built when it is first needed."""
        encoder: Encoder = build(self.card.encoder) if self._embedder is None else self._embedder.encoder
        return encoder

    @cached_property
    def embedder(self) -> StemEmbedder:
        """The embedder, built when it is first needed."""
        return self._embedder or self.card.build_embedder(encoder=self.encoder, **self._computing)

    @cached_property
    def index(self) -> Index:
        """The items, opened when they are first needed."""
        return open_index(self.root, self.card.spec, self.card.index, self._storage_options)

    @cached_property
    def fusion(self) -> "Fusion | None":
        """Nonlinear fusion of the library's model, loaded when it is first needed; None: the weighted sum.

        Raises:
            ConfigError: If the model cannot be loaded any more.
        """
        if self.card.fusion is None or self.card.model is None:
            return None
        from stemsim.model import load_fusion

        try:
            return load_fusion(self.card.model)
        except StemsimError as error:
            raise ConfigError(
                f"The library {self.root} ranks by the {self.card.fusion} of the model {self.card.model}, which cannot "
                f"be loaded ({error}). Put the model back, or search with weights: equal, or sliders such as drums=1."
            ) from error

    def add(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        listen: bool = True,
        engine: "Engine | None" = None,
        follow_links: bool = False,
        progress: bool = False,
        watch: "Callable[[float, AddReport], None] | None" = None,
    ) -> "AddReport":
        """Add files and folders; unchanged files are skipped, changed ones replaced.

        A file with the size and time of modification of its last time is skipped at once, others by a hash of their
        content. After an interruption the next run continues where it stopped. A file that cannot be read is reported,
        and stops nothing.

        Args:
            paths: Files, and folders with all their subfolders. Of multitrack songs only the mixes are taken.
            listen: Whether to measure tempo and key where file names do not state them.
            engine: Where files are separated and embedded, such as `stemsim.retrieval.RayEngine()`; None: here.
            follow_links: Search folders that are linked too.
            progress: Show a progress bar on standard error.
            watch: Called after each file with the share of all bytes that are done, and the counts so far. An error
                that it raises ends the run; what was complete is kept.

        Returns:
            Counts, the files that are silent or cannot be read, and what was skipped.

        Raises:
            DataNotFoundError: If one of `paths` does not exist.
        """
        from stemsim.retrieval.indexing.adding import Adding, AddReport, Extraction, progress_bar
        from stemsim.retrieval.indexing.files import find_files, stat_files

        begun, windowing = time.monotonic(), self.card.windowing
        found = find_files(_listed(paths), mixes_only=self.card.is_multitrack, follow_links=follow_links)
        known = self._catalogue.records()
        done = {file.path: file for file in known if file.done}
        # The stems of a song may change while its mix does not.
        files, unchanged, unseen = stat_files(found.paths, done, always=self.card.is_multitrack)
        report = AddReport()
        if files:
            with self._catalogue.writing():
                pass  # a library that cannot be written to is found now, not after the first batch
            started: AbstractContextManager[Extraction]
            if engine is None:
                started = nullcontext(Extraction.local(self.embedder, windowing, listen=listen))
            else:
                started = engine.started(self.card, listen=listen)
            with started as extraction, progress_bar(files, show=progress, watch=watch) as advance:
                report = Adding(self._catalogue, self.index, extraction, windowing, advance).run(files, known)
        if report.added or report.changed:
            self._tidy()
        report.failures[:0] = [*found.failures, *unseen]
        report.skipped = +found.skipped
        report.unchanged += unchanged
        report.seconds = time.monotonic() - begun
        return report

    def remove(self, paths: str | Path | Sequence[str | Path]) -> list[Path]:
        """Remove files, and folders with all their subfolders, from the library, not from the disk.

        Returns:
            The files that were removed, whether they still existed or not.

        Raises:
            DataNotFoundError: If no file of the library has one of these paths.
        """
        known = self._catalogue.records()
        chosen: list[FileRecord] = []
        for path in map(str, map(absolute, _listed(paths))):
            folder = path.rstrip(os.sep) + os.sep
            inside = [record for record in known if record.path == path or record.path.startswith(folder)]
            if not inside:
                raise DataNotFoundError(f"The library {self.root} has no file {path}, and none in it. Check the path.")
            chosen += inside
        return self._drop(chosen)

    def prune(self, *, even_all: bool = False) -> list[Path]:
        """Remove the files that no longer exist on the disk; return them.

        Args:
            even_all: Remove them even if none is left.

        Raises:
            DataNotFoundError: If not a single file exists, which may be because a disk is not mounted.
        """
        known = self._catalogue.records()
        missing = {record.path for record in known if not os.path.lexists(record.path)}
        if missing and missing.issuperset(record.path for record in known) and not even_all:
            raise DataNotFoundError(
                f"None of the {len(known)} files of the library {self.root} is on this machine; is their disk mounted? "
                "To remove them all the same: --even-all."
            )
        # What a killed process began and did not complete is removed too.
        return self._drop([record for record in known if record.path in missing or not record.done])

    def check(self) -> "list[Fault]":
        """Find what is wrong with the library: files, list and items that disagree, and vectors that are not sound.

        Nothing is written. Files that another process is adding at this moment may be listed as begun.
        """
        from stemsim.retrieval.integrity import find_faults

        return find_faults(self._catalogue, self.index, self.card)

    def repair(self) -> "tuple[list[Fault], list[Fault]]":
        """Mend what `check` finds; files are indexed again where need be.

        Returns:
            The faults that were found, and those that are left, such as files that cannot be read.

        Raises:
            DataNotFoundError: If not a single file exists, which may be because a disk is not mounted.
        """
        from stemsim.retrieval.integrity import mend

        found, again = mend(self._catalogue, self.index, self.card)
        if again:
            self.add(again)
        if found:
            self._tidy()
        return found, self.check()

    def _drop(self, records: Sequence[FileRecord]) -> list[Path]:
        with self._catalogue.writing():
            # Not done first: if this is killed, no file is done without its items.
            self._catalogue.put([replace(record, done=False) for record in records])
            self.index.delete([key for record in records for key in record.item_keys(self.card.windowing)])
            self._catalogue.delete(records)
        if records:
            self._tidy()
        return sorted({Path(record.path) for record in records if record.done})

    def _tidy(self) -> None:
        """Merge small files; build or extend the approximate index if it is due."""
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
        """Find the items that sound most like a piece of audio, a description in words, or both.

        If the library's model has a nonlinear fusion, a search by audio with the library's own weights finds candidates
        by the weighted sum and ranks the best of them, at least 200 and ten for each hit, again by the fusion.

        Args:
            query: A path, a `Segment`, `(waveform, sample_rate)`, or `StemEmbeddings` of the library's stems.
            text: A description, such as "warm analog bass"; the library's encoder must encode text.
            text_weight: Share of the description beside a query, from 0 to 1.
            text_stems: Stems that the description is about, beside a query; None: all.
            routing: Weights of stems, as a `Routing`, by name, or as on the command line (`drums=1,bass=0.5`,
                `drums:mix`, `learned`, `equal`). None: those of the library, else equal; for words alone, the mix.
            k: Most hits.
            where: Conditions that hits must meet.
            include_self: Let the query find itself: the same audio at the same time.
            fold: Mean cosine from which windows of the same audio count as one.

        Returns:
            Up to `k` hits, best first.

        Raises:
            ConfigError: If there is nothing to search with, or every weighted stem is silent in the query.
            StemsimError: If the query cannot be read or embedded.
        """
        if k < 1:
            raise ConfigError(f"A search returns at least 1 hit; got k={k}.")
        asked = self.query(query, text=text, text_weight=text_weight, text_stems=text_stems)
        chosen = self.routing(routing, words_only=query is None)
        check_audible(asked, chosen, query)
        fusion = None if asked.levels is None else chosen.fusion
        vector, conditions = chosen.fold(asked.vectors), require_negative_stems(where, chosen)

        def search(count: int) -> Comparison:
            found = self.index.search(vector, count, where=conditions)
            return compare_vectors(found if fusion is None else rerank(found, asked, fusion), asked, chosen, fusion)

        return find_hits(
            search,
            asked,
            chosen,
            k,
            total=self.index.count(),
            measured=self._measured,
            wanted=0 if fusion is None else max(_RERANKED * k, _LEAST_RERANKED),
            fusion=None if fusion is None else type(fusion).__name__,
            include_self=include_self,
            fold=fold,
        )

    def hold(self, query: Query, *, like: HeldQuery | None = None) -> HeldQuery:
        """Hold a query of `query`, so that it can be searched again with other weights at once.

        Args:
            query: The query.
            like: Another held query, whose description of the items is shared if the library still has the same ones.
        """
        measured = {record.path: record.measured for record in self._catalogue.records() if record.done}
        return HeldQuery(self.index, query, measured=measured, like=like)

    def query(
        self,
        query: Input | None = None,
        *,
        text: str | None = None,
        text_weight: float = 0.5,
        text_stems: Sequence[str] | None = None,
        listener: Listener | None = None,
    ) -> Query:
        """Return the query of a search; the arguments are those of `search`, and what follows how audio is embedded."""
        if query is None:
            if text is None:
                raise ConfigError("There is nothing to search with: give a piece of audio, a text, or both.")
            return text_query(text, self.encoder, self.stems)
        asked = audio_query(query, self.embedder, self.card.windowing, listener=listener)
        return asked if text is None else with_text(asked, text, self.encoder, weight=text_weight, stems=text_stems)

    def take_weights(self, model: str) -> None:
        """Search with the weights of another model from now on, such as personal ones; what is stored stays as it is.

        Args:
            model: Name or folder of a model with the library's encoder and stems, and a weighted sum.

        Raises:
            StemMismatchError: If it has other stems.
            ConfigError: If it has another encoder, or a nonlinear fusion.
        """
        from stemsim.fusion import LinearFusion
        from stemsim.model import load_fitted

        card, fusion = load_fitted(model)
        remedy = f"Name a model with the stems of the library {self.root}."
        check_same_layout(self.stems, card.stems, what=f"the model {card.name!r}", remedy=remedy)
        if card.encoder.name != self.card.encoder.name or not isinstance(fusion, LinearFusion):
            raise ConfigError(
                f"--model must have the encoder of the library, {self.card.encoder}, and a weighted sum; {card.name!r} "
                f"has the encoder {card.encoder} and the fusion {card.fusion}. Name another model, or index with it."
            )
        weights = dict(zip(card.stems, fusion.weight.tolist(), strict=True))
        self.card = replace(self.card, weights=weights, model=str(model), fusion=None)

    def routing(
        self, routing: Routing | Mapping[str, float] | str | None = None, *, words_only: bool = False
    ) -> Routing:
        """Return the weights of a search, with the fusion of the library's model if they are the library's own.

        Args:
            routing: As for `search`.
            words_only: Whether the query is words alone: the default is then the mix, since text encoders are trained
                on whole recordings.

        Raises:
            StemMismatchError: If a `Routing` is between other stems than the library's.
            ConfigError: If a stem is not the library's, or the fusion cannot be loaded.
        """
        if isinstance(routing, Routing):
            remedy = "Make a routing between the stems of the library."
            check_same_layout(self.stems, routing.stems, what="the routing", remedy=remedy)
            return routing
        if routing is None and words_only and "mix" in self.stems:
            return Routing.sliders(self.stems, {"mix": 1.0})
        if routing is None or (routing == "learned" and self.card.fusion is not None):
            own = Routing.sliders(self.stems, self.card.weights) if self.card.weights else Routing.equal(self.stems)
            return replace(own, fusion=self.fusion)
        if isinstance(routing, str):
            return Routing.parse(routing, self.stems, self.card.weights or None)
        return Routing.sliders(self.stems, routing)

    def stats(self) -> "LibraryStats":
        """Count the files and items of the library."""
        from stemsim.retrieval.stats import stats_of

        return stats_of(self._catalogue.records(), self.index)

    def item_counts(self) -> dict[Path, int]:
        """Return the number of items of each file."""
        return {Path(record.path): record.items for record in self._catalogue.records() if record.done}

    def _measured(self, paths: list[str]) -> dict[str, frozenset[str]]:
        """Return which tags of some paths were measured."""
        records = self._catalogue.records_of(list(set(paths)))
        return {record.path: record.measured for record in records if record.done}


def _listed(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, str | Path) else paths


def _model_of(name: str) -> tuple[str, str | None]:
    """Return a ready-made model's name or the absolute path of a folder, and the class of a nonlinear fusion."""
    from stemsim.fusion import LinearFusion
    from stemsim.model import available_models, load_fusion

    fusion = load_fusion(name)
    place = name if name in available_models() else str(absolute(name))
    return place, None if isinstance(fusion, LinearFusion) else type(fusion).__name__
