"""The integrity of a library: all that may be wrong is found and named, and mended; what is right stays."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from fakes import CountingEncoder
from items import stored
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.errors import DataNotFoundError, StemsimError
from stemsim.retrieval import Library
from stemsim.separators import Bands, MixOnly

RATE = 8000


def write(path, seed, seconds=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE)), RATE)
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"sounds/{number}.wav", number, 1.0 + number) for number in range(4)]


@pytest.fixture
def library(tmp_path, files):
    made = Library(tmp_path / "L", StemEmbedder(MixOnly(), CountingEncoder(), progress=False, workers=1), window=1.0)
    made.add(files, listen=False)
    return made


def names(faults):
    return {fault.kind: list(fault.names) for fault in faults}


def keys(library, file):
    rows = library.index.table(["key", "path"]).to_pylist()
    return sorted(row["key"] for row in rows if row["path"] == str(file))


def records(library, file):
    return library._catalogue.records_of([str(file)])


def overwrite_vectors(library, file, vector):
    """Overwrite the vectors of a file behind the library's back."""
    table = library.index._table
    rows = table.get(keys(library, file))
    column = rows.schema.get_field_index("vectors")
    changed = pa.array([vector] * len(rows), rows.schema.field(column).type)
    table.upsert(rows.set_column(column, rows.schema.field(column), changed))


def begin(library, file):
    library._catalogue.put([replace(record, done=False) for record in records(library, file)])


FAULTS = {
    "missing": lambda library, file: file.unlink(),
    "changed": lambda library, file: write(file, 99, 1.5),
    "refused": lambda library, file: file.write_bytes(b"RIFF"),
    "begun": begin,
    "lacking": lambda library, file: library.index.delete(keys(library, file)[:1]),
    "unsound": lambda library, file: overwrite_vectors(library, file, [0.5] + [0.0] * 7),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_and_mended(library, files, kind):
    before = stored(library)
    assert library.check() == []
    FAULTS[kind](library, files[2])
    assert names(library.check()) == {kind: [str(files[2])]}
    assert names(library.check()) == {kind: [str(files[2])]}  # looking has changed nothing
    found, left = library.repair()
    assert names(found) == {kind: [str(files[2])]}
    assert left == (found if kind == "refused" else [])
    kept = [item for item in before if item[0] != str(files[2])]
    if kind == "changed":
        assert [item for item in stored(library) if item[0] != str(files[2])] == kept
        assert len(stored(library)) == len(kept) + 2
    else:
        assert stored(library) == (kept if kind == "missing" else before)
    assert library.repair() == (left, left)


@pytest.mark.parametrize("vector", [[np.inf] + [0.0] * 7, None], ids=["infinity", "no vector"])
def test_vectors_that_are_no_numbers_are_found(library, files, vector):
    before = stored(library)
    overwrite_vectors(library, files[1], vector)
    assert names(library.check()) == {"unsound": [str(files[1])]}
    assert library.repair()[1] == []
    assert stored(library) == before


def test_items_that_no_list_has_are_left_over(library, files):
    before, theirs = stored(library), keys(library, files[3])
    library._catalogue.delete(records(library, files[3]))
    assert names(library.check()) == {"left over": theirs}
    assert library.repair()[1] == []
    assert stored(library) == [item for item in before if item[0] != str(files[3])]
    library.add(files, listen=False)
    assert stored(library) == before


def test_remains_of_another_version_are_removed_and_the_right_one_stays(library, files):
    (record,) = records(library, files[1])
    library._catalogue.put([replace(record, content="0" * 32, done=False)])
    before = stored(library)
    assert names(library.check()) == {"begun": [str(files[1])]}
    assert library.repair()[1] == []
    assert (stored(library), records(library, files[1])) == (before, [record])


def test_a_file_that_was_touched_is_no_fault(library, files):
    os.utime(files[0], ns=(0, 0))  # before it was added, as if the clock had been set back
    assert library.check() == []


@pytest.mark.parametrize("table", ["items", "files"])
def test_a_table_with_a_damaged_file_is_rewritten(library, files, table):
    write(new := files[0].parent / "new.wav", 9)
    library.add(new, listen=False)  # a commit of its own
    data = max(Path(library.root).glob(f"{table}.lance/data/*.lance"), key=lambda path: path.stat().st_mtime_ns)
    data.write_bytes(b"\xff" * data.stat().st_size)
    again = Library(library.root, library.embedder)
    assert names(again.check()) == {"unreadable": [table]}
    found, left = again.repair()
    assert "unreadable" in names(found)
    assert left == []
    again.add([*files, new], listen=False)
    assert len(stored(again)) == 11
    assert again.check() == []


def test_no_file_is_removed_if_all_are_missing(library, files):
    for file in files:
        file.unlink()
    before = stored(library)
    with pytest.raises(DataNotFoundError, match="is their disk mounted"):
        library.repair()
    assert stored(library) == before
    assert len(names(library.check())["missing"]) == 4


@pytest.mark.parametrize("step", ["put", "delete"])
def test_a_repair_that_is_killed_is_completed_by_the_next(library, files, monkeypatch, step):
    before = stored(library)
    overwrite_vectors(library, files[1], [0.5] + [0.0] * 7)
    library.index.delete(keys(library, files[2])[:1])
    act = getattr(library._catalogue, step)

    def dies(of):
        act(of)
        message = "killed"
        raise StemsimError(message)

    monkeypatch.setattr(library._catalogue, step, dies)
    with pytest.raises(StemsimError, match="killed"):
        library.repair()
    monkeypatch.undo()
    assert names(library.check())["begun"] == [str(files[1]), str(files[2])]
    assert library.repair()[1] == []
    assert stored(library) == before


def test_the_command_says_what_it_finds_and_what_it_does(tmp_path):
    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["index", *map(str, arguments), "--library", str(tmp_path / "L")])
        assert result.exit_code == code, result.output
        return result.stdout

    files = [write(tmp_path / f"sounds/{number:02d}.wav", number) for number in range(15)]
    run("add", tmp_path / "sounds", "--separator", "mix", "--no-progress", "--no-measure")
    assert "No damage" in run("check", "--queries", 2)
    for file in files[:12]:
        file.unlink()
    write(files[12], 99)
    said = run("check", "--queries", 2, code=1)
    assert f"12 files no longer exist on the disk.\n  {files[0]}\n" in said
    assert f"  {files[9]}\n  and 2 more" in said
    assert f"1 files have changed since they were added.\n  {files[12]}\n" in said
    assert "--repair" in said
    assert "Least recall@50: 1.0000" in said
    document = json.loads(run("check", "--queries", 2, "--json", code=1))
    assert document["found"] == document["left"]
    assert document["found"][0] == {"kind": "missing", "count": 12, "names": [str(file) for file in files[:12]]}
    files[13].write_bytes(b"RIFF")
    said = run("check", "--repair", "--queries", 2, code=1)
    assert "12 files no longer exist on the disk: removed.\n" in said
    assert "1 files have changed since they were added: indexed again.\n" in said
    assert f"What is left:\n1 files can no longer be read.\n  {files[13]}\n" in said
    write(files[13], 13)
    assert "No damage" in run("check", "--repair", "--queries", 2)
    assert json.loads(run("check", "--queries", 2, "--json"))["items"] == 3


def test_stems_are_looked_at_one_by_one(tmp_path):
    write(file := tmp_path / "a.wav", 0)
    embedder = StemEmbedder(Bands(), CountingEncoder(), progress=False, workers=1, silence=-60.0)
    library = Library(tmp_path / "L", embedder, window=1.0)
    library.add(file, listen=False)
    (items,) = library.index.scan()
    assert library.check() == []
    vector = items.vectors.flatten().numpy().astype(np.float16)
    vector[-8:] *= 0.5
    overwrite_vectors(library, file, vector.tolist())
    assert names(library.check()) == {"unsound": [str(file)]}
