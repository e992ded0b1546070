"""Security of the page: who may ask for what, and which files of a library may be read."""

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stemsim.errors import AudioError, ConfigError

_LEAST_TOKEN: Final = 16  # characters
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_READING: Final = frozenset({"GET", "HEAD"})
_ERROR: Final = 400  # the least status of one
_SECRET: Final = ("/api/", "/audio/")  # begin what only the page may ask for
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address may hold the token
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def error_response(status: int, kind: str, message: str) -> JSONResponse:
    """Return an error as every answer of the API states it."""
    return JSONResponse({"error": {"kind": kind, "message": message}}, status)


def check_binding(host: str, token: str | None) -> str:
    """Return the token of a server: the given one, or on loopback a random one.

    Raises:
        ConfigError: If others than this machine could connect, and no token or a short one is given.
    """
    if token is None:
        if host not in _LOOPBACK:
            raise ConfigError(
                f"Whoever reaches {host} could listen to the library. Give a secret that the page asks for: "
                f"--auth, followed by {_LEAST_TOKEN} characters or more."
            )
        return secrets.token_urlsafe(24)
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"--auth is {_LEAST_TOKEN} or more ASCII characters that are hard to guess; got {len(token)}."
        )
    return token


class Guard:
    """Middleware that refuses what does not come from the page itself, or from a script that knows the token.

    Args:
        app: What it guards.
        token: The secret; `/?token=...` exchanges it for a cookie.
        host: Name or address that the server is bound to.
    """

    def __init__(self, app: ASGIApp, *, token: str, host: str) -> None:
        self.app = app
        self._token = token
        self._host = host
        # Browsers share cookies between the ports of a host: each server has a name of its own.
        self._cookie = f"stemsim-{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
                if message["status"] >= _ERROR and scope["method"] not in _READING:
                    headers["Connection"] = "close"  # what is still being sent is not waited for
            await send(message)

        answer = self._answer(Request(scope)) or self.app
        await answer(scope, receive, send_guarded)

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request that does not get through."""
        host = request.headers.get("host", "")
        if not self._is_own(host):
            return error_response(
                400, "WrongHost", f"This server is not {host!r}. Open the address that the terminal shows."
            )
        if request.method not in _READING and (problem := _cross_origin(request, host)):
            return error_response(403, "CrossOrigin", problem)
        if request.url.path == "/" and "token" in request.query_params:
            return self._logged_in(request.query_params["token"])
        if request.url.path.startswith(_SECRET) and not self._is_token(
            request.cookies.get(self._cookie) or _bearer(request)
        ):
            return self._unauthorized()
        if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return error_response(415, "WrongType", "Send JSON, with the header Content-Type: application/json.")
        return None

    def _logged_in(self, token: str) -> Response:
        if not self._is_token(token):
            return self._unauthorized()
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie, token, httponly=True, samesite="strict")
        return response

    def _unauthorized(self) -> Response:
        return error_response(401, "Unauthorized", "Open the address with the token that the terminal shows.")

    def _is_token(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self._token.encode())

    def _is_own(self, host: str) -> bool:
        """Return whether a Host header names this server: a page of another name may be this machine in disguise."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in _LOOPBACK or name == self._host.lower() or (self._host not in _LOOPBACK and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _cross_origin(request: Request, host: str) -> str | None:
    """Return what is wrong with a request that changes something, if a page of another site sent it."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if site not in {"same-origin", "none"} or (origin is not None and origin.partition("://")[2] != host):
        return f"A page of another site ({origin or site}) may not do this."
    return None


class RealFolders:
    """The real folders of a library's files, as they were when the server first saw them.

    Args:
        files: Files of the library.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._folders: dict[Path, Path] = {}
        self.add(files)

    def add(self, files: Iterable[Path]) -> None:
        """Remember the folders of more files."""
        for folder in {path.parent for path in files}.difference(self._folders):
            self._folders[folder] = Path(os.path.realpath(folder))

    def locate(self, path: Path) -> Path:
        """Return where a file of the library really is.

        Raises:
            AudioError: If it has become a link to somewhere outside the library's folders.
        """
        self.add([path])
        real = Path(os.path.realpath(path))
        if set(self._folders.values()).isdisjoint(real.parents):
            raise AudioError(
                f"{path} is a link to a place outside the library's folders, so that it is not read. Put the file "
                "itself there, and index its folder again."
            )
        return real
