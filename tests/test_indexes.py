"""All engines beside the definition of the similarity."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from items import DIM, STEMS, make_items

from stemsim.embedding import EmbeddingSpec
from stemsim.errors import ConfigError, EmbeddingError, StemMismatchError, StoreError
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.held_query import HeldQuery
from stemsim.retrieval.indexes.lance import LanceIndex
from stemsim.retrieval.indexes.milvus import MilvusIndex
from stemsim.retrieval.query import Query
from stemsim.retrieval.recall import recall_check
from stemsim.retrieval.routing import Routing

SPEC = EmbeddingSpec("bands", "encoder-1", "v1;silence=-60.0", STEMS, DIM)
ENGINES = ("lance", "lance approximate", "milvus")
ROUTINGS = ("equal", "drums=1", "drums:mix=1", "bass=-2,mix=0.5,mix:bass=1")
FILTERS = {
    "none": None,
    "category": ItemFilter(category=("kick", "it's")),
    "no category at all": ItemFilter(category=()),
    "type": ItemFilter(type=("loop", "song")),
    "category and type": ItemFilter(category=("kick", "bass"), type=("one-shot", "loop")),
    "category that is a type": ItemFilter(category=("loop",)),
    "tempo": ItemFilter(bpm=(100.0, 120.0)),
    "open tempo": ItemFilter(bpm=(None, 120.0)),
    "tempo in octaves": ItemFilter(bpm=(200.0, 250.0), octaves=True),
    "open tempo in octaves": ItemFilter(bpm=(240.0, None), octaves=True),
    "any known tempo": ItemFilter(bpm=(None, None)),
    "key": ItemFilter(musical_key=("A minor",)),
    "duration and loudness": ItemFilter(duration=(1.0, None), loudness=(None, -6.0)),
    "stems": ItemFilter(stems=("drums", "bass")),
    "a stem that the library lacks": ItemFilter(stems=("vocals",)),
    "path": ItemFilter(path_prefix="/a/it's 3%/é\"\\"),
    "all together": ItemFilter(category=("kick",), bpm=(90.0, 140.0), stems=("mix",)),
}


def make_index(engine, folder, items=None):
    if engine == "milvus":
        index = MilvusIndex(str(folder / "items.db"), SPEC, collection="items")
    else:
        index = LanceIndex(folder / "lance", SPEC)
    if items is not None:
        index.upsert(items)
        if engine == "lance approximate":
            assert index.build()
    return index


@pytest.fixture(scope="module")
def items():
    return make_items(300)


@pytest.fixture(scope="module", params=ENGINES)
def index(request, tmp_path_factory, items):
    return make_index(request.param, tmp_path_factory.mktemp("index"), items)


def expected(items, routing, query, k, where):
    """Return keys and similarities by the definition: a sum over all pairs of stems."""
    kept = items.take(np.ones(len(items), bool) if where is None else where.mask(items))
    rounded = kept.vectors.half().double()  # as engines keep them
    similarity = torch.einsum("ij,id,njd->n", routing.matrix, query.double(), rounded)
    order = np.lexsort((kept.key.astype(str), -similarity.numpy()))[:k]
    return [kept.key[row] for row in order], similarity[torch.from_numpy(order)]


@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("weights", ROUTINGS)
def test_a_search_gives_the_best_items_that_meet_the_conditions(index, items, weights, where):
    routing, query = Routing.parse(weights, STEMS), items.vectors[5]
    keys, similarity = expected(items, routing, query, 12, where)
    hits = index.search(routing.fold(query), 12, where=where)
    assert list(hits.items.key) == keys
    torch.testing.assert_close(hits.similarity, similarity, atol=1e-12, rtol=0)


@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
def test_counts_and_tables_meet_the_conditions_too(index, items, where):
    mask = np.ones(len(items), bool) if where is None else where.mask(items)
    assert index.count(where) == mask.sum()
    table = index.table(["key", "bpm", "has_drums"], where)
    assert sorted(table["key"].to_pylist()) == sorted(items.take(mask).key)
    assert table["bpm"].null_count == np.isnan(items.bpm[mask]).sum()


def test_items_come_back_as_they_went_in(index, items):
    found = index.items([*items.key[10:20], "nobody"])
    assert sorted(found.key) == sorted(items.key[10:20])
    again = items.take([list(items.key).index(key) for key in found.key])
    texts, numbers = ("content", "path", "tags", "musical_key"), ("start", "duration", "file_duration", "bpm")
    for name in (*texts, *numbers, "loudness", "present"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    torch.testing.assert_close(found.vectors, again.vectors.half().float(), atol=0, rtol=0)
    assert sum(len(part) for part in index.scan()) == len(items)


def test_a_held_query_moves_its_sliders_as_a_new_search_does(index, items):
    held = HeldQuery(index, Query(STEMS, items.vectors[8]))
    assert len(held) == len(items)
    for weights in ROUTINGS:
        for where in (None, FILTERS["all together"], FILTERS["no category at all"]):
            routing = Routing.parse(weights, STEMS)
            moved, searched = (
                held.ranked(routing, 9, where=where),
                index.search(routing.fold(items.vectors[8]), 9, where=where),
            )
            assert list(moved.items.key) == list(searched.items.key)
            torch.testing.assert_close(moved.similarity, searched.similarity, atol=1e-6, rtol=1e-6)


def test_recall_is_checked_for_weights_of_every_kind(index):
    check = recall_check(index, k=10, queries=3)
    assert list(check.frame["weights"]) == ["random", "single stem", "negative", "cross-stem"]
    assert (check.frame["recall"] == 1.0).all()
    assert check.sentence.startswith("300 items; ")


class Forgetful(LanceIndex):
    """Finds every second item only."""

    def _candidates(self, vector, k, where):
        found = super()._candidates(vector, 2 * k, where)
        return found.take(range(1, len(found), 2))


def test_a_lossy_index_is_found_out(items, tmp_path):
    lossy = Forgetful(tmp_path, SPEC)
    lossy.upsert(items)
    assert recall_check(lossy, k=10, queries=5).frame["recall"].max() < 0.7


@pytest.mark.parametrize("engine", ENGINES)
def test_items_are_replaced_and_dropped(engine, tmp_path, items):
    index = make_index(engine, tmp_path, items)
    changed = replace(make_items(20, seed=9), key=items.key[:20])
    index.upsert(changed)
    assert index.count() == 300
    (seen,) = index.items(["k3"]).path
    assert seen == changed.path[3]
    hits = index.search(Routing.equal(STEMS).fold(changed.vectors[3]), 1)
    assert hits.items.key == ("k3",)
    index.delete(["k3", "nobody"])
    assert index.count() == 299
    assert len(index.items(["k3"])) == 0
    index.optimise()
    assert index.count() == 299


@pytest.mark.parametrize("engine", ["lance", "milvus"])
def test_another_encoder_or_stem_order_is_refused_with_both_names(engine, tmp_path, items):
    first = make_index(engine, tmp_path, items)
    where = getattr(first, "uri", None) or first.root
    make = partial(MilvusIndex, collection="items") if engine == "milvus" else LanceIndex
    with pytest.raises(ConfigError, match=r"encoder 'encoder-1'.*'encoder-2'"):
        make(where, replace(SPEC, encoder="encoder-2"))
    with pytest.raises(ConfigError, match=r"silence=-60\.0.*silence=None"):
        make(where, replace(SPEC, preprocessing="v1;silence=None"))
    with pytest.raises(StemMismatchError, match=r"(?s)mix.*bass|bass.*mix"):
        make(where, replace(SPEC, stems=("mix", "drums", "bass")))
    assert make(where, SPEC).count() == 300


@pytest.mark.parametrize("engine", ["lance", "milvus"])
def test_of_items_with_one_key_the_last_one_counts(engine, tmp_path, items):
    index = make_index(engine, tmp_path)
    index.upsert(replace(items, key=np.tile(items.key[:150], 2)))
    assert index.count() == 150
    assert index.items(["k7"]).path == (items.path[157],)


def test_an_approximate_index_takes_in_what_is_added_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("stemsim.retrieval.indexes.lance._INDEX_FROM", 20_000)
    index = LanceIndex(tmp_path, SPEC)
    assert not index.optimise()  # too few
    index.upsert(make_items(20_000))
    assert index.optimise()
    index.upsert(make_items(3_000, first=19_000))  # LanceDB now splits what it had in one piece
    assert not index.optimise()
    assert "codes of 8 bits of 22000 items, the best scored again exactly" in index.describe()
    assert recall_check(index, k=50, queries=4).frame["recall"].min() >= 0.99
    index.upsert(make_items(3_000, seed=5, first=21_000))  # some of them replace others, in the index or not
    index.delete([f"k{number}" for number in range(100)])
    assert index.count() == 23_900
    assert len(set(index.table(["key"])["key"].to_pylist())) == 23_900
    assert "; 3000 newer ones are compared one by one" in index.describe()
    assert recall_check(index, k=50, queries=4).frame["recall"].min() >= 0.99


@pytest.mark.parametrize("engine", ENGINES)
def test_vectors_of_any_length_are_searched(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("test_indexes.SPEC", EmbeddingSpec("", "", "", ("mix",), 13))
    items = make_items(300, stems=("mix",), dim=13)
    index = make_index(engine, tmp_path, items)
    query = items.vectors[0]
    keys, similarity = expected(items, Routing.equal(("mix",)), query, 5, None)
    hits = index.search(query.flatten(), 5)
    assert list(hits.items.key) == keys
    torch.testing.assert_close(hits.similarity, similarity, atol=1e-12, rtol=0)


def test_more_items_than_milvus_returns_at_once_are_all_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("stemsim.retrieval.indexes.milvus._MOST", 100)
    index = MilvusIndex(str(tmp_path / "items.db"), EmbeddingSpec("", "", "", ("mix",), 2), collection="items")
    index.upsert(make_items(1_000, stems=("mix",), dim=2))
    assert sorted(index.table(["key"])["key"].to_pylist()) == sorted(f"k{number}" for number in range(1_000))


def test_wrong_queries_and_items_are_refused(index, items):
    with pytest.raises(StemMismatchError, match="set of items"):
        index.upsert(make_items(3, stems=("mix", "bass", "drums")))
    with pytest.raises(ConfigError, match="vectors of length 16; got items of 8"):
        index.upsert(make_items(3, dim=8))
    with pytest.raises(ConfigError, match=r"length 48 .*got \(3,\)"):
        index.search(torch.ones(3))
    with pytest.raises(ConfigError, match="finite"):
        index.search(torch.full((48,), torch.nan))
    with pytest.raises(EmbeddingError, match="finite vectors"):
        replace(items, vectors=torch.full_like(items.vectors, torch.nan))
    with pytest.raises(EmbeddingError, match="rows in every column"):
        replace(items, path=items.path[1:])
    with pytest.raises(ConfigError, match="the lower first"):
        ItemFilter(bpm=(124.0, 118.0))
    with pytest.raises(ConfigError, match="is a tuple of names"):
        ItemFilter(category="kick")
    with pytest.raises(ConfigError, match="Stems are"):
        ItemFilter(stems=("drms",))


def test_a_folder_that_is_a_file_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be opened"):
        LanceIndex(tmp_path / "file", SPEC)
    with pytest.raises(StoreError, match="cannot be opened"):
        MilvusIndex("http://127.0.0.1:9", SPEC, collection="items")


def test_a_table_of_one_category_an_item_is_updated(tmp_path):
    items = make_items(20)
    LanceIndex(tmp_path, SPEC).upsert(items)
    table = LanceIndex(tmp_path, SPEC)._table.raw
    table.add_columns({"category": "replace(replace(key, 'k3', 'kick'), key, '')"})
    table.drop_columns(["tags"])
    updated = LanceIndex(tmp_path, SPEC)
    assert updated.table(["key"], ItemFilter(category=("kick",)))["key"].to_pylist() == ["k3"]
    assert {name: updated.items([name]).tags[0] for name in ("k3", "k4")} == {"k3": ("kick",), "k4": ()}
    updated.upsert(items)
    assert len(LanceIndex(tmp_path, SPEC).table(["key"], ItemFilter(type=("loop",)))) == sum(
        "loop" in tags for tags in items.tags
    )
