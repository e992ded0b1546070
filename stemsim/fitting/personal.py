"""Personal weights: those of a model, moved towards what one listener's votes say, as a model of its own."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from sklearn.model_selection import GroupKFold

from stemsim.errors import ConfigError, TripletError
from stemsim.evaluation.agreement import Share, agreement_credit, answer_share
from stemsim.evaluation.clusters import cluster_robust_variance, interval_reach
from stemsim.fitting.listener import SPREAD, Posterior, WeightPrior, fit_listener, learn_spread
from stemsim.model import ReportedAgreement, StemSimilarity
from stemsim.triplets import EmbeddedTriplets
from stemsim.triplets.answers import Answers
from stemsim.triplets.table import BoolArray, ChoiceArray, FloatArray, IntArray, StrArray

FEWEST_VOTES: Final = 20
"""Number of votes under which no agreement is told."""

_FOLDS: Final = 20
_FEWEST_LISTENERS: Final = 3  # to learn the spread between listeners from,
_FEWEST_OF_EACH: Final = 5  # and votes of each of them
_BINS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class ListenerVotes:
    """Votes with the stem features of the triplets that they are about."""

    deltas: FloatArray  # (vote, stem)
    choices: ChoiceArray  # (vote,) +1 = A, -1 = B
    triplet: IntArray  # (vote,) number of the triplet
    tracks: IntArray  # (vote, 3) numbers of the tracks of X, A and B
    listener: StrArray  # (vote,)
    at_random: BoolArray  # (vote,) True where the question was drawn at random

    @classmethod
    def of(cls, answers: Answers, model: StemSimilarity, *, question: str = "overall") -> "ListenerVotes":
        """Embed what listeners heard, and return their votes on whole recordings about one question.

        Raises:
            TripletError: If there are none.
        """
        about = answers.about(question)
        heard = (about.asked["instrument"] == "mix").to_numpy(bool)[about.triplet]
        if not heard.any():
            raise TripletError(
                f"{answers.source} has no votes on whole recordings (instrument mix) about {question}, which the "
                "weights are fitted to. Add votes, or choose another question or listener."
            )
        triplet = about.triplet[heard]
        embedded = EmbeddedTriplets.of(about.table, model.embedder)
        tracks = embedded.triplets.track_ids[triplet]
        deltas = embedded.deltas.numpy()[triplet]
        return cls(deltas, about.choices[heard, 0], triplet, tracks, about.subject[heard], about.at_random[heard])

    def __len__(self) -> int:
        return len(self.choices)

    def select(self, rows: BoolArray) -> "ListenerVotes":
        """Return some of the votes, by mask `(vote,)`."""
        names = ("deltas", "choices", "triplet", "tracks", "listener", "at_random")
        return ListenerVotes(*(getattr(self, name)[rows] for name in names))

    def by_listener(self, *, fewest: int = 1) -> dict[str, "ListenerVotes"]:
        """Return the votes of each listener who has at least so many."""
        names, counts = np.unique(self.listener, return_counts=True)
        return {str(name): self.select(self.listener == name) for name in names[counts >= fewest]}


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Votes that were predicted about equally surely, from fits to other votes."""

    votes: int
    predicted: float  # mean probability of the likelier candidate
    chosen: float  # share of the votes for it


@dataclass(frozen=True, slots=True)
class PersonalAgreement:
    """Share of the votes that are predicted by the prior weights, and by personal ones fitted to other triplets."""

    votes: int  # number of votes compared
    at_random: bool  # they are about questions drawn at random, as others were chosen as informative
    before: Share  # of the prior weights, with its 95 % interval
    after: Share  # of the personal weights
    gain: Share  # of the personal weights over the prior ones


@dataclass(frozen=True, slots=True, eq=False)
class PersonalWeights:
    """Weights of a listener around those of a model, and the evidence for them.

    Attributes:
        prior: Weight of each stem in the model.
        weights: Weight of each stem for the listener, on the scale of the model's weights.
        spread: Posterior standard deviation of each weight.
        scale: Log odds of a vote for A per unit of preference: P(A) = lapse / 2 + (1 - lapse) sigmoid(scale * p).
        lapse: Share of answers at random.
        votes: Number of votes.
        prior_spread: Departure of listeners from the model that was expected (`WeightPrior.around`).
        learned_from: Number of listeners whose votes this was learned from; 0: it is the usual one.
        agreement: Agreement before and after by cross-validation; None under `FEWEST_VOTES` votes.
        calibration: Predicted and observed shares of votes, by how sure the prediction was.
    """

    prior: dict[str, float]
    weights: dict[str, float]
    spread: dict[str, float]
    scale: float
    lapse: float
    votes: int
    prior_spread: float
    learned_from: int
    agreement: PersonalAgreement | None
    calibration: tuple[CalibrationBin, ...]

    @property
    def sentence(self) -> str:
        """The agreement in words."""
        if self.agreement is None:
            return f"{self.votes} votes are too few to tell whether these weights are yours: {FEWEST_VOTES} are needed."
        before, after, gain = self.agreement.before, self.agreement.after, self.agreement.gain
        verdict = "better" if gain.lower > 0.0 else "worse" if gain.upper < 0.0 else "not significantly different"
        which = ", those on random questions" if self.agreement.votes < self.votes else ""
        return (
            f"Agreement on {self.agreement.votes} votes held out{which}: {100 * before.value:.1f} % before, "
            f"{100 * after.value:.1f} % after ({100 * gain.value:+.1f} points, 95 % interval "
            f"[{100 * gain.lower:+.1f}, {100 * gain.upper:+.1f}]): {verdict}."
        )

    def model(self, prior: StemSimilarity, name: str) -> StemSimilarity:
        """Return the model with these weights, described in its card."""
        card = replace(
            prior.card,
            name=name,
            summary=f"Personal weights: those of {prior.card.name}, moved towards the votes of a listener.",
            fitted=(
                f"Posterior mean of a logistic model around {prior.card.name}, from {self.votes} votes; "
                f"prior spread {self.prior_spread:g}, "
                + (f"learned from {self.learned_from} listeners. " if self.learned_from else "as usual. ")
                + f"P(A) = {self.lapse / 2:g} + {1 - self.lapse:g} sigmoid({self.scale:.4g} x preference). "
                "Posterior standard deviations: "
                + ", ".join(f"{stem} {value:.3g}" for stem, value in self.spread.items())
                + "."
            ),
            measured_on=self.sentence,
            agreement=()
            if self.agreement is None
            else (
                ReportedAgreement("personal weights", round(100 * self.agreement.after.value, 1)),
                ReportedAgreement(prior.card.name, round(100 * self.agreement.before.value, 1)),
            ),
        )
        return StemSimilarity(prior.embedder, self.weights, card=card)


def linear_weights(model: StemSimilarity) -> dict[str, float]:
    """Return the weight of each stem, or raise `ConfigError` if the model is no weighted sum of cosines."""
    if model.card.fusion.name != "linear" or not any(model.weights.values()):
        raise ConfigError(
            f"Votes move the weights of a weighted sum, some of them not 0; {model.card.name!r} has the fusion "
            f"{model.card.fusion}. Name another model."
        )
    return model.weights


def personalize(
    votes: ListenerVotes, prior: dict[str, float], *, others: ListenerVotes | None = None, seed: int = 0
) -> PersonalWeights:
    """Fit the weights of a listener around those of a model.

    Args:
        votes: The votes of the listener; or of several, as if they were one.
        prior: Weight of each stem in the model.
        others: Votes of other listeners, to learn from how far listeners depart from the model.
        seed: Seed of the folds of the cross-validation.
    """
    weights = np.array(list(prior.values()))
    crowd = {} if others is None else others.by_listener(fewest=_FEWEST_OF_EACH)
    spread = SPREAD
    if learned := len(crowd) if len(crowd) >= _FEWEST_LISTENERS else 0:
        spread = learn_spread([one.deltas for one in crowd.values()], [one.choices for one in crowd.values()], weights)
    around = WeightPrior.around(weights, votes.deltas, spread=spread)
    fit = fit_listener(votes.deltas, votes.choices, around)
    scale = float(np.linalg.norm(fit.mean) / np.linalg.norm(weights))
    agreement, calibration = None, tuple[CalibrationBin, ...]()
    if len(votes) >= FEWEST_VOTES:
        predicted = _held_out(votes, around, seed)
        agreement, calibration = _agreement(votes, weights, predicted), _calibration(votes, predicted)
    return PersonalWeights(
        prior=prior,
        weights=dict(zip(prior, (fit.mean / scale).tolist(), strict=True)),
        spread=dict(zip(prior, (fit.spread / scale).tolist(), strict=True)),
        scale=scale,
        lapse=float(fit.lapse),
        votes=len(votes),
        prior_spread=spread,
        learned_from=learned,
        agreement=agreement,
        calibration=calibration,
    )


def _held_out(votes: ListenerVotes, prior: WeightPrior, seed: int) -> FloatArray:
    """Return P(A) of each vote, from the fit to the votes on other triplets; all folds at once."""
    groups = min(_FOLDS, len(np.unique(votes.triplet)))
    if groups < 2:  # noqa: PLR2004
        raise TripletError("Personal weights need votes on two triplets or more; got one. Add votes on others.")
    folds = list(GroupKFold(groups, shuffle=True, random_state=seed).split(votes.deltas, groups=votes.triplet))
    kept = np.zeros((groups, len(votes)), np.int64)
    for row, (train, _) in enumerate(folds):
        kept[row, train] = votes.choices[train]
    fits: Posterior = fit_listener(votes.deltas, kept, prior)
    chance = fits.probability(votes.deltas)
    predicted = np.empty(len(votes))
    for row, (_, test) in enumerate(folds):
        predicted[test] = chance[row, test]
    return predicted


def _agreement(votes: ListenerVotes, weights: FloatArray, predicted: FloatArray) -> PersonalAgreement:
    """Compare prior and personal weights on questions drawn at random, or on all where these are few."""
    before = agreement_credit(votes.deltas @ weights, votes.choices)
    after = agreement_credit(predicted - 0.5, votes.choices)
    rows = votes.at_random if votes.at_random.sum() >= FEWEST_VOTES else np.ones(len(votes), bool)
    some, own, prior = votes.select(rows), after[rows], before[rows]
    alone = len(np.unique(some.listener)) == 1  # then the interval is about other triplets, for this listener
    listeners = some.triplet if alone else some.listener
    difference = own - prior
    units = [some.tracks, *([] if alone else [np.unique(some.listener, return_inverse=True)[1][:, None]])]
    mean = float(difference.mean())
    variance = cluster_robust_variance((difference - mean)[:, None] / len(some), *units)[0]
    reach = interval_reach(0.95, min(len(np.unique(unit)) for unit in units)) * float(np.sqrt(variance))
    gain = Share(mean, max(-1.0, mean - reach), min(1.0, mean + reach))
    return PersonalAgreement(
        votes=len(some),
        at_random=bool(some.at_random.all()),
        before=answer_share(prior, some.triplet, listeners),
        after=answer_share(own, some.triplet, listeners),
        gain=gain,
    )


def _calibration(votes: ListenerVotes, predicted: FloatArray) -> tuple[CalibrationBin, ...]:
    """Return predicted and observed shares of votes for the likelier candidate."""
    sure = np.maximum(predicted, 1.0 - predicted)
    hit = (predicted > 0.5) == (votes.choices > 0)  # noqa: PLR2004
    bins = []
    for low, high in pairwise(_BINS):
        some = (sure >= low) & ((sure < high) | (high == _BINS[-1]))
        if some.any():
            bins.append(CalibrationBin(int(some.sum()), float(sure[some].mean()), float(hit[some].mean())))
    return tuple(bins)
