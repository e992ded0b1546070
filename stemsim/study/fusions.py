"""When a nonlinear fusion truly beats the linear one.

In each experiment, a fusion and ridge are fitted to the train parts of the same stratified splits and compared as in
any cross-validation: by the corrected resampled t-test on held-out agreement. Three kinds of listeners vote:

| truth | what a stem makes them feel |
|---|---|
| linear | its cosine: here a fusion can win nothing, and should lose nothing |
| saturating | whether it is alike or not |
| loudness | its cosine, times its share of the power of X |

*Power* is the share of experiments in which the test says that the fusion agrees more often.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import t as student_t
from torch import Tensor

from stemsim.audio import Segment
from stemsim.evaluation.comparison import compare_fits
from stemsim.evaluation.crossval import Challenger, cross_validate
from stemsim.evaluation.study.coverage import coverage_interval
from stemsim.evaluation.study.listeners import TRUTHS, Scale, Truth, felt, hear
from stemsim.evaluation.study.settings import WORKERS, StudySettings
from stemsim.evaluation.study.songs import compare, draw_members, draw_songs
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.triplets import PERSPECTIVES, Triplets

__all__ = ["ListeningTest", "MakeChallenger", "draw_listening_test", "fusion_gains"]

FloatArray = npt.NDArray[np.float64]

_SECONDS: Final = 5.0  # of a segment


@dataclass(frozen=True, slots=True, eq=False)
class ListeningTest:
    """One simulated listening test.

    Attributes:
        embeddings: Stem embeddings of all segments.
        triplets: What listeners were asked, and how they voted.
        members: `(triplet, 3)` segments X, A and B.
    """

    embeddings: StemEmbeddings
    triplets: Triplets
    members: Tensor

    @property
    def deltas(self) -> Tensor:
        """`(triplet, stem)` stem features."""
        x, a, b = (self.embeddings.take(rows) for rows in self.members.T)
        return stem_deltas(x, a, b)


MakeChallenger = Callable[[ListeningTest], Challenger]
"""Makes what fits a fusion to the train parts of all splits of a listening test."""


def draw_listening_test(
    settings: StudySettings, truth: Truth, scale: Scale, count: int, rng: np.random.Generator
) -> ListeningTest:
    """Draw songs, true weights and the votes of one listening test.

    Args:
        settings: How songs vary and listeners differ; the numbers of votes and the noise are those that are held.
        truth: What a stem makes listeners feel.
        scale: What they feel over all triplets that there could be.
        count: Number of triplets.
        rng: Source of randomness.

    Returns:
        Embeddings and triplets.
    """
    songs, stems = settings.songs, settings.songs.stems
    tracks, each = songs.tracks(count), songs.segments_per_track
    drawn = draw_songs(songs, 1, tracks, rng)
    members = draw_members(songs, 1, count, tracks, rng)
    features = felt(compare(drawn, members, each), truth, stems)
    weights = settings.paper_weights * np.exp(settings.prior_spread * rng.standard_normal((1, len(stems))))
    hearing = hear(features, weights, scale, settings.listeners, settings.reference[1], rng)
    rows = members[0]
    triplets = Triplets(
        segments=tuple(
            Segment(Path(f"song{track}.wav"), _SECONDS * place, _SECONDS)
            for track in range(tracks)
            for place in range(each)
        ),
        tracks=tuple(f"song{track}" for track in range(tracks) for _ in range(each)),
        x=rows[:, 0],
        a=rows[:, 1],
        b=rows[:, 2],
        test_type=np.where(rows[:, 0] // each == rows[:, 1] // each, "XYC", "XAB"),
        instrument=np.full(count, "mix"),
        votes=hearing.votes(settings.listeners.noise, settings.reference[1])[0],
        perspective_votes=np.zeros((count, len(PERSPECTIVES), 2), np.int64),
        source=f"simulated listeners, {truth}",
        true_weights=dict(zip(stems, weights[0].tolist(), strict=True)),
    )
    embeddings = StemEmbeddings(
        torch.from_numpy(drawn.vectors[0, :, :-1]),
        torch.from_numpy(drawn.levels[0]),
        torch.from_numpy(drawn.present[0]),
    )
    return ListeningTest(embeddings, triplets, torch.from_numpy(rows))


def fusion_gains(
    settings: StudySettings,
    scales: Mapping[Truth, Scale],
    challengers: Mapping[str, MakeChallenger],
    advance: Callable[[int], None],
) -> pd.DataFrame:
    """Compare fusions with ridge, for every truth and number of triplets.

    Args:
        settings: How many triplets, experiments and splits.
        scales: What is felt under each truth.
        challengers: Fusions by name; each fits under that name.
        advance: Told the number of triplets done.

    Returns:
        One row for each truth, number of triplets and fusion: mean gain in held-out agreement and its 95 % interval
        over the experiments, and the shares of experiments in which the paired test finds the fusion better, with its
        binomial interval, and worse.
    """

    def compare_all(place: tuple[Truth, int]) -> list[dict[str, Any]]:
        truth, count = place
        rng = settings.generator(f"fusion, {truth}", count)
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in challengers}
        for number in range(settings.fusion_experiments):
            test = draw_listening_test(settings, truth, scales[truth], count, rng)
            for name, outcome in _outcomes(settings, test, challengers, number).items():
                found[name].append(outcome)
            advance(count)
        row = {"truth": truth, "triplets": count}
        return [row | {"fusion": name} | _summary(outcomes) for name, outcomes in found.items()]

    places = [(truth, count) for truth in TRUTHS for count in settings.fusion_triplets]
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(compare_all, places))
    return pd.DataFrame([row for part in parts for row in part])


def _outcomes(
    settings: StudySettings, test: ListeningTest, challengers: Mapping[str, MakeChallenger], number: int
) -> dict[str, tuple[float, int]]:
    """Return the gain of each fusion, and +1, -1 or 0 for better, worse or not told apart."""
    deltas = test.deltas
    result = cross_validate(
        deltas,
        test.triplets,
        settings.songs.stems,
        count=settings.fusion_splits,
        seed=settings.seed + number,
        challengers=[make(test) for make in challengers.values()],
    )
    outcomes = {}
    for name in challengers:
        comparison = compare_fits(result, (name, "ridge"), deltas, test.triplets)
        gain = comparison.difference.mean
        outcomes[name] = (gain, int(np.sign(gain)) if comparison.told_apart else 0)
    return outcomes


def _summary(outcomes: list[tuple[float, int]]) -> dict[str, Any]:
    """Return mean gain and power over the experiments."""
    gains, verdicts = np.array([gain for gain, _ in outcomes]), np.array([verdict for _, verdict in outcomes])
    count = len(gains)
    reach = float(student_t.ppf(0.975, count - 1)) * float(gains.std(ddof=1)) / count**0.5
    lower, upper = coverage_interval((verdicts > 0)[:, None])
    return {
        "experiments": count,
        "gain": float(gains.mean()),
        "lower": float(gains.mean()) - reach,
        "upper": float(gains.mean()) + reach,
        "better": float((verdicts > 0).mean()),
        "better_lower": lower,
        "better_upper": upper,
        "worse": float((verdicts < 0).mean()),
    }
