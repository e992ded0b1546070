"""Downloads of pretrained models: announced, checked, atomic, and taken up again where they stopped."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.folder import find, folder_of, is_offline, is_repository
from stemsim.pretrained.registry import PRETRAINED, Pretrained

__all__ = ["RECORD", "download"]

RECORD: Final = "SOURCE.json"
"""Beside the files of a model: where they come from, and their hashes."""

_WANTED: Final = ("*.json", "*.txt", "*.model", "*.yaml")
_WEIGHTS: Final = (("*.safetensors",), ("pytorch_model*.bin",))  # of an unknown repository, the best kind first
_HASH: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's SHA-1 of small files, SHA-256 of large ones
_SHA256_DIGITS: Final = 64
_NO_ROOM: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_FORBIDDEN: Final = (401, 403)
_MARGIN: Final = 50_000_000  # bytes of the disk that stay free


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """A file of a repository: its name, size in bytes, hash as the hub states it, and commit."""

    name: str
    url: str
    size: int
    etag: str
    commit: str


def download(
    name: str,
    *,
    announce: Callable[[str], None],
    with_code: bool = False,
    endpoint: str | None = None,
    offline: bool = False,
) -> Path:
    """Fetch a pretrained model, and the parts that it needs, from the Hugging Face hub.

    A file that is there and whose hash is that of the hub is not fetched again. An interrupted download is taken up
    where it stopped. Nothing incomplete ever has the name of a complete file, and of two processes that want the same
    model one waits for the other.

    Args:
        name: A name of `PRETRAINED`, or `org/name` of any repository with a `config.json`.
        announce: Called with a line on what is about to be fetched, before it is.
        with_code: Fetch the Python files of a repository too. Nothing runs them before an encoder is told to.
        endpoint: Address of the hub, if it is another than usual.
        offline: Do not touch the network, as with `STEMSIM_OFFLINE`: fail where something is missing.

    Returns:
        The folder with the files.

    Raises:
        ConfigError: If the name is unknown or huggingface_hub is missing.
        DataNotFoundError: If the hub cannot be reached, has no such file, or the network is not to be used.
        CheckpointError: If a file does not have its hash, or there is no room for it.
    """
    known = PRETRAINED.get(name)
    if known is None and not is_repository(name):
        msg = f"Unknown model {name!r}; expected one of {', '.join(PRETRAINED)}, or org/name of a repository."
        raise ConfigError(msg)
    if offline or is_offline():
        return _without_network(name, known, announce)
    folder = folder_of(name)
    for part in known.needs if known else ():
        download(part, announce=announce, endpoint=endpoint)
    repo = name if known is None else known.repo
    with _readable_errors(repo, folder):
        wanted = _files_of(repo, with_code, endpoint) if known is None else known.alternatives
        remote = [_first_there(repo, names, endpoint) for names in wanted]
        missing = [file for file in remote if not _is_there(folder, file)]
        size = sum(file.size for file in missing)
        terms = "see its page for the licence" if known is None else known.terms
        if not missing:
            announce(f"{name}: already in {folder} ({terms}).")
            return folder
        announce(f"{name}: {size / 1e6:,.1f} MB from {repo} to {folder} ({terms}).")
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, announce):
            missing = [file for file in missing if not _is_there(folder, file)]  # we may have waited for them
            _check_room(folder, missing)
            for file in missing:
                _fetch(folder, file)
            _write_record(folder, repo, None if known is None else known.license, remote)
    return folder


def _without_network(name: str, known: Pretrained | None, announce: Callable[[str], None]) -> Path:
    """Return the folder of a model if all of it is there; otherwise say which files are expected where."""
    if known is None:
        folder = folder_of(name)
        complete = (folder / RECORD).is_file()
        expected = f"its config.json and weights in {folder}"
    else:
        models = [known, *(PRETRAINED[part] for part in known.needs)]
        places = [find(model) for model in models]
        folder = places[0] or folder_of(name)
        complete = None not in places
        expected = ", and ".join(
            f"{', '.join(model.files).replace('|', ' or ')} in {folder_of(model.name)}"
            for model, place in zip(models, places, strict=True)
            if place is None
        )
    if complete:
        announce(f"{name}: already in {folder}; offline, so it was not compared with the hub.")
        return folder
    msg = (
        f"Offline, so {name} is not fetched. Expected {expected}: copy them there, or go online (without "
        "--offline, STEMSIM_OFFLINE and HF_HUB_OFFLINE)."
    )
    raise DataNotFoundError(msg)


@contextmanager
def _alone(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out: two that append to one file spoil it, even after one of them has given it its name."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        announce(f"Another process fetches {folder.name}; waiting for it.")
        held = lock.acquire()
    with held:
        yield


def _files_of(repo: str, with_code: bool, endpoint: str | None) -> list[tuple[str, ...]]:
    """Return the files of a repository that a model needs."""
    from huggingface_hub import HfApi, constants

    # Not list_repo_files: it waits forever for a hub that does not answer.
    info = HfApi(endpoint=endpoint).model_info(repo, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    names = [file.rfilename for file in info.siblings or () if "/" not in file.rfilename]
    weights = next((found for kinds in _WEIGHTS if (found := [n for n in names if _matches(n, kinds)])), [])
    if "config.json" not in names or not weights:
        msg = f"The repository {repo} is no model that can be used: it lacks config.json or weights; it has {names}."
        raise ConfigError(msg)
    kinds = (*_WANTED, "*.py") if with_code else _WANTED
    return [(name,) for name in names if _matches(name, kinds) or name in weights]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _first_there(repo: str, names: Sequence[str], endpoint: str | None) -> _RemoteFile:
    """Return what the hub says of the first of several alternatives that it has."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        url = hf_hub_url(repo, name, endpoint=endpoint)
        try:
            metadata = get_hf_file_metadata(url, endpoint=endpoint)
        except EntryNotFoundError:
            continue
        if metadata.size is None or not _HASH.fullmatch(metadata.etag or ""):
            msg = (
                f"{url} came without the size and hash that the Hugging Face hub states, so it could not be checked: "
                "not fetched. Is something in between, such as a login page or an incomplete mirror?"
            )
            raise DataNotFoundError(msg)
        return _RemoteFile(name, url, metadata.size, metadata.etag, metadata.commit_hash or "")
    msg = f"The repository {repo} has no file {' or '.join(names)}. Upgrade stemsim, or tell its authors."
    raise DataNotFoundError(msg)


def _is_there(folder: Path, file: _RemoteFile) -> bool:
    """Tell whether a file is there with the size and the hash that the hub states."""
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size and _hash(path, file.etag) == file.etag


def _hash(path: Path, etag: str) -> str:
    """Return the hash of a file, of the kind that the hub states: SHA-256 of large files, git's SHA-1 of small ones."""
    if len(etag) == _SHA256_DIGITS:
        return _sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_room(folder: Path, missing: Sequence[_RemoteFile]) -> None:
    size = sum(file.size for file in missing)
    begun = sum(path.stat().st_size for file in missing if (path := _partial(folder, file)).is_file())
    free = shutil.disk_usage(folder).free
    if size - begun + _MARGIN > free:
        msg = (
            f"Not enough room in {folder}: {(size - begun) / 1e6:,.0f} MB to fetch, {free / 1e6:,.0f} MB free. Make "
            "room, or choose another folder by STEMSIM_PRETRAINED."
        )
        raise CheckpointError(msg)


def _partial(folder: Path, file: _RemoteFile) -> Path:
    """Return where a file grows: named after its hash, so that a newer version begins anew."""
    return folder / f".{file.name}.{file.etag[:16]}.partial"


def _fetch(folder: Path, file: _RemoteFile) -> None:
    """Fetch one file, check it, and give it its name."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    partial = _partial(folder, file)
    with partial.open("ab") as growing:
        begun = growing.tell()
        if begun < file.size:
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            http_get(
                file.url,
                growing,
                resume_size=begun,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.name,
            )
        growing.flush()
        os.fsync(growing.fileno())  # or the name may outlive a power cut, and the content not
    seen = _hash(partial, file.etag)
    if seen != file.etag:
        partial.unlink()
        msg = (
            f"{file.name} came with another hash than the hub states, so it was thrown away: expected {file.etag}, got "
            f"{seen}. Try again; if it happens again, something between you and the hub changes files."
        )
        raise CheckpointError(msg)
    os.replace(partial, folder / file.name)  # noqa: PTH105 - the atomic one, by its usual name
    for outdated in folder.glob(f".{file.name}.*.partial"):  # of a version that the hub has replaced
        outdated.unlink()


def _write_record(folder: Path, repo: str, terms: str | None, files: Sequence[_RemoteFile]) -> None:
    record: dict[str, Any] = {
        "repository": repo,
        "license": terms,
        "date": datetime.now(UTC).date().isoformat(),
        "files": [
            {
                "name": file.name,
                "size": file.size,
                "sha256": file.etag if len(file.etag) == _SHA256_DIGITS else _sha256(folder / file.name),
                "commit": file.commit,
            }
            for file in files
        ],
    }
    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / RECORD)  # noqa: PTH105 - the atomic one, by its usual name


@contextmanager
def _readable_errors(repo: str, folder: Path) -> Iterator[None]:
    """Turn what the hub's library and the disk raise into errors that say what to do."""
    try:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError as error:
        msg = "Downloads need the package huggingface_hub: pip install 'stemsim[models]'."
        raise ConfigError(msg) from error
    again = "Run the command again: it goes on where it stopped."
    try:
        yield
    except HfHubHTTPError as error:
        if isinstance(error, RepositoryNotFoundError) or error.response.status_code in _FORBIDDEN:
            msg = f"The hub has no repository {repo} for you ({_first_line(error)}). Check the name; if it is private "
            msg += "or gated: ask for access on its page, then `hf auth login`."
        else:
            msg = f"{repo} could not be fetched ({_first_line(error)}). {again}"
        raise DataNotFoundError(msg) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            msg = f"No room left in {folder} ({error.strerror}). What was fetched is kept: make room. {again}"
            raise CheckpointError(msg) from error
        if error.errno is not None:  # of the disk: httpx and huggingface_hub wrap what comes from the network
            msg = f"{folder} cannot be written ({error.strerror}). Choose another folder by STEMSIM_PRETRAINED."
            raise CheckpointError(msg) from error
        msg = f"{repo} could not be fetched ({_first_line(error)}). {again}"
        raise DataNotFoundError(msg) from error
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError) as error:
        msg = f"{repo} could not be fetched: {_first_line(error)}. Check the network. {again}"
        raise DataNotFoundError(msg) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300] or type(error).__name__
