"""The page in a real browser, on sounds of known geometry: each has one tone of the bass and one of the drums."""

import csv
import io
import re
import threading
import zipfile
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import soundfile
from app_client import RATE, STEMS, TextEncoder, make_library, page, tone, wav, write_sounds
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, opened
from playwright.sync_api import expect

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.retrieval import Library
from stemsim.separators import Bands

HOSTILE = "x\"><img src=nowhere onerror=document.title=1>\n🎵'.wav"
WEIGHTS = dict(zip(STEMS, (0.2, 0.3, 0.5), strict=True))
SONG = {"name": "song 16.wav", "mimeType": "audio/wav", "buffer": wav(tone(1, 6, seconds=2.0))}
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    sounds = write_sounds(tmp_path_factory.mktemp("app") / "sounds")
    soundfile.write(sounds / HOSTILE, tone(1, 7), RATE)
    library = make_library(tmp_path_factory.mktemp("library"), TextEncoder(), weights=WEIGHTS)
    library.add(sounds)
    return library


@contextmanager
def serving(library, folder):
    """Serve the page of a library; yield its address."""
    with page(library, folder / "private") as served:
        yield str(served.client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def address(library, tmp_path_factory):
    with serving(library, tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def empty(browser, address):
    """The page as it first opens."""
    with opened(browser, address, viewport=WIDE) as view:
        yield view


@pytest.fixture
def searched(empty):
    """The page after a song of the tones 1 and 6 was dropped on it."""
    take_in(empty)
    expect(empty.locator("#rows tr").first).to_be_visible()
    return empty


def take_in(view, file=SONG, place="#reference"):
    view.locator(f"{place} input[type=file]").set_input_files(file)
    expect(view.locator(f"{place} [data-slot=name]")).to_have_text(file["name"])


def names(view):
    return [" ".join(name.split()) for name in view.locator("#rows .name > :first-child").all_inner_texts()]


def first(view, pattern):
    """Wait until the first row has such a name."""
    expect(view.locator("#rows .name").first).to_contain_text(re.compile(pattern))


def listening_for(view, stem):
    """Wait until the rows are ranked by one stem alone."""
    expect(view.locator("#rows .contributions").first).to_have_attribute(
        "aria-label", re.compile(rf"^{stem} -?[\d.]+$")
    )


def player(view, script):
    """Ask the page's own player."""
    return view.evaluate(f"async () => {{ const {{ player }} = await import('/player.js'); {script} }}")


def test_the_sliders_rank_again(searched):
    first(searched, "loop 16")
    assert searched.locator("#weights [type=number]").evaluate_all("all => all.map(one => one.value)") == [
        f"{weight:.2f}" for weight in WEIGHTS.values()
    ]
    searched.get_by_label("Only drums").click()
    listening_for(searched, "drums")
    drums = [name for name in names(searched) if name.startswith("loop")]
    assert all(re.match(r"loop .6", name) for name in drums[:4])
    searched.get_by_label("Only bass").click()
    listening_for(searched, "bass")
    assert [name for name in names(searched) if name.startswith("loop")][:4] != drums[:4]
    searched.get_by_label("Weight of bass, exact").fill("-1")
    searched.keyboard.press("Enter")
    expect(searched.locator("#rows .name").last).to_contain_text(re.compile(r"loop 1|song|x\""))


def test_contributions_sum_to_the_similarity(searched):
    for row in searched.locator("#rows tr").all()[:5]:
        parts = re.findall(r"[\d.]+", row.locator(".contributions").get_attribute("aria-label"))
        similarity = float(row.locator(".similarity").inner_text())
        assert 100 * sum(map(float, parts)) == pytest.approx(similarity, abs=1.6)  # parts have two decimals
        widths = row.locator(".contributions i").evaluate_all("all => all.map(one => parseFloat(one.style.width))")
        assert sum(widths) == pytest.approx(similarity, abs=0.06)


def test_a_slider_moves_by_the_keyboard(searched):
    searched.keyboard.press("2")
    slider = searched.get_by_role("slider", name="drums")
    expect(slider).to_be_focused()
    searched.keyboard.press("End")
    expect(searched.get_by_label("Weight of drums, exact")).to_have_value("2.00")
    searched.keyboard.press("Shift+Digit1")
    expect(searched.get_by_label("Weight of drums, exact")).to_have_value("0.00")
    expect(searched.get_by_label("Weight of bass, exact")).to_have_value("1.00")
    for stem in STEMS:
        searched.get_by_label(f"Weight of {stem}, exact").fill("0")
    searched.keyboard.press("Enter")
    expect(searched.locator("#found")).to_have_text("Every slider is at zero: raise one")


def test_one_request_is_under_way_and_the_newest_slider_position_wins(searched):
    held, weights = [], []

    def hold(route):
        weights.append(route.request.post_data_json["weights"])
        if held:
            route.continue_()
        else:
            held.append(route)

    searched.route("**/rank", hold)
    slider = searched.get_by_role("slider", name="drums")
    for step in range(10):
        slider.evaluate("(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", step / 10)
    expect(searched.get_by_label("Weight of drums, exact")).to_have_value("0.90")
    assert len(held) == 1
    with searched.expect_response(
        lambda answer: (answer.request.post_data_json or {}).get("weights", {}).get("drums") == 0.9
    ):
        held[0].continue_()
    assert [one.get("drums", 0) for one in weights] == [0, 0.9]


def test_arrow_keys_play_and_x_toggles(searched):
    deck = searched.locator("#player")
    searched.keyboard.press("ArrowDown")
    expect(deck).to_have_attribute("data-playing", "result")
    expect(searched.locator("#level")).to_have_attribute("value", re.compile(r"^(0\.[4-9]|1)"))
    second = names(searched)[1]
    searched.keyboard.press("ArrowDown")
    expect(searched.locator("#rows tr[aria-selected=true] .name")).to_contain_text(second)
    expect(deck.locator("[data-slot=result]")).to_have_text(second)
    searched.keyboard.press("x")
    expect(deck).to_have_attribute("data-playing", "x")
    searched.get_by_label("Hear the drums of the reference").click()
    expect(deck.locator("[data-slot=x]")).to_have_text(" drums")
    searched.keyboard.press("Escape")
    expect(deck).to_have_attribute("data-playing", "")
    searched.get_by_label("Describe a sound in words").press("x")
    expect(deck).to_have_attribute("data-playing", "")
    expect(searched.get_by_label("Describe a sound in words")).to_have_value("x")


def test_a_sound_that_arrives_after_a_stop_is_not_heard(searched):
    held = []
    searched.route("**/audio/query/*/bass", lambda route: held.append(route))  # noqa: PLW0108
    searched.get_by_label("Hear the bass of the reference").click()
    searched.wait_for_timeout(100)  # the request is under way
    searched.keyboard.press("Escape")
    held[0].continue_()
    expect(searched.locator("#player")).to_have_attribute("data-playing", "")
    assert player(searched, "await player.load(player.wanted.x.path); return player.playing") is False


def test_switching_between_reference_and_result_leaves_no_gap(searched):
    searched.keyboard.press("ArrowDown")
    expect(searched.locator("#player")).to_have_attribute("data-playing", "result")
    searched.keyboard.press("x")
    expect(searched.locator("#player")).to_have_attribute("data-playing", "x")
    levels = player(
        searched,
        """
        const samples = new Float32Array(player.analyser.fftSize), levels = [];
        for (let frame = 0; frame < 90; frame++) {
            if (frame % 5 === 0) player.toggle();
            await new Promise(requestAnimationFrame);
            player.analyser.getFloatTimeDomainData(samples);
            levels.push(Math.hypot(...samples) / Math.sqrt(samples.length));
        }
        return levels;""",
    )
    assert min(levels) > 0.5 * np.median(levels) > 0


def test_a_long_reference_is_streamed(empty):
    take_in(empty, {**SONG, "name": "long.wav", "buffer": wav(tone(1, 6, seconds=70.0))})
    empty.get_by_label("Hear the bass of the reference").click()
    expect(empty.locator("#player")).to_have_attribute("data-playing", "x")
    expect(empty.locator("#level")).to_have_attribute("value", re.compile(r"^(0\.[4-9]|1)"))
    empty.keyboard.press("Escape")
    expect(empty.locator("#level")).to_have_attribute("value", "0")


def test_results_play_as_loud_as_the_reference(searched):
    rows = searched.locator("#rows tr")
    rows.filter(has_text="kick.wav").click()  # 14 dB below the song; no more than 12 are added
    expect(searched.locator("#player")).to_have_attribute("data-playing", "result")
    gain = "return player.voices.result.gain.gain.value"
    settled = "await new Promise((resolve) => setTimeout(resolve, 60));"
    assert 20 * np.log10(player(searched, settled + gain)) == pytest.approx(12, abs=0.1)
    searched.get_by_text("Same loudness").click()
    assert player(searched, settled + gain) == pytest.approx(1, abs=0.01)


def test_favourites_settings_and_the_query_survive_a_reload(searched):
    for key in ("ArrowDown", "f"):
        searched.keyboard.press(key)
    expect(searched.locator("#rows [aria-pressed=true]")).to_have_count(1)
    searched.get_by_text("Loops like a stem").click()
    searched.get_by_label("Only drums").click()
    searched.keyboard.press("/")
    searched.locator("#filters").get_by_text("loop", exact=True).click()
    expect(searched.locator("#found")).to_contain_text("pass the filters")
    before, selected = names(searched), searched.locator("#rows tr[aria-selected=true]").inner_text()
    searched.reload()
    expect(searched.locator("#found")).to_contain_text("pass the filters")
    assert names(searched) == before
    assert searched.locator("#rows tr[aria-selected=true]").inner_text() == selected
    expect(searched.locator("#reference [data-slot=name]")).to_have_text("song 16.wav")
    expect(searched.get_by_label("Weight of drums, exact")).to_have_value("1.00")
    expect(searched.get_by_label("Loops like a stem")).to_be_checked()
    searched.get_by_text("Favourites 1").click()
    expect(searched.locator("#rows tr")).to_have_count(1)


def test_export(searched):
    shown = names(searched)
    for key in ("ArrowDown", "f", "ArrowDown", "f"):
        searched.keyboard.press(key)

    def export(which, kind):
        searched.keyboard.press("e")
        for choice in (which, kind):
            searched.locator("#exporting").get_by_label(re.compile(choice)).check()
        with searched.expect_download() as saved:
            searched.locator("#exporting").get_by_role("button", name="Export").click()
        return saved.value.path().read_bytes()

    table = list(csv.DictReader(io.StringIO(export("that are shown", "A table").decode())))
    assert [" ".join(row["path"].rpartition("/")[2].split()) for row in table] == shown
    similarities = [float(row["similarity"]) for row in table]
    assert max(np.diff(similarities)) < 1e-9
    with zipfile.ZipFile(io.BytesIO(export("Favourites", "Sounds"))) as archive:
        assert len(archive.namelist()) == 2
    expect(searched.locator("#message")).to_contain_text("Exported 2 sounds")


def test_filters(browser, address):
    with opened(browser, address, refused=("400",)) as view:
        take_in(view)
        view.get_by_text("Filters").first.click()
        view.get_by_text("kick", exact=True).click()
        expect(view.locator("#rows tr")).to_have_count(1)
        view.get_by_text("Clear filters").click()
        expect(view.locator("#found")).not_to_contain_text("pass the filters")
        lowest, highest = view.get_by_label("Lowest tempo, BPM"), view.get_by_label("Highest tempo, BPM")
        lowest.fill("119")
        lowest.press("Enter")
        expect(view.locator("#found")).to_contain_text("pass the filters")
        assert all(name.startswith("loop") for name in names(view))
        highest.fill("1")
        highest.press("Enter")
        expect(view.locator("#message")).to_contain_text("the lower first")


def test_a_silent_stem_says_so_and_its_slider_is_off(empty):
    take_in(empty, {**SONG, "name": "bass.wav", "buffer": wav(tone(1, seconds=2.0))})
    expect(empty.get_by_role("slider", name="drums")).to_be_disabled()
    expect(empty.locator(".slider.silent")).to_have_count(1)
    expect(empty.get_by_role("slider", name="bass")).to_be_enabled()


def test_presets(searched, library):
    searched.get_by_label("Weight of bass, exact").fill("0.25")
    searched.get_by_text("Loops like a stem").click()
    with searched.expect_download() as saved:
        searched.get_by_role("button", name="Save").click()
    text = saved.value.path().read_text()
    assert text == "bass:mix=0.25,drums:mix=0.3,mix=0.5\n"
    assert library.routing(text.strip()).pairs == (("bass", "mix", 0.25), ("drums", "mix", 0.3), ("mix", "mix", 0.5))
    chooser = searched.locator("#weights input[type=file]")
    chooser.set_input_files({"name": "mine.txt", "mimeType": "text/plain", "buffer": b"drums=1,bass=-0.5\n"})
    expect(searched.get_by_label("Weight of bass, exact")).to_have_value("-0.50")
    expect(searched.get_by_label("Whole songs")).to_be_checked()
    chooser.set_input_files({"name": "bad.txt", "mimeType": "text/plain", "buffer": b"tuba=1"})
    expect(searched.locator("#message")).to_contain_text("bad.txt: expected weights such as drums=1")
    expect(searched.get_by_label("Weight of bass, exact")).to_have_value("-0.50")


def test_a_query_that_is_being_taken_in_survives_a_reload(empty, library, monkeypatch):
    go_on, hold = threading.Event(), library.hold
    monkeypatch.setattr(library, "hold", lambda *query, **options: go_on.wait(60) and hold(*query, **options))
    empty.locator("#reference input[type=file]").set_input_files(SONG)
    stage = empty.locator("#reference [data-slot=stage]")
    expect(stage).to_have_text("comparing")
    empty.reload()
    expect(stage).to_have_text("comparing")
    go_on.set()
    expect(empty.locator("#reference [data-slot=name]")).to_have_text(SONG["name"])
    expect(empty.locator("#rows tr").first).to_be_visible()


def test_words_and_more_like_this(empty):
    empty.get_by_label("Describe a sound in words").fill("band 2")
    empty.keyboard.press("Enter")
    first(empty, r"loop 2|song")
    expect(empty.get_by_label("Hear the bass of the reference")).to_be_disabled()
    empty.locator("#rows tr").filter(has_text="loop 37").click()
    empty.keyboard.press("m")
    expect(empty.locator("#reference [data-slot=name]")).to_contain_text("loop 37")
    expect(empty.locator("#rows .name").first).not_to_contain_text("loop 37")  # a sound does not find itself


def test_a_span_is_searched_with(empty):
    both = np.concatenate([tone(0, 4, seconds=3), tone(3, 7, seconds=3)])
    take_in(empty, {**SONG, "name": "two parts.wav", "buffer": wav(both)})
    box = empty.locator("#reference canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    empty.mouse.move(box["x"] + 0.6 * box["width"], middle)
    empty.mouse.down()
    empty.mouse.move(box["x"] + 0.9 * box["width"], middle, steps=3)
    empty.mouse.up()
    start = float(empty.get_by_label("Start of the span, seconds").first.input_value())
    assert start == pytest.approx(0.6 * 6, abs=0.1)
    empty.get_by_role("button", name="Use span").first.click()
    first(empty, "loop 37")


def test_files_that_are_no_sounds_get_a_message_and_the_page_goes_on(browser, address):
    with opened(browser, address, refused=("400",)) as view:
        chooser = view.locator("#reference input[type=file]")
        for content in (b"", b"this is text", b"RIFF\0\0\0\0WAVE"):
            chooser.set_input_files({"name": "notes.mp3", "mimeType": "audio/mpeg", "buffer": content})
            expect(view.locator("#message")).to_contain_text("notes.mp3")
        chooser.set_input_files({"name": "quiet.wav", "mimeType": "audio/wav", "buffer": wav(np.zeros(RATE))})
        expect(view.locator("#message")).to_contain_text("silent")
        take_in(view)
        first(view, "loop 16")
        expect(view.locator("#message")).to_be_hidden()


def test_names_are_text_whatever_they_hold(searched):
    row = searched.locator("#rows tr").filter(has_text="onerror")
    assert " ".join(row.locator(".name > :first-child").inner_text().split()) == " ".join(HOSTILE.split())
    row.click()
    expect(searched.locator("#player")).to_have_attribute("data-playing", "result")
    take_in(searched, {**SONG, "name": "<b>bold</b>.wav"})
    assert searched.locator("img, b b").count() == 0
    assert searched.title() != "1"


def test_dropping_and_recording(empty):
    empty.locator("#search").evaluate(
        """(zone, bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
            zone.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        list(SONG["buffer"]),
    )
    expect(empty.locator("#reference [data-slot=name]")).to_have_text("dropped.wav")
    record = empty.locator("#reference [data-act=record]")
    record.click()
    expect(record).to_have_text("Stop recording")
    empty.evaluate("() => new Promise((resolve) => setTimeout(resolve, 1500))")  # the microphone beeps every second
    record.click()
    expect(empty.locator("#reference [data-slot=name]")).to_have_text("recording.webm")


def test_two_files_are_compared(empty):
    empty.get_by_role("link", name="Compare").click()
    take_in(empty, SONG, "#left")
    take_in(empty, {**SONG, "name": "other.wav", "buffer": wav(tone(1, seconds=2.0))}, "#right")
    rows = empty.locator("#compare tbody tr")
    expect(rows).to_have_count(3)
    assert float(rows.nth(0).locator("td").nth(3).inner_text()) == pytest.approx(1, abs=0.01)
    expect(rows.nth(1)).to_contain_text("silent in the second")
    contributions = [float(row.locator("td").last.inner_text()) for row in rows.all()]
    assert float(empty.locator("#compare tfoot td").last.inner_text()) == pytest.approx(sum(contributions), abs=0.002)
    rows.nth(0).locator("button").last.click()
    expect(empty.locator("#player")).to_have_attribute("data-playing", "result")
    empty.keyboard.press("x")
    expect(empty.locator("#player")).to_have_attribute("data-playing", "x")
    expect(rows.nth(1).locator("button").last).to_be_disabled()


def test_a_folder_is_added_and_the_index_checked(browser, tmp_path):
    sounds = tmp_path / "more sounds"
    sounds.mkdir()
    soundfile.write(sounds / "snare.wav", tone(5), RATE)
    (sounds / "broken.wav").write_bytes(b"RIFF")
    library = make_library(tmp_path / "library")
    library.add(write_sounds(tmp_path / "sounds"))
    with serving(library, tmp_path) as address, opened(browser, address, refused=("400", "404")) as view:
        take_in(view)
        view.get_by_role("link", name="Library").click()
        expect(view.locator("#where")).to_contain_text("20 sounds in 18 files")
        field = view.get_by_label("Folder on this computer")
        field.fill(str(sounds))
        field.press("Enter")
        expect(view.locator("[data-slot=adding]")).to_contain_text("1 files added")
        expect(view.locator("#where")).to_contain_text("21 sounds in 19 files")
        expect(view.locator("[data-slot=failures]")).to_contain_text("broken.wav")
        view.get_by_role("button", name="Check").click()
        expect(view.locator("[data-slot=recall]")).to_contain_text("1.0000")
        field.fill("/no/such/folder")
        field.press("Enter")
        expect(view.locator("#message")).to_contain_text("/no/such/folder")
        view.get_by_role("link", name="Search").click()
        expect(view.locator("#rows")).to_contain_text("snare.wav")  # ranked again by itself
        view.get_by_role("link", name="Model").click()
        expect(view.locator("#model")).to_contain_text("No fitted model")


def test_a_server_that_has_ended_is_said_to(browser, library, tmp_path):
    server = ExitStack()
    address = server.enter_context(serving(library, tmp_path))
    with server, opened(browser, address, refused=("ERR_CONNECTION_REFUSED",)) as view:
        take_in(view)
        first(view, "loop 16")
        server.close()
        view.get_by_label("Only drums").click()
        expect(view.locator("#message")).to_contain_text("The server does not answer")


def test_two_browsers_do_not_disturb_each_other(browser, address):
    with opened(browser, address) as one, opened(browser, address) as other:
        take_in(one)
        take_in(other, {**SONG, "name": "song 24.wav", "buffer": wav(tone(2, 4, seconds=2.0))})
        one.get_by_label("Only drums").click()
        first(one, r"loop .6|song")
        first(other, "loop 24")
        expect(other.get_by_label("Weight of drums, exact")).to_have_value("0.30")


def test_the_overlay_lists_every_key(empty):
    empty.keyboard.press("?")
    overlay = empty.locator("#keys")
    for key in ("space", "X", "Esc", "?", "↓", "↑", "F", "M", "E", "/", "1 to 3", "Shift + 1 to 3"):
        expect(overlay.get_by_text(key, exact=True)).to_be_visible()
    empty.keyboard.press("Escape")
    expect(overlay).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_fits_and_is_accessible(browser, address, size, scheme):
    with opened(browser, address, viewport=size, color_scheme=scheme, reduced_motion="reduce") as view:
        take_in(view, {**SONG, "name": "a name without spaces that is long " * 3 + ".wav"})
        view.locator("#rows tr").first.click()
        view.get_by_text("Filters").first.click()
        assert view.locator("#play").evaluate("one => getComputedStyle(one).transitionDuration") == "0s"
        for tab in ("Search", "Compare", "Model", "Library"):
            view.get_by_role("link", name=tab, exact=True).click()
            expect(view.locator(f"#{tab.lower()}")).to_be_visible()
            assert view.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
            found = Axe().run(view)
            assert found.violations_count == 0, found.generate_report()


def test_a_real_song_among_real_drums(browser, shared_data, tmp_path):
    library = Library(tmp_path / "library", StemEmbedder(Bands(), Spectral(), progress=False))
    library.add([shared_data / "samples/uzu-drumkit" / kind for kind in ("bd", "hh", "sd")], listen=False)
    song, rate = soundfile.read(shared_data / "everything-is-free/hydrogen/mix.ogg", frames=10 * 44_100)
    with serving(library, tmp_path) as address, opened(browser, address) as view:
        take_in(view, {**SONG, "name": "hydrogen.wav", "buffer": wav(song, rate)})
        expect(view.locator("#rows tr").first).to_be_visible()
        equal = view.locator("#rows tr").evaluate_all("all => all.map(one => one.dataset.item)")
        view.get_by_role("slider", name="drums").press("End")
        for stem in ("bass", "residuals", "mix"):
            view.get_by_role("slider", name=stem).press("Home")
        expect(view.get_by_label("Weight of mix, exact")).to_have_value("0.00")
        listening_for(view, "drums")
        assert view.locator("#rows tr").evaluate_all("all => all.map(one => one.dataset.item)") != equal
        view.keyboard.press("Escape")
        view.keyboard.press("ArrowDown")
        expect(view.locator("#player")).to_have_attribute("data-playing", "result")
