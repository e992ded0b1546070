"""Checkpoint files: read without running the code that may be in them, and written as safetensors."""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stemsim.documents import read_json
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError, OutputError
from stemsim.replacing import replacing

_JSON_KEYS: Final = ("args", "kwargs")  # how `demucs.hf` stores the arguments of a model in safetensors
_UNSAFE: Final = re.compile(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Content of a checkpoint file: the tensors of a model, by their names in it, and what else is known of it."""

    state: dict[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of a Demucs model `klass`, `args` and `kwargs`


def read_checkpoint(path: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read a safetensors file, or a torch file by the unpickler that makes tensors and runs no code.

    `allow_pickle` lets a torch file run whatever code it holds: only for files from people you trust. The tensors are
    on the CPU, memory-mapped where the format allows it.

    Raises:
        DataNotFoundError: If there is no such file.
        CheckpointError: If it is damaged or not a checkpoint, or if it cannot be read without running code.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"No checkpoint at {path}. `stemsim models` lists models and where they belong.")
    checkpoint = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, allow_pickle)
    if not checkpoint.state:
        raise CheckpointError(f"{path} holds no tensors, expected weights. Download it again, or name another file.")
    return checkpoint


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as safetensors, atomically; an existing file is replaced.

    Raises:
        CheckpointError: If it cannot be written (disk full, no permission).
    """
    path = Path(path)
    metadata = {
        key: json.dumps(value, default=_encode_fraction) if key in _JSON_KEYS else str(value)
        for key, value in checkpoint.metadata.items()
    }
    # Tensors that share memory (tied weights) are stored one by one: safetensors knows no sharing.
    state = {name: tensor.detach().clone().contiguous() for name, tensor in checkpoint.state.items()}
    try:
        with replacing(path) as partial:
            save_file(state, partial, metadata=metadata)
    except (OutputError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written ({error}). Make room, or choose another folder.") from error


def import_checkpoint(
    file: str | Path, *, allow_pickle: bool = False, output: Path | None = None, overwrite: bool = False
) -> Path:
    """Convert a checkpoint, such as of LAION-CLAP, MuQ-MuLan or Demucs, to safetensors; return the file written.

    The tensors do not change, and neither does the identity of an encoder or separator that is made of them.

    Args:
        file: A torch file with a state dictionary.
        allow_pickle: Run the code that the file may hold. Only for files from people you trust.
        output: File to write; None puts it beside the checkpoint, with the ending `.safetensors`.
        overwrite: Replace an existing file.

    Raises:
        ConfigError: If the output exists, is the checkpoint itself, or does not end in `.safetensors`.
        CheckpointError: If the checkpoint cannot be read without running code, is damaged, or there is no room.
    """
    file = Path(file)
    target = output or file.with_suffix(".safetensors")
    if target.resolve() == file.resolve():
        raise ConfigError(f"{file} would be written onto itself. Safetensors need no import; else give --output.")
    if target.suffix != ".safetensors":
        raise ConfigError(f"A file is read by its ending only: expected --output NAME.safetensors, got {target}.")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists already. Name another file by --output, or replace it by --overwrite.")
    write_checkpoint(target, read_checkpoint(file, allow_pickle=allow_pickle))
    return target


def load_strictly(module: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into a module, every one into its place; `what`, their source, is the subject of an error.

    Raises:
        CheckpointError: If a tensor is missing, left over, of another shape, complex in place of real, or not finite.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        seen = {name: tuple(tensor.shape) for name, tensor in state.items()}
        missing, left = sorted(expected.keys() - seen), sorted(seen.keys() - expected)
        shapes = [
            f"{name} {seen[name]}, expected {shape}"
            for name, shape in expected.items()
            if seen.get(name, shape) != shape
        ]
        raise CheckpointError(
            f"{what} does not fit {type(module).__name__}: {len(missing)} tensors missing {missing[:3]}, {len(left)} "
            f"left over {left[:3]}, {len(shapes)} of another shape {shapes[:3]}. It is the checkpoint of another "
            "architecture, or of another version: name the right one."
        ) from error
    own = module.state_dict()
    broken = [name for name, tensor in own.items() if not torch.isfinite(tensor).all()]
    broken += [name for name, tensor in state.items() if tensor.is_complex() and not own.get(name, tensor).is_complex()]
    if broken:
        raise CheckpointError(
            f"{what} has tensors that are not finite, or complex in place of real: {broken[:3]}. Download or copy it "
            "again."
        )


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Return a hash of names, types, shapes and contents of tensors, whatever file they came from: 12 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = {
            key: read_json(value, _decode_fraction) if key in _JSON_KEYS else value for key, value in header.items()
        }
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return Checkpoint(state, metadata)


def _read_torch(path: Path, allow_pickle: bool) -> Checkpoint:
    try:
        # Mapped and not read: the audio half is a small part of most files.
        mapped = zipfile.is_zipfile(path) or None
        with torch.serialization.safe_globals(_safe_globals()):
            package = torch.load(path, map_location="cpu", weights_only=not allow_pickle, mmap=mapped)
    except pickle.UnpicklingError as error:
        unsafe = _UNSAFE.search(str(error))
        if unsafe is None or allow_pickle:  # torch's own message would advise unsafe loading
            reason = "not written by torch.save, or with a pickle protocol that needs `models import --allow-pickle`"
            raise _damaged(path, ValueError(reason)) from error
        raise CheckpointError(
            f"{path} cannot be read without running code that it holds ({unsafe[1].rstrip('.,')}), so it was not read. "
            f"If you trust its authors, convert it to safetensors once: stemsim models import {path} --allow-pickle"
        ) from error
    except Exception as error:  # whatever it holds, torch is called with
        raise _damaged(path, error) from error
    return _unwrapped(path, package)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason, size = str(error).partition("\n")[0][:200] or repr(error), path.stat().st_size
    return CheckpointError(
        f"{path} is damaged or not a checkpoint ({reason}); {size} bytes. Download or copy it again."
    )


def _unwrapped(path: Path, package: Any) -> Checkpoint:
    """Return the tensors of a state dictionary, of a training checkpoint around one, or of a Demucs package."""
    metadata: dict[str, Any] = {}
    state = package
    if isinstance(package, Mapping) and "state_dict" in package:
        state = package["state_dict"]
    elif isinstance(package, Mapping) and {"klass", "args", "kwargs", "state"} <= set(package):
        klass, state = package["klass"], package["state"]
        name = f"{klass.__module__}.{klass.__qualname__}" if isinstance(klass, type) else repr(klass)
        args, kwargs = package["args"], package["kwargs"]
        if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
            raise CheckpointError(f"{path} is no Demucs package: its arguments are {args!r} and {kwargs!r}.")
        metadata = {"klass": name, "args": list(args), "kwargs": dict(kwargs)}
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(
            f"{path} is not a checkpoint of a known kind: expected a state dictionary of tensors, one under "
            f"`state_dict`, or a Demucs package; got {type(package).__name__}."
        )
    if state and all(name.startswith("module.") for name in state):  # of DistributedDataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return Checkpoint(dict(state), metadata)


def _safe_globals() -> list[Any]:
    """Return the classes in known checkpoints beside tensors; all they can do is to be values."""
    # Only the name of the class matters to us, so a stand-in spares the import of Demucs.
    htdemucs = type("HTDemucs", (), {"__module__": "demucs.htdemucs", "__qualname__": "HTDemucs"})
    scalar = np.float64(0.0).__reduce__()[0]
    return [
        (htdemucs, "demucs.htdemucs.HTDemucs"),
        Fraction,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    ]


def _encode_fraction(value: Any) -> Any:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    raise TypeError(f"{value!r} cannot be written into a safetensors header")


def _decode_fraction(value: dict[str, Any]) -> Any:
    try:
        return Fraction(value["numerator"], value["denominator"]) if value.get("_type") == "fraction" else value
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{value} is not a fraction") from error
