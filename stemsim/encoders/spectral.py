"""A classical descriptor of timbre, harmony and rhythm: no learned weights, no download, a baseline to beat."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.encoders.base import Encoder
from stemsim.encoders.spectral_descriptors import describe
from stemsim.errors import EmbeddingError

_VERSION: Final = 1  # increase it whenever a number of `describe` changes
# Centre and scale of every descriptor: mean and standard deviation over three corpora of equal share, 236 one-shots and
# loops (Sonic Pi, uzu-drumkit), the 5 s windows of the stems of seven songs (Everything is Free) and 120 synthetic
# tones. No label was used. Written by `python tests/benchmarks/bench_spectral.py --scaling FILE`.
_SCALING: Final = Path(__file__).with_name("spectral_scaling.json")


@dataclass(frozen=True)
class Group:
    """Descriptors of one property that share one weight.

    The gate is a factor of the weight that depends on the clip: `always` 1; `single` falls with the number of attacks,
    `repeated` rises with it; `tonal` follows its periodicity. The kind `angles` turns each value into a point on the
    half circle (see `Spectral`); `vector` is for groups whose inner product is already a similarity, and whose absence
    (no beat, no chord) means no contribution.
    """

    name: str  # key of its values in `Spectral.describe`
    weight: float  # share of the similarity, before the shares of a clip are normalised to sum to one
    gate: Literal["always", "single", "repeated", "tonal"] = "always"
    kind: Literal["angles", "vector"] = "angles"


# Coarse on purpose. Envelope, spectral centroid (in `shape`) and attack lead because they do in nearly every timbre
# space (McAdams et al., 1995); small groups get more weight per value, or 29 modulations would drown two attack times.
# Halving or doubling any one weight moves precision@5 by at most 0.025 on 195 samples and 0.04 on 41.
GROUPS = (
    Group("envelope", 4.0),
    Group("envelope change", 1.0),
    Group("shape", 4.0),
    Group("contrast", 2.0),
    Group("flux", 0.5),
    Group("modulation", 1.0),
    Group("attack", 3.0, gate="single"),
    Group("decay", 2.0, gate="single"),
    Group("texture", 2.0),
    Group("harmonics", 1.0, gate="tonal"),
    Group("periodicity", 0.5),
    Group("register", 0.5, gate="tonal"),
    Group("intervals", 0.5, gate="tonal"),
    Group("chroma", 4.0, gate="repeated", kind="vector"),  # the note of a single tone is not its timbre
    Group("rhythm", 4.0, gate="repeated", kind="vector"),
)


class Spectral(Encoder):
    """Encode audio by cepstral, harmonic and temporal statistics over a log-mel front end.

    Each descriptor `x` becomes an angle `theta = pi/2 * tanh((x - centre) / scale)` and enters as `(cos, sin)`, so the
    cosine of two clips is a weighted mean of `cos(theta_a - theta_b)` over all descriptors: 1 for equal ones, falling
    with every difference, and saturating before one extreme value can dominate the rest. Centres and scales are
    constants from real audio; nothing was fitted to labels. The level of a recording does not count, down to a peak of
    -80 dBFS.

    Input: `(batch, time)`, floats at 44.1 kHz, nominally in [-1, 1], at least 10 ms. Output: unit vectors
    `(batch, dim)`.

    Example:
        >>> import torch
        >>> encoder = Spectral()
        >>> embedding = encoder(torch.sin(torch.arange(22050) / 20).unsqueeze(0))
        >>> embedding.shape == (1, encoder.dim)
        True
    """

    sample_rate = 44_100
    min_duration = 0.01

    def __init__(self) -> None:
        super().__init__()
        scaling = json.loads(_SCALING.read_text(encoding="utf-8"))
        tables = {key: {name: tuple(group[key]) for name, group in scaling.items()} for key in ("centre", "scale")}
        for key, table in tables.items():
            flat = torch.tensor([value for group in GROUPS for value in table[group.name]])
            self.register_buffer(f"_{key}", flat, persistent=False)
        self._sizes = [len(tables["centre"][group.name]) for group in GROUPS]
        self.dim = sum(size * (1 + (group.kind == "angles")) for group, size in zip(GROUPS, self._sizes, strict=True))
        settings = repr((GROUPS, *(sorted(table.items()) for table in tables.values())))
        self.identity = f"spectral-{_VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
        self.eval()

    @torch.no_grad()  # not inference_mode: weights may be trained on the cosines of these vectors
    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)` as unit vectors `(batch, dim)`; raises as `describe` does."""
        if waveforms.ndim == 2 and not waveforms.shape[0]:  # noqa: PLR2004 - an FFT of nothing is an error
            return waveforms.new_zeros(0, self.dim)
        described = self.describe(waveforms)
        gates = {name: described[name].sqrt() for name in ("single", "repeated", "tonal")}
        flat = torch.cat([described[group.name] for group in GROUPS], dim=1)
        scaled = (flat - self.get_buffer("_centre")) / self.get_buffer("_scale")
        parts = []
        for group, part, size in zip(GROUPS, torch.split(scaled, self._sizes, dim=1), self._sizes, strict=True):
            angle = math.pi / 2 * torch.tanh(part)
            values = torch.cat([angle.cos(), angle.sin()], dim=1) if group.kind == "angles" else part.clamp(-4.0, 4.0)
            unit = values / math.sqrt(size)  # of about unit length
            gated = unit if group.gate == "always" else unit * gates[group.gate]
            parts.append(gated * math.sqrt(group.weight))
        return functional.normalize(torch.cat(parts, dim=1), dim=1)

    @torch.no_grad()
    def describe(self, waveforms: Tensor) -> dict[str, Tensor]:
        """Measure the descriptors of mono waveforms `(batch, time)`, before scaling and weighting.

        Returns:
            `(batch, size)` for each of `GROUPS` by name, and the gates `single`, `repeated` and `tonal`, `(batch, 1)`.

        Raises:
            EmbeddingError: If the input is not two-dimensional, is too short or is not finite.
        """
        shortest = math.ceil(self.min_duration * self.sample_rate)
        if waveforms.ndim != 2 or waveforms.shape[1] < shortest:  # noqa: PLR2004
            raise EmbeddingError(
                f"Expected mono waveforms (batch, time) of at least {shortest} samples ({self.min_duration} s at "
                f"{self.sample_rate} Hz), got a tensor of shape {tuple(waveforms.shape)}. "
                "Average the channels, add the batch dimension, or pad with zeros."
            )
        if not torch.isfinite(waveforms).all():
            bad = int((~torch.isfinite(waveforms)).any(dim=1).sum())
            raise EmbeddingError(
                f"Expected finite samples, got NaN or infinity in {bad} of {waveforms.shape[0]} waveforms. "
                "Check the files, or the separator, and replace those samples."
            )
        return describe(waveforms.float())
