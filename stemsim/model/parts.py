"""What a card may call an encoder or a separator: a closed table, so that a card from elsewhere can run no code."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stemsim.encoders import Encoder
from stemsim.errors import ConfigError
from stemsim.separators import StemSource

__all__ = ["Option", "Part", "build_encoder", "build_separator", "describe", "is_same"]

Option = str | int | float | bool | None
Kind = Literal["encoder", "separator"]

_PACKAGES: Final = {"encoder": "stemsim.encoders", "separator": "stemsim.separators"}
# Name in a card -> class of the package above, and those of its options that a card may set.
_TABLE: Final[dict[Kind, dict[str, tuple[str, tuple[str, ...]]]]] = {
    "encoder": {
        "laion-clap": ("LaionClap", ("weights", "precision")),
        "muq-mulan": ("MuQMuLan", ("weights", "precision")),
        "spectral": ("Spectral", ()),
    },
    "separator": {
        "demucs": ("Demucs", ("model", "context", "precision")),
        "bands": ("Bands", ("crossover",)),
        "mix": ("MixOnly", ()),
    },
}


@dataclass(frozen=True, slots=True)
class Part:
    """The encoder or separator of a model, as its card names it.

    Attributes:
        kind: `encoder` or `separator`.
        name: Its name in the table; None for one that stemsim does not know and a user has to pass.
        options: Arguments of its class.
        identity: The identity that it had when the card was written; None if that is not known.
    """

    kind: Kind
    name: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    identity: str | None = None

    def __post_init__(self) -> None:
        """Verify that the part is in the table, or else has an identity."""
        _check_texts(self)
        table = _TABLE[self.kind]
        if self.name is None:
            if not self.identity or self.options:
                msg = (
                    f"A card gives its {self.kind} a name out of {', '.join(table)}, with `options`; or, for one of "
                    f"your own, its `identity` alone. Got identity {self.identity!r} and options {dict(self.options)}."
                )
                raise ConfigError(msg)
            return
        if self.name not in table:
            msg = (
                f"Unknown {self.kind} {self.name!r}; expected one of {', '.join(table)}. A card cannot name a class: "
                f"for one of your own give its `identity` alone, and pass the object to `load({self.kind}=...)`."
            )
            raise ConfigError(msg)
        known = table[self.name][1]
        wrong = [key for key, value in self.options.items() if key not in known or not _is_option(value)]
        if wrong:
            msg = (
                f"A card may set these options of the {self.kind} {self.name!r}: {', '.join(known) or 'none'}, to "
                f"texts, numbers, booleans or null; got { ({key: self.options[key] for key in wrong})!r}."
            )
            raise ConfigError(msg)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        named = self.name if not options else f"{self.name}({options})"
        return named or str(self.identity)


def build_encoder(part: Part) -> Encoder:
    """Make the encoder that a card names.

    Args:
        part: The card's encoder.

    Returns:
        The encoder; its weights must lie on this machine.

    Raises:
        ConfigError: If the card carries an identity alone, or an option has an impossible value.
        DataNotFoundError: If the weights are not here.
    """
    encoder: Encoder = _build(part)
    return encoder


def build_separator(part: Part) -> StemSource:
    """Make the separator that a card names.

    Args:
        part: The card's separator.

    Returns:
        The separator; its weights must lie on this machine.

    Raises:
        ConfigError: If the card carries an identity alone, or an option has an impossible value.
        DataNotFoundError: If the weights are not here.
    """
    separator: StemSource = _build(part)
    return separator


def describe(thing: Encoder | StemSource, like: Part | None = None) -> Part:
    """Describe an encoder or a separator for a card.

    Args:
        thing: An encoder or a separator.
        like: What a card calls it; kept, but for the identity, if it is of that class.

    Returns:
        Its part, with its identity; with a name where the table has its class and its options can be read off it.
    """
    kind: Kind = "encoder" if isinstance(thing, Encoder) else "separator"
    if like is not None and _is_of_class(like, thing):
        return Part(kind, like.name, like.options, thing.identity)
    for name, (_, options) in _TABLE[kind].items():
        if _is_of_class(Part(kind, name), thing) and all(hasattr(thing, option) for option in options):
            return Part(kind, name, {option: getattr(thing, option) for option in options}, thing.identity)
    return Part(kind, identity=thing.identity)


def is_same(part: Part, thing: Encoder | StemSource) -> bool:
    """Tell whether an encoder or a separator is, as far as a card can say, the one that the card names."""
    if part.identity is not None:
        return part.identity == thing.identity
    return _is_of_class(part, thing)


def _is_of_class(part: Part, thing: Encoder | StemSource) -> bool:
    if part.name is None or type(thing).__name__ != _TABLE[part.kind][part.name][0]:
        return False  # without importing a large model's module
    return type(thing) is _class_of(part.kind, part.name)


def _build(part: Part) -> Any:
    if part.name is None:
        msg = (
            f"This model was fitted with the {part.kind} {part.identity!r}, which stemsim does not ship. Pass such an "
            f"object: load(..., {part.kind}=...)."
        )
        raise ConfigError(msg)
    try:
        return _class_of(part.kind, part.name)(**part.options)
    except TypeError as error:  # the names of the options are known, so a value must be of a wrong type
        msg = f"The {part.kind} {part} of the card cannot be made: {error}. Correct the options in card.yaml."
        raise ConfigError(msg) from error


def _class_of(kind: Kind, name: str) -> Any:
    return getattr(importlib.import_module(_PACKAGES[kind]), _TABLE[kind][name][0])


def _check_texts(part: Part) -> None:
    """Verify what a card read from a file may have wrong in spite of the annotations."""
    for key, value in (("name", part.name), ("identity", part.identity)):
        if not _is_text_or_none(value):
            msg = f"The {key} of the {part.kind} is a text or null; got {value!r}."
            raise ConfigError(msg)
    if not _is_mapping(part.options):
        msg = f"The options of the {part.kind} are `option: value` pairs; got {part.options!r}."
        raise ConfigError(msg)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_option(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
