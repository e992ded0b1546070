"""A classical descriptor of timbre, harmony and rhythm: no learned weights, no download, a baseline to beat."""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.encoders import _spectral_pitch as pitches
from stemsim.encoders import _spectral_timbre as timbre
from stemsim.encoders import _spectral_time as course
from stemsim.encoders._spectral_front_end import MEL_BANDS, SAMPLE_RATE, dct_matrix, mel_filters, views_of
from stemsim.encoders._spectral_scaling import CENTRE, SCALE
from stemsim.encoders.base import Encoder
from stemsim.errors import EmbeddingError

__all__ = ["GROUPS", "Group", "Spectral"]

_VERSION = 1  # raise it whenever a number of `describe` changes
_CEPSTRUM, _CHANGE = 13, 6  # coefficients: the envelope, and how it moves
_LAG_STEPS = 16
_LARGEST = 4.0  # standard deviations


@dataclass(frozen=True)
class Group:
    """Descriptors that answer one question and share one weight.

    Attributes:
        name: Key of its values in `Spectral.describe`.
        weight: Share of the similarity, before the shares are made to sum to one for each clip.
        gate: How much a clip has to say on it: `always`; `single` fades out with the number of attacks, `repeated`
            fades in with it; `tonal` follows how periodic the clip is.
        kind: `angles` turns each value into a point on the half circle, so that the group's similarity falls with each
            difference and never depends on where zero lies. `vector` is for groups whose inner product is already a
            similarity, and for which nothing (no beat, no chord) should mean no contribution.
    """

    name: str
    weight: float
    gate: Literal["always", "single", "repeated", "tonal"] = "always"
    kind: Literal["angles", "vector"] = "angles"


# Coarse on purpose. Envelope, spectral centroid (in `shape`) and attack lead because they do in nearly every timbre
# space (McAdams et al., 1995); small groups get more weight per value than large ones, or twenty-nine modulations would
# drown two attack times. Halving or doubling any one weight moves precision@5 by at most 0.025 on 195 samples and 0.04
# on 41.
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
    Group("chroma", 4.0, gate="repeated", kind="vector"),  # which note a single tone plays is not its timbre
    Group("rhythm", 4.0, gate="repeated", kind="vector"),
)


class Spectral(Encoder):
    """Encode audio by cepstral, harmonic and temporal statistics over a log-mel front end.

    Each descriptor `x` becomes an angle `theta = pi/2 * tanh((x - centre) / scale)` and enters as `(cos, sin)`, so the
    cosine of two clips is a weighted mean of `cos(theta_a - theta_b)` over all descriptors: 1 for equal ones, falling
    with every difference, and saturating before one odd value can spoil the rest. Centres and scales are constants
    from real audio (`_spectral_scaling`); nothing was fitted to labels. The level of a recording does not count, down
    to a peak of -80 dBFS.

    Input: `(batch, time)`, floats at 44.1 kHz, nominally in [-1, 1], at least 10 ms. Output: unit vectors
    `(batch, dim)`.

    Example:
        >>> import torch
        >>> encoder = Spectral()
        >>> embedding = encoder(torch.sin(torch.arange(22050) / 20).unsqueeze(0))
        >>> embedding.shape == (1, encoder.dim)
        True
    """

    sample_rate = SAMPLE_RATE
    min_duration = 0.01

    def __init__(self) -> None:
        super().__init__()
        tables = {
            "_mel": mel_filters(),
            "_dct": dct_matrix(MEL_BANDS, _CEPSTRUM),
            "_chroma": pitches.chroma_matrix(),
            "_taper": pitches.lag_taper(),
            "_bands": course.onset_bands(),
            "_lags": course.lag_pool(_LAG_STEPS),
        }
        for group in GROUPS:
            tables[_centre_name(group)] = torch.tensor(CENTRE[group.name])
            tables[_scale_name(group)] = torch.tensor(SCALE[group.name])
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.dim = sum(len(CENTRE[group.name]) * (2 if group.kind == "angles" else 1) for group in GROUPS)
        settings = repr((GROUPS, sorted(CENTRE.items()), sorted(SCALE.items())))
        self.identity = f"spectral-{_VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
        self.eval()

    @torch.no_grad()  # not inference_mode: a caller may train weights on the cosines of these vectors
    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)` as unit vectors `(batch, dim)`.

        Raises:
            EmbeddingError: If the input is not two-dimensional, is too short or is not finite.
        """
        if waveforms.ndim == 2 and not waveforms.shape[0]:  # noqa: PLR2004 - an FFT of nothing is an error
            return waveforms.new_zeros(0, self.dim)
        return self._combine(self.describe(waveforms))

    @torch.no_grad()
    def describe(self, waveforms: Tensor) -> dict[str, Tensor]:
        """Measure the descriptors themselves, before scaling and weighting.

        Args:
            waveforms: `(batch, time)` at `sample_rate`.

        Returns:
            `(batch, size)` for each of `GROUPS` by name, and the gates `single`, `repeated` and `tonal`, `(batch, 1)`.

        Raises:
            EmbeddingError: If the input is not two-dimensional, is too short or is not finite.
        """
        self._check(waveforms)
        views = views_of(waveforms.float(), self.get_buffer("_mel"))
        dct, chroma, bands = (self.get_buffer(name) for name in ("_dct", "_chroma", "_bands"))
        pitch = pitches.pitch_of(views, self.get_buffer("_taper"))
        periodicity = pitches.periodicity(views, pitch)
        single, repeated = course.repetition(views)
        return {
            "envelope": timbre.cepstrum_mean(views, dct),
            "envelope change": timbre.cepstrum_change(views, dct[:, :_CHANGE]),
            "shape": timbre.shape(views),
            "contrast": timbre.contrast(views),
            "flux": timbre.flux(views),
            "modulation": timbre.modulation(views),
            "attack": course.attack(views),
            "decay": course.decay(views),
            "texture": course.texture(views),
            "harmonics": pitches.harmonics(pitch),
            "periodicity": periodicity,
            "register": pitches.register(pitch),
            "intervals": pitches.intervals(views, chroma),
            "chroma": pitches.chroma(views, chroma),
            "rhythm": course.rhythm(views, bands, self.get_buffer("_lags")),
            "single": single,
            "repeated": repeated,
            "tonal": periodicity[:, :1],
        }

    def _combine(self, values: dict[str, Tensor]) -> Tensor:
        """Weighted, gated coordinates of all groups, to unit length."""
        single, repeated, tonal = values["single"], values["repeated"], values["tonal"]
        gates = {"always": torch.ones_like(tonal), "single": single, "repeated": repeated, "tonal": tonal}
        parts = [
            self._coordinates(group, values[group.name]) * gates[group.gate].sqrt() * math.sqrt(group.weight)
            for group in GROUPS
        ]
        return functional.normalize(torch.cat(parts, dim=1), dim=1)

    def _coordinates(self, group: Group, values: Tensor) -> Tensor:
        """Scaled descriptors as coordinates of about unit length, `(batch, size)` or `(batch, 2 * size)`."""
        scaled = (values - self.get_buffer(_centre_name(group))) / self.get_buffer(_scale_name(group))
        if group.kind == "angles":
            angle = math.pi / 2 * torch.tanh(scaled)
            scaled = torch.cat([angle.cos(), angle.sin()], dim=1)
        return scaled.clamp(-_LARGEST, _LARGEST) / math.sqrt(values.shape[1])

    def _check(self, waveforms: Tensor) -> None:
        shortest = math.ceil(self.min_duration * self.sample_rate)
        if waveforms.ndim != 2 or waveforms.shape[1] < shortest:  # noqa: PLR2004
            msg = (
                f"Expected mono waveforms (batch, time) of at least {shortest} samples ({self.min_duration} s at "
                f"{self.sample_rate} Hz), got a tensor of shape {tuple(waveforms.shape)}. "
                "Average the channels, add the batch dimension, or pad with zeros."
            )
            raise EmbeddingError(msg)
        if not torch.isfinite(waveforms).all():
            bad = int((~torch.isfinite(waveforms)).any(dim=1).sum())
            msg = (
                f"Expected finite samples, got NaN or infinity in {bad} of {waveforms.shape[0]} waveforms. "
                "Check the files, or what separated them, and replace those samples."
            )
            raise EmbeddingError(msg)


def _centre_name(group: Group) -> str:
    return f"_centre {group.name}"


def _scale_name(group: Group) -> str:
    return f"_scale {group.name}"
