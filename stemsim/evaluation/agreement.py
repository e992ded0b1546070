"""Agreement with listeners, the human ceiling with its interval, and the share of it that a model reaches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import betaincinv, expit, logit

from stemsim.errors import TripletError
from stemsim.evaluation.clusters import cluster_robust_variance, interval_reach
from stemsim.triplets.table import BoolArray, ChoiceArray, FloatArray, IntArray, StrArray

if TYPE_CHECKING:
    from stemsim.evaluation.crossval import CrossValidation, ModelScores  # imports torch, not needed for counting

TIE = 0.5
"""Credit of a tie, wherever agreement is computed."""


def agreement_credit(preference: FloatArray, majority: ChoiceArray) -> FloatArray:
    """Score each triplet by agreement of a model with the listeners' majority choice.

    Args:
        preference: `(..., triplet)` predicted preference; its sign is the choice, 0 is a tie.
        majority: `(triplet,)` the majority choice, +1 = A or -1 = B.

    Returns:
        `(..., triplet)` 1 where the choices are equal, 0 where they differ, `TIE` where the model is neutral.
    """
    credit: FloatArray = TIE * (1.0 + np.sign(preference) * majority)
    return credit


def agreement(preference: FloatArray, majority: IntArray) -> float:
    """Return the share of triplets, in [0, 1], on which a model picks the listeners' majority choice.

    Args:
        preference: `(triplet,)` predicted preference, see `agreement_credit`.
        majority: `(triplet,)` the majority choice.

    Raises:
        TripletError: If there are no triplets, or some have no majority.
    """
    if len(majority) == 0 or (majority == 0).any():
        raise TripletError(
            f"Agreement needs triplets with a majority; got {len(majority)}, {int((majority == 0).sum())} of them "
            "tied. Filter the table first (Triplets.filter)."
        )
    return float(agreement_credit(preference, majority).mean())


def ceiling_credit(votes: IntArray) -> tuple[FloatArray, FloatArray]:
    """Compare each answer with the majority of the other answers on its triplet.

    Args:
        votes: `(triplet, 2)` votes for A and for B.

    Returns:
        Two arrays `(triplet,)`: the sum of the answers' credits (1 for agreement with the others, `TIE` where the
        others are tied), and the number of answers compared; both 0 where fewer than two listeners voted.
    """
    lead = votes - votes[:, ::-1]  # (triplet, 2): of A over B, and of B over A
    credit = TIE * (1.0 + np.sign(lead - 1))  # the answer itself is taken out of its own side
    compared = votes.sum(axis=1) >= 2  # noqa: PLR2004 - an answer and another one
    return np.where(compared, (votes * credit).sum(axis=1), 0.0), np.where(compared, votes.sum(axis=1), 0.0)


def human_ceiling(votes: IntArray) -> float:
    """Return the share of answers, in [0, 1], that agree with the majority of the other listeners.

    This is the agreement that a listener reaches, a reference for that of a model; see `ceiling_credit`. NaN where no
    triplet has two votes.
    """
    credit, answers = ceiling_credit(votes)
    return float(credit.sum() / answers.sum()) if answers.sum() else float("nan")


class Share(NamedTuple):
    """A share of some answers, in [0, 1], and the ends of its interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class CeilingShare:
    """Agreement of a model over that of the listeners, on the same test parts."""

    agreement: float  # mean test agreement of the model
    ceiling: float  # mean test agreement of one answer with the majority of the others
    share: float  # ratio of the two; above 1 where a model agrees with the majority more often than one listener
    lower: float  # lower end of the interval of the share over other tracks; likewise `upper`
    upper: float
    level: float  # nominal coverage of the interval
    simulated: bool = False

    @property
    def sentence(self) -> str:
        """The result in words."""
        place = "below" if self.upper < 1.0 else "above" if self.lower > 1.0 else "not significantly different from"
        return (
            f"Agreement {100 * self.agreement:.1f} % is {100 * self.share:.1f} % of the "
            f"{'simulated' if self.simulated else 'human'} ceiling of {100 * self.ceiling:.1f} % "
            f"({100 * self.level:g} % interval [{100 * self.lower:.1f}, {100 * self.upper:.1f}]): {place} it."
        )


def answer_credit(choice: ChoiceArray, triplet: IntArray) -> FloatArray:
    """Compare answers, +1 = A and -1 = B, with the majority of the others on their triplets, as `ceiling_credit` does.

    Returns:
        `(answer,)` 1 for agreement with the others, 0 for none, `TIE` where they are tied; NaN where there are none.
    """
    lead = np.bincount(triplet, weights=choice)[triplet] * choice  # of the answer's own side
    alone = np.bincount(triplet)[triplet] < 2  # noqa: PLR2004 - an answer and another one
    return np.where(alone, np.nan, TIE * (1.0 + np.sign(lead - 1.0)))


def ceiling(
    choice: ChoiceArray, triplet: IntArray, listener: StrArray | IntArray, *, level: float = 0.95
) -> Share | None:
    """Return the human ceiling of some answers, with its interval; None where no triplet has two answers.

    This is the mean agreement of an answer with the majority of the others; see `answer_credit`.

    Args:
        choice: `(answer,)` +1 = A, -1 = B.
        triplet: `(answer,)` number of the triplet.
        listener: `(answer,)` the listener.
        level: Nominal coverage of the interval.
    """
    credit = answer_credit(choice, triplet)
    compared = ~np.isnan(credit)
    if not compared.any():
        return None
    return answer_share(credit[compared], triplet[compared], listener[compared], level=level)


def answer_share(
    credit: FloatArray | BoolArray, triplet: IntArray, listener: StrArray | IntArray, *, level: float = 0.95
) -> Share:
    """Return the mean of the credits of some answers, one or more, in [0, 1], with its interval.

    The interval is cluster-robust: answers of one listener and answers to one triplet may be correlated in any way
    (`stemsim.evaluation.clusters`). It is symmetric on the scale of the log odds, which keeps it within [0, 1].

    Args:
        credit: `(answer,)` credit of each answer.
        triplet: `(answer,)` number of the triplet.
        listener: `(answer,)` the listener.
        level: Nominal coverage of the interval.
    """
    units = [np.unique(kind, return_inverse=True)[1].reshape(-1, 1) for kind in (listener, triplet)]
    listeners, triplets = (int(kind.max()) + 1 for kind in units)
    value = float(credit.mean())
    if value in (0.0, 1.0):  # nothing varies: the exact interval of that many triplets (Clopper and Pearson, 1934)
        edge = float(betaincinv(triplets, 1.0, 0.5 - 0.5 * level))
        return Share(value, *((edge, 1.0) if value == 1.0 else (0.0, 1.0 - edge)))
    error = float(np.sqrt(cluster_robust_variance((credit - value)[:, None] / len(credit), *units)[0]))
    if not np.isfinite(error):
        return Share(value, 0.0, 1.0)
    reach = interval_reach(level, min(listeners, triplets)) * error / (value * (1.0 - value))
    return Share(value, *expit(logit(value) + np.array([-reach, reach])).tolist())


def share_of_ceiling(result: "CrossValidation", model: "ModelScores", *, level: float = 0.95) -> CeilingShare | None:
    """Return a model's test agreement as a share of the human ceiling; None where no triplet has two answers.

    Both are means over the test parts, and so weighted sums over triplets; the interval of their ratio follows by the
    delta method and counts triplets that share tracks as correlated (`stemsim.evaluation.clusters`).
    """
    agreed, human = model.mean, result.ceiling.mean
    if not human > 0.0:  # NaN: no triplet has two answers
        return None
    triplets, test = result.embedded.triplets, result.splits.test
    earned, answers = ceiling_credit(triplets.votes)
    in_split = test / test.sum(axis=1, keepdims=True)
    of_model = (in_split * (model.credit - model.agreement[:, :1])).mean(axis=0)
    asked = test @ answers
    known = asked > 0
    part = result.ceiling.agreement[known, :1] * answers
    of_listeners = (test[known] * (earned - part) / asked[known, None]).mean(axis=0)
    share = agreed / human
    scores = (of_model - share * of_listeners)[:, None] / human
    error = float(np.sqrt(cluster_robust_variance(scores, triplets.track_ids)[0]))
    reach = interval_reach(level, len(np.unique(triplets.track_ids))) * error
    return CeilingShare(agreed, human, share, share - reach, share + reach, level, triplets.simulated)
