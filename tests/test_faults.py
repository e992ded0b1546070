"""Killed processes, full and read-only disks, several processes, clocks that go back, and what older versions wrote.

Nothing that was committed is lost, and the next run finishes the job.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time

import fault_jobs as jobs
import numpy as np
import pytest
import soundfile
import torch
from fakes import write_songs
from items import stored
from jobs import listeners_config

from stemsim.audio import audio_info
from stemsim.embedding import EmbeddingStore
from stemsim.errors import ConfigError, DataNotFoundError, StemsimError, StoreError
from stemsim.lance_table import LanceTable
from stemsim.model import read_model, write_model
from stemsim.pretrained.loading import Checkpoint, write_checkpoint
from stemsim.report.results import FitResults, PredictionResults
from stemsim.report.run_files import read_runs
from stemsim.retrieval.indexing import adding
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

    job, finite, seconds, processes = staticmethod(jobs.extract), True, 0.4, 2

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
        return self.committed == set(self.keys)

    def finish(self):
        jobs.extract(self.root)
        self.check()
        assert self.committed == set(self.keys)
        shutil.rmtree(self.root / "store")
        self.committed = set()


class Indexing:
    """Every file that is in the library stays there with all its items, and a check finds no more than files begun."""

    job, finite, seconds, processes = staticmethod(jobs.index), True, 0.7, 2

    def __init__(self, root):
        self.root = root
        reference = jobs.library(root, "reference")
        reference.add(jobs.sounds(root), listen=False)
        self.expected = stored(reference)
        self.committed = set()

    def check(self):
        library = jobs.library(self.root)
        assert {fault.kind for fault in library.check()} <= {"begun"}
        done = {record.path for record in library._catalogue.records() if record.done}
        items = [item for item in stored(library) if item[0] in done]
        assert items == [item for item in self.expected if item[0] in done]
        assert self.committed <= done
        self.committed = done
        return len(done) == len(jobs.sounds(self.root))

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

    job, finite, seconds, processes = staticmethod(jobs.mend), False, 2.0, 1

    def check(self):
        self.committed = set()
        super().check()  # it is never done


class Models:
    """A model is one of the two that are saved in turn."""

    job, finite, seconds, processes = staticmethod(jobs.save_models), False, 0.3, 1

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
            write_model(self.root / "model", card, fusion)
            assert read_model(self.root / "model")[0].name == card.name


class Checkpoints:
    """A checkpoint is whole once there is one."""

    job, finite, seconds, processes = staticmethod(jobs.save_checkpoints), False, 0.5, 1

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

    job, finite, processes = staticmethod(jobs.fit), False, 1

    def __init__(self, root):
        self.root, self.run = root, root / "run"
        write_songs(root / "songs", 4, 8.0)
        listeners_config(root / "fit.yaml", root / "songs", triplets=60, store=root / "store", max_epochs=20)
        jobs.fit(root)
        begun = time.monotonic()
        jobs.fit(root)
        self.seconds = time.monotonic() - begun
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

    job, finite, seconds, processes = staticmethod(jobs.vote), False, 0.3, 2

    def __init__(self, root):
        self.root = root
        self.kills = 0

    def check(self):
        self.kills += 1
        confirmed = jobs.confirmed_votes(self.root).read_text().split()
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

    job, finite, seconds, processes = staticmethod(jobs.export_for_ever), False, 0.5, 1

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
"""What is killed, and how often in the long form. Each is checked after every kill, and finished now and then.

A check returns True if all is done.
"""


def kill(nursery, kind, times):
    """Kill one process, or several that work together, at random instants; return how many were at work then."""
    random = np.random.default_rng()  # any instant must do, so each run tries others
    at_work = 0
    for number in range(times):
        together = [(kind.job, kind.root)] * random.integers(1, kind.processes, endpoint=True)
        at_work += nursery.kill(random.uniform(0.0, kind.seconds), *together)
        if kind.check() or number % 8 == 7 or number == times - 1:
            kind.finish()
    return at_work


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Fits])
def test_killed_processes_lose_nothing_and_the_next_run_finishes(tmp_path, nursery, record_property, kind):
    record_property("attacks", 3)
    assert kill(nursery, kind(tmp_path), 3)


@pytest.mark.attack
@pytest.mark.parametrize(("kind", "times"), KINDS.items())
def test_hundreds_of_killed_processes_lose_nothing(tmp_path, nursery, capsys, record_property, kind, times):
    record_property("attacks", times)
    at_work = kill(nursery, kind(tmp_path), times)
    with capsys.disabled():
        print(f"\n{kind.__name__}: killed {times} times, {at_work} processes of which were at work; none was a loss")
    assert at_work > times / 2


def test_a_model_whose_card_was_not_moved_in_time_is_read(tmp_path, nursery):
    assert nursery.run((jobs.save_and_die, tmp_path)) == [0]
    assert (tmp_path / "model/card.yaml").read_text().find("name: first") > 0
    card, fusion = read_model(tmp_path / "model")
    assert (card.name, fusion.weight.tolist()) == ("second", [-2.0] * len(card.stems))
    write_model(tmp_path / "model", *jobs.models()[0])
    assert read_model(tmp_path / "model")[0].name == "first"


@pytest.mark.parametrize("moves", [0, 1])
def test_earlier_results_are_kept_together_even_if_their_move_was_killed(tmp_path, nursery, moves):
    jobs_done = [(jobs.publish_results, tmp_path, *arguments) for arguments in ((0,), (1, moves), (1,))]
    assert [nursery.run(job) for job in jobs_done] == [[0]] * 3
    (older,) = (tmp_path / "older").iterdir()
    for folder, number in ((older, 0), (tmp_path, 1)):
        assert PredictionResults.read(folder / "predictions.json").source == str(number)
        assert (folder / "predictions.csv").read_text() == f"number\n{number}\n"


# ---------------------------------------------------------------- full and read-only disks


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk of 64 MiB."""
    (folder := tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    monkeypatch.setattr(adding, "_ITEMS_PER_COMMIT", adding._ITEMS_PER_COMMIT)  # which the jobs change
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, free):
    """Fill a disk up to some bytes; return the file."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        room = os.statvfs(disk)
        os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_bsize - free)
    return disk / "filler"


@pytest.mark.parametrize(
    ("kind", "free"),
    [
        *((kind, 0) for kind in KINDS if kind is not Fits),
        *(pytest.param(kind, 20_000, marks=pytest.mark.attack) for kind in (Extraction, Indexing)),
        pytest.param(Fits, 0, marks=pytest.mark.attack),
    ],
)
def test_a_full_disk_is_an_error_that_loses_nothing_and_with_room_the_job_is_done(disk, nursery, kind, free):
    kind = kind(disk)
    nursery.kill(kind.seconds, (kind.job, disk, 6) if kind.finite else (kind.job, disk))
    kind.check()
    filler = fill(disk, free)
    with pytest.raises(StemsimError, match=r"(cannot be (written|merged|opened)|No space).*([Rr]oom|space)"):
        kind.job(disk)
    kind.check()
    filler.unlink()
    kind.finish()


def test_a_library_and_a_store_are_read_on_a_read_only_disk_and_not_written(disk):
    library, files, segments = jobs.library(disk), jobs.sounds(disk), jobs.segments(disk)
    library.add(files[:6], listen=False)
    jobs.export(disk, 0)
    hits, embedder = library.search(files[0], k=3), jobs.embedder(disk / "store")
    embedded = embedder.embed(segments[:8])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    library, embedder = jobs.library(disk), jobs.embedder(disk / "store")
    assert library.search(files[0], k=3) == hits
    assert library.check() == []
    assert library.stats().files == 6
    assert library.add(files[:6], listen=False).unchanged == 6
    assert torch.equal(embedder.embed(segments[:8]).vectors, embedded.vectors)
    for write in (
        lambda: library.add(files, listen=False),
        lambda: library.remove(files[0]),
        library.repair,
        lambda: embedder.embed(segments),
        lambda: jobs.library(disk, "new"),
        lambda: append_vote(disk / "votes.csv", {}),
        lambda: write_model(disk / "model", *jobs.models()[0]),
        lambda: write_checkpoint(disk / "x.safetensors", Checkpoint({"x": torch.zeros(1)})),
        lambda: jobs.export(disk, 0),
    ):
        with pytest.raises(StemsimError, match=r"cannot be (written|opened).*Read-only file system"):
            write()


def test_a_library_whose_lock_cannot_be_written_is_an_error_of_ours(tmp_path):
    library, files = jobs.library(tmp_path), jobs.sounds(tmp_path)
    (tmp_path / "L/.write.lock").mkdir()
    with pytest.raises(StoreError, match=r"L cannot be written.*Check the path"):
        library.add(files, listen=False)


# ---------------------------------------------------------------- several processes


def test_four_processes_add_to_one_library_and_search_it(tmp_path, nursery):
    kind = Indexing(tmp_path)
    assert nursery.run(*((jobs.add_and_search, tmp_path, number) for number in range(4))) == [0] * 4
    kind.check()
    assert len(kind.committed) == 12
    kind.finish()


# ---------------------------------------------------------------- clocks that go back


@pytest.mark.parametrize("seconds", [-3600, 1e-6])
def test_a_file_with_another_time_and_as_many_bytes_is_noticed(tmp_path, seconds):
    library, files = jobs.library(tmp_path), jobs.sounds(tmp_path)
    library.add(files, listen=False)
    before, then, info = stored(library), files[0].stat(), audio_info(files[0])
    samples, rate = soundfile.read(files[0])
    soundfile.write(files[0], samples[::-1], rate)
    os.utime(files[0], ns=(0, then.st_mtime_ns + round(seconds * 1e9)))
    assert (files[0].stat().st_size, audio_info(files[0])) == (then.st_size, info)
    assert [fault.kind for fault in library.check()] == ["changed"]
    report = library.add(files, listen=False)
    assert (report.changed, report.unchanged) == (1, 11)
    after = stored(library)
    assert [item for item in after if item[0] != str(files[0])] == [item for item in before if item[0] != str(files[0])]
    assert after != before


# ---------------------------------------------------------------- older versions


def make_older(root, **card):
    """Turn a library into one of version 1, in which an item has one category, and change more of its card."""
    files, items = (LanceTable(root, name, what=name, remedy="") for name in ("files", "items"))
    card = {**json.loads(files.card), "version": 1, **card}
    del card["fusion"]
    schema = files.raw.schema.with_metadata({b"stemsim": json.dumps(card)})
    files._database.create_table("files", data=files.select().cast(schema), schema=schema, mode="overwrite")
    items.raw.add_columns({"category": "''"})
    items.raw.drop_columns(["tags"])


@pytest.mark.parametrize("killed", [False, True])
def test_a_library_of_version_1_is_updated_even_if_that_was_killed_before(tmp_path, nursery, killed):
    kind = Indexing(tmp_path)
    jobs.index(tmp_path)
    make_older(tmp_path / "L")
    if killed:  # between its two steps
        LanceTable(tmp_path / "L", "items", what="items", remedy="").raw.add_columns({"tags": "make_array(category)"})
        assert jobs.library(tmp_path).search(jobs.sounds(tmp_path)[0], k=1)
    else:
        assert nursery.run(*[(jobs.search, tmp_path)] * 4) == [0] * 4
    kind.check()
    assert len(kind.committed) == 12
    kind.finish()


def test_a_library_of_an_older_preprocessing_is_refused_with_what_to_do(tmp_path):
    jobs.index(tmp_path)
    make_older(tmp_path / "L", preprocessing="v1;silence=-60.0")
    told = "has preprocessing 'v2;silence=-60.0', expected preprocessing 'v1;silence=-60.0'.* make another library"
    with pytest.raises(ConfigError, match=told):
        jobs.library(tmp_path)


def test_a_store_of_an_older_preprocessing_is_kept_and_embedded_anew_beside_it(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("stemsim.embedding.embedder._PREPROCESSING", "v1")
        before = jobs.embedder(tmp_path / "store")
        before.embed(jobs.segments(tmp_path))
    jobs.extract(tmp_path)
    after = jobs.embedder(tmp_path / "store")
    assert before.spec.preprocessing != after.spec.preprocessing
    assert len(before.store) == len(after.store) == 32
