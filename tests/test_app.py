"""The HTTP API of the page, on sounds of known geometry."""

import csv
import gc
import io
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from app_client import RATE, STEMS, TextEncoder, make_library, page, tone, wav, write_sounds
from fakes import CountingEncoder, EqualBands

from stemsim.app.jobs import Job
from stemsim.embedding import StemEmbedder
from stemsim.retrieval import Library
from stemsim.retrieval.held_query import HeldQuery
from stemsim.separators import MixOnly

SOUND = wav(tone(0, 7, seconds=2.0))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("app") / "sounds")


@pytest.fixture(scope="module")
def library(tmp_path_factory, sounds):
    library = make_library(tmp_path_factory.mktemp("library"), weights=dict(zip(STEMS, (0.2, 0.3, 0.5), strict=True)))
    library.add(sounds)
    return library


@pytest.fixture
def app(library, tmp_path):
    with page(library, tmp_path / "private") as opened:
        yield opened


@pytest.mark.parametrize("weights", [{"drums": 1.0}, {"bass": 1.0, "drums": -0.5}, {"bass:mix": 1.0, "mix": 0.25}])
def test_a_ranking_is_the_search_of_the_library(app, library, tmp_path, weights):
    (tmp_path / "q.wav").write_bytes(SOUND)
    query, job = app.put(SOUND)
    assert (job["state"], job["progress"], job["seconds_left"]) == ("done", 1.0, None)
    answer = app.post(f"/api/query/{query}/rank", weights=weights, k=7, sequence=5).json()
    text = ",".join(f"{name}={weight}" for name, weight in weights.items())
    expected = library.search(tmp_path / "q.wav", routing=text, k=7)
    assert [hit["item"] for hit in answer["hits"]] == [hit.key for hit in expected]
    assert (answer["sequence"], answer["total"]) == (5, 20)
    for hit, own in zip(answer["hits"], expected, strict=True):
        assert hit["similarity"] == pytest.approx(own.similarity, abs=1e-9)
        assert sum(hit["contributions"].values()) == pytest.approx(hit["similarity"])
        shown = 100 * hit["similarity"] / sum(map(abs, weights.values()))
        assert hit["percent"] == pytest.approx(min(100, max(0, shown)))
        assert (hit["name"], hit["folder"]) == (own.path.name, str(own.path.parent))


def test_sliders_decide_what_is_found(app):
    query, _ = app.put(SOUND)
    upper = app.rank(query, weights={"drums": 1}, k=4)
    lower = app.rank(query, weights={"bass": 1}, k=5)
    assert {hit["name"][6] for hit in upper} == {"7"}
    assert {hit["name"][5] for hit in lower if hit["name"] != "kick.wav"} == {"0"}
    own = {"bass": 0.2, "drums": 0.3, "mix": 0.5}
    assert app.rank(query) == app.rank(query, preset="learned") == app.rank(query, weights=own)
    assert app.rank(query, preset="equal")[0]["contributions"].keys() == {"bass", "drums", "mix"}


def test_hits_come_with_the_gain_to_the_level_of_the_query(app):
    query, _ = app.put(SOUND)
    level = app.json(f"/api/query/{query}")["loudness_db"]
    hits = {hit["name"]: hit for hit in app.rank(query, weights={"bass": 1}, k=50)}
    equal = hits["loop 07 120bpm Am.wav"]
    assert equal["gain_db"] == pytest.approx(level - equal["loudness"], abs=1e-3)
    assert hits["kick.wav"]["gain_db"] == 12.0  # not more, however quiet


def test_an_item_is_heard_and_drawn(app, sounds):
    query, _ = app.put(SOUND)
    hit = next(hit for hit in app.rank(query, weights={"mix": 1}, k=50) if hit["name"] == "song.wav")
    answer = app.get(f"/audio/item/{hit['item']}")
    heard, rate = soundfile.read(io.BytesIO(answer.content))
    start = round(hit["start"] * RATE)
    assert (rate, answer.headers["content-type"]) == (RATE, "audio/wav")
    np.testing.assert_allclose(heard, soundfile.read(sounds / "song.wav")[0][start : start + 5 * RATE], atol=1e-4)
    part = app.get(f"/audio/item/{hit['item']}", headers={"Range": "bytes=44-143"})
    assert (part.status_code, part.content) == (206, answer.content[44:144])
    assert app.get(f"/audio/item/{hit['item']}").headers["etag"] == answer.headers["etag"]
    drawn = app.json(f"/api/item/{hit['item']}/peaks?columns=50")
    assert np.shape(drawn["peaks"]) == (50, 2)
    assert np.max(drawn["peaks"]) == pytest.approx(heard.max(), abs=1e-3)


def test_the_stems_of_a_query_are_heard_and_drawn(app):
    low, high = tone(1, seconds=12.3), tone(6, seconds=12.3)  # windows overlap at the end
    query, _ = app.put(wav(low + high))
    for stem, expected in (("bass", low), ("drums", high), ("mix", low + high)):
        heard, rate = soundfile.read(io.BytesIO(app.get(f"/audio/query/{query}/{stem}").content))
        assert (rate, len(heard)) == (RATE, len(expected))
        inner = slice(400, -400)  # filters ring at the ends
        np.testing.assert_allclose(heard[inner], expected[inner], atol=0.02)
    for stem in STEMS:
        drawn = app.json(f"/api/query/{query}/peaks?stem={stem}&columns=80")
        assert (drawn["columns"], drawn["start"], drawn["end"]) == (80, 0.0, pytest.approx(12.3))
        assert 0.09 < np.max(drawn["peaks"]) < 0.25
    assert app.get(f"/audio/query/{query}/guitar").status_code == 404


def test_silence_at_both_ends_is_cut_off_and_named(app):
    still = np.zeros(RATE)
    query, job = app.put(wav(np.concatenate([still, tone(3, seconds=2), still])), name="a b.wav")
    assert "Silence was cut off: 1.00 s to 3.00 s" in job["message"]
    seen = app.json(f"/api/query/{query}")
    assert seen["trimmed"] == seen["span"] == pytest.approx([1.0, 3.0], abs=0.011)
    assert (seen["name"], seen["duration_s"]) == ("a b.wav", 4.0)
    assert [stem["name"] for stem in seen["stems"] if stem["silent"]] == ["drums"]
    answer = app.post(f"/api/query/{query}/rank", weights={"drums": 1})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "ConfigError")
    assert "silent in drums" in answer.json()["error"]["message"]
    assert len(app.json(f"/api/query/{query}/peaks?whole=1&columns=40")["peaks"]) == 40


def test_another_span_of_an_upload_needs_no_upload(app):
    first, _ = app.put(wav(np.concatenate([tone(0, seconds=5), tone(3, seconds=5)])))
    again, _ = app.wait(app.post("/api/query", query=first, **{"from": 5.5, "to": 9.5}))
    assert app.json(f"/api/query/{again}")["span"] == [5.5, 9.5]
    names = [{hit["name"][5] for hit in app.rank(query, weights={"bass": 1}, k=3)} for query in (again,)]
    assert names == [{"3"}]
    answer = app.post("/api/query", query=first, **{"from": 9, "to": 5})
    _, job = app.wait(answer)
    assert "no part from 9 s to 5 s" in job["error"]["message"]
    for wrong in ("nan", "inf", "soon"):
        assert app.client.put("/api/query", content=SOUND, params={"from": wrong}).status_code == 400


def test_an_item_searches_for_others_and_words_for_sounds(app, tmp_path, sounds):
    query, _ = app.put(SOUND)
    item = app.rank(query, weights={"mix": 1}, k=1)[0]
    alike, _ = app.wait(app.post("/api/query", item=item["item"]))
    assert app.json(f"/api/query/{alike}")["name"] == item["name"]
    assert item["item"] not in {hit["item"] for hit in app.rank(alike, k=50)}
    assert app.rank(alike, k=50, include_self=True)[0]["item"] == item["item"]
    _, job = app.wait(app.post("/api/query", text="warm bass"))
    assert "does not encode text" in job["error"]["message"]
    library = make_library(tmp_path / "words", TextEncoder())
    library.add(sounds)
    with page(library, tmp_path / "private2") as words:
        assert words.json("/api/library")["encodes_text"]
        query, _ = words.wait(words.post("/api/query", text="band 7"))
        hits = words.rank(query, k=4)
        assert {hit["name"][6] for hit in hits} == {"7"}
        assert set(hits[0]["contributions"]) == {"mix"}
        assert words.json(f"/api/query/{query}")["loudness_db"] is None
        assert words.get(f"/audio/query/{query}/mix").status_code == 404


def test_conditions_hold_and_wrong_ones_are_named(app):
    query, _ = app.put(SOUND)
    assert {hit["name"] for hit in app.rank(query, where={"category": ["kick"]})} == {"kick.wav"}
    in_key = app.rank(query, where={"musical_key": ["Am"], "bpm": [119, 121], "duration": [0, 3]}, k=50)
    assert len(in_key) == 16
    for body in ({"where": {"bmp": [1, 2]}}, {"where": {"bpm": [5, 1]}}, {"where": {"bpm": "fast"}}, {"k": 0}):
        answer = app.post(f"/api/query/{query}/rank", **body)
        assert answer.status_code == 400, body
        assert next(iter(body.get("where", body))) in answer.json()["error"]["message"]
    for weights in ({"drums": 0}, {"kazoo": 1}, {"drums": 1e999}, {}):
        answer = app.client.post(
            f"/api/query/{query}/rank",
            content=f'{{"weights": {weights}}}'.replace("'", '"').replace("inf", "1e999"),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 400, weights


def test_hits_are_exported_as_a_table_and_as_copies(app, sounds):
    query, _ = app.put(SOUND)
    hits = app.rank(query, weights={"drums": 1, "bass": 0.5}, k=50)
    items = [hit["item"] for hit in hits]
    table = app.post("/api/export", items=items, format="csv", query=query, weights={"drums": 1, "bass": 0.5})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["path"] for row in rows] == [hit["path"] for hit in hits]
    assert [float(row["similarity"]) for row in rows] == pytest.approx([hit["similarity"] for hit in hits])
    assert float(rows[0]["drums"]) == pytest.approx(hits[0]["contributions"]["drums"])
    archive = zipfile.ZipFile(io.BytesIO(app.post("/api/export", items=items, format="zip").content))
    whole = next(place for place, hit in enumerate(hits) if hit["name"] == "loop 07 120bpm Am.wav")
    copied = archive.read(f"{whole + 1:03d} loop 07 120bpm Am.wav")
    assert copied == (sounds / "loop 07 120bpm Am.wav").read_bytes()
    assert len(archive.namelist()) == len(hits)
    assert app.post("/api/export", items=["0" * 32], format="zip").status_code == 404


def test_two_files_are_compared_stem_by_stem(app, library, tmp_path):
    x, _ = app.put(wav(tone(0, 7, seconds=2)))
    a, _ = app.put(wav(tone(0, seconds=2)))
    seen = app.post("/api/compare", x=x, a=a, weights={"bass": 2, "drums": 1}).json()
    bass, drums, mix = seen["stems"]
    assert (bass["cosine"], bass["silent"]) == (pytest.approx(1.0, abs=1e-3), None)
    assert (drums["cosine"], drums["silent"], drums["contribution"]) == (None, "a", 0.0)
    assert (mix["weight"], mix["contribution"]) == (0.0, 0.0)
    assert seen["similarity"] == pytest.approx(2.0, abs=2e-3)
    assert app.post("/api/compare", x=x, a="none").status_code == 404


def test_the_card_of_the_model_is_told(app, tmp_path):
    assert app.get("/api/model").status_code == 404
    embedder = StemEmbedder(MixOnly(), CountingEncoder(), progress=False)
    library = Library(tmp_path / "library", embedder, model="clap-mix", weights={"mix": 1.0})
    with page(library, tmp_path / "private3") as other:
        card = other.json("/api/model")
        assert card["name"] == other.json("/api/library")["model"] == "clap-mix"
        assert [weight["stem"] for weight in card["weights"]] == ["mix"]
        assert card["agreement"][0]["percent"] > 50
        assert "CC0" in card["license"]


def test_a_folder_is_added_and_held_queries_see_it(tmp_path, sounds):
    library = make_library(tmp_path / "library")
    library.add(sounds / "kick.wav")
    new = tmp_path / "new"
    new.mkdir()
    soundfile.write(new / "fresh.wav", tone(0, 7, seconds=1.2), RATE)
    (new / "broken.mp3").write_text("no music")
    with page(library, tmp_path / "private4") as app:
        query, _ = app.put(SOUND)
        assert [hit["name"] for hit in app.rank(query)] == ["kick.wav"]
        _, job = app.wait(app.post("/api/library/add", folder=str(new)))
        assert (job["state"], job["result"]["added"]) == ("done", 1)
        assert [hit["name"] for hit in app.rank(query)] == ["fresh.wav", "kick.wav"]
        seen = app.json("/api/library")
        assert (seen["files"], seen["items"]) == (2, 2)
        (failure,) = seen["failures"]
        assert failure["path"] == str(new / "broken.mp3")
        assert failure["reason"]
        _, job = app.wait(app.post("/api/library/recall"))
        assert "2 items" in job["result"]["sentence"]
        assert {row["recall"] for row in job["result"]["rows"]} == {1.0}
        _, job = app.wait(app.post("/api/library/add", folder=str(tmp_path / "nowhere")))
        assert (job["state"], job["error"]["kind"]) == ("failed", "DataNotFoundError")


def test_eight_queries_are_held_and_the_files_of_others_deleted(app, tmp_path):
    queries = [app.put(SOUND)[0] for _ in range(8)]
    app.rank(queries[0])  # used last
    queries.append(app.put(SOUND)[0])
    gc.collect()
    assert sum(type(one) is HeldQuery and one.query.content is not None for one in gc.get_objects()) == 8
    gone = app.get(f"/api/query/{queries[1]}")
    assert (gone.status_code, gone.json()["error"]["kind"]) == (404, "DataNotFoundError")
    assert "only the last 8" in gone.json()["error"]["message"]
    assert app.rank(queries[0])
    folders = {path for path in (tmp_path / "private").iterdir() if path.is_dir()}
    assert len(folders) == 8
    for _ in range(10):  # what fails takes the place of nothing
        assert app.put(b"no music")[1]["state"] == "failed"
    assert {path for path in (tmp_path / "private").iterdir() if path.is_dir()} == folders
    assert app.rank(queries[0])


class SlowEncoder(CountingEncoder):
    def forward(self, waveforms):
        time.sleep(0.1)
        return super().forward(waveforms)


def test_stages_and_the_time_left_are_reported_and_a_job_is_cancelled(tmp_path, sounds, monkeypatch):
    embedder = StemEmbedder(EqualBands(STEMS, RATE), SlowEncoder(), batch_size=1, progress=False)
    library = Library(tmp_path / "library", embedder)
    library.add(sounds / "kick.wav")
    reports = []
    advance = Job.advance
    monkeypatch.setattr(Job, "advance", lambda job, *args: (reports.append(args), advance(job, *args)))
    with page(library, tmp_path / "private5") as app:
        app.put(wav(tone(2, seconds=25)))
        stages = [stage for place, (stage, *_) in enumerate(reports) if place == 0 or reports[place - 1][0] != stage]
        assert stages == ["reading", *["separating", "embedding"] * 5, "comparing"]
        shares = [share for _, share, *_ in reports]
        assert shares == sorted(shares)
        left = [args[2] for args in reports if args[0] == "separating"]
        assert left[0] is None  # nothing was measured yet
        assert left[1:] == sorted(left[1:], reverse=True)
        assert 0.2 < left[1] < 4.0
        answer, waiting = (app.client.put("/api/query", content=wav(tone(2, seconds=200))) for _ in range(2))
        app.client.delete(f"/api/job/{waiting.json()['job']}")
        assert app.json(f"/api/job/{waiting.json()['job']}")["state"] == "cancelled"
        app.client.delete(f"/api/job/{answer.json()['job']}")
        query, job = app.wait(answer)
        assert job["state"] == "cancelled"
        until = time.monotonic() + 10
        while len([path for path in (tmp_path / "private5").iterdir() if path.is_dir()]) > 1:  # of the first
            assert time.monotonic() < until
            time.sleep(0.01)
        refused = app.post(f"/api/query/{query}/rank")
        assert (refused.status_code, refused.json()["error"]["kind"]) == (409, "NotReadyError")


def test_the_server_answers_while_a_query_is_taken_in(tmp_path, sounds):
    embedder = StemEmbedder(EqualBands(STEMS, RATE), SlowEncoder(), batch_size=1, progress=False)
    library = Library(tmp_path / "library", embedder)
    library.add(sounds / "kick.wav")
    with page(library, tmp_path / "private6") as app:
        job = app.client.put("/api/query", content=wav(tone(2, seconds=50))).json()["job"]
        begun = time.monotonic()
        app.json("/api/library")
        assert time.monotonic() - begun < 0.9  # not the second that the job takes
        assert app.json(f"/api/job/{job}")["state"] in {"queued", "running"}


def test_the_command_prints_one_address_and_leaves_nothing_behind(tmp_path, sounds):
    from stemsim.encoders import Spectral
    from stemsim.separators import Bands

    Library(tmp_path / "library", StemEmbedder(Bands(), Spectral(), progress=False)).add(sounds / "kick.wav")
    command = [sys.executable, "-m", "stemsim.cli", "app", "--library", tmp_path / "library", "--port", "0"]
    environment = {"TMPDIR": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    address = process.stdout.readline()
    assert address.startswith("http://127.0.0.1:")
    assert len(list(tmp_path.glob("stemsim-app-*"))) == 1
    assert httpx.get(address.strip(), follow_redirects=True).status_code == 200  # it has started
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest, errors) == (0, "", "")
    assert not list(tmp_path.glob("stemsim-app-*"))
    refused = subprocess.run(
        [*command, "--host", "0.0.0.0"], capture_output=True, text=True, env=environment, check=False
    )
    assert refused.returncode == 2
    assert "--auth" in refused.stderr
