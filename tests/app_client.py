"""The page's server in tests: a library of tones, a client that knows the token, and a real server in a thread."""

import contextlib
import io
import socket
import threading
import time
from dataclasses import dataclass

import httpx
import numpy as np
import soundfile
import torch
import uvicorn
from fakes import CountingEncoder, EqualBands

from stemsim.app.server import create_app
from stemsim.embedding import StemEmbedder
from stemsim.retrieval import Library

RATE = 8000
BAND = RATE / 2 / 8  # of the eight of CountingEncoder
TOKEN = "a-token-that-only-tests-know"
STEMS = ("bass", "drums", "mix")


class TextEncoder(CountingEncoder):
    """Knows the words `band 0` to `band 7`."""

    def encode_text(self, texts):
        return torch.eye(self.dim)[[int(text.split()[-1]) for text in texts]]


def tone(*bands, seconds=1.0, level=0.1):
    """Return tones in the middle of some bands."""
    time_ = np.arange(round(seconds * RATE)) / RATE
    return sum(level * np.sin(2 * np.pi * (band + 0.5) * BAND * time_) for band in bands)


def wav(samples, rate=RATE):
    """Return the bytes of a wav file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def write_sounds(folder):
    """Write a folder of sounds: each has one tone of the lower and one of the upper half, one is long."""
    folder.mkdir(parents=True)
    for low in range(4):
        for high in range(4, 8):
            soundfile.write(folder / f"loop {low}{high} 120bpm Am.wav", tone(low, high, seconds=1.5), RATE)
    soundfile.write(folder / "kick.wav", tone(0, level=0.02), RATE)
    soundfile.write(folder / "song.wav", np.concatenate([tone(1, 4, seconds=6), tone(2, 6, seconds=6)]), RATE)
    return folder


def make_library(root, encoder=None, **settings):
    """Return an empty library of the two halves."""
    return Library(
        root, StemEmbedder(EqualBands(STEMS, RATE), encoder or CountingEncoder(), progress=False), **settings
    )


@dataclass
class Page:
    """What the browser does, in Python."""

    client: httpx.Client

    def get(self, path, **options):
        return self.client.get(path, **options)

    def json(self, path):
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, **body):
        return self.client.post(path, json=body)

    def put(self, content, name="song.wav", **span):
        """Upload a file; return id of the query, and the finished job."""
        return self.wait(self.client.put("/api/query", content=content, params={"name": name, **span}))

    def wait(self, answer):
        """Wait until the job of an answer is finished."""
        assert answer.status_code == 202, answer.text
        taken = answer.json()
        until = time.monotonic() + 60
        while (job := self.json(f"/api/job/{taken['job']}"))["state"] in {"queued", "running"}:
            assert time.monotonic() < until, job
            time.sleep(0.01)
        return taken.get("query"), job

    def rank(self, query, **body):
        answer = self.post(f"/api/query/{query}/rank", **body)
        assert answer.status_code == 200, answer.text
        return answer.json()["hits"]


@contextlib.contextmanager
def page(library, folder, **limits):
    """Serve the page of a library in a thread of this process; yield one that knows the token."""
    folder.mkdir(exist_ok=True)
    app = create_app(library, folder, token=TOKEN, **limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
                yield Page(client)
        finally:
            server.should_exit = True
            thread.join(20)
