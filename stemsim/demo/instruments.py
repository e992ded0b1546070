"""Six synthetic instruments that play the same score, each with its own random timbre and patterns.

An instrument is a function `(rng, score) -> waveform (time,)` in arbitrary units. It draws from a random source of its
own, so the timbre of one stem says nothing about the timbre of the others. Pitches are MIDI numbers (69 = 440 Hz),
times in a score are steps (sixteenth notes), lengths of waveforms are samples.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, lfilter, oaconvolve, sosfilt

__all__ = ["INSTRUMENTS", "Score", "Wave", "in_a_room"]

Wave = npt.NDArray[np.float64]
Rng = np.random.Generator
Note = tuple[float, float, float, float]  # start and length in steps, pitch (MIDI), velocity in [0, 1]
Rhythm = dict[int, int]  # onset in a bar -> length up to the next onset, in steps

_TABLE_SIZE: Final = 4096
_VOWELS: Final = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
"""First three formants in Hz of an average male voice: a, e, i, o, u (Peterson & Barney 1952)."""


@dataclass(frozen=True, slots=True)
class Score:
    """The music that all instruments of a song share."""

    tempo: int  # beats per minute
    beats: int  # per bar
    swing: float  # delay of every second eighth note, in steps
    key: int  # pitch class of the tonic, 0 = C
    scale: tuple[int, ...]  # seven semitones above the tonic, the first 0
    chords: tuple[int, ...]  # for each bar, the scale degree of its chord's root
    sections: tuple[int, ...]  # for each bar, the number of its section, counted from 0
    parts: tuple[int, ...]  # for each bar, 0 (verse) or 1 (chorus)
    sample_rate: int  # Hz
    time: int  # length in samples

    @property
    def steps(self) -> int:
        """Steps in a bar."""
        return 4 * self.beats

    def sample(self, step: float) -> int:
        """Return the sample at which a step begins, including swing."""
        late = self.swing if step % 4 >= 2 else 0.0  # the second half of a beat
        return round((step + late) * 15.0 / self.tempo * self.sample_rate)

    def pitch(self, degree: int, lowest: int) -> int:
        """Return the pitch of a scale degree, counted from the first tonic at or above `lowest`."""
        tonic = lowest + (self.key - lowest) % 12
        return tonic + 12 * (degree // 7) + self.scale[degree % 7]

    def chord(self, bar: int, lowest: int, size: int = 3) -> list[int]:
        """Return the pitches of a bar's chord, inverted to lie within the octave above `lowest`."""
        stacked = (self.pitch(self.chords[bar] + 2 * third, 0) for third in range(size))
        return sorted(lowest + (pitch - lowest) % 12 for pitch in stacked)

    def bars(self, rng: Rng, rest: float) -> list[tuple[int, int]]:
        """Draw the bars that an instrument plays: (bar, first step). It rests for some sections, never all."""
        resting = rng.random(self.sections[-1] + 1) < rest
        resting[rng.integers(len(resting))] = False
        return [(bar, bar * self.steps) for bar, section in enumerate(self.sections) if not resting[section]]

    def onsets(self, rng: Rng, rest: float, rhythms: list[Rhythm]) -> Iterator[tuple[int, int, int, int]]:
        """Yield (bar, index within the bar, step, length) of each note of a verse and a chorus rhythm."""
        for bar, first in self.bars(rng, rest):
            for index, (step, length) in enumerate(rhythms[self.parts[bar]].items()):
                yield bar, index, first + step, length

    def perform(self, notes: Iterable[Note], render: Callable[[float, int], Wave]) -> Wave:
        """Add up notes; `render(pitch, length)` synthesises one, and the result is reused when the note repeats."""
        wave, sounds = np.zeros(self.time), dict[tuple[float, int], Wave]()
        for step, length, pitch, velocity in notes:
            start, samples = self.sample(step), self.sample(int(step) + length) - self.sample(int(step))
            if (pitch, samples) not in sounds:
                sounds[pitch, samples] = render(pitch, samples)
            sound = sounds[pitch, samples][: max(0, self.time - start)]
            wave[start : start + len(sound)] += velocity * sound
        return wave


def drums(rng: Rng, score: Score) -> Wave:
    """Kick, snare, hats and tom made of swept tones and filtered noise, with a fill before a new section."""
    kit = _drum_kit(rng, score.sample_rate)
    four_on_the_floor, backbeat = rng.random() < 0.3, rng.integers(3)
    hat_every, hat_shift = int(rng.choice([1, 2, 2, 4])), int(rng.choice([0, 0, 2]))
    hat_level, snare_level, ghosts = rng.uniform(0.15, 0.8), rng.uniform(0.5, 1.0), rng.uniform(0.0, 0.3)
    kicks = [set(rhythm) | {0} for rhythm in _rhythms(rng, score, 2, 6)]
    hits: list[Note] = []
    for bar, first in score.bars(rng, 0.05):
        part = score.parts[bar]
        fill = bar + 1 < len(score.sections) and score.sections[bar + 1] != score.sections[bar]
        for step in range(score.steps - (4 if fill else 0)):
            if step in kicks[part] if not four_on_the_floor else step % 4 == 0:
                hits.append((first + step, 1, 0, rng.uniform(0.85, 1.0)))
            # The backbeat: beats 2 and 4, the third beat only (half time), or the last beat of the bar.
            if (step % 8 == 4, step == 8, step == score.steps - 4)[backbeat]:
                hits.append((first + step, 1, 1, snare_level))
            elif rng.random() < ghosts * (step % 2):
                hits.append((first + step, 1, 1, 0.25 * snare_level))
            if step % hat_every == hat_shift % hat_every:
                is_open = part == 1 and step % 8 == 6  # the offbeat before the snare
                hits.append((first + step, 1, 3 if is_open else 2, hat_level * rng.uniform(0.6, 1.0)))
        if fill:
            piece = float(rng.choice([1, 4]))
            hits += [(first + score.steps - 4 + k, 1, piece, 0.5 + 0.12 * k) for k in range(4) if rng.random() < 0.8]
    return score.perform(hits, lambda piece, _length: kit[int(piece)])


def _drum_kit(rng: Rng, rate: int) -> list[Wave]:
    """Draw a kit: the sounds of kick, snare, closed hat, open hat and tom."""
    t = np.arange(int(0.6 * rate)) / rate

    def swept(low: float, sweep: float, fall: float, decay: float) -> Wave:
        return np.sin(2 * np.pi * (low * t - sweep * fall * np.exp(-t / fall))) * np.exp(-t / decay)

    def noise(band: tuple[float, float], decay: float) -> Wave:
        sound = _band(rng.standard_normal(len(t)), band[0], band[1], rate) * np.exp(-t / decay)
        return sound / np.abs(sound).max()

    kick = swept(rng.uniform(38, 75), rng.uniform(40, 350), rng.uniform(0.01, 0.05), rng.uniform(0.06, 0.25))
    kick += rng.uniform(0.0, 0.4) * noise((800, 5000), 0.004)
    low, tone, band = rng.uniform(140, 320), rng.uniform(0.05, 0.95), float(np.exp(rng.uniform(6.5, 8.3)))
    snare = tone * swept(low, 80, 0.02, rng.uniform(0.05, 0.12))
    snare += (1 - tone) * noise((band, 3 * band), rng.uniform(0.04, 0.2))
    bright, decay = rng.uniform(2500, 8500), rng.uniform(0.015, 0.06)
    ring = np.zeros(len(t))
    for ratio in (1.0, 1.34, 1.79, 2.18, 2.63, 3.17):  # inharmonic square waves ring like a cymbal
        ring += np.sign(np.sin(2 * np.pi * bright / 3 * ratio * t))
    ring = _band(ring, bright, 2 * bright, rate) * rng.uniform(0.0, 0.6)
    hats = [noise((bright, 3 * bright), d) + ring * np.exp(-t / d) for d in (decay, 5 * decay)]
    tom = swept(rng.uniform(80, 160), 40, 0.04, rng.uniform(0.08, 0.2))
    return [kick, snare, *hats, tom]


def bass(rng: Rng, score: Score) -> Wave:
    """A tone whose bright attack gives way to a dark sustain, playing roots, fifths or a walking line."""
    rate, lowest = score.sample_rate, int(rng.choice([28, 31, 35, 40]))
    spectrum = _spectrum(rng)
    dark = spectrum * np.exp(-rng.uniform(0.15, 1.5) * np.arange(len(spectrum)))
    closing, decay, drive = rng.uniform(0.02, 0.4), rng.uniform(0.2, 3.0), rng.uniform(0.3, 4.0)

    def render(pitch: float, length: int) -> Wave:
        fade = np.exp(-np.arange(length) / rate / closing)
        sound = fade * _oscillate(_hertz(pitch), spectrum, length, rate)
        sound += (1 - fade) * _oscillate(_hertz(pitch), dark, length, rate)
        sound = np.tanh(drive * sound) * np.exp(-np.arange(length) / rate / decay)
        return _fade(sound, int(0.004 * rate), int(0.02 * rate))

    gate = rng.uniform(0.4, 1.0)
    onsets = [int(rng.integers(1, score.steps // 2 + 1)) for _part in range(2)]
    rhythms = [_rhythm(rng, score.steps, count) for count in onsets]
    line = [int(rng.choice([0, 0, 0, 2, 4, 7, 1])) for _step in range(score.steps)]
    notes: list[Note] = []
    for bar, index, step, length in score.onsets(rng, 0.1, rhythms):
        root = score.pitch(score.chords[bar], lowest) % 12
        degree = score.chords[bar] + (line[step % score.steps] if index and rng.random() < 0.9 else 0)
        pitch = score.pitch(degree, lowest - 7) if index else lowest + (root - lowest) % 12
        notes.append((step, max(0.5, gate * length), pitch, rng.uniform(0.8, 1.0)))
    return score.perform(notes, render)


def guitar(rng: Rng, score: Score) -> Wave:
    """Plucked strings (Karplus & Strong 1983), strummed, picked one by one or chugged, clean or distorted."""
    rate, lowest = score.sample_rate, int(rng.choice([40, 45, 52, 57]))
    sustain, damping = float(np.exp(rng.uniform(-1.2, 1.2))), rng.uniform(0.05, 0.6)
    pick, softness = rng.uniform(0.06, 0.45), rng.uniform(0.0, 0.9)
    burst = lfilter([1 - softness], [1, -softness], rng.standard_normal(rate // 20))

    def render(pitch: float, length: int) -> Wave:
        period = rate / _hertz(pitch)
        delay = int(period) - 1
        fraction = period - delay - 1
        # The loop: one period of delay, a low-pass that damps high partials faster, a loss that sets the decay time.
        loop = np.convolve([damping / 2, 1 - damping, damping / 2], [1 - fraction, fraction])
        loop *= 10 ** (-3 * period / rate / sustain)
        excitation = np.zeros(length + int(0.03 * rate))
        excitation[: delay + 1] = burst[: delay + 1][: len(excitation)]
        excitation[int(pick * period) :] -= excitation[: len(excitation) - int(pick * period)].copy()
        string = lfilter([1.0], np.concatenate([[1.0], np.zeros(delay - 1), -loop]), excitation)
        return _fade(string / (np.abs(string).max() + 1e-9), 8, int(0.03 * rate))

    style, drive = rng.integers(3), rng.choice([0.0, 0.0, float(np.exp(rng.uniform(1, 3)))])
    rhythms = _rhythms(rng, score, 3, 9)
    order, spread = rng.permutation(4), rng.uniform(0.02, 0.25)
    notes: list[Note] = []
    for bar, index, step, length in score.onsets(rng, 0.12, rhythms):
        low, mid, high = score.chord(bar, lowest)
        strings = (low, high) if style == 2 else (low, mid, high, low + 12)
        played = (strings[order[index % 4]],) if style == 1 else strings[:: -1 if index % 2 else 1]
        velocity = rng.uniform(0.6, 1.0)
        notes += [(step + spread * k, length, pitch, velocity) for k, pitch in enumerate(played)]
    wave = score.perform(notes, render)
    resonance = rng.uniform(90, 900)
    body = _band(wave, resonance, 4 * resonance, rate)
    wave = wave + rng.uniform(0.0, 1.5) * body
    return np.tanh(drive * wave) if drive else wave


def piano(rng: Rng, score: Score) -> Wave:
    """Stiff strings with partials at `k f0 sqrt(1 + B k^2)` (Fletcher 1964), comping chords with or without a bass."""
    rate, lowest, size = score.sample_rate, int(rng.integers(48, 73)), int(rng.choice([3, 3, 4]))
    stiffness, strike, slope = float(np.exp(rng.uniform(-9.5, -5.5))), rng.uniform(0.08, 0.35), rng.uniform(0.4, 2.5)
    decay, faster, detune = float(np.exp(rng.uniform(-1.5, 0.8))), rng.uniform(0.05, 0.6), rng.choice([0.0, 6e-3])
    tine = rng.choice([0.0, rng.uniform(0.2, 0.8)])  # an electric piano's: one high partial that dies soon

    def render(pitch: float, length: int) -> Wave:
        k = np.arange(1, 17)
        frequencies = _hertz(pitch) * k * np.sqrt(1 + stiffness * k**2)
        amplitudes, decays = np.abs(np.sin(np.pi * k * strike)) / k**slope, decay / (1 + faster * (k - 1))
        frequencies = np.append(frequencies, [7.1 * frequencies[0]])
        amplitudes, decays = np.append(amplitudes, [tine]), np.append(decays, [0.08])
        sound = _partials(frequencies, amplitudes, decays, length + int(0.08 * rate), rate)
        if detune:
            sound += _partials(frequencies * (1 + detune), amplitudes, decays, len(sound), rate)
        return _fade(sound, int(0.002 * rate), int(0.08 * rate))

    rhythms = _rhythms(rng, score, 1, 7)
    broken, left_hand, gate = rng.random() < 0.35, rng.random() < 0.5, rng.uniform(0.3, 1.0)
    notes: list[Note] = []
    for bar, index, step, length in score.onsets(rng, 0.12, rhythms):
        chord = score.chord(bar, lowest, size)
        if left_hand and index == 0:
            notes.append((bar * score.steps, score.steps, chord[0] - 12, 0.8))
        velocity = rng.uniform(0.5, 1.0)
        played = [chord[index % size]] if broken else chord
        notes += [(step, max(1.0, gate * length), pitch, velocity) for pitch in played]
    return score.perform(notes, render)


def vocals(rng: Rng, score: Score) -> Wave:
    """A pulse with vibrato through parallel formant resonators (after Klatt 1980), singing a melody with rests."""
    rate, lowest = score.sample_rate, int(rng.integers(43, 66))
    tract = 1.0 + 0.25 * (lowest - 43) / 22 + rng.uniform(-0.1, 0.1)  # a shorter vocal tract for higher voices
    vowels = rng.permutation(len(_VOWELS))[:2]
    depth, speed, breath = rng.uniform(0.0, 0.5), rng.uniform(4.5, 6.5), rng.uniform(0.0, 0.25) ** 1.5
    pitch, gate, vowel = np.full(score.time, float(lowest)), np.zeros(score.time), np.zeros(score.time)
    degree, busy = int(rng.integers(0, 5)), int(rng.integers(3, 8))
    for bar, first in score.bars(rng, 0.3):
        rhythm = _rhythm(rng, score.steps, busy + int(rng.integers(-1, 2)))
        for step, length in rhythm.items():
            degree = int(np.clip(degree + rng.integers(-2, 3), -1, 8))
            start, end = score.sample(first + step), score.sample(first + step + min(length, 8) * 0.9)
            pitch[start:] = score.pitch(degree, lowest)
            # The singer breathes: nothing is sung in the second half of every other bar.
            gate[start:end] = float(bar % 2 == 0 or step < score.steps // 2) * rng.uniform(0.7, 1.0)
            vowel[start:end] = rng.random() < 0.5
    t = np.arange(score.time) / rate
    pitch = _smooth(pitch, 0.02, rate) + depth * np.sin(2 * np.pi * speed * t)
    source = _oscillate(_hertz(pitch), np.arange(1, 101) ** -rng.uniform(0.5, 1.6), score.time, rate)
    source += breath * rng.standard_normal(score.time)
    source *= _smooth(gate, 0.015, rate)
    vowel = _smooth(vowel, 0.03, rate)
    bandwidth, singer = rng.uniform(60, 160), rng.uniform(0.1, 0.9)
    wave = np.zeros(score.time)
    for index, weight in zip(vowels, (1 - vowel, vowel), strict=True):
        for number, formant in enumerate((*_VOWELS[index], 3500)):
            level = (1.0, 0.7, 0.4, 0.4)[number] * (singer if number >= 2 else 1.0)  # F3 and up
            wave += _resonate(level * weight * source, tract * formant, bandwidth * (1 + 0.4 * number), rate)
    return wave


def residuals(rng: Rng, score: Score) -> Wave:
    """A pad, strings, an organ, a lead or bells, and in some songs noise that rises with a section."""
    rate, lowest, kind = score.sample_rate, int(rng.integers(50, 75)), int(rng.integers(5))
    attack = (rng.uniform(0.2, 0.8), rng.uniform(0.08, 0.3), 0.01, 0.005, 0.002)[kind]
    spectrum, detune, speed = _spectrum(rng), rng.uniform(1e-3, 8e-3), rng.uniform(3, 7)
    if kind == 2:  # an organ: drawbars
        spectrum = np.zeros(16)
        spectrum[[0, 1, 2, 3, 5, 7]] = rng.random(6)
    bell, ring = np.sort(rng.uniform(1.0, 9.0, 6)), float(np.exp(rng.uniform(-1.5, 0.5)))

    def render(pitch: float, length: int) -> Wave:
        if kind == 4:  # bells
            ratios = np.concatenate([[1.0], bell])
            return _fade(_partials(_hertz(pitch) * ratios, 0.6 / ratios, ring / ratios**0.5, length, rate), 8, 400)
        wobble = 1 + (0.004 if kind in (1, 3) else 0.0) * np.sin(2 * np.pi * speed * np.arange(length) / rate)
        voices = (1 - detune, 1, 1 + detune) if kind < 2 else (1,)  # ensembles
        sound = np.zeros(length)
        for voice in voices:
            sound += _oscillate(_hertz(pitch) * voice * wobble, spectrum, length, rate)
        return _fade(sound, int(attack * rate), int((0.1 if kind < 2 else 0.02) * rate))

    rhythms = _rhythms(rng, score, 4, 9)
    notes: list[Note] = []
    if kind < 3:  # chords; the others play single notes
        for bar, step in score.bars(rng, 0.15):
            notes += [(step, score.steps, pitch, rng.uniform(0.7, 1.0)) for pitch in score.chord(bar, lowest)]
    else:
        for bar, _index, step, length in score.onsets(rng, 0.15, rhythms):
            pitch = int(rng.choice(score.chord(bar, lowest))) + 12 * int(kind == 4)
            notes.append((step, length, pitch, rng.uniform(0.6, 1.0)))
    wave = score.perform(notes, render)
    if rng.random() < 0.3:
        rise = np.arange(score.time) / score.sample(2 * score.steps) % 1.0
        wave += 0.3 * np.abs(wave).max() * rise**3 * _band(rng.standard_normal(score.time), 1500, 6000, rate)
    return wave


INSTRUMENTS: Final = {play.__name__: play for play in (bass, drums, guitar, piano, vocals, residuals)}
"""The instrument of each stem, in canonical order."""


def in_a_room(rng: Rng, wave: Wave, rate: int) -> Wave:
    """Tilt the spectrum of a waveform `(time,)` and add reverberation, both drawn at random."""
    low = _smooth(wave, 1 / (2 * np.pi * rng.uniform(300, 2000)), rate)
    tilt = 10 ** (rng.uniform(-6, 6) / 20)
    wave = low / tilt + (wave - low) * tilt
    wet, decay = rng.choice([0.0, rng.uniform(0.1, 0.5)]), rng.uniform(0.02, 0.12)
    if not wet:
        return wave
    tail = rng.standard_normal(int(3 * decay * rate))
    tail *= np.exp(-np.arange(len(tail)) / rate / decay)
    echo = oaconvolve(wave.astype(np.float32), (tail / np.linalg.norm(tail)).astype(np.float32))[: len(wave)]
    return (1 - wet) * wave + wet * echo


def _rhythms(rng: Rng, score: Score, fewest: int, end: int) -> list[Rhythm]:
    """Draw one rhythm for verses and one for choruses, of `fewest` to `end - 1` onsets each."""
    return [_rhythm(rng, score.steps, int(rng.integers(fewest, end))) for _part in range(2)]


def _rhythm(rng: Rng, steps: int, onsets: int) -> Rhythm:
    """Draw the onsets of a bar, strong positions more often than weak ones."""
    weight = np.resize([6.0, 0.7, 2.5, 0.7], steps)
    chosen = np.sort(rng.choice(steps, min(onsets, steps), replace=False, p=weight / weight.sum()))
    lengths = np.diff(chosen, append=steps)
    return dict(zip(chosen.tolist(), lengths.tolist(), strict=True))


def _hertz(pitch: float | Wave) -> Wave:
    """Convert MIDI pitches to Hz."""
    return 440.0 * 2.0 ** ((np.asarray(pitch) - 69.0) / 12.0)


def _spectrum(rng: Rng) -> Wave:
    """Draw the amplitudes of 40 harmonics: slopes between those of a triangle and a pulse, all or mostly odd ones."""
    amplitudes = np.arange(1, 41) ** -rng.uniform(0.6, 2.2)
    amplitudes[1::2] *= rng.choice([1.0, 1.0, 0.1])
    return amplitudes


def _oscillate(frequency: Wave, spectrum: Wave, length: int, rate: int) -> Wave:
    """Return a tone `(length,)` of constant or changing frequency (Hz) without aliasing."""
    harmonics = spectrum[: max(1, int(0.45 * rate / np.max(frequency)))]
    period = np.fft.irfft(np.concatenate([[0.0], -1j * harmonics]), _TABLE_SIZE)
    phase = np.cumsum(np.broadcast_to(frequency / rate, length)) % 1.0
    return (period / np.abs(period).max())[(phase * _TABLE_SIZE).astype(np.intp) % _TABLE_SIZE]


def _partials(frequencies: Wave, amplitudes: Wave, decays: Wave, length: int, rate: int) -> Wave:
    """Add up decaying sines, impulse responses of two-pole filters; `decays` are time constants in s."""
    impulse, sound = np.zeros(length), np.zeros(length)
    impulse[0] = 1.0
    for frequency, amplitude, decay in zip(frequencies, amplitudes, decays, strict=True):
        if amplitude and frequency < 0.45 * rate:
            sound += amplitude * _resonate(impulse, frequency, 1 / (np.pi * decay), rate)
    return sound


def _resonate(wave: Wave, frequency: float, bandwidth: float, rate: int) -> Wave:
    """Apply a two-pole resonance, given its frequency and bandwidth in Hz; its impulse response has amplitude 1."""
    radius, angle = np.exp(-np.pi * bandwidth / rate), 2 * np.pi * min(frequency, 0.48 * rate) / rate
    return lfilter([0.0, radius * np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2], wave)


def _band(wave: Wave, low: float, high: float, rate: int) -> Wave:
    """Apply a band-pass between two frequencies in Hz, limited to the range below the Nyquist frequency."""
    edges = np.minimum([low, high], [0.35 * rate, 0.45 * rate])
    return sosfilt(butter(2, edges, "bandpass", fs=rate, output="sos"), wave)


def _smooth(wave: Wave, seconds: float, rate: int) -> Wave:
    """Apply a one-pole low-pass of a given time constant, starting from the first sample."""
    pole = np.exp(-1 / (seconds * rate))
    return lfilter([1 - pole], [1, -pole], wave - wave[0]) + wave[0]


def _fade(sound: Wave, attack: int, release: int) -> Wave:
    """Fade a sound in and out over numbers of samples."""
    attack, release = min(attack, len(sound) // 2), min(release, len(sound) // 2)
    sound[:attack] *= np.linspace(0.0, 1.0, attack)
    sound[len(sound) - release :] *= np.linspace(1.0, 0.0, release)
    return sound
