"""The losses: formulas against slow ones, derivatives against autograd, and what they promise about votes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.errors import ConfigError
from stemsim.losses import Logistic, SquaredError, SquaredHinge

LOSSES = (SquaredError(), Logistic(), SquaredHinge())
PREFERENCES = st.floats(-30.0, 30.0)
TARGETS = st.floats(-1.0, 1.0)
SLOW = {
    "SquaredError": lambda p, t: (p - t) ** 2,
    "Logistic": lambda p, t: (1 + t) / 2 * math.log1p(math.exp(-p)) + (1 - t) / 2 * math.log1p(math.exp(p)),
    "SquaredHinge": lambda p, t: (1 + t) / 2 * max(0.0, 1 - p) ** 2 + (1 - t) / 2 * max(0.0, 1 + p) ** 2,
}


def tensors(*values):
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)


def name_of(loss):
    return type(loss).__name__


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@given(PREFERENCES, TARGETS)
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_the_formula(loss, preference, target):
    found = loss.terms(*tensors(preference, target)).value.item()
    assert found == pytest.approx(SLOW[name_of(loss)](preference, target), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@given(PREFERENCES, TARGETS)
@settings(max_examples=60, deadline=None)
def test_slope_and_curvature_are_those_of_autograd(loss, preference, target):
    p, t = tensors(preference, target)
    p.requires_grad_(requires_grad=True)
    terms = loss.terms(p, t)
    (slope,) = torch.autograd.grad(terms.value.sum(), p)
    torch.testing.assert_close(terms.slope.detach(), slope, atol=1e-12, rtol=1e-9)
    step = 1e-4
    if abs(abs(preference) - 1.0) > step:  # the squared hinge has no curvature at its corners
        above, below = (loss.terms(*tensors(preference + sign * step, target)).slope for sign in (1, -1))
        torch.testing.assert_close(terms.curvature.detach(), (above - below) / (2 * step), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@given(st.lists(st.tuples(PREFERENCES, TARGETS, st.floats(0.1, 9.0)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_swapping_a_and_b_changes_no_bit(loss, rows):
    preference, target, weight = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    assert torch.equal(loss(preference, target, weight), loss(-preference, -target, weight))
    there, back = loss.terms(preference, target), loss.terms(-preference, -target)
    assert torch.equal(there.slope, -back.slope)
    assert torch.equal(there.curvature, back.curvature)


@pytest.mark.parametrize("loss", [Logistic(), SquaredHinge()], ids=name_of)
@given(PREFERENCES, st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_the_loss_of_a_share_is_the_mean_loss_of_its_votes(loss, preference, for_a, for_b):
    if for_a + for_b == 0:
        return
    votes = torch.tensor([1.0] * for_a + [-1.0] * for_b, dtype=torch.float64)
    one_by_one = loss.terms(torch.full_like(votes, preference), votes).value.mean().item()
    shared = loss.terms(*tensors(preference, (for_a - for_b) / (for_a + for_b))).value.item()
    assert shared == pytest.approx(one_by_one, rel=1e-9, abs=1e-12)


@given(st.floats(-1.0, 1.0), TARGETS)
@settings(max_examples=40, deadline=None)
def test_within_the_margin_the_squared_hinge_is_the_squared_error_up_to_a_constant(preference, target):
    hinge, square = (loss.terms(*tensors(preference, target)).value.item() for loss in (SquaredHinge(), SquaredError()))
    assert hinge - square == pytest.approx(1.0 - target**2, abs=1e-12)


def test_beyond_the_margin_only_dissenting_votes_cost_anything():
    loss = SquaredHinge()
    assert loss.terms(*tensors(3.0, 1.0)).value.item() == 0.0
    assert loss.terms(*tensors(3.0, 0.5)).value.item() == pytest.approx(0.25 * 16.0)


def test_forward_is_the_weighted_mean():
    rng = np.random.default_rng(0)
    preference, target, weight = rng.normal(size=20), rng.uniform(-1, 1, 20), rng.uniform(0, 3, 20)
    for loss in LOSSES:
        expected = np.average(
            [SLOW[name_of(loss)](p, t) for p, t in zip(preference, target, strict=True)], weights=weight
        )
        found = loss(*(torch.from_numpy(column) for column in (preference, target, weight)))
        assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_preferences_of_any_size_give_finite_losses_and_gradients(loss):
    preference = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=torch.float64, requires_grad=True)
    loss(preference, torch.ones(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)).backward()
    assert torch.isfinite(preference.grad).all()


def test_shapes_that_would_broadcast_are_refused():
    column = torch.zeros(4, 1)
    with pytest.raises(ConfigError, match=r"one shape .*\(4, 1\)"):
        Logistic()(column, torch.zeros(4), torch.ones(4))
