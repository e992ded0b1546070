"""Synthetic multitrack songs: composed, synthesised and written to a folder."""

import json
import logging
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from stemsim.audio import Song, SongFolder, write_audio
from stemsim.demo.instruments import INSTRUMENTS, SAMPLE_RATE, Score, Wave, play
from stemsim.errors import ConfigError

__all__ = ["SyntheticSongs", "synthesise_song"]

logger = logging.getLogger(__name__)

_GENERATOR: Final = 2  # increase it with every change that changes samples, so that songs are written again
_MAJOR: Final = (0, 2, 4, 5, 7, 9, 11)
_FORMS: Final = ((0, 1, 0, 1), (0, 0, 1, 0), (0, 1, 1, 0))  # verses and choruses


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

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(self, root: str | Path, count: int = 24, *, seconds: float = 30.0, seed: int = 0) -> None:
        super().__init__(root)
        if count < 1 or seed < 0 or not 1.0 <= seconds < math.inf:
            msg = f"Synthetic songs need count and seconds >= 1 and seed >= 0; got {count}, {seconds} and {seed}."
            raise ConfigError(msg)
        self.count = count
        self.seconds = seconds
        self.seed = seed

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
        settings = {"generator": _GENERATOR, "seed": [self.seed, index], "seconds": self.seconds}
        if folder.exists() and _is_written(folder, settings):
            return False
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=self.root) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            stems = synthesise_song((self.seed, index), self.seconds)
            for stem, wave in stems.items():
                write_audio(new / f"{stem}.flac", wave, SAMPLE_RATE)
            description = json.dumps({**settings, "files": list(stems)}, indent=2)
            (new / "song.json").write_text(description + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(Path(scratch, "old"))
            new.rename(folder)
        return True


def synthesise_song(seeds: tuple[int, ...], seconds: float = 30.0) -> dict[str, Tensor]:
    """Synthesise a song; equal arguments give equal samples, up to float rounding between machines.

    Tempo, metre, key, chords and form are common to all stems; the timbre and the pattern of each stem are drawn from
    a random source of its own. One gain for the whole song brings its largest peak to 0.9.

    Args:
        seeds: Random seed, such as (seed of the folder, index of the song).
        seconds: Length in seconds, 1 or more.

    Returns:
        The stems that the song uses, in canonical order, and then `mix`, their sum: each `(channel=1, time)`, float32,
        at 22 050 Hz.
    """
    score = _draw_score(np.random.default_rng((*seeds, 0)), seconds)
    waves: dict[str, Wave] = {}
    for number, (stem, instrument) in enumerate(INSTRUMENTS.items(), start=1):
        rng = np.random.default_rng((*seeds, number))
        if rng.random() >= instrument.absent:
            waves[stem] = _levelled(play(stem, rng, score), rng.uniform(-22.0, -14.0))
    peak = max(np.abs(wave).max() for wave in (*waves.values(), sum(waves.values())))
    stems = {stem: torch.from_numpy(0.9 / peak * wave).float()[None] for stem, wave in waves.items()}
    return {**stems, "mix": torch.stack(list(stems.values())).sum(dim=0)}


def _draw_score(rng: np.random.Generator, seconds: float) -> Score:
    """Draw the music that all instruments of a song share."""
    tempo, beats = int(rng.integers(70, 176)), int(rng.choice([4, 4, 4, 3]))
    key, mode = int(rng.integers(12)), int(rng.integers(6))
    scale = tuple((key + _MAJOR[(mode + degree) % 7]) % 12 for degree in range(7))
    loops = rng.integers(0, 6, (2, 4))  # four chords for verses and four for choruses
    form = _FORMS[rng.integers(len(_FORMS))]
    sections = tuple(bar // (2 if tempo < 110 else 4) for bar in range(math.ceil(seconds * tempo / 60 / beats)))
    parts = tuple(form[section % 4] for section in sections)
    chords = tuple(int(loops[part, bar % 4]) for bar, part in enumerate(parts))
    return Score(tempo, beats, scale, chords, sections, parts, round(seconds * SAMPLE_RATE))


def _levelled(wave: Wave, level: float) -> Wave:
    """Bring the loudest second of a waveform to a level in dBFS, and soften rare high peaks."""
    seconds = wave[: len(wave) // SAMPLE_RATE * SAMPLE_RATE].reshape(-1, SAMPLE_RATE)
    loudest = np.sqrt(np.square(seconds).mean(axis=1).max()) + 1e-9
    return 5 * 10 ** (level / 20) * np.tanh(wave / loudest / 5)


def _is_written(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether a folder holds the song of these settings, complete."""
    try:
        seen = json.loads((folder / "song.json").read_text(encoding="utf-8"))
        return bool(seen | settings == seen) and all((folder / f"{name}.flac").is_file() for name in seen["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        msg = (
            f"{folder} exists but is not a synthetic song: expected a readable song.json in it ({error}). "
            "Set `root` to an empty folder, or delete this one."
        )
        raise ConfigError(msg) from error
