"""Synthetic multitrack songs, so that everything can be tried on a new machine without any data.

A small synthesiser plays drums, and five pitched instruments that share one model of a tone. All instruments of a song
play the same score, each with a timbre and a rhythm drawn from its own random source, so the timbre of one stem says
nothing about the timbre of another. Pitches are MIDI numbers (69 = 440 Hz), times in a score are steps (sixteenth
notes).
"""

import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemsim.audio import Song, SongFolder, write_audio
from stemsim.errors import ConfigError
from stemsim.replacing import write_text

__all__ = ["SyntheticSongs", "synthesise_song"]

_log = logging.getLogger(__name__)

Wave = npt.NDArray[np.float64]
Rng = np.random.Generator
Sound = Callable[[int, int], Wave]  # from (pitch, length in samples) to a waveform
Note = tuple[int, int, int, float]  # start and length in steps, pitch, velocity in [0, 1]
Range = tuple[float, float]  # from which a number is drawn

_SAMPLE_RATE: Final = 22_050  # Hz
_TABLE: Final = 2048  # samples of one period of a tone
_DRUMS: Final = (  # pitch in Hz, share of noise and decay in s: a kick, a snare and a hat
    ((38.0, 75.0), (0.0, 0.1), (0.06, 0.25)),
    ((140.0, 320.0), (0.2, 0.95), (0.05, 0.2)),
    ((300.0, 600.0), (1.0, 1.0), (0.015, 0.06)),
)
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
            raise ConfigError(
                f"Synthetic songs need count and seconds >= 1 and seed >= 0; got {count}, {seconds} and {seed}."
            )
        self.count, self.seconds, self.seed = count, seconds, seed

    def songs(self) -> list[Song]:
        """Write the songs that are missing and return all of them, sorted by name.

        Raises:
            ConfigError: If a folder with a song's name holds something that this class did not write.
        """
        names = [f"song-{index:03d}" for index in range(self.count)]
        if written := sum(self._write(index, self.root / name) for index, name in enumerate(names)):
            _log.info("Synthesised %d of %d songs of %g s in %s", written, self.count, self.seconds, self.root)
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
                write_audio(new / f"{stem}.flac", wave, _SAMPLE_RATE)
            description = json.dumps({**settings, "files": list(stems)}, indent=2)
            write_text(new / "song.json", description + "\n")
            if folder.exists():
                folder.rename(Path(scratch, "old"))
            new.rename(folder)
        return True


def synthesise_song(seeds: tuple[int, ...], seconds: float = 30.0) -> dict[str, Tensor]:
    """Synthesise a song; equal arguments give equal samples, up to float rounding between machines.

    One gain for the whole song brings its largest peak to 0.9.

    Args:
        seeds: Random seed, such as (seed of the folder, index of the song).
        seconds: Length in seconds, 1 or more.

    Returns:
        The stems that the song uses, in canonical order, and then `mix`, their sum: each `(channel=1, time)`, float32,
        at 22 050 Hz.
    """
    score = _Score.draw(np.random.default_rng((*seeds, 0)), seconds)
    waves: dict[str, Wave] = {}
    for number, (stem, instrument) in enumerate(_INSTRUMENTS.items(), start=1):
        rng = np.random.default_rng((*seeds, number))
        if rng.random() >= instrument.absent:
            wave = _play(stem, rng, score)
            whole = wave[: len(wave) // _SAMPLE_RATE * _SAMPLE_RATE].reshape(-1, _SAMPLE_RATE)  # (second, sample)
            loudest = np.sqrt(np.square(whole).mean(axis=1).max()) + 1e-9
            # The loudest second is brought to a level in dBFS, and rare high peaks are softened.
            waves[stem] = 5 * 10 ** (rng.uniform(-22.0, -14.0) / 20) * np.tanh(wave / loudest / 5)
    peak = max(np.abs(wave).max() for wave in (*waves.values(), sum(waves.values())))
    stems = {stem: torch.from_numpy(0.9 / peak * wave).float()[None] for stem, wave in waves.items()}
    return {**stems, "mix": torch.stack(list(stems.values())).sum(dim=0)}


def _is_written(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether a folder holds the complete song of these settings."""
    try:
        seen = json.loads((folder / "song.json").read_text(encoding="utf-8"))
        return bool(seen | settings == seen) and all((folder / f"{name}.flac").is_file() for name in seen["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{folder} exists but is not a synthetic song: expected a readable song.json in it ({error}). "
            "Set `root` to an empty folder, or delete this one."
        ) from error


@dataclass(frozen=True, slots=True)
class _Instrument:
    """The range from which a song draws one instrument: uniform between two numbers, log-uniform for times."""

    lowest: tuple[int, int] = (0, 1)  # MIDI pitch; the instrument stays within the octave above it
    attack: Range = (0.0, 0.0)  # s
    decay: Range = (0.0, 0.0)  # time constant, s
    onsets: tuple[int, int] = (1, 2)  # in a bar
    chords: bool = False  # plays chords, whole or broken, instead of single notes
    sings: bool = False  # with vibrato and breath
    rests: float = 0.15  # share of the sections in which it is silent
    absent: float = 0.15  # share of the songs without it


_INSTRUMENTS: Final = {  # of each stem, in canonical order
    "bass": _Instrument((28, 41), (0.002, 0.02), (0.15, 1.5), (1, 9), absent=0.0),
    "drums": _Instrument(onsets=(2, 9), rests=0.05, absent=0.0),
    "guitar": _Instrument((40, 58), (0.001, 0.008), (0.1, 1.5), (3, 10), chords=True),
    "piano": _Instrument((48, 70), (0.001, 0.008), (0.2, 2.0), (1, 8), chords=True),
    "vocals": _Instrument((48, 66), (0.02, 0.1), (1.0, 8.0), (3, 8), sings=True, rests=0.3),
    "residuals": _Instrument((50, 75), (0.05, 0.6), (0.5, 8.0), (1, 4), chords=True),
}


@dataclass(frozen=True, slots=True)
class _Score:
    """The music that all instruments of a song share."""

    tempo: int  # beats per minute
    beats: int  # per bar
    scale: tuple[int, ...]  # pitch classes of its seven degrees, 0 = C, the tonic first
    chords: tuple[int, ...]  # for each bar, the scale degree of its chord's root
    sections: tuple[int, ...]  # for each bar, the number of its section, counted from 0
    parts: tuple[int, ...]  # for each bar, 0 (verse) or 1 (chorus)
    time: int  # length in samples

    @classmethod
    def draw(cls, rng: Rng, seconds: float) -> Self:
        """Draw the music of a song."""
        tempo, beats = int(rng.integers(70, 176)), int(rng.choice([4, 4, 4, 3]))
        key, mode = int(rng.integers(12)), int(rng.integers(6))
        scale = tuple((key + _MAJOR[(mode + degree) % 7]) % 12 for degree in range(7))
        loops = rng.integers(0, 6, (2, 4))  # four chords for verses and four for choruses
        form = _FORMS[rng.integers(len(_FORMS))]
        sections = tuple(bar // (2 if tempo < 110 else 4) for bar in range(math.ceil(seconds * tempo / 60 / beats)))
        parts = tuple(form[section % 4] for section in sections)
        chords = tuple(int(loops[part, bar % 4]) for bar, part in enumerate(parts))
        return cls(tempo, beats, scale, chords, sections, parts, round(seconds * _SAMPLE_RATE))

    @property
    def steps(self) -> int:
        """Steps in a bar."""
        return 4 * self.beats

    def sample(self, step: int) -> int:
        """Return the sample at which a step begins."""
        return round(step * 15.0 / self.tempo * _SAMPLE_RATE)

    def perform(self, notes: Iterable[Note], sound: Sound) -> Wave:
        """Add up notes; equal notes share one sound."""
        wave, sounds = np.zeros(self.time), dict[tuple[int, int], Wave]()
        for step, length, pitch, velocity in notes:
            start = self.sample(step)
            key = pitch, self.sample(step % self.steps + length) - self.sample(step % self.steps)
            if key not in sounds:
                sounds[key] = sound(*key)
            heard = sounds[key][: max(0, self.time - start)]
            wave[start : start + len(heard)] += velocity * heard
        return wave


def _play(stem: str, rng: Rng, score: _Score) -> Wave:
    """Draw the timbre and the patterns of a stem and play a score with them: waveform `(time,)` of any level."""
    instrument = _INSTRUMENTS[stem]
    resting = rng.random(score.sections[-1] + 1) < instrument.rests
    resting[rng.integers(len(resting))] = False  # it rests for some sections, but never for all
    bars = [bar for bar, section in enumerate(score.sections) if not resting[section]]
    sounds = [_draw_drum(rng, *ranges) for ranges in _DRUMS] if stem == "drums" else [_draw_tone(rng, instrument)]
    return np.sum([score.perform(_notes(rng, score, instrument, bars), sound) for sound in sounds], axis=0)


def _notes(rng: Rng, score: _Score, instrument: _Instrument, bars: list[int]) -> list[Note]:
    """Draw a rhythm and a line for verses and for choruses, and play them on the chords of the score."""
    lowest, broken, gate = int(rng.integers(*instrument.lowest)), rng.random() < 0.4, rng.uniform(0.4, 1.0)
    rhythms = [_rhythm(rng, score, instrument.onsets) for _part in range(2)]
    line = [0, *rng.choice([0, 0, 1, 2, 2, 4, 4, 6], score.steps)]  # degrees above the root of the chord
    notes: list[Note] = []
    for bar in bars:
        for index, (step, length) in enumerate(rhythms[score.parts[bar]]):
            if rng.random() < 0.1:
                continue  # no two bars are quite the same
            chord = [(0, 2, 4)[index % 3]] if broken else [0, 2, 4]
            for degree in chord if instrument.chords else [line[index]]:
                pitch_class = score.scale[(score.chords[bar] + degree) % 7]
                pitch = lowest + (pitch_class - lowest) % 12
                notes.append((bar * score.steps + step, max(1, round(gate * length)), pitch, rng.uniform(0.6, 1.0)))
    return notes


def _rhythm(rng: Rng, score: _Score, onsets: tuple[int, int]) -> list[tuple[int, int]]:
    """Draw onset and length in steps of the notes of a bar; strong positions are more likely than weak ones."""
    weight = np.resize([6.0, 0.7, 2.5, 0.7], score.steps)
    steps = np.sort(rng.choice(score.steps, rng.integers(*onsets), replace=False, p=weight / weight.sum()))
    return list(zip(steps.tolist(), np.diff(steps, append=score.steps).tolist(), strict=True))


def _draw_drum(rng: Rng, pitch: Range, noisy: Range, decay: Range) -> Sound:
    """Draw a drum: a sine whose frequency falls, mixed with noise in a band of its own."""
    t = np.arange(_SAMPLE_RATE // 2) / _SAMPLE_RATE
    sweep, fall, share = rng.uniform(40, 350), rng.uniform(0.01, 0.05), rng.uniform(*noisy)
    tone = np.sin(2 * np.pi * (_log_uniform(rng, pitch) * t - sweep * fall * np.exp(-t / fall)))
    hertz = np.fft.rfftfreq(len(t), 1 / _SAMPLE_RATE)[1:]
    band = np.exp(-(np.log2(hertz / _log_uniform(rng, (1000.0, 8000.0))) ** 2))
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(t))) * np.concatenate([[0.0], band]), len(t))
    drum = ((1 - share) * tone + share * noise / np.abs(noise).max()) * np.exp(-t / _log_uniform(rng, decay))
    return lambda _pitch, _length: drum


def _draw_tone(rng: Rng, instrument: _Instrument) -> Sound:
    """Draw a timbre: harmonics through two resonances, whose bright attack gives way to a darker sustain."""
    harmonic = np.arange(1, 41)
    bright = harmonic ** -rng.uniform(0.6, 2.0)
    bright[1::2] *= rng.choice([1.0, 1.0, 0.1])  # mostly odd ones, as of a clarinet
    dark = bright * np.exp(-rng.uniform(0.05, 1.0) * harmonic)
    resonances = np.exp(rng.uniform(np.log([[250], [900]]), np.log([[900], [3500]])))  # Hz
    gain, fading = rng.uniform(0.0, 10.0), _log_uniform(rng, (0.02, 0.5))
    attack, decay = (_log_uniform(rng, limits) for limits in (instrument.attack, instrument.decay))
    speed = rng.uniform(4.5, 6.5)  # Hz, of the vibrato
    depth, breath = rng.uniform(0.0, (0.02, 0.06)) if instrument.sings else (0.0, 0.0)

    def tone(pitch: int, length: int) -> Wave:
        hertz = 440.0 * 2.0 ** ((pitch - 69) / 12)
        shape = 1 + gain * np.exp(-8 * np.log2(harmonic * hertz / resonances) ** 2).sum(axis=0)
        shape *= harmonic * hertz < 0.45 * _SAMPLE_RATE
        t = np.arange(length) / _SAMPLE_RATE
        phase = hertz * (t - depth / (2 * np.pi * speed) * np.cos(2 * np.pi * speed * t))  # periods
        position = (phase * _TABLE).astype(np.intp) % _TABLE
        early, late = (_period(amplitudes * shape)[position] for amplitudes in (bright, dark))
        fade = np.exp(-t / fading)
        sound = fade * early + (1 - fade) * late + breath * rng.standard_normal(length)
        rise, fall = np.minimum(1.0, t / attack), np.minimum(1.0, t[::-1] / 0.02)
        return sound * np.exp(-t / decay) * rise * fall

    return tone


def _period(amplitudes: Wave) -> Wave:
    """Return one period `(_TABLE,)` of a tone of unit power with the given amplitudes of its harmonics."""
    period = np.fft.irfft(np.concatenate([[0.0], -1j * amplitudes]), _TABLE)
    return period / np.sqrt(np.mean(period**2))


def _log_uniform(rng: Rng, limits: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
