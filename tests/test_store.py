"""The embedding store: what is put is what is got, whoever writes, whatever is killed, whatever is damaged."""

import itertools
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim import lance_table
from stemsim.audio import Segment
from stemsim.embedding import EmbeddingSpec, EmbeddingStore
from stemsim.errors import StemMismatchError, StoreError
from stemsim.similarity import StemEmbeddings

SPEC = EmbeddingSpec("separator", "encoder", "v1", ("bass", "drums", "mix"), 8)
WAITING = 60.0  # seconds after which a child that does nothing is an error


def row(number, spec=SPEC):
    """Return the embeddings of one segment `(1, stem, dim)`, which its number determines; some stems are silent."""
    random = torch.Generator().manual_seed(number)
    vectors = torch.nn.functional.normalize(torch.randn(1, len(spec.stems), spec.dim, generator=random), dim=-1)
    vectors[0, number % 5 :: 5] = 0.0
    levels = -60.0 * torch.rand(1, len(spec.stems), generator=random)
    return StemEmbeddings(vectors, levels, (vectors != 0).any(dim=-1))


def rows(numbers, spec=SPEC):
    return StemEmbeddings(*(torch.cat(parts) for parts in zip(*(row(n, spec) for n in numbers), strict=True)))


def key(number):
    return f"{number:032x}"


def put(store, numbers):
    segments = [Segment(Path(f"{number}.wav"), 0.0, 5.0) for number in numbers]
    store.put([key(number) for number in numbers], segments, rows(numbers, store.spec))


def fill(store, count, batch=10):
    for start in range(0, count, batch):
        put(store, range(start, min(start + batch, count)))


def numbers_in(store, count=200):
    """Return the numbers of the rows that the store gives, having checked that each is exactly what was put."""
    found = store.get([key(number) for number in range(count)])
    numbers = [int(stored, 16) for stored in found.keys]
    assert len(set(numbers)) == len(numbers)
    if numbers:
        expected = rows(numbers, store.spec)
        for seen, wanted in zip(found.embeddings, expected, strict=True):
            assert seen.dtype == wanted.dtype
            assert torch.equal(seen, wanted)
    return sorted(numbers)


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store", SPEC)


@pytest.fixture(scope="module")
def full_store(tmp_path_factory):
    """Folder of a store of 60 rows in 6 files; for copying."""
    root = tmp_path_factory.mktemp("full") / "store"
    fill(EmbeddingStore(root, SPEC), 60)
    return root


@pytest.fixture
def copy(full_store, tmp_path):
    """Folder of a store of 60 rows in 6 files."""
    return Path(shutil.copytree(full_store, tmp_path / "store"))


def data_files(root):
    return sorted(root.glob("*/data/*.lance"))


# ---------------------------------------------------------------- round trip


def test_what_is_put_is_got_bit_for_bit_by_this_process_and_the_next_opening(store):
    fill(store, 25)
    assert numbers_in(store) == list(range(25))
    assert numbers_in(EmbeddingStore(store.root, SPEC)) == list(range(25))
    assert len(store) == 25


@pytest.mark.parametrize("asked", [[], [999]])
def test_nothing_found_is_empty_tensors_of_the_right_shape(store, asked):
    put(store, [1])
    found = store.get([key(number) for number in asked])
    assert found.keys == ()
    assert [tuple(part.shape) for part in found.embeddings] == [(0, 3, 8), (0, 3), (0, 3)]
    assert found.embeddings.present.dtype == torch.bool


def test_more_keys_than_one_query_takes_are_all_found(store, monkeypatch):
    monkeypatch.setattr("stemsim.lance_table._KEYS_PER_QUERY", 7)
    fill(store, 30, batch=30)
    assert numbers_in(store, 45) == list(range(30))


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_rows_put_again_are_replaced_and_not_doubled(tmp_path_factory, batches):
    store = EmbeddingStore(tmp_path_factory.mktemp("again"), SPEC)
    for batch in batches:
        put(store, batch)
    everything = {number for batch in batches for number in batch}
    assert len(store) == len(everything)
    assert numbers_in(store, 13) == sorted(everything)


def test_row_put_again_with_other_numbers_has_the_new_ones(store):
    put(store, [1, 2, 3])
    store.put([key(2)], [Segment(Path("x.wav"), 0.0, 1.0)], row(77))
    found = store.get([key(2)])
    assert torch.equal(found.embeddings.vectors, row(77).vectors)
    assert torch.equal(found.embeddings.levels, row(77).levels)
    assert len(store) == 3


def test_putting_does_not_touch_its_arguments(store):
    embeddings, before = rows([1, 2]), rows([1, 2])
    store.put([key(1), key(2)], [Segment(Path("x.wav"), 0.0, 1.0)] * 2, embeddings)
    assert all(torch.equal(seen, wanted) for seen, wanted in zip(embeddings, before, strict=True))


def test_key_depends_on_content_and_place_and_not_on_the_path():
    first = SPEC.key("hash", Segment(Path("a.wav"), 1.0, 5.0))
    assert SPEC.key("hash", Segment(Path("elsewhere/b.flac"), 1.0, 5.0)) == first
    others = {
        SPEC.key("other", Segment(Path("a.wav"), 1.0, 5.0)),
        SPEC.key("hash", Segment(Path("a.wav"), 1.0 + 1 / 48_000, 5.0)),
        SPEC.key("hash", Segment(Path("a.wav"), 1.0, 5.0 + 1 / 48_000)),
        SPEC.key("hash", Segment(Path("a.wav"), 5.0, 1.0)),
    }
    assert len(others | {first}) == 5


def test_every_part_of_the_specification_has_a_table_of_its_own(tmp_path):
    specs = [
        SPEC,
        EmbeddingSpec("other", "encoder", "v1", SPEC.stems, 8),
        EmbeddingSpec("separator", "other", "v1", SPEC.stems, 8),
        EmbeddingSpec("separator", "encoder", "v2", SPEC.stems, 8),
        EmbeddingSpec("separator", "encoder", "v1", ("drums", "bass", "mix"), 8),
        EmbeddingSpec("separator", "encoder", "v1", ("bass", "drums", "vocals", "mix"), 8),
        EmbeddingSpec("separator", "encoder", "v1", SPEC.stems, 4),
    ]
    for index, spec in enumerate(specs):
        put(EmbeddingStore(tmp_path, spec), range(index + 1))
    for index, spec in enumerate(specs):
        assert numbers_in(EmbeddingStore(tmp_path, spec), 10) == list(range(index + 1))


def test_table_that_holds_another_layout_than_its_name_says_is_an_error_that_names_both(tmp_path):
    other = EmbeddingSpec("separator", "encoder", "v1", ("drums", "bass", "mix"), 8)
    put(EmbeddingStore(tmp_path, other), [1])
    (tmp_path / f"{other.table}.lance").rename(tmp_path / f"{SPEC.table}.lance")
    with pytest.raises(StemMismatchError, match=r"\(drums, bass, mix\), expected \(bass, drums, mix\)"):
        EmbeddingStore(tmp_path, SPEC)


def test_compacting_merges_the_files_and_keeps_the_rows(copy):
    store = EmbeddingStore(copy, SPEC)
    before = EmbeddingStore(copy, SPEC)  # a reader that goes on while the files are merged
    assert store._table.raw.stats()["fragment_stats"]["num_fragments"] == 6
    store.compact()
    assert store._table.raw.stats()["fragment_stats"]["num_fragments"] == 1
    assert numbers_in(store) == list(range(60))
    assert numbers_in(before) == list(range(60))
    put(before, [60])
    assert numbers_in(store) == list(range(61))


def test_a_long_run_does_not_leave_a_file_for_every_commit(store, monkeypatch):
    monkeypatch.setattr(lance_table, "_UPSERTS_PER_MERGE", 4)
    fill(store, 10, batch=1)
    assert (
        store._table.raw.stats()["fragment_stats"]["num_fragments"] == 3
    )  # one of the first 8 commits, and the last two
    assert numbers_in(store) == list(range(10))


def test_compacting_twice_at_once_is_no_error_and_loses_nothing(full_store, tmp_path):
    def compact(store, together):
        together.wait()
        store.compact()

    for attempt in range(3):  # whether two of them collide is chance
        root = shutil.copytree(full_store, tmp_path / str(attempt))
        stores = [EmbeddingStore(root, SPEC) for _ in range(4)]
        together = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(compact, store, together) for store in stores]:
                done.result()
        assert numbers_in(stores[0]) == list(range(60))
        assert len(stores[0]) == 60


def test_another_process_s_rows_are_seen_without_reopening(copy):
    reader, writer = EmbeddingStore(copy, SPEC), EmbeddingStore(copy, SPEC)
    assert numbers_in(reader) == list(range(60))
    put(writer, [60, 61])
    assert numbers_in(reader) == list(range(62))


# ---------------------------------------------------------------- several processes, killed processes


def fill_overlapping(root, first, last, batch):
    """Fill a store from a process of its own: what the store lacks of [first, last), as an extraction does."""
    store = EmbeddingStore(root, SPEC)
    for start in range(first, last, batch):
        wanted = range(start, min(start + batch, last))
        found = store.get([key(number) for number in wanted])
        missing = [number for number in wanted if key(number) not in found.keys]
        if missing:
            put(store, missing)
    store.compact()


def fill_for_ever(root, first):
    """Fill a store in small batches, compacting now and then, until killed."""
    store = EmbeddingStore(root, SPEC)
    for count, start in enumerate(itertools.count(first, 4)):
        put(store, range(start, start + 4))
        if count % 10 == 9:
            store.compact()


def work(connection):
    """Do what the parent process says: pairs of a function and its arguments, answered by None or by the error."""
    connection.send(None)  # all is imported
    while True:
        function, arguments = connection.recv()
        try:
            function(*arguments)
        except StoreError as error:
            connection.send(error)
        else:
            connection.send(None)


class Crew:
    """Processes that were spawned, each with a connection; kept from test to test, as importing takes them seconds."""

    def __init__(self):
        self.members = []

    def take(self, number):
        context = multiprocessing.get_context("spawn")
        self.members = [(process, connection) for process, connection in self.members if process.is_alive()]
        for _ in range(len(self.members), number):
            connection, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs,), daemon=True)
            process.start()
            self.members.append((process, connection))
            theirs.close()
        for process, connection in self.members:
            if not hasattr(process, "answered"):
                process.answered = answer(connection) is None
        return self.members[:number]


def answer(connection):
    assert connection.poll(WAITING), "the child process does nothing"
    return connection.recv()


@pytest.fixture(scope="module")
def crew():
    crew = Crew()
    yield crew
    for process, _ in crew.members:
        process.kill()
        process.join()


@pytest.mark.parametrize(("processes", "count"), [(2, 40), (4, 40)])
def test_processes_that_fill_overlapping_keys_at_once_lose_and_double_nothing(tmp_path, crew, processes, count):
    members = crew.take(processes)
    step = count // (2 * processes)  # each overlaps its neighbours; nobody created the table before
    for index, (_, connection) in enumerate(members):
        connection.send((fill_overlapping, (tmp_path, max(0, index * step - 5), count, 3 + index)))
    assert [answer(connection) for _, connection in members] == [None] * processes
    store = EmbeddingStore(tmp_path, SPEC)
    assert numbers_in(store) == list(range(count))
    assert len(store) == count


def create_and_put(root, rank):
    """Open a store that may not be there yet, and put one row into it."""
    store = EmbeddingStore(root, EmbeddingSpec("s", "e", "p", ("mix",), 4))
    vectors = torch.nn.functional.one_hot(torch.tensor([[rank]]), 4).float()
    embeddings = StemEmbeddings(vectors, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    store.put([f"key{rank}"], [Segment(Path("x.wav"), 0.0, 1.0)], embeddings)


def test_processes_that_create_one_store_at_once_keep_each_others_rows(tmp_path, crew):
    members = crew.take(4)
    for number in range(15):
        for rank, (_, connection) in enumerate(members):
            connection.send((create_and_put, (tmp_path / str(number), rank)))
        assert [answer(connection) for _, connection in members] == [None] * 4
    spec = EmbeddingSpec("s", "e", "p", ("mix",), 4)
    assert [len(EmbeddingStore(tmp_path / str(number), spec)) for number in range(15)] == [4] * 15


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_writers_leave_a_sound_store_that_a_second_run_completes(tmp_path, crew):
    random = np.random.default_rng()  # any moment must do, so each run of the test tries others
    roots = [tmp_path / "a", tmp_path / "b"]
    members = crew.take(4)
    for index, (_, connection) in enumerate(members):  # three writers share one store
        connection.send((fill_for_ever, (roots[index == 1], 2 * index)))
    for index, (process, _) in enumerate(members):
        while len(data_files(roots[index == 1])) < 6 and process.is_alive():
            time.sleep(0.05)
        time.sleep(random.uniform(0.0, 0.7))
        os.kill(process.pid, signal.SIGKILL)
        process.join(WAITING)
        assert process.exitcode == -signal.SIGKILL
    for root in roots:
        store = EmbeddingStore(root, SPEC)
        kept = numbers_in(store, 10_000)
        assert len(kept) >= 4
        assert len(store) == len(kept)
        assert all(number ^ 1 in kept for number in kept)  # whole batches: all begin and end at even numbers
        if root == roots[1]:  # the only writer stored one batch after the other
            assert kept == list(range(2, kept[-1] + 1))
        fill(store, kept[-1] + 20, batch=16)
        store.compact()
        assert numbers_in(EmbeddingStore(root, SPEC), 10_000) == list(range(kept[-1] + 20))
        assert len(store) == kept[-1] + 20


# ---------------------------------------------------------------- corrupt rows


def replace(store, number, **columns):
    """Overwrite columns of a stored row behind the store's back, checksum excepted."""
    table = store._table.raw
    stored = table.search().where(f"key = '{key(number)}'").to_arrow()
    if columns.get("vectors") is nan_first:  # which LanceDB refuses everywhere else
        parts = ", ".join(["CAST('NaN' AS FLOAT)"] * 24)
        values = {"vectors": f"arrow_cast(make_array({parts}), 'FixedSizeList(24, Float32)')"}
        table.update(where=f"key = '{key(number)}'", values_sql=values)
        return
    for name, change in columns.items():
        field = stored.schema.field(name)
        changed = pa.array([change(stored[name][0].as_py())], field.type)
        stored = stored.set_column(stored.schema.get_field_index(name), field, changed)
    table.merge_insert("key").when_matched_update_all().execute(stored)


def nan_first(values):
    return [float("nan"), *values[1:]]


def flipped_sign(values):
    return [-value for value in values[:8]] + values[8:]


CORRUPT = {
    "NaN in a vector": {"vectors": nan_first},
    "infinity in a vector": {"vectors": lambda values: [float("inf"), *values[1:]]},
    "half the norm": {"vectors": lambda values: [value / 2 for value in values]},
    "one value with a stale checksum": {"levels": lambda values: [*values[:-1], values[-1] + 1e-4]},
    "unit vectors with a stale checksum": {"vectors": flipped_sign},
    "NaN in a level": {"levels": nan_first},
    "no level": {"levels": lambda values: None},
    "another checksum": {"checksum": lambda value: value ^ 1},
    "no checksum": {"checksum": lambda value: None},
}


@pytest.mark.parametrize("columns", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_row_is_dropped_logged_and_missing(store, caplog, columns):
    put(store, range(10))
    replace(store, 4, **columns)
    with caplog.at_level(logging.WARNING, logger="stemsim"):
        assert numbers_in(store) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert "Dropped 1 corrupt rows" in caplog.text
    assert store.root in caplog.text
    caplog.clear()
    assert len(store) == 9
    put(store, [4])
    assert numbers_in(store) == list(range(10))
    assert not caplog.records


def test_corrupt_checksum_of_a_sound_norm_is_found_even_with_the_checksum_of_another_row(store, caplog):
    put(store, range(10))
    other = store.get([key(7)]).embeddings
    replace(
        store,
        4,
        vectors=lambda _: other.vectors.flatten().tolist(),
        levels=lambda _: other.levels.flatten().tolist(),
        checksum=lambda _: store._table.raw.search().where(f"key = '{key(7)}'").to_arrow()["checksum"][0].as_py(),
    )
    assert numbers_in(store) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert "Dropped 1 corrupt rows" in caplog.text


# ---------------------------------------------------------------- damaged files


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def overwrite_middle(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xA5 for byte in content[middle : middle + 64])
    path.write_bytes(content)


def overwrite_footer(path):
    # Lengths that are absurd: LanceDB panics over these.
    content = bytearray(path.read_bytes())
    content[-28:-24] = b"\xff\xff\xff\x7f"
    content[-40:-36] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink, overwrite_middle, overwrite_footer])
@pytest.mark.parametrize("when", ["opened before", "opened after"])
def test_rows_outside_a_damaged_file_survive_and_the_log_says_so(copy, caplog, damage, when):
    store = EmbeddingStore(copy, SPEC) if when == "opened before" else None
    damage(data_files(copy)[2])
    store = store or EmbeddingStore(copy, SPEC)
    with caplog.at_level(logging.WARNING, logger="stemsim"):
        kept = numbers_in(store)
    assert 50 <= len(kept) < 60  # one file holds ten rows
    assert "computed again" in caplog.text
    assert str(copy) in caplog.text
    missing = sorted(set(range(60)) - set(kept))
    put(store, missing)
    assert numbers_in(EmbeddingStore(copy, SPEC)) == list(range(60))


def test_a_damaged_file_beside_a_corrupt_row_is_given_up_with_it(copy):
    store = EmbeddingStore(copy, SPEC)
    files = set(data_files(copy))
    replace(store, 4, **CORRUPT["NaN in a vector"])
    assert set(data_files(copy)) > files
    truncate(min(files, key=lambda path: -path.stat().st_mtime_ns))
    kept = numbers_in(EmbeddingStore(copy, SPEC))
    assert 49 <= len(kept) < 60
    assert 4 not in kept
    assert len(EmbeddingStore(copy, SPEC)) == len(kept)


@given(file=st.integers(0, 5), place=st.floats(0, 1), content=st.binary(min_size=1, max_size=16))
@settings(max_examples=15, deadline=None)
def test_no_byte_of_a_data_file_makes_a_wrong_row(tmp_path_factory, full_store, file, place, content):
    root = Path(shutil.copytree(full_store, tmp_path_factory.mktemp("fuzz") / "store"))
    path = data_files(root)[file]
    damaged = bytearray(path.read_bytes())
    start = int(place * (len(damaged) - len(content)))
    damaged[start : start + len(content)] = content
    path.write_bytes(damaged)
    store = EmbeddingStore(root, SPEC)
    assert len(numbers_in(store)) >= 50


@pytest.mark.parametrize("when", ["opened before", "opened after"])
@pytest.mark.parametrize("junk", [b"", b"no manifest" * 50], ids=["empty", "junk"])
def test_junk_manifest_is_a_store_error_that_says_what_to_move_away(copy, junk, when):
    store = EmbeddingStore(copy, SPEC) if when == "opened before" else None
    for manifest in copy.glob("*/_versions/*.manifest"):
        manifest.write_bytes(junk)
    with pytest.raises(StoreError, match=r"move the folder stems_\w+\.lance in it away") as raised:
        numbers_in(store or EmbeddingStore(copy, SPEC))
    assert str(copy) in str(raised.value)
    shutil.rmtree(copy / f"{SPEC.table}.lance")  # the remedy
    put(EmbeddingStore(copy, SPEC), [1])
    assert numbers_in(EmbeddingStore(copy, SPEC)) == [1]


def test_file_in_the_place_of_the_folder_is_a_store_error(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot be opened"):
        EmbeddingStore(tmp_path / "store", SPEC)


def test_folder_that_vanishes_is_a_store_error_at_the_next_put(copy):
    store = EmbeddingStore(copy, SPEC)
    shutil.rmtree(copy)
    copy.write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        put(store, [1])
