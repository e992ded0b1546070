"""The listening test in a real browser, and votes from marks on the results of a search."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from app_client import TOKEN, make_library, page, tone, wav, write_sounds
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, opened
from playwright.sync_api import expect
from typer.testing import CliRunner

import stemsim
from stemsim.app.listen import ListeningSettings, library_test
from stemsim.app.listening import VotesLog
from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.model import StemSimilarity
from stemsim.separators import Bands


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    library = make_library(tmp_path_factory.mktemp("library"))
    library.add(write_sounds(tmp_path_factory.mktemp("app") / "sounds"))
    return library


@pytest.fixture
def served(library, tmp_path):
    settings = ListeningSettings(questions=("rhythm",), trials=4, training=1, break_every=2)
    listening = library_test(library, tmp_path / "votes.csv", settings)
    with page(library, tmp_path / "private", listening=listening) as served:
        yield str(served.client.base_url).rstrip("/"), VotesLog(tmp_path / "votes.csv")


def begin(view, name="anna"):
    view.get_by_role("link", name="Listen").click()
    expect(view.get_by_role("heading", name="Which one sounds more like X?")).to_be_visible()
    view.get_by_label("Your name or number").fill(name)
    view.get_by_role("button", name="Begin").click()
    expect(view.get_by_role("button", name="X", exact=False).first).to_be_enabled()


def hear_all(view):
    expect(view.locator("[data-hear=b]")).to_be_enabled()
    for key, role in (("0", "x"), ("1", "a"), ("2", "b")):
        view.keyboard.press(key)
        expect(view.locator(f"[data-hear={role}]")).to_have_attribute("aria-pressed", "true")


def test_a_whole_test_by_the_keyboard_and_it_goes_on_after_a_reload(browser, served):
    address, log = served
    with opened(browser, address) as view:
        begin(view)
        expect(view.locator("[data-slot=place]")).to_have_text("Training 1 of 5")
        confirm = view.get_by_role("button", name="Confirm")
        view.keyboard.press("1")
        view.keyboard.press("ArrowLeft")
        expect(confirm).to_be_disabled()
        expect(view.locator("#trial input:checked")).to_have_count(0)
        hear_all(view)
        view.keyboard.press("Shift+ArrowLeft")
        expect(view.locator("#trial input[name=overall]:checked")).to_have_value("A+")
        view.keyboard.press("Backspace")
        expect(view.locator("#trial input:checked")).to_have_count(0)
        view.keyboard.press("ArrowRight")
        view.keyboard.press("n")
        expect(confirm).to_be_enabled()
        view.keyboard.press("Enter")
        expect(view.locator("[data-slot=place]")).to_have_text("Trial 2 of 5")
        assert [(row["answer_total"], row["answer_rhythm"]) for row in log.rows()] == [("B-", "NA")]
        assert [int(log.rows()[0][f"plays_{role}"]) for role in "xab"] == [1, 2, 1]
        view.reload()
        expect(view.get_by_label("Your name or number")).to_have_value("anna")
        view.keyboard.press("Enter")
        for number in range(2, 6):
            expect(view.locator("[data-slot=place]")).to_have_text(f"Trial {number} of 5")
            if number == 4:
                expect(view.get_by_role("heading", name="Take a break")).to_be_visible()
                view.keyboard.press("Enter")
            hear_all(view)
            view.keyboard.press("Shift+ArrowRight")
            view.keyboard.press("ArrowLeft")
            view.keyboard.press("Enter")
        expect(view.get_by_role("heading", name="Thank you")).to_be_visible()
    rows = log.rows()
    assert [int(row["trial_index"]) for row in rows] == list(range(5))
    assert {row["subject_id"] for row in rows} == {"anna"}


def test_a_name_typed_before_the_server_answers_stays(browser, served):
    address, _ = served
    waiting = []

    def hold(route):
        waiting.append(route)

    with opened(browser, address) as view:
        view.get_by_role("link", name="Listen").click()
        view.route("**/api/listen", hold)
        view.reload()
        view.get_by_label("Your name or number").fill("berta")
        begin = view.get_by_role("button", name="Begin")
        expect(begin).to_be_disabled()
        view.keyboard.press("Enter")
        waiting[0].continue_()
        begin.click()
        expect(view.get_by_role("button", name="X", exact=False).first).to_be_enabled()
        expect(view.get_by_label("Your name or number")).to_have_value("berta")


def serve(sounds, votes, port):
    """Start `stemsim listen` in a process of its own, and wait for it."""
    options = ("--votes", votes, "--trials", 22, "--training", 1, "--break-every", 0, "--port", port, "--auth", TOKEN)
    command = [sys.executable, "-m", "stemsim.cli", "listen", sounds, *options, "--no-browser"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    assert TOKEN in process.stdout.readline()
    return process


def test_a_session_outlives_kill_9_of_the_server_and_ends_in_weights(browser, tmp_path):
    sounds, votes = write_sounds(tmp_path / "sounds"), tmp_path / "votes.csv"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = serve(sounds, votes, port)
    try:
        with opened(browser, f"http://127.0.0.1:{port}", refused=("ERR_CONNECTION",)) as view:
            view.get_by_label("Your name or number").fill("anna")
            view.get_by_role("button", name="Begin").click()
            for number in range(1, 24):
                expect(view.locator("[data-slot=place]")).to_contain_text(f"{number} of 23")
                hear_all(view)
                view.keyboard.press("Shift+ArrowLeft" if number % 3 else "ArrowRight")
                if number == 9:
                    confirmed = {row["vote_id"] for row in VotesLog(votes).rows()}
                    os.kill(server.pid, signal.SIGKILL)
                    server.wait()
                    view.keyboard.press("Enter")
                    expect(view.get_by_role("alert")).to_contain_text("The server does not answer")
                    server = serve(sounds, votes, port)
                view.keyboard.press("Enter")
            expect(view.get_by_role("heading", name="Thank you")).to_be_visible()
    finally:
        server.kill()
    rows = VotesLog(votes).rows()
    assert len(confirmed) == 8
    assert confirmed <= {row["vote_id"] for row in rows}
    assert [int(row["trial_index"]) for row in rows] == list(range(23)), "every vote once"
    equal = StemSimilarity(StemEmbedder(Bands(), Spectral(), progress=False), dict.fromkeys(Bands.stems, 1.0))
    equal.save(tmp_path / "prior")
    options = ("--prior", tmp_path / "prior", "--output", tmp_path / "mine")
    result = CliRunner().invoke(app, list(map(str, ("personalize", votes, *options))))
    assert result.exit_code == 0, result.output
    assert set(stemsim.load(tmp_path / "mine").weights) == set(Bands.stems)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "narrow"])
def test_it_fits_and_is_accessible(browser, served, size, scheme):
    address, _ = served
    viewport = dict(zip(("width", "height"), size, strict=True))
    with opened(browser, address, viewport=viewport, color_scheme=scheme) as view:
        for step in (lambda: None, lambda: begin(view), lambda: hear_all(view)):
            step()
            assert view.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
            found = Axe().run(view)
            assert found.violations_count == 0, found.generate_report()


def test_marks_on_results_are_votes(browser, served):
    address, log = served
    song = {"name": "mine.wav", "mimeType": "audio/wav", "buffer": wav(tone(1, 6, seconds=2.0))}
    with opened(browser, address, refused=("400",)) as view:
        view.locator("#reference input[type=file]").set_input_files(song)
        view.locator("#rows tr").nth(1).click()
        view.get_by_role("button", name="Alike", exact=True).click()
        expect(view.locator("#message")).to_contain_text("search with a sound of the library")
        view.keyboard.press("m")
        expect(view.locator("#reference [data-slot=name]")).not_to_have_text("mine.wav")
        view.keyboard.press("ArrowDown")
        view.keyboard.press("+")
        expect(view.locator("#message")).to_contain_text("alike: 0 votes on this reference")
        view.keyboard.press("ArrowDown")
        view.keyboard.press("-")
        expect(view.locator("#message")).to_contain_text("not alike: 1 vote on this reference")
    (vote,) = log.rows()
    assert (vote["chosen_by"], vote["answer_total"]) == ("search", "A-")


def test_without_a_votes_file_nobody_is_asked(browser, library, tmp_path):
    with page(library, tmp_path / "private") as served:
        with opened(browser, str(served.client.base_url).rstrip("/")) as view:
            expect(view.get_by_role("link", name="Library")).to_be_visible()
            expect(view.get_by_role("link", name="Listen")).to_be_hidden()
            expect(view.locator("#marks")).to_be_hidden()
        query, _ = served.put(wav(tone(1, 6)))
        assert "--votes FILE" in served.post(f"/api/query/{query}/alike", item="x", alike=True).text
