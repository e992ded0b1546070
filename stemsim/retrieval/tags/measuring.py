"""Tempo and key measured in the audio."""

import math
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stemsim.audio import audio_info, downmix, read_audio, resample
from stemsim.retrieval.tags.names import KEYS

__all__ = ["Measured", "key_of_chroma", "measure"]

_RATE: Final = 22_050  # Hz
_LONGEST: Final = 20.0  # seconds from the middle of a file: enough for either
_SHORTEST_TEMPO: Final = 1.5  # seconds: four beats at 160 BPM
_SHORTEST_KEY: Final = 1.0
_HOP: Final = 512
_BAR: Final = 240.0  # beats per minute x seconds: four beats
_USUAL: Final = 115.0  # BPM, the middle of the octave of tempi by which the bars of a loop are counted
_LEAST_CLARITY: Final = 0.2
_ALIKE: Final = 0.95  # of the clarity of the estimate: equally good, as a beat has few frames
_LONGEST_LAG: Final = 0.9  # of the file: correlations over less than a tenth of it are chance
_SLOWEST, _FASTEST = 50.0, 220.0  # BPM
_TEMPO_TOLERANCE: Final = 0.04  # by which the tempo of whole bars may differ from the estimate
_LEAST_CORRELATION: Final = 0.6

# Krumhansl and Kessler (1982): fit of each pitch class to a key, from its tonic upwards.
_MAJOR: Final = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR: Final = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)

FloatArray = npt.NDArray[np.floating[Any]]


class Measured(NamedTuple):
    """Tempo in BPM and one of `KEYS`; None if the file is too short, has no beat, or no key fits."""

    bpm: float | None = None
    musical_key: str | None = None


def measure(path: Path, *, tempo: bool = True, key: bool = True) -> Measured:
    """Measure tempo and key, or one of them, of an audio file: of 20 s from its middle, if it is longer.

    Raises:
        AudioError: If the file cannot be decoded.
        DataNotFoundError: If it does not exist.
    """
    info = audio_info(path)
    tempo &= info.duration >= _SHORTEST_TEMPO
    key &= info.duration >= _SHORTEST_KEY
    if not tempo and not key:
        return Measured()
    duration = min(info.duration, _LONGEST)
    waveform, rate = read_audio(path, max(0.0, (info.duration - duration) / 2.0), duration)
    samples = resample(downmix(waveform), rate, _RATE).numpy()
    if not np.any(np.abs(samples) > 1e-4):  # noqa: PLR2004 - -80 dBFS
        return Measured()
    whole = info.duration if info.duration <= _LONGEST else None
    return Measured(_tempo(samples, whole) if tempo else None, key_of_chroma(_chroma(samples)) if key else None)


def _tempo(samples: FloatArray, duration: float | None) -> float | None:
    """Return the tempo in BPM, or None if nothing repeats.

    A loop lasts a whole number of bars, mostly one, two, four or eight. The result is librosa's estimate or the tempo
    of so many bars, whichever has the onsets repeat more clearly after its beats. An estimate is first replaced by the
    nearest tempo with a whole number of bars, if that fits equally well.

    Args:
        samples: `(time,)` at 22 050 Hz.
        duration: Length of the whole file in seconds; None for a part of a longer one.
    """
    import librosa

    onsets = librosa.onset.onset_strength(y=samples, sr=_RATE, hop_length=_HOP)
    heard = float(librosa.feature.tempo(onset_envelope=onsets, sr=_RATE, hop_length=_HOP, max_tempo=_FASTEST)[0])
    repetition = librosa.autocorrelate(onsets - onsets.mean())
    heard = _refined(repetition, heard)
    clarity = {heard: _clarity(repetition, heard)}
    if duration is not None:
        exact = _BAR * max(1, round(duration * heard / _BAR)) / duration
        usual = _BAR * 2 ** max(0, round(math.log2(duration * _USUAL / _BAR))) / duration
        if abs(exact / heard - 1.0) <= _TEMPO_TOLERANCE and _clarity(repetition, exact) >= _ALIKE * clarity[heard]:
            clarity = {exact: _clarity(repetition, exact)}
        clarity[usual] = _clarity(repetition, usual)
    best = max(clarity, key=lambda bpm: clarity[bpm])
    return round(best, 2) if clarity[best] >= _LEAST_CLARITY and _SLOWEST <= best <= _FASTEST else None


def _refined(repetition: FloatArray, heard: float) -> float:
    """Return the tempo near an estimate whose beats repeat best, as librosa's bins are 5 % wide.

    Args:
        repetition: Autocorrelation of the onset strength, `(lag,)` in frames.
        heard: The estimate in BPM.
    """
    tempi = heard * np.linspace(1.0 - _TEMPO_TOLERANCE, 1.0 + _TEMPO_TOLERANCE, 161)
    beat = 60.0 / tempi * _RATE / _HOP  # frames
    lags = [beats * beat for beats in (1, 2, 4, 8, 16)]  # the longest are the most precise
    usable = [lag for lag in lags if lag.max() < _LONGEST_LAG * len(repetition)]
    if not usable:
        return heard
    frames = np.arange(len(repetition))
    return float(tempi[np.sum([np.interp(lag, frames, repetition) for lag in usable], axis=0).argmax()])


def _clarity(repetition: FloatArray, bpm: float) -> float:
    """Return the mean correlation of the onsets with themselves one, two and four beats later, at most about 1."""
    frames = len(repetition)
    beat = 60.0 / bpm * _RATE / _HOP  # frames
    lags = [round(beats * beat) for beats in (1, 2, 4)]
    values = [
        repetition[lag - 1 : lag + 2].max() * frames / (frames - lag) for lag in lags if 0 < lag < _LONGEST_LAG * frames
    ]
    return float(np.mean(values) / repetition[0]) if values and repetition[0] > 0.0 else 0.0


def _chroma(samples: FloatArray) -> FloatArray:
    """Return the mean energy of the twelve pitch classes `(12,)`, C first."""
    import librosa

    size = 4096
    if len(samples) < size:
        samples = np.pad(samples, (0, size - len(samples)))
    power = np.abs(librosa.stft(samples, n_fft=size, hop_length=size // 2)) ** 2
    # Compressed, lest the loudest partial decide alone. Tuning 0: estimating it takes longer than all the rest.
    chroma = librosa.feature.chroma_stft(S=np.sqrt(power), sr=_RATE, n_fft=size, tuning=0.0, norm=None)
    mean: FloatArray = chroma.mean(axis=1)
    return mean


def key_of_chroma(chroma: FloatArray) -> str | None:
    """Return the key whose profile correlates best with a chroma vector (Krumhansl, 1990).

    Args:
        chroma: Energy of the twelve pitch classes `(12,)`, C first.

    Returns:
        One of `KEYS`; None if no profile correlates by at least 0.6, as with drums and noise.
    """
    if not np.isfinite(chroma).all() or np.ptp(chroma) == 0.0:
        return None
    profiles = np.array([np.roll(profile, tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)])
    correlations = np.corrcoef(np.vstack([chroma, profiles]))[0, 1:]
    best = int(correlations.argmax())
    return KEYS[best] if correlations[best] >= _LEAST_CORRELATION else None
