"""Encoders, separators and fusions as they are named on the command line."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stemsim.errors import ConfigError

if TYPE_CHECKING:
    from stemsim.encoders import Encoder
    from stemsim.fusion import Fusion
    from stemsim.model.parts import Kind
    from stemsim.separators import StemSource

ENCODER_HELP: Final = "spectral, laion-clap or muq-mulan; laion-clap:WEIGHTS for other weights than the usual ones."
SEPARATOR_HELP: Final = (
    "bands, demucs (or demucs:htdemucs_6s), mix, or multitrack (or multitrack:4-stem) to read true stems from files."
)
_OPTION: Final = {"laion-clap": "weights", "muq-mulan": "weights", "demucs": "model", "multitrack": "stems"}


def make_encoder(text: str) -> "Encoder":
    """Make the encoder that a user names: `NAME`, or `NAME:WEIGHTS` for other weights than the usual ones."""
    encoder: Encoder = _made("encoder", text)
    return encoder


def make_separator(text: str) -> "StemSource":
    """Make the separator that a user names: `NAME`, `demucs:MODEL` or `multitrack:LAYOUT`."""
    separator: StemSource = _made("separator", text)
    return separator


def import_fusion(path: str) -> "type[Fusion]":
    """Import the class of a user's own fusion by its dotted path, from the working directory or the packages."""
    from stemsim.fusion import Fusion

    module, _, name = path.rpartition(".")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--fusion {path!r} cannot be imported ({error}). Name a class: my_module.MyFusion."
        ) from error
    finally:
        sys.path.pop(0)
    if not (isinstance(found, type) and issubclass(found, Fusion)):
        raise ConfigError(f"--fusion {path!r} is not a subclass of stemsim.fusion.Fusion, but {found!r}. Name one.")
    return found


def _made(kind: "Kind", text: str) -> Any:
    """Make the part that `name` or `name:option` stands for."""
    from stemsim.model.parts import Part, build

    name, colon, option = text.partition(":")
    if colon and (name not in _OPTION or not option):
        raise ConfigError(f"--{kind} {text!r}: only {', '.join(_OPTION)} take something after a colon. Write {name!r}.")
    return build(Part(kind, name, {_OPTION[name]: option} if colon else {}))
