"""The card of a model, and its two files: `card.yaml` for people and `weights.safetensors` for the numbers."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
import yaml
from torch import Tensor

from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.model.parts import Part
from stemsim.pretrained.loading import Checkpoint, read_checkpoint, write_checkpoint
from stemsim.stems import StemLayout, check_same_layout, stem_layout

__all__ = ["CARD_FILE", "WEIGHTS_FILE", "Agreement", "ModelCard", "read_model", "write_model"]

CARD_FILE: Final = "card.yaml"
WEIGHTS_FILE: Final = "weights.safetensors"

_DIGITS: Final = 6  # significant ones of a weight in a card; the tensor holds them all
_LONG: Final = 80  # characters of a text that gets a block of its own
_HEADER: Final = f"""\
# A model of stemsim: similarity = sum over the stems of weight x cosine.
# {WEIGHTS_FILE} holds the same weights and is compared with this card: edit the texts, not the numbers.
"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """An agreement with listeners that somebody measured.

    Attributes:
        of: What was measured: stems, fit.
        percent: Agreement in %; None if it is not available.
        spread: Its standard deviation over the splits in %; None if none was reported.
    """

    of: str
    percent: float | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        """Verify the numbers."""
        _check_text("agreement: of", self.of)
        for key, value in (("percent", self.percent), ("spread", self.spread)):
            if value is not None and not (_is_number(value) and 0.0 <= value <= 100.0):  # noqa: PLR2004 - per cent
                msg = f"The {key} of an agreement lies between 0 and 100, or is null; got {value!r} of {self.of!r}."
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What one has to know of a model before one believes it.

    Attributes:
        name: Its name.
        stems: Stem layout, in order.
        weights: One weight a stem, in that order; in a card read from a file, to six significant digits.
        encoder: What embeds the stems.
        separator: What separates them.
        silence: Level in dBFS under which a stem is silent; None embeds every stem whatever its level.
        summary: What it is for.
        fitted: How the weights came about: on what, by which method, by whom.
        measured_on: What the agreements were measured on.
        agreement: Reported agreements with listeners.
        citation: What to cite.
        licence: Licences of the parts.
    """

    name: str
    stems: StemLayout
    weights: tuple[float, ...]
    encoder: Part
    separator: Part
    silence: float | None
    summary: str = ""
    fitted: str = ""
    measured_on: str = ""
    agreement: tuple[Agreement, ...] = ()
    citation: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Verify every field."""
        for key in _TEXTS:
            _check_text(key, getattr(self, key))
        if not self.name.strip():
            msg = "A card needs a `name`; got an empty one."
            raise ConfigError(msg)
        stem_layout(self.stems)
        if len(self.weights) != len(self.stems) or not all(_is_number(weight) for weight in self.weights):
            msg = f"Expected one finite weight for each of {', '.join(self.stems)}; got {list(self.weights)}."
            raise ConfigError(msg)
        if (self.encoder.kind, self.separator.kind) != ("encoder", "separator"):
            msg = f"A card has an encoder and a separator; got {self.encoder.kind} and {self.separator.kind}."
            raise ConfigError(msg)
        if self.silence is not None and not _is_number(self.silence):
            msg = f"`silence` is a level in dBFS, or null; got {self.silence!r}."
            raise ConfigError(msg)


_TEXTS: Final = ("name", "summary", "fitted", "measured_on", "citation", "licence")
_REQUIRED: Final = ("name", "weights", "encoder", "separator", "silence")
_KEYS: Final = ("name", "summary", "weights", "encoder", "separator", "silence", *_TEXTS[2:4], "agreement", *_TEXTS[4:])


def write_model(folder: str | Path, card: ModelCard, weights: Tensor) -> None:
    """Write a model: card and weights, all or nothing.

    Both files are complete before either takes its place, so that a full disk changes nothing. Killing the process
    between the two replacements leaves an old card beside new weights, which `read_model` notices.

    Args:
        folder: Folder to write to; made if there is none. The two files of a model that is there are replaced.
        card: The card.
        weights: `(stem,)` in the order of the card's stems; equal to the card's to six significant digits.

    Raises:
        CheckpointError: If the weights are not the card's, or the folder cannot be written.
    """
    folder = Path(folder)
    _check_weights(card, weights, str(folder))
    checkpoint = Checkpoint({"weight": weights.detach().double()}, {"stems": json.dumps(card.stems)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            write_checkpoint(Path(partial) / WEIGHTS_FILE, checkpoint)
            (Path(partial) / CARD_FILE).write_text(_card_text(card), encoding="utf-8")
            for file in (WEIGHTS_FILE, CARD_FILE):
                os.replace(Path(partial) / file, folder / file)  # noqa: PTH105 - the atomic one, by its usual name
    except OSError as error:
        msg = f"The model cannot be written to {folder} ({error}). Make room, or choose another folder."
        raise CheckpointError(msg) from error


def read_model(folder: str | Path) -> tuple[ModelCard, Tensor]:
    """Read a model and compare its two files.

    Args:
        folder: A folder with `card.yaml` and `weights.safetensors`.

    Returns:
        The card, and the weights `(stem,)` float64 in the order of the card's stems.

    Raises:
        DataNotFoundError: If the folder or one of its files is missing.
        CheckpointError: If a file is damaged or of another kind, or the two have different weights.
        StemMismatchError: If the two have different stems, or the same in another order.
    """
    folder = Path(folder)
    for path in (folder, folder / CARD_FILE, folder / WEIGHTS_FILE):
        if not path.exists():
            msg = (
                f"No model at {folder}: {path} is missing. Expected a folder with {CARD_FILE} and {WEIGHTS_FILE}, as "
                "`StemSimilarity.save` writes it."
            )
            raise DataNotFoundError(msg)
    card = _read_card(folder / CARD_FILE)
    file = folder / WEIGHTS_FILE
    checkpoint = read_checkpoint(file)
    if set(checkpoint.state) != {"weight"} or checkpoint.state["weight"].dtype != torch.float64:
        seen = {name: str(tensor.dtype) for name, tensor in checkpoint.state.items()}
        msg = f"{file} holds no stem weights: expected one float64 tensor `weight`, got {seen}."
        raise CheckpointError(msg)
    check_same_layout(
        card.stems,
        _stems_of(checkpoint, file),
        what=f"the tensor in {file}",
        remedy=f"The weights do not belong to {CARD_FILE} beside them: save or copy the model again.",
    )
    weights = checkpoint.state["weight"]
    _check_weights(card, weights, str(file))
    return card, weights


def _check_weights(card: ModelCard, weights: Tensor, what: str) -> None:
    """Verify that a tensor is what the card says, to the digits of the card."""
    values = weights.tolist()
    same = weights.shape == (len(card.stems),) and all(map(math.isfinite, values))
    if not same or list(map(_rounded, values)) != list(map(_rounded, card.weights)):
        msg = (
            f"{what}: the weights {values} are not those of the card of {card.name!r}, {list(card.weights)} for "
            f"{', '.join(card.stems)}. One of the two was changed: save or copy the model again."
        )
        raise CheckpointError(msg)


def _stems_of(checkpoint: Checkpoint, file: Path) -> tuple[str, ...]:
    """Return the stems that travel with the tensor."""
    try:
        stems = json.loads(checkpoint.metadata["stems"])
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{file} does not say which stems its weights are of ({error!r}). Save the model again."
        raise CheckpointError(msg) from error
    return tuple(map(str, stems)) if isinstance(stems, list) else (str(stems),)


def _read_card(path: Path) -> ModelCard:
    """Read and verify a card; what is wrong with it is said with its path."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _card_of(content)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, ConfigError) as error:
        msg = f"{path} is not the card of a model: {error}"
        raise CheckpointError(msg) from error


def _card_of(content: object) -> ModelCard:
    """Return the card that the content of a YAML file describes."""
    values = dict(_mapping("the card", content, _KEYS, _REQUIRED))
    weights = values.pop("weights")
    if not isinstance(weights, Mapping):
        msg = f"`weights` are `stem: weight` pairs, in order; got {weights!r}."
        raise ConfigError(msg)
    part_keys = ("name", "options", "identity")
    encoder = Part("encoder", **_mapping("encoder", values.pop("encoder"), part_keys))
    separator = Part("separator", **_mapping("separator", values.pop("separator"), part_keys))
    listed = values.pop("agreement", None) or []
    if not isinstance(listed, list):
        msg = f"`agreement` is a list; got {listed!r}."
        raise ConfigError(msg)
    keys = tuple(field.name for field in fields(Agreement))
    agreement = tuple(Agreement(**_mapping("an agreement", entry, keys, ("of",))) for entry in listed)
    return ModelCard(
        stems=tuple(weights),
        weights=tuple(weights.values()),
        encoder=encoder,
        separator=separator,
        agreement=agreement,
        **values,
    )


def _mapping(what: str, content: object, keys: Sequence[str], required: Sequence[str] = ()) -> dict[str, Any]:
    """Return a mapping that has no unknown keys and lacks none."""
    if not isinstance(content, dict) or not set(required) <= set(content) <= set(keys):
        seen = ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)
        msg = f"{what} has the keys {', '.join(keys)} (needed: {', '.join(required) or 'none'}); got {seen}."
        raise ConfigError(msg)
    return content


def _card_text(card: ModelCard) -> str:
    """Return a card as YAML, in the order in which one reads it."""
    content: dict[str, Any] = {key: getattr(card, key) for key in _KEYS}
    content["weights"] = dict(zip(card.stems, map(_rounded, card.weights), strict=True))
    for part in (card.encoder, card.separator):
        entries = {"name": part.name, "options": dict(part.options), "identity": part.identity}
        content[part.kind] = {key: value for key, value in entries.items() if value}
    content["agreement"] = [
        {"of": entry.of, "percent": entry.percent} | ({} if entry.spread is None else {"spread": entry.spread})
        for entry in card.agreement
    ]
    return _HEADER + yaml.dump(content, Dumper=_CardDumper, sort_keys=False, width=110, allow_unicode=True)


class _CardDumper(yaml.SafeDumper):
    """Writes long texts as folded blocks, without quotes."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent a text."""
        style = ">" if len(data) > _LONG else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_CardDumper.add_representer(str, _CardDumper.represent_str)


def _rounded(weight: float) -> float:
    return float(f"{weight:.{_DIGITS}g}")


def _check_text(key: str, value: object) -> None:
    if not isinstance(value, str):
        msg = f"`{key}` of a card is a text; got {value!r}."
        raise ConfigError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
