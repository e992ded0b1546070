"""The queries that the page holds: taken in by jobs, ranked at once."""

import math
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor

from stemsim.app.audio import Peaks, StemFiles, fine_columns, peaks_of, sounding_part, write_part
from stemsim.app.jobs import Job, Jobs
from stemsim.app.security import RealFolders
from stemsim.audio import Segment, audio_info
from stemsim.errors import AudioError, ConfigError, DataNotFoundError, StemsimError
from stemsim.retrieval import Hit, ItemFilter, Library, Routing
from stemsim.retrieval.held_query import HeldQuery
from stemsim.retrieval.items import Items
from stemsim.retrieval.query import Query

_HELD: Final = 8
_LOUDEST_GAIN: Final = 12.0  # dB
_USUAL_LEVEL: Final = -20.0  # dBFS, to which hits are brought where the query has no level


@dataclass(eq=False)
class Reference:
    """What the user searches with, and what is known of it so far."""

    name: str
    kind: Literal["upload", "item", "text"]
    folder: Path  # its own files: `mix.wav` and one file a stem
    source: Path | None = None  # the whole file; None for words
    start: float | None = None  # of the span in it, in seconds; None: of what sounds
    end: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    job: Job = field(init=False)  # that takes it in
    duration: float | None = None  # of the whole file
    trimmed: tuple[float, float] | None = None  # what sounds, if something was cut off
    whole: Peaks | None = None  # of the file, in fine columns
    held: HeldQuery | None = None

    @property
    def query(self) -> Query:
        """The query, as the library compares it.

        Raises:
            ConfigError: If it is still being taken in, or could not be.
        """
        return self.ready.query

    @property
    def ready(self) -> HeldQuery:
        """The query with its cosines; raises like `query`."""
        if self.held is None:
            raise NotReadyError(f"{self.name!r} is still being taken in, or could not be: see its job {self.job.id}.")
        return self.held

    @property
    def level(self) -> float | None:
        """Level of the whole in dBFS; None for words, and until it is known."""
        if self.held is None or self.held.query.levels is None:
            return None
        query, levels = self.held.query, self.held.query.levels
        if "mix" in query.stems:
            return float(levels[query.stems.index("mix")])
        return 10.0 * math.log10(sum(10.0 ** (level / 10.0) for level in levels.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Return what the page shows."""
        stems = []
        if self.held is not None:
            query = self.held.query
            levels = [None] * len(query.stems) if query.levels is None else query.levels.tolist()
            stems = [
                {"name": stem, "silent": stem in query.silent, "level_db": level}
                for stem, level in zip(query.stems, levels, strict=True)
            ]
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "job": self.job.id,
            "state": self.job.state,
            "duration_s": self.duration,
            "span": None if self.start is None else [self.start, self.end],
            "trimmed": self.trimmed,
            "stems": stems,
            "loudness_db": self.level,
        }


class NotReadyError(StemsimError):
    """A query is asked for something before it is taken in."""


class Queries:
    """The last few queries, and the library that they search.

    Args:
        library: The library.
        jobs: Where queries are taken in.
        folder: Private folder for their files.
        longest: Longest file that is taken in, in seconds.
    """

    def __init__(self, library: Library, jobs: Jobs, folder: Path, *, longest: float) -> None:
        self.library = library
        self.folders = RealFolders(library.item_counts())
        self._jobs = jobs
        self._folder = folder
        self._longest = longest
        self._references: OrderedDict[str, Reference] = OrderedDict()
        self._lock = threading.Lock()
        self._pace: float | None = None  # seconds that a window took last

    def upload(self, path: Path, name: str, start: float | None, end: float | None) -> Reference:
        """Take in an uploaded file, which is moved, or a span of it in seconds; silence at both ends is cut off."""
        reference = Reference(name, "upload", self._new_folder(), start=start, end=end)
        reference.source = path.rename(reference.folder / "upload")
        return self._submit(reference)

    def span(self, query: str, start: float, end: float) -> Reference:
        """Take in another span, in seconds, of the file of a query."""
        of = self.get(query)
        if of.source is None:
            raise ConfigError(f"{of.name!r} is words: it has no span. Choose a sound.")
        reference = replace(of, id=secrets.token_hex(8), folder=self._new_folder(), start=start, end=end, held=None)
        if of.kind == "upload":
            reference.source = reference.folder / "upload"
            os.link(of.source, reference.source)
        return self._submit(reference)

    def item(self, key: str) -> Reference:
        """Search with an item of the library."""
        path, start, duration, _ = self.place(key)
        source = self.folders.locate(path)
        reference = Reference(path.name, "item", self._new_folder(), source, start=start, end=start + duration)
        return self._submit(reference)

    def text(self, text: str) -> Reference:
        """Search with words."""
        return self._submit(Reference(text, "text", self._new_folder()))

    def get(self, query: str) -> Reference:
        """Return a query by its id.

        Raises:
            DataNotFoundError: If there is none, or not any more.
        """
        with self._lock:
            if query not in self._references:
                raise DataNotFoundError(
                    f"The query {query!r} is not held any more: only the last {_HELD} are. Drop the sound again."
                )
            self._references.move_to_end(query)
            return self._references[query]

    def held(self) -> list[Reference]:
        """Return the queries that are taken in, the last used one at the end."""
        with self._lock:
            return [reference for reference in self._references.values() if reference.held is not None]

    def place(self, key: str) -> tuple[Path, float, float, float]:
        """Return path, start, duration and length of the file of an item; times in seconds."""
        found = self.items([key])
        return Path(found.path[0]), float(found.start[0]), float(found.duration[0]), float(found.file_duration[0])

    def items(self, keys: Sequence[str]) -> Items:
        """Return items of the library in the order of their keys.

        Raises:
            DataNotFoundError: If one is not in the library.
        """
        found = self.library.index.items(keys)
        rows = {key: row for row, key in enumerate(found.key)}
        if missing := [key for key in keys if key not in rows]:
            raise DataNotFoundError(f"The library has no item {missing[0]!r} any more. Search again.")
        return found.take([rows[key] for key in keys])

    def routing(self, reference: Reference, weights: Mapping[str, float] | None, preset: str | None) -> Routing:
        """Return the weights of a ranking: the given ones, else those of a preset, else the library's own."""
        chosen = preset if weights is None else ",".join(f"{name}={weight!r}" for name, weight in weights.items())
        return self.library.routing(chosen, words_only=reference.kind == "text")

    def rank(
        self, reference: Reference, routing: Routing, where: ItemFilter | None, k: int, *, include_self: bool
    ) -> list[dict[str, Any]]:
        """Return the hits of a query as the page shows them."""
        held = reference.ready
        hits = held.search(routing, k, where=where, include_self=include_self)
        heard = sum(abs(weight) for query, _, weight in routing.pairs if query not in held.query.silent)
        level = _USUAL_LEVEL if reference.level is None else reference.level
        return [_shown(hit, heard, level) for hit in hits]

    def hold_again(self, watch: Callable[[float], None]) -> None:
        """Compare all queries with the items that the library has now; `watch` gets the share that is done."""
        self.folders.add(self.library.item_counts())
        references = self.held()
        for number, reference in enumerate(references):
            watch(number / len(references))
            reference.held = self._hold(reference.query)

    def _new_folder(self) -> Path:
        folder = self._folder / secrets.token_hex(8)
        folder.mkdir()
        return folder

    def _submit(self, reference: Reference) -> Reference:
        reference.job = Job("query", lambda job: self._take_in(reference, job), query=reference.id)
        with self._lock:
            if sum(not one.job.is_finished for one in self._references.values()) >= _HELD:
                raise ConfigError(f"{_HELD} queries wait to be taken in. Wait for them, or cancel one.")
            self._references[reference.id] = reference
        self._jobs.submit(reference.job)
        return reference

    def _take_in(self, reference: Reference, job: Job) -> dict[str, Any]:
        try:
            if reference.source is None:
                job.advance("embedding", 0.0)
                query = self.library.query(text=reference.name)
            else:
                query = self._embedded(reference, self._segment(reference, reference.source, job), job)
            job.advance("comparing", 0.95)
            self._drop_old()
            reference.held = self._hold(query)
        except StemsimError as error:
            if reference.kind == "upload":  # whose name the user knows, but not its place
                source = str(reference.source)
                error.args = tuple(str(part).replace(source, reference.name) for part in error.args)
            raise
        finally:
            if reference.held is None:
                shutil.rmtree(reference.folder)
        return {"query": reference.id}

    def _drop_old(self) -> None:
        """Make room for one query, and forget all but the last that failed."""
        with self._lock:
            held = [one for one in self._references.values() if one.held is not None]
            failed = [one for one in self._references.values() if one.held is None and one.job.is_finished]
            dropped = held[: max(0, len(held) - _HELD + 1)] + failed[:-_HELD]
            for old in dropped:
                del self._references[old.id]
        for old in dropped:
            shutil.rmtree(old.folder, ignore_errors=True)

    def _segment(self, reference: Reference, source: Path, job: Job) -> Segment:
        """Look through the file once, and return the span to search with."""
        if reference.kind == "item":
            reference.duration = audio_info(source).duration
            return Segment.between(source, reference.start, reference.end)
        if reference.whole is None:
            job.advance("reading", 0.0)
            duration = audio_info(source).duration
            if duration > self._longest:
                raise AudioError(
                    f"{source} lasts {duration / 60:.1f} min; a query lasts at most {self._longest / 60:g} min. Cut "
                    f"it, for instance: ffmpeg -i FILE -ss 60 -t {self._longest:g} part.wav"
                )
            whole = peaks_of(
                source, 0.0, duration, fine_columns(duration), watch=lambda done: job.advance("reading", 0.1 * done)
            )
            part = sounding_part(whole, duration)
            if part is None:
                raise AudioError(f"{source} is silent: no sample is above -60 dBFS. Choose another file.")
            reference.duration, reference.whole = duration, whole
            reference.trimmed = None if part == (0.0, duration) else part
        sounding = reference.trimmed or (0.0, reference.duration)
        if reference.start is None and reference.end is None:
            segment = Segment.between(source, *sounding)
            if reference.trimmed:
                job.message = f"Silence was cut off: {sounding[0]:.2f} s to {sounding[1]:.2f} s is searched with."
        else:
            segment = Segment.between(source, reference.start, reference.end)
        reference.start, reference.end = segment.start, segment.start + segment.duration
        return segment

    def _embedded(self, reference: Reference, segment: Segment, job: Job) -> Query:
        write_part(reference.folder / "mix.wav", segment)
        library = self.library
        windows = len(library.card.windowing.spans(segment.duration))
        with StemFiles(reference.folder, library.stems, library.encoder.sample_rate, segment.start) as files:
            listener = _Progress(job, files, windows, self._pace)
            query = library.query(segment, listener=listener)
        self._pace = listener.pace
        return query

    def _hold(self, query: Query) -> HeldQuery:
        others = self.held()
        return self.library.hold(query, like=others[-1].held if others else None)


class _Progress:
    """Writes the stems of windows, and reports the stage and the time left from the speed so far."""

    def __init__(self, job: Job, files: StemFiles, windows: int, pace: float | None) -> None:
        self.pace = pace  # seconds for a window
        self._job, self._files, self._windows = job, files, windows
        self._begun = time.monotonic()
        self._done = 0
        self._report("separating")

    def separated(self, segments: Sequence[Segment], stems: Tensor) -> None:
        self._files.write(segments, stems)
        self._report("embedding", half=len(segments))

    def embedded(self, segments: Sequence[Segment]) -> None:
        self._done += len(segments)
        self.pace = (time.monotonic() - self._begun) / self._done
        self._report("separating" if self._done < self._windows else "comparing")

    def _report(self, stage: str, *, half: int = 0) -> None:
        left = None if self.pace is None else self.pace * self._windows - (time.monotonic() - self._begun)
        share = (self._done + half / 2.0) / self._windows
        self._job.advance(stage, 0.1 + 0.85 * share, None if left is None else max(0.0, left))


def _shown(hit: Hit, heard: float, level: float) -> dict[str, Any]:
    """Return a hit as JSON, given the sum of the weights that are heard, and the level in dBFS of the query."""
    shown = hit.to_dict()
    gain = max(-_LOUDEST_GAIN, min(_LOUDEST_GAIN, level - hit.loudness))
    return {
        "item": shown.pop("key"),
        "name": hit.path.name,
        "folder": os.path.dirname(shown["path"]),  # noqa: PTH120 - quicker than a new path
        "percent": max(0.0, min(100.0, 100.0 * hit.similarity / heard)),
        "gain_db": gain,
        **shown,
    }
