"""Jobs that are killed while they write, in processes that are forked from one that has imported everything."""

import itertools
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import lancedb  # noqa: F401 - so that no forked process has to
import numpy as np
import pandas as pd
import soundfile
import torch
from fakes import CountingEncoder

from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.fusion import LinearFusion
from stemsim.model import ModelCard, Part, write_model
from stemsim.report.results import PredictionResults
from stemsim.retrieval import Library
from stemsim.retrieval.export import export_item
from stemsim.retrieval.indexing import adding
from stemsim.separators import Bands, MixOnly
from stemsim.training.cli import main as train
from stemsim.training.trainer import StemTrainer, publish
from stemsim.triplets.votes_table import append_vote

RATE = 8000
WAITING = 60.0  # seconds after which a process that does nothing is an error


class Nursery:
    """A process that has imported everything, and forks one for each job."""

    def __init__(self):
        self._connection, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self._receive()

    def _receive(self):
        assert self._connection.poll(WAITING), "the processes do nothing"
        return self._connection.recv()

    def run(self, *jobs):
        """Do jobs, a function and its arguments each, at the same time; return their exit codes."""
        self._connection.send(jobs)
        self._receive()
        self._connection.send(None)
        return self._receive()

    def kill(self, seconds, *jobs):
        """Do jobs at the same time and kill them after so many seconds; return how many were still at work."""
        self._connection.send(jobs)
        children = self._receive()
        time.sleep(seconds)
        for child in children:
            os.kill(child, signal.SIGKILL)
        self._connection.send(None)
        codes = self._receive()
        assert set(codes) <= {0, -signal.SIGKILL}, codes
        return sum(code != 0 for code in codes)

    def close(self):
        self._process.kill()
        self._process.join()


def _serve(connection):
    """Fork a process for each of the jobs that are sent, send their ids, and then how each ended."""
    warnings.filterwarnings("ignore", "lancedb fork support")
    connection.send(None)
    while True:
        children = [_fork(*job) for job in connection.recv()]
        connection.send(children)
        connection.recv()  # until they are killed: no other process can have their ids before they are waited for
        connection.send([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])


def _fork(function, *arguments):
    if child := os.fork():
        return child
    try:
        function(*arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def write_sound(path, seed, seconds=1.0):
    """Write noise, unless there is a file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE)), RATE)
    return path


# ---------------------------------------------------------------- extraction


def segments(root):
    files = [write_sound(root / f"song{number}.wav", number, 4.0) for number in range(2)]
    return [Segment(file, 0.2 * number, 0.2) for file in files for number in range(16)]


def embedder(store=None):
    return StemEmbedder(Bands(), CountingEncoder(), store=store, batch_size=2, workers=1, progress=False)


def extract(root, most=None):
    """Embed all segments, or the first ones, into a store, two at a time."""
    embedder(root / "store").embed(segments(root)[:most])


# ---------------------------------------------------------------- indexing


def sounds(root):
    """Files of a library; the last two have the content of the first two."""
    return [write_sound(root / f"sounds/{number:02}.wav", number % 10, 1 + number % 10 % 3 / 2) for number in range(12)]


def library(root, name="L"):
    """Open a library, or make it, in which a few items are a commit."""
    adding._ITEMS_PER_COMMIT = 4
    return Library(root / name, StemEmbedder(MixOnly(), CountingEncoder(), progress=False, workers=1), window=0.5)


def index(root, most=None):
    """Add all files, or the first ones, to a library."""
    library(root).add(sounds(root)[:most], listen=False)


def mend(root):
    """Add, remove and change files, leave some begun, and repair the library, for ever."""
    opened, files = library(root), sounds(root)
    for number in itertools.count():
        opened.add(files, listen=False)
        opened.remove(files[number % 12])
        opened._catalogue.put([replace(record, done=False) for record in opened._catalogue.records()[::5]])
        os.utime(files[(number + 1) % 12])
        opened.repair()


def search(root):
    """Open a library and search it."""
    assert library(root).search(sounds(root)[0], k=1)


def add_and_search(root, number):
    """Add some of the files, while other processes add others; search and build in between."""
    opened, files = library(root), sounds(root)
    for file in files[number::4]:
        opened.add(file, listen=False)
        assert opened.search(file, k=3, include_self=True)[0].path in {file, *files}
        opened.index.build()
    opened.add(files, listen=False)


# ---------------------------------------------------------------- models and checkpoints


def models():
    """Return two models, as card and fusion."""
    stems, parts = Bands.stems, {"encoder": Part("encoder", "spectral"), "separator": Part("separator", "bands")}
    made = []
    for name, weight in (("first", 1.0), ("second", -2.0)):
        fusion = LinearFusion(stems)
        torch.nn.init.constant_(fusion.weight, weight)
        made.append((ModelCard(name=name, stems=stems, silence=None, **parts), fusion))
    return made


def save_models(root):
    """Save one model after the other into one folder, for ever."""
    for card, fusion in itertools.cycle(models()):
        write_model(root / "model", card, fusion)


def save_and_die(root):
    """Replace a model by another one, and die when one of its files is in its place."""
    write_model(root / "model", *models()[0])
    move, left = os.replace, iter([True])

    def move_one(old, new):
        if new.parent != root / "model" or next(left, False):
            move(old, new)
        else:
            os._exit(0)

    os.replace = move_one
    write_model(root / "model", *models()[1])


def save_checkpoints(root):
    """Write one checkpoint of some megabytes after the other, with /tmp on another disk, for ever."""
    tempfile.tempdir = "/dev/shm"
    for number in itertools.count():
        content = {"hyper_parameters": {"stems": ["mix"]}, "weight": torch.full((1_000_000,), float(number))}
        StemTrainer(logger=False).strategy.checkpoint_io.save_checkpoint(content, root / "checkpoints/last.ckpt")


def fit(root):
    """Fit to simulated listeners, with a checkpoint after every epoch."""
    train(["fit", "-c", str(root / "fit.yaml")])


def publish_results(root, number, moves=None):
    """Publish results; if `moves` is given, die when so many files of other ones have been moved away."""
    if moves is not None:
        move, left = Path.rename, iter(range(moves))
        Path.rename = lambda old, new: os._exit(0) if next(left, None) is None else move(old, new)
    results = PredictionResults(source=str(number), simulated=False, triplets=1)
    trainer = StemTrainer(logger=False, default_root_dir=root)
    publish(trainer, results, frames={"predictions": pd.DataFrame({"number": [number]})})


# ---------------------------------------------------------------- votes and exports


def confirmed_votes(root):
    """Return the list of votes that were confirmed: beside the folder, whose disk may be full."""
    return root.with_name(f"{root.name} confirmed")


def vote(root):
    """Add votes to a file, and list each that was confirmed, for ever."""
    with confirmed_votes(root).open("ab", buffering=0) as confirmed:
        for number in itertools.count():
            name = f"{os.getpid()}-{number}-{time.time_ns()}"
            append_vote(root / "votes.csv", {"vote_id": name})
            confirmed.write(f"{name}\n".encode())


def export(root, number):
    """Write a sound, a part of it, and results: one of two versions of each."""
    sound = write_sound(root / f"in/{number}/sound.wav", number, 30.0)
    (root / "out").mkdir(exist_ok=True)
    export_item(root / "out", 1, sound, 0.0, 30.0, 30.0)
    export_item(root / "out", 2, sound, 0.0, 20.0, 30.0)
    PredictionResults(source=f"{number}" * 1_000_000, simulated=False, triplets=1).write(root / "out")


def export_for_ever(root):
    """Write both versions in turn, for ever."""
    for number in itertools.cycle(range(2)):
        export(root, number)
