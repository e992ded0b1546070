"""Killed processes, full and read-only disks, several processes, clocks that go back, and what older versions wrote.

Nothing that was committed is lost, and the next run finishes the job.
"""

import csv
import hashlib
import shutil

import fault_jobs as jobs
import numpy as np
import pytest
import torch
from fakes import write_songs
from items import stored
from jobs import listeners_config

from stemsim.embedding import EmbeddingStore
from stemsim.errors import DataNotFoundError
from stemsim.model import read_model
from stemsim.report.results import FitResults
from stemsim.report.run_files import read_runs
from stemsim.training.cli import _read_checkpoint
from stemsim.triplets.votes_table import COLUMNS, append_vote


@pytest.fixture(scope="module")
def nursery():
    nursery = jobs.Nursery()
    yield nursery
    nursery.close()


# ---------------------------------------------------------------- kill -9


class Extraction:
    """Every row that is in the store stays there, bit for bit."""

    job, seconds, processes = staticmethod(jobs.extract), 0.4, 2

    def __init__(self, root):
        self.root = root
        embedder = jobs.embedder()
        segments = jobs.segments(root)
        self.spec = embedder.spec
        self.keys = [self.spec.key(embedder.source.content_hash(segment), segment) for segment in segments]
        self.expected = dict(zip(self.keys, embedder.embed(segments).vectors, strict=True))
        self.committed = set()

    def check(self):
        found = EmbeddingStore(self.root / "store", self.spec).get(self.keys)
        for key, vectors in zip(found.keys, found.embeddings.vectors, strict=True):
            assert torch.equal(vectors, self.expected[key])
        assert self.committed <= set(found.keys)
        self.committed = set(found.keys)

    def finish(self):
        jobs.extract(self.root)
        self.check()
        assert self.committed == set(self.keys)
        shutil.rmtree(self.root / "store")
        self.committed = set()


class Indexing:
    """Every file that is in the library stays there with all its items, and a check finds no more than files begun."""

    job, seconds, processes, kinds = staticmethod(jobs.index), 1.0, 2, {"begun"}

    def __init__(self, root):
        self.root = root
        reference = jobs.library(root, "reference")
        reference.add(jobs.sounds(root), listen=False)
        self.expected = stored(reference)
        self.committed = set()

    def check(self):
        library = jobs.library(self.root)
        assert {fault.kind for fault in library.check()} <= self.kinds
        done = {record.path for record in library._catalogue.records() if record.done}
        items = [item for item in stored(library) if item[0] in done]
        assert items == [item for item in self.expected if item[0] in done]
        assert self.committed <= done
        self.committed = done

    def finish(self):
        library = jobs.library(self.root)
        assert library.repair()[1] == []
        library.add(jobs.sounds(self.root), listen=False)
        assert stored(library) == self.expected
        assert library.check() == []
        shutil.rmtree(self.root / "L")
        self.committed = set()


class Mending(Indexing):
    """Likewise while files are removed, and repaired."""

    job, seconds, processes = staticmethod(jobs.mend), 2.0, 1

    def check(self):
        self.committed = set()
        super().check()


class Models:
    """A model is one of the two that are saved in turn."""

    job, seconds, processes = staticmethod(jobs.save_models), 0.3, 1

    def __init__(self, root):
        self.root = root
        self.expected = {card.name: fusion.weight[0].item() for card, fusion in jobs.models()}
        self.committed = False

    def check(self):
        try:
            card, fusion = read_model(self.root / "model")
        except DataNotFoundError:
            assert not self.committed
            return
        self.committed = True
        assert fusion.weight.tolist() == [self.expected[card.name]] * len(card.stems)

    def finish(self):
        for card, fusion in jobs.models():
            jobs.write_model(self.root / "model", card, fusion)
            assert read_model(self.root / "model")[0].name == card.name


class Checkpoints:
    """A checkpoint is whole once there is one."""

    job, seconds, processes = staticmethod(jobs.save_checkpoints), 0.5, 1

    def __init__(self, root):
        self.root, self.path = root, root / "checkpoints/last.ckpt"
        self.committed = False

    def check(self):
        assert self.path.exists() or not self.committed
        if self.path.exists():
            self.committed = True
            weight = _read_checkpoint(str(self.path))["weight"]
            assert len(weight) == 1_000_000
            assert (weight == weight[0]).all()

    def finish(self):
        self.check()


class Fits:
    """Whatever there is of the run, a checkpoint, a model, results or settings, is whole."""

    job, seconds, processes = staticmethod(jobs.fit), 2.5, 1

    def __init__(self, root):
        self.root, self.run = root, root / "run"
        write_songs(root / "songs", 4, 8.0)
        listeners_config(root / "fit.yaml", root / "songs", triplets=60, store=root / "store", max_epochs=20)
        jobs.fit(root)
        self.expected = FitResults.read(self.run / "fit.json").weights

    def check(self):
        assert _read_checkpoint(str(self.run / "checkpoints/last.ckpt"))["epoch"] <= 20
        assert read_model(self.run / "model")[0].name
        (run,) = read_runs([self.run])
        assert run.settings["trainer"]["max_epochs"] == 20
        assert run.fit.weights == self.expected

    def finish(self):
        jobs.fit(self.root)
        self.check()


class Votes:
    """Every vote that was confirmed is in the file, once; of the others, at most the last one of each process."""

    job, seconds, processes = staticmethod(jobs.vote), 0.3, 2

    def __init__(self, root):
        self.root = root
        self.kills = 0

    def check(self):
        self.kills += 1
        confirmed = (self.root / "confirmed").read_text().split()
        with (self.root / "votes.csv").open(newline="") as file:
            rows = [row["vote_id"] for row in csv.DictReader(file) if None not in row.values()]
        assert set(confirmed) <= set(rows)
        assert len(set(rows)) == len(rows) <= len(confirmed) + 2 * self.kills

    def finish(self):
        append_vote(self.root / "votes.csv", {"vote_id": f"finish {self.kills}"})
        with (self.root / "votes.csv").open(newline="") as file:
            assert {len(line) for line in csv.reader(file)} == {len(COLUMNS)}


class Exports:
    """A file is as it was in one of the two versions."""

    job, seconds, processes = staticmethod(jobs.export_for_ever), 0.5, 1

    def __init__(self, root):
        self.root = root
        self.expected = []
        for number in range(2):
            jobs.export(root, number)
            self.expected.append(self.contents())

    def contents(self):
        return {path.name: hashlib.md5(path.read_bytes()).digest() for path in self.root.glob("out/[!.]*")}

    def check(self):
        found = self.contents()
        assert len(found) == 3
        for name, content in found.items():
            assert content in {version[name] for version in self.expected}

    def finish(self):
        jobs.export(self.root, 0)
        assert self.contents() == self.expected[0]


KINDS = {Extraction: 110, Indexing: 100, Mending: 50, Models: 60, Checkpoints: 50, Fits: 30, Votes: 50, Exports: 50}
"""What is killed, and how often in the long form. Each is checked after every kill, and finished now and then."""


def kill(nursery, kind, times):
    """Kill one process, or several that work together, at random instants; return how many were at work then."""
    random = np.random.default_rng()  # any instant must do, so each run tries others
    at_work = 0
    for number in range(times):
        together = [(kind.job, kind.root)] * random.integers(1, kind.processes, endpoint=True)
        at_work += nursery.kill(random.uniform(0.0, kind.seconds), *together)
        kind.check()
        if number % 8 == 7 or number == times - 1:
            kind.finish()
    return at_work


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Fits])
def test_killed_processes_lose_nothing_and_the_next_run_finishes(tmp_path, nursery, kind):
    assert kill(nursery, kind(tmp_path), 3)


@pytest.mark.attack
@pytest.mark.parametrize(("kind", "times"), KINDS.items())
def test_hundreds_of_killed_processes_lose_nothing(tmp_path, nursery, capsys, kind, times):
    at_work = kill(nursery, kind(tmp_path), times)
    with capsys.disabled():
        print(f"\n{kind.__name__}: killed {times} times, {at_work} processes of which were at work; none was a loss")
    assert at_work > times / 2
