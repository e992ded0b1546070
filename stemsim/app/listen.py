"""The server of a listening test: what the page of a listener asks for."""

import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import track
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from stemsim.app.listening import (
    ANSWERS,
    ActiveChoice,
    Choice,
    ListeningTest,
    Stimuli,
    VotesLog,
    matched,
    random_choice,
)
from stemsim.app.server import STATIC, RequestBody, guarded_app, read_body
from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import DataNotFoundError, TripletError
from stemsim.model import load
from stemsim.retrieval import Library
from stemsim.retrieval.windows import Windowing, embed_windows
from stemsim.separators import Bands
from stemsim.similarity import StemEmbeddings

_KEPT: Final = 30  # sounds that can be asked for: those of the last trials
_LISTENERS: Final = 1000
_MOST_ITEMS: Final = 3000  # of a library

INSTRUCTIONS: Final = """# Which one sounds more like X?

You will hear three sounds: X, A and B. Decide which of A and B is more like X, and how sure you are.

- Hear all three as often as you like, with the keys 0, 1 and 2.
- There are no right answers. Go by your first impression.
- Some questions come twice. You may take a break at any time: every answer is kept.
"""
"""What listeners read before the test, unless the file of the experimenter says something else."""


@dataclass(frozen=True, slots=True)
class ListeningSettings:
    """Settings of a listening test, the same for all listeners."""

    questions: tuple[str, ...] = ()  # besides overall similarity
    trials: int = 42
    training: int = 2
    break_every: int = 20  # trials
    instructions: str = INSTRUCTIONS  # Markdown
    seed: int = 0


_Listener = Annotated[str, Field(min_length=1, max_length=100)]


class _Who(RequestBody):
    listener: _Listener


class _Vote(RequestBody):
    listener: _Listener
    vote_id: str
    answers: dict[str, str]
    plays: dict[str, int]


class Listen:
    """The answers of the HTTP API for one listening test."""

    def __init__(
        self, stimuli: Stimuli, log: VotesLog, settings: ListeningSettings, choice: Choice, model: str
    ) -> None:
        self.stimuli, self.log, self.settings, self.choice, self.model = stimuli, log, settings, choice, model
        self._tests: OrderedDict[str, ListeningTest] = OrderedDict()
        self._sounds: OrderedDict[str, Segment] = OrderedDict()  # by secret names: addresses tell nothing

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/api/listen", self.describe),
            Route("/api/listen/next", self.next, methods=["POST"]),
            Route("/api/listen/vote", self.vote, methods=["POST"]),
            Route("/audio/listen/{sound}", self.sound),
        ]

    async def describe(self, _request: Request) -> Response:
        """`GET /api/listen`: what listeners read and are asked."""
        settings = self.settings
        return JSONResponse(
            {
                "instructions": markdown_blocks(settings.instructions),
                "questions": ["overall", *settings.questions],
                "answers": ANSWERS,
                "trials": settings.trials + settings.training,
            }
        )

    async def next(self, request: Request) -> Response:
        """`POST /api/listen/next`: the trial that a listener hears now."""
        body = await read_body(request, _Who)
        return JSONResponse(await run_in_threadpool(self._next, self.test(body.listener)))

    async def vote(self, request: Request) -> Response:
        """`POST /api/listen/vote`: keep an answer, then the next trial."""
        body = await read_body(request, _Vote)
        test = self.test(body.listener)

        def voted() -> dict[str, Any]:
            test.vote(body.vote_id, body.answers, body.plays)
            return self._next(test)

        return JSONResponse(await run_in_threadpool(voted))

    async def sound(self, request: Request) -> Response:
        """`GET /audio/listen/{sound}`: a sound at matched loudness."""
        segment = self._sounds.get(request.path_params["sound"])
        if segment is None:
            raise DataNotFoundError("This sound is of an earlier trial. Load the page again.")
        content, _ = await run_in_threadpool(matched, segment)
        return Response(content, media_type="audio/wav", headers={"cache-control": "no-store"})

    def test(self, listener: str) -> ListeningTest:
        """Return the test of a listener, which goes on where it was."""
        name = listener.strip()
        if name not in self._tests:
            settings = self.settings
            self._tests[name] = ListeningTest(
                self.stimuli,
                self.log,
                listener=name,
                questions=settings.questions,
                trials=settings.trials,
                training=settings.training,
                choice=self.choice,
                model=self.model,
                seed=settings.seed,
            )
            if len(self._tests) > _LISTENERS:
                self._tests.popitem(last=False)
        return self._tests[name]

    def _next(self, test: ListeningTest) -> dict[str, Any]:
        trial = test.next()
        if trial is None:
            return {"done": len(test), "total": len(test), "trial": None}
        names = [secrets.token_urlsafe(12) for _ in trial.segments]
        self._sounds |= zip(names, trial.segments, strict=True)
        while len(self._sounds) > _KEPT:
            self._sounds.popitem(last=False)
        every, voted = self.settings.break_every, trial.index - self.settings.training
        return {
            "done": trial.index,
            "total": len(test),
            "trial": {
                "vote_id": trial.vote_id,
                "training": trial.kind == "training",
                "pause": voted > 0 and every > 0 and voted % every == 0,
                "sounds": {role: f"/audio/listen/{name}" for role, name in zip("xab", names, strict=True)},
            },
        }


def markdown_blocks(text: str) -> list[dict[str, str]]:
    """Return headings, paragraphs and list items of a Markdown text, as `{kind: h1 | h2 | p | li, text}`."""
    blocks = []
    for part in re.split(r"\n\s*\n|\n(?=\s*[-*#])", text.strip()):
        line = " ".join(part.split())
        for mark, kind in (("## ", "h2"), ("# ", "h1"), ("- ", "li"), ("* ", "li"), ("", "p")):
            if line.startswith(mark):
                blocks.append({"kind": kind, "text": line.removeprefix(mark)})
                break
    return blocks


def active_choice(stimuli: Stimuli, model: str | None, *, progress: bool = True) -> ActiveChoice:
    """Return the active choice of triplets: the sounds are embedded now.

    Args:
        stimuli: The sounds.
        model: Name or folder of a model with weights; None: frequency bands, and no weights to begin with.
        progress: Show a progress bar on standard error.

    Raises:
        StemsimError: If the model cannot be loaded, or the sounds cannot be embedded.
    """
    if model is None:
        embedder, weights = StemEmbedder(Bands(), Spectral(), progress=False), None
    else:
        loaded = load(model)
        embedder, weights = loaded.embedder, np.array(list(loaded.weights.values()))
    sounds = track(stimuli.segments, "Embedding sounds", console=Console(stderr=True), disable=not progress)
    parts = [embed_windows([sound], embedder, Windowing()) for sound in sounds]
    return ActiveChoice(StemEmbeddings(*(torch.cat(column) for column in zip(*parts, strict=True))), weights)


def library_test(library: Library, votes: Path, settings: ListeningSettings | None = None) -> Listen:
    """Return a listening test on the items of a library, whose stem embeddings choose what tells most.

    Args:
        library: The library; of many items, some thousand are drawn.
        votes: File that votes are appended to.
        settings: Settings of the test.

    Raises:
        StemsimError: If the library has items of fewer than three files, or votes cannot be kept in the file.
    """
    keys = library.index.table(["key"])["key"].to_pylist()
    chosen = np.random.default_rng(0).permutation(len(keys))[:_MOST_ITEMS]
    items = library.index.items([keys[row] for row in sorted(chosen.tolist())])
    segments = [
        Segment(Path(path), float(start), float(duration))
        for path, start, duration in zip(items.path, items.start, items.duration, strict=True)
    ]
    tracks = np.unique(items.content.astype(str), return_inverse=True)[1].astype(np.int64)
    if len(np.unique(tracks)) < 3:  # noqa: PLR2004 - X, A and B
        raise TripletError(f"A listening test needs at least 3 sounds or songs; {library.root} has fewer.")
    silent = torch.zeros(len(items), len(items.stems))  # a library keeps no levels, which a weighted sum does not need
    embeddings = StemEmbeddings(items.vectors, silent, torch.from_numpy(items.present))
    weights = np.array(list(library.card.weights.values())) if library.card.weights else None
    stimuli = Stimuli(tuple(segments), tracks)
    choice = ActiveChoice(embeddings, weights)
    return Listen(stimuli, VotesLog(votes), settings or ListeningSettings(), choice, library.card.model or "")


def create_listening_test(
    stimuli: Stimuli,
    votes: Path,
    *,
    token: str,
    host: str = "127.0.0.1",
    settings: ListeningSettings | None = None,
    choice: Choice = random_choice,
    model: str = "",
) -> Starlette:
    """Return the page of a listening test as an ASGI application.

    Args:
        stimuli: Songs or samples that are presented.
        votes: File that votes are appended to.
        token: The secret that requests have to know.
        host: Name or address that the server is bound to.
        settings: Settings of the test.
        choice: Chooses the triplets.
        model: Name of the model that chooses.

    Raises:
        StemsimError: If votes cannot be kept in the file, or a setting is out of range.
    """
    api = Listen(stimuli, VotesLog(votes), settings or ListeningSettings(), choice, model)
    api.test("a listener")  # settings out of range are found now

    async def page(_request: Request) -> Response:
        return FileResponse(STATIC / "listen.html")

    return guarded_app([Route("/", page), *api.routes()], token=token, host=host)
