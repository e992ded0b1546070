"""Listeners of a test, compared by their answers alone; no audio is needed."""

from dataclasses import dataclass

import numpy as np

from stemsim.errors import TripletError
from stemsim.evaluation.agreement import Share, answer_credit, answer_share, ceiling
from stemsim.triplets.answers import Answers
from stemsim.triplets.table import QUESTIONS


@dataclass(frozen=True, slots=True)
class QuestionSummary:
    """Answers to one question."""

    question: str
    answers: int
    agreement: Share | None  # with the majority of the other listeners on each triplet; None where nobody else answered
    chose_first: Share  # share of answers for the candidate presented first
    sure: float | None  # share of answers that were sure; None where they are not graded


@dataclass(frozen=True, slots=True)
class ListenerSummary:
    """Answers of one listener on overall similarity. Intervals are over other triplets."""

    listener: str
    answers: int
    agreement: Share | None  # with the majority of the other listeners; None where nobody else answered
    chose_first: Share
    consistency: Share | None  # share of repeated questions that were answered alike; None without repeats
    seconds: float | None  # median time of an answer; None where it is unknown


def answer_times(answers: Answers) -> tuple[float, float, float] | None:
    """Return the quartiles of the times of all answers in seconds; None where no time is known."""
    known = answers.seconds[~np.isnan(answers.seconds)]
    if not len(known):
        return None
    lower, median, upper = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    return lower, median, upper


def compare_questions(answers: Answers) -> tuple[QuestionSummary, ...]:
    """Return how far listeners agree on each question that they were asked."""
    found = []
    for question in QUESTIONS:
        about = answers.about(question)
        if len(about):
            first = answer_share(about.chose_first, about.triplet, about.subject)
            agreement = ceiling(about.choices[:, 0], about.triplet, about.subject)
            sure = float(about.sure[:, 0].mean()) if about.graded else None
            found.append(QuestionSummary(question, len(about), agreement, first, sure))
    return tuple(found)


def compare_listeners(answers: Answers) -> tuple[ListenerSummary, ...]:
    """Return how far each listener agrees with the others and with themselves, overall; by falling agreement.

    Raises:
        TripletError: If listeners have no names.
    """
    if not answers.named:
        raise TripletError(
            f"Not every answer in {answers.source} says who gave it, so listeners cannot be compared. Add the column "
            "`listener`."
        )
    about = answers.about("overall")
    credit = answer_credit(about.choices[:, 0], about.triplet)
    compared = ~np.isnan(credit)
    found = []
    for name in np.unique(about.subject).tolist():
        rows = about.subject == name
        both = rows & compared
        again = [one for one in about.repeats if one.subject == name]
        asked = np.array([one.triplet for one in again])
        known = about.seconds[rows & ~np.isnan(about.seconds)]
        found.append(
            ListenerSummary(
                listener=name,
                answers=int(rows.sum()),
                agreement=answer_share(credit[both], about.triplet[both], about.triplet[both]) if both.any() else None,
                chose_first=answer_share(about.chose_first[rows], about.triplet[rows], about.triplet[rows]),
                consistency=answer_share(np.array([one.same for one in again]), asked, asked) if again else None,
                seconds=float(np.median(known)) if len(known) else None,
            )
        )
    return tuple(sorted(found, key=lambda one: 1.0 if one.agreement is None else -one.agreement.value))
