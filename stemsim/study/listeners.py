"""Simulated listeners: known weights, tastes of their own, noise, and things heard that no stem embedding shows.

A listener answers "A" with probability sigmoid(s / noise). s is what the listener's weights make of the stems, and of
something unheard by any stem embedding, over the root mean square of both. What is unheard has no linear relation to
the stem features (its regression on them is taken out), so that the common weights are the best linear account of s;
but as songs have a say in it, triplets that share tracks are not independent.

With the defaults and five votes a triplet, the figures are near those of the mix triplets of Inst-Sim-ABX:

| | listening test | simulated |
|---|---|---|
| leave-one-listener-out ceiling, XAB and XYC, % | 72.2 and 92.3 | 73.2 and 90.4 |
| the same on triplets with at least 80 % of the votes on one side | 91.0 and 97.7 | 91.0 and 96.2 |
| agreement of the best weights on those | 90.4 (the paper's best model) | 89.4 |
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError
from stemsim.evaluation.study.songs import MEAN_LEVEL, Drawn
from stemsim.stems import StemLayout

__all__ = ["TRUTHS", "Hearing", "Listeners", "Scale", "Truth", "felt", "hear", "scale_of"]

Truth = Literal["linear", "saturating", "loudness"]
TRUTHS: Final[tuple[Truth, ...]] = ("linear", "saturating", "loudness")
"""What a stem makes listeners feel: its cosine; whether it is alike; its cosine, more so where it is loud in X."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ALIKE: Final = (0.65, 0.05)  # cosine at which a saturating listener finds two stems half alike, and how sharply


@dataclass(frozen=True, slots=True)
class Listeners:
    """How unsure listeners are, and how they differ from the common weights.

    Attributes:
        noise: Scale of the logistic noise of an answer over the root mean square of what is felt.
        taste: Standard deviation of the logarithm of a listener's weight of a stem, around the common one.
        unheard: Root mean square of what no stem embedding shows, over that of what the stems show.
        answers: Answers that one listener gives.
    """

    noise: float = 0.25
    taste: float = 0.5
    unheard: float = 0.5
    answers: int = 9

    def __post_init__(self) -> None:
        """Verify that nothing is negative."""
        if not all(0.0 <= value < 100.0 for value in (self.noise, self.taste, self.unheard)) or self.answers < 1:  # noqa: PLR2004
            msg = f"Noise, taste and unheard lie in [0, 100), and a listener gives an answer or more; got {self}."
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """What is felt over all triplets that there could be, from many of them.

    Attributes:
        moments: `(stem, stem)` second moments of what the stems make listeners feel.
        slopes: `(stem,)` regression of the unheard on them.
        beside: Root mean square of what is left of the unheard.
    """

    moments: FloatArray
    slopes: FloatArray
    beside: float

    def heard(self, weights: FloatArray) -> FloatArray:
        """Return the root mean square `(...)` of what weights `(..., stem)` make of the stems."""
        size: FloatArray = np.sqrt(np.einsum("...s,st,...t->...", weights, self.moments, weights))
        return size


@dataclass(frozen=True, slots=True, eq=False)
class Hearing:
    """What listeners feel, before they answer; answers with any noise follow from it.

    Attributes:
        feeling: `(experiment, triplet, vote)` in units of its root mean square; positive where A is felt to be closer.
        luck: `(experiment, triplet, vote)` standard logistic.
    """

    feeling: FloatArray
    luck: FloatArray

    def votes(self, noise: float, count: int) -> IntArray:
        """Return the votes `(experiment, triplet, 2)` for A and B of the first `count` listeners of each triplet."""
        for_a = (self.feeling[..., :count] + noise * self.luck[..., :count] > 0.0).sum(axis=-1)
        return np.stack([for_a, count - for_a], axis=-1)


def felt(drawn: Drawn, truth: Truth, stems: StemLayout) -> FloatArray:
    """Return what each stem makes listeners feel, before they weigh it.

    Args:
        drawn: Triplets.
        truth: `linear`: the stem features. `saturating`: differences of a logistic function of the cosines, so that
            stems are alike or not. `loudness`: the stem features, each but the mix weighed by its share of X's power.
        stems: Stem layout.

    Returns:
        `(experiment, triplet, stem + 1)`, the last one being the unheard. A stem that is silent adds nothing.

    Raises:
        ConfigError: If there is no such truth.
    """
    if truth not in TRUTHS:
        msg = f"Listeners may be {', '.join(TRUTHS)}; got {truth!r}."
        raise ConfigError(msg)
    cosines = drawn.cosines.copy()
    if truth == "saturating":
        middle, width = _ALIKE
        alike = 0.5 * (1.0 + np.tanh(0.5 * (cosines[..., :-1] - middle) / width))
        cosines[..., :-1] = np.where(cosines[..., :-1] == 0.0, 0.0, alike)
    difference: FloatArray = cosines[:, :, 0] - cosines[:, :, 1]
    if truth == "loudness":
        others = [index for index, stem in enumerate(stems) if stem != "mix"]
        power = 10.0 ** ((drawn.levels[..., others] - MEAN_LEVEL) / 10.0)
        difference[..., others] *= len(others) * power / power.sum(axis=-1, keepdims=True)
    return difference


def scale_of(features: FloatArray) -> Scale:
    """Measure what is felt.

    Args:
        features: `(experiment, triplet, stem + 1)` what is felt (`felt`) about many triplets.

    Returns:
        Moments of all triplets of all experiments.
    """
    rows = features.reshape(-1, features.shape[-1])
    heard, unheard = rows[:, :-1], rows[:, -1]
    moments = heard.T @ heard / len(rows)
    slopes = np.linalg.lstsq(moments, heard.T @ unheard / len(rows), rcond=None)[0]
    return Scale(moments, slopes, float(np.sqrt(np.square(unheard - heard @ slopes).mean())))


def hear(
    features: FloatArray,
    weights: FloatArray,
    scale: Scale,
    listeners: Listeners,
    votes: int,
    rng: np.random.Generator,
) -> Hearing:
    """Let listeners hear triplets. Each has weights of its own; none hears a triplet twice.

    Args:
        features: `(experiment, triplet, stem + 1)` what is felt (`felt`).
        weights: `(experiment, stem)` common weights, the mean of the listeners'.
        scale: What is felt over all triplets that there could be.
        listeners: How they differ; their noise counts later, in `Hearing.votes`.
        votes: Number of listeners for each triplet.
        rng: Source of randomness.

    Returns:
        What they feel.
    """
    experiments, triplets, _ = features.shape
    number = max(votes, -(-triplets * votes // listeners.answers))
    # Questions go round: the listeners of a triplet differ, and all answer equally often, but for the remainder.
    who = np.arange(triplets * votes).reshape(triplets, votes) % number
    deviation = listeners.taste * rng.standard_normal((experiments, number, weights.shape[1]))
    own = weights[:, None] * np.exp(deviation - 0.5 * listeners.taste**2)
    stems = features[..., :-1]
    unheard = features[..., -1] - stems @ scale.slopes
    heard = scale.heard(weights)[:, None]
    beside = unheard * listeners.unheard * heard / scale.beside
    feeling = np.stack(
        [np.einsum("ens,ens->en", stems, own[:, who[:, vote]]) + beside for vote in range(votes)], axis=2
    )
    size = heard[..., None] * np.sqrt(1.0 + listeners.unheard**2)
    return Hearing(feeling / size, rng.logistic(size=feeling.shape))
