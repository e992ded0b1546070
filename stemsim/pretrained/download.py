"""Downloads of pretrained models: announced, checked, atomic, and taken up again where they stopped."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.folder import folder_of, is_offline
from stemsim.pretrained.registry import PRETRAINED

__all__ = ["RECORD", "download"]

RECORD: Final = "SOURCE.json"
"""Beside the files of a model: where they come from, and their hashes."""

_WANTED: Final = ("*.json", "*.txt", "*.model", "*.yaml")
_WEIGHTS: Final = (("*.safetensors",), ("pytorch_model*.bin",))  # of an unknown repository, the best kind first
_SHA256_DIGITS: Final = 64
_NO_ROOM: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
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
    where it stopped. Nothing incomplete ever has the name of a complete file.

    Args:
        name: A name of `PRETRAINED`, or `org/name` of any repository with a `config.json`.
        announce: Called with a line on what is about to be fetched, before it is.
        with_code: Fetch the Python files of a repository too. Nothing runs them before an encoder is told to.
        endpoint: Address of the hub, if it is another than usual.
        offline: Fail instead of touching the network, as with `STEMSIM_OFFLINE`.

    Returns:
        The folder with the files.

    Raises:
        ConfigError: If the name is unknown or huggingface_hub is missing.
        DataNotFoundError: If the hub cannot be reached, has no such file, or the network is not to be used.
        CheckpointError: If a file does not have its hash, or there is no room for it.
    """
    known = PRETRAINED.get(name)
    if known is None and (name.count("/") != 1 or name.startswith((".", "/"))):
        msg = f"Unknown model {name!r}; expected one of {', '.join(PRETRAINED)}, or org/name of a repository."
        raise ConfigError(msg)
    folder = folder_of(name)
    if offline or is_offline():
        files = "its config.json and weights" if known is None else ", ".join(known.files).replace("|", " or ")
        msg = (
            f"Offline, so {name} is not fetched. Expected {files} in {folder}: copy them there, or go online (without "
            "--offline, STEMSIM_OFFLINE and HF_HUB_OFFLINE)."
        )
        raise DataNotFoundError(msg)
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
        _check_room(folder, size, missing)
        for file in missing:
            _fetch(folder, file)
    _write_record(folder, repo, remote)
    return folder


def _files_of(repo: str, with_code: bool, endpoint: str | None) -> list[tuple[str, ...]]:
    """Return the files of a repository that a model needs."""
    from huggingface_hub import HfApi

    names = [name for name in HfApi(endpoint=endpoint).list_repo_files(repo) if "/" not in name]
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
        return _RemoteFile(name, url, metadata.size or 0, metadata.etag or "", metadata.commit_hash or "")
    msg = f"The repository {repo} has no file {' or '.join(names)}. Upgrade stemsim, or tell its authors."
    raise DataNotFoundError(msg)


def _is_there(folder: Path, file: _RemoteFile) -> bool:
    """Tell whether a file is there with the size and the hash that the hub states."""
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size and _has_hash(path, file.etag)


def _has_hash(path: Path, etag: str) -> bool:
    """Compare a file with its hash: SHA-256 of large files, git's SHA-1 of small ones."""
    kind = "sha256" if len(etag) == _SHA256_DIGITS else "sha1"
    digest = hashlib.new(kind, usedforsecurity=False)
    if kind == "sha1":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == etag


def _check_room(folder: Path, size: int, missing: Sequence[_RemoteFile]) -> None:
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
        if begun < file.size or not file.size:
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            http_get(
                file.url,
                growing,
                resume_size=begun,
                headers=headers,
                expected_size=file.size or None,
                displayed_filename=file.name,
            )
    if not _has_hash(partial, file.etag):
        partial.unlink()
        msg = (
            f"{file.name} came with another hash than the hub states ({file.etag}), so it was thrown away. Try again; "
            "if it happens again, something between you and the hub changes files."
        )
        raise CheckpointError(msg)
    os.replace(partial, folder / file.name)  # noqa: PTH105 - the atomic one, by its usual name


def _write_record(folder: Path, repo: str, files: Sequence[_RemoteFile]) -> None:
    record: dict[str, Any] = {
        "repository": repo,
        "date": datetime.now(UTC).date().isoformat(),
        "files": [{key: value for key, value in asdict(file).items() if key != "url"} for file in files],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _readable_errors(repo: str, folder: Path) -> Iterator[None]:
    """Turn what the hub's library and the disk raise into errors that say what to do."""
    try:
        import httpx
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        msg = "Downloads need the package huggingface_hub: pip install 'stemsim[models]'."
        raise ConfigError(msg) from error
    again = "Run the command again: it goes on where it stopped."
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError) as error:
        msg = f"The hub has no repository {repo} for you. Check the name; if it is private or gated: `hf auth login`."
        raise DataNotFoundError(msg) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            msg = f"No room left in {folder} ({error.strerror}). What was fetched is kept: make room. {again}"
            raise CheckpointError(msg) from error
        msg = f"{repo} could not be fetched ({_first_line(error)}). {again}"
        raise DataNotFoundError(msg) from error
    except httpx.HTTPError as error:
        msg = f"{repo} could not be fetched: {_first_line(error)}. Check the network. {again}"
        raise DataNotFoundError(msg) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300] or type(error).__name__
