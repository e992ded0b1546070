"""Agreement with listeners, and the human ceiling."""

import numpy as np
import numpy.typing as npt

from stemsim.errors import TripletError

__all__ = ["TIE", "agreement", "agreement_credit", "ceiling_credit", "human_ceiling"]

TIE = 0.5
"""Credit of a tie, wherever agreement is computed."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def agreement_credit(preference: FloatArray, majority: IntArray) -> FloatArray:
    """Score each triplet by agreement of a model with the listeners' majority choice.

    Args:
        preference: `(..., triplet)` predicted preference; its sign is the choice, 0 is a tie.
        majority: `(triplet,)` the majority choice, +1 = A or -1 = B.

    Returns:
        `(..., triplet)` 1 where the choices are equal, 0 where they differ, `TIE` where the model is neutral.
    """
    return TIE * (1.0 + np.sign(preference) * majority)


def agreement(preference: FloatArray, majority: IntArray, weight: FloatArray | None = None) -> float:
    """Return the share of triplets on which a model picks the listeners' majority choice.

    Args:
        preference: `(triplet,)` predicted preference; its sign is the choice, and a tie counts `TIE`.
        majority: `(triplet,)` the majority choice, +1 = A or -1 = B.
        weight: `(triplet,)` weight of each triplet, e.g. its number of votes; default: equal weights.

    Returns:
        Agreement in [0, 1].

    Raises:
        TripletError: If there are no triplets, or some have no majority.
    """
    if len(majority) == 0 or (majority == 0).any():
        msg = (
            f"Agreement needs triplets with a majority; got {len(majority)}, {int((majority == 0).sum())} of them "
            "tied. Filter the table first (Triplets.filter)."
        )
        raise TripletError(msg)
    return float(np.average(agreement_credit(preference, majority), weights=weight))


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
    """Return the share of answers that agree with the majority of the other listeners.

    This is the agreement that a listener reaches, a reference for that of a model.

    Args:
        votes: `(triplet, 2)` votes for A and for B.

    Returns:
        Mean over all answers, in [0, 1], a tie among the others counting `TIE`; NaN where no triplet has two votes.
    """
    credit, answers = ceiling_credit(votes)
    return float(credit.sum() / answers.sum()) if answers.sum() else float("nan")
