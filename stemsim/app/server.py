"""The server of the page: routes of the HTTP API, answers and errors."""

import ctypes
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, fields, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import anyio
import pandas as pd
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stemsim.app.audio import fewer_columns, peaks_of, write_part
from stemsim.app.jobs import Job, Jobs
from stemsim.app.listening import AlikeVotes, VotesLog
from stemsim.app.queries import NotReadyError, Queries, Reference
from stemsim.app.security import Guard, check_binding, error_response
from stemsim.audio import Segment
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, DataNotFoundError, StemsimError, StoreError
from stemsim.fusion import WeightedFusion
from stemsim.model import load_fitted
from stemsim.retrieval import ItemFilter, Library
from stemsim.retrieval.export import export_item
from stemsim.retrieval.items import TYPES
from stemsim.retrieval.recall import recall_check
from stemsim.retrieval.tags.names import keys_named
from stemsim.retrieval.tags.vocabulary import CATEGORIES
from stemsim.stems import STEM_COLORS

if TYPE_CHECKING:
    from stemsim.app.listen import Listen

__all__ = ["UPLOAD_BYTES", "create_app", "serve"]

_log = logging.getLogger(__name__)

UPLOAD_BYTES: Final = 500_000_000
"""Largest upload."""

STATIC: Final = Path(__file__).parent / "static"
"""Files of the pages."""

LONGEST_QUERY: Final = 900.0
"""Longest file that a query is made of, in seconds."""

_JSON_BYTES: Final = 1_000_000
_UPLOADS: Final = 4  # at a time
_UPLOAD_SECONDS: Final = 600.0
_COLUMNS: Final = 4000
_READ_AHEAD: Final = 32 * 2**20  # bytes
_MMAP_THRESHOLD: Final = -3  # of malloc.h
_WINDOWS_KEPT: Final = 200  # wav files of items
_Hits = Annotated[int, Field(ge=1, le=500)]
_Weights = dict[str, float]
Body = TypeVar("Body", bound=BaseModel)


class RequestBody(BaseModel):
    """A JSON object, without entries that nobody knows."""

    model_config = ConfigDict(extra="forbid")


class _Rank(RequestBody):
    weights: _Weights | None = None
    preset: Literal["learned", "equal"] | None = None
    where: dict[str, Any] = {}
    k: _Hits = 50
    include_self: bool = False
    sequence: int = 0


class _NewQuery(RequestBody):
    item: str | None = None
    text: Annotated[str, Field(max_length=1000)] | None = None
    query: str | None = None
    start: Annotated[float | None, Field(alias="from", allow_inf_nan=False)] = None
    end: Annotated[float | None, Field(alias="to", allow_inf_nan=False)] = None


class _Alike(RequestBody):
    item: str
    alike: bool


class _Compare(RequestBody):
    x: str
    a: str
    weights: _Weights | None = None


class _Export(RequestBody):
    items: Annotated[list[str], Field(min_length=1, max_length=500)]
    format: Literal["csv", "zip"]
    query: str | None = None
    weights: _Weights | None = None


class _Add(RequestBody):
    folder: str
    follow_links: bool = False


class _Api:
    """The answers of the HTTP API for one library."""

    def __init__(
        self, library: Library, folder: Path, *, upload_bytes: int, longest: float, votes: VotesLog | None
    ) -> None:
        self.library = library
        self._alike = None if votes is None else AlikeVotes(votes)
        self.jobs = Jobs()
        self.queries = Queries(library, self.jobs, folder, longest=longest)
        self._folder = folder
        self._limits = {"upload_bytes": upload_bytes, "query_s": longest, "hits": 500, "export": 500}
        self._uploads = 0
        self._failures: list[dict[str, str]] = []

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/api/library", self.describe),
            Route("/api/library/add", self.add, methods=["POST"]),
            Route("/api/library/recall", self.recall, methods=["POST"]),
            Route("/api/model", self.model),
            Route("/api/job/{job}", self.job),
            Route("/api/job/{job}", self.cancel, methods=["DELETE"]),
            Route("/api/query", self.upload, methods=["PUT"]),
            Route("/api/query", self.new_query, methods=["POST"]),
            Route("/api/query/{query}", self.query),
            Route("/api/query/{query}/peaks", self.query_peaks),
            Route("/api/query/{query}/rank", self.rank, methods=["POST"]),
            Route("/api/item/{item}/peaks", self.item_peaks),
            Route("/api/query/{query}/alike", self.alike, methods=["POST"]),
            Route("/api/compare", self.compare, methods=["POST"]),
            Route("/api/export", self.export, methods=["POST"]),
            Route("/audio/item/{item}", self.item_audio),
            Route("/audio/query/{query}/{stem}", self.query_audio),
        ]

    async def describe(self, _request: Request) -> Response:
        """`GET /api/library`: what is in the library, and what it can be asked."""

        def described() -> dict[str, Any]:
            library, stats = self.library, asdict(self.library.stats())
            keys = {key for key in library.index.table(["musical_key"])["musical_key"].to_pylist() if key}
            return {
                "root": library.root,
                "name": Path(library.root).name,
                "items": stats["items"],
                "files": stats["files"],
                "stats": stats,
                "stems": [{"name": stem, "color": STEM_COLORS[stem]} for stem in library.stems],
                "window_s": library.card.window,
                "encoder": str(library.card.encoder),
                "separator": str(library.card.separator),
                "encodes_text": type(library.encoder).encode_text is not Encoder.encode_text,
                "model": library.card.model,
                "learned": dict(library.card.weights) or None,
                "categories": CATEGORIES,
                "types": TYPES,
                "keys": sorted(keys),
                "failures": self._failures,
                "limits": self._limits,
                "listens": self._alike is not None,
                "queries": [{"id": one.id, "name": one.name} for one in self.queries.held()],
                "jobs": [job.to_dict() for job in self.jobs.unfinished()],
            }

        return JSONResponse(await run_in_threadpool(described))

    async def add(self, request: Request) -> Response:
        """`POST /api/library/add`: add a folder of this machine."""
        body = await read_body(request, _Add)

        def work(job: Job) -> dict[str, Any]:
            begun = time.monotonic()
            job.advance("adding", 0.0)

            def watch(share: float, _report: object) -> None:
                left = (time.monotonic() - begun) * (1.0 - share) / share if share else None
                job.advance("adding", 0.9 * share, left)

            report = self.library.add(body.folder, follow_links=body.follow_links, watch=watch)
            self._failures = report.to_dict()["failures"]
            self.queries.hold_again(lambda share: job.advance("comparing", 0.9 + 0.1 * share))
            return report.to_dict()

        return self._accepted(self.jobs.submit(Job("add", work)))

    async def recall(self, request: Request) -> Response:
        """`POST /api/library/recall`: compare the answers of the index with exact ones."""
        await read_body(request, RequestBody)

        def work(job: Job) -> dict[str, Any]:
            job.advance("checking", 0.0)
            check = recall_check(self.library.index)
            return {"sentence": check.sentence, "rows": check.frame.to_dict("records")}

        return self._accepted(self.jobs.submit(Job("recall", work)))

    async def model(self, _request: Request) -> Response:
        """`GET /api/model`: the card of the library's model."""

        def described() -> dict[str, Any]:
            if self.library.card.model is None:
                raise DataNotFoundError("This library was made without a model: its weights are equal.")
            card, fusion = load_fitted(self.library.card.model)
            weights = fusion.weight.tolist() if isinstance(fusion, WeightedFusion) else []
            return {
                "name": card.name,
                "summary": card.summary,
                "weights": [
                    {"stem": stem, "weight": weight, "low": None, "high": None}
                    for stem, weight in zip(card.stems, weights, strict=bool(weights))
                ],
                "agreement": [asdict(one) for one in card.agreement],
                "measured_on": card.measured_on,
                "fitted": card.fitted,
                "citation": card.citation,
                "license": card.license,
                "encoder": str(card.encoder),
                "separator": str(card.separator),
                "fusion": str(card.fusion),
            }

        return JSONResponse(await run_in_threadpool(described))

    async def job(self, request: Request) -> Response:
        """`GET /api/job/{job}`: how far a job is."""
        return JSONResponse(self.jobs.get(request.path_params["job"]).to_dict())

    async def cancel(self, request: Request) -> Response:
        """`DELETE /api/job/{job}`: stop a job as soon as it can be stopped."""
        job = self.jobs.get(request.path_params["job"])
        job.cancelled.set()
        return self._accepted(job)

    async def upload(self, request: Request) -> Response:
        """`PUT /api/query`: take in the bytes of an audio file."""
        start, end = (_number(request, name) for name in ("from", "to"))
        name = request.query_params.get("name", "upload")[:200]
        path = self._folder / secrets.token_hex(8)
        if self._uploads >= _UPLOADS:
            raise HTTPException(429, f"{_UPLOADS} files are being uploaded already. Wait for one of them.")
        self._uploads += 1
        try:
            with anyio.fail_after(_UPLOAD_SECONDS):
                await self._receive(request, path)
            reference = await run_in_threadpool(self.queries.upload, path, name, start, end)
        except TimeoutError as error:
            raise HTTPException(
                408, f"The upload took more than {_UPLOAD_SECONDS:g} s. Upload a shorter file."
            ) from error
        finally:
            self._uploads -= 1
            path.unlink(missing_ok=True)
        return self._taken(reference)

    async def _receive(self, request: Request, path: Path) -> None:
        """Write an upload to a file, as far as it is not too large."""
        limit, size = self._limits["upload_bytes"], 0
        async with await anyio.open_file(path, "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise HTTPException(
                        413, f"The file is larger than {limit / 1e6:g} MB. Cut it, or upload an mp3 of it."
                    )
                await file.write(chunk)

    async def new_query(self, request: Request) -> Response:
        """`POST /api/query`: search with an item, with words, or with another span of a query."""
        body = await read_body(request, _NewQuery)
        if sum(one is not None for one in (body.item, body.text, body.query)) != 1:
            raise ConfigError("A query is one of: item, text, or query with `from` and `to`.")
        if body.item is not None:
            reference = await run_in_threadpool(self.queries.item, body.item)
        elif body.text is not None:
            reference = self.queries.text(body.text)
        elif body.query is not None and body.start is not None and body.end is not None:
            reference = await run_in_threadpool(self.queries.span, body.query, body.start, body.end)
        else:
            raise ConfigError("A span of a query needs `from` and `to`, in seconds.")
        return self._taken(reference)

    async def query(self, request: Request) -> Response:
        """`GET /api/query/{query}`: what is known of a query."""
        reference = self._reference(request)
        return JSONResponse(reference.to_dict())

    async def query_peaks(self, request: Request) -> Response:
        """`GET /api/query/{query}/peaks`: the waveform of a stem, or of the whole upload."""
        reference, columns = self._reference(request), _columns(request)
        span = (reference.start, reference.end)
        if request.query_params.get("whole") == "1" and reference.whole is not None:
            peaks, span = fewer_columns(reference.whole, columns), (0.0, reference.duration)
        else:
            path = self._stem(reference, request.query_params.get("stem", "mix"))
            peaks = await run_in_threadpool(peaks_of, path, 0.0, Segment.whole(path).duration, columns)
        return JSONResponse({"columns": len(peaks), "start": span[0], "end": span[1], "peaks": peaks.round(4).tolist()})

    async def rank(self, request: Request) -> Response:
        """`POST /api/query/{query}/rank`: the most similar items for some weights."""
        reference, body = self._reference(request), await read_body(request, _Rank)

        def ranked() -> bytes:
            routing = self.queries.routing(reference, body.weights, body.preset)
            where = _conditions(body.where)
            hits = self.queries.rank(reference, routing, where, body.k, include_self=body.include_self)
            total = len(reference.ready)
            # Some 40 kB with each move of a slider, which the usual encoder takes several times as long for.
            return to_json({"sequence": body.sequence, "weights_text": routing.text, "total": total, "hits": hits})

        return Response(await run_in_threadpool(ranked), media_type="application/json")

    async def alike(self, request: Request) -> Response:
        """`POST /api/query/{query}/alike`: mark a result as alike or not, as a vote."""
        reference, body = self._reference(request), await read_body(request, _Alike)
        alike, source = self._alike, reference.source
        if alike is None:
            raise ConfigError("Marks are kept as votes: start the page with --votes FILE.")
        if reference.kind != "item" or source is None or reference.start is None or reference.end is None:
            raise ConfigError("A vote needs a sound that stays: search with a sound of the library (more like this).")
        asked = Segment(source, reference.start, reference.end - reference.start)

        def marked() -> int:
            path, start, duration, _ = self.queries.place(body.item)
            return alike.mark(asked, Segment(self.queries.folders.locate(path), start, duration), alike=body.alike)

        return JSONResponse({"votes": await run_in_threadpool(marked)})

    async def compare(self, request: Request) -> Response:
        """`POST /api/compare`: the similarity of two queries, stem by stem."""
        body = await read_body(request, _Compare)
        references = [self.queries.get(one) for one in (body.x, body.a)]

        def compared() -> dict[str, Any]:
            x, a = (reference.query for reference in references)
            routing = self.queries.routing(references[0], body.weights, None)
            cosines = (x.vectors.double() * a.vectors.double()).sum(dim=1).tolist()
            weights = routing.matrix.diagonal().tolist()
            silent = {(False, True): "x", (True, False): "a", (False, False): "both", (True, True): None}
            sounds = zip(x.present.tolist(), a.present.tolist(), strict=True)
            return {
                "similarity": sum(weight * cosine for weight, cosine in zip(weights, cosines, strict=True)),
                "weights_text": routing.text,
                "stems": [
                    {
                        "stem": stem,
                        "cosine": cosine if all(in_) else None,
                        "weight": weight,
                        "contribution": weight * cosine,
                        "silent": silent[in_],
                    }
                    for stem, cosine, weight, in_ in zip(x.stems, cosines, weights, sounds, strict=True)
                ],
            }

        return JSONResponse(await run_in_threadpool(compared))

    async def item_peaks(self, request: Request) -> Response:
        """`GET /api/item/{item}/peaks`: the waveform of an item."""
        columns = _columns(request)

        def measured() -> list[list[float]]:
            path, start, duration, _ = self.queries.place(request.path_params["item"])
            peaks: list[list[float]] = (
                peaks_of(self.queries.folders.locate(path), start, duration, columns).round(4).tolist()
            )
            return peaks

        peaks = await run_in_threadpool(measured)
        return JSONResponse({"columns": len(peaks), "peaks": peaks})

    async def item_audio(self, request: Request) -> Response:
        """`GET /audio/item/{item}`: the window of an item as wav."""

        def written() -> Path:
            path, start, duration, _ = self.queries.place(request.path_params["item"])
            source = self.queries.folders.locate(path)
            folder = self._folder / "items"
            folder.mkdir(exist_ok=True)
            version = source.stat().st_mtime_ns if source.exists() else 0
            target = folder / f"{request.path_params['item']}-{version}.wav"
            if not target.exists():
                for old in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)[:-_WINDOWS_KEPT]:
                    old.unlink(missing_ok=True)
                partial = folder / f"{secrets.token_hex(8)}.partial"
                write_part(partial, Segment(source, start, duration))
                partial.rename(target)
            return target

        return FileResponse(await run_in_threadpool(written), media_type="audio/wav")

    async def query_audio(self, request: Request) -> Response:
        """`GET /audio/query/{query}/{stem}`: the span of a query, or a stem of it, as wav."""
        path = self._stem(self._reference(request), request.path_params["stem"])
        return FileResponse(path, media_type="audio/wav")

    async def export(self, request: Request) -> Response:
        """`POST /api/export`: a table of items, or copies of them."""
        body = await read_body(request, _Export)
        folder = Path(await run_in_threadpool(tempfile.mkdtemp, dir=self._folder))
        write = self._write_zip if body.format == "zip" else self._write_table
        path = await run_in_threadpool(write, body, folder)
        kind = "application/zip" if body.format == "zip" else "text/csv"
        name = f"stemsim.{body.format}"
        return FileResponse(
            path, media_type=kind, filename=name, background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        )

    def _write_zip(self, body: _Export, folder: Path) -> Path:
        target = folder / "export.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for rank, key in enumerate(body.items, start=1):
                path, start, duration, whole = self.queries.place(key)
                source = self.queries.folders.locate(path)
                file = export_item(folder, rank, path, start, duration, whole, source=source)
                archive.write(file, file.name)
                file.unlink()
        return target

    def _write_table(self, body: _Export, folder: Path) -> Path:
        items = self.queries.items(body.items)
        names = ("path", "start", "duration", "bpm", "musical_key", "loudness")
        table = pd.DataFrame({name: getattr(items, name) for name in names})
        table["tags"] = [" ".join(tags) for tags in items.tags]
        if body.query is not None:
            reference = self.queries.get(body.query)
            routing = self.queries.routing(reference, body.weights, None)
            shares = reference.ready.contributions(body.items, routing)
            table["similarity"] = [sum(shares[key].values()) if key in shares else None for key in body.items]
            for name in routing.names:
                table[name] = [shares.get(key, {}).get(name) for key in body.items]
        table.index += 1
        target = folder / "export.csv"
        table.to_csv(target, index_label="rank")
        return target

    def _reference(self, request: Request) -> Reference:
        return self.queries.get(request.path_params["query"])

    def _stem(self, reference: Reference, stem: str) -> Path:
        """Return the wav file of a stem of a query."""
        reference.ready  # noqa: B018 - raises until its files are complete
        if stem not in {*self.library.stems, "mix"} or reference.source is None:
            raise DataNotFoundError(f"{reference.name!r} has no audio of {stem!r}.")
        return reference.folder / f"{stem}.wav"

    def _accepted(self, job: Job) -> Response:
        return JSONResponse({"job": job.id}, 202)

    def _taken(self, reference: Reference) -> Response:
        return JSONResponse({"query": reference.id, "job": reference.job.id}, 202)


class _Unexpected:
    """Middleware: an error that nobody foresaw is logged, and answered without its details."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except ClientDisconnect:
            pass
        except Exception as error:
            _log.exception("%s %s failed.", scope.get("method"), scope.get("path"))
            if started:
                raise
            message = f"An unexpected {type(error).__name__}. The terminal shows the details; the page goes on."
            await error_response(500, "Unexpected", message)(scope, receive, send)


async def _refused(_request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
    return error_response(status, type(error).__name__, str(error))


async def _wrong_request(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return error_response(error.status_code, HTTPStatus(error.status_code).phrase.replace(" ", ""), error.detail)


_STATUS: Final = {DataNotFoundError: 404, NotReadyError: 409, StoreError: 503}


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Read the JSON body of a request, of which there is never much."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _JSON_BYTES:
            raise HTTPException(413, f"A request holds at most {_JSON_BYTES} bytes of JSON.")
    try:
        return kind.model_validate_json(bytes(content))
    except ValidationError as error:
        raise ConfigError(f"The request is not as documented: {_problems(error)}.") from error


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors())


def _conditions(where: Mapping[str, Any]) -> ItemFilter | None:
    """Return the conditions of a ranking; a key may be written as people write it."""
    if not where:
        return None
    known = [field.name for field in fields(ItemFilter)]
    if unknown := where.keys() - known:
        raise ConfigError(f"Conditions are {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    try:
        conditions: ItemFilter = _FILTER.validate_python(dict(where))
    except ValidationError as error:
        raise ConfigError(f"These conditions cannot be read: {_problems(error)}.") from error
    if conditions.musical_key is None:
        return conditions
    keys = dict.fromkeys(key for name in conditions.musical_key for key in keys_named(name))
    return replace(conditions, musical_key=tuple(keys))


_FILTER: Final = TypeAdapter(ItemFilter)
_SECONDS: Final[TypeAdapter[float]] = TypeAdapter(Annotated[float, Field(allow_inf_nan=False)])


def _number(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    try:
        return None if text is None else _SECONDS.validate_strings(text)
    except ValidationError as error:
        raise ConfigError(f"`{name}` is a number of seconds; got {text!r}.") from error


def _columns(request: Request) -> int:
    text = request.query_params.get("columns", "800")
    if not text.isdecimal() or not 1 <= int(text) <= _COLUMNS:
        raise ConfigError(f"`columns` is a number from 1 to {_COLUMNS}; got {text!r}.")
    return int(text)


def create_app(
    library: Library,
    folder: Path,
    *,
    token: str,
    host: str = "127.0.0.1",
    upload_bytes: int = UPLOAD_BYTES,
    longest: float = LONGEST_QUERY,
    listening: "Listen | None" = None,
) -> Starlette:
    """Return the page and its API as an ASGI application.

    Args:
        library: The library to search; its models are loaded now.
        folder: Private folder for uploads, which the caller deletes.
        token: The secret that requests have to know.
        host: Name or address that the server is bound to.
        upload_bytes: Largest upload.
        longest: Longest file that a query is made of, in seconds.
        listening: A listening test on the library, for a tab of its own; marks on results are votes then too.

    Raises:
        StemsimError: If the library or its models cannot be opened.
    """
    _ = library.index, library.embedder
    api = _Api(
        library, folder, upload_bytes=upload_bytes, longest=longest, votes=None if listening is None else listening.log
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(api.jobs.close)

    more = [] if listening is None else listening.routes()
    return guarded_app([*api.routes(), *more], token=token, host=host, lifespan=lifespan)


def guarded_app(
    routes: Sequence[Route],
    *,
    token: str,
    host: str,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """Return an application of some routes and the static files, with errors in words, that only its page may ask."""
    return Starlette(
        routes=[*routes, Mount("/", StaticFiles(directory=STATIC, html=True))],
        middleware=[Middleware(Guard, token=token, host=host), Middleware(_Unexpected)],
        exception_handlers={StemsimError: _refused, HTTPException: _wrong_request},
        lifespan=lifespan,
    )


def _return_memory() -> None:
    """Make glibc give large blocks back when they are freed: it keeps a gigabyte after a library of 100 000 is read."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)


def serve(
    make: Callable[[Path, str], Starlette],
    *,
    host: str = "127.0.0.1",
    port: int = 8423,
    token: str | None = None,
    announce: Callable[[str], object],
) -> None:
    """Serve an application until the process is interrupted.

    Args:
        make: Makes the application, given a private folder, which is deleted in the end, and the token.
        host: Name or address to bind to.
        port: Port to bind to; 0: a free one.
        token: The secret that requests have to know; None: a random one, on loopback only.
        announce: Called with the address of the page as soon as it can be opened.

    Raises:
        ConfigError: If the address cannot be bound, or others could reach it without a token of the user's.
        StemsimError: If the application cannot be made.
    """
    # Read ahead by LanceDB, which is otherwise up to 2 GB, for every query that is taken in.
    os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_READ_AHEAD))
    secret = check_binding(host, token)
    _return_memory()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"Port {port} of {host} cannot be used ({error.strerror}). Choose another: --port 0."
        ) from error
    with bound, tempfile.TemporaryDirectory(prefix="stemsim-app-") as folder, suppress(KeyboardInterrupt):
        # What uvicorn does with it in the end would leave the folder behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        app = make(Path(folder), secret)
        shown = f"[{host}]" if ":" in host else host
        announce(f"http://{shown}:{bound.getsockname()[1]}/?token={secret}")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=3
        )
        uvicorn.Server(config).run(sockets=[bound])
