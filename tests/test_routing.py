"""Routing: folding against the explicit double loop, and what users write."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.errors import ConfigError
from stemsim.retrieval.routing import Routing
from stemsim.stems import LAYOUTS

STEMS = LAYOUTS["6-stem"]


def embeddings(seed, n, *, silent):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(n, len(STEMS), 5, generator=generator), dim=2)
    return vectors * (torch.rand(n, len(STEMS), 1, generator=generator) > silent)


@given(
    st.lists(st.floats(-3.0, 3.0), min_size=49, max_size=49).filter(lambda values: max(map(abs, values)) >= 1e-6),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_the_folded_search_is_the_double_loop_for_any_weights(values, seed, silent):
    routing = Routing(STEMS, torch.tensor(values, dtype=torch.float64).reshape(7, 7))
    query, items = embeddings(seed, 1, silent=silent)[0].double(), embeddings(seed + 1, 4, silent=silent).double()
    folded = items.flatten(1) @ routing.fold(query)
    for item, seen in zip(items, folded.tolist(), strict=True):
        expected = sum(
            float(routing.matrix[i, j]) * float(query[i] @ item[j])
            for i in range(len(STEMS))
            for j in range(len(STEMS))
        )
        assert seen == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(routing.contributions(query, items).sum(dim=1), folded)


def test_batches_fold_as_single_queries_do():
    routing = Routing.parse("drums:mix=2,bass=-1", STEMS)
    queries = embeddings(3, 6, silent=0.3)
    torch.testing.assert_close(routing.fold(queries), torch.stack([routing.fold(query) for query in queries]))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("drums=1,bass=0.5", {("drums", "drums"): 1.0, ("bass", "bass"): 0.5}),
        (" drums : mix = 1 ", {("drums", "mix"): 1.0}),
        ("drums", {("drums", "drums"): 1.0}),
        ("drums:mix", {("drums", "mix"): 1.0}),
        ("equal,drums=3,mix=0", {(stem, stem): 3.0 if stem == "drums" else 1.0 for stem in STEMS if stem != "mix"}),
        ("learned,vocals:mix=-1", {("drums", "drums"): 0.8, ("mix", "mix"): 1.6, ("vocals", "mix"): -1.0}),
    ],
)
def test_what_users_write(text, pairs):
    routing = Routing.parse(text, STEMS, learned={"drums": 0.8, "mix": 1.6})
    assert {(query, library): weight for query, library, weight in routing.pairs} == pairs
    again = Routing.parse(routing.text, STEMS)
    torch.testing.assert_close(again.matrix, routing.matrix)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No weights in ''"),
        ("drms=1", "There is no stem 'drms' here, but bass, drums"),
        ("drums:mx=1", "There is no stem 'mx'"),
        ("drums=loud", "The weight in 'drums=loud' is not a finite number"),
        ("drums=nan", "Weights must be finite"),
        ("drums=0", "one of them other than 0"),
        ("drums=1e308,mix=1e308", "the largest from 1e-06 to 1e[+]06 in size"),
        ("drums=1e-50", "the largest from 1e-06 to 1e[+]06 in size"),
        ("learned", "no learned weights"),
        ("drums=1,equal", "There is no stem 'equal'"),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        Routing.parse(text, STEMS)
    assert "drums" in str(raised.value) or "--model" in str(raised.value)


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match=r"needs weights \(7, 7\) in float64; got \(2, 2\)"):
        Routing(STEMS, torch.ones(2, 2, dtype=torch.float64))
