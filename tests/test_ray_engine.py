"""Adding files on a cluster: the rows that one process writes, whatever happens to a node."""

import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import ConfigError, DataNotFoundError, EmbeddingError
from stemsim.retrieval import Library, RayEngine
from stemsim.retrieval.indexing import ray as ray_engine
from stemsim.separators import Bands

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
RATE = 16_000


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine: one core in the head, two in the other, which a test may kill."""
    from ray.cluster_utils import Cluster

    ray_engine._imported()  # sets the environment of the nodes
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes cannot import this file
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve sounds of one to three windows, two copies, and two files that cannot be read."""
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number in range(12):
        time = np.arange(round((0.5 + number % 3) * RATE)) / RATE
        tones = sum(np.sin(2 * np.pi * rng.uniform(60, 6000) * time) * np.exp(-time * 3) for _ in range(3))
        soundfile.write(root / f"sound {number}.wav", 0.1 * tones, RATE)
    for number in (3, 4):
        (root / f"copy {number}.wav").write_bytes((root / f"sound {number}.wav").read_bytes())
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("no audio", encoding="utf-8")
    return root


def made(root):
    return Library(root, StemEmbedder(Bands(), Spectral(), progress=False), window=1.0)


def rows(library):
    """Return everything that a library holds, by key."""
    return {
        key: (path, start, tags, vector)
        for items in library.index.scan()
        for key, path, start, tags, vector in zip(
            items.key, items.path, items.start, items.tags, items.vectors, strict=True
        )
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, (*described, vector) in expected.items():
        assert found[key][:-1] == tuple(described)
        np.testing.assert_allclose(found[key][-1], vector, atol=1e-3)  # stored in float16


@pytest.fixture(scope="module")
def in_process(tmp_path_factory, folder):
    library = made(tmp_path_factory.mktemp("here") / "library")
    return library.add(folder, listen=False), rows(library)


class KillsANode:
    """An engine that kills a node as soon as the first files are through."""

    def __init__(self, cluster, engine):
        self.cluster = cluster
        self.engine = engine

    @contextmanager
    def started(self, card, *, listen):
        with self.engine.started(card, listen=listen) as extraction:
            yield _Killing(self.cluster, extraction)


class _Killing:
    def __init__(self, cluster, extraction):
        self.cluster = cluster
        self.extraction = extraction
        self.prepare = extraction.prepare

    def embed(self, files):
        for number, result in enumerate(self.extraction.embed(files)):
            if number == 1:
                (worker,) = self.cluster.worker_nodes
                self.cluster.remove_node(worker, allow_graceful=False)
            yield result


def test_rows_and_report_are_those_of_one_process(cluster, folder, in_process, tmp_path):
    report, expected = in_process
    library = made(tmp_path / "library")
    found = library.add(folder, listen=False, engine=RayEngine())
    assert_same(rows(library), expected)
    for name in ("added", "items", "copied", "silent", "seconds_of_audio"):
        assert getattr(found, name) == pytest.approx(getattr(report, name)), name
    assert {(one.path, one.reason) for one in found.failures} == {(one.path, one.reason) for one in report.failures}
    assert len(found.failures) == 2
    again = library.add(folder, listen=False, engine=RayEngine())
    assert (again.added, again.unchanged, len(again.failures)) == (0, 14, 2)


def test_an_error_on_a_node_is_the_error_here(cluster, folder, tmp_path, monkeypatch):
    library = made(tmp_path / "library")
    monkeypatch.setattr(ray_engine, "_embedding", _NoWeights)
    with pytest.raises(DataNotFoundError, match="no weights on this node"):
        library.add(folder, listen=False, engine=RayEngine())
    monkeypatch.setattr(ray_engine, "_embedding", _Bug)
    with pytest.raises(EmbeddingError, match=r"RuntimeError.*of no kind of ours.*run it again"):
        library.add(folder, listen=False, engine=RayEngine())
    with pytest.raises(ConfigError, match="has no GPU"):
        library.add(folder, listen=False, engine=RayEngine(device="cuda"))


class _NoWeights:
    def __init__(self, *arguments):
        msg = "no weights on this node"
        raise DataNotFoundError(msg)


class _Bug:
    def __init__(self, *arguments):
        pass

    def __call__(self, files):
        msg = "of no kind of ours"
        raise RuntimeError(msg)


def test_a_node_killed_in_mid_job_loses_nothing(cluster, folder, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_WINDOWS_PER_TASK", 2)
    library = made(tmp_path / "library")
    # With two actors and one core in the head, one of them is on the other node.
    report = library.add(folder, listen=False, engine=KillsANode(cluster, RayEngine(actors=2)))
    deadline = time.monotonic() + 60  # the head may hear of it later than the job's end
    while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sum(node["Alive"] for node in ray.nodes()) == 1
    assert report.added == 14
    assert_same(rows(library), in_process[1])


def test_parts_of_ones_own_stay_in_this_process(tmp_path):
    class Own(Spectral):
        pass

    library = Library(tmp_path / "library", StemEmbedder(Bands(), Own(), progress=False))
    with pytest.raises(ConfigError, match="does not ship"), RayEngine().started(library.card, listen=False):
        pass
    with pytest.raises(ConfigError, match="at least 1 actor"):
        RayEngine(actors=0)
