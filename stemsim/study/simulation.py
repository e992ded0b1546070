"""Simulated listening tests with known stem weights: songs, triplets and listeners, for many tests at once.

**Songs.** A stem embedding is the sum of a direction that all music shares, one of its song and one of its segment,
scaled to unit norm. Part of what is particular to a song or segment is common to all its stems, which makes the stems
collinear. The mix is the sum of the audible stems, each with its amplitude, and a component of its own. A hidden vector
beside the stems stands for what listeners hear and no stem embedding shows. The constants give cosines like those of
the true stems of the seven songs of "Everything is Free" with the encoder `Spectral`: 0.75 ± 0.18 within a song (drums,
vocals and residuals: 0.71 to 0.76 ± 0.21), 0.50 ± 0.17 between songs (0.46 to 0.53 ± 0.14 to 0.21). Separated stems are
more alike. The number of tracks, the share of XAB triplets, and the references that an XAB and an XYC triplet have in
common are those of the mix triplets of Inst-Sim-ABX (arXiv:2502.02138).

**Listeners.** A listener answers "A" with probability sigmoid(s / noise), where s is the weighted sum of the stem
impressions plus the hidden part, divided by the root mean square of that total. The hidden part is uncorrelated with
the stem features (its regression on them is removed), so that the common weights are the best linear account of s; as
it depends on the songs, triplets that share tracks are dependent. With noise 0.25 and five votes per triplet:

| mix triplets | Inst-Sim-ABX | simulated |
|---|---|---|
| leave-one-listener-out ceiling, XAB and XYC, % | 72.2 and 92.3 | 73.2 and 90.4 |
| the same on triplets with at least 80 % of the votes on one side | 91.0 and 97.7 | 91.0 and 96.2 |
| agreement of the best weights on those | 90.4 (the paper's best model) | 89.4 |
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from stemsim.stems import STEMS
from stemsim.study.settings import StudySettings
from stemsim.triplets.table import BoolArray, FloatArray, IntArray

Truth = Literal["linear", "saturating", "loudness"]
TRUTHS: Final[tuple[Truth, ...]] = ("linear", "saturating", "loudness")
"""Kinds of listeners: a stem counts by its cosine, by being alike or not, or by its cosine times its loudness in X."""

SEGMENTS_PER_TRACK: Final = 6
"""Segment k of track t has number `t * SEGMENTS_PER_TRACK + k`."""

SingleArray = npt.NDArray[np.float32]

_STEM_COUNT: Final = len(STEMS)  # the mix is the last one
_DIM: Final = 20  # real encoders have more, few of which vary freely: the spread of cosines is what counts
_COMMON: Final = 0.5  # variance of what all music shares; the variances are those before scaling to unit norm
_SONG: Final = 0.25  # variance between songs
_SEGMENT: Final = 0.2  # variance between the segments of a song,
_VARIETY: Final = 0.9  # and standard deviation of its logarithm between songs and stems
_OWN: Final = 0.25  # variance of the mix's own component, relative to the sum of its stems
_ABSENT: Final = 0.15  # share of songs that lack a given stem
_SILENT: Final = 0.08  # share of the segments in which a stem of the song is silent
_MEAN_LEVEL: Final = -30.0  # dBFS, of a stem,
_LEVELS: Final = (8.0, 3.0)  # dB, and its standard deviation between songs and between the segments of a song
_SILENCE: Final = -120.0  # dBFS
_XAB_SHARE: Final = 127 / 331
_ALIKE: Final = (0.65, 0.05)  # cosine at which saturating listeners find two stems half alike, and width of the step
_TASTE: Final = 0.5  # standard deviation of the logarithm of a listener's weight of a stem, around the common one
_ANSWERS: Final = 9  # of one listener
_ELEMENTS_AT_ONCE: Final = 300_000  # of float32: faster where they fit into the cache


class SongTriplets(NamedTuple):
    """Triplets of many listening tests."""

    cosines: FloatArray  # (experiment, triplet, 2, stem + 1) of A and of B with X; the last: of the hidden vectors
    levels: FloatArray  # (experiment, triplet, stem) of X, in dBFS
    tracks: IntArray  # (experiment, triplet, 3) of X, A and B

    @property
    def deltas(self) -> FloatArray:
        """`(experiment, triplet, stem)` stem features."""
        difference: FloatArray = self.cosines[:, :, 0, :-1] - self.cosines[:, :, 1, :-1]
        return difference


def draw_songs(
    settings: StudySettings, experiments: int, tracks: int, rng: np.random.Generator
) -> tuple[SingleArray, SingleArray, BoolArray]:
    """Draw the songs of many listening tests, which share no song.

    Returns:
        Vectors `(experiment, segment, stem + 1, dim)`, unit norm or zeros where a stem is silent, the hidden one last;
        levels `(experiment, segment, stem)` in dBFS; and a mask of the same shape, False where a stem is silent.
    """
    shared = settings.collinearity
    each, places = SEGMENTS_PER_TRACK, (experiments, tracks)

    def normal(*shape: int) -> SingleArray:
        return rng.standard_normal(shape, dtype=np.float32)

    def particular(*shape: int, size: int) -> SingleArray:
        """Return standard normal numbers `(*shape, stem + 1, size)`, in part common to all stems."""
        together, alone = np.float32(shared**0.5), np.float32((1.0 - shared) ** 0.5)
        return together * normal(*shape, 1, size) + alone * normal(*shape, _STEM_COUNT + 1, size)

    of_song = np.float32((_SONG / _DIM) ** 0.5) * particular(*places, size=_DIM)
    of_song[..., 0] += np.float32(_COMMON**0.5)  # the shared direction is arbitrary, as the rest has none
    spread = np.exp(np.float32(0.5 * _VARIETY) * particular(*places, size=1))
    vectors = particular(*places, each, size=_DIM)
    vectors *= np.float32((_SEGMENT / _DIM) ** 0.5) * spread[:, :, None]
    vectors += of_song[:, :, None]
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    levels = np.float32(_MEAN_LEVEL) + np.float32(_LEVELS[0]) * normal(*places, 1, _STEM_COUNT)
    levels = levels + np.float32(_LEVELS[1]) * normal(*places, each, _STEM_COUNT)
    present = rng.random((*places, 1, _STEM_COUNT)) >= _ABSENT
    present = present & (rng.random((*places, each, _STEM_COUNT)) >= _SILENT)
    present[..., -1] = True
    amplitude = np.where(present, 10.0 ** (levels / 20.0), 0.0).astype(np.float32)[..., :-1]
    total = np.einsum("etks,etksd->etkd", amplitude, vectors[..., :-2, :])
    total /= np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)
    total += np.float32(_OWN**0.5) * vectors[..., -2, :]
    vectors[..., -2, :] = total / np.linalg.norm(total, axis=-1, keepdims=True)
    vectors[..., :-1, :] *= present[..., None]
    power = np.square(amplitude).sum(axis=-1)
    levels[..., -1] = 10.0 * np.log10(np.maximum(power, 10.0 ** (_SILENCE / 10.0)))
    levels = np.where(present, levels, np.float32(_SILENCE))
    shape = (experiments, tracks * each, _STEM_COUNT)
    return vectors.reshape(*shape[:2], _STEM_COUNT + 1, _DIM), levels.reshape(shape), present.reshape(shape)


def draw_members(experiments: int, triplets: int, tracks: int, rng: np.random.Generator) -> IntArray:
    """Draw the segments X, A and B of triplets, `(experiment, triplet, 3)`: XAB first, then XYC (A is Y).

    As in Inst-Sim-ABX, an XAB and an XYC triplet have their reference in common, as far as there are both.
    """
    each, n_xab = SEGMENTS_PER_TRACK, round(_XAB_SHARE * triplets)
    rows = (experiments, triplets)
    track, place = rng.integers(tracks, size=rows), rng.integers(each, size=rows)
    both = min(n_xab, triplets - n_xab)
    track[:, n_xab : n_xab + both], place[:, n_xab : n_xab + both] = track[:, :both], place[:, :both]
    is_xyc = np.arange(triplets) >= n_xab
    second = np.where(is_xyc, track, (track + 1 + rng.integers(tracks - 1, size=rows)) % tracks)
    other_place = (place + 1 + rng.integers(each - 1, size=rows)) % each  # another segment of the same track
    second_place = np.where(is_xyc, other_place, rng.integers(each, size=rows))
    # The third track is one of the remaining ones: skip the lower of the two, then the higher.
    third = np.where(is_xyc, rng.integers(tracks - 1, size=rows), rng.integers(tracks - 2, size=rows))
    third += third >= np.minimum(track, second)
    third += (third >= np.maximum(track, second)) & ~is_xyc
    pieces = [track * each + place, second * each + second_place, third * each + rng.integers(each, size=rows)]
    return np.stack(pieces, axis=-1)


def compare(vectors: SingleArray, levels: SingleArray, members: IntArray) -> SongTriplets:
    """Compare the segments X, A and B of triplets, `(experiment, triplet, 3)`."""
    experiment = np.arange(len(members))[:, None]
    x, a, b = (vectors[experiment, members[..., role]] for role in range(3))
    cosines = np.stack([np.einsum("ensd,ensd->ens", x, one, dtype=np.float32) for one in (a, b)], axis=2)
    of_x = levels[experiment, members[..., 0]]
    return SongTriplets(cosines.astype(np.float64), of_x.astype(np.float64), members // SEGMENTS_PER_TRACK)


def draw_triplets(settings: StudySettings, experiments: int, triplets: int, rng: np.random.Generator) -> SongTriplets:
    """Draw songs and triplets of many listening tests. The embeddings are not kept, which bounds the memory."""
    tracks = settings.tracks(triplets)
    at_once = max(1, _ELEMENTS_AT_ONCE // (tracks * SEGMENTS_PER_TRACK * (_STEM_COUNT + 1) * _DIM))
    parts = []
    for start in range(0, experiments, at_once):
        count = min(at_once, experiments - start)
        vectors, levels, _ = draw_songs(settings, count, tracks, rng)
        parts.append(compare(vectors, levels, draw_members(count, triplets, tracks, rng)))
    cosines, of_x, of_tracks = zip(*parts, strict=True)
    return SongTriplets(np.concatenate(cosines), np.concatenate(of_x), np.concatenate(of_tracks))


def impressions(triplets: SongTriplets, truth: Truth) -> FloatArray:
    """Return how much closer A seems than B by each stem, before listeners weight the stems.

    Linear listeners follow the stem features, saturating ones differences of a logistic function of the cosines, and
    others the stem features, all but the mix weighted by the stem's share of X's power.

    Returns:
        `(experiment, triplet, stem + 1)`, the hidden part last; 0 where a stem is silent.
    """
    cosines = triplets.cosines.copy()
    if truth == "saturating":
        middle, width = _ALIKE
        alike = 0.5 * (1.0 + np.tanh(0.5 * (cosines[..., :-1] - middle) / width))
        cosines[..., :-1] = np.where(cosines[..., :-1] == 0.0, 0.0, alike)
    difference: FloatArray = cosines[:, :, 0] - cosines[:, :, 1]
    if truth == "loudness":
        power = 10.0 ** (triplets.levels[..., :-1] / 10.0)
        difference[..., :-2] *= power.shape[-1] * power / power.sum(axis=-1, keepdims=True)
    return difference


@dataclass(frozen=True, slots=True, eq=False)
class ImpressionScale:
    """Scale of the impressions over the whole population of triplets."""

    moments: FloatArray  # (stem, stem) second moments of the stem impressions
    slopes: FloatArray  # (stem,) regression of the hidden part on them
    beside: float  # root mean square of the rest of the hidden part

    @classmethod
    def of(cls, impressions: FloatArray) -> Self:
        """Measure many impressions `(experiment, triplet, stem + 1)`."""
        rows = impressions.reshape(-1, impressions.shape[-1])
        heard, hidden = rows[:, :-1], rows[:, -1]
        moments = heard.T @ heard / len(rows)
        slopes = np.linalg.lstsq(moments, heard.T @ hidden / len(rows), rcond=None)[0]
        return cls(moments, slopes, float(np.sqrt(np.square(hidden - heard @ slopes).mean())))


class Decisions(NamedTuple):
    """Decision variables of listeners, from which their answers with any amount of noise follow."""

    evidence: FloatArray  # (experiment, triplet, vote) in units of its root mean square; positive: A seems closer
    noise: FloatArray  # (experiment, triplet, vote) standard logistic

    def votes(self, noise: float, count: int) -> IntArray:
        """Return the votes `(experiment, triplet, 2)` for A and B of the first `count` listeners of each triplet."""
        for_a = (self.evidence[..., :count] + noise * self.noise[..., :count] > 0.0).sum(axis=-1)
        return np.stack([for_a, count - for_a], axis=-1)

    def majority(self, noise: float, count: int) -> IntArray:
        """Return the majority choices `(experiment, triplet)` of these listeners, +1 = A and -1 = B."""
        majority: IntArray = np.sign(2 * self.votes(noise, count)[..., 0] - count)
        return majority


def decide(
    settings: StudySettings,
    impressions: FloatArray,
    weights: FloatArray,
    scale: ImpressionScale,
    votes: int,
    rng: np.random.Generator,
) -> Decisions:
    """Let as many listeners as `votes` judge each triplet, from its impressions `(experiment, triplet, stem + 1)`.

    Each listener has individual weights, whose mean are the common weights `(experiment, stem)`; none judges a triplet
    twice.
    """
    experiments, triplets, _ = impressions.shape
    number = max(votes, -(-triplets * votes // _ANSWERS))
    # Round-robin: the listeners of a triplet differ, and all give equally many answers up to the remainder.
    who = np.arange(triplets * votes).reshape(triplets, votes) % number
    deviation = _TASTE * rng.standard_normal((experiments, number, weights.shape[1]))
    own = weights[:, None] * np.exp(deviation - 0.5 * _TASTE**2)
    stems = impressions[..., :-1]
    heard = np.sqrt(np.einsum("es,st,et->e", weights, scale.moments, weights))[:, None]  # root mean square
    beside = (impressions[..., -1] - stems @ scale.slopes) * settings.unheard * heard / scale.beside
    evidence = np.stack([np.einsum("ens,ens->en", stems, own[:, who[:, vote]]) + beside for vote in range(votes)], 2)
    size = heard[..., None] * np.sqrt(1.0 + settings.unheard**2)
    return Decisions(evidence / size, rng.logistic(size=evidence.shape))
