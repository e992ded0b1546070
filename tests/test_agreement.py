"""Agreement and the human ceiling against loops over triplets and answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.errors import TripletError
from stemsim.evaluation import TIE, agreement, agreement_credit, ceiling_credit, human_ceiling

VOTES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)
JUDGED = st.lists(
    st.tuples(st.sampled_from([-2.0, -1e-300, 0.0, -0.0, 1e-300, 0.3]), st.sampled_from([-1, 1])), min_size=1
)


def loop_over_answers(for_a, for_b):
    """Return what every single answer on a triplet earns against the other ones."""
    answers = ["A"] * for_a + ["B"] * for_b
    if len(answers) < 2:
        return []
    credits_ = []
    for index, answer in enumerate(answers):
        others = answers[:index] + answers[index + 1 :]
        same, different = others.count(answer), len(others) - others.count(answer)
        credits_.append(1.0 if same > different else TIE if same == different else 0.0)
    return credits_


@given(VOTES)
@settings(max_examples=200, deadline=None)
def test_ceiling_is_that_of_a_loop_over_answers(votes):
    table = np.array(votes, dtype=np.int64).reshape(-1, 2)
    earned = [loop_over_answers(*row) for row in votes]
    credit, answers = ceiling_credit(table)
    np.testing.assert_array_equal(credit, [sum(row) for row in earned])
    np.testing.assert_array_equal(answers, [len(row) for row in earned])
    every = [value for row in earned for value in row]
    np.testing.assert_allclose(human_ceiling(table), np.mean(every) if every else np.nan, rtol=1e-14)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([[0, 0]], np.nan),
        ([[1, 0]], np.nan),
        ([[0, 1], [0, 0]], np.nan),
        ([[2, 0]], 1.0),
        ([[1, 1]], 0.0),
        ([[2, 1]], 1 / 3),  # each of the two is tied by the others, the third is outvoted
        ([[2, 2]], 0.0),
        ([[4, 1]], 0.8),
        ([[3, 2]], 0.3),  # each of the three meets two against two
        ([[4, 1], [1, 0], [0, 0]], 0.8),  # those without two votes do not count
        ([[9, 0], [1, 1]], 9 / 11),  # answers count alike, triplets by their answers
    ],
)
def test_ceiling_of_known_votes(votes, expected):
    np.testing.assert_allclose(human_ceiling(np.array(votes)), expected)


@given(VOTES)
@settings(max_examples=50, deadline=None)
def test_ceiling_does_not_depend_on_which_candidate_is_called_a(votes):
    table = np.array(votes, dtype=np.int64).reshape(-1, 2)
    for one, other in zip(ceiling_credit(table), ceiling_credit(table[:, ::-1]), strict=True):
        np.testing.assert_array_equal(one, other)


@given(JUDGED)
@settings(max_examples=100, deadline=None)
def test_agreement_is_that_of_a_loop_over_triplets(judged):
    preference, majority = (np.array(column) for column in zip(*judged, strict=True))
    credits_ = []
    for predicted, wanted in judged:
        if predicted == 0:
            credits_.append(0.5)
        else:
            credits_.append(float((predicted > 0) == (wanted > 0)))
    np.testing.assert_array_equal(agreement_credit(preference, majority), credits_)
    assert agreement(preference, majority) == pytest.approx(np.mean(credits_))
    weight = np.arange(1.0, len(judged) + 1)
    loop = sum(w * c for w, c in zip(weight, credits_, strict=True)) / sum(weight)
    assert agreement(preference, majority, weight) == pytest.approx(loop)
    assert agreement(-preference, majority, weight) == pytest.approx(1 - loop)


def test_agreement_counts_a_tie_half_and_weighs_as_told():
    majority = np.array([1, -1, 1, 1])
    preference = np.array([0.2, -3.0, -0.1, 0.0])
    assert agreement(preference, majority) == pytest.approx(2.5 / 4)
    assert agreement(preference, majority, np.array([1.0, 1, 6, 2])) == pytest.approx(0.3)
    assert agreement(preference, majority, np.array([0.0, 0, 0, 2])) == pytest.approx(TIE)


def test_credits_of_many_models_are_those_of_each():
    rng = np.random.default_rng(0)
    preference, majority = rng.normal(size=(3, 4, 9)), rng.choice([-1, 1], 9)
    credit = agreement_credit(preference, majority)
    assert credit.shape == (3, 4, 9)
    for place in np.ndindex(3, 4):
        np.testing.assert_array_equal(credit[place], agreement_credit(preference[place], majority))


def test_agreement_without_triplets_or_with_tied_ones_is_an_error():
    with pytest.raises(TripletError, match="got 0, 0 of them tied"):
        agreement(np.array([]), np.array([], dtype=np.int64))
    with pytest.raises(TripletError, match="got 3, 2 of them tied"):
        agreement(np.ones(3), np.array([0, 1, 0]))
