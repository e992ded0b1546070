"""Folders in which pretrained files are looked for. Nothing here uses the network."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.pretrained.registry import PRETRAINED, Pretrained

_TRUE: Final = ("1", "true", "yes", "on")
# As `huggingface_hub.utils.validate_repo_id`, which may not be installed.
_REPOSITORY: Final = re.compile(r"(?!.*(?:--|\.\.))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b(?<!\.git)", re.ASCII)
_CONVERTIBLE: Final = (".pt", ".th", ".bin")  # by `stemsim models import`


def pretrained_folder() -> Path:
    """Return the folder of all pretrained files: `$STEMSIM_PRETRAINED`, or `stemsim/pretrained` in the user's cache."""
    if chosen := os.environ.get("STEMSIM_PRETRAINED"):
        return _at_home(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stemsim" / "pretrained"


def is_offline() -> bool:
    """Tell whether `STEMSIM_OFFLINE` or `HF_HUB_OFFLINE` forbids the network."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("STEMSIM_OFFLINE", "HF_HUB_OFFLINE"))


def is_repository(name: str) -> bool:
    """Tell whether a text has the form `org/name` of a repository on the hub."""
    return _REPOSITORY.fullmatch(name) is not None


def folder_of(name: str) -> Path:
    """Return the folder in which a model is expected, by its name or by `org/name` of its repository."""
    return pretrained_folder() / name.replace("/", "--")


def find(model: Pretrained) -> Path | None:
    """Return the folder that has all files of a model: ours, or the Hugging Face cache; None if there is none."""
    folder = folder_of(model.name)
    if all(_is_here(folder, names) for names in model.alternatives):
        return folder
    cached = [_cached(model.repo, names) for names in model.alternatives]
    parents = {None if path is None else path.parent for path in cached}
    return parents.pop() if len(parents) == 1 else None


def locate(model: str | Path) -> Path:
    """Return the folder of a pretrained model on this disk, or the file if a file was named.

    Args:
        model: A name of `PRETRAINED`, `org/name` of a repository of the Hugging Face hub, or a path.

    Raises:
        DataNotFoundError: If it is not there; the message names the expected files and the way to get them.
    """
    name = str(model)
    if known := PRETRAINED.get(name):
        if (found := find(known)) is not None:
            return found
        files = ", ".join(" or ".join(names) for names in known.alternatives)
        raise DataNotFoundError(
            f"The model {name} is not on this disk: expected {files} in {folder_of(name)}. To download it (about "
            f"{known.megabytes} MB; license: {known.terms}): stemsim models download {name}{_offline_hint()}"
        )
    if (path := _at_home(model)).exists():
        return path
    if is_repository(name):
        folder = folder_of(name)
        config = folder / "config.json" if (folder / "config.json").is_file() else _cached(name, ("config.json",))
        if config is not None:
            return config.parent
        raise DataNotFoundError(
            f"No file or folder {name}, and no model of that name in {folder}. If it is a repository of the Hugging "
            f"Face hub: stemsim models download {name}{_offline_hint()}"
        )
    close = get_close_matches(name, PRETRAINED, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise DataNotFoundError(f"No file, folder or model {name}.{hint} Known models: {', '.join(PRETRAINED)}.")


def locate_file(model: str | Path, *, suffixes: Sequence[str]) -> Path:
    """Find the one file that holds the weights of a model (see `locate`); of several endings the first is the best.

    Raises:
        DataNotFoundError: If there is none; `ConfigError` if there are several.
    """
    path = locate(model)
    if path.is_file():
        return path
    known = PRETRAINED.get(str(model))
    expected = {Path(name).stem for names in known.alternatives for name in names} if known else set()
    for suffix in suffixes:
        files = [file for file in sorted(path.glob(f"[!.]*{suffix}")) if file.is_file()]
        files = [file for file in files if not expected or file.stem in expected]  # the cache has others beside it
        if len(files) > 1:
            raise ConfigError(
                f"{path} holds several models: {', '.join(file.name for file in files)}. Name one of them."
            )
        if files:
            return files[0]
    names = " or ".join(f"*{suffix}" for suffix in suffixes)
    also = " (model.safetensors or pytorch_model.bin)" if ".bin" in suffixes else ""
    raise DataNotFoundError(f"No weights in {path}: expected a file {names}{also}. Download or copy them there.")


def _at_home(path: str | Path) -> Path:
    """Expand `~`; unlike `Path.expanduser`, leave `~name` alone where there is nobody of that name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _is_here(folder: Path, names: Sequence[str]) -> bool:
    """Tell whether a folder has one of some files, filled, or the safetensors that an import makes of it."""
    imported = (f"{Path(name).stem}.safetensors" for name in names if Path(name).suffix in _CONVERTIBLE)
    files = [folder / name for name in (*names, *imported)]
    return any(file.is_file() and file.stat().st_size > 0 for file in files)


def _cached(repo: str, names: Sequence[str]) -> Path | None:
    """Return a file of the Hugging Face cache, where upstream's own loaders put it."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = (try_to_load_from_cache(repo, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _offline_hint() -> str:
    hint = " (the offline switch is on: unset STEMSIM_OFFLINE and HF_HUB_OFFLINE, or copy the files there yourself)"
    return hint if is_offline() else ""
