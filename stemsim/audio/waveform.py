"""Operations on waveforms outside the models: downmix, resampling and level."""

from typing import Final

import soxr
import torch
from torch import Tensor
from torch.nn.functional import pad

_CANCELLED: Final = 0.01  # -20 dB

LEVEL_FLOOR: Final = -120.0
"""Lowest level reported, in dBFS: digital silence and everything below 16-bit dither."""


def downmix(waveform: Tensor) -> Tensor:
    """Average the channels of a waveform: `(..., channel, time)` to `(..., time)`.

    Where they cancel each other out, as left and right in opposite phase do, the loudest channel is taken instead.
    """
    if waveform.shape[-2] == 1:
        return waveform.squeeze(-2)
    mono = waveform.mean(dim=-2)
    cancelled = cancels(waveform)
    if not cancelled.any():
        return mono
    loudest = waveform.square().mean(dim=-1).argmax(dim=-1)[..., None, None]  # (..., channel = 1, time = 1)
    channel = waveform.take_along_dim(loudest, dim=-2).squeeze(-2)
    return torch.where(cancelled[..., None], channel, mono)


def cancels(waveform: Tensor) -> Tensor:
    """Return where the average of the channels is over 20 dB below the loudest channel.

    Unrelated channels come to -3 dB, and a channel beside a silent one to -6 dB.

    Args:
        waveform: `(..., channel, time)`.

    Returns:
        Booleans `(...)`.
    """
    if waveform.shape[-2] == 1 or waveform.shape[-1] == 0:
        return torch.zeros(waveform.shape[:-2], dtype=torch.bool)
    loudest = waveform.square().mean(dim=-1).amax(dim=-1)
    return waveform.mean(dim=-2).square().mean(dim=-1) < _CANCELLED * loudest


def to_channels(waveform: Tensor, channels: int) -> Tensor:
    """Convert a waveform `(..., channel, time)` to another number of channels: downmix, then repeat.

    With channels that cancel each other out, every channel becomes the loudest one: a separator that sums them would
    otherwise hear nothing.
    """
    if waveform.shape[-2] == channels:
        cancelled = cancels(waveform)[..., None, None]
        return torch.where(cancelled, downmix(waveform).unsqueeze(-2), waveform) if cancelled.any() else waveform
    mono = downmix(waveform).unsqueeze(-2)
    return mono.expand(*mono.shape[:-2], channels, mono.shape[-1])


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample a float32 waveform `(..., time)` between two rates in Hz with soxr at high quality.

    Returns:
        Waveform `(..., round(time * target_rate / source_rate))` on the CPU; the same one if the rates are equal.
    """
    if source_rate == target_rate:
        return waveform
    time = waveform.shape[-1]
    wanted = round(time * target_rate / source_rate)
    flat = waveform.reshape(-1, time)  # (row, time)
    # soxr wants (time, channel) and filters each channel on its own. A clone and not `contiguous`, which leaves the
    # strides of a single sample as they are, and soxr looks at them.
    columns = flat.T.clone(memory_format=torch.contiguous_format).cpu().numpy()
    resampled = torch.from_numpy(soxr.resample(columns, source_rate, target_rate)).T.contiguous()
    result = fit_length(resampled, wanted)  # soxr's own length may differ from the rounded one by a sample
    return result.reshape(*waveform.shape[:-1], wanted)


def fit_length(waveform: Tensor, time: int) -> Tensor:
    """Cut a waveform `(..., old_time)`, or pad it with zeros, to an exact number of samples.

    Two roundings of one duration at two rates may differ by a sample, and some encoders (CLAP) give very different
    vectors for 240 001 samples and for 240 000.
    """
    missing = time - waveform.shape[-1]
    return pad(waveform, (0, missing)) if missing else waveform


def is_finite(waveform: Tensor) -> bool:
    """Return whether all samples are finite, in a tenth of the time of `torch.isfinite(waveform).all()`."""
    return not waveform.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(waveform))


def level_dbfs(waveform: Tensor) -> Tensor:
    """Measure the level of waveforms `(..., time)`: root mean square over time relative to an amplitude of 1.

    Returns:
        Level `(...)` in dBFS, at least `LEVEL_FLOOR`; 0 for a full-scale square wave, -3.01 for a full-scale sine.
    """
    rows = waveform.reshape(-1, waveform.shape[-1])  # (row, time)
    # Row by row in double precision: a tenth of the time of all rows at once, which do not fit into the cache.
    squares = [torch.dot(row, row) for row in (row.double() for row in rows)]
    total = torch.stack(squares) if squares else rows.new_zeros(0, dtype=torch.float64)
    mean_square = (total / waveform.shape[-1]).reshape(waveform.shape[:-1])
    return (10.0 * mean_square.clamp(min=1e-30).log10()).clamp(min=LEVEL_FLOOR).to(torch.float32)
