"""A classical separator that needs no weights."""

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from stemsim.errors import ConfigError
from stemsim.separators.base import Separator

_N_FFT: Final = 2048
_HOP: Final = 1024


class Bands(Separator):
    """Split of a mix into bass (low, sustained), drums (percussive) and residuals (everything else), without weights.

    Harmonic/percussive separation by median filtering (FitzGerald, DAFx 2010) with soft masks, followed by a crossover
    that takes the bass out of the harmonic part. The three stems add up to the mix. **It is the offline default, and
    Demucs is far better**: these are bands of the mix, not instruments. Vocals, guitars and keys end up in `residuals`.

    Args:
        crossover: Frequency in Hz above which the harmonic part belongs to `residuals` rather than to `bass`.
    """

    stems = ("bass", "drums", "residuals", "mix")
    sample_rate = 44_100
    channels = 1

    def __init__(self, crossover: float = 200.0) -> None:
        if not 0.0 < crossover < self.sample_rate / 2:
            raise ConfigError(
                f"The crossover lies between 0 and {self.sample_rate // 2} Hz; got {crossover} Hz. Set it to 200."
            )
        self.crossover = crossover
        self.identity = f"bands-v1(crossover={crossover:g})"

    @torch.no_grad()
    def __call__(self, waveforms: Tensor) -> Tensor:
        """Separate `(batch, channel, time)` into `(batch, 4, channel, time)`."""
        batch, channels, time = waveforms.shape
        mix = waveforms.reshape(-1, time)  # (row, time)
        window = torch.hann_window(_N_FFT, device=mix.device)
        # Zeros on both sides: a clip shorter than one frame is separated like any other.
        padded = pad(mix, (_N_FFT, _N_FFT))
        spectrum = torch.stft(padded, _N_FFT, _HOP, window=window, return_complex=True)  # (row, bin, frame)
        harmonic = _harmonic_mask(spectrum.abs())
        # The share (bin, 1) of the bass in the harmonic part, shaped like a Butterworth filter of order 4.
        ratio = torch.fft.rfftfreq(_N_FFT, 1.0 / self.sample_rate, device=mix.device) / self.crossover
        low = torch.reciprocal(1.0 + ratio.pow(8)).unsqueeze(1)
        masks = torch.stack([harmonic * low, 1.0 - harmonic])  # (2, row, bin, frame)
        masked = (masks * spectrum).flatten(0, 1)  # (2 * row, bin, frame)
        parts = torch.istft(masked, _N_FFT, _HOP, window=window, length=padded.shape[-1])
        bass, drums = parts[:, _N_FFT : _N_FFT + time].reshape(2, -1, time)
        stems = torch.stack([bass, drums, mix - bass - drums, mix], dim=1)  # (row, stem, time)
        return stems.reshape(batch, channels, len(self.stems), time).transpose(1, 2)


def _harmonic_mask(magnitude: Tensor) -> Tensor:
    """Return the share `(row, bin, frame)` in [0, 1] that is smoother in time than in frequency."""
    harmonic = _running_median(magnitude, 17)  # 0.4 s at 44.1 kHz: longer than a drum hit
    percussive = _running_median(magnitude.transpose(1, 2), 31).transpose(1, 2)  # 0.67 kHz: wider than a partial
    power = harmonic.square() + percussive.square()
    return torch.where(power > 0.0, harmonic.square() / power.clamp(min=1e-30), 0.5)


def _running_median(values: Tensor, width: int) -> Tensor:
    """Return the median over `width` (odd) neighbours along the last axis, with the edge values repeated outwards."""
    margin = width // 2
    neighbours = pad(values, (margin, margin), mode="replicate").unfold(-1, width, 1)  # (..., time, width)
    return torch.median(neighbours, dim=-1).values
