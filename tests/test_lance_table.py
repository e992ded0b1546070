"""The LanceDB table under store, catalogue and index: errors, conflicts, quoting."""

import pyarrow as pa
import pytest

from stemsim import lance_table
from stemsim.errors import StoreError
from stemsim.lance_table import LanceTable, key_field


SCHEMA = pa.schema([key_field(), pa.field("value", pa.int64())])


class RustPanic(Exception):  # noqa: N818 - LanceDB's own name
    pass


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_table, "_PAUSE", 0.0)
    return LanceTable(tmp_path / "there", "things", what="The shelf", remedy="Tidy up.")


def rows(*keys):
    return pa.table({"key": keys, "value": [len(key) for key in keys]}, schema=SCHEMA)


def failing(times, error):
    def action():
        calls.append(0)
        if len(calls) <= times:
            raise error
        return "done"

    calls = []
    return action


def test_rows_are_upserted_read_and_deleted_by_any_text(table):
    assert not table.exists()
    table.create(SCHEMA, "a card")
    keys = ["it's", '"quoted"', "é\\", "x' OR '1' = '1"]
    table.upsert(rows(*keys))
    table.upsert(rows("it's"))
    assert (table.card, table.count(), table.count("value = 4")) == ("a card", 4, 1)
    assert sorted(table.get([*keys[:3], "nobody"], ["key"])["key"].to_pylist()) == sorted(keys[:3])
    assert table.get([]).num_rows == 0
    table.delete(keys[3:])
    assert sorted(table.select()["key"].to_pylist()) == sorted(keys[:3])
    again = LanceTable(table.root, "things", what="It", remedy="")
    again.create(pa.schema([key_field()]), "another card")  # exists: stays as it is
    assert (again.card, again.count()) == ("a card", 3)


def test_a_conflict_with_another_writer_is_tried_again(table):
    conflict = RuntimeError("Commit conflict for version 3")
    assert table.do("written", failing(2, conflict)) == "done"
    with pytest.raises(StoreError, match=r"The shelf cannot be written: Commit conflict for version 3 Tidy up\."):
        table.do("written", failing(9, conflict))


@pytest.mark.parametrize("error", [OSError("no space\nand a trace"), RustPanic("no space"), ValueError("no space")])
def test_errors_of_lancedb_are_named(table, error):
    with pytest.raises(StoreError, match=r"The shelf cannot be read: (LanceDB panicked \()?no space\)?\.? Tidy up\."):
        table.do("read", failing(1, error))
    with pytest.raises(StoreError, match="The shelf does not exist"):
        table.count()
    with pytest.raises(KeyError):
        table.do("read", failing(1, KeyError("a bug")))
