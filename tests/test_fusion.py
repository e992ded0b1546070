"""Fusions against their formulas, and what must hold of any preference to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.errors import ConfigError
from stemsim.fusion import AttentionFusion, Fusion, LinearFusion, LowRankFusion, MonotoneFusion, SplineFusion, StemPairs
from stemsim.similarity import StemEmbeddings, stem_cosines, stem_deltas
from stemsim.stems import STEMS

LAYOUT = ("drums", "bass", "mix")
SEEDS = st.integers(0, 100_000)


class CubicFusion(Fusion):
    """A fusion without stem weights: what the base class promises must not rest on them."""

    def __init__(self, stems):
        super().__init__(stems)
        self.scale = torch.nn.Parameter(torch.arange(1.0, len(stems) + 1, dtype=torch.float64))
        self.power = torch.nn.Parameter(torch.full((1,), 0.7, dtype=torch.float64))

    def fuse(self, pairs):
        return self.scale * pairs.cosines.abs() ** self.power * pairs.cosines


class PowerFusion(Fusion):
    """A fusion that contains no weighted sum."""

    def fuse(self, pairs):
        return pairs.cosines**3


NONLINEAR = {
    "spline": SplineFusion,
    "monotone": MonotoneFusion,
    "attention": AttentionFusion,
    "low_rank": LowRankFusion,
}
NONLINEAR_NAMES = st.sampled_from(sorted(NONLINEAR))
NAMES = st.sampled_from(["free", "nonnegative", "cubic", *NONLINEAR])


def embeddings(rng, batch=5, stems=7, dim=6):
    """Return random unit vectors, every fifth stem or so being silent."""
    vectors = torch.from_numpy(rng.normal(size=(batch, stems, dim)) + 0.5).float()
    present = torch.from_numpy(rng.random((batch, stems)) > 0.2)
    vectors = torch.nn.functional.normalize(vectors, dim=2) * present.unsqueeze(2)
    levels = torch.from_numpy(rng.normal(-30.0, 8.0, size=(batch, stems))).float()
    return StemEmbeddings(vectors, torch.where(present, levels, -torch.inf), present)


def copied(batch):
    return StemEmbeddings(*(tensor.clone() for tensor in batch))


def made(name, rng, dim=6, *, trained=True):
    """Return a fusion that has seen embeddings and, if `trained`, has left the linear one behind."""
    if name == "cubic":
        return CubicFusion(STEMS)
    if name in {"free", "nonnegative"}:
        fusion = LinearFusion(STEMS, nonnegative=name == "nonnegative")
        fusion.start_from(torch.from_numpy(rng.random(7) if fusion.nonnegative else rng.normal(size=7)))
        return fusion
    fusion = NONLINEAR[name](STEMS)
    fusion.observe(StemPairs.of(embeddings(rng, 30, dim=dim), embeddings(rng, 30, dim=dim)))
    fusion.start_from(torch.from_numpy(rng.normal(size=7)))
    if trained:
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.add_(0.7 * torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    return fusion


# ---------------------------------------------------------------- any fusion


@given(SEEDS, NAMES, st.integers(1, 40), st.integers(1, 33))
@settings(max_examples=80, deadline=None)
def test_swapping_flips_the_preference_to_the_last_bit_and_identical_candidates_give_0(seed, name, batch, dim):
    rng = np.random.default_rng(seed)
    fusion = made(name, rng, dim)
    x, a, b = (embeddings(rng, batch, dim=dim) for _ in range(3))
    with torch.no_grad():
        preference = fusion.preference(x, a, b)
        assert torch.equal(preference, -fusion.preference(x, b, a))
        assert torch.equal(stem_deltas(x, a, b), -stem_deltas(x, b, a))
        assert (fusion.preference(x, a, copied(a)) == 0.0).all()
    assert preference.shape == (batch,)
    assert preference.dtype == torch.float64
    assert preference.isfinite().all()


@given(SEEDS, NAMES)
@settings(max_examples=80, deadline=None)
def test_contributions_sum_to_the_similarity_and_silent_stems_add_exactly_0(seed, name):
    rng = np.random.default_rng(seed)
    fusion = made(name, rng)
    x, a, b = (embeddings(rng, 20) for _ in range(3))
    with torch.no_grad():
        contributions, similarity = fusion.contributions(x, a), fusion(x, a)
        difference = contributions - fusion.contributions(x, b)
        torch.testing.assert_close(fusion.preference(x, a, b), difference.sum(dim=1), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(contributions.sum(dim=1), similarity, atol=1e-10, rtol=1e-10)
    assert (contributions[~(x.present & a.present)] == 0.0).all()
    assert contributions.isfinite().all()


@given(SEEDS, NAMES)
@settings(max_examples=20, deadline=None)
def test_comparing_mutates_neither_embeddings_nor_parameters(seed, name):
    rng = np.random.default_rng(seed)
    fusion, batches = made(name, rng), [embeddings(rng) for _ in range(3)]
    tensors = [tensor for batch in batches for tensor in batch] + list(fusion.parameters())
    before = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        fusion.preference(*batches)
        stem_deltas(*batches)
        fusion.penalty()
    assert all(torch.equal(one, other) for one, other in zip(before, tensors, strict=True))


@pytest.mark.parametrize("name", [*NONLINEAR, "free"])
def test_what_is_exact_under_vmap_and_in_any_batch_and_what_only_up_to_rounding(name):
    rng = np.random.default_rng(4)
    fusion = made(name, rng)
    x, a, b = (embeddings(rng, 37) for _ in range(3))
    models = [made(name, np.random.default_rng(4)) for _ in range(3)]
    for number, model in enumerate(models):
        model.weight.data.mul_(number + 1.0)
    stacked = torch.func.stack_module_state(models)

    def prefer(state, *roles):
        similarities = [torch.func.functional_call(fusion, state, (roles[0], role)) for role in roles[1:]]
        return similarities[0] - similarities[1]

    with torch.no_grad():
        forward, backward, same = (
            torch.func.vmap(lambda *state, roles=roles: prefer(state, *roles))(*stacked)
            for roles in ((x, a, b), (x, b, a), (x, a, copied(a)))
        )
        whole = fusion.preference(x, a, b)
        row = torch.tensor([36])
        alone, turned = (fusion.preference(*(one.take(row) for one in roles)) for roles in ((x, a, b), (x, b, a)))
    assert torch.equal(forward, -backward)
    assert (same == 0.0).all()
    assert torch.equal(alone, -turned)
    # Kernels differ with the batch: between batches, and from one model to a stack of them, the last bits may differ.
    torch.testing.assert_close(alone, whole[row], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(forward[0], whole, atol=1e-12, rtol=1e-12)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_cosines_are_zero_where_a_stem_is_silent_in_either_segment(seed):
    rng = np.random.default_rng(seed)
    x, a = embeddings(rng, 8), embeddings(rng, 8)
    cosines, both = stem_cosines(x, a), x.present & a.present
    assert (cosines[~both] == 0).all()
    assert (cosines[both] != 0).all()
    assert (cosines.abs() <= 1 + 1e-6).all()
    assert torch.equal(cosines, stem_cosines(a, x))
    torch.testing.assert_close(stem_cosines(x, x), x.present.double(), atol=1e-6, rtol=0)


# ---------------------------------------------------------------- the linear fusion


@given(SEEDS, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_linear_preference_is_that_of_a_loop_over_stems_and_components(seed, nonnegative):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng) for _ in range(3))
    fusion = made("nonnegative" if nonnegative else "free", rng)
    with torch.no_grad():
        preference = fusion.preference(x, a, b)
    torch.testing.assert_close(preference, stem_deltas(x, a, b) @ fusion.weight.detach(), atol=1e-12, rtol=0)
    for row in range(5):
        expected = 0.0
        for stem, weight in enumerate(fusion.weight.tolist()):
            reference, first, second = (batch.vectors[row, stem].tolist() for batch in (x, a, b))
            for r, f, s in zip(reference, first, second, strict=True):
                expected += weight * (r * f - r * s)
        assert preference[row].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_weights_set_are_weights_read_and_not_tied_to_the_tensor_they_came_from(nonnegative):
    weights = torch.tensor([0.0, 1e-9, 123.4] if nonnegative else [-1.0, 1e-9, 123.4], dtype=torch.float64)
    fusion = LinearFusion(LAYOUT, nonnegative=nonnegative)
    assert fusion.weight.tolist() == [float(nonnegative)] * 3, "the start: zeros, or ones where zeros are a trap"
    fusion.start_from(weights)
    torch.testing.assert_close(fusion.weight.detach(), weights, atol=0, rtol=1e-15)
    weights[0] = 9.0
    assert fusion.weight[0] <= 0.0
    copy = LinearFusion(LAYOUT, nonnegative=nonnegative)
    copy.load_state_dict(fusion.state_dict())
    assert torch.equal(copy.weight, fusion.weight)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_nonnegative_weights_stay_so_while_the_loss_pulls_them_below_zero(seed):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng, 30) for _ in range(3))
    fusion = LinearFusion(STEMS, nonnegative=True)
    target = stem_deltas(x, a, b) @ torch.linspace(-3, 3, 7, dtype=torch.float64)  # three weights below zero
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        (fusion.preference(x, a, b) - target).square().mean().backward()
        optimizer.step()
        assert (fusion.weight >= 0).all()


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_penalty_is_the_sum_of_squared_weights_or_else_parameters_and_so_is_its_gradient(nonnegative):
    assert CubicFusion(LAYOUT).penalty().item() == pytest.approx(1 + 4 + 9 + 0.49)
    fusion = LinearFusion(LAYOUT, nonnegative=nonnegative)
    fusion.start_from(torch.tensor([1.0, 2.0, 0.5]))
    penalty = fusion.penalty()
    assert penalty.item() == pytest.approx(5.25)
    penalty.backward()
    (parameter,) = fusion.parameters()
    # d/dw w^2 = 2 w; with w = v^2, d/dv v^4 = 4 v^3
    expected = [4.0, 4 * 2**1.5, 4 * 0.5**1.5] if nonnegative else [2.0, 4.0, 1.0]
    assert parameter.grad.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(
    "weights", [torch.ones(1), torch.ones(2), torch.ones(3, 1), torch.tensor(1.0), torch.tensor([1.0, torch.nan, 1.0])]
)
def test_weights_that_do_not_fit_the_stems_are_refused_and_change_nothing(weights, nonnegative):
    fusion = LinearFusion(LAYOUT, nonnegative=nonnegative)
    before = fusion.weight.detach().clone()
    with pytest.raises(ConfigError, match="drums, bass, mix"):
        fusion.start_from(weights)
    assert torch.equal(fusion.weight, before)


# ---------------------------------------------------------------- nonlinear fusions


@given(SEEDS, NONLINEAR_NAMES)
@settings(max_examples=60, deadline=None)
def test_a_fusion_starts_as_the_linear_one_and_can_leave_it(seed, name):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng, 20) for _ in range(3))
    fusion, linear = made(name, rng, trained=False), LinearFusion(STEMS)
    linear.start_from(fusion.weight.detach())
    torch.testing.assert_close(fusion.contributions(x, a), linear.contributions(x, a), atol=1e-12, rtol=0)
    preference = fusion.preference(x, a, b)
    torch.testing.assert_close(preference, linear.preference(x, a, b), atol=1e-12, rtol=0)
    assert fusion.roughness().item() == pytest.approx(0.0, abs=1e-20)
    preference.square().sum().backward()
    others = [parameter for key, parameter in fusion.named_parameters() if key != "weight"]
    assert max(float(other.grad.abs().max()) for other in others if other.grad is not None) > 1e-8


@given(SEEDS, st.sampled_from(["spline", "monotone"]))
@settings(max_examples=60, deadline=None)
def test_monotone_fusions_rise_or_fall_with_every_cosine_as_the_weight_says(seed, name):
    rng = np.random.default_rng(seed)
    fusion, x, a = made(name, rng), embeddings(rng, 20), embeddings(rng, 20)
    vectors = a.vectors.double().requires_grad_()
    fusion(x, a._replace(vectors=vectors)).sum().backward()
    # The gradient by a vector is the slope times X's unit vector, so that its product with that vector is the slope.
    slope = (vectors.grad * x.vectors.double()).sum(dim=2) * fusion.weight.detach().sign()
    assert (slope[x.present & a.present] > 0.0).all()


def test_attention_is_the_share_of_power_when_the_logits_are_its_logarithm():
    rng = np.random.default_rng(0)
    fusion, x, a = AttentionFusion(STEMS), embeddings(rng, 9), embeddings(rng, 9)
    with torch.no_grad():
        fusion.temperature.fill_(np.log(10) / 10)
    power = torch.where(x.present, 10 ** (x.levels.double() / 10), 0.0)
    expected = x.present.sum(dim=1, keepdim=True) * power / power.sum(dim=1, keepdim=True)
    torch.testing.assert_close(
        fusion.contributions(x, a).detach(), expected * StemPairs.of(x, a).cosines, atol=1e-12, rtol=1e-12
    )


def test_low_rank_cosines_are_those_of_mapped_vectors():
    rng = np.random.default_rng(1)
    fusion, x, a = made("low_rank", rng, 40), embeddings(rng, 9, dim=40), embeddings(rng, 9, dim=40)
    for stem in range(7):
        basis = fusion.basis[stem].double()
        metric = torch.eye(40).double() + basis @ fusion.left[stem].detach() @ (basis @ fusion.right[stem].detach()).T
        mapped = [one.vectors[:, stem].double() @ metric.T for one in (x, a)]
        cosine = torch.nan_to_num(torch.nn.functional.cosine_similarity(*mapped, eps=0.0))
        found = fusion.contributions(x, a)[:, stem].detach()
        torch.testing.assert_close(found, fusion.weight[stem].detach() * cosine, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_segment_in_which_nothing_sounds_is_no_nan(name):
    rng = np.random.default_rng(2)
    some, dead = embeddings(rng, 4), embeddings(rng, 4)
    dead = StemEmbeddings(0 * dead.vectors, torch.full_like(dead.levels, -torch.inf), torch.zeros_like(dead.present))
    fusion = made(name, rng)
    for pair in ((some, dead), (dead, some), (dead, dead)):
        fusion.zero_grad()
        assert (fusion(*pair).abs() < 1e-12).all()  # rounding depends on the place in the batch
        fusion(*pair).sum().backward()
        assert all(p.grad.isfinite().all() for p in fusion.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SplineFusion(STEMS, pieces=1), "2 to 1024 pieces"),
        (lambda: SplineFusion(STEMS, smoothing=float("nan")), "not be negative"),
        (lambda: MonotoneFusion(STEMS, units_per_stem=0), "1 to 1024 hidden units"),
        (lambda: AttentionFusion(STEMS, smoothing=-1.0), "not be negative"),
        (lambda: LowRankFusion(STEMS, rank=20), "rank of at least 1"),
        (lambda: SplineFusion(STEMS).start_from(torch.ones(3)), "one finite weight"),
        (lambda: MonotoneFusion(STEMS).start_from(torch.full((7,), torch.nan)), "one finite weight"),
        (lambda: LinearFusion(LAYOUT, nonnegative=True).start_from(torch.tensor([1.0, -1.0, 1.0])), "nonnegative.*-1"),
        (lambda: PowerFusion(STEMS).start_from(torch.ones(7)), "PowerFusion cannot start"),
    ],
)
def test_wrong_settings_say_what_is_expected(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_another_size_of_embeddings_is_an_error_and_a_state_travels():
    rng = np.random.default_rng(3)
    fusion, x, a = made("low_rank", rng, 12), embeddings(rng, 4, dim=12), embeddings(rng, 4, dim=12)
    with pytest.raises(ConfigError, match="no embeddings yet"):
        LowRankFusion(STEMS)(x, a)
    with pytest.raises(ConfigError, match="size 6"):
        fusion(embeddings(rng), embeddings(rng))
    other = LowRankFusion(STEMS)
    other.load_state_dict(fusion.state_dict())
    assert torch.equal(other(x, a), fusion(x, a))
