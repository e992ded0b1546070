"""Encoders, separators and weights by the names that one types on the command line."""

from typing import TYPE_CHECKING

from stemsim.errors import ConfigError

if TYPE_CHECKING:
    from stemsim.encoders import Encoder
    from stemsim.separators import StemSource

__all__ = ["ENCODER_HELP", "SEPARATOR_HELP", "make_encoder", "make_separator"]

ENCODER_HELP = "spectral, laion-clap or muq-mulan; laion-clap:WEIGHTS names other weights."
SEPARATOR_HELP = "bands, demucs (demucs:htdemucs_6s), mix, or multitrack (multitrack:4-stem) for true stems from files."
_OPTION = {"laion-clap": "weights", "muq-mulan": "weights", "demucs": "model"}


def make_encoder(text: str) -> "Encoder":
    """Make the encoder that a user names.

    Args:
        text: `spectral`, `laion-clap` or `muq-mulan`, with its weights behind a colon if they are not the usual ones.

    Raises:
        ConfigError: If there is none of that name.
        DataNotFoundError: If its weights are not here.
    """
    from stemsim.model.parts import Part, build_encoder

    name, options = _parsed(text, "--encoder")
    return build_encoder(Part("encoder", name, options))


def make_separator(text: str) -> "StemSource":
    """Make the separator that a user names.

    Args:
        text: `bands`, `demucs`, `mix` or `multitrack`, with its model or layout behind a colon if it is not the usual.

    Raises:
        ConfigError: If there is none of that name.
        DataNotFoundError: If its weights are not here.
    """
    from stemsim.model.parts import Part, build_separator

    name, _, option = text.partition(":")
    if name == "multitrack":
        from stemsim.separators import Multitrack

        return Multitrack(option or "6-stem")
    name, options = _parsed(text, "--separator")
    return build_separator(Part("separator", name, options))


def _parsed(text: str, flag: str) -> tuple[str, dict[str, str]]:
    """Split `name` or `name:option`."""
    name, colon, option = text.partition(":")
    if not colon:
        return name, {}
    if name not in _OPTION or not option:
        msg = f"{flag} {text!r}: what stands behind a colon is the model of {', '.join(_OPTION)}; leave it out."
        raise ConfigError(msg)
    return name, {_OPTION[name]: option}
