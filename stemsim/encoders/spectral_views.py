"""Three views of a clip from which the descriptors of `Spectral` are computed: envelope, log-mel and fine spectrum."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["BINS", "BIN_HZ", "FINE_RATE", "FRAME_RATE", "MEL_BANDS", "Views", "constant", "views_of"]

_SAMPLE_RATE = 44100
_MEL_SIZE, _MEL_HOP = 2048, 512  # 46 ms windows every 11.6 ms: the log-mel view
_SPECTRUM_SIZE, _SPECTRUM_HOP = 4096, 2048  # 93 ms windows: harmonics 22 Hz apart are resolved
BINS = 1488  # up to 16 kHz, above which codecs and microphones differ
_FINE_SIZE, _FINE_HOP = 128, 64  # 2.9 ms windows every 1.5 ms: attacks are as short as 5 ms
FRAME_RATE = _SAMPLE_RATE / _MEL_HOP  # Hz
FINE_RATE = _SAMPLE_RATE / _FINE_HOP  # Hz
BIN_HZ = _SAMPLE_RATE / _SPECTRUM_SIZE  # from one bin of the fine spectrum to the next
MEL_BANDS = 64
_MEL_RANGE = (30.0, 16000.0)  # Hz
_RANGE_DB = 60.0  # below the loudest band; keeps dither and codec noise out
_ACTIVE = 10 ** (-50 / 20)  # frames fainter than this, relative to the loudest, do not count
_QUIETEST = 1e-4  # peak of -80 dBFS: fainter input is not amplified any further
_FAINTEST = 0.1  # mel power, less than that of a single click of peak 1
_MIN_SAMPLES = _SAMPLE_RATE // 4
_CHUNK_SAMPLES = {False: 2**20, True: 2**26}  # by "is on a GPU"


@dataclass(frozen=True)
class Views:
    """A batch of clips at three resolutions, each clip scaled to a peak of 1."""

    envelope: Tensor  # RMS amplitude (batch, fine time) at FINE_RATE, peak 1
    mel: Tensor  # power in mel bands (batch, frames, MEL_BANDS) at FRAME_RATE
    log_mel: Tensor  # the same in dB relative to the clip's loudest band, in [-60, 0]
    weight: Tensor  # relative amplitude of each frame (batch, frames); 0 for faint frames
    spectrum: Tensor  # power (batch, slow frames, BINS) of 93 ms windows every 46 ms
    spectrum_weight: Tensor  # as `weight`, for `spectrum`


def constant(make: Callable[[], Tensor]) -> Callable[[torch.device], Tensor]:
    """Turn a function that computes a constant table into one that returns it on a device, and computes it once."""

    @lru_cache
    def on_device(device: torch.device) -> Tensor:
        with torch.inference_mode(mode=False):  # a table made in inference mode could not be used elsewhere
            return make().float().to(device)

    return on_device


def views_of(waveforms: Tensor) -> Views:
    """Analyse mono waveforms `(batch, time)` at 44.1 kHz."""
    centred = waveforms - waveforms.mean(dim=1, keepdim=True)
    scaled = centred / centred.abs().amax(dim=1, keepdim=True).clamp_min(_QUIETEST)
    scaled = functional.pad(scaled, (0, max(0, _MIN_SAMPLES - scaled.shape[1])))
    filters = _mel_filters(scaled.device)
    mel = torch.cat([power[..., : len(filters)] @ filters for power in _power(scaled, _MEL_SIZE, _MEL_HOP)], dim=1)
    loudest = mel.amax(dim=(1, 2), keepdim=True).clamp_min(_FAINTEST)
    fine = _power(scaled, _SPECTRUM_SIZE, _SPECTRUM_HOP)
    spectrum = torch.cat([power[..., :BINS] for power in fine], dim=1)
    return Views(
        envelope=_fine_envelope(scaled),
        mel=mel,
        log_mel=10 * torch.log10(mel / loudest + 10 ** (-_RANGE_DB / 10)),
        weight=_frame_weight(mel.sum(dim=2)),
        spectrum=spectrum,
        spectrum_weight=_frame_weight(spectrum.sum(dim=2)),
    )


@constant
def _mel_filters() -> Tensor:
    """Triangles of equal area on the mel scale, `(bins, MEL_BANDS)` (Davis and Mermelstein, 1980)."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in _MEL_RANGE)
    mels = torch.linspace(low, high, MEL_BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hz = torch.arange(_MEL_SIZE // 2 + 1, dtype=torch.float64).unsqueeze(1) * (_SAMPLE_RATE / _MEL_SIZE)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((hz - left) / (centre - left), (right - hz) / (right - centre)).clamp_min(0)
    # The lowest triangles are narrower than a bin: an empty one gets its nearest bin.
    nearest = functional.one_hot((hz - centre).abs().argmin(dim=0), hz.shape[0]).T
    triangles = torch.where(triangles.sum(dim=0) > 0, triangles, nearest.to(triangles))
    used = int((hz < _MEL_RANGE[1]).sum())
    return (triangles / triangles.sum(dim=0))[:used]


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


def _fine_envelope(waveforms: Tensor) -> Tensor:
    """Return the RMS amplitude `(batch, fine time)` of short overlapping windows, peak 1."""
    padded = functional.pad(waveforms.square(), (_FINE_SIZE, _FINE_SIZE)).unsqueeze(1)
    envelope = functional.avg_pool1d(padded, _FINE_SIZE, _FINE_HOP).squeeze(1).sqrt()
    return envelope / envelope.amax(dim=1, keepdim=True).clamp_min(1e-9)


def _frame_weight(energy: Tensor) -> Tensor:
    """Return the relative amplitude of frames `(batch, time)` minus the level below which they do not count."""
    amplitude = energy.sqrt()
    return (amplitude / amplitude.amax(dim=1, keepdim=True).clamp_min(1e-9) - _ACTIVE).clamp_min(0)
