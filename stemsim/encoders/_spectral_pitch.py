"""Pitch of `Spectral`: harmonicity, the profile of the harmonics, and pitch classes.

Sources: Tolonen and Karjalainen (2000) for the compressed autocorrelation; Pollard and Jansson (1982) for the
tristimulus; Krimphoff et al. (1994) for odd and even harmonics and the irregularity of the spectrum; Fujishima (1999)
for chroma; Bernardes et al. (2016) for its Fourier transform, whose magnitudes do not change under transposition.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.encoders._spectral_front_end import (
    SAMPLE_RATE,
    SPECTRUM_BINS,
    SPECTRUM_SIZE,
    Views,
    bin_frequencies,
    pool,
)

__all__ = [
    "Pitch",
    "chroma",
    "chroma_matrix",
    "harmonics",
    "intervals",
    "lag_taper",
    "periodicity",
    "pitch_of",
    "register",
]

_ACF_BINS = 1024  # up to 11 kHz: pitch lives below, and half the transform is half the time
_ACF_RATE = SAMPLE_RATE * 2 * _ACF_BINS / SPECTRUM_SIZE  # Hz
_LAGS = (13, 402)  # 1.7 kHz down to 55 Hz
_OCTAVE_COST = 0.03  # per octave of lag: of two equal periods, the shorter one
_HARMONICS = 12
_CHROMA_HZ = (110.0, 4200.0)  # below, a semitone is narrower than a bin


@dataclass(frozen=True)
class Pitch:
    """Fundamental and harmonics of every slow frame.

    Attributes:
        fundamental: Hz, `(batch, frames, 1)`; meaningless where `strength` is low.
        strength: Periodicity `(batch, frames, 1)` in [0, 1].
        harmonics: Share of each of the first twelve in their sum, in power, `(batch, frames, 12)`.
        share: Power of the harmonics in all power, `(batch, frames, 1)`.
        weight: `(batch, frames)`, large for loud, periodic frames.
    """

    fundamental: Tensor
    strength: Tensor
    harmonics: Tensor
    share: Tensor
    weight: Tensor


def pitch_of(views: Views, taper: Tensor) -> Pitch:
    """Find the period of each frame and read the harmonics of it off the spectrum."""
    lag, strength = _period(views.spectrum, taper)
    fundamental = _ACF_RATE / lag
    order = torch.arange(1, _HARMONICS + 1, device=lag.device)
    bins = (fundamental * order * (SPECTRUM_SIZE / SAMPLE_RATE)).round().long()
    inside = bins < SPECTRUM_BINS - 1
    bins = bins.clamp(1, SPECTRUM_BINS - 2)
    power = torch.stack([views.spectrum.gather(2, bins + side) for side in (-1, 0, 1)]).sum(dim=0) * inside
    total = power.sum(dim=2, keepdim=True)
    everything = views.spectrum[..., 3:].sum(dim=2, keepdim=True).clamp_min(1e-12)
    return Pitch(
        fundamental=fundamental,
        strength=strength,
        harmonics=power / total.clamp_min(1e-12),
        share=(total / everything).clamp(0, 1),
        weight=views.spectrum_weight * strength.squeeze(2).square(),
    )


def harmonics(pitch: Pitch) -> Tensor:
    """Tristimulus (three amplitudes), odd over even harmonics in dB, irregularity in dB: means, `(batch, 5)`."""
    share = pitch.harmonics
    tristimulus = [share[..., low:high].sum(dim=2).sqrt() for low, high in ((0, 1), (1, 4), (4, _HARMONICS))]
    odd, even = share[..., 2::2].sum(dim=2), share[..., 1::2].sum(dim=2)
    ratio = 10 * torch.log10((odd + 1e-3) / (even + 1e-3))
    level = 10 * torch.log10(share + 1e-6)
    jagged = (level[..., 1:-1] - (level[..., 2:] + level[..., :-2]) / 2).abs().mean(dim=2)
    return pool(torch.stack([*tristimulus, ratio, jagged], dim=2), pitch.weight)[0]


def periodicity(views: Views, pitch: Pitch) -> Tensor:
    """Periodicity and share of the harmonics: means, then deviations, `(batch, 4)`. Low for noise and for bells."""
    return torch.cat(pool(torch.cat([pitch.strength, pitch.share], dim=2), views.spectrum_weight), dim=1)


def register(pitch: Pitch) -> Tensor:
    """Mean pitch in octaves above 55 Hz, and log of its deviation (vibrato, melody), `(batch, 2)`."""
    mean, deviation = pool(torch.log2(pitch.fundamental / 55), pitch.weight)
    return torch.cat([mean, torch.log10(deviation + 0.02)], dim=1)


def chroma(views: Views, matrix: Tensor) -> Tensor:
    """Mean chroma as a unit vector less its own mean, `(batch, 12)`: the notes in use."""
    mean = functional.normalize(pool(_chroma_frames(views, matrix), views.spectrum_weight)[0], dim=1, eps=1e-6)
    return mean - mean.mean(dim=1, keepdim=True)


def intervals(views: Views, matrix: Tensor) -> Tensor:
    """Which intervals sound together, whatever the key, `(batch, 7)`.

    Magnitudes of the Fourier transform of the mean chroma, then how constant the harmony is.
    """
    frames = _chroma_frames(views, matrix)
    mean = pool(frames, views.spectrum_weight)[0]
    magnitudes = torch.fft.rfft(mean)[:, 1:].abs() / mean.sum(dim=1, keepdim=True).clamp_min(1e-6)
    constancy = functional.cosine_similarity(frames, mean.unsqueeze(1), dim=2, eps=1e-6).unsqueeze(2)
    return torch.cat([magnitudes, pool(constancy, views.spectrum_weight)[0]], dim=1)


def chroma_matrix() -> Tensor:
    """Fold the bins of a spectrum into twelve pitch classes, A first, `(SPECTRUM_BINS, 12)`."""
    hz = bin_frequencies(SPECTRUM_SIZE)[:SPECTRUM_BINS].clamp_min(1)
    semitone = 12 * torch.log2(hz / 440).unsqueeze(1)
    distance = (semitone - torch.arange(12) + 6) % 12 - 6
    inside = (hz > _CHROMA_HZ[0]) & (hz < _CHROMA_HZ[1])
    folded: Tensor = torch.exp(-2 * distance.square()) * inside.unsqueeze(1)
    return folded.float()


def lag_taper() -> Tensor:
    """Autocorrelation of the analysis window at the lags in use, by which that of the signal is divided."""
    window = torch.hann_window(2 * _ACF_BINS, dtype=torch.float64)
    power = torch.fft.rfft(window, n=4 * _ACF_BINS).abs().square()
    correlation: Tensor = torch.fft.irfft(power) / window.square().sum()
    return correlation[_LAGS[0] - 1 : _LAGS[1] + 1].float()


def _period(spectrum: Tensor, taper: Tensor) -> tuple[Tensor, Tensor]:
    """Lag of the strongest period in samples at `_ACF_RATE`, and its strength, each `(batch, frames, 1)`."""
    correlation = torch.fft.irfft(spectrum[..., : _ACF_BINS + 1] ** (1 / 3))
    low, high = _LAGS
    curve = correlation[..., low - 1 : high + 1] / correlation[..., :1].clamp_min(1e-9) / taper
    before, middle, after = curve[..., :-2], curve[..., 1:-1], curve[..., 2:]
    is_peak = (middle >= before) & (middle > after)
    cost = _OCTAVE_COST * torch.log2(torch.arange(low, high, device=curve.device) / low)
    best = (middle - cost).masked_fill(~is_peak, -1).argmax(dim=2, keepdim=True)
    left, top, right = (curve.gather(2, best + step) for step in range(3))
    shift = 0.5 * (left - right) / (left - 2 * top + right).clamp_max(-1e-6)  # vertex of the parabola
    strength = torch.where(is_peak.any(dim=2, keepdim=True), top, 0).clamp(0, 1)
    return best + low + shift.clamp(-0.5, 0.5), strength


def _chroma_frames(views: Views, matrix: Tensor) -> Tensor:
    """Chroma `(batch, frames, 12)` of unit length, from the peaks of the spectrum only."""
    amplitude = views.spectrum.sqrt()
    middle = amplitude[..., 1:-1]
    is_peak = (middle >= amplitude[..., :-2]) & (middle > amplitude[..., 2:])
    peaks = functional.pad(middle * is_peak, (1, 1))
    return functional.normalize(peaks @ matrix, dim=2, eps=1e-6)
