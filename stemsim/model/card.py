"""Model files: `card.yaml` for people, and `weights.safetensors` with the parameters of the fusion."""

import json
import logging
import os
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, cast

import torch
import yaml
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from stemsim.documents import read_yaml
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError, OutputError, StemsimError
from stemsim.fusion import Fusion, WeightedFusion
from stemsim.model.parts import Part, build, describe, is_same
from stemsim.pretrained.loading import Checkpoint, load_strictly, read_checkpoint, write_checkpoint
from stemsim.replacing import PARTIAL, write_text
from stemsim.stems import StemLayout, check_same_layout, stem_layout

CARD_FILE: Final = "card.yaml"
WEIGHTS_FILE: Final = "weights.safetensors"

_log = logging.getLogger(__name__)

FusionLike = Fusion | type[Fusion]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Percentage = Annotated[float, Field(strict=True, ge=0.0, le=100.0)]

_DIGITS: Final = 6  # significant digits of a weight in a card; the tensor holds all of them
_LONG: Final = 80  # characters from which a text gets a block of its own
_LINEAR: Final = Part("fusion", "linear")
_LINEAR_HEADER: Final = f"""\
# A model of stemsim: similarity = sum over the stems of weight x cosine.
# {WEIGHTS_FILE} holds the same weights and is compared with this card: edit the texts, not the numbers.
"""
_HEADER: Final = f"""\
# A model of stemsim: a fusion of the similarities of the stems, whose parameters are in {WEIGHTS_FILE}.
# That file is compared with this card: edit the texts, not the numbers.
"""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ReportedAgreement:
    """An agreement with listeners that somebody measured.

    Attributes:
        of: The stems and the fit that were measured.
        percent: Agreement in %; None if it is not available.
        spread: Its standard deviation over the splits in %; None if none was reported.
    """

    of: str
    percent: Percentage | None = None
    spread: Percentage | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ModelCard:
    """Everything about a model but its parameters: its parts, and the evidence for it; in the order of the file.

    Attributes:
        name: Name of the model.
        summary: What the model is for.
        stems: Stem layout, in order.
        fusion: What fuses the similarities of the stems.
        encoder: What embeds the stems.
        separator: What separates them.
        silence: Level in dBFS below which a stem is silent; None embeds every stem whatever its level.
        fitted: How the parameters were found: on which votes, by which method, by whom.
        measured_on: What the agreements were measured on.
        agreement: Reported agreements with listeners.
        citation: What to cite.
        license: Licenses of the parts, as their publishers state them.
    """

    name: Annotated[str, StringConstraints(pattern=r"\S")]
    summary: str = ""
    stems: Annotated[StemLayout, AfterValidator(stem_layout)]
    fusion: Part = _LINEAR
    encoder: Part
    separator: Part
    silence: Number | None
    fitted: str = ""
    measured_on: str = ""
    agreement: tuple[ReportedAgreement, ...] = ()
    citation: str = ""
    license: str = ""


_CARD: Final = TypeAdapter(ModelCard)
_ENTRIES: Final = TypeAdapter(dict[str, Any])
_STEMS: Final = TypeAdapter(tuple[str, ...])
_WEIGHTS: Final[TypeAdapter[dict[str, float] | None]] = TypeAdapter(dict[str, Number] | None)


def write_model(folder: str | Path, card: ModelCard, fusion: Fusion) -> None:
    """Write a model: both files or neither.

    A process killed between the two replacements leaves new parameters, and their card where `read_model` finds it.

    Args:
        folder: Folder to write to; made if needed. A model that is there is replaced, other files stay.
        card: The card; what it says of the fusion is replaced by what `fusion` is.
        fusion: The fitted fusion.

    Raises:
        StemMismatchError: If card and fusion do not have the same stems.
        CheckpointError: If a parameter is not finite, or the folder cannot be written.
    """
    folder = Path(folder)
    check_same_layout(card.stems, fusion.stems, what="the fusion", remedy="Give the card the stems of the fusion.")
    state = _state(fusion)
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"These parameters are not finite: {', '.join(broken)}. Nothing was written; fit again.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=PARTIAL) as partial:
            write_checkpoint(Path(partial) / WEIGHTS_FILE, Checkpoint(state, {"stems": json.dumps(card.stems)}))
            write_text(Path(partial) / CARD_FILE, _card_text(card, fusion))
            for file in (WEIGHTS_FILE, CARD_FILE):
                os.replace(Path(partial) / file, folder / file)  # noqa: PTH105 - the atomic one, by its usual name
    except (OSError, OutputError) as error:
        raise CheckpointError(f"The model cannot be written to {folder} ({error}). Choose another folder.") from error


def read_model(folder: str | Path, *, fusion: FusionLike | None = None) -> tuple[ModelCard, Fusion]:
    """Read a model and compare its two files.

    Args:
        folder: A folder with `card.yaml` and `weights.safetensors`.
        fusion: Your own fusion, or its class if it needs no other arguments than the stems; None makes the one that
            the card names. A card cannot make stemsim import a class.

    Returns:
        The card, and the fusion with its fitted parameters.

    Raises:
        DataNotFoundError: If the folder or one of its files is missing.
        ConfigError: If the fusion is not part of stemsim, and none is passed.
        CheckpointError: If a file is damaged or of another kind, or the two files contradict each other.
        StemMismatchError: If the two have different stems, or the same in another order.
    """
    folder = Path(folder)
    for path in (folder, folder / CARD_FILE, folder / WEIGHTS_FILE):
        if not path.exists():
            raise DataNotFoundError(
                f"No model at {folder}: {path} is missing. Expected a folder with {CARD_FILE} and {WEIGHTS_FILE}, as "
                "`StemSimilarity.save` writes it."
            )
    try:
        return _read_files(folder / CARD_FILE, folder / WEIGHTS_FILE, fusion)
    except StemsimError:
        for card in folder.glob(f"{PARTIAL}*/{CARD_FILE}"):
            if not card.with_name(WEIGHTS_FILE).exists():  # as `write_model` leaves it if it is killed
                with suppress(StemsimError):
                    return _read_files(card, folder / WEIGHTS_FILE, fusion)
        raise


def _read_files(card_file: Path, file: Path, fusion: FusionLike | None) -> tuple[ModelCard, Fusion]:
    """Read a card and the file of its parameters, and compare them."""
    card, weights = _read_card(card_file)
    checkpoint = read_checkpoint(file)
    remedy = f"They do not belong to {CARD_FILE} beside them: save or copy the model again."
    check_same_layout(card.stems, _stems_of(checkpoint, file), what=f"the tensors in {file}", remedy=remedy)
    fitted = _made(card, fusion)
    load_strictly(fitted, checkpoint.state, str(file))
    seen = _weights_of(fitted)
    if seen != (weights and {stem: _rounded(weight) for stem, weight in weights.items()}):
        raise CheckpointError(
            f"{file} does not hold the weights of the card of {card.name!r}: it holds {seen}, the card says {weights}. "
            "One of the two files was changed: save or copy the model again."
        )
    return card, fitted.requires_grad_(requires_grad=False)


def _made(card: ModelCard, fusion: FusionLike | None) -> Fusion:
    """Return the fusion of a card, with its parameters at their start."""
    if fusion is None:
        untrained: Fusion = build(card.fusion, card.stems)
        return untrained
    made = deepcopy(fusion) if isinstance(fusion, Fusion) else fusion(card.stems)
    check_same_layout(card.stems, made.stems, what="the fusion", remedy=f"Make it for the stems of {card.name!r}.")
    if not is_same(card.fusion, made):
        _log.warning("The fusion of %r was fitted as %s, and is loaded as %s.", card.name, card.fusion, describe(made))
    return made


def _state(fusion: Fusion) -> dict[str, Tensor]:
    """Return the tensors that make a fusion; of a linear one its weights, even if those are squares of others."""
    if describe(fusion) == _LINEAR:
        return {"weight": cast("WeightedFusion", fusion).weight.detach().cpu()}
    return {name: tensor.detach().cpu() for name, tensor in fusion.state_dict().items()}


def _weights_of(fusion: Fusion) -> dict[str, float] | None:
    """Return the stem weights of a fusion to the digits of a card; None if it has none."""
    if not isinstance(fusion, WeightedFusion):
        return None
    return dict(zip(fusion.stems, map(_rounded, fusion.weight.tolist()), strict=True))


def _rounded(weight: float) -> float:
    return float(f"{weight:.{_DIGITS}g}")


def _stems_of(checkpoint: Checkpoint, file: Path) -> tuple[str, ...]:
    """Return the stems that are stored with the tensors."""
    try:
        return _STEMS.validate_json(checkpoint.metadata["stems"])
    except (KeyError, ValidationError) as error:
        raise CheckpointError(
            f"{file} does not say for which stems it is ({error!r}). Save the model again."
        ) from error


def _read_card(path: Path) -> tuple[ModelCard, dict[str, float] | None]:
    """Return a card, and the stem weights that it states."""
    try:
        return _card_of(read_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        entries = ((".".join(map(str, one["loc"])) or "the card", one) for one in error.errors())
        reason = "; ".join(f"{place}: {one['msg']}, got {one['input']!r}" for place, one in entries)
        raise CheckpointError(f"{path} is not the card of a model: {reason}.") from error
    except (ValueError, OSError, ConfigError) as error:
        raise CheckpointError(f"{path} is not the card of a model: {error}") from error


def _card_of(content: object) -> tuple[ModelCard, dict[str, float] | None]:
    values = _ENTRIES.validate_python(content)
    if "licence" in values:  # as cards were written at first
        values["license"] = values.pop("licence")
    weights = _WEIGHTS.validate_python(values.pop("weights", None))
    if (weights is None) != ("stems" in values):
        raise ConfigError("A card has `weights`, one `stem: weight` for each stem; or, where there are none, `stems`.")
    parts = {
        kind: {**values[kind], "kind": kind}
        for kind in ("encoder", "separator", "fusion")
        if isinstance(values.get(kind), dict)
    }
    return _CARD.validate_python({"stems": weights and tuple(weights), **values, **parts}), weights


def _card_text(card: ModelCard, fusion: Fusion) -> str:
    """Return a card as YAML, without what is empty or as usual, and with the weights if there are some."""
    card, weights = replace(card, fusion=describe(fusion)), _weights_of(fusion)
    entries = _CARD.dump_python(card, mode="json")
    for kind in ("encoder", "separator", "fusion"):
        entries[kind] = {key: value for key, value in entries[kind].items() if value and key != "kind"}
    for measured in entries["agreement"]:
        if measured["spread"] is None:
            del measured["spread"]
    if card.fusion == _LINEAR:
        del entries["fusion"]
    if weights is not None:  # in the place of the stems
        entries = {"name": entries.pop("name"), "summary": entries.pop("summary"), "weights": weights} | entries
        del entries["stems"]
    header = _LINEAR_HEADER if card.fusion == _LINEAR else _HEADER
    return header + yaml.dump(entries, Dumper=_CardDumper, sort_keys=False, width=110, allow_unicode=True)


class _CardDumper(yaml.SafeDumper):
    """Writes long texts as folded blocks, without quotes."""

    def ignore_aliases(self, data: object) -> bool:
        """Write out what occurs twice, as cards are read without aliases."""
        del data
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent a text."""
        style = ">" if len(data) > _LONG else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_CardDumper.add_representer(str, _CardDumper.represent_str)
