"""From waveforms to the three views that the descriptors of `Spectral` read: envelope, log-mel and fine spectrum."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "FINE_RATE",
    "FRAME_RATE",
    "MEL_BANDS",
    "SAMPLE_RATE",
    "SPECTRUM_BINS",
    "SPECTRUM_SIZE",
    "Views",
    "bin_frequencies",
    "dct_matrix",
    "mel_filters",
    "pool",
    "views_of",
]

SAMPLE_RATE = 44100
_MEL_SIZE, _MEL_HOP = 2048, 512  # 46 ms windows every 11.6 ms: the log-mel view
SPECTRUM_SIZE, _SPECTRUM_HOP = 4096, 2048  # 93 ms windows: harmonics 22 Hz apart stay apart
SPECTRUM_BINS = 1488  # up to 16 kHz, where codecs and microphones part ways
_FINE_SIZE, _FINE_HOP = 128, 64  # 2.9 ms windows every 1.5 ms: attacks are as short as 5 ms
FRAME_RATE = SAMPLE_RATE / _MEL_HOP  # Hz
FINE_RATE = SAMPLE_RATE / _FINE_HOP  # Hz
MEL_BANDS = 64
_MEL_RANGE = (30.0, 16000.0)  # Hz
_RANGE_DB = 60.0  # below the loudest band; keeps dither and codec floors out
_ACTIVE = 10 ** (-50 / 20)  # frames fainter than this, relative to the loudest, do not count
_QUIETEST = 1e-4  # peak of -80 dBFS: fainter input is not raised any further
_FAINTEST = 0.1  # mel power; that of a lone click of peak 1 is above it
_MIN_SAMPLES = SAMPLE_RATE // 4
_CHUNK_SAMPLES = {False: 2**20, True: 2**26}  # by "is on a GPU"


@dataclass(frozen=True)
class Views:
    """What a batch of clips looks like at three resolutions; each clip is scaled to a peak of 1.

    Attributes:
        envelope: RMS amplitude `(batch, fine time)` at `FINE_RATE`, peak 1.
        mel: Mel-band power `(batch, frames, MEL_BANDS)` at `FRAME_RATE`.
        log_mel: The same in dB below the clip's loudest band, `[-60, 0]`.
        weight: How much each frame counts `(batch, frames)`, relative amplitude; faint frames are 0.
        spectrum: Power `(batch, slow frames, SPECTRUM_BINS)` of 93 ms windows every 46 ms.
        spectrum_weight: As `weight`, for `spectrum`.
    """

    envelope: Tensor
    mel: Tensor
    log_mel: Tensor
    weight: Tensor
    spectrum: Tensor
    spectrum_weight: Tensor


def views_of(waveforms: Tensor, mel_matrix: Tensor) -> Views:
    """Analyse mono waveforms `(batch, time)`; `mel_matrix` is `(bins, MEL_BANDS)`."""
    centred = waveforms - waveforms.mean(dim=1, keepdim=True)
    scaled = centred / centred.abs().amax(dim=1, keepdim=True).clamp_min(_QUIETEST)
    scaled = functional.pad(scaled, (0, max(0, _MIN_SAMPLES - scaled.shape[1])))
    bins = mel_matrix.shape[0]
    mel = torch.cat([power[..., :bins] @ mel_matrix for power in _power(scaled, _MEL_SIZE, _MEL_HOP)], dim=1)
    loudest = mel.amax(dim=(1, 2), keepdim=True).clamp_min(_FAINTEST)
    spectrum = torch.cat([power[..., :SPECTRUM_BINS] for power in _power(scaled, SPECTRUM_SIZE, _SPECTRUM_HOP)], dim=1)
    return Views(
        envelope=_fine_envelope(scaled),
        mel=mel,
        log_mel=10 * torch.log10(mel / loudest + 10 ** (-_RANGE_DB / 10)),
        weight=_frame_weight(mel.sum(dim=2)),
        spectrum=spectrum,
        spectrum_weight=_frame_weight(spectrum.sum(dim=2)),
    )


def pool(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation over time.

    Args:
        values: `(batch, time, dim)`.
        weight: `(batch, time)`, not negative; all zero gives zeros.

    Returns:
        Mean and deviation, each `(batch, dim)`.
    """
    share = (weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-9)).unsqueeze(2)
    mean = (values * share).sum(dim=1)
    variance = ((values - mean.unsqueeze(1)).square() * share).sum(dim=1)
    return mean, variance.sqrt()


def bin_frequencies(size: int) -> Tensor:
    """Centre frequencies in Hz of the bins of a real FFT of `size` samples."""
    return torch.arange(size // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE / size)


def mel_filters() -> Tensor:
    """Triangles of equal area on the mel scale, `(bins, MEL_BANDS)` (Davis and Mermelstein, 1980)."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in _MEL_RANGE)
    mels = torch.linspace(low, high, MEL_BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hz = bin_frequencies(_MEL_SIZE).unsqueeze(1)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((hz - left) / (centre - left), (right - hz) / (right - centre)).clamp_min(0)
    # The lowest triangles are narrower than a bin: give an empty one its nearest bin.
    nearest = functional.one_hot((hz - centre).abs().argmin(dim=0), hz.shape[0]).T
    triangles = torch.where(triangles.sum(dim=0) > 0, triangles, nearest.to(triangles))
    used = int((hz < _MEL_RANGE[1]).sum())
    return (triangles / triangles.sum(dim=0))[:used].float()


def dct_matrix(size: int, order: int) -> Tensor:
    """Orthonormal DCT-II `(size, order)`, without the constant: column `k` is coefficient `k + 1`."""
    position = (torch.arange(size, dtype=torch.float64).unsqueeze(1) + 0.5) / size
    degree = torch.arange(1, order + 1, dtype=torch.float64)
    return (torch.cos(math.pi * position * degree) * math.sqrt(2 / size)).float()


def _power(waveforms: Tensor, size: int, hop: int) -> Iterator[Tensor]:
    """Power spectra `(batch, some frames, bins)`, in order, of Hann windows centred on multiples of `hop`.

    They come in chunks that fit a processor's cache, which is five times as fast as all at once and keeps minutes of
    audio from filling the memory.
    """
    window = torch.hann_window(size, device=waveforms.device)
    frames = functional.pad(waveforms, (size // 2, size // 2)).unfold(1, size, hop)  # a view: (batch, frames, size)
    chunk = max(1, _CHUNK_SAMPLES[waveforms.is_cuda] // (size * max(1, waveforms.shape[0])))
    for start in range(0, frames.shape[1], chunk):
        spectrum = torch.fft.rfft(frames[:, start : start + chunk] * window)
        yield spectrum.real.square() + spectrum.imag.square()


def _fine_envelope(waveforms: Tensor) -> Tensor:
    """RMS amplitude `(batch, fine time)` of short overlapping windows, peak 1."""
    padded = functional.pad(waveforms.square(), (_FINE_SIZE, _FINE_SIZE)).unsqueeze(1)
    envelope = functional.avg_pool1d(padded, _FINE_SIZE, _FINE_HOP).squeeze(1).sqrt()
    return envelope / envelope.amax(dim=1, keepdim=True).clamp_min(1e-9)


def _frame_weight(energy: Tensor) -> Tensor:
    """Relative amplitude of frames `(batch, time)` less the level under which they do not count."""
    amplitude = energy.sqrt()
    return (amplitude / amplitude.amax(dim=1, keepdim=True).clamp_min(1e-9) - _ACTIVE).clamp_min(0)
