"""Jobs of `train.py` in this process, and small configurations for them."""

import json
from pathlib import Path

import numpy as np
import soundfile
import yaml

from stemsim.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
CSV = ("-c", str(ROOT / "configs/logger/csv.yaml"))


def run(job, config, folder, *arguments, logger=CSV):
    """Run one job of `train.py` on a file of `configs/`, writing under `folder`."""
    root = ["--trainer.default_root_dir", str(folder)]
    return main([job, "-c", str(ROOT / "configs" / config), *logger, *root, "--data.progress", "false", *arguments])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def models(path):
    """Return the models of a cross-validation by name, as they are written in its JSON file."""
    return {model["name"]: model for model in read(path)["models"]}


def write_tones(folder, count=4, seconds=12, rate=8000):
    """Write plain songs, each with a tone and a tremolo of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(seconds * rate) / rate
    for song in range(count):
        tone = np.sin(2 * np.pi * 200 * 1.4**song * time) * (1.2 + np.sin(2 * np.pi * (song + 1) * time))
        soundfile.write(folder / f"song{song}.wav", 0.3 * tone, rate)
    return folder


def same_song_config(path, songs, **data):
    """Write a configuration for same-song triplets of a folder, with the mix alone; return its path."""
    reader = {"songs": _folder(songs), "triplets": 60, "duration": 3.0}
    data = {"triplets": _class("triplets.SameSong", **reader), "separator": _class("separators.MixOnly")} | data
    return _write(path, data)


def listeners_config(path, songs, *, triplets=150, store=None, **trainer):
    """Write a configuration for simulated listeners to songs of `fakes.write_songs`; return its path."""
    weights = {"drums": 1.0, "bass": 0.5}
    reader = {"songs": _folder(songs), "weights": weights, "triplets": triplets, "duration": 2.0}
    data = {
        "triplets": _class("triplets.SimulatedListeners", **reader),
        "separator": _class("separators.Multitrack", stems=["bass", "drums", "mix"]),
        "encoder": {"class_path": "fakes.CountingEncoder"},
    }
    return _write(path, data | ({} if store is None else {"store": str(store)}), **trainer)


def _class(name, **arguments):
    return {"class_path": f"stemsim.{name}"} | ({"init_args": arguments} if arguments else {})


def _folder(songs):
    return _class("audio.SongFolder", root=str(songs))


def _write(path, data, **trainer):
    folder = path.parent / "run"
    settings = {"default_root_dir": str(folder), "logger": False} | trainer
    content = {"trainer": settings, "data": {"store": str(folder / "store"), "progress": False} | data}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)
