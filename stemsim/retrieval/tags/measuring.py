"""Tempo and key measured in the audio."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls

from stemsim.audio import audio_info, downmix, read_audio, resample
from stemsim.retrieval.tags.names import KEYS

_RATE: Final = 22_050  # Hz
_LONGEST: Final = 20.0  # seconds from the middle of a file: enough for either
_SHORTEST: Final = 1.0  # second

# Tempo
_HOP: Final = 256
_BANDS: Final = ((20.0, 200.0), (200.0, 2500.0), (2500.0, 10_500.0))  # Hz: kick and bass; snare and chords; hats
_SLOWEST, _FASTEST = 55.0, 200.0  # BPM
_BAR: Final = 240.0  # beats per minute x seconds: a bar of four beats
_BARS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_USUAL: Final = (135.0, 0.5)  # BPM and octaves: mean and standard deviation of a log-normal prior
_PRIOR, _BACKBEAT = 0.15, 0.6  # shares in the score of a tempo, beside its clarity
_ODD_BARS, _NOT_WHOLE = 0.3, 0.3  # costs in the score, as loops mostly last 2, 4, 8 or 16 bars
_SAME_TEMPO: Final = 0.02
_RELATED: Final = (1.0, 0.5, 2.0, 1 / 3, 3.0, 2 / 3, 1.5)  # tempi that the onsets of a piece may be counted by
_LEAST_CLARITY: Final = 0.22

# Key
_FRAME: Final = 8192  # samples
_PER_SEMITONE, _OCTAVES, _LOWEST = 3, 7, 32.703  # bins, and C1 in Hz
_HARMONICS, _DECAY = 12, 0.6  # number and amplitude ratio of the partials of a note
_TUNED: Final = (150.0, 4000.0)  # Hz
_LEAST_PEAK: Final = 0.1  # of the largest magnitude of a frame
_LEAST_CORRELATION: Final = 0.55
_LEAST_LEAD: Final = 0.02  # of the best key over the second
# Temperley, Music and Probability (2007): share of each pitch class in pieces in a key, from its tonic upwards.
_MAJOR: Final = (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400)
_MINOR: Final = (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330)

FloatArray = npt.NDArray[np.floating[Any]]


class Measured(NamedTuple):
    """Tempo in BPM and one of `KEYS`; None if the file is too short, has no clear beat, or is in no clear key."""

    bpm: float | None = None
    musical_key: str | None = None


def measure(path: Path, *, tempo: bool = True, key: bool = True) -> Measured:
    """Measure tempo and key, or one of them, of an audio file: of 20 s from its middle, if it is longer.

    Raises:
        AudioError: If the file cannot be decoded.
        DataNotFoundError: If it does not exist.
    """
    info = audio_info(path)
    if info.duration < _SHORTEST or not (tempo or key):
        return Measured()
    duration = min(info.duration, _LONGEST)
    waveform, rate = read_audio(path, max(0.0, (info.duration - duration) / 2.0), duration)
    samples = resample(downmix(waveform), rate, _RATE).numpy()
    if not np.any(np.abs(samples) > 1e-4):  # noqa: PLR2004 - -80 dBFS
        return Measured()
    whole = info.duration if info.duration <= _LONGEST else None
    return Measured(_tempo(samples, whole) if tempo else None, key_of_chroma(_chroma(samples)) if key else None)


def _tempo(samples: FloatArray, duration: float | None) -> float | None:
    """Return the tempo in BPM, or None if no beat is clear.

    Candidates are the tempi at which the file lasts a whole number of bars, as loops do, and the tempo whose beats
    repeat most clearly with those related to it. A candidate scores by the correlation of the onsets with themselves
    one, two and four beats later; by the backbeat, as snares and chords repeat after two beats rather than after one;
    and by how usual it is.

    Args:
        samples: `(time,)` at 22 050 Hz.
        duration: Length of the whole file in seconds; None for a part of a longer one.
    """
    bands = _onset_correlations(samples)
    total, middle = bands[-1], bands[1]
    grid = np.arange(_SLOWEST, _FASTEST, 0.25)
    free = _refined(total, float(grid[int(np.argmax([_clarity(total, bpm, (1, 2, 4, 8)) for bpm in grid]))]))
    tempi = {free * ratio: _NOT_WHOLE for ratio in _RELATED}
    if duration is not None:
        looped = {_BAR * bars / duration: _ODD_BARS if bars & (bars - 1) else 0.0 for bars in _BARS}
        near = {bpm for bpm in tempi for exact in looped if abs(bpm / exact - 1.0) < _SAME_TEMPO}
        tempi = {bpm: cost for bpm, cost in tempi.items() if bpm not in near}
        tempi |= looped

    def score(bpm: float) -> float:
        usual, spread = _USUAL
        prior = -((math.log2(bpm / usual) / spread) ** 2)
        gain, of_all = (_clarity(band, bpm, (2,)) - _clarity(band, bpm, (1,)) for band in (middle, total))
        # All bands gain alike where nothing sounds on every other beat.
        return _clarity(total, bpm) + _BACKBEAT * (gain - of_all) + _PRIOR * prior - tempi[bpm]

    possible = [bpm for bpm in tempi if _SLOWEST <= bpm <= _FASTEST]
    best = max(possible, key=score, default=_SLOWEST)
    return round(best, 2) if possible and _clarity(total, best) >= _LEAST_CLARITY else None


def _onset_correlations(samples: FloatArray) -> FloatArray:
    """Return the autocorrelation of the onset strength in each band, and in all, `(band + 1, lag)` in frames."""
    magnitude, frequency = _spectrogram(samples, 1024, _HOP)
    compressed = np.log1p(100.0 * magnitude / magnitude.max())
    level = np.stack([compressed[(frequency >= low) & (frequency < high)].mean(axis=0) for low, high in _BANDS])
    onsets = np.maximum(np.diff(level, axis=1, prepend=level[:, :1]), 0.0)
    onsets = np.concatenate([onsets, onsets.sum(axis=0, keepdims=True)])
    onsets -= onsets.mean(axis=1, keepdims=True)
    frames = onsets.shape[1]
    spectrum = np.abs(np.fft.rfft(onsets, 2 * frames)) ** 2
    correlation = np.fft.irfft(spectrum)[:, :frames] / np.maximum(1.0 - np.arange(frames) / frames, 0.1)
    scaled: FloatArray = correlation / np.maximum(correlation[:, :1], 1e-12)
    return scaled


def _refined(correlation: FloatArray, bpm: float) -> float:
    """Return the tempo within 2 % whose beats, counted over the whole length, repeat most precisely."""
    tempi = bpm * np.linspace(1.0 - _SAME_TEMPO, 1.0 + _SAME_TEMPO, 161)
    beat = 60.0 / tempi * _RATE / _HOP  # frames
    lags = [count * beat for count in (1, 2, 4, 8, 16) if count * beat.max() < 0.9 * len(correlation)]
    frames = np.arange(len(correlation))
    return float(tempi[np.sum([np.interp(lag, frames, correlation) for lag in lags], axis=0).argmax()]) if lags else bpm


def _clarity(correlation: FloatArray, bpm: float, beats: tuple[int, ...] = (1, 2, 4)) -> float:
    """Return the mean correlation of the onsets with themselves some beats later, within 2 % of the tempo."""
    beat = 60.0 / bpm * _RATE / _HOP  # frames
    lags = [round(count * beat) for count in beats]
    near = [(lag, max(1, lag // 50)) for lag in lags if lag < len(correlation) - 1]
    return float(np.mean([correlation[lag - reach : lag + reach + 1].max() for lag, reach in near])) if near else 0.0


def _chroma(samples: FloatArray) -> FloatArray:
    """Return the salience of the twelve pitch classes `(12,)`, C first.

    The mean spectrum, on a logarithmic scale of frequency that follows the tuning, is explained by notes with decaying
    harmonics (non-negative least squares, as in Mauch and Dixon, "Approximate note transcription for the improved
    identification of difficult chords", ISMIR 2010): otherwise the third and fifth harmonics of C and G pass for E, G,
    B and D.
    """
    padded = np.pad(samples, (0, max(0, _FRAME - len(samples))))
    magnitude, frequency = _spectrogram(padded, _FRAME, _FRAME // 2)
    bins = 12 * _PER_SEMITONE * _OCTAVES
    edges = _LOWEST * 2.0 ** (_tuning(magnitude, frequency) / 12.0 + np.arange(-1, bins + 1) / (12 * _PER_SEMITONE))
    width = np.maximum(edges[2:] - edges[1:-1], frequency[1])[:, None]
    weights = np.maximum(1.0 - np.abs(frequency - edges[1:-1, None]) / width, 0.0)
    spectrum = (weights / (weights.sum(axis=1, keepdims=True) + 1e-9)) @ magnitude
    notes, _ = nnls(_notes(), np.sqrt(spectrum).mean(axis=1))  # the root, lest the loudest moment decide alone
    chroma: FloatArray = notes.reshape(_OCTAVES, 12).sum(axis=0)
    return chroma


def _spectrogram(samples: FloatArray, size: int, hop: int) -> tuple[FloatArray, FloatArray]:
    """Return magnitudes `(bin, frame)` and the frequencies of their bins in Hz."""
    waveform = torch.from_numpy(samples)
    window = torch.hann_window(size, dtype=waveform.dtype)
    spectrum = torch.stft(waveform, size, hop, window=window, pad_mode="constant", return_complex=True)
    return spectrum.abs().numpy(), np.fft.rfftfreq(size, 1.0 / _RATE)


def _tuning(magnitude: FloatArray, frequency: FloatArray) -> float:
    """Return how far the spectral peaks lie above the notes of A = 440 Hz, in semitones from -0.5 to 0.5.

    It is the most frequent deviation of the louder half of the peaks, their frequencies refined by a parabola, as in
    librosa's `estimate_tuning`, which crashes the process where its compiled functions are written to the cache.
    """
    below, at, above = magnitude[:-2], magnitude[1:-1], magnitude[2:]
    heard = (frequency[1:-1, None] >= _TUNED[0]) & (frequency[1:-1, None] < _TUNED[1])
    peaks = np.nonzero(heard & (at > below) & (at >= above) & (at > _LEAST_PEAK * magnitude.max(axis=0)))
    if not len(peaks[0]):
        return 0.0
    left, middle, right = below[peaks], at[peaks], above[peaks]
    pitch = (peaks[0] + 1 + 0.5 * (right - left) / (2.0 * middle - left - right)) * frequency[1]
    loud = pitch[middle >= np.median(middle)]
    deviation = (12.0 * np.log2(loud / 440.0) + 0.5) % 1.0 - 0.5
    count, edges = np.histogram(deviation, bins=100, range=(-0.5, 0.5))
    return float(edges[count.argmax()])


@lru_cache(maxsize=1)
def _notes() -> FloatArray:
    """Return the spectrum of every note, `(bin, note)`, unit norm."""
    bins, notes = 12 * _PER_SEMITONE * _OCTAVES, 12 * _OCTAVES
    place = np.arange(notes) * _PER_SEMITONE
    harmonic = np.arange(1, _HARMONICS + 1)
    centre = place[:, None] + 12 * _PER_SEMITONE * np.log2(harmonic)  # (note, harmonic)
    shape = np.exp(-0.5 * (np.arange(bins)[:, None, None] - centre) ** 2)
    spectra = (shape * _DECAY ** (harmonic - 1)).sum(axis=2)
    normalised: FloatArray = spectra / np.linalg.norm(spectra, axis=0)
    return normalised


def key_of_chroma(chroma: FloatArray) -> str | None:
    """Return the key whose profile correlates best with a chroma vector (Krumhansl, 1990; profiles: Temperley, 2007).

    Args:
        chroma: Salience of the twelve pitch classes `(12,)`, C first.

    Returns:
        One of `KEYS`; None if no profile correlates by at least 0.55 and 0.02 more than any other, as with drums.
    """
    if not np.isfinite(chroma).all() or np.ptp(chroma) == 0.0:
        return None
    profiles = np.array([np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)])
    correlations = np.corrcoef(np.vstack([chroma, profiles]))[0, 1:]
    second, best = np.argsort(correlations)[-2:]
    clear = correlations[best] >= _LEAST_CORRELATION and correlations[best] - correlations[second] >= _LEAST_LEAD
    return KEYS[best] if clear else None
