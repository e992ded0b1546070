"""Attacks on the page's server, each of which is refused with a message, after which the page lives on."""

import contextlib
import http.client
import io
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from app_client import RATE, TOKEN, make_library, page, tone, wav, write_sounds

from stemsim.app.queries import Queries
from stemsim.app.security import check_binding
from stemsim.errors import ConfigError

SOUND = wav(tone(0, 7, seconds=2.0))
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A library and its sounds, which each test copies."""
    root = tmp_path_factory.mktemp("safety")
    library = make_library(root / "library")
    library.add(write_sounds(root / "sounds"))
    return root


@pytest.fixture
def library(original, tmp_path):
    library = make_library(tmp_path / "library")
    shutil.copytree(original / "sounds", tmp_path / "sounds")
    library.add(tmp_path / "sounds", listen=False)
    return library


@pytest.fixture
def app(library, tmp_path):
    with page(library, tmp_path / "private", upload_bytes=MEGABYTE) as opened:
        yield opened
        query, job = opened.put(SOUND)  # it lives on
        assert job["state"] == "done"
        assert opened.rank(query)


@pytest.fixture
def stranger(app):
    """A client without the token."""
    with httpx.Client(base_url=app.client.base_url) as client:
        yield client


def error(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


def raw(app, method, path, body=None, **headers):
    """Send a request as it is written: `httpx` would tidy its path."""
    connection = http.client.HTTPConnection("127.0.0.1", app.client.base_url.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_paths_lead_nowhere_else(app):
    query, _ = app.put(SOUND)
    secret = Path(__file__).read_bytes()[:40]
    up = "../" * 12
    for climb in (up, up.replace("/", "%2f"), up.replace("..", "%2e%2e"), up.replace("/", "%5c"), "//", "%00"):
        for start in ("/", "/static/", "/audio/item/", f"/audio/query/{query}/", "/api/query/", "/api/job/"):
            status, content = raw(app, "GET", f"{start}{climb}{str(__file__)[1:]}")
            assert status in {400, 404}, (start, climb)
            assert secret not in content
    assert raw(app, "GET", f"/audio/query/{query}/upload")[0] == 404
    assert raw(app, "GET", "/audio/item/x%27%20or%20true%20--")[0] == 404
    message = error(app.post("/api/export", items=["' or true --", "../../etc/passwd"], format="zip"), 404)
    assert "has no item" in message


def test_a_file_that_became_a_link_to_elsewhere_is_not_read(app, tmp_path):
    query, _ = app.put(SOUND)
    hit = app.rank(query, weights={"mix": 1}, k=1)[0]
    elsewhere = tmp_path / "private.wav"
    soundfile.write(elsewhere, tone(5), RATE)
    Path(hit["path"]).unlink()
    Path(hit["path"]).symlink_to(elsewhere)
    for answer in (
        app.get(f"/audio/item/{hit['item']}"),
        app.get(f"/api/item/{hit['item']}/peaks"),
        app.post("/api/export", items=[hit["item"]], format="zip"),
        app.post("/api/query", item=hit["item"]),
    ):
        assert "outside the library's folders" in error(answer, 400)
    folder = Path(hit["path"]).parent
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path, target_is_directory=True)  # the whole folder, too
    (tmp_path / Path(hit["path"]).name).write_bytes(elsewhere.read_bytes())
    assert "outside the library's folders" in error(app.get(f"/audio/item/{hit['item']}"), 400)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8423", "[::2]", "["]
)
def test_another_name_for_this_machine_is_refused(app, host):
    status, content = raw(app, "GET", "/api/library", Host=host)
    assert status == 400
    assert b"Open the address" in content


def test_pages_of_other_sites_may_not_do_anything(app):
    query, job = app.put(SOUND)
    own = f"http://127.0.0.1:{app.client.base_url.port}"
    rank, body = f"/api/query/{query}/rank", b"{}"
    kind = {"Content-Type": "application/json"}
    assert raw(app, "POST", rank, body, Origin=own, **kind, **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    foreign = [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}]
    foreign += [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
    for headers in foreign:
        assert raw(app, "POST", rank, body, **headers, **kind)[0] == 403
        assert raw(app, "POST", rank, body, **headers, **{"Content-Type": "text/plain"})[0] == 403
        assert raw(app, "PUT", "/api/query", SOUND, **headers)[0] == 403
        assert raw(app, "DELETE", f"/api/job/{job['id']}", **headers)[0] == 403
    for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert raw(app, "POST", rank, body, **{"Content-Type": other})[0] == 415
    assert "access-control-allow-origin" not in app.get("/api/library").headers


def test_nothing_but_the_page_itself_is_open_without_the_token(app, stranger):
    query, job = app.put(SOUND)
    item = app.rank(query)[0]["item"]
    asked = ["library", "model", f"job/{job['id']}", f"query/{query}", f"query/{query}/peaks", f"item/{item}/peaks"]
    for path in [*(f"/api/{name}" for name in asked), f"/audio/item/{item}", f"/audio/query/{query}/mix"]:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": f"token={TOKEN}"}):
            assert "the terminal shows" in error(stranger.get(path, headers=headers), 401)
    assert stranger.put("/api/query", content=SOUND).status_code == 401
    assert stranger.post("/api/compare", json={"x": query, "a": query}).status_code == 401
    assert stranger.get("/").status_code == 200
    assert stranger.get("/", params={"token": "wrong"}).status_code == 401
    entered = stranger.get("/", params={"token": TOKEN})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert stranger.get("/api/library").status_code == 200


def test_every_answer_restricts_what_a_browser_does_with_it(app, stranger):
    answers = [app.get(path) for path in ("/", "/nothing", "/api/library", "/api/job/none")]
    answers += [stranger.get("/api/library"), app.client.put("/api/model"), app.get("/", params={"token": "wrong"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not {"server", "access-control-allow-origin"} & set(answer.headers) - {"server"}


def private_files(tmp_path):
    return [path for path in (tmp_path / "private").rglob("*") if path.is_file()]


def test_large_and_endless_uploads_are_cut_off(app, tmp_path):
    def endless():
        nonlocal sent
        while True:
            sent += 65_536
            yield bytes(65_536)

    sent = 0
    assert "larger than 1 MB" in error(app.client.put("/api/query", content=bytes(2 * MEGABYTE)), 413)
    with contextlib.suppress(httpx.TransportError):  # it may be cut off before the answer is read
        assert "larger than 1 MB" in error(app.client.put("/api/query", content=endless()), 413)
    assert sent < 100 * MEGABYTE
    assert "at most" in error(app.post("/api/query", text="x" * 2 * MEGABYTE), 413)
    assert not private_files(tmp_path)


def test_an_upload_that_breaks_off_leaves_nothing_behind(app, tmp_path):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", app.client.base_url.port)) as connection:
            head = f"PUT /api/query HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + bytes(1000))
            until = time.monotonic() + 10
            while not private_files(tmp_path) and time.monotonic() < until:
                time.sleep(0.01)
            assert private_files(tmp_path)
        while private_files(tmp_path) and time.monotonic() < until:
            time.sleep(0.01)
        assert not private_files(tmp_path)


def test_slow_uploads_at_once_are_limited(app):
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", app.client.base_url.port)))
            head = f"PUT /api/query HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode())
        until = time.monotonic() + 10
        while (answer := app.client.put("/api/query", content=b"")).status_code != 429:
            assert time.monotonic() < until
        assert "already" in error(answer, 429)
    while app.client.put("/api/query", content=SOUND).status_code == 429:
        assert time.monotonic() < until


def long_wav():
    """Two hours at the cost of a short file."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(7200 * 100, np.float32), 100, format="WAV", subtype="PCM_U8")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"These are words.\n" * 50, "words.mp3", "words.mp3"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://example.com/a.ts\n", "list.mp3", "list.mp3"),
        (b"<svg onload=alert(1)>" * 9, "picture.wav", "picture.wav"),
        (long_wav(), "set.wav", "set.wav lasts 120.0 min; a query lasts at most 15 min. Cut it"),
        (np.random.default_rng(0).bytes(100_000), "noise.flac", "noise.flac"),
    ],
)
def test_what_is_no_music_is_named(app, content, name, message, tmp_path):
    begun = time.monotonic()
    query, job = app.put(content, name=name)
    assert job["state"] == "failed"
    assert message in job["error"]["message"]
    assert str(tmp_path) not in job["error"]["message"]
    assert time.monotonic() - begun < 5
    assert error(app.post(f"/api/query/{query}/rank"), 409)


NAMES = [
    "<img src=x onerror=alert(1)>.wav",
    "\"quotes' & %s {0}.wav",
    "new\nline\r\ttab.wav",
    "🥁 été 鼓.wav",
    "=cmd().wav",
]


@pytest.mark.parametrize("name", NAMES)
def test_strange_names_stay_as_they_are(app, name, tmp_path):
    query, job = app.put(SOUND, name=name)
    assert (job["state"], app.json(f"/api/query/{query}")["name"]) == ("done", name)
    for climbing in ("../../../evil.wav", "/etc/evil.wav", "a\x00b.wav"):
        assert app.put(SOUND, name=climbing)[1]["state"] == "done"
    assert not list(tmp_path.rglob("evil.wav"))
    folder = tmp_path / "strange"
    folder.mkdir()
    soundfile.write(io.BytesIO(), tone(1), RATE, format="WAV")
    (folder / name).write_bytes(wav(tone(1, 5)))
    app.wait(app.post("/api/library/add", folder=str(folder)))
    hit = next(hit for hit in app.rank(query, k=50) if hit["name"] == name)
    assert app.get(f"/audio/item/{hit['item']}").status_code == 200
    for kind in ("zip", "csv"):
        answer = app.post("/api/export", items=[hit["item"]], format=kind)
        assert answer.status_code == 200
        assert "\n" not in answer.headers["content-disposition"]


def test_a_library_may_change_and_vanish(app, library, tmp_path):
    query, _ = app.put(SOUND)
    first, second, *_ = app.rank(query, weights={"mix": 1})
    Path(first["path"]).unlink()
    assert "No file at" in error(app.get(f"/audio/item/{first['item']}"), 404)
    Path(second["path"]).write_bytes(b"no longer music")
    assert error(app.get(f"/audio/item/{second['item']}"), 400)
    library.remove(second["path"])
    assert "Search again" in error(app.get(f"/audio/item/{second['item']}"), 404)
    away = tmp_path / "away"
    (tmp_path / "library").rename(away)
    assert app.rank(query, weights={"bass": 1})  # from memory
    for answer in (app.get("/api/library"), app.get(f"/audio/item/{first['item']}")):
        assert str(tmp_path / "library") in error(answer, 503)
    _, job = app.put(SOUND)
    assert (job["state"], job["error"]["kind"]) == ("failed", "StoreError")
    away.rename(tmp_path / "library")


def test_two_browsers_at_once(app):
    def browse(band):
        for _ in range(3):
            query, _ = app.put(wav(tone(band, seconds=2)), name=f"{band}.wav")
            for k in (1, 2, 3):
                hits = app.rank(query, weights={"bass": 1}, k=k, where={"category": ["drums", "perc", "fx", "kick"]})
                names = {hit["name"] for hit in app.rank(query, weights={"bass": 1}, k=4)}
                assert {name[5] for name in names if name.startswith("loop")} == {str(band)}
                assert len(hits) <= k
            assert app.json(f"/api/query/{query}")["name"] == f"{band}.wav"
        return True

    with ThreadPoolExecutor(2) as browsers:
        assert list(browsers.map(browse, (2, 3))) == [True, True]


def test_an_error_of_ours_is_logged_and_told_without_details(app, monkeypatch, caplog):
    def fails(*_args, **_options):
        raise RuntimeError("the secret cause")

    query, _ = app.put(SOUND)
    with monkeypatch.context() as patched:
        patched.setattr(Queries, "rank", fails)
        message = error(app.post(f"/api/query/{query}/rank"), 500)
        patched.setattr(Queries, "_embedded", fails)
        _, job = app.put(SOUND)
    for text in (message, job["error"]["message"]):
        assert "RuntimeError" in text
        assert "secret" not in text
    assert caplog.text.count("the secret cause") >= 2


def test_no_connection_leaves_this_machine(app, monkeypatch):
    outside = []
    connect = socket.socket.connect

    def guarded(own, address):
        if own.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1"}:
            outside.append(address)
            raise OSError(f"connection to {address}")
        return connect(own, address)

    def resolve(host, *args, **options):
        outside.append(host)
        raise OSError(f"look-up of {host}")

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded)
    with pytest.raises(OSError, match="connection to"):  # the guard works
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    outside.clear()
    own = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **options: (own if host == "127.0.0.1" else resolve)(host, *args, **options),
    )
    query, _ = app.put(SOUND)
    item = app.rank(query)[0]["item"]
    for path in ("/", "/api/library", f"/audio/item/{item}", f"/audio/query/{query}/bass", f"/api/item/{item}/peaks"):
        assert app.get(path).status_code == 200
    for format_ in ("csv", "zip"):
        assert app.post("/api/export", items=[item], format=format_).status_code == 200
    app.post("/api/compare", x=query, a=query)
    app.wait(app.post("/api/library/recall"))
    assert outside == []


def test_others_reach_the_page_with_a_good_secret_only():
    for host in ("0.0.0.0", "::", "192.168.1.7", "studio.local"):
        with pytest.raises(ConfigError, match="--auth"):
            check_binding(host, None)
        with pytest.raises(ConfigError, match="16 or more"):
            check_binding(host, "short")
        assert check_binding(host, "long enough to be hard") == "long enough to be hard"
    assert len({check_binding("127.0.0.1", None) for _ in range(9)}) == 9


def test_threads_end_with_the_server(library, tmp_path):
    before = set(threading.enumerate())  # perhaps of other servers
    with page(library, tmp_path / "private"):
        assert "stemsim-app-jobs" in {thread.name for thread in set(threading.enumerate()) - before}
    assert "stemsim-app-jobs" not in {thread.name for thread in set(threading.enumerate()) - before}
