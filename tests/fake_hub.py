"""A Hugging Face hub on loopback that holds a few files, and can misbehave.

As the real one does, it redirects requests for a large file to another server.
"""

import hashlib
import json
import re
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files by repository and name, what is wrong with it, and what it was asked.

    Attributes:
        files: `(repo, name)` to content, and whether it is large.
        licenses: What the model card of a repository says.
        sizes: Whether it states sizes and hashes.
        stall_after: Bytes of a body after which nothing comes until `go_on` is set; None for never.
        stalled: Set while a body waits.
        corrupt: Name of a file that comes with other bytes than its hash is of.
        status: Status of every answer, if not the right one.
        page: What every answer is, as where a hotel wants a login.
        delay: Seconds before every answer.
        requests: `(method, path, authorization)` of every request.
        bodies: Name of every large file sent.
        served: Bytes of bodies sent.
    """

    def __init__(self):
        self.files = {}
        self.licenses = {}
        self.sizes = True
        self.stall_after = None
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.corrupt = None
        self.status = None
        self.page = None
        self.delay = 0.0
        self.requests = []
        self.bodies = []
        self.served = 0
        self.endpoint = ""
        self.store = ""

    def add(self, repo, name, content, *, large=True):
        self.files[repo, name] = (content, large)

    def tree(self, repo):
        """Return the files of a repository with their hashes."""
        listed = []
        for (owner, name), (content, large) in self.files.items():
            if owner == repo:
                lfs = {"oid": stated_hash(content, large=True), "size": len(content), "pointerSize": 1}
                oid = stated_hash(content, large=False)
                listed.append({"type": "file", "path": name, "size": len(content), "oid": oid})
                listed[-1] |= {"lfs": lfs} if large else {}
        return listed

    def describe(self, repo):
        """Return what the hub says of a repository."""
        siblings = []
        for (owner, name), (content, large) in self.files.items():
            if owner == repo:
                sibling = {"rfilename": name}
                if self.sizes:
                    sibling |= {"size": len(content), "blobId": stated_hash(content, large=False)}
                if self.sizes and large:
                    sibling["lfs"] = {
                        "size": len(content),
                        "sha256": stated_hash(content, large=True),
                        "pointerSize": 1,
                    }
                siblings.append(sibling)
        card = {"license": self.licenses[repo]} if repo in self.licenses else {}
        return {"id": repo, "sha": COMMIT, "siblings": siblings, "cardData": card}


def stated_hash(content, *, large):
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
        self.do_GET()

    def do_GET(self):
        hub = self.server.hub
        hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        time.sleep(hub.delay)
        path = self.path.partition("?")[0]
        if hub.status is not None:
            self.fail(hub.status)
        elif hub.page is not None:
            self.send(hub.page, "text/html")
        elif listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            if any(repo == listed[1] for repo, _ in hub.files):
                self.send(json.dumps(hub.describe(listed[1])).encode(), "application/json")
            else:
                self.fail(404, "RepoNotFound")
        elif listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[0-9a-f]+", path):
            self.send(json.dumps(hub.tree(listed[1])).encode(), "application/json")
        else:
            repo, place, name = re.fullmatch(r"/([^/]+/[^/]+)/(resolve/[0-9a-f]+|store)/(.+)", path).groups()
            content, large = hub.files[repo, name]
            if large and place != "store":
                self.send_response(302)
                self.state(content, large=True)
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("Location", f"{hub.store}/{repo}/store/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if large and self.command == "GET":
                hub.bodies.append(name)
            self.send_file(content, large=large)

    def state(self, content, *, large):
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{stated_hash(content, large=large)}"')

    def fail(self, status, code=""):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_file(self, content, *, large):
        self.send_response(200)
        self.state(content, large=large)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.send_body(self.server.hub, content)

    def send_body(self, hub, rest):
        if hub.corrupt is not None and self.path.endswith(hub.corrupt):
            rest = rest[::-1]
        hub.served += len(rest)
        if hub.stall_after is not None and len(rest) > hub.stall_after:
            self.wfile.write(rest[: hub.stall_after])
            hub.stalled.set()
            hub.go_on.wait()
            rest = rest[hub.stall_after :]
        self.wfile.write(rest)


class Server(ThreadingHTTPServer):
    """Does not complain, on the standard error of whichever test runs by then, that a killed client took no more."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def fake_hub():
    """Serve a hub while the context lasts."""
    hub = Hub()
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    for server in servers:
        server.hub = hub
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{servers[0].server_port}"
    hub.store = f"http://localhost:{servers[1].server_port}"  # another name, or huggingface_hub takes it for the hub
    try:
        yield hub
    finally:
        hub.go_on.set()
        for server in servers:
            server.shutdown()
            server.server_close()
