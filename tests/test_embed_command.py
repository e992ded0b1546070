"""`stemsim embed`: one store, filled by one process, by several, or in parts on several machines."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from fakes import write_songs
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.cli.embed import _Shard
from stemsim.embedding import EmbeddingStore
from stemsim.training.cli import StemsimCLI


@pytest.fixture
def config(tmp_path):
    """A configuration for same-song triplets of four small songs, with bands and Spectral."""
    write_songs(tmp_path / "songs", 4, 9.0, lacking=False)
    songs = {"class_path": "stemsim.audio.SongFolder", "init_args": {"root": str(tmp_path / "songs")}}
    reader = {"songs": songs, "triplets": 60, "duration": 3.0}
    settings = {
        "trainer": {"default_root_dir": str(tmp_path / "run"), "logger": False},
        "data": {
            "triplets": {"class_path": "stemsim.triplets.SameSong", "init_args": reader},
            "store": str(tmp_path / "store"),
            "progress": False,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return tmp_path / "config.yaml"


@pytest.fixture
def in_this_process(monkeypatch):
    """Run in this process, which has imported everything, what would run in others."""

    def start(command, **_options):
        result = CliRunner().invoke(app, command[command.index("embed") :])
        sys.stderr.write(result.stderr)
        return SimpleNamespace(wait=lambda: result.exit_code)

    monkeypatch.setattr(subprocess, "Popen", start)


def embed(config, *arguments):
    return CliRunner().invoke(app, ["embed", "-c", str(config), *arguments])


def rows(config):
    """Return the keys in the store of a configuration, and the number of its segments."""
    data = StemsimCLI(["-c", str(config)], run=False).datamodule
    store = EmbeddingStore(data.embedder.store.root, data.embedder.spec)
    return store._table.select(["key"])["key"].to_pylist(), len(set(data.reader.read().segments))


def test_several_devices_fill_one_store_each_segment_once(config):
    result = embed(config, "--devices", "cpu,cpu")
    assert result.exit_code == 0, result.stderr
    assert "12 segments of bands" in result.stdout
    keys, expected = rows(config)
    assert len(keys) == len(set(keys)) == expected == 12


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu", "cpu, cpu, cpu"])
def test_devices_share_the_part_of_their_machine_and_the_parts_add_up(config, devices):
    for number, stored in ((1, 4), (3, 8), (2, 12)):
        result = embed(config, "--devices", devices, "--shard", f"{number}/3")
        assert result.exit_code == 0, result.stderr
        assert f"Part {number} of 3: 4 of 12 segments" in result.stdout
        keys, expected = rows(config)
        assert len(keys) == len(set(keys)) == stored
    assert expected == 12


@given(length=st.integers(0, 200), machines=st.integers(1, 9), devices=st.integers(1, 9))
def test_every_segment_is_on_one_device_of_one_machine(length, machines, devices):
    items = range(length)
    seen = []
    for number in range(1, machines + 1):
        shard = _Shard(number, machines)
        together = [item for part in shard.split(devices) for item in part.of(items)]
        assert together == list(shard.of(items))
        seen += together
    assert seen == list(items)


@pytest.mark.usefixtures("in_this_process")
def test_a_device_that_fails_is_named_and_the_others_work_on(config):
    result = embed(config, "--devices", "cpu,cuda:99")
    assert result.exit_code == 2
    assert "The process on cuda:99 failed" in result.stderr
    assert "The device 'cuda:99' cannot be used" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(rows(config)[0]) == 6


@pytest.mark.parametrize("devices", [[], ["--devices", "cpu,cpu"]])
@pytest.mark.parametrize("shard", ["0/2", "3/2", "half", "1/0"])
def test_parts_that_are_none_are_refused(config, shard, devices):
    result = embed(config, "--shard", shard, *devices)
    assert result.exit_code == 2
    assert "--shard must be I/N" in result.stderr
