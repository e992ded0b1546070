"""A Hugging Face hub on loopback that holds a few files, and can misbehave."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files by repository and name, what is wrong with it, and what it was asked.

    Attributes:
        files: `(repo, name)` to content.
        cut_after: Bytes of a body after which the connection breaks; None for never.
        corrupt: Serve other bytes than the hash is of.
        status: Status of every answer, if not the right one.
        requests: `(method, path, range)` of every request.
        served: Bytes of bodies sent.
    """

    def __init__(self):
        self.files = {}
        self.cut_after = None
        self.corrupt = False
        self.status = None
        self.requests = []
        self.served = 0
        self.endpoint = ""

    def add(self, repo, name, content, *, large=True):
        self.files[repo, name] = (content, large)


def etag(content, *, large):
    """Return SHA-256 of a large file, and git's SHA-1 of a small one, as the hub does."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub that its server carries."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        self.server.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.server.hub.status is not None:
            self.fail(self.server.hub.status)
            return
        if tree := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main.*", self.path):
            names = [name for repo, name in self.server.hub.files if repo == tree[1]]
            if names:
                self.send_json([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names])
            else:
                self.fail(404, "RepoNotFound")
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", self.path)
        if found is None or (found[1], found[2]) not in self.server.hub.files:
            known = found is not None and any(repo == found[1] for repo, _ in self.server.hub.files)
            self.fail(404, "EntryNotFound" if known else "RepoNotFound")
            return
        self.send_file(*self.server.hub.files[found[1], found[2]], body=body)

    def fail(self, status, code=""):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_json(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_file(self, content, large, *, body):
        begin = 0
        if body and (wanted := self.headers.get("Range")):
            begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{etag(content, large=large)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if large:
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{etag(content, large=large)}"')
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if body:
            rest = content[begin:]
            if self.server.hub.corrupt:
                rest = bytes(255 - byte for byte in rest)
            if self.server.hub.cut_after is not None and len(rest) > self.server.hub.cut_after:
                rest = rest[: self.server.hub.cut_after]
                self.close_connection = True
            self.server.hub.served += len(rest)
            self.wfile.write(rest)
            if self.close_connection:
                self.wfile.flush()
                self.connection.close()


@contextmanager
def fake_hub():
    """Serve a hub while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = hub
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
