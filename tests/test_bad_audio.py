"""Good and bad audio through every entry: a result, or an error that names the file, the reason and what to do."""

import csv
import json
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from app_client import page
from bad_audio import CASES, RATE, WAV, signal, write_cases
from starlette.testclient import TestClient
from typer.testing import CliRunner

import stemsim
from stemsim.app.listen import create_listening_test
from stemsim.app.listening import Stimuli
from stemsim.audio import Segment
from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import AudioError, StemsimError, TripletError
from stemsim.model import StemSimilarity
from stemsim.retrieval import Library
from stemsim.separators import Bands

STEMS = Bands.stems
TOKEN = "a-token-that-only-tests-know"


@dataclass(frozen=True)
class Outcome:
    """What became of a file."""

    kind: str
    message: str = ""


def embedder():
    return StemEmbedder(Bands(), Spectral(), progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The files of all cases, and three good ones."""
    root = tmp_path_factory.mktemp("audio")
    (root / "cases").mkdir()
    for number, sound in enumerate([signal(), signal()[::-1], signal(0.4)]):
        soundfile.write(root / f"good{number}.wav", 0.9 * sound, RATE)
    return root


@pytest.fixture(scope="module")
def paths(root):
    return write_cases(root / "cases")


def command(*arguments):
    """Run a command; return what it prints as JSON, or the message with which it ends."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in {0, 2}, (result.output, result.exception)
    assert "Traceback" not in result.output
    return (json.loads(result.stdout), "") if result.exit_code == 0 else (None, result.stderr)


def outcome(silent, message=""):
    if message and " is silent" not in message:
        return Outcome("refused", message)
    return Outcome("silent" if message or silent else "works", message)


@pytest.fixture(scope="module")
def by_api(root):
    StemSimilarity(embedder(), dict.fromkeys(STEMS, 1.0)).save(root / "model")
    model = stemsim.load(str(root / "model"))

    def entry(path):
        try:
            explanation = model.explain(path, root / "good0.wav")
        except StemsimError as error:
            return outcome(None, str(error))
        assert np.isfinite(explanation.similarity)
        return outcome(len(explanation.silent) == len(STEMS))

    return entry


@pytest.fixture(scope="module")
def by_compare(root):
    def entry(path):
        found, message = command("compare", path, root / "good0.wav", "--json")
        return outcome(found and len(found["silent"]) == len(STEMS), message)

    return entry


@pytest.fixture(scope="module")
def indexed(root, paths):
    """The library of a folder with all files, and the report of its making."""
    del paths
    report, message = command("index", root, "--library", root / "L", "--no-progress", "--json")
    assert not message
    return root / "L", report


def kinds_of(path, library, report):
    """Return whether a file is among the failures of a report, the silent ones, and those in the library."""
    held = Library(library, embedder()).index.table(["path"])["path"].to_pylist()
    failed = [failure["path"] for failure in report["failures"]]
    return str(path) in failed, str(path) in report["silent"], str(path) in held


@pytest.fixture(scope="module")
def by_index(indexed):
    def entry(path):
        library, report = indexed
        if (places := sum(kinds_of(path, library, report))) == 0:  # a long one, which was not there yet
            report, message = command("index", path, "--library", library, "--no-progress", "--json")
            assert not message
        assert (places := sum(kinds_of(path, library, report))) == 1, places
        reasons = [failure["reason"] for failure in report["failures"] if failure["path"] == str(path)]
        return outcome(str(path) in report["silent"], f"{path}: {reasons[0]}" if reasons else "")

    return entry


@pytest.fixture(scope="module")
def by_search(indexed):
    def entry(path):
        found, message = command("search", path, "--library", indexed[0], "--json")
        return Outcome("nothing found") if found is not None and not found["hits"] else outcome(None, message)

    return entry


@pytest.fixture(scope="module")
def by_embed(root):
    def entry(path):
        folder = root / "embed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with (folder / "votes.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("x", "a", "b", "answer"), (path, root / "good0.wav", root / "good1.wav", "A")])
        reader = {"class_path": "stemsim.triplets.VotesFile", "init_args": {"path": str(folder / "votes.csv")}}
        settings = {
            "trainer": {"default_root_dir": str(folder / "run"), "logger": False},
            "data": {"triplets": reader, "store": str(folder / "store"), "progress": False},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        result = CliRunner().invoke(app, ["embed", "-c", str(folder / "config.yaml")])
        assert result.exit_code in {0, 2}, (result.output, result.exception)
        # The table counts the segments in which each stem sounds.
        return outcome("3 of 3" not in result.stdout, result.stderr.partition("error: ")[2])

    return entry


@pytest.fixture(scope="module")
def by_page(indexed, tmp_path_factory):
    with page(Library(indexed[0], embedder()), tmp_path_factory.mktemp("private") / "x") as opened:

        def entry(path):
            query, job = opened.put(path.read_bytes(), name=path.name)
            if job["state"] == "failed":
                assert job["error"]["kind"] != "Unexpected", job
                return outcome(None, job["error"]["message"])
            assert opened.rank(query)
            return Outcome("works")

        yield entry


@pytest.fixture(scope="module")
def by_listening(root):
    def entry(path):
        try:
            stimuli = Stimuli.of_files([path, *(root / f"good{number}.wav" for number in range(3))])
        except StemsimError as error:
            return outcome(None, str(error))
        if all(segment.path != path for segment in stimuli.segments):
            return Outcome("silent")
        test = create_listening_test(stimuli, root / "votes.csv", token=TOKEN)
        with TestClient(test, base_url="http://127.0.0.1", headers={"authorization": f"Bearer {TOKEN}"}) as client:
            trial = client.post("/api/listen/next", json={"listener": "anna"}).json()["trial"]
            answers = [client.get(place) for place in trial["sounds"].values()]
        errors = [answer.json()["error"]["message"] for answer in answers if answer.status_code != 200]
        return outcome(None, errors[0] if errors else "")

    return entry


COSTLY = ("compare", "search", "embed", "page")
FEW = {
    "one sample",
    "silence",
    "NaN",
    "opposite phase",
    "half a wav",
    "text",
    "link to itself",
    "name: NFD",
    "name: newline",
}
NOT_IN_A_FOLDER = {"nothing", "folder"}  # a folder is searched, whatever its name


def attacks():
    """Return every entry with every file that can come in there; `attack` marks what takes too long for every day."""
    found = []
    for entry in ("api", "index", "listening", *COSTLY):
        for case in CASES:
            if (entry == "page" and not case.plain) or (entry == "index" and case.name in NOT_IN_A_FOLDER):
                continue
            rare = case.long or (entry in COSTLY and case.name not in FEW)
            marks = [pytest.mark.attack] if rare else []
            found.append(pytest.param(entry, case, id=f"{entry}-{case.name}", marks=marks))
    return found


@pytest.mark.parametrize(("entry", "case"), attacks())
def test_every_file_is_treated_alike_by_every_entry(request, paths, entry, case):
    if case.long and not paths[case.name].exists():
        case.write(paths[case.name])
    seen = request.getfixturevalue(f"by_{entry}")(paths[case.name])
    if case.short and entry in {"api", "compare", "embed"}:  # elsewhere, clips are padded
        assert (seen.kind, "is too short for the encoder" in seen.message) == ("refused", True), seen
    else:
        reason = case.reason if case.plain or entry != "embed" else "are missing"
        assert (seen.kind, reason in " ".join(seen.message.split())) == (case.kind, True), seen
    if seen.message:
        assert case.file in seen.message


def test_good_files_beside_bad_ones_are_all_found(root, paths, indexed):
    library, report = indexed
    held = set(Library(library, embedder()).index.table(["path"])["path"].to_pylist())
    assert {str(paths[case.name]) for case in CASES if case.kind == "works" and not case.long} <= held
    assert report["added"] == len(held | set(report["silent"]))
    for number in range(3):
        path = root / f"good{number}.wav"
        found, _ = command("search", path, "--library", library, "--include-self", "--json", "-k", 1)
        assert found["hits"][0]["path"] == str(path)


def test_names_are_kept_in_the_form_that_the_disk_has(indexed, paths):
    library = Library(indexed[0], embedder())
    held = set(library.index.table(["path"])["path"].to_pylist())
    for form in ("NFC", "NFD"):
        path = paths[f"name: {form}"]
        assert unicodedata.is_normalized(form, path.name)
        assert str(path) in held


def test_channels_in_opposite_phase_are_compared_by_one_of_them(paths, root, by_api, caplog):
    model = stemsim.load(str(root / "model"))
    left = root / "left.wav"
    soundfile.write(left, signal(), RATE)
    assert model(paths["opposite phase"], left) == pytest.approx(4.0, abs=1e-6)
    soundfile.write(root / "other.wav", signal()[:, None] * [1, -1], RATE)
    model(root / "other.wav", left)
    assert "other.wav: its channels cancel each other out in mono; the louder channel is used" in caplog.text


def test_silent_stems_add_nothing_and_a_piece_is_like_itself(paths, root, by_api):
    model = stemsim.load(str(root / "model"))
    one = model.explain(paths["DC"], root / "good0.wav")
    assert one.silent == {"residuals": "a"}
    assert one.contributions["residuals"] == 0.0
    assert model.explain(paths["DC"], paths["DC"]).similarity == pytest.approx(3.0, abs=1e-6)
    nothing = model.explain(paths["silence"], paths["silence"])
    assert (nothing.similarity, set(nothing.silent.values())) == (0.0, {"both"})
    good = root / "good0.wav"
    assert model.explain(good, good).similarity == pytest.approx(4.0, abs=1e-6)
    assert model.prefer(good, paths["silence"], paths["silence"]) == 0.0


def test_a_file_that_may_not_be_opened_is_named_and_stops_nothing(root, tmp_path, by_api, by_compare, monkeypatch):
    for name in ("locked.wav", "good.wav"):
        shutil.copy(root / "good0.wav", tmp_path / name)
    opened = Path.open

    def denied(path, *arguments, **options):  # `chmod 0` does not stop root
        if path.name == "locked.wav":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    for entry in (by_api, by_compare):
        assert "Permission denied" in entry(tmp_path / "locked.wav").message
    report = Library(tmp_path / "L", embedder()).add(tmp_path)
    assert (report.added, [failure.path.name for failure in report.failures]) == (1, ["locked.wav"])
    assert "Permission denied" in report.failures[0].reason


@pytest.fixture
def changing(tmp_path, monkeypatch):
    """A file beside a good one that becomes another one while it is read for the first time."""
    path = tmp_path / "sounds/x.wav"
    path.parent.mkdir()
    WAV(path)
    soundfile.write(path.with_name("good.wav"), signal(0.4), RATE)
    read, changes = soundfile.read, iter([0.3 * signal()[::-1]])

    def changed_first(file, *arguments, **options):
        if Path(file).name == "x.wav" and (sound := next(changes, None)) is not None:
            soundfile.write(path, sound, RATE)
        return read(file, *arguments, **options)

    monkeypatch.setattr("stemsim.audio.files.soundfile.read", changed_first)
    return path


def test_a_file_that_changes_while_it_is_embedded_is_not_stored_under_its_old_content(changing, tmp_path):
    stored = StemEmbedder(Bands(), Spectral(), store=tmp_path / "store", progress=False)
    with pytest.raises(AudioError, match=r"x\.wav changed while it was being read\. Run this again"):
        stored.embed([Segment.whole(changing)])
    assert len(stored.store) == 0
    assert torch.equal(
        stored.embed([Segment.whole(changing)]).vectors, embedder().embed([Segment.whole(changing)]).vectors
    )


def test_a_file_that_changes_while_it_is_indexed_is_listed_and_added_the_next_time(changing, tmp_path):
    library = Library(tmp_path / "L", embedder())
    report = library.add(changing.parent, listen=False)
    assert report.added == 1
    assert [(failure.path, "changed while" in failure.reason) for failure in report.failures] == [(changing, True)]
    assert library.add(changing.parent, listen=False).added == 1
    assert library.search(changing, include_self=True, k=1)[0].similarity == pytest.approx(4.0, abs=1e-3)


def test_a_listening_test_has_no_silent_and_no_damaged_sounds(paths, root, tmp_path, caplog):
    goods = [root / f"good{number}.wav" for number in range(3)]
    stimuli = Stimuli.of_files([paths["silence"], *goods])
    assert [segment.path for segment in stimuli.segments] == goods
    assert f"{paths['silence']} is silent and left out" in caplog.text
    with pytest.raises(TripletError, match=r"not silent; got 2 of 3"):
        Stimuli.of_files([paths["silence"], *goods[:2]])
    half = tmp_path / "half.wav"
    soundfile.write(half, np.concatenate([np.zeros(5 * RATE), signal(5.0)]), RATE)
    assert [one.start for one in Stimuli.of_files([half, *goods]).segments] == [5.0, 0.0, 0.0, 0.0]
    table = tmp_path / "triplets.csv"
    table.write_text(f"x,a,b\n{goods[0]},{goods[1]},{paths['silence']}\n", encoding="utf-8")
    with pytest.raises(TripletError, match=r"line 2: .*is silent"):
        Stimuli.of_table(table)
