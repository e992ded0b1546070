"""The fusion against its formula, and what must hold of any preference to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.errors import ConfigError
from stemsim.fusion import Fusion, LinearFusion
from stemsim.similarity import StemEmbeddings, stem_cosines, stem_deltas
from stemsim.stems import STEMS

SEEDS = st.integers(0, 100_000)
LAYOUT = ("drums", "bass", "mix")


class CubicFusion(Fusion):
    """A nonlinear fusion: what the base class promises must not rest on linearity."""

    def __init__(self, stems):
        super().__init__(stems)
        self.scale = torch.nn.Parameter(torch.arange(1.0, len(stems) + 1, dtype=torch.float64))
        self.power = torch.nn.Parameter(torch.full((1,), 0.7, dtype=torch.float64))

    def fuse(self, pairs):
        return self.scale * pairs.cosines.abs() ** self.power * pairs.cosines


def embeddings(rng, batch=5, stems=7, dim=6):
    """Return random unit vectors, every fifth stem or so being silent."""
    vectors = torch.from_numpy(rng.normal(size=(batch, stems, dim))).float()
    present = torch.from_numpy(rng.random((batch, stems)) > 0.2)
    vectors = torch.nn.functional.normalize(vectors, dim=2) * present.unsqueeze(2)
    return StemEmbeddings(vectors, torch.from_numpy(rng.normal(size=(batch, stems))).float(), present)


def fusion_of(kind, rng):
    if kind == "cubic":
        return CubicFusion(STEMS)
    fusion = LinearFusion(STEMS, nonnegative=kind == "nonnegative")
    fusion.start_from(torch.from_numpy(rng.random(7) if kind == "nonnegative" else rng.normal(size=7)))
    return fusion


KINDS = st.sampled_from(["free", "nonnegative", "cubic"])


@given(SEEDS, KINDS, st.integers(1, 40), st.integers(1, 33))
@settings(max_examples=60, deadline=None)
def test_swapping_candidates_flips_the_preference_to_the_last_bit(seed, kind, batch, dim):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng, batch, dim=dim) for _ in range(3))
    fusion = fusion_of(kind, rng)
    with torch.no_grad():
        preference = fusion.preference(x, a, b)
        assert torch.equal(preference, -fusion.preference(x, b, a))
        assert torch.equal(stem_deltas(x, a, b), -stem_deltas(x, b, a))
    assert preference.shape == (batch,)
    assert preference.dtype == torch.float64


@given(SEEDS, KINDS)
@settings(max_examples=30, deadline=None)
def test_identical_candidates_are_exactly_neutral(seed, kind):
    rng = np.random.default_rng(seed)
    x, a = embeddings(rng), embeddings(rng)
    copy = StemEmbeddings(*(tensor.clone() for tensor in a))
    with torch.no_grad():
        assert (fusion_of(kind, rng).preference(x, a, copy) == 0).all()


@given(SEEDS, KINDS)
@settings(max_examples=30, deadline=None)
def test_a_preference_is_the_sum_of_the_differences_of_the_contributions(seed, kind):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng) for _ in range(3))
    fusion = fusion_of(kind, rng)
    with torch.no_grad():
        difference = fusion.contributions(x, a) - fusion.contributions(x, b)
        torch.testing.assert_close(fusion.preference(x, a, b), difference.sum(dim=1), atol=1e-12, rtol=0)
        torch.testing.assert_close(fusion(x, a), fusion.contributions(x, a).sum(dim=1), atol=1e-12, rtol=0)


@given(SEEDS, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_linear_preference_is_that_of_a_loop_over_stems_and_components(seed, nonnegative):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng) for _ in range(3))
    fusion = fusion_of("nonnegative" if nonnegative else "free", rng)
    weights = fusion.weight.tolist()
    with torch.no_grad():
        preference = fusion.preference(x, a, b)
    torch.testing.assert_close(preference, stem_deltas(x, a, b) @ fusion.weight.detach(), atol=1e-12, rtol=0)
    for row in range(5):
        expected = 0.0
        for stem, weight in enumerate(weights):
            reference, first, second = (batch.vectors[row, stem].tolist() for batch in (x, a, b))
            for r, f, s in zip(reference, first, second, strict=True):
                expected += weight * (r * f - r * s)
        assert preference[row].item() == pytest.approx(expected, abs=1e-12)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_cosines_are_zero_where_a_stem_is_silent_in_either_segment(seed):
    rng = np.random.default_rng(seed)
    x, a = embeddings(rng, 8), embeddings(rng, 8)
    cosines = stem_cosines(x, a)
    both = x.present & a.present
    assert (cosines[~both] == 0).all()
    assert (cosines[both] != 0).all()
    assert (cosines.abs() <= 1 + 1e-6).all()
    assert torch.equal(cosines, stem_cosines(a, x))
    own = stem_cosines(x, x)
    torch.testing.assert_close(own, x.present.double(), atol=1e-6, rtol=0)


def test_rows_do_not_depend_on_the_batch_they_come_in():
    rng = np.random.default_rng(4)
    x, a, b = (embeddings(rng, 50) for _ in range(3))
    fusion = fusion_of("free", rng)
    rows = torch.tensor([7, 3, 3, 49])
    with torch.no_grad():
        alone = fusion.preference(x.take(rows), a.take(rows), b.take(rows))
        torch.testing.assert_close(alone, fusion.preference(x, a, b)[rows], atol=1e-13, rtol=0)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_weights_set_are_weights_read(nonnegative):
    weights = torch.tensor([0.0, 1e-9, 123.4], dtype=torch.float64)
    fusion = LinearFusion(LAYOUT, nonnegative=nonnegative)
    assert fusion.weight.tolist() == [float(nonnegative)] * 3, "the start: zeros, or ones where zeros are a trap"
    fusion.start_from(weights)
    torch.testing.assert_close(fusion.weight.detach(), weights, atol=0, rtol=1e-15)
    copy = LinearFusion(LAYOUT, nonnegative=nonnegative)
    copy.load_state_dict(fusion.state_dict())
    assert torch.equal(copy.weight, fusion.weight)


def test_free_weights_may_be_negative_and_are_not_tied_to_the_tensor_they_came_from():
    weights = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    fusion = LinearFusion(LAYOUT)
    fusion.start_from(weights)
    weights[0] = 9.0
    assert fusion.weight.tolist() == [-1.0, 0.0, 2.0]


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_nonnegative_weights_stay_so_while_the_loss_pulls_them_below_zero(seed):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng, 30) for _ in range(3))
    fusion = LinearFusion(STEMS, nonnegative=True)
    target = stem_deltas(x, a, b) @ torch.linspace(-3, 3, 7, dtype=torch.float64)  # three weights below zero
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.3)
    first = None
    for _ in range(40):
        optimizer.zero_grad()
        loss = (fusion.preference(x, a, b) - target).square().mean()
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
        assert (fusion.weight >= 0).all()
    assert loss.item() < first


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_penalty_is_the_sum_of_squared_weights_and_so_is_its_gradient(nonnegative):
    fusion = LinearFusion(LAYOUT, nonnegative=nonnegative)
    fusion.start_from(torch.tensor([1.0, 2.0, 0.5]))
    penalty = fusion.penalty()
    assert penalty.item() == pytest.approx(5.25)
    penalty.backward()
    (parameter,) = fusion.parameters()
    # d/dw w^2 = 2 w; with w = v^2, d/dv v^4 = 4 v^3
    expected = [4.0, 4 * 2**1.5, 4 * 0.5**1.5] if nonnegative else [2.0, 4.0, 1.0]
    assert parameter.grad.tolist() == pytest.approx(expected)


def test_the_penalty_of_any_other_fusion_is_that_of_all_its_parameters():
    assert CubicFusion(LAYOUT).penalty().item() == pytest.approx(1 + 4 + 9 + 0.49)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(
    "weights",
    [torch.ones(1), torch.ones(2), torch.ones(3, 1), torch.tensor(1.0), torch.tensor([1.0, torch.nan, 1.0])],
)
def test_weights_that_do_not_fit_the_stems_are_refused_and_change_nothing(weights, nonnegative):
    fusion = LinearFusion(LAYOUT, nonnegative=nonnegative)
    before = fusion.weight.detach().clone()
    with pytest.raises(ConfigError, match="drums, bass, mix"):
        fusion.start_from(weights)
    assert torch.equal(fusion.weight, before)


def test_a_negative_weight_is_refused_where_none_may_be():
    with pytest.raises(ConfigError, match=r"nonnegative.*-1"):
        LinearFusion(LAYOUT, nonnegative=True).start_from(torch.tensor([1.0, -1.0, 1.0]))


@given(SEEDS, KINDS)
@settings(max_examples=10, deadline=None)
def test_comparing_mutates_neither_embeddings_nor_weights(seed, kind):
    rng = np.random.default_rng(seed)
    batches = [embeddings(rng) for _ in range(3)]
    fusion = fusion_of(kind, rng)
    before = [tensor.clone() for batch in batches for tensor in batch] + [
        p.detach().clone() for p in fusion.parameters()
    ]
    with torch.no_grad():
        fusion.preference(*batches)
        stem_deltas(*batches)
        fusion.penalty()
    after = [tensor for batch in batches for tensor in batch] + list(fusion.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
