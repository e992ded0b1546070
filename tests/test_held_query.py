"""A held query gives the hits of a search, whatever the weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import CountingEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from items import DIM, STEMS, make_items

from stemsim.embedding import StemEmbedder
from stemsim.errors import ConfigError
from stemsim.retrieval import ItemFilter, Library, Routing
from stemsim.retrieval.catalogue import FileRecord
from stemsim.retrieval.query import Query
from stemsim.separators import Bands

FILTERS = [
    None,
    ItemFilter(category=("kick", "bass")),
    ItemFilter(type=("loop",), bpm=(60, 120), octaves=True),
    ItemFilter(stems=("drums",), loudness=(-30, None)),
    ItemFilter(category=("nothing",)),
]


class Layout(Bands):
    """The stems of the made-up items."""

    stems = STEMS
    identity = "layout"


class Asked(Library):
    """Searches with a given query."""

    asked: Query

    def query(self, *_args, **_options):
        return self.asked


def alike(items, rng):
    """Make windows of an audio alike: copies under other paths, overlaps, and vectors that nearly coincide."""
    vectors, start, content = items.vectors.clone(), items.start.copy(), items.content.copy()
    content[:] = [f"c{number // 6}" for number in range(len(items))]
    path = np.array([f"/a/{number // 6}{rng.choice(['', '', ' copy'])}.wav" for number in range(len(items))])
    for number in range(1, len(items)):
        if number % 6 and rng.random() < 0.7:
            noise = torch.from_numpy(rng.normal(size=vectors[number].shape)).float() * rng.choice([0.0, 0.08, 0.12])
            vectors[number] = torch.nn.functional.normalize(vectors[number - 1] + noise, dim=1)
            start[number] = start[number - 1] + rng.choice([0.0, 1.0, 20.0])
    present = vectors.norm(dim=2).numpy() > 0.5
    return replace(
        items,
        vectors=vectors * torch.from_numpy(present)[:, :, None],
        path=path,
        start=start,
        content=content,
        present=present,
    )


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        embedder = StemEmbedder(Layout(), CountingEncoder(dim=DIM), progress=False)
        library = Asked(tmp_path_factory.mktemp("library"), embedder)
        items = alike(make_items(60, seed=seed), rng)
        library.index.upsert(items)
        paths = sorted(set(items.path))
        library._catalogue.put(
            [
                FileRecord(path, 1, 1, "c", 1, 9.0, bpm, not bpm, done=True)
                for path, bpm in zip(paths, [True, False] * len(paths), strict=False)
            ]
        )
        vectors = torch.nn.functional.normalize(items.vectors[7] + 0.3 * torch.randn(len(STEMS), DIM), dim=1)
        if seed == 2:
            vectors[0] = 0.0  # silent
        library.asked = Query(STEMS, vectors, content="c1", start=float(items.start[7]), end=float(items.end[7]))
        found.append((library, library.hold(library.asked)))
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A held query over items in the order of their similarity, some of them equal, and these items."""
    library = Asked(tmp_path_factory.mktemp("many"), StemEmbedder(Layout(), CountingEncoder(dim=DIM), progress=False))
    items = make_items(4000)
    library.asked = Query(STEMS, items.vectors[0])
    order = (items.vectors @ items.vectors[0].T).diagonal(dim1=1, dim2=2).sum(dim=1).argsort().numpy()
    order[1::50] = order[::50]
    library.index.upsert(replace(items.take(order), key=items.key))
    held = library.hold(library.asked)
    return held, library.index.items(list(held.held.items.key))


weight = st.floats(-2, 2).map(lambda value: round(value, 3))
pairs = st.tuples(st.sampled_from(STEMS), st.sampled_from(STEMS))
matrices = st.dictionaries(pairs, weight, min_size=1, max_size=5).filter(lambda weights: any(weights.values()))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3), matrices, st.sampled_from(FILTERS), st.integers(1, 30), st.booleans())
def test_the_hits_of_a_held_query_are_those_of_a_search(libraries, number, weights, where, k, include_self):
    library, held = libraries[number]
    routing = Routing.pairs_of(STEMS, weights)
    if {query for query, _, _ in routing.pairs} <= set(library.asked.silent):
        for search in (library.search, held.search):
            with pytest.raises(ConfigError, match="silent in bass"):
                search(routing=routing)
        return
    expected = library.search(routing=routing, k=k, where=where, include_self=include_self)
    seen = held.search(routing, k, where=where, include_self=include_self)
    plain = [replace(hit, similarity=0.0, contributions={}) for hit in expected]
    assert [replace(hit, similarity=0.0, contributions={}) for hit in seen] == plain
    for one, other in zip(seen, expected, strict=True):
        assert one.similarity == pytest.approx(other.similarity, abs=1e-12)
        assert dict(one.contributions) == pytest.approx(dict(other.contributions), abs=1e-12)
        assert sum(one.contributions.values()) == pytest.approx(one.similarity, abs=1e-12)


def test_the_made_up_windows_are_folded_by_place_and_by_sound(libraries):
    """Otherwise the property above would say little."""
    hits = [hit for library, _ in libraries for hit in library.search(routing="equal,mix=0.5", k=30)]
    assert sum(hit.folded for hit in hits) > 20
    assert sum(len(hit.also) for hit in hits) > 20
    assert {measured for hit in hits for measured in hit.measured} == {"bpm", "musical_key"}


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 400), st.sampled_from(FILTERS))
def test_the_best_of_many_items_are_those_of_a_full_sort(many, weights, k, where):
    held, items = many
    routing = Routing.pairs_of(STEMS, weights)
    similarity = routing.contributions(held.query.vectors, items.vectors).sum(dim=1).numpy()
    similarity[[] if where is None else ~where.mask(items)] = -np.inf
    expected = np.sort(similarity[np.isfinite(similarity)])[::-1][:k]
    seen = held.ranked(routing, k, where=where)
    assert seen.similarity.numpy() == pytest.approx(expected, abs=1e-12)
    assert len(set(seen.items.key)) == len(seen)


def test_held_queries_of_one_library_share_its_items_until_these_change(tmp_path):
    library = Asked(tmp_path, StemEmbedder(Layout(), CountingEncoder(dim=DIM), progress=False))
    library.index.upsert(make_items(20))
    query = Query(STEMS, make_items(1, seed=5).vectors[0])
    first = library.hold(query)
    assert library.hold(query, like=first).held is first.held
    library.index.upsert(make_items(5, first=20))
    later = library.hold(query, like=first)
    assert (len(first), len(later)) == (20, 25)
    assert len(first.search(Routing.equal(STEMS), 25)) <= 20
