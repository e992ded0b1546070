"""Timbre of `Spectral`: what the log-mel picture looks like, and how it moves.

Sources: Davis and Mermelstein (1980) for the cepstrum; Peeters et al. (2011), "The Timbre Toolbox", for the moments of
the spectrum and their pooling; Jiang et al. (2002) for contrast by octaves; McAdams et al. (1995) and Krimphoff et al.
(1994) for flux; Patil et al. (2012) for joint spectro-temporal modulation.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.encoders._spectral_front_end import MEL_BANDS, SAMPLE_RATE, SPECTRUM_SIZE, Views, pool

__all__ = ["cepstrum_change", "cepstrum_mean", "contrast", "flux", "modulation", "shape"]

_OCTAVES_HZ = (60, 200, 400, 800, 1600, 3200, 6400, 16000)
_PATCH = 64  # frames, 0.74 s: slowest modulation 1.3 Hz
_RATES = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32))  # FFT bins of 1.35 Hz
_SCALES = ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16))  # cycles over the 64 mel bands


def cepstrum_mean(views: Views, dct: Tensor) -> Tensor:
    """Mean mel cepstrum `(batch, coefficients)`: the average spectral envelope."""
    return pool(views.log_mel @ dct, views.weight)[0]


def cepstrum_change(views: Views, dct: Tensor) -> Tensor:
    """Log deviations of the cepstrum, then of its differences over 23 ms, `(batch, 2 * coefficients)`."""
    cepstrum = views.log_mel @ dct
    spread = pool(cepstrum, views.weight)[1]
    speed = pool(cepstrum[:, 2:] - cepstrum[:, :-2], views.weight[:, 1:-1])[1]
    return torch.log10(torch.cat([spread, speed], dim=1) + 1)


def shape(views: Views) -> Tensor:
    """Moments, roll-off, slope, flatness and crest of the mel spectrum, `(batch, 13)`.

    Nine means over time (centroid, spread, skewness, log kurtosis, 85 % and 50 % roll-off, slope, flatness, crest),
    then the deviations of centroid, spread, slope and flatness. The centroid is over mel bands, which tracks
    brightness better than Hz, and over amplitude, not power, which is nearer to loudness.
    """
    position = torch.linspace(0, 1, MEL_BANDS, device=views.mel.device)
    amplitude = views.mel.sqrt()
    moments = _moments(amplitude / amplitude.sum(dim=2, keepdim=True).clamp_min(1e-9), position)
    share = views.mel / views.mel.sum(dim=2, keepdim=True).clamp_min(1e-12)
    below = (
        share @ torch.ones(MEL_BANDS, MEL_BANDS, device=share.device).triu()
    )  # a cumulative sum, deterministic on GPU
    rolloffs = [torch.sigmoid(50 * (part - below)).mean(dim=2) for part in (0.85, 0.5)]
    centred = position - 0.5
    slope = views.log_mel @ (centred / centred.square().sum())
    mean_db = views.log_mel.mean(dim=2)
    flatness = mean_db - 10 * torch.log10((10 ** (views.log_mel / 10)).mean(dim=2))
    crest = views.log_mel.amax(dim=2) - mean_db
    mean, deviation = pool(torch.stack([*moments, *rolloffs, slope, flatness, crest], dim=2), views.weight)
    return torch.cat([mean, deviation[:, [0, 1, 6, 7]]], dim=1)


def contrast(views: Views) -> Tensor:
    """Peak over mean level in dB of seven octave bands: mean and deviation over time, `(batch, 14)`."""
    loudest = views.spectrum.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9)
    level = 10 * torch.log10(views.spectrum / loudest + 1e-8)
    edges = [round(hz * SPECTRUM_SIZE / SAMPLE_RATE) for hz in _OCTAVES_HZ]
    octaves = [level[..., low:high] for low, high in pairwise(edges)]
    peaks = torch.stack([octave.amax(dim=2) - octave.mean(dim=2) for octave in octaves], dim=2)
    return torch.cat(pool(peaks, views.spectrum_weight), dim=1)


def flux(views: Views) -> Tensor:
    """How much successive spectra differ, on a log scale, `(batch, 7)`.

    Mean and deviation of three frame-to-frame measures (rise in dB, change in dB, one minus the correlation of the
    amplitudes), then the mean change of the shape of the spectrum over 46 ms.
    """
    step = views.log_mel[:, 1:] - views.log_mel[:, :-1]
    amplitude = views.mel.sqrt()
    likeness = functional.cosine_similarity(amplitude[:, 1:], amplitude[:, :-1], dim=2, eps=1e-9)
    turn = (1 - likeness).clamp_min(0).sqrt()
    frames = torch.stack([step.clamp_min(0).mean(dim=2), step.abs().mean(dim=2), turn], dim=2)
    far = views.log_mel[:, 4:] - views.log_mel[:, :-4]
    far = (far - far.mean(dim=2, keepdim=True)).abs().mean(dim=2, keepdim=True)
    both_sound = torch.minimum(views.weight[:, 4:], views.weight[:, :-4])
    values = torch.cat([*pool(frames, views.weight[:, 1:]), pool(far, both_sound)[0]], dim=1)
    return torch.log10(values + 0.01)


def modulation(views: Views) -> Tensor:
    """Log magnitude of joint temporal rate by spectral scale, in octaves, `(batch, 29)`.

    A two-dimensional Fourier transform of overlapping patches of the log-mel, averaged over time and both directions.
    The constant term is left out.
    """
    before, after = _PATCH // 2, _PATCH  # an attack at the very start falls into the middle of a patch
    picture = functional.pad(views.log_mel - views.log_mel.amin(dim=(1, 2), keepdim=True), (0, 0, before, after))
    patches = picture.unfold(1, _PATCH, _PATCH // 4)  # (batch, patch, mel, frame)
    weight = functional.pad(views.weight, (before, after)).unfold(1, _PATCH, _PATCH // 4).mean(dim=2)
    windowed = patches * torch.hann_window(_PATCH, device=picture.device)
    plane = torch.fft.fft(torch.fft.rfft(windowed), dim=2).abs()  # (batch, patch, scale, rate)
    plane = (plane + plane.roll(-1, dims=2).flip(2)) / 2  # bin k and bin -k: rising and falling ripples
    cells = [
        plane[:, :, low:high, slow:fast].mean(dim=(2, 3))
        for slow, fast in _RATES
        for low, high in _SCALES
        if (slow, low) != (0, 0)
    ]
    return torch.log10(pool(torch.stack(cells, dim=2), weight)[0] + 1)


def _moments(share: Tensor, position: Tensor) -> list[Tensor]:
    """Centroid, spread, skewness and log kurtosis of distributions `(batch, frames, bands)` over `position`."""
    centroid = (share * position).sum(dim=2, keepdim=True)
    offset = position - centroid
    variance = (share * offset.square()).sum(dim=2).clamp_min(1e-6)
    skewness = (share * offset**3).sum(dim=2) / variance**1.5
    kurtosis = (share * offset**4).sum(dim=2) / variance.square()
    return [centroid.squeeze(2), variance.sqrt(), skewness, kurtosis.clamp_min(0.5).log()]
