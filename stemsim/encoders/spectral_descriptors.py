"""Descriptors of timbre, pitch and time course that `Spectral` is made of.

Davis and Mermelstein (1980): cepstrum. Peeters et al. (2011), "The Timbre Toolbox": moments of the spectrum, temporal
centroid, effective duration. Jiang et al. (2002): contrast by octaves. McAdams et al. (1995): flux, log attack time.
Krimphoff et al. (1994): flux, odd and even harmonics, irregularity of the spectrum. Patil et al. (2012): joint
spectro-temporal modulation. Tolonen and Karjalainen (2000): compressed autocorrelation. Pollard and Jansson (1982):
tristimulus. Fujishima (1999): chroma. Bernardes et al. (2016): its Fourier transform, whose magnitudes do not change
under transposition. Scheirer (1998), Grosche et al. (2010): onset strength by bands and its autocorrelation.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

_SAMPLE_RATE = 44100
_MEL_SIZE, _MEL_HOP = 2048, 512  # 46 ms windows every 11.6 ms: the log-mel view
_SPECTRUM_SIZE, _SPECTRUM_HOP = 4096, 2048  # 93 ms windows: harmonics 22 Hz apart are resolved
_BINS = 1488  # up to 16 kHz, above which codecs and microphones differ
_FINE_SIZE, _FINE_HOP = 128, 64  # 2.9 ms windows every 1.5 ms: attacks are as short as 5 ms
_FRAME_RATE = _SAMPLE_RATE / _MEL_HOP  # Hz
_FINE_RATE = _SAMPLE_RATE / _FINE_HOP  # Hz
_BIN_HZ = _SAMPLE_RATE / _SPECTRUM_SIZE  # from one bin of the fine spectrum to the next
_MEL_BANDS = 64
_CEPSTRUM, _CHANGE = 13, 6  # coefficients: of the envelope, and of its change
_ACF_BINS = 1024  # up to 11 kHz: pitch lies below, and half the transform takes half the time
_LAGS = (13, 402)  # 1.7 kHz down to 55 Hz
_AUDIBLE = 0.05  # of the peak amplitude
_CHUNK_SAMPLES = {False: 2**20, True: 2**26}  # by "is on a GPU"


class _Views:
    """A batch of clips `(batch, time)` at 44.1 kHz, each scaled to a peak of 1, at three resolutions."""

    def __init__(self, waveforms: Tensor) -> None:
        centred = waveforms - waveforms.mean(dim=1, keepdim=True)
        peak = centred.abs().amax(dim=1, keepdim=True).clamp_min(1e-4)  # under -80 dBFS, nothing is amplified further
        scaled = centred / peak
        scaled = functional.pad(scaled, (0, max(0, _SAMPLE_RATE // 4 - scaled.shape[1])))
        # RMS amplitude (batch, fine time) at _FINE_RATE, peak 1
        padded = functional.pad(scaled.square(), (_FINE_SIZE, _FINE_SIZE)).unsqueeze(1)
        self.envelope = _to_peak(functional.avg_pool1d(padded, _FINE_SIZE, _FINE_HOP).squeeze(1).sqrt())
        # Power in mel bands (batch, frames, _MEL_BANDS) at _FRAME_RATE, and the same in dB relative to the clip's
        # loudest band, in [-60, 0], which keeps dither and codec noise out.
        filters = _mel_filters(scaled.device)
        power = _power(scaled, _MEL_SIZE, _MEL_HOP)
        self.mel = torch.cat([part[..., : len(filters)] @ filters for part in power], dim=1)
        loudest = self.mel.amax(dim=(1, 2), keepdim=True).clamp_min(0.1)  # less than that of a single click of peak 1
        self.log_mel = 10 * torch.log10(self.mel / loudest + 10 ** (-60 / 10))
        self.weight = _frame_weight(self.mel)
        # Power (batch, slow frames, _BINS) of 93 ms windows every 46 ms
        power = _power(scaled, _SPECTRUM_SIZE, _SPECTRUM_HOP)
        self.spectrum = torch.cat([part[..., :_BINS] for part in power], dim=1)
        self.spectrum_weight = _frame_weight(self.spectrum)


def _to_peak(envelope: Tensor) -> Tensor:
    """Scale envelopes `(batch, time)` to a peak of 1."""
    return envelope / envelope.amax(dim=1, keepdim=True).clamp_min(1e-9)


def _frame_weight(power: Tensor) -> Tensor:
    """Relative amplitude `(batch, time)` of the frames of a spectrum; 0 for those 50 dB or more below the loudest."""
    return (_to_peak(power.sum(dim=2).sqrt()) - 10 ** (-50 / 20)).clamp_min(0)


def _constant(make: Callable[[], Tensor]) -> Callable[[torch.device], Tensor]:
    """Turn a function that computes a constant table into one that returns it on a device, and computes it once."""

    @lru_cache
    def on_device(device: torch.device) -> Tensor:
        with torch.inference_mode(mode=False):  # a table made in inference mode could not be used elsewhere
            return make().float().to(device)

    return on_device


def describe(waveforms: Tensor) -> dict[str, Tensor]:
    """Measure all descriptors and gates of mono waveforms `(batch, time)`; see `Spectral.describe`."""
    views = _Views(waveforms)
    dct = _dct(waveforms.device)
    values = {
        "envelope": _pool(views.log_mel @ dct, views.weight)[0],
        "envelope change": _change(views, views.log_mel @ dct[:, :_CHANGE]),
        "shape": _shape(views),
        "contrast": _contrast(views),
        "flux": _flux(views),
        "modulation": _modulation(views),
        **_attack_and_decay(views),
        "texture": _texture(views),
        **_pitch(views),
        **_harmony(views),
        "rhythm": _rhythm(views),
        **_repetition(views),
    }
    return {**values, "tonal": values["periodicity"][:, :1]}


def _pool(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `(batch, dim)` of `(batch, time, dim)` over time, with weights `(batch, time)`."""
    share = (weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-9)).unsqueeze(2)
    mean = (values * share).sum(dim=1)
    variance = ((values - mean.unsqueeze(1)).square() * share).sum(dim=1)
    return mean, variance.sqrt()


@_constant
def _dct() -> Tensor:
    """Orthonormal DCT-II `(_MEL_BANDS, _CEPSTRUM)` without the constant: column `k` is coefficient `k + 1`."""
    position = (torch.arange(_MEL_BANDS, dtype=torch.float64).unsqueeze(1) + 0.5) / _MEL_BANDS
    degree = torch.arange(1, _CEPSTRUM + 1, dtype=torch.float64)
    return torch.cos(math.pi * position * degree) * math.sqrt(2 / _MEL_BANDS)


def _change(views: _Views, cepstrum: Tensor) -> Tensor:
    """Log deviations of the cepstrum, then of its differences over 23 ms, `(batch, 2 * coefficients)`."""
    spread = _pool(cepstrum, views.weight)[1]
    speed = _pool(cepstrum[:, 2:] - cepstrum[:, :-2], views.weight[:, 1:-1])[1]
    return torch.log10(torch.cat([spread, speed], dim=1) + 1)


def _shape(views: _Views) -> Tensor:
    """Moments, roll-off, slope, flatness and crest of the mel spectrum, `(batch, 13)`.

    Nine means over time, then the deviations of centroid, spread, slope and flatness. The moments are over mel bands,
    which track brightness better than Hz, and over amplitude, which is nearer to loudness than power.
    """
    position = torch.linspace(0, 1, _MEL_BANDS, device=views.mel.device)
    amplitude = views.mel.sqrt()
    share = amplitude / amplitude.sum(dim=2, keepdim=True).clamp_min(1e-9)
    centroid = (share * position).sum(dim=2, keepdim=True)
    offset = position - centroid
    variance = (share * offset.square()).sum(dim=2).clamp_min(1e-6)
    skewness = (share * offset**3).sum(dim=2) / variance**1.5
    kurtosis = ((share * offset**4).sum(dim=2) / variance.square()).clamp_min(0.5).log()
    power = views.mel / views.mel.sum(dim=2, keepdim=True).clamp_min(1e-12)
    below = power @ torch.ones(_MEL_BANDS, _MEL_BANDS, device=power.device).triu()  # a cumsum, deterministic on a GPU
    rolloffs = [torch.sigmoid(50 * (part - below)).mean(dim=2) for part in (0.85, 0.5)]
    centred = position - 0.5
    slope = views.log_mel @ (centred / centred.square().sum())
    mean_db = views.log_mel.mean(dim=2)
    flatness = mean_db - 10 * torch.log10((10 ** (views.log_mel / 10)).mean(dim=2))
    crest = views.log_mel.amax(dim=2) - mean_db
    values = [centroid.squeeze(2), variance.sqrt(), skewness, kurtosis, *rolloffs, slope, flatness, crest]
    mean, deviation = _pool(torch.stack(values, dim=2), views.weight)
    return torch.cat([mean, deviation[:, [0, 1, 6, 7]]], dim=1)


def _contrast(views: _Views) -> Tensor:
    """Peak over mean level in dB of seven octave bands: mean and deviation over time, `(batch, 14)`."""
    loudest = views.spectrum.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9)
    level = 10 * torch.log10(views.spectrum / loudest + 1e-8)
    edges = [round(hz / _BIN_HZ) for hz in (60, 200, 400, 800, 1600, 3200, 6400, 16000)]
    octaves = [level[..., low:high] for low, high in pairwise(edges)]
    peaks = torch.stack([octave.amax(dim=2) - octave.mean(dim=2) for octave in octaves], dim=2)
    return torch.cat(_pool(peaks, views.spectrum_weight), dim=1)


def _flux(views: _Views) -> Tensor:
    """Difference between successive spectra on a log scale, `(batch, 7)`.

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
    values = torch.cat([*_pool(frames, views.weight[:, 1:]), _pool(far, both_sound)[0]], dim=1)
    return torch.log10(values + 0.01)


def _modulation(views: _Views) -> Tensor:
    """Log magnitude of joint temporal rate by spectral scale, in octaves, `(batch, 29)`.

    A two-dimensional Fourier transform of overlapping patches of the log-mel view, averaged over time and both
    directions, without the constant term.
    """
    size = 64  # frames, 0.74 s: slowest modulation 1.3 Hz
    before, after = size // 2, size  # an attack at the very start falls into the middle of a patch
    picture = functional.pad(views.log_mel - views.log_mel.amin(dim=(1, 2), keepdim=True), (0, 0, before, after))
    patches = picture.unfold(1, size, size // 4)  # (batch, patch, mel, frame)
    weight = functional.pad(views.weight, (before, after)).unfold(1, size, size // 4).mean(dim=2)
    windowed = patches * torch.hann_window(size, device=picture.device)
    plane = torch.fft.fft(torch.fft.rfft(windowed), dim=2).abs()  # (batch, patch, scale, rate)
    plane = (plane + plane.roll(-1, dims=2).flip(2)) / 2  # bin k and bin -k: rising and falling ripples
    cells = [
        plane[:, :, low:high, slow:fast].mean(dim=(2, 3))
        for slow, fast in ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32))  # FFT bins of 1.35 Hz
        for low, high in ((0, 1), (1, 2), (2, 4), (4, 8), (8, 16))  # cycles over the 64 mel bands
        if (slow, low) != (0, 0)
    ]
    return torch.log10(_pool(torch.stack(cells, dim=2), weight)[0] + 1)


def _pitch(views: _Views) -> dict[str, Tensor]:
    """Harmonics `(batch, 5)`, periodicity `(batch, 4)` and register `(batch, 2)`, from the pitch of each slow frame.

    Harmonics: tristimulus (three amplitudes), odd over even harmonics in dB, irregularity in dB; means over time.
    Periodicity: how periodic a frame is, and the share of its power in the harmonics; means, then deviations.
    Register: mean pitch in octaves above 55 Hz, and the log of its deviation (vibrato, melody).
    """
    lag, strength = _period(views.spectrum)  # (batch, frames, 1)
    fundamental = 2 * _ACF_BINS * _BIN_HZ / lag
    order = torch.arange(1, 13, device=lag.device)
    bins = (fundamental * order * (1 / _BIN_HZ)).round().long()
    inside = bins < _BINS - 1
    bins = bins.clamp(1, _BINS - 2)
    power = torch.stack([views.spectrum.gather(2, bins + side) for side in (-1, 0, 1)]).sum(dim=0) * inside
    total = power.sum(dim=2, keepdim=True)
    everything = views.spectrum[..., 3:].sum(dim=2, keepdim=True).clamp_min(1e-12)
    tonal = torch.cat([strength, (total / everything).clamp(0, 1)], dim=2)
    weight = views.spectrum_weight * strength.squeeze(2).square()  # large for loud, periodic frames
    share = power / total.clamp_min(1e-12)  # (batch, frames, harmonic)
    tristimulus = [share[..., low:high].sum(dim=2).sqrt() for low, high in ((0, 1), (1, 4), (4, 12))]
    odd, even = share[..., 2::2].sum(dim=2), share[..., 1::2].sum(dim=2)
    ratio = 10 * torch.log10((odd + 1e-3) / (even + 1e-3))
    level = 10 * torch.log10(share + 1e-6)
    jagged = (level[..., 1:-1] - (level[..., 2:] + level[..., :-2]) / 2).abs().mean(dim=2)
    harmonics = _pool(torch.stack([*tristimulus, ratio, jagged], dim=2), weight)[0]
    mean, deviation = _pool(torch.log2(fundamental / 55), weight)
    return {
        "harmonics": harmonics,
        "periodicity": torch.cat(_pool(tonal, views.spectrum_weight), dim=1),
        "register": torch.cat([mean, torch.log10(deviation + 0.02)], dim=1),
    }


def _period(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Lag of the strongest period in samples at 22 kHz, and its strength in [0, 1], each `(batch, frames, 1)`."""
    correlation = torch.fft.irfft(spectrum[..., : _ACF_BINS + 1] ** (1 / 3))
    low, high = _LAGS
    curve = correlation[..., low - 1 : high + 1] / correlation[..., :1].clamp_min(1e-9) / _lag_taper(spectrum.device)
    before, middle, after = curve[..., :-2], curve[..., 1:-1], curve[..., 2:]
    is_peak = (middle >= before) & (middle > after)
    # Of two equally strong periods, the shorter one: each octave of lag costs 0.03.
    cost = 0.03 * torch.log2(torch.arange(low, high, device=curve.device) / low)
    best = (middle - cost).masked_fill(~is_peak, -1).argmax(dim=2, keepdim=True)
    left, top, right = (curve.gather(2, best + step) for step in range(3))
    shift = 0.5 * (left - right) / (left - 2 * top + right).clamp_max(-1e-6)  # vertex of the parabola
    strength = torch.where(is_peak.any(dim=2, keepdim=True), top, 0).clamp(0, 1)
    return best + low + shift.clamp(-0.5, 0.5), strength


@_constant
def _lag_taper() -> Tensor:
    """Autocorrelation of the analysis window at the lags in use, by which that of the signal is divided."""
    window = torch.hann_window(2 * _ACF_BINS, dtype=torch.float64)
    power = torch.fft.rfft(window, n=4 * _ACF_BINS).abs().square()
    correlation: Tensor = torch.fft.irfft(power) / window.square().sum()
    return correlation[_LAGS[0] - 1 : _LAGS[1] + 1]


@_constant
def _chroma_matrix() -> Tensor:
    """Weights that fold the bins of the fine spectrum into twelve pitch classes, A first, `(bins, 12)`."""
    hz = (torch.arange(_BINS, dtype=torch.float64) * _BIN_HZ).clamp_min(1)
    semitone = 12 * torch.log2(hz / 440).unsqueeze(1)
    distance = (semitone - torch.arange(12) + 6) % 12 - 6
    lowest, highest = 110.0, 4200.0  # below, a semitone is narrower than a bin
    inside = (hz > lowest) & (hz < highest)
    return torch.exp(-2 * distance.square()) * inside.unsqueeze(1)


def _harmony(views: _Views) -> dict[str, Tensor]:
    """Chroma `(batch, 12)`, the notes in use, and intervals that sound together, independent of the key, `(batch, 7)`.

    Chroma is a mean of unit vectors, from the peaks of the spectrum only, minus its own mean. Intervals are magnitudes
    of the Fourier transform of the mean chroma, then how constant the harmony is.
    """
    amplitude = views.spectrum.sqrt()
    middle = amplitude[..., 1:-1]
    is_peak = (middle >= amplitude[..., :-2]) & (middle > amplitude[..., 2:])
    peaks = functional.pad(middle * is_peak, (1, 1))
    frames = functional.normalize(peaks @ _chroma_matrix(peaks.device), dim=2, eps=1e-6)
    mean = _pool(frames, views.spectrum_weight)[0]
    chroma = functional.normalize(mean, dim=1, eps=1e-6)
    magnitudes = torch.fft.rfft(mean)[:, 1:].abs() / mean.sum(dim=1, keepdim=True).clamp_min(1e-6)
    constancy = functional.cosine_similarity(frames, mean.unsqueeze(1), dim=2, eps=1e-6).unsqueeze(2)
    intervals = torch.cat([magnitudes, _pool(constancy, views.spectrum_weight)[0]], dim=1)
    return {"intervals": intervals, "chroma": chroma - chroma.mean(dim=1, keepdim=True)}


def _attack_and_decay(views: _Views) -> dict[str, Tensor]:
    """Attack `(batch, 2)` and decay `(batch, 6)` of the envelope.

    Attack: rise times from 10 % to 90 %, and from 5 % to 50 %, of the peak, in log10 s. Decay: temporal centroid (from
    the onset) and durations above 10 % and 40 % of the peak in log10 s, slope in dB/s of a regression line through the
    level after the peak (weighted by amplitude, compressed by asinh), crest and skew.
    """
    envelope = _smooth(views.envelope, 0.012)  # a period of a low tone
    index = torch.arange(envelope.shape[1], device=envelope.device)
    rises = []
    for low, high in ((0.1, 0.9), (0.05, 0.5)):
        end = _first(envelope, high)
        under = (envelope < low) & (index < end.unsqueeze(1))
        rises.append(end - (under * index).amax(dim=1))  # since it was last below `low`; 0 if it starts above
    attack = torch.log10(torch.stack(rises, dim=1) / _FINE_RATE + 0.003)
    time = index / _FINE_RATE
    body = (envelope - 0.02).clamp_min(0)
    total = body.sum(dim=1).clamp_min(1e-6)
    centroid = ((body * time).sum(dim=1) / total - _first(envelope, _AUDIBLE) / _FINE_RATE).clamp_min(0)
    long, short = ((envelope > level).sum(dim=1) / _FINE_RATE for level in (0.1, 0.4))
    weight = body * (time >= envelope.argmax(dim=1, keepdim=True) / _FINE_RATE)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-6)
    level = 20 * torch.log10(envelope + 0.003)
    offset = time - (weight * time).sum(dim=1, keepdim=True)
    slope = (weight * offset * level).sum(dim=1) / (weight * offset.square()).sum(dim=1).clamp_min(1e-6)
    crest = -torch.log10(body.square().sum(dim=1) / total + 1e-3)
    logs = torch.log10(torch.stack([centroid, long, short], dim=1) + 0.005)
    shape = torch.stack([torch.asinh(slope / 20), crest, centroid / (long + 0.01)], dim=1)
    return {"attack": attack, "decay": torch.cat([logs, shape], dim=1)}


def _texture(views: _Views) -> Tensor:
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


def _rhythm(views: _Views) -> Tensor:
    """Autocorrelation of onset strength in three bands, lags in log steps from 0.1 s to 2.4 s, `(batch, 48)`."""
    rises = (views.log_mel[:, 1:] - views.log_mel[:, :-1]).clamp_min(0)
    onsets = (rises @ _onset_bands(rises.device)).transpose(1, 2)  # (batch, band, frame)
    heard = (views.weight[:, 1:] > 0).float()
    # 1 from first to last sound: silence before and after is no part of the rhythm
    span = (heard.cummax(dim=1).values * heard.flip(1).cummax(dim=1).values.flip(1)).unsqueeze(1)
    mean = (onsets * span).sum(dim=2, keepdim=True) / span.sum(dim=2, keepdim=True).clamp_min(1)
    onsets = (onsets - mean) * span
    lags = _lag_pool(rises.device)
    size = onsets.shape[2] + lags.shape[0]  # long enough not to wrap around
    spectrum = torch.fft.rfft(onsets, n=size).abs().square()
    correlation: Tensor = torch.fft.irfft(spectrum, n=size)[..., : lags.shape[0]]
    correlation = correlation / correlation[..., :1].clamp_min(1e-6)
    return (correlation @ lags).flatten(1)


@_constant
def _onset_bands() -> Tensor:
    """Weights of the means over low (to 0.4 kHz), middle (to 2.6 kHz) and high mel bands, `(_MEL_BANDS, 3)`."""
    band = torch.bucketize(torch.arange(_MEL_BANDS), torch.tensor([12, 38]), right=True)
    member = functional.one_hot(band, 3).float()
    return member / member.sum(dim=0)


@_constant
def _lag_pool() -> Tensor:
    """Triangles on a log axis that pool the lags of an autocorrelation, `(lags, 16)`."""
    low, high, steps = 0.1, 2.4, 16  # s, s, triangles
    lag = torch.arange(round(1.2 * high * _FRAME_RATE), dtype=torch.float64) / _FRAME_RATE
    position = torch.log2(lag.clamp_min(1e-3) / low) / math.log2(high / low) * (steps - 1)
    triangles = (1 - (position.unsqueeze(1) - torch.arange(steps)).abs()).clamp_min(0)
    return triangles / triangles.sum(dim=0).clamp_min(1e-6)


def _repetition(views: _Views) -> dict[str, Tensor]:
    """Two shares `(batch, 1)` in [0, 1]: how much a clip is a single event, and how much it is a rhythm.

    One attack makes the first 1 and the second 0, so rhythm says nothing about one-shots, nor attack time about loops.
    """
    envelope = _smooth(views.envelope, 0.05)  # the ear fuses what is closer into one event
    first = envelope[:, :1]  # a clip may start in the middle of a sound
    rises = (envelope[:, 1:] - envelope[:, :-1]).clamp_min(0).sum(dim=1, keepdim=True)
    single = 1 / (rises + first).clamp_min(1)  # one attack rises by the peak, two attacks by twice as much
    time = torch.arange(envelope.shape[1], device=envelope.device) / _FINE_RATE
    last = ((envelope > _AUDIBLE) * time).amax(dim=1)
    span = (last - _first(envelope, _AUDIBLE) / _FINE_RATE).clamp_min(0)
    return {"single": single, "repeated": (1 - single) * (span / 2).clamp(0, 1).unsqueeze(1)}


def _smooth(envelope: Tensor, seconds: float) -> Tensor:
    """Smooth `(batch, fine time)` with a triangle, back to a peak of 1. Twice a box: exact on every device."""
    size = 2 * round(seconds * _FINE_RATE / 4) + 1
    smooth = envelope.unsqueeze(1)
    for _ in range(2):
        smooth = functional.avg_pool1d(smooth, size, stride=1, padding=size // 2)
    return _to_peak(smooth.squeeze(1))


def _first(envelope: Tensor, level: float) -> Tensor:
    """Index at which an envelope first reaches `level`, `(batch,)`."""
    return (envelope >= level).to(torch.uint8).argmax(dim=1)


@_constant
def _mel_filters() -> Tensor:
    """Triangles of equal area on the mel scale, `(bins, _MEL_BANDS)` (Davis and Mermelstein, 1980)."""
    lowest, highest = 30.0, 16000.0
    low, high = (2595 * math.log10(1 + edge / 700) for edge in (lowest, highest))
    mels = torch.linspace(low, high, _MEL_BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hz = torch.arange(_MEL_SIZE // 2 + 1, dtype=torch.float64).unsqueeze(1) * (_SAMPLE_RATE / _MEL_SIZE)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((hz - left) / (centre - left), (right - hz) / (right - centre)).clamp_min(0)
    # The lowest triangles are narrower than a bin: an empty one gets its nearest bin.
    nearest = functional.one_hot((hz - centre).abs().argmin(dim=0), hz.shape[0]).T
    triangles = torch.where(triangles.sum(dim=0) > 0, triangles, nearest.to(triangles))
    return (triangles / triangles.sum(dim=0))[: int((hz < highest).sum())]


def _power(waveforms: Tensor, size: int, hop: int) -> Iterator[Tensor]:
    """Yield power spectra `(batch, some frames, bins)`, in order, of Hann windows centred on multiples of `hop`.

    Chunks that fit into the cache are five times as fast as all at once, and minutes of audio do not fill the memory.
    """
    window = torch.hann_window(size, device=waveforms.device)
    frames = functional.pad(waveforms, (size // 2, size // 2)).unfold(1, size, hop)  # a view: (batch, frames, size)
    chunk = max(1, _CHUNK_SAMPLES[waveforms.is_cuda] // (size * max(1, waveforms.shape[0])))
    for start in range(0, frames.shape[1], chunk):
        spectrum = torch.fft.rfft(frames[:, start : start + chunk] * window)
        yield spectrum.real.square() + spectrum.imag.square()
