"""Time course of `Spectral`: attack, decay, texture and rhythm.

Sources: McAdams et al. (1995) and Peeters et al. (2011) for log attack time, temporal centroid and effective duration;
Scheirer (1998) and Grosche et al. (2010) for band-wise onset strength and its autocorrelation.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.encoders._spectral_front_end import FINE_RATE, FRAME_RATE, MEL_BANDS, Views

__all__ = ["attack", "decay", "lag_pool", "onset_bands", "repetition", "rhythm", "texture"]

_ATTACK_S, _EVENT_S = 0.012, 0.05  # smoothing: a period of a low tone; what the ear fuses into one event
_LAGS_S = (0.1, 2.4)
_AUDIBLE = 0.05  # of the peak amplitude


def attack(views: Views) -> Tensor:
    """Log of the rise times from 10 % to 90 %, and from 5 % to 50 %, of the peak: log10 s, `(batch, 2)`."""
    envelope = _smooth(views.envelope, _ATTACK_S)
    rises = [_first(envelope, high) - _last_before(envelope, low, high) for low, high in ((0.1, 0.9), (0.05, 0.5))]
    return torch.log10(torch.stack(rises, dim=1) / FINE_RATE + 0.003)


def decay(views: Views) -> Tensor:
    """Temporal centroid, two effective durations, slope, crest and skew of the envelope, `(batch, 6)`.

    Centroid (from the onset) and durations (above 10 % and 40 % of the peak) in log10 s; slope in dB/s of a line
    through the level after the peak, each moment weighted by its amplitude, compressed by asinh.
    """
    envelope = _smooth(views.envelope, _ATTACK_S)
    time = _seconds(envelope)
    body = (envelope - 0.02).clamp_min(0)
    total = body.sum(dim=1).clamp_min(1e-6)
    centroid = ((body * time).sum(dim=1) / total - _first(envelope, _AUDIBLE) / FINE_RATE).clamp_min(0)
    long, short = ((envelope > level).sum(dim=1) / FINE_RATE for level in (0.1, 0.4))
    slope = _decay_slope(envelope, body, time)
    crest = -torch.log10(body.square().sum(dim=1) / total + 1e-3)
    logs = torch.log10(torch.stack([centroid, long, short], dim=1) + 0.005)
    return torch.cat([logs, torch.stack([torch.asinh(slope / 20), crest, centroid / (long + 0.01)], dim=1)], dim=1)


def texture(views: Views) -> Tensor:
    """Log roughness of the envelope at four time scales, 6 ms to 0.37 s, `(batch, 4)`.

    At each scale, the variance inside blocks of four over the mean square: beating, tremolo, trills, notes.
    """
    level = functional.pad(views.envelope, (0, -views.envelope.shape[1] % 256))
    scales = []
    for _ in range(4):
        mean = functional.avg_pool1d(level.unsqueeze(1), 4).squeeze(1)
        inside = functional.avg_pool1d(level.square().unsqueeze(1), 4).squeeze(1) - mean.square()
        scales.append(inside.sum(dim=1) / mean.square().sum(dim=1).clamp_min(1e-9))
        level = mean
    return 0.5 * torch.log10(torch.stack(scales, dim=1).clamp_min(0) + 1e-4)


def repetition(views: Views) -> tuple[Tensor, Tensor]:
    """How far a clip is one event, and how far it is a rhythm: two shares `(batch, 1)` in [0, 1].

    One attack makes the first 1 and the second 0, so rhythm says nothing about one-shots, nor attack time about loops.
    """
    count, span = _count_and_span(views)
    single = 1 / count
    return single.unsqueeze(1), ((1 - single) * (span / 2).clamp(0, 1)).unsqueeze(1)


def rhythm(views: Views, bands: Tensor, lags: Tensor) -> Tensor:
    """Autocorrelation of onset strength in three bands, lags in log steps from 0.1 s to 2.4 s, `(batch, 3 * lags)`."""
    rises = (views.log_mel[:, 1:] - views.log_mel[:, :-1]).clamp_min(0)
    onsets = (rises @ bands).transpose(1, 2)  # (batch, band, frame)
    span = _sounding(views.weight[:, 1:]).unsqueeze(1)  # silence before and after is no part of the rhythm
    mean = (onsets * span).sum(dim=2, keepdim=True) / span.sum(dim=2, keepdim=True).clamp_min(1)
    onsets = (onsets - mean) * span
    size = onsets.shape[2] + lags.shape[0]  # long enough not to wrap around
    spectrum = torch.fft.rfft(onsets, n=size).abs().square()
    correlation: Tensor = torch.fft.irfft(spectrum, n=size)[..., : lags.shape[0]]
    correlation = correlation / correlation[..., :1].clamp_min(1e-6)
    return (correlation @ lags).flatten(1)


def onset_bands() -> Tensor:
    """Means over the low (to 0.4 kHz), middle (to 2.6 kHz) and high mel bands, `(MEL_BANDS, 3)`."""
    band = torch.bucketize(torch.arange(MEL_BANDS), torch.tensor([12, 38]), right=True)
    member = functional.one_hot(band, 3).float()
    return member / member.sum(dim=0)


def lag_pool(steps: int) -> Tensor:
    """Triangles on a log axis that pool the lags of an autocorrelation, `(lags, steps)`."""
    low, high = _LAGS_S
    lag = torch.arange(round(1.2 * high * FRAME_RATE), dtype=torch.float64) / FRAME_RATE
    position = torch.log2(lag.clamp_min(1e-3) / low) / math.log2(high / low) * (steps - 1)
    triangles = (1 - (position.unsqueeze(1) - torch.arange(steps)).abs()).clamp_min(0)
    return (triangles / triangles.sum(dim=0).clamp_min(1e-6)).float()


def _sounding(weight: Tensor) -> Tensor:
    """1 from the first to the last frame of any weight and 0 outside, `(batch, frames)`."""
    heard = (weight > 0).float()
    return heard.cummax(dim=1).values * heard.flip(1).cummax(dim=1).values.flip(1)


def _smooth(envelope: Tensor, seconds: float) -> Tensor:
    """Triangular smoothing of `(batch, fine time)`, back to a peak of 1. Twice a box: exact on every device."""
    size = 2 * round(seconds * FINE_RATE / 4) + 1
    smooth = envelope.unsqueeze(1)
    for _ in range(2):
        smooth = functional.avg_pool1d(smooth, size, stride=1, padding=size // 2)
    smooth = smooth.squeeze(1)
    return smooth / smooth.amax(dim=1, keepdim=True).clamp_min(1e-9)


def _seconds(envelope: Tensor) -> Tensor:
    return torch.arange(envelope.shape[1], device=envelope.device) / FINE_RATE


def _first(envelope: Tensor, level: float) -> Tensor:
    """Index at which an envelope first reaches `level`, `(batch,)`."""
    return (envelope >= level).to(torch.uint8).argmax(dim=1)


def _last_before(envelope: Tensor, low: float, high: float) -> Tensor:
    """Index at which it is last under `low` before it first reaches `high`; 0 where it starts above `low`."""
    index = torch.arange(envelope.shape[1], device=envelope.device)
    under = (envelope < low) & (index < _first(envelope, high).unsqueeze(1))
    return (under * index).amax(dim=1)


def _decay_slope(envelope: Tensor, body: Tensor, time: Tensor) -> Tensor:
    """Slope in dB/s of the weighted regression line through the level after the peak, `(batch,)`."""
    peak = envelope.argmax(dim=1, keepdim=True) / FINE_RATE
    weight = body * (time >= peak)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-6)
    level = 20 * torch.log10(envelope + 0.003)
    offset = time - (weight * time).sum(dim=1, keepdim=True)
    return (weight * offset * level).sum(dim=1) / (weight * offset.square()).sum(dim=1).clamp_min(1e-6)


def _count_and_span(views: Views) -> tuple[Tensor, Tensor]:
    """Sum of all rises of the envelope in units of its peak (one attack: 1), and seconds from first to last sound."""
    envelope = _smooth(views.envelope, _EVENT_S)
    first = envelope[:, :1]  # a clip may start in the middle of a sound
    count = ((envelope[:, 1:] - envelope[:, :-1]).clamp_min(0).sum(dim=1, keepdim=True) + first).clamp_min(1).squeeze(1)
    last = ((envelope > _AUDIBLE) * _seconds(envelope)).amax(dim=1)
    return count, (last - _first(envelope, _AUDIBLE) / FINE_RATE).clamp_min(0)
