"""The Milvus index on a real standalone server; run by `test_milvus_server.py`, where nobody else can reach it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from items import STEMS, make_items
from test_indexes import FILTERS, ROUTINGS, SPEC, expected

from stemsim.embedding import EmbeddingSpec
from stemsim.errors import ConfigError, StemMismatchError
from stemsim.retrieval.held_query import HeldQuery
from stemsim.retrieval.indexes.milvus import MilvusIndex
from stemsim.retrieval.query import Query
from stemsim.retrieval.recall import recall_check
from stemsim.retrieval.routing import Routing

ADD = """
import sys
from items import make_items
from test_indexes import SPEC
from stemsim.retrieval.indexes.milvus import MilvusIndex
index = MilvusIndex(sys.argv[1], SPEC, collection="shared")
for first in range(int(sys.argv[2]), int(sys.argv[2]) + 120, 10):
    index.upsert(make_items(10, first=first))
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    from milvus import MilvusServer, MilvusServerConfig

    server = MilvusServer(MilvusServerConfig())
    server.set_base_dir(str(tmp_path_factory.mktemp("milvus")))
    server.start()  # waits until it is healthy
    yield f"http://127.0.0.1:{server.listen_port}"
    server.stop()


@pytest.fixture(scope="module")
def items():
    return make_items(300)


@pytest.fixture(scope="module")
def index(uri, items):
    index = MilvusIndex(uri, SPEC, collection="items")
    index.upsert(items)
    return index


@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
def test_a_search_gives_what_every_engine_gives(index, items, where):
    mask = np.ones(len(items), bool) if where is None else where.mask(items)
    assert index.count(where) == mask.sum()
    for weights in ROUTINGS:
        routing, query = Routing.parse(weights, STEMS), items.vectors[5]
        keys, similarity = expected(items, routing, query, 12, where)
        hits = index.search(routing.fold(query), 12, where=where)
        assert list(hits.items.key) == keys
        torch.testing.assert_close(hits.similarity, similarity, atol=1e-12, rtol=0)


def test_items_tables_held_queries_and_the_check_of_recall(index, items):
    found = index.items([*items.key[10:20], "nobody"])
    again = items.take([list(items.key).index(key) for key in found.key])
    assert list(found.path) == list(again.path)
    np.testing.assert_array_equal(found.bpm, again.bpm)
    torch.testing.assert_close(found.vectors, again.vectors.half().float(), atol=0, rtol=0)
    assert sorted(key for part in index.scan() for key in part.key) == sorted(items.key)
    assert index.table(["bpm"])["bpm"].null_count == np.isnan(items.bpm).sum()
    routing = Routing.parse("drums:mix=1,bass=-1", STEMS)
    held = HeldQuery(index, Query(STEMS, items.vectors[8])).ranked(routing, 9)
    assert list(held.items.key) == list(index.search(routing.fold(items.vectors[8]), 9).items.key)
    assert (recall_check(index, k=10, queries=3).frame["recall"] == 1.0).all()
    assert "Milvus v2.3" in index.describe()


def test_items_are_replaced_and_dropped(uri, items):
    index = MilvusIndex(uri, SPEC, collection="changing")
    index.upsert(items)
    changed = replace(make_items(20, seed=9), key=items.key[:20])
    index.upsert(changed)
    assert index.count() == 300
    assert index.items(["k3"]).path == (changed.path[3],)
    assert index.search(Routing.equal(STEMS).fold(changed.vectors[3]), 1).items.key == ("k3",)
    index.delete(["k3", "nobody"])
    assert index.count() == 299
    assert len(index.items(["k3"])) == 0


def test_more_items_than_a_server_returns_at_once_are_all_listed(uri):
    index = MilvusIndex(uri, EmbeddingSpec("", "", "", ("mix",), 2), collection="many")
    for first in range(0, 20_000, 5_000):
        index.upsert(make_items(5_000, first=first, stems=("mix",), dim=2))
    assert len(set(index.table(["key"])["key"].to_pylist())) == 20_000


def test_another_encoder_or_stem_order_is_refused_with_both_names(index, uri):
    with pytest.raises(ConfigError, match=r"encoder 'encoder-1'.*'encoder-2'"):
        MilvusIndex(uri, replace(SPEC, encoder="encoder-2"), collection="items")
    with pytest.raises(StemMismatchError, match=r"(?s)mix.*bass|bass.*mix"):
        MilvusIndex(uri, replace(SPEC, stems=("mix", "drums", "bass")), collection="items")


def test_two_processes_that_make_one_collection_and_add_overlapping_items(uri):
    writers = [subprocess.Popen([sys.executable, "-c", ADD, uri, str(first)], cwd=sys.path[0]) for first in (0, 60)]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    index = MilvusIndex(uri, SPEC, collection="shared")
    assert index.count() == 180
    assert sorted(index.table(["key"])["key"].to_pylist()) == sorted(f"k{number}" for number in range(180))
