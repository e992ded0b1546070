"""Songs and triplets with a known geometry, drawn for many simulated listening tests at once.

The vector of a stem is the sum of a direction that all music shares (the mean of any encoder), one of the
song and one of the segment, scaled to unit norm. Part of what is particular to a song or a segment is common to all its
stems, so that stems are collinear; the mix is the sum of the sounding stems, each with its amplitude, and something of
its own. A last vector, beside the stems, is what listeners hear and no stem embedding shows.

The constants of `SongModel` give cosines like those of the true stems of the seven songs of "Everything is Free" by the
encoder `Spectral` (windows of 5 s; range over drums, vocals and residuals; then the mix):

| | songs | simulated |
|---|---|---|
| cosine within a song, mean | 0.71 to 0.76, mix 0.80 | 0.75, mix 0.83 |
| its standard deviation | 0.21 to 0.22, mix 0.13 | 0.18, mix 0.11 |
| cosine between songs, mean | 0.46 to 0.53, mix 0.59 | 0.50, mix 0.66 |
| its standard deviation | 0.14 to 0.21, mix 0.14 | 0.17, mix 0.12 |
| correlation of cosines of two stems, between songs | 0.03 to 0.25, with the mix 0.25 to 0.62 | 0.2, 0.4 |
| segments of a song in which one of its stems is silent | 0.04 to 0.14 | 0.08 |

Stems from a separator are more alike than true ones. Numbers of tracks, the share of XAB, and references that an XAB
and an XYC triplet have in common are those of the mix triplets of Inst-Sim-ABX (arXiv:2502.02138) that the paper
retains.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stemsim.errors import ConfigError
from stemsim.stems import STEMS, StemLayout, stem_layout

__all__ = ["MEAN_LEVEL", "Drawn", "SongModel", "Songs", "compare", "draw", "draw_members", "draw_songs"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MEAN_LEVEL: Final = -30.0
"""Mean level of a stem in dBFS."""

_LEVEL_IN_SONG: Final = 3.0  # dB, from segment to segment
_SILENT: Final = -120.0  # dBFS
_ELEMENTS_AT_ONCE: Final = 300_000  # of float32: what a cache holds is drawn faster


@dataclass(frozen=True, slots=True)
class SongModel:
    """How stem embeddings vary between songs and segments.

    Attributes:
        stems: Stem layout, which includes the mix.
        dim: Size of an embedding. Real encoders have hundreds of numbers, few of which vary freely: the spread of
            cosines, which this sets, is what counts.
        common: Variance of what all music shares; the variances are those before scaling to unit norm.
        song: Variance between songs.
        segment: Variance between the segments of a song.
        shared: Share of the last two that all stems of the song or segment have in common.
        variety: Standard deviation of the logarithm of `segment` between songs and stems.
        own: Variance of what the mix has of its own, its stems having 1.
        loudness: Standard deviation of a stem's level between songs, in dB.
        absent: Share of songs that lack a stem, each but the mix.
        silent: Share of the segments in which a stem of the song is silent.
        tracks_per_triplet: Number of tracks over that of triplets: 132 over 331 in the paper.
        segments_per_track: Number of segments in each track.
        xab_share: Share of XAB triplets: 127 of 331 in the paper; the others are XYC.
    """

    stems: StemLayout = STEMS
    dim: int = 20
    common: float = 0.5
    song: float = 0.25
    segment: float = 0.2
    shared: float = 0.35
    variety: float = 0.9
    own: float = 0.25
    loudness: float = 8.0
    absent: float = 0.15
    silent: float = 0.08
    tracks_per_triplet: float = 132 / 331
    segments_per_track: int = 6
    xab_share: float = 127 / 331

    def __post_init__(self) -> None:
        """Verify that the mix is a stem, and that shares and variances are."""
        stem_layout(self.stems)
        shares = (self.shared, self.absent, self.silent, self.xab_share)
        variances = (self.common, self.song, self.segment, self.variety, self.own, self.loudness)
        counts = self.dim >= 2 and self.segments_per_track >= 2 and self.tracks_per_triplet > 0.0  # noqa: PLR2004
        within = all(0.0 <= share <= 1.0 for share in shares) and all(0.0 <= value < 1e3 for value in variances)  # noqa: PLR2004
        if "mix" not in self.stems or len(self.stems) < 2 or not counts or not within:  # noqa: PLR2004
            msg = (
                "Simulated songs need a mix and another stem, at least 2 dimensions and 2 segments a track, shares in "
                f"[0, 1], and variances and levels in [0, 1000); got {self}."
            )
            raise ConfigError(msg)

    def tracks(self, triplets: int) -> int:
        """Return the number of tracks for some triplets; an XAB triplet needs three."""
        return max(3, round(self.tracks_per_triplet * triplets))


@dataclass(frozen=True, slots=True, eq=False)
class Songs:
    """Simulated songs. Segment k of track t is number `t * segments_per_track + k`.

    Attributes:
        vectors: `(experiment, segment, stem + 1, dim)` float32, unit norm, zeros where a stem is silent; the last one
            is what no stem shows.
        levels: `(experiment, segment, stem)` in dBFS.
        present: `(experiment, segment, stem)` False where a stem is silent.
    """

    vectors: SingleArray
    levels: SingleArray
    present: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Triplets of many simulated listening tests.

    Attributes:
        cosines: `(experiment, triplet, 2, stem + 1)` of A and of B with X; the last one is what no stem shows.
        levels: `(experiment, triplet, stem)` of X, in dBFS.
        members: `(experiment, triplet, 3)` segments X, A and B; of XYC triplets, A is Y.
        tracks: `(experiment, triplet, 3)` their tracks.
    """

    cosines: FloatArray
    levels: FloatArray
    members: IntArray
    tracks: IntArray

    @property
    def deltas(self) -> FloatArray:
        """`(experiment, triplet, stem)` stem features."""
        difference: FloatArray = self.cosines[:, :, 0, :-1] - self.cosines[:, :, 1, :-1]
        return difference


def draw_songs(model: SongModel, experiments: int, tracks: int, rng: np.random.Generator) -> Songs:
    """Draw the songs of many simulated listening tests.

    Args:
        model: How they vary.
        experiments: Number of listening tests, which share no song.
        tracks: Number of songs in each.
        rng: Source of randomness.

    Returns:
        Songs, each cut into `segments_per_track` segments.
    """
    stems, each, dim = len(model.stems), model.segments_per_track, model.dim
    mix = model.stems.index("mix")
    others = [stem for stem in range(stems) if stem != mix]

    def normal(*shape: int) -> SingleArray:
        return rng.standard_normal(shape, dtype=np.float32)

    def particular(*shape: int, size: int) -> SingleArray:
        """Return standard normal numbers `(*shape, stem + 1, size)`, in part common to all stems."""
        together, alone = np.float32(model.shared**0.5), np.float32((1.0 - model.shared) ** 0.5)
        return together * normal(*shape, 1, size) + alone * normal(*shape, stems + 1, size)

    places = (experiments, tracks)
    of_song = np.float32((model.song / dim) ** 0.5) * particular(*places, size=dim)
    of_song[..., 0] += np.float32(model.common**0.5)  # the common direction: any one, as all else has none
    spread = np.exp(np.float32(0.5 * model.variety) * particular(*places, size=1))
    vectors = particular(*places, each, size=dim)
    vectors *= np.float32((model.segment / dim) ** 0.5) * spread[:, :, None]
    vectors += of_song[:, :, None]
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    levels = np.float32(MEAN_LEVEL) + np.float32(model.loudness) * normal(*places, 1, stems)
    levels = levels + np.float32(_LEVEL_IN_SONG) * normal(*places, each, stems)
    present = (rng.random((*places, 1, stems)) >= model.absent) & (rng.random((*places, each, stems)) >= model.silent)
    present[..., mix] = True
    amplitude = np.where(present, 10.0 ** (levels / 20.0), 0.0).astype(np.float32)
    total = np.einsum("etks,etksd->etkd", amplitude[..., others], vectors[..., others, :])
    total /= np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)
    total += np.float32(model.own**0.5) * vectors[..., mix, :]
    vectors[..., mix, :] = total / np.linalg.norm(total, axis=-1, keepdims=True)
    vectors[..., :-1, :] *= present[..., None]
    power = np.square(amplitude[..., others]).sum(axis=-1)
    levels[..., mix] = 10.0 * np.log10(np.maximum(power, 10.0 ** (_SILENT / 10.0)))
    levels = np.where(present, levels, np.float32(_SILENT))
    segments = tracks * each
    return Songs(
        vectors=vectors.reshape(experiments, segments, stems + 1, dim),
        levels=levels.reshape(experiments, segments, stems),
        present=present.reshape(experiments, segments, stems),
    )


def draw_members(model: SongModel, experiments: int, triplets: int, tracks: int, rng: np.random.Generator) -> IntArray:
    """Draw the segments of triplets: XAB first, then XYC.

    Args:
        model: How many segments a track has, and the share of XAB.
        experiments: Number of listening tests.
        triplets: Number of triplets in each.
        tracks: Number of tracks in each, at least 3.
        rng: Source of randomness.

    Returns:
        `(experiment, triplet, 3)` segments X, A and B. As in Inst-Sim-ABX, an XAB triplet and an XYC triplet have their
        reference in common, as far as there are both.
    """
    each, n_xab = model.segments_per_track, round(model.xab_share * triplets)
    rows = (experiments, triplets)
    track, place = rng.integers(tracks, size=rows), rng.integers(each, size=rows)
    both = min(n_xab, triplets - n_xab)
    track[:, n_xab : n_xab + both], place[:, n_xab : n_xab + both] = track[:, :both], place[:, :both]
    is_xyc = np.arange(triplets) >= n_xab
    second = np.where(is_xyc, track, (track + 1 + rng.integers(tracks - 1, size=rows)) % tracks)
    other_place = (place + 1 + rng.integers(each - 1, size=rows)) % each  # another segment of the same track
    second_place = np.where(is_xyc, other_place, rng.integers(each, size=rows))
    # The third track is one of those left: skip the lower of the two, then the higher.
    third = np.where(is_xyc, rng.integers(tracks - 1, size=rows), rng.integers(tracks - 2, size=rows))
    third += third >= np.minimum(track, second)
    third += (third >= np.maximum(track, second)) & ~is_xyc
    pieces = [track * each + place, second * each + second_place, third * each + rng.integers(each, size=rows)]
    return np.stack(pieces, axis=-1)


def draw(model: SongModel, experiments: int, triplets: int, rng: np.random.Generator) -> Drawn:
    """Draw songs and triplets of many simulated listening tests.

    Args:
        model: How songs vary.
        experiments: Number of listening tests.
        triplets: Number of triplets in each.
        rng: Source of randomness.

    Returns:
        Cosines, levels and tracks; the embeddings are not kept, and memory is bounded.
    """
    tracks = model.tracks(triplets)
    one = tracks * model.segments_per_track * (len(model.stems) + 1) * model.dim
    piece = max(1, _ELEMENTS_AT_ONCE // one)
    parts = []
    for start in range(0, experiments, piece):
        count = min(piece, experiments - start)
        songs = draw_songs(model, count, tracks, rng)
        parts.append(compare(songs, draw_members(model, count, triplets, tracks, rng), model.segments_per_track))
    cosines, levels, members, of_tracks = (
        np.concatenate(pieces)
        for pieces in zip(*((part.cosines, part.levels, part.members, part.tracks) for part in parts), strict=True)
    )
    return Drawn(cosines, levels, members, of_tracks)


def compare(songs: Songs, members: IntArray, segments_per_track: int) -> Drawn:
    """Compare the segments of triplets.

    Args:
        songs: Songs of some listening tests.
        members: `(experiment, triplet, 3)` their segments X, A and B.
        segments_per_track: Number of segments in each track.

    Returns:
        Cosines, levels and tracks.
    """
    experiment = np.arange(len(members))[:, None]
    reference = songs.vectors[experiment, members[..., 0]]
    cosines = np.stack(
        [
            np.einsum("ensd,ensd->ens", reference, songs.vectors[experiment, members[..., role]], dtype=np.float32)
            for role in (1, 2)
        ],
        axis=2,
    )
    levels = songs.levels[experiment, members[..., 0]]
    return Drawn(cosines.astype(np.float64), levels.astype(np.float64), members, members // segments_per_track)
