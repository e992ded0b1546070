"""Parts of a model as its card names them: a closed table, so that no card can make stemsim import other code."""

import importlib
import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, SkipValidation
from pydantic.dataclasses import dataclass
from torch.nn.utils.parametrize import type_before_parametrizations

from stemsim.encoders import Encoder
from stemsim.errors import ConfigError
from stemsim.fusion import Fusion
from stemsim.pretrained.folder import is_repository, pretrained_folder
from stemsim.pretrained.registry import PRETRAINED
from stemsim.separators import StemSource
from stemsim.stems import LAYOUTS, StemLayout

Kind = Literal["encoder", "separator", "fusion"]
Option = str | int | float | bool | list[str] | None

_PACKAGES: Final = {"encoder": "stemsim.encoders", "separator": "stemsim.separators", "fusion": "stemsim.fusion"}
_FILES: Final = {"weights", "model"}  # options that may name a file
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
        "multitrack": ("Multitrack", ("stems",)),
    },
    "fusion": {
        "linear": ("LinearFusion", ()),  # fitted weights are stored as they are, nonnegative or not
        "spline": ("SplineFusion", ("pieces", "smoothing")),
        "monotone": ("MonotoneFusion", ("units_per_stem", "smoothing")),
        "attention": ("AttentionFusion", ("smoothing",)),
        "low-rank": ("LowRankFusion", ("rank", "components", "smoothing")),
    },
}


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Part:
    """The encoder, separator or fusion of a model, as its card names it.

    Attributes:
        kind: `encoder`, `separator` or `fusion`.
        name: Its name in the table; None for an object of your own, which has to be passed to `load`.
        options: Arguments of its class.
        identity: Its identity when the card was written (of your own fusion: the path of its class); None if unknown.
    """

    kind: Kind
    name: str | None = None
    options: Mapping[str, SkipValidation[Option]] = field(default_factory=dict)
    identity: str | None = None

    def __post_init__(self) -> None:
        """Verify that the part is in the table, or else has an identity."""
        table = _TABLE[self.kind]
        if self.name is None and (not self.identity or self.options):
            raise ConfigError(
                f"A card gives its {self.kind} a name out of {', '.join(table)}, with `options`; or, for one of your "
                f"own, its `identity` alone. Got identity {self.identity!r} and options {dict(self.options)}."
            )
        if self.name is not None and self.name not in table:
            raise ConfigError(
                f"Unknown {self.kind} {self.name!r}; expected one of {', '.join(table)}. No card or option can name "
                f"your own: pass the object itself, `load(..., {self.kind}=...)`; its card has an `identity` alone."
            )
        known = table[self.name][1] if self.name else ()
        if wrong := {key: value for key, value in self.options.items() if key not in known or not _is_option(value)}:
            raise ConfigError(
                f"A card may set these options of the {self.kind} {self.name!r}: {', '.join(known) or 'none'}, to "
                f"texts, finite numbers, booleans, lists of texts or null; got {wrong!r}."
            )

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        named = self.name if not options else f"{self.name}({options})"
        return named or str(self.identity)


def build(part: Part, *arguments: Any, card: Path | None = None) -> Any:
    """Return the encoder, separator or (given the stems) untrained fusion that a card names.

    Args:
        part: The part.
        arguments: Of its class, before the options.
        card: Folder of a card that may be somebody else's. Files that it names have to lie in there, or among the
            pretrained ones. None: what the user names himself may lie anywhere.

    Raises:
        ConfigError: If the card has an identity alone, an option has an impossible value, or a file lies elsewhere.
        DataNotFoundError: If its pretrained weights are not on this machine.
    """
    if part.name is None:
        raise ConfigError(
            f"This model was fitted with the {part.kind} {part.identity!r}, which is not part of stemsim. Pass that "
            f"{part.kind} yourself: load(..., {part.kind}=...)."
        )
    making = _class_of(part)
    options = part.options if card is None else _confined(part, card.resolve())
    try:
        return making(*arguments, **options)
    # The names of the options are known, so a value has a wrong type; or torch cannot make tensors of that size.
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f"The {part.kind} {part} cannot be made: {error}. Correct card.yaml.") from error


def _confined(part: Part, card: Path) -> dict[str, Option]:
    """Return the options of a part with paths that are relative to the card's folder made absolute."""
    options = dict(part.options)
    for option in options.keys() & _FILES:
        name = str(options[option])
        path = (card / name).resolve()
        if name in PRETRAINED or (is_repository(name) and not path.exists()):
            continue
        if not any(path.is_relative_to(folder) for folder in (card, pretrained_folder().resolve())):
            raise ConfigError(
                f"The card in {card} names {path} as the {option} of its {part.kind}: expected a known name, or a file "
                f"in {card} or {pretrained_folder()}. If you trust the card, copy the file there, or pass the "
                f"{part.kind} yourself: load(..., {part.kind}=...)."
            )
        options[option] = str(path)
    return options


def describe(thing: Encoder | StemSource | Fusion, like: Part | None = None) -> Part:
    """Describe an encoder, a separator or a fusion for a card: by name, or by its identity if the table lacks it.

    `like` is its description in an earlier card; kept, but for the identity, if it is of that class.
    """
    kind: Kind = "encoder" if isinstance(thing, Encoder) else "fusion" if isinstance(thing, Fusion) else "separator"
    identity = None if kind == "fusion" else _identity(thing)
    if like is not None and _is_of_class(like, thing):
        return Part(kind, like.name, like.options, identity)
    for name, (_, options) in _TABLE[kind].items():
        if _is_of_class(Part(kind, name), thing):
            return Part(kind, name, {option: _plain(getattr(thing, option)) for option in options}, identity)
    return Part(kind, identity=_identity(thing))


def is_same(part: Part, thing: Encoder | StemSource | Fusion) -> bool:
    """Tell whether an object is, as far as the card can say, the one that the card names."""
    return _is_of_class(part, thing) if part.identity is None else part.identity == _identity(thing)


def _identity(thing: Encoder | StemSource | Fusion) -> str:
    own = _own_class(thing)
    return f"{own.__module__}.{own.__qualname__}" if isinstance(thing, Fusion) else thing.identity


def _is_of_class(part: Part, thing: Encoder | StemSource | Fusion) -> bool:
    # The names first, so that no large model's module is imported.
    named = part.name is not None and _own_class(thing).__name__ == _TABLE[part.kind][part.name][0]
    return named and _own_class(thing) is _class_of(part)


def _own_class(thing: Encoder | StemSource | Fusion) -> type:
    return type_before_parametrizations(thing) if isinstance(thing, Fusion) else type(thing)


def _class_of(part: Part) -> Any:
    return getattr(importlib.import_module(_PACKAGES[part.kind]), _TABLE[part.kind][str(part.name)][0])


def _plain(value: Option | StemLayout) -> Option:
    """Return an option as a card writes it: a stem layout by its name if it has one."""
    if not isinstance(value, tuple):
        return value
    return next((name for name, layout in LAYOUTS.items() if layout == value), list(value))


def _is_option(value: object) -> bool:
    texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return value is None or texts or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
