"""Small stand-ins of known geometry: a separator, encoders that count or fail, and songs that are quick to write."""

import numpy as np
import soundfile
import torch

from stemsim.encoders import Encoder
from stemsim.separators import Separator
from stemsim.stems import STEMS


class CountingEncoder(Encoder):
    """Unit vectors of the amplitudes in `dim` equal frequency bands; counts the clips that it embeds.

    A tone in the middle of band k (`(k + 0.5) * sample_rate / 2 / dim` Hz) is the unit vector k, up to 1e-3 or so;
    digital silence is the vector of equal components.
    """

    def __init__(self, sample_rate=8000, dim=8, *, min_duration=0.0):
        super().__init__()
        self.sample_rate = sample_rate
        self.dim = dim
        self.min_duration = min_duration
        self.identity = f"counting(rate={sample_rate}, dim={dim})"
        self.clips = 0

    def forward(self, waveforms):
        self.clips += len(waveforms)
        power = torch.fft.rfft(waveforms.double()).abs().square()  # (batch, bin)
        bands = torch.stack([band.sum(dim=1) for band in power.tensor_split(self.dim, dim=1)], dim=1)
        return torch.nn.functional.normalize(bands.sqrt() + 1e-6, dim=1).float()


class EqualBands(Separator):
    """Stems of known geometry: equal bands of the spectrum, and the mix as the last one."""

    channels = 1

    def __init__(self, stems, sample_rate):
        self.stems, self.sample_rate = stems, sample_rate
        self.identity = f"{len(stems) - 1} equal bands"

    def __call__(self, waveforms):
        spectrum = torch.fft.rfft(waveforms)
        parts = [torch.zeros_like(spectrum) for _ in self.stems[:-1]]
        for part, bins in zip(parts, torch.arange(spectrum.shape[-1]).tensor_split(len(parts)), strict=True):
            part[..., bins] = spectrum[..., bins]
        return torch.stack([*(torch.fft.irfft(part, waveforms.shape[-1]) for part in parts), waveforms], dim=1)


class NanEncoder(CountingEncoder):
    """Gives NaN for every clip after the first `sound`."""

    def __init__(self, *, sound=0, **kwargs):
        super().__init__(**kwargs)
        self.sound = sound

    def forward(self, waveforms):
        numbers = self.clips + torch.arange(len(waveforms))
        return super().forward(waveforms).masked_fill((numbers >= self.sound)[:, None], torch.nan)


class WrongShapeEncoder(CountingEncoder):
    """Gives one component more than its `dim` says."""

    def forward(self, waveforms):
        return torch.nn.functional.pad(super().forward(waveforms), (0, 1))


def write_songs(root, n, seconds, *, sample_rate=8000, lacking=True, first=0):
    """Write songs `song00/{mix,bass,drums,...}.wav` that differ in every stem and every second; return their mixes.

    Stem k of every song sounds in band k of the eight of `CountingEncoder` (and more quietly in another one, which is
    what tells songs and seconds apart); the mix is the exact sum of the stems.

    Args:
        root: Folder to write to; made if there is none.
        n: Number of songs.
        seconds: Length of each.
        sample_rate: In Hz.
        lacking: Leave stem `number % 6` out of song `number`, guitar out of number 2 for instance.
        first: Number of the first song.
    """
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    band = sample_rate / 2 / 8
    mixes = []
    for number in range(first, first + n):
        folder = root / f"song{number:02d}"
        folder.mkdir(parents=True)
        mix = np.zeros(len(time), np.int16)
        for index, stem in enumerate(STEMS[:-1]):
            if lacking and index == number % 6:
                continue
            other = (index + 1 + number % 7) % 8
            swell = 0.5 + 0.5 * np.sin(1.3 * time + number + index)
            tone = np.sin(2 * np.pi * (index + 0.5) * band * time)
            tone += 0.7 * swell * np.sin(2 * np.pi * (other + 0.3 + 0.02 * (number % 20)) * band * time)
            samples = (2500 * tone).astype(np.int16)
            soundfile.write(folder / f"{stem}.wav", samples, sample_rate)
            mix += samples
        soundfile.write(folder / "mix.wav", mix, sample_rate)
        mixes.append(folder / "mix.wav")
    return mixes
