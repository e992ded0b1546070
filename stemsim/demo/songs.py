"""Synthetic multitrack songs: composed, synthesised and written to a folder."""

import json
import logging
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from stemsim.audio import Song, SongFolder, write_audio
from stemsim.demo.instruments import INSTRUMENTS, Score, Wave, in_a_room
from stemsim.errors import ConfigError

__all__ = ["SyntheticSongs", "synthesise_song"]

logger = logging.getLogger(__name__)

# Increase it with every change that changes samples, so that songs are written again.
_GENERATOR: Final = 1
_SCALES: Final = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
_NAMES: Final = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Loops of four chords, as scale degrees counted from 0.
_PROGRESSIONS: Final = (
    *((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4)),
    *((0, 0, 3, 4), (0, 6, 5, 4), (1, 4, 0, 0)),
)
_ABSENT: Final = {"bass": 0.0, "drums": 0.0, "guitar": 0.15, "piano": 0.15, "vocals": 0.15, "residuals": 0.15}
_MIX_PEAK: Final = 0.9
_PAUSE: Final = 0.05  # frames below this share of the loudest frame's level count as pauses


class SyntheticSongs(SongFolder):
    """A folder of synthetic multitrack songs, written when first asked for.

    Each song is a folder `song-000`, `song-001`, ... with a `mix.flac`, one file for each stem that the song uses
    (about one song in two lacks a stem), and a `song.json` that describes how it was made. An existing song with the
    same settings is left alone, one with other settings is replaced as a whole; a killed process leaves no half song.

    Args:
        root: The folder; created if it does not exist.
        count: Number of songs.
        seconds: Length of each song in seconds, 1 or more.
        seed: Random seed; another seed gives other songs.
        sample_rate: In Hz, 8000 to 192000.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self, root: str | Path, count: int = 24, *, seconds: float = 30.0, seed: int = 0, sample_rate: int = 22_050
    ) -> None:
        super().__init__(root)
        if count < 1 or seed < 0 or not 1.0 <= seconds < math.inf or not 8_000 <= sample_rate <= 192_000:
            msg = (
                "Synthetic songs need count >= 1, seed >= 0, seconds >= 1 and a sample_rate from 8000 to 192000 Hz; "
                f"got count={count}, seed={seed}, seconds={seconds}, sample_rate={sample_rate}."
            )
            raise ConfigError(msg)
        self.count = count
        self.seconds = seconds
        self.seed = seed
        self.sample_rate = sample_rate

    def songs(self) -> list[Song]:
        """Write the songs that are missing and return all of them, sorted by name.

        Raises:
            ConfigError: If a folder with a song's name holds something that this class did not write.
        """
        names = [f"song-{index:03d}" for index in range(self.count)]
        written = sum(self._write(index, self.root / name) for index, name in enumerate(names))
        if written:
            logger.info("Synthesised %d of %d songs of %g s in %s", written, self.count, self.seconds, self.root)
        return [song for song in super().songs() if song.name in set(names)]

    def _write(self, index: int, folder: Path) -> bool:
        """Write one song unless it exists; return whether it was written."""
        seeds = (self.seed, index)
        settings = _describe(seeds, self.seconds, self.sample_rate)
        if folder.exists() and _is_written(folder, settings):
            return False
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=self.root))
        try:
            new = scratch / "new"
            new.mkdir()
            for stem, wave in synthesise_song(seeds, self.seconds, sample_rate=self.sample_rate).items():
                write_audio(new / f"{stem}.flac", wave, self.sample_rate)
            (new / "song.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(scratch / "old")
            new.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True


def synthesise_song(seeds: tuple[int, ...], seconds: float = 30.0, *, sample_rate: int = 22_050) -> dict[str, Tensor]:
    """Synthesise a song; equal arguments give equal samples, up to float rounding between machines.

    Tempo, metre, key, chords and form are common to all stems; the timbre and the pattern of each stem are drawn from
    a random source of its own. One gain for the whole song brings its largest peak to 0.9.

    Args:
        seeds: Random seed, such as (seed of the folder, index of the song).
        seconds: Length in seconds, 1 or more.
        sample_rate: In Hz, 8000 to 192000.

    Returns:
        The stems that the song uses, in canonical order, and then `mix`, their sum: each `(channel=1, time)`, float32.
    """
    score = _draw_score(seeds, seconds, sample_rate)
    waves: dict[str, Wave] = {}
    for stem, rng in _draw_players(seeds).items():
        wave = in_a_room(rng, INSTRUMENTS[stem](rng, score), sample_rate)
        waves[stem] = _levelled(wave, rng.uniform(-23.0, -16.0), sample_rate)
    peak = max(np.abs(wave).max() for wave in (*waves.values(), sum(waves.values())))
    stems = {stem: torch.from_numpy(_MIX_PEAK / peak * wave).float()[None] for stem, wave in waves.items()}
    return {**stems, "mix": torch.stack(list(stems.values())).sum(dim=0)}


def _draw_score(seeds: tuple[int, ...], seconds: float, sample_rate: int) -> Score:
    """Draw the music that all instruments of a song share."""
    rng = np.random.default_rng((*seeds, 0))
    tempo, beats = int(rng.integers(70, 176)), int(rng.choice([4, 4, 4, 4, 3]))
    verse, chorus = rng.permutation(len(_PROGRESSIONS))[:2]
    form = ((0, 1, 0, 1), (0, 0, 1, 0), (0, 1, 1, 0))[rng.integers(3)]
    section_bars = 2 if tempo < 110 else 4
    sections = tuple(bar // section_bars for bar in range(math.ceil(seconds * tempo / 60 / beats)))
    parts = tuple(form[section % 4] for section in sections)
    chords = tuple(_PROGRESSIONS[(verse, chorus)[part]][bar % 4] for bar, part in enumerate(parts))
    swing, key = float(rng.choice([0.0, 0.0, 0.3, 2 / 3])), int(rng.integers(12))
    scale = list(_SCALES.values())[rng.integers(len(_SCALES))]
    return Score(tempo, beats, swing, key, scale, chords, sections, parts, sample_rate, round(seconds * sample_rate))


def _draw_players(seeds: tuple[int, ...]) -> dict[str, np.random.Generator]:
    """Draw the stems that a song uses, in canonical order, and return the random source of each."""
    sources = {stem: np.random.default_rng((*seeds, number)) for number, stem in enumerate(_ABSENT, start=1)}
    return {stem: rng for stem, rng in sources.items() if rng.random() >= _ABSENT[stem]}


def _levelled(wave: Wave, level: float, sample_rate: int) -> Wave:
    """Bring a waveform without its pauses to a level in dBFS, and soften rare high peaks."""
    frame = sample_rate // 20
    power = np.square(wave[: len(wave) // frame * frame]).reshape(-1, frame).mean(axis=1)
    active = power[power > _PAUSE**2 * power.max()]
    return 5 * 10 ** (level / 20) * np.tanh(wave / np.sqrt(active.mean()) / 5) if len(active) else wave


def _describe(seeds: tuple[int, ...], seconds: float, sample_rate: int) -> dict[str, Any]:
    """Return the settings of a song and what was drawn for it, as written to `song.json`."""
    score = _draw_score(seeds, seconds, sample_rate)
    mode = next(name for name, scale in _SCALES.items() if scale == score.scale)
    return {
        "generator": _GENERATOR,
        "seed": list(seeds),
        "seconds": seconds,
        "sample_rate": sample_rate,
        "tempo": score.tempo,
        "beats": score.beats,
        "key": f"{_NAMES[score.key]} {mode}",
        "stems": list(_draw_players(seeds)),
    }


def _is_written(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether a folder holds the song of these settings, complete."""
    try:
        seen = json.loads((folder / "song.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = (
            f"{folder} exists but is not a synthetic song: expected a readable song.json in it ({error}). "
            "Set `root` to an empty folder, or delete this one."
        )
        raise ConfigError(msg) from error
    files = (folder / f"{stem}.flac" for stem in (*settings["stems"], "mix"))
    return bool(seen == settings) and all(file.is_file() for file in files)
