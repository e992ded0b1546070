"""Demucs models from their files, in any of the layouts that upstream uses."""

import hashlib
import inspect
import logging
from pathlib import Path
from typing import Any, Final

import yaml

from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.loading import load_strictly, read_checkpoint, state_hash
from stemsim.stems import STEMS

__all__ = ["load_htdemucs"]

_log = logging.getLogger(__name__)

_KLASS: Final = "demucs.htdemucs.HTDemucs"
_SUFFIXES: Final = (".safetensors", ".th")
_NAMES: Final = {"other": "residuals"}


def load_htdemucs(path: Path) -> tuple[Any, list[str], str]:
    """Load a Hybrid Transformer Demucs, frozen.

    Args:
        path: A folder with `NAME.yaml` and the file that it names, such a `NAME.yaml`, or a weights file alone.

    Returns:
        The model, the stems it gives in its own order, and a hash of its weights.

    Raises:
        DataNotFoundError: If a file is not there.
        CheckpointError: If it is damaged, or another kind of model.
        ConfigError: If the package demucs is missing, or the folder holds several models.
    """
    try:
        from demucs.htdemucs import HTDemucs
    except ImportError as error:
        msg = f"Demucs needs the package demucs ({error}): pip install 'stemsim[models]'."
        raise ConfigError(msg) from error
    file, segment = _weights_file(path)
    checkpoint = read_checkpoint(file)
    if checkpoint.metadata.get("klass") != _KLASS:
        msg = (
            f"{file} holds a {checkpoint.metadata.get('klass', 'model of no stated class')}, expected {_KLASS}: "
            "htdemucs or htdemucs_6s, or a model of your own of that class."
        )
        raise CheckpointError(msg)
    known = inspect.signature(HTDemucs).parameters
    settings = {name: value for name, value in checkpoint.metadata["kwargs"].items() if name in known}
    if dropped := sorted(set(checkpoint.metadata["kwargs"]) - set(settings)):
        _log.warning("%s: settings that this version of demucs does not know were left out: %s.", file, dropped)
    try:
        model = HTDemucs(*checkpoint.metadata["args"], **settings)
    except (TypeError, ValueError, AssertionError) as error:
        msg = f"{file} describes a model that cannot be built ({error}). Download it again."
        raise CheckpointError(msg) from error
    load_strictly(model, checkpoint.state, str(file))
    if segment is not None and segment <= model.segment:
        model.segment = segment
    sources = [_NAMES.get(source, source) for source in model.sources]
    if unknown := [source for source in sources if source not in STEMS[:-1]]:
        msg = f"{file} separates {', '.join(unknown)}, expected only {', '.join(STEMS[:-1])} (or other)."
        raise CheckpointError(msg)
    return model.requires_grad_(requires_grad=False).eval(), sources, state_hash(checkpoint.state)


def _weights_file(path: Path) -> tuple[Path, float | None]:
    """Return the file with the weights, and the length of a chunk in seconds where the bag sets one."""
    if path.suffix in _SUFFIXES:
        return path, None
    if path.suffix != ".yaml":
        bags = sorted(path.glob("*.yaml"))
        if len(bags) != 1:
            alone = [file for suffix in _SUFFIXES for file in sorted(path.glob(f"*{suffix}"))]
            if not bags and len({file.stem for file in alone}) == 1:
                return alone[0], None
            msg = (
                f"{path} has {len(bags)} models ({', '.join(bag.name for bag in bags)}): expected one NAME.yaml with "
                "the .safetensors or .th file that it names. Name one of the files instead of the folder."
            )
            raise (ConfigError if bags else DataNotFoundError)(msg)
        path = bags[0]
    signature, segment = _read_bag(path)
    for suffix in _SUFFIXES:
        for file in (path.parent / f"{signature}{suffix}", *sorted(path.parent.glob(f"{signature}-*{suffix}"))):
            if file.is_file():
                _check_name(file)
                return file, segment
    msg = f"{path} names the model {signature}, but {path.parent} has no {signature}.safetensors or {signature}.th."
    raise DataNotFoundError(msg)


def _read_bag(path: Path) -> tuple[str, float | None]:
    """Return the signature of the only model of a bag, and its length of a chunk."""
    try:
        bag = yaml.safe_load(path.read_text(encoding="utf-8"))
        models, segment = [str(model) for model in bag["models"]], bag.get("segment")
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} is no description of a Demucs model ({error!r}): expected `models: [SIGNATURE]`."
        raise CheckpointError(msg) from error
    if len(models) != 1:
        msg = (
            f"{path} is a bag of {len(models)} models, which would be that many times as slow; expected one, as in "
            "htdemucs and htdemucs_6s."
        )
        raise ConfigError(msg)
    return models[0], None if segment is None else float(segment)


def _check_name(file: Path) -> None:
    """Compare a `.th` file with the beginning of its SHA-256, which upstream puts into its name."""
    _, dash, expected = file.stem.partition("-")
    if file.suffix != ".th" or not dash:
        return
    with file.open("rb") as opened:
        seen = hashlib.file_digest(opened, "sha256").hexdigest()[: len(expected)]
    if seen != expected:
        msg = f"{file} has the SHA-256 {seen}..., and its name says {expected}: it is damaged. Download it again."
        raise CheckpointError(msg)
