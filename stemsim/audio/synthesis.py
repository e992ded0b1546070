"""Synthetic multitrack songs, so that everything can be tried on a fresh machine without any data."""

import json
import logging
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from stemsim.audio.files import write_audio
from stemsim.audio.songs import Song, SongFolder
from stemsim.errors import ConfigError

if TYPE_CHECKING:
    from stemsim.audio.instruments import Score, Wave

__all__ = ["SyntheticSongs", "synthesise_song"]

logger = logging.getLogger(__name__)

_GENERATOR: Final = 1
"""Version of the generator: raise it with every change that changes samples, so that songs are written anew."""

_SCALES: Final = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
_PROGRESSIONS: Final = (
    *((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4)),
    *((0, 0, 3, 4), (0, 6, 5, 4), (1, 4, 0, 0)),
)
"""Loops of four chords, as scale degrees counted from 0."""

_ABSENT: Final = {"bass": 0.0, "drums": 0.0, "guitar": 0.15, "piano": 0.15, "vocals": 0.15, "residuals": 0.15}
"""How likely a song does without a stem."""

_NAMES: Final = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_MIX_PEAK: Final = 0.9
_QUIETEST_ACTIVE: Final = 0.05
"""Frames whose level is below this share of the loudest frame's count as pauses."""


class SyntheticSongs(SongFolder):
    """A folder of synthetic multitrack songs, which are written when they are asked for first.

    Each song is a folder `song-000`, `song-001`, ... with a `mix.flac`, one file for each stem that the song uses
    (`bass.flac`, `drums.flac`, ...; about one song in two lacks one), and a `song.json` that says how it was made. A
    song that is there with the same settings is left alone, one with others is replaced as a whole; a process that is
    killed leaves no half song.

    Args:
        root: The folder; made if it does not exist.
        count: Number of songs.
        seconds: Length of each in seconds, 1 or more.
        seed: Songs of another seed are other songs.
        sample_rate: In Hz, 8000 to 192000.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self, root: str | Path, count: int = 24, *, seconds: float = 30.0, seed: int = 0, sample_rate: int = 22_050
    ) -> None:
        super().__init__(root)
        if count < 1:
            msg = f"A folder of synthetic songs needs at least 1 song; got count={count}. Set `count` to 1 or more."
            raise ConfigError(msg)
        _check_song(seed, seconds, sample_rate)
        self.count = count
        self.seconds = seconds
        self.seed = seed
        self.sample_rate = sample_rate

    def songs(self) -> list[Song]:
        """Write the songs that are missing and return all of them, sorted by name.

        Raises:
            ConfigError: If a folder that bears a song's name holds something that this class did not write.
        """
        names = [f"song-{index:03d}" for index in range(self.count)]
        written = sum(self._write(index, self.root / name) for index, name in enumerate(names))
        if written:
            logger.info("Synthesised %d of %d songs of %g s in %s", written, self.count, self.seconds, self.root)
        return [song for song in super().songs() if song.name in set(names)]

    def _write(self, index: int, folder: Path) -> bool:
        """Write one song unless it is there; tell whether it was written."""
        seed = (self.seed, index)
        settings = _describe(seed, self.seconds, self.sample_rate)
        if folder.exists() and _is_written(folder, settings):
            return False
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=self.root))
        try:
            new = scratch / "new"
            new.mkdir()
            waves = synthesise_song(seed, self.seconds, sample_rate=self.sample_rate)
            for stem, wave in waves.items():
                write_audio(new / f"{stem}.flac", wave, self.sample_rate)
            (new / "song.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(scratch / "old")
            new.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True


def synthesise_song(
    seed: int | tuple[int, ...], seconds: float = 30.0, *, sample_rate: int = 22_050
) -> dict[str, Tensor]:
    """Synthesise a song; the same arguments give the same samples, up to float rounding between machines.

    Tempo, metre, key, chords and form belong to the song; timbre and pattern of each stem are drawn from a random
    source of its own. One gain for the whole song brings its largest peak to 0.9.

    Args:
        seed: One number, or several: (seed of the folder, index of the song).
        seconds: Length in seconds, 1 or more.
        sample_rate: In Hz, 8000 to 192000.

    Returns:
        The stems that the song uses, in canonical order, and then `mix`, their sum: each `(channel=1, time)`, float32.

    Raises:
        ConfigError: If an argument is out of range.
    """
    from stemsim.audio.instruments import INSTRUMENTS, in_a_room

    seeds = (seed,) if isinstance(seed, int) else seed
    _check_song(min(seeds), seconds, sample_rate)
    score = _draw_score(seeds, seconds, sample_rate)
    waves: dict[str, Wave] = {}
    for stem, rng in _draw_players(seeds).items():
        wave = in_a_room(rng, INSTRUMENTS[stem](rng, score), sample_rate)
        waves[stem] = _levelled(wave, rng.uniform(-23.0, -16.0), sample_rate)
    peak = max(np.abs(wave).max() for wave in (*waves.values(), sum(waves.values())))
    stems = {stem: torch.from_numpy(_MIX_PEAK / peak * wave).float()[None] for stem, wave in waves.items()}
    return {**stems, "mix": torch.stack(list(stems.values())).sum(dim=0)}


def _check_song(seed: int, seconds: float, sample_rate: int) -> None:
    """Raise `ConfigError` unless a song can be synthesised from these settings."""
    if seed < 0:
        msg = f"The seed of synthetic songs must be 0 or more; got {seed}. Set `seed` to another integer."
        raise ConfigError(msg)
    if not (math.isfinite(seconds) and seconds >= 1.0):
        msg = f"A synthetic song lasts 1 s or longer; got seconds={seconds}. Set `seconds` to 10 or more for music."
        raise ConfigError(msg)
    if not 8_000 <= sample_rate <= 192_000:  # noqa: PLR2004 - the range that the message names
        msg = f"Synthetic songs need a sample rate of 8000 to 192000 Hz; got {sample_rate}. Set it to 22050, say."
        raise ConfigError(msg)


def _draw_score(seeds: tuple[int, ...], seconds: float, sample_rate: int) -> "Score":
    """Draw what all instruments of a song share."""
    from stemsim.audio.instruments import Score

    rng = np.random.default_rng((*seeds, 0))
    tempo, beats = int(rng.integers(70, 176)), int(rng.choice([4, 4, 4, 4, 3]))
    bars = math.ceil(seconds * tempo / 60 / beats)
    verse, chorus = rng.permutation(len(_PROGRESSIONS))[:2]
    section_bars = 2 if tempo < 110 else 4  # noqa: PLR2004 - four to nine seconds
    form = ((0, 1, 0, 1), (0, 0, 1, 0), (0, 1, 1, 0))[rng.integers(3)]
    sections = tuple(bar // section_bars for bar in range(bars))
    parts = tuple(form[section % 4] for section in sections)
    chords = tuple(_PROGRESSIONS[(verse, chorus)[part]][bar % 4] for bar, part in enumerate(parts))
    swing, key = float(rng.choice([0.0, 0.0, 0.3, 2 / 3])), int(rng.integers(12))
    scale = list(_SCALES.values())[rng.integers(len(_SCALES))]
    return Score(tempo, beats, swing, key, scale, chords, sections, parts, sample_rate, round(seconds * sample_rate))


def _draw_players(seeds: tuple[int, ...]) -> dict[str, np.random.Generator]:
    """Draw the stems that a song uses, in canonical order, and return the random source of each."""
    sources = {stem: np.random.default_rng((*seeds, number)) for number, stem in enumerate(_ABSENT, start=1)}
    return {stem: rng for stem, rng in sources.items() if rng.random() >= _ABSENT[stem]}


def _describe(seed: tuple[int, int], seconds: float, sample_rate: int) -> dict[str, Any]:
    """Return the settings of a song and what was drawn for it, as it is written into `song.json`."""
    score = _draw_score(seed, seconds, sample_rate)
    mode = next(name for name, scale in _SCALES.items() if scale == score.scale)
    return {
        "generator": _GENERATOR,
        "seed": list(seed),
        "seconds": seconds,
        "sample_rate": sample_rate,
        "tempo": score.tempo,
        "beats": score.beats,
        "key": f"{_NAMES[score.key]} {mode}",
        "stems": list(_draw_players(seed)),
    }


def _is_written(folder: Path, settings: dict[str, Any]) -> bool:
    """Tell whether a folder holds the song of these settings.

    Raises:
        ConfigError: If it holds something else than a synthetic song.
    """
    try:
        seen = json.loads((folder / "song.json").read_text(encoding="utf-8"))
        return bool(seen == settings) and all(
            (folder / f"{stem}.flac").is_file() for stem in (*settings["stems"], "mix")
        )
    except (OSError, ValueError) as error:
        msg = (
            f"{folder} exists, but is no synthetic song: expected a readable song.json in it ({error}). "
            "Set `root` to an empty folder, or delete this one."
        )
        raise ConfigError(msg) from error


def _levelled(wave: "Wave", level: float, sample_rate: int) -> "Wave":
    """Bring the parts of a waveform that are no pauses to a level in dBFS, and round off rare high peaks."""
    frame = sample_rate // 20
    power = np.square(wave[: len(wave) // frame * frame]).reshape(-1, frame).mean(axis=1)
    active = power[power > _QUIETEST_ACTIVE**2 * power.max()]
    if not len(active):
        return wave
    target = 10 ** (level / 20)
    return 5 * target * np.tanh(wave / np.sqrt(active.mean()) / 5)
