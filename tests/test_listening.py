"""The blind listening test: what is presented, and that no vote is ever lost."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pyloudnorm import Meter
from starlette.testclient import TestClient

from stemsim.app.listen import ListeningSettings, create_listening_test, library_test, markdown_blocks
from stemsim.app.listening import ActiveChoice, AlikeVotes, ListeningTest, Stimuli, VotesLog, matched
from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import ConfigError, TripletError
from stemsim.fitting.listener import WeightPrior, weight_posterior
from stemsim.retrieval import Library
from stemsim.separators import Bands
from stemsim.similarity import StemEmbeddings
from stemsim.triplets import VotesFile

RATE = 8000
TOKEN = "0123456789abcdef"
HEARD = {"x": 1, "a": 2, "b": 1}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Four songs of 12 s and two short samples."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for number, seconds in enumerate([12.0, 12.0, 12.0, 12.0, 0.3, 0.8]):
        soundfile.write(root / f"{number}.wav", 0.1 * rng.normal(size=round(seconds * RATE)), RATE)
    return sorted(root.glob("*.wav"))


@pytest.fixture
def make(sounds, tmp_path):
    def test_of(listener="anna", **options):
        return ListeningTest(Stimuli.of_files(sounds), VotesLog(tmp_path / "votes.csv"), listener=listener, **options)

    return test_of


def answer_all(test, answers=lambda trial: "A+"):
    """Answer all trials; return them."""
    trials = []
    while (trial := test.next()) is not None:
        assert test.vote(trial.vote_id, dict.fromkeys(test.questions, answers(trial)), HEARD)
        trials.append(trial)
    return trials


def test_a_whole_test_is_balanced_and_has_its_checks(make):
    test = make(trials=60, training=3, questions=("timbre",))
    trials = answer_all(test)
    assert len(trials) == 63
    kinds = Counter(trial.kind for trial in trials)
    assert kinds == {"training": 3, "vote": 45, "repeat": 6, "dummy": 3, "same_song": 6}
    assert all(trial.kind == "training" for trial in trials[:3])
    swapped = [swap for kind, _, swap in test.plan if kind == "vote"]
    assert abs(2 * sum(swapped) - len(swapped)) <= 1, "as often in either order as possible"
    by_id = {trial.index: trial for trial in trials}
    for trial, (kind, again, _) in zip(trials, test.plan, strict=True):
        x, a, b = trial.segments
        if kind == "repeat":
            earlier = by_id[again]
            assert earlier.kind == "vote"
            assert (x, b, a) == earlier.segments
            assert trial.index - again >= 5
        elif kind == "dummy":
            assert (x in {a, b}) is True
        elif kind == "same_song":
            assert (x.path == a.path) != (x.path == b.path)
        else:
            assert len({x.path, a.path, b.path}) == 3
    rows = test.log.rows()
    assert [int(row["trial_index"]) for row in rows] == list(range(63))
    assert {row["answer_timbre"] for row in rows} == {"A+"}
    assert {row["answer_melody"] for row in rows} == {"NA"}
    assert all((test.log.path.parent / row["reference"]).exists() for row in rows)


def test_listeners_have_tests_of_their_own_and_the_same_one_goes_on(make):
    first, second = make("anna", trials=20), make("ben", trials=20)
    assert first.next().segments != second.next().segments
    for _ in range(7):
        trial = first.next()
        first.vote(trial.vote_id, {"overall": "B-"}, HEARD)
    waiting = first.next()
    again = make("anna", trials=20)
    assert again.next() == waiting
    assert len(again.votes()) == 7
    assert not second.votes()


def test_what_is_no_answer_is_refused_and_a_vote_counts_once(make):
    test = make(trials=5)
    trial = test.next()
    for wrong, message in (
        ({"overall": "C"}, "Expected one of"),
        ({}, "for overall"),
        ({"overall": "A+", "timbre": "A+"}, "for overall"),
    ):
        with pytest.raises(ConfigError, match=message):
            test.vote(trial.vote_id, wrong, HEARD)
    with pytest.raises(ConfigError, match="Hear X, A and B"):
        test.vote(trial.vote_id, {"overall": "A+"}, {"x": 1, "a": 1})
    with pytest.raises(ConfigError, match="not the trial"):
        test.vote("another", {"overall": "A+"}, HEARD)
    assert test.vote(trial.vote_id, {"overall": "A-"}, HEARD) is True
    assert test.vote(trial.vote_id, {"overall": "B+"}, HEARD) is False
    assert [row["answer_total"] for row in test.log.rows()] == ["A-"]
    for options in ({"listener": " "}, {"trials": 0}, {"questions": ("harmony",)}):
        with pytest.raises(ConfigError):
            make(**options)


def test_a_torn_line_is_skipped_and_the_next_vote_stands_on_its_own(make):
    test = make(trials=5)
    answer_all(test)
    path = test.log.path
    path.write_bytes(path.read_bytes()[:-20])
    assert len(test.log.rows()) == len(test) - 1
    again = make(trials=5)
    (last,) = answer_all(again)
    assert last.index == len(test) - 1
    assert len(again.log.rows()) == len(test)


def test_kill_9_loses_no_vote_that_was_confirmed(sounds, tmp_path):
    code = f"""
import sys
from pathlib import Path
from stemsim.app.listening import ListeningTest, Stimuli, VotesLog
files = [Path(name) for name in sys.argv[2:]]
test = ListeningTest(Stimuli.of_files(files), VotesLog(Path(sys.argv[1])), listener="anna", trials=200)
while (trial := test.next()) is not None:
    test.vote(trial.vote_id, {{"overall": "A+"}}, {HEARD})
    print(trial.vote_id, flush=True)
"""
    path = tmp_path / "votes.csv"
    confirmed = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path), *map(str, sounds)], stdout=subprocess.PIPE, text=True
        )
        confirmed += [process.stdout.readline().strip() for _ in range(15)]
        time.sleep(0.01 * len(confirmed) % 0.03)
        os.kill(process.pid, signal.SIGKILL)
        confirmed += [line.strip() for line in process.stdout if len(line.strip()) == 16]
        process.wait()
    kept = [row["vote_id"] for row in VotesLog(path).rows()]
    assert len(confirmed) >= 30
    assert set(confirmed) <= set(kept)
    assert len(kept) == len(set(kept)) <= len(confirmed) + 2, "at most one a run was written and not yet confirmed"


def test_an_active_test_asks_what_tells_most_and_says_with_which_probability(sounds, tmp_path):
    stimuli, rng = Stimuli.of_files(sounds), np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(len(stimuli.segments), 2, 6))), dim=2)
    present = torch.ones(len(stimuli.segments), 2, dtype=torch.bool)
    embeddings = StemEmbeddings(vectors.float(), torch.zeros(len(vectors), 2), present)
    truth = np.array([1.0, 0.1])
    similarity = torch.einsum("isd,jsd,s->ij", vectors, vectors, torch.from_numpy(truth)).numpy()
    row = {(one.path, one.start): number for number, one in enumerate(stimuli.segments)}

    def prefers(trial):
        x, a, b = (row[one.path, one.start] for one in trial.segments)
        return "A-" if similarity[x, a] > similarity[x, b] else "B-"

    choice = ActiveChoice(embeddings, np.array([0.1, 1.0]))
    log = VotesLog(tmp_path / "votes.csv")
    test = ListeningTest(stimuli, log, listener="anna", trials=40, choice=choice)
    trials = [trial for trial in answer_all(test, prefers) if trial.kind == "vote"]
    at_random = [trial for trial in trials if trial.chosen_by == "random"]
    assert 0 < len(at_random) < len(trials) / 2
    assert all(0.0 < trial.probability < 0.01 for trial in at_random)
    assert all(trial.probability > 0.8 for trial in trials if trial.chosen_by == "active")
    # The votes tell the taste, although the model's is another one.
    deltas, choices = choice.known(stimuli, test.votes_with_paths())
    found = weight_posterior(deltas, choices, WeightPrior.around(np.array([0.1, 1.0]), deltas)).mean
    assert found @ truth / np.linalg.norm(found) / np.linalg.norm(truth) > 0.7, "that of the model is 0.2"


def test_a_table_of_triplets_is_a_fixed_test(sounds, tmp_path):
    names = [path.name for path in sounds]
    rows = [(names[0], names[1], names[2]), (names[3], names[4], names[0]), (names[1], names[1], names[2])]
    table = sounds[0].parent / "test.csv"
    table.write_text("x;a;b;start_x\n" + "".join(f"{x};{a};{b};1,5\n" for x, a, b in rows), encoding="utf-8")
    test = ListeningTest(Stimuli.of_table(table), VotesLog(tmp_path / "votes.csv"), listener="anna", trials=30)
    heard = {tuple(one.path.name for one in trial.segments) for trial in answer_all(test) if trial.kind == "vote"}
    assert {frozenset(one) for one in heard} == {frozenset(row) for row in rows}
    assert {one[0] for one in heard} == {row[0] for row in rows}
    assert {(one.start, one.duration) for one in test.stimuli.segments if one.start} == {(1.5, 10.5)}
    for text, message in (("x,a,b\n", "holds no triplets"), ("x,a,b,start\n0.wav,1.wav,2.wav,soon\n", "are seconds")):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(TripletError, match=message):
            Stimuli.of_table(table)
    table.unlink()


def test_files_of_another_kind_are_not_written_to(tmp_path):
    (tmp_path / "other.csv").write_text("x,a,b\n1,2,3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"file of another kind.*Name a new file"):
        VotesLog(tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_text(encoding="utf-8") == "x,a,b\n1,2,3\n"
    assert VotesLog(tmp_path / "new/votes.csv").rows() == []
    with pytest.raises(TripletError, match="at least 3"):
        Stimuli.of_files([])


@pytest.mark.parametrize(("amplitude", "seconds"), [(0.02, 3.0), (0.2, 3.0), (0.05, 0.2), (0.001, 1.0), (0.0, 1.0)])
def test_sounds_come_at_one_loudness(tmp_path, amplitude, seconds):
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, (round(seconds * 44_100), 2))
    soundfile.write(tmp_path / "x.wav", amplitude * noise, 44_100, subtype="FLOAT")
    content, gain = matched(Segment(Path(tmp_path / "x.wav"), 0.0, seconds))
    samples, rate = soundfile.read(BytesIO(content))
    assert (rate, len(samples)) == (44_100, len(noise))
    assert np.abs(samples).max() <= 1.0
    if amplitude in {0.0, 0.001}:
        assert gain == (0.0 if amplitude == 0.0 else 12.0)
        return
    longer = np.tile(samples, (3, 1)) if seconds < 0.4 else samples
    assert Meter(rate).integrated_loudness(longer) == pytest.approx(-23.0, abs=0.3)


def test_a_library_is_tested_by_its_own_embeddings(sounds, tmp_path):
    library = Library(tmp_path / "L", StemEmbedder(Bands(), Spectral(), progress=False))
    library.add(sounds, listen=False)
    test = library_test(library, tmp_path / "votes.csv", ListeningSettings(trials=20)).test("anna")
    trials = answer_all(test)
    assert {trial.chosen_by for trial in trials} >= {"active", "random"}
    assert {one.path for trial in trials for one in trial.segments} <= set(sounds)
    empty = Library(tmp_path / "E", StemEmbedder(Bands(), Spectral(), progress=False))
    with pytest.raises(TripletError, match="at least 3"):
        library_test(empty, tmp_path / "votes.csv")


def test_marks_on_results_are_votes_of_a_kind_of_their_own(sounds, tmp_path):
    log = VotesLog(tmp_path / "votes.csv")
    marks = AlikeVotes(log)
    x, *others = (Segment(path, 0.0, 0.3) for path in sounds)
    assert marks.mark(x, others[0], alike=True) == 0
    assert marks.mark(x, others[1], alike=False) == 1
    assert marks.mark(x, others[2], alike=True) == 2
    assert marks.mark(x, others[2], alike=True) == 2
    assert marks.mark(others[3], others[1], alike=True) == 0, "another reference"
    with pytest.raises(ConfigError, match="is marked already as not alike"):
        marks.mark(x, others[1], alike=True)
    triplets = {(row["sample_a"], row["sample_b"], row["answer_total"], row["chosen_by"]) for row in log.rows()}
    names = [os.path.relpath(one.path, tmp_path) for one in others]
    assert triplets == {(names[0], names[1], "A-", "search"), (names[2], names[1], "A-", "search")}
    assert len(VotesFile(log.path).read()) == 2


class TestServer:
    @pytest.fixture
    def client(self, sounds, tmp_path):
        app = create_listening_test(
            Stimuli.of_files(sounds),
            tmp_path / "votes.csv",
            token=TOKEN,
            settings=ListeningSettings(questions=("rhythm",), trials=12, training=1, break_every=5),
        )
        with TestClient(app, base_url="http://127.0.0.1") as client:
            client.headers["authorization"] = f"Bearer {TOKEN}"
            yield client

    def test_a_listener_goes_through_the_whole_test_and_is_told_nothing(self, client, tmp_path):
        described = client.get("/api/listen").json()
        assert described["questions"] == ["overall", "rhythm"]
        assert described["trials"] == 13
        assert described["instructions"][0] == {"kind": "h1", "text": "Which one sounds more like X?"}
        state = client.post("/api/listen/next", json={"listener": " anna "}).json()
        pauses = 0
        while (trial := state["trial"]) is not None:
            assert set(trial) == {"vote_id", "training", "pause", "sounds"}
            assert len(set(trial["sounds"].values())) == 3
            for path in trial["sounds"].values():
                answer = client.get(path)
                assert answer.headers["content-type"] == "audio/wav"
                assert soundfile.info(BytesIO(answer.content)).frames > 0
            pauses += trial["pause"]
            vote = {"listener": "anna", "vote_id": trial["vote_id"], "plays": HEARD}
            vote["answers"] = {"overall": "B+", "rhythm": "NA"}
            before = state["done"]
            state = client.post("/api/listen/vote", json=vote).json()
            assert len(VotesLog(tmp_path / "votes.csv").rows()) == before + 1, "before the next trial shows"
            assert client.post("/api/listen/vote", json=vote).json()["done"] == state["done"], "sent twice, kept once"
        assert state == {"done": 13, "total": 13, "trial": None}
        assert pauses == 2

    def test_wrong_requests_are_answered_in_words(self, client):
        trial = client.post("/api/listen/next", json={"listener": "anna"}).json()["trial"]
        vote = {"listener": "anna", "vote_id": trial["vote_id"], "answers": {"overall": "A+"}, "plays": HEARD}
        for path, body, status, message in (
            ("/api/listen/vote", vote, 400, "for overall, rhythm"),
            ("/api/listen/vote", {**vote, "listener": "ben"}, 400, "not the trial"),
            ("/api/listen/next", {"listener": ""}, 400, "not as documented"),
            ("/api/listen/next", {"listener": "  "}, 400, "has a name"),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == status
            assert message in answer.json()["error"]["message"]
        assert client.get("/audio/listen/nothing").status_code == 404
        assert client.get("/api/listen", headers={"authorization": ""}).status_code == 401
        assert client.get("/api/listen", headers={"host": "evil.example"}).status_code == 400
        refused = client.post("/api/listen/next", content="{}", headers={"content-type": "text/plain"})
        assert refused.status_code == 415

    def test_instructions_are_markdown(self):
        text = "# Title\n\nA line\nthat goes on.\n\n## Part\n- one\n- two <b>\n"
        assert markdown_blocks(text) == [
            {"kind": "h1", "text": "Title"},
            {"kind": "p", "text": "A line that goes on."},
            {"kind": "h2", "text": "Part"},
            {"kind": "li", "text": "one"},
            {"kind": "li", "text": "two <b>"},
        ]
