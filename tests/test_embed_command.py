"""`stemsim embed`: one store, filled by one process, by several, or by parts on several machines."""

import subprocess
from types import SimpleNamespace

import pytest
import yaml
from fakes import write_songs
from typer.testing import CliRunner

from stemsim.cli import app
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


def embed(config, *arguments):
    return CliRunner().invoke(app, ["embed", "-c", str(config), *arguments])


def rows(config):
    """Return the keys in the store of a configuration, and the number of its segments."""
    data = StemsimCLI(["-c", str(config)], run=False).datamodule
    store = EmbeddingStore(data.embedder.store.root, data.embedder.spec)
    return store._table.to_arrow()["key"].to_pylist(), len(set(data.read().segments))


def test_several_devices_fill_one_store_each_segment_once(config):
    result = embed(config, "--devices", "cpu,cpu")
    assert result.exit_code == 0, result.stderr
    assert "12 segments of bands" in result.stdout
    keys, expected = rows(config)
    assert len(keys) == len(set(keys)) == expected == 12


def test_parts_add_up(config):
    for part in ("1/3", "3/3"):
        result = embed(config, "--shard", part)
        assert result.exit_code == 0, result.stderr
        assert f"Part {part[0]} of 3: 4 of 12 segments" in result.stdout
    assert "Part 2 of 3: 4 of 12" in embed(config, "--shard", "2/3").stdout
    keys, expected = rows(config)
    assert len(keys) == len(set(keys)) == expected


def test_a_device_that_fails_is_named_and_the_others_work_on(config, capfd, monkeypatch):
    popen = subprocess.Popen

    def start(command, **options):
        """Start the process that fails, and do in this one, which has all imported, what the other would do."""
        if "cuda:99" in command:
            return popen(command, **options)
        code = CliRunner().invoke(app, command[command.index("embed") :]).exit_code
        return SimpleNamespace(wait=lambda: code)

    monkeypatch.setattr(subprocess, "Popen", start)
    result = embed(config, "--devices", "cpu,cuda:99")
    assert result.exit_code == 2
    assert "The process on cuda:99 failed" in result.stderr
    of_the_processes = capfd.readouterr().err
    assert "The device 'cuda:99' cannot be used" in of_the_processes
    assert "Traceback" not in of_the_processes + result.stderr
    assert len(rows(config)[0]) == 6
    assert "Part 1 of 2: 6 of 12" in embed(config, "--shard", "1/2").stdout


@pytest.mark.parametrize("shard", ["0/2", "3/2", "half", "1/0"])
def test_parts_that_are_none_are_refused(config, shard):
    result = embed(config, "--shard", shard)
    assert result.exit_code == 2
    assert "--shard is I/N" in result.stderr
