"""What reads bytes that anyone may have written: each gives a result, or a `StemsimError` that says why not."""

import atexit
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from io import StringIO
from itertools import count
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import soundfile
import torch
import typer
from app_client import RATE, TOKEN, make_library, tone, write_sounds
from fakes import CountingEncoder
from items import DIM, STEMS, make_items
from starlette.testclient import TestClient

from stemsim.app.listen import library_test
from stemsim.app.listening import Stimuli
from stemsim.app.server import _conditions, create_app
from stemsim.audio import audio_info, ffmpeg, read_audio
from stemsim.audio.files import file_version
from stemsim.cli import search
from stemsim.embedding import EmbeddingSpec, StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import StemsimError
from stemsim.model import StemSimilarity
from stemsim.model.card import CARD_FILE, WEIGHTS_FILE, read_model
from stemsim.pretrained.loading import read_checkpoint
from stemsim.retrieval import Library, Routing
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.indexes.lance import LanceIndex
from stemsim.separators import Bands, MixOnly
from stemsim.triplets.ratings import votes_from_ratings
from stemsim.triplets.votes_file_answers import read_votes
from stemsim.triplets.votes_table import append_vote

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 5.0  # of computing in which every input is done with
MEGABYTES = 1000  # that no input needs more of
_MOST_FRAMES = 10_000_000  # of which all are compared
_times = count(1)


@dataclass(frozen=True)
class Target:
    """A reader, and words that a fuzzer puts into its inputs."""

    read: Callable[[bytes], object]
    words: str = ""


@cache
def scratch():
    """Folder for what the readers of this process need."""
    folder = tempfile.TemporaryDirectory(prefix="stemsim-fuzz-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def write(name, content):
    """Write a file, with another time than all before, as caches go by the time of modification."""
    path = scratch() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(next(_times),) * 2)
    return path


def read_sound(content):
    path = write("x.wav", content)
    info = audio_info(path)
    for start in (0.0, max(0.0, info.duration - 1.0)):
        waveform, rate = read_audio(path, start, min(1.0, info.duration))
        assert (len(waveform), rate) == (info.channels, info.sample_rate)
        assert torch.isfinite(waveform).all()


def decode(content):
    path = write("x.mp3", content)
    counted = ffmpeg.count_samples(path)
    if counted.frames * counted.channels <= _MOST_FRAMES:
        assert len(ffmpeg.decode(file_version(path), 0, counted.frames + 1)) == counted.frames


@cache
def model():
    """Return a folder with a model."""
    embedder = StemEmbedder(Bands(), Spectral(), progress=False)
    StemSimilarity(embedder, dict(zip(Bands.stems, (0.5, 0.25, 0.0, 1.0), strict=True))).save(scratch() / "model")
    return scratch() / "model"


def read_card(content):
    write("card/" + WEIGHTS_FILE, (model() / WEIGHTS_FILE).read_bytes())
    return read_model(write("card/" + CARD_FILE, content).parent)


def read_weights(content):
    write("weights/" + CARD_FILE, (model() / CARD_FILE).read_bytes())
    return read_model(write("weights/" + WEIGHTS_FILE, content).parent)


def read_torch_file(content):
    return read_checkpoint(write("x.pt", content))


def read_library_card(content):
    card = LibraryCard.from_json(content.decode(errors="replace"), "The library")
    assert LibraryCard.from_json(card.to_json(), "The same") == card


def parse_weights(content):
    text = content.decode(errors="replace")
    routing = Routing.parse(text, STEMS, dict.fromkeys(STEMS, 0.5))
    assert Routing.parse(routing.text, STEMS).names == routing.names


@cache
def index():
    """Return an index, and all its items."""
    made = LanceIndex(scratch() / "index", EmbeddingSpec("s", "e", "p", STEMS, DIM))
    made.upsert(make_items(60))
    return made, next(made.scan())


def filter_items(content):
    try:
        where = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(where, dict) and (conditions := _conditions(where)) is not None:
        made, items = index()
        found = made.table(["key"], conditions)["key"].to_pylist()
        assert sorted(found) == sorted(items.key[conditions.mask(items)])


@cache
def searched():
    """Return a library that ships with its models, and one of its files."""
    sounds = write_sounds(scratch() / "searched sounds")
    made = Library(scratch() / "searched", StemEmbedder(MixOnly(), Spectral(), progress=False))
    made.add(sounds, listen=False)
    return made, sounds / "kick.wav"


OPTIONS = ("weights", "start", "end", "k", "category", "kind", "bpm", "octaves", "key", "duration", "loudness")
OPTIONS += ("stems", "folder", "text", "text_weight", "text_stems")
_KINDS = {"start": float, "end": float, "text_weight": float, "k": int, "octaves": bool, "folder": Path}


def run_search(content):
    """Search by options `name=value`, one a line, as the command line does."""
    made, query = searched()
    options = {}
    for line in content.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name not in OPTIONS or "\0" in value or (name == "weights" and value.startswith("@")):
            return  # nothing that a command line has, or a file of this machine
        try:
            options[name] = _KINDS.get(name, str)(value)
        except ValueError:
            return  # which the command line itself refuses
    opened = mock.patch.object(search, "open_library", return_value=made)
    with opened, redirect_stdout(StringIO()), redirect_stderr(StringIO()), suppress(typer.Exit):
        search.search_command(library=made.root, query=query, include_self=True, as_json=True, **options)


def read_votes_file(content):
    path = write("votes.parquet" if content.startswith(b"PAR1") else "votes.csv", content)
    answers = read_votes(path)
    assert answers.votes().sum() <= len(answers)  # some are about other questions
    if path.suffix == ".csv":
        append_vote(path, {"reference": "x", "sample_a": "a", "sample_b": "b", "answer_total": "A+"})
        assert len(read_votes(path)) >= len(answers)


def read_triplets(content):
    """Read the triplets of a listening test."""
    for name in "xab":
        if not (scratch() / name).exists():
            soundfile.write(scratch() / name, tone("xab".index(name)), RATE, format="WAV")
    return Stimuli.of_table(write("test.parquet" if content.startswith(b"PAR1") else "test.csv", content))


def read_ratings(content):
    votes = scratch() / "from ratings.csv"
    number = votes_from_ratings([write("ratings.csv", content)], votes, most=50)
    assert len(read_votes(votes)) <= number


class AnyText(CountingEncoder):
    """Encodes any text."""

    def encode_text(self, texts):
        return torch.eye(self.dim)[[len(text) % self.dim for text in texts]]


class Page:
    """The page's server, with a listening test, and what its requests can name."""

    def __init__(self):
        self.sounds = write_sounds(scratch() / "sounds")
        library = make_library(scratch() / "library", AnyText())
        library.add(self.sounds, listen=False)
        listening = library_test(library, scratch() / "page votes.csv")
        (scratch() / "private").mkdir()
        app = create_app(library, scratch() / "private", token=TOKEN, listening=listening, upload_bytes=1_000_000)
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        client = TestClient(app, base_url="http://127.0.0.1", headers=headers)
        self.client = ExitStack().enter_context(client)
        self.item = library.index.table(["key"])["key"][0].as_py()
        self.query = self.job = ""

    def ready(self):
        """Take in a query, unless one is held."""
        if self.client.get(f"/api/query/{self.query or 'none'}").status_code != 200:
            taken = self.client.post("/api/query", json={"item": self.item}).json()
            self.wait(taken["job"])
            self.query, self.job = taken["query"], taken["job"]
        return self

    def vote(self):
        """Return the present trial of the listener `ann`."""
        trial = self.client.post("/api/listen/next", json={"listener": "ann"}).json()["trial"]
        return "none" if trial is None else trial["vote_id"]

    def wait(self, job):
        begun = time.monotonic()
        while (found := self.client.get(f"/api/job/{job}").json())["state"] in {"queued", "running"}:
            assert time.monotonic() < begun + 10 * SECONDS, found
            time.sleep(0.001)
        assert found["error"] is None or found["error"]["kind"] != "Unexpected", found


@cache
def page():
    return Page()


def ask_page(content):
    """Send a request: its first line is `METHOD /path`, the rest its body; `{query}` and the like are put in."""
    opened = page().ready()
    head, _, body = content.partition(b"\n")
    method, _, path = head.decode("latin-1").partition(" ")
    if method not in {"GET", "POST", "PUT", "DELETE"} or not path.startswith("/"):
        return
    names = {"query": opened.query, "item": opened.item, "job": opened.job, "sounds": str(opened.sounds)}
    if b"{vote}" in body:
        names["vote"] = opened.vote()
    for name, value in names.items():
        path, body = path.replace(f"{{{name}}}", value), body.replace(f"{{{name}}}".encode(), value.encode())
    if path.startswith("/api/library/add") and not _within(body, opened.sounds):
        return
    answer = opened.client.request(method, quote(path, safe="/?&=%"), content=body)
    assert answer.status_code < 500, (answer.status_code, answer.text)
    if answer.status_code == 202:
        opened.wait(answer.json()["job"])


def _within(body, folder):
    """Return whether a request adds no folder of this machine but the one of the tests."""
    try:
        asked = Path(json.loads(body)["folder"]).expanduser().resolve()
        return asked.is_relative_to(folder) or not asked.exists()
    except Exception:  # noqa: BLE001 - it is for the page to refuse that
        return True


_JSON = r'{ } [ ] : , "" null true false 0 -1 1e308 1e-320 1.5 NaN Infinity \\u0000 \\ud800 "\\u2028"'
_REQUESTS = """/api/library /api/library/add /api/library/recall /api/model /api/job/{job} /api/query /api/query/{query}
/api/query/{query}/peaks /api/query/{query}/rank /api/query/{query}/alike /api/item/{item}/peaks /api/compare
/api/export /audio/item/{item} /audio/query/{query}/mix /api/listen /api/listen/next /api/listen/vote ?columns= &whole=1
"weights" "preset" "where" "k" "include_self" "sequence" "item" "text" "query" "from" "to" "alike" "x" "a" "items"
"format" "csv" "zip" "folder" "listener" "vote_id" "answers" "plays" {query} {item} {vote} {sounds} PUT POST DELETE"""
_FILTER = "category type bpm octaves musical_key duration loudness stems path_prefix bass drums kick loop Am minor"
_CARD = """name: summary: weights: stems: fusion: encoder: separator: silence: agreement: of: percent: spread: options:
identity: linear spline monotone attention low-rank pieces smoothing rank components units_per_stem bands crossover
spectral 4-stem 6-stem !!int !!float !!bool !!timestamp !!python/name: 2001-01-01 &a *a << ? | > .inf .nan 0x 1e999"""
_SOUND = """RIFF RIFX RF64 WAVE fmt data FORM AIFF AIFC COMM SSND fLaC OggS caff .snd ID3 TAG Xing Info LAME ftypM4A
moov mdat OpusHead vorbis EXTENSIBLE fact LIST bext MAC wvpk"""
_TABLE = """x a b answer votes_a votes_b A+ B- NA listener question test_type instrument trial_type dummy training XYC
start duration start_x track_a vote_id choice_time reference sample_a answer_total ; , \\x09 \\x0a \\x0d \\x00"""

TARGETS = {
    "sounds": Target(read_sound, _SOUND),
    "decoder": Target(decode, _SOUND),
    "cards": Target(read_card, _CARD),
    "weights": Target(read_weights, "__metadata__ F32 F64 BF16 I64 U8 BOOL dtype shape data_offsets stems args kwargs"),
    "torch-files": Target(read_torch_file, "PK data.pkl version byteorder torch FloatStorage state_dict klass args"),
    "library-cards": Target(read_library_card, f"{_JSON} version encoder separator stems weights window hop index"),
    "routing": Target(parse_weights, "learned equal bass drums mix : = , 1e308 -1 nan inf 1_0"),
    "filters": Target(filter_items, f"{_JSON} {_FILTER}"),
    "searches": Target(run_search, f"{' '.join(f'{name}=' for name in OPTIONS)} {_FILTER} : , 1e308 nan inf"),
    "votes": Target(read_votes_file, _TABLE),
    "triplets": Target(read_triplets, _TABLE),
    "ratings": Target(read_ratings, _TABLE),
    "page": Target(ask_page, f"{_JSON} {_REQUESTS} {_FILTER}"),
}


def failure(name, content):
    """Give an input to a target; return the error that it must not end with, None if all is well."""
    begun = time.process_time()  # and not by the clock, as other work may slow this machine down
    try:
        TARGETS[name].read(content)
    except StemsimError:
        pass
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return error
    took = time.process_time() - begun
    return TimeoutError(f"This took {took:.1f} s.") if took > SECONDS else None
