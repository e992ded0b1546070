"""Encoders, separators and fusions as they are named on the command line."""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stemsim.errors import ConfigError

if TYPE_CHECKING:
    from stemsim.encoders import Encoder
    from stemsim.fusion import Fusion
    from stemsim.separators import StemSource

__all__ = ["ENCODER_HELP", "SEPARATOR_HELP", "import_fusion", "make_encoder", "make_separator"]

ENCODER_HELP: Final = "spectral, laion-clap or muq-mulan; laion-clap:WEIGHTS for other weights than the usual ones."
SEPARATOR_HELP: Final = (
    "bands, demucs (or demucs:htdemucs_6s), mix, or multitrack (or multitrack:4-stem) to read true stems from files."
)
_OPTION: Final = {"laion-clap": "weights", "muq-mulan": "weights", "demucs": "model", "multitrack": "stems"}


def make_encoder(text: str) -> "Encoder":
    """Make the encoder that a user names.

    Args:
        text: `spectral`, `laion-clap` or `muq-mulan`; or `NAME:WEIGHTS` for other weights than the usual ones.

    Raises:
        ConfigError: If there is no encoder of that name.
        DataNotFoundError: If its weights are not on this disk.
    """
    from stemsim.model.parts import Part, build_encoder

    name, options = _parsed(text, "--encoder")
    return build_encoder(Part("encoder", name, options))


def make_separator(text: str) -> "StemSource":
    """Make the separator that a user names.

    Args:
        text: `bands`, `demucs`, `mix` or `multitrack`; or `demucs:MODEL`, `multitrack:LAYOUT`.

    Raises:
        ConfigError: If there is no separator of that name.
        DataNotFoundError: If its weights are not on this disk.
    """
    from stemsim.model.parts import Part, build_separator

    name, options = _parsed(text, "--separator")
    return build_separator(Part("separator", name, options))


def import_fusion(path: str) -> "type[Fusion]":
    """Import the class of a user's own fusion, from the working directory or from where Python finds its packages.

    Args:
        path: Dotted path of the class, such as `my_module.MyFusion`.

    Raises:
        ConfigError: If there is no such class, or it is not a fusion.
    """
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


def _parsed(text: str, flag: str) -> tuple[str, dict[str, str]]:
    """Split `name` or `name:option`."""
    name, colon, option = text.partition(":")
    if not colon:
        return name, {}
    if name not in _OPTION or not option:
        raise ConfigError(f"{flag} {text!r}: only {', '.join(_OPTION)} take something after a colon. Write {name!r}.")
    return name, {_OPTION[name]: option}
