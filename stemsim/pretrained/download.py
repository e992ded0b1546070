"""Downloads of pretrained models from the Hugging Face hub: announced and verified.

`huggingface_hub` transfers the files and compares their hashes. An interrupted file is transferred again from its
start, since the library keeps no part of it (https://github.com/huggingface/huggingface_hub/pull/4228); finished files
stay.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import filter as fnmatch_filter
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.folder import folder_of, is_offline, is_repository, locate
from stemsim.pretrained.registry import PRETRAINED, Pretrained
from stemsim.replacing import write_text

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

    A file that is there with the hash that the hub states is not downloaded again. An interrupted file starts again,
    and finished files stay. No incomplete file ever gets its final name, a file with another hash is deleted, and if
    two processes want the same model, one waits.

    Args:
        name: A name of `PRETRAINED`, or `org/name` of any repository with a `config.json`.
        announce: Called with lines on license and size, before anything is downloaded.
        with_code: Download the Python files of a repository too; nothing runs them unless an encoder is told to.
        endpoint: Address of a mirror of the hub.
        offline: Fail where something is missing instead of using the network, as with `STEMSIM_OFFLINE`.

    Raises:
        ConfigError: If the name is unknown, the repository holds no model, or huggingface_hub is missing.
        DataNotFoundError: If the hub cannot be reached or has no such file, or the network must not be used.
        CheckpointError: If a file does not have its hash, or the disk has no room for it.
    """
    known = PRETRAINED.get(name)
    if known is None and not is_repository(name):
        raise ConfigError(f"Unknown model {name!r}; expected one of {', '.join(PRETRAINED)}, or an org/name.")
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

        hub = HfApi(endpoint=endpoint)
        info = hub.model_info(repo, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        sizes = _needed_files(info, known, with_code)
        card = info.card_data or {}
        stated = card.get("license_name") or card.get("license") or "not stated", f"https://huggingface.co/{repo}"
        terms, source = (known.terms, known.license_source) if known else stated
        announce(f"{name}: license of the weights: {terms} ({source}).")
        folder.mkdir(parents=True, exist_ok=True)
        missing = _unsound(hub, info, folder, sizes)
        if not missing:
            announce(f"{name}: already in {folder}.")
            return folder
        size, free = sum(sizes[file] for file in missing), shutil.disk_usage(folder).free
        announce(f"{name}: {size / 1e6:,.1f} MB from {repo} to {folder}.")
        with _alone(folder, announce):
            if size + _MARGIN > free:
                raise CheckpointError(
                    f"Not enough room in {folder}: {size / 1e6:,.0f} MB to download, {free / 1e6:,.0f} MB free. Make "
                    "room, or choose another folder by STEMSIM_PRETRAINED."
                )
            _fetch(hub, info, folder, missing)
            record = {"repository": repo, "license": terms, "license_source": source}
            _write_record(folder, record, [{"name": file, "size": sizes[file], "commit": info.sha} for file in sizes])
    return folder


@contextmanager
def _alone(folder: Path, announce: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out, and say so if one has to wait."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        announce(f"Another process is downloading {folder.name}; waiting for it.")
        held = lock.acquire()
    with held:
        yield


def _needed_files(info: Any, known: Pretrained | None, with_code: bool) -> dict[str, int]:
    """Return the size in bytes of each file of a repository that a model needs."""
    listed = {file.rfilename: file.size for file in info.siblings or () if "/" not in file.rfilename}
    if known is None:
        weights = next((found for kind in _WEIGHTS if (found := fnmatch_filter(listed, kind))), [])
        if "config.json" not in listed or not weights:
            raise ConfigError(f"{info.id} has no usable model: it lacks config.json or weights; it has {[*listed]}.")
        kinds = (*_WANTED, "*.py") if with_code else _WANTED
        names = [*weights, *(name for kind in kinds for name in fnmatch_filter(listed, kind))]
    else:
        names = [next((name for name in names if name in listed), " or ".join(names)) for names in known.alternatives]
        if lacking := [name for name in names if name not in listed]:
            raise DataNotFoundError(f"{info.id} has no file {', '.join(lacking)}. Upgrade stemsim, or report it.")
    names.sort(key=lambda name: name == "config.json")  # downloaded last: its presence says that all files are there
    if not info.sha or any(listed[name] is None for name in names):
        raise DataNotFoundError(f"The hub states no sizes of files in {info.id}. Is --endpoint an incomplete mirror?")
    return {name: listed[name] for name in names}


def _unsound(hub: Any, info: Any, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return which of some files are missing in a folder, or have another hash than the hub states, and the reason."""
    seen = hub.verify_repo_checksums(info.id, revision=info.sha, local_dir=folder)
    reasons = {one["path"]: f"expected {one['expected']}, got {one['actual']}" for one in seen.mismatches}
    reasons |= dict.fromkeys(seen.missing_paths, "missing")
    return {name: reasons[name] for name in names if name in reasons}


def _fetch(hub: Any, info: Any, folder: Path, names: Iterable[str]) -> None:
    """Download files, and delete those that do not have the hash that the hub states."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's, with what a killed process left
    for name in names:
        hub.hf_hub_download(info.id, name, revision=info.sha, local_dir=folder)
    shutil.rmtree(folder / ".cache")
    unsound = _unsound(hub, info, folder, names)
    for name in unsound:
        (folder / name).unlink()
    if unsound:
        raise CheckpointError(
            "Files without the hash that the hub states were deleted: "
            f"{'; '.join(f'{name} {reason}' for name, reason in unsound.items())}. Try again; if it happens again, "
            "something between you and the hub changes files."
        )


def _write_record(folder: Path, source: dict[str, Any], files: list[dict[str, Any]]) -> None:
    """Write the source of the files beside them, with their hashes."""
    for file in files:
        with (folder / file["name"]).open("rb") as content:
            file["sha256"] = hashlib.file_digest(content, "sha256").hexdigest()
    record = {**source, "date": datetime.now(UTC).date().isoformat(), "files": files}
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


@contextmanager
def _readable_errors(repo: str, folder: Path) -> Iterator[None]:
    """Turn the errors of the hub's library and of the disk into errors that say what to do."""
    try:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError as error:
        raise ConfigError("Downloads need the package huggingface_hub: pip install 'stemsim[models]'.") from error
    try:
        yield
    except (HfHubHTTPError, OSError, httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError) as error:
        first = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        again = "Run the command again: finished files are kept."
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        reason = getattr(error, "errno", None)  # only the disk gives one: httpx wraps the errors of the network
        if isinstance(error, RepositoryNotFoundError) or status in _FORBIDDEN:
            msg = f"The hub has no repository {repo} for you ({first}). Check the name; if it is private or gated, ask "
            msg += "for access on its page, then run `hf auth login`."
        elif reason is None:
            msg = f"{repo} could not be downloaded: {first}. Check the network. {again}"
        elif reason in _NO_ROOM:
            msg = f"No room left in {folder} ({first}). Make room. {again}"
        else:
            msg = f"{folder} cannot be written ({first}). Choose another folder by STEMSIM_PRETRAINED."
        raise (DataNotFoundError if reason is None else CheckpointError)(msg) from error
