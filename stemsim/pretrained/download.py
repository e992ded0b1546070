"""Downloads of pretrained models from the Hugging Face hub: announced, resumable, verified and atomic.

`huggingface_hub` lists, transfers and hashes the files. Its `hf_hub_download` cannot be used: it throws away the part
that an interrupted process has fetched (since https://github.com/huggingface/huggingface_hub/pull/4228), which of the
largest model is 2.4 GB, and gives a file its name before anything has compared its hash.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.folder import folder_of, is_offline, is_repository, locate
from stemsim.pretrained.registry import PRETRAINED, Pretrained

__all__ = ["RECORD", "download"]

RECORD: Final = "SOURCE.json"
"""Beside the files of a model: their source, their license and their hashes."""

_WANTED: Final = ("*.json", "*.txt", "*.model", "*.yaml")  # of a repository that is not in the registry
_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")  # the best kind first
_NO_ROOM: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_FORBIDDEN: Final = (401, 403)
_MARGIN: Final = 50_000_000  # bytes of the disk that stay free


def download(
    name: str,
    *,
    announce: Callable[[str], None],
    with_code: bool = False,
    endpoint: str | None = None,
    offline: bool = False,
) -> Path:
    """Download a pretrained model, and the parts that it needs, from the Hugging Face hub.

    A file that is there with the hash that the hub states is not downloaded again. An interrupted download is resumed.
    No incomplete or damaged file ever gets its final name, and if two processes want the same model, one waits.

    Args:
        name: A name of `PRETRAINED`, or `org/name` of any repository with a `config.json`.
        announce: Called with lines on license and size, before anything is downloaded.
        with_code: Download the Python files of a repository too; nothing runs them unless an encoder is told to.
        endpoint: Address of a mirror of the hub.
        offline: Fail where something is missing instead of using the network, as with `STEMSIM_OFFLINE`.

    Returns:
        The folder with the files.

    Raises:
        ConfigError: If the name is unknown, the repository holds no model, or huggingface_hub is missing.
        DataNotFoundError: If the hub cannot be reached or has no such file, or the network must not be used.
        CheckpointError: If a file does not have its hash, or the disk has no room for it.
    """
    known = PRETRAINED.get(name)
    if known is None and not is_repository(name):
        msg = f"Unknown model {name!r}; expected one of {', '.join(PRETRAINED)}, or org/name of a repository."
        raise ConfigError(msg)
    needs = known.needs if known else ()
    if offline or is_offline():
        *_, folder = [locate(part) for part in (*needs, name)]
        announce(f"{name}: already in {folder}; offline, so it was not compared with the hub.")
        return folder
    for part in needs:
        download(part, announce=announce, endpoint=endpoint)
    folder, repo = folder_of(name), known.repo if known else name
    with _readable_errors(repo, folder):
        from huggingface_hub import HfApi, constants

        info = HfApi(endpoint=endpoint).model_info(repo, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        files = _needed_files(info, known, with_code)
        missing = [file for file in files if not _is_sound(folder / file.rfilename, file)]
        terms, source = (known.terms, known.license_source) if known else _stated_terms(info)
        announce(f"{name}: license of the weights: {terms} ({source}).")
        if not missing:
            announce(f"{name}: already in {folder}.")
            return folder
        announce(f"{name}: {sum(file.size for file in missing) / 1e6:,.1f} MB from {repo} to {folder}.")
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, announce):
            missing = [file for file in missing if not _is_sound(folder / file.rfilename, file)]  # after a wait
            _check_room(folder, missing)
            for file in missing:
                _fetch(folder, file, repo, info.sha, endpoint)
            _write_record(folder, files, {"repository": repo, "license": terms, "license_source": source}, info.sha)
    return folder


@contextmanager
def _alone(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out, which would append to the same file."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        announce(f"Another process is downloading {folder.name}; waiting for it.")
        held = lock.acquire()
    with held:
        yield


def _needed_files(info: Any, known: Pretrained | None, with_code: bool) -> list[Any]:
    """Return the files of a repository that a model needs, as the hub describes them."""
    listed = {file.rfilename: file for file in info.siblings or () if "/" not in file.rfilename}
    if known is None:
        weights = next((found for kind in _WEIGHTS if (found := [name for name in listed if fnmatch(name, kind)])), [])
        if "config.json" not in listed or not weights:
            msg = f"The repository {info.id} has no usable model: it lacks config.json or weights; it has {[*listed]}."
            raise ConfigError(msg)
        kinds = (*_WANTED, "*.py") if with_code else _WANTED
        names = [name for name in listed if name in weights or any(fnmatch(name, kind) for kind in kinds)]
    else:
        names = []
        for alternatives in known.alternatives:
            if (name := next((name for name in alternatives if name in listed), None)) is None:
                msg = (
                    f"The repository {info.id} has no file {' or '.join(alternatives)}. Upgrade stemsim, or report it."
                )
                raise DataNotFoundError(msg)
            names.append(name)
    files = [listed[name] for name in sorted(names, key=lambda name: name == "config.json")]  # its presence says: all
    if not info.sha or any(file.size is None or not _stated_hash(file) for file in files):
        msg = (
            f"The hub states no sizes and hashes for {info.id}, so nothing could be verified: not downloaded. Is "
            "--endpoint an incomplete mirror?"
        )
        raise DataNotFoundError(msg)
    return files


def _stated_terms(info: Any) -> tuple[str, str]:
    """Return the license that the model card of a repository states, and the address of the card."""
    card = info.card_data or {}
    return card.get("license_name") or card.get("license") or "not stated", f"https://huggingface.co/{info.id}"


def _stated_hash(file: Any) -> str | None:
    """Return the hash that the hub states: SHA-256 of large files, git's SHA-1 of small ones."""
    stated: str | None = file.lfs.sha256 if file.lfs else file.blob_id
    return stated


def _hash(path: Path, file: Any) -> str:
    """Return the hash of the kind that the hub states."""
    from huggingface_hub.utils.sha import git_hash

    return _sha256(path) if file.lfs else git_hash(path.read_bytes())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_sound(path: Path, file: Any) -> bool:
    """Tell whether a file is there with the size and the hash that the hub states."""
    return path.is_file() and path.stat().st_size == file.size and _hash(path, file) == _stated_hash(file)


def _partial(folder: Path, file: Any) -> Path:
    """Return the path at which a file grows: named after its hash, so that a newer version starts from zero."""
    return folder / f".{file.rfilename}.{str(_stated_hash(file))[:16]}.partial"


def _check_room(folder: Path, missing: Sequence[Any]) -> None:
    begun = sum(path.stat().st_size for file in missing if (path := _partial(folder, file)).is_file())
    size, free = sum(file.size for file in missing) - begun, shutil.disk_usage(folder).free
    if size + _MARGIN > free:
        msg = (
            f"Not enough room in {folder}: {size / 1e6:,.0f} MB to download, {free / 1e6:,.0f} MB free. Make room, or "
            "choose another folder by STEMSIM_PRETRAINED."
        )
        raise CheckpointError(msg)


def _fetch(folder: Path, file: Any, repo: str, commit: str, endpoint: str | None) -> None:
    """Download one file, or the rest of it, verify it, and give it its name."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    name, partial = file.rfilename, _partial(folder, file)
    with partial.open("ab") as growing:
        http_get(
            hf_hub_url(repo, name, revision=commit, endpoint=endpoint),
            growing,
            resume_size=growing.tell(),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.size,
            displayed_filename=name,
        )
        growing.flush()
        os.fsync(growing.fileno())  # or the name may outlive a power cut, and the content not
    if (seen := _hash(partial, file)) != _stated_hash(file):
        partial.unlink()
        msg = (
            f"{name} does not have the hash that the hub states, so it was deleted: expected {_stated_hash(file)}, got "
            f"{seen}. Try again; if it happens again, something between you and the hub changes files."
        )
        raise CheckpointError(msg)
    partial.replace(folder / name)
    for outdated in folder.glob(f".{name}.*.partial"):  # of a version that the hub has replaced
        outdated.unlink()


def _write_record(folder: Path, files: Sequence[Any], source: dict[str, str], commit: str) -> None:
    listed = [
        {"name": file.rfilename, "size": file.size, "sha256": _sha256(folder / file.rfilename), "commit": commit}
        for file in files
    ]
    record = {**source, "date": datetime.now(UTC).date().isoformat(), "files": listed}
    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)


@contextmanager
def _readable_errors(repo: str, folder: Path) -> Iterator[None]:
    """Turn the errors of the hub's library and of the disk into errors that say what to do."""
    try:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError as error:
        msg = "Downloads need the package huggingface_hub: pip install 'stemsim[models]'."
        raise ConfigError(msg) from error
    try:
        yield
    except (HfHubHTTPError, OSError, httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError) as error:
        first = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        again = "Run the command again: it resumes the download."
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        reason = getattr(error, "errno", None)  # only the disk gives one: httpx wraps the errors of the network
        if isinstance(error, RepositoryNotFoundError) or status in _FORBIDDEN:
            msg = f"The hub has no repository {repo} for you ({first}). Check the name; if it is private or gated, ask "
            msg += "for access on its page, then run `hf auth login`."
        elif reason is None:
            msg = f"{repo} could not be downloaded: {first}. Check the network. {again}"
        elif reason in _NO_ROOM:
            msg = f"No room left in {folder} ({first}). What was downloaded is kept: make room. {again}"
        else:
            msg = f"{folder} cannot be written ({first}). Choose another folder by STEMSIM_PRETRAINED."
        raise (DataNotFoundError if reason is None else CheckpointError)(msg) from error
