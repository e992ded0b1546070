"""Loading of models: the ready-made ones by name, others by folder."""

import logging
import os
import sysconfig
from difflib import SequenceMatcher
from pathlib import Path

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, DataNotFoundError
from stemsim.fusion import Fusion
from stemsim.model.card import CARD_FILE, FusionLike, ModelCard, read_model
from stemsim.model.parts import build, is_same
from stemsim.model.stem_similarity import StemSimilarity
from stemsim.separators import StemSource
from stemsim.stems import check_same_layout

_log = logging.getLogger(__name__)


def load(
    name_or_path: str | Path,
    *,
    encoder: Encoder | None = None,
    separator: StemSource | None = None,
    fusion: FusionLike | None = None,
    store: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    progress: bool = False,
) -> StemSimilarity:
    """Load a model.

    Args:
        name_or_path: Name of a ready-made model, such as `muq-6stem`, or a folder that `StemSimilarity.save` or a fit
            has written. A folder of the same name as a ready-made model is meant by `./muq-6stem`.
        encoder: Encoder to use; None makes the one that the card names, with which the weights were fitted.
        separator: Separator, or other source of stems, with the stem layout of the card; None makes the one that the
            card names.
        fusion: Your own fusion, or its class, where the model was fitted with one; None makes the one that the card
            names, which is one of stemsim's.
        store: Folder of the embedding store, so that nothing is embedded twice; None computes everything anew.
        device: Where separator and encoder compute, e.g. `cpu` or `cuda:0`.
        batch_size: Largest number of inputs separated and encoded at once; None: 16 on a CPU, as many as fit on a GPU.
        progress: Show a progress bar on standard error.

    Returns:
        The model.

    Raises:
        ConfigError: If there is no ready-made model of that name, or encoder, separator or fusion have to be passed.
        DataNotFoundError: If the folder, or the pretrained weights of encoder or separator, are missing.
        CheckpointError: If the model is damaged.
        StemMismatchError: If the separator has other stems than the model.
    """
    folder = _folder(name_or_path)
    card, fitted = read_model(folder, fusion=fusion)
    source: StemSource = build(card.separator, card=folder) if separator is None else separator
    remedy = f"The weights of {card.name!r} are for the stems of {card.separator}: pass such a separator."
    check_same_layout(card.stems, source.stems, what=f"the separator {source.identity!r}", remedy=remedy)
    chosen: Encoder = build(card.encoder, card=folder) if encoder is None else encoder
    if not is_same(card.encoder, chosen):
        message = (
            "The weights of %r were fitted with the encoder %s; with %s their agreement with listeners is unknown."
        )
        _log.warning(message, card.name, card.encoder, chosen.identity)
    embedder = StemEmbedder(
        source, chosen, silence=card.silence, store=store, batch_size=batch_size, device=device, progress=progress
    )
    return StemSimilarity(embedder, fitted, card=card)


def load_fitted(name_or_path: str | Path, *, fusion: FusionLike | None = None) -> tuple[ModelCard, Fusion]:
    """Load the card and the fitted fusion of a model without its encoder; arguments and errors are those of `load`."""
    return read_model(_folder(name_or_path), fusion=fusion)


def load_fusion(name_or_path: str | Path, *, fusion: FusionLike | None = None) -> Fusion:
    """Load the fitted fusion of a model alone, on the CPU; arguments and errors are those of `load`."""
    return load_fitted(name_or_path, fusion=fusion)[1]


def available_models() -> list[str]:
    """Return the names of the ready-made models, sorted."""
    return sorted(path.parent.name for path in _checkpoints().glob(f"*/{CARD_FILE}"))


def _folder(name_or_path: str | Path) -> Path:
    """Return the folder of a model: a ready-made one where the text is its name, else the folder it names."""
    path = Path(name_or_path)
    names = available_models()
    if isinstance(name_or_path, str) and name_or_path in names:
        return _checkpoints() / name_or_path
    # A text without a path separator that is not a folder either was meant as a name.
    if isinstance(name_or_path, Path) or path.exists() or os.sep in name_or_path or "/" in name_or_path:
        return path
    names.sort(key=lambda name: -SequenceMatcher(None, name, name_or_path).ratio())
    raise ConfigError(
        f"No ready-made model {name_or_path!r}, and no folder of that name; expected one of {', '.join(names)}, or the "
        "folder of a model of your own."
    )


def _checkpoints() -> Path:
    """Return the folder of the ready-made models: that of the checkout, else where pip has put it."""
    root = Path(__file__).resolve().parents[2]
    installed = Path("share") / "stemsim" / "checkpoints"
    candidates = [
        *([root / "checkpoints"] if (root / "pyproject.toml").is_file() else []),
        root / installed,  # pip install --target
        Path(sysconfig.get_path("data")) / installed,
        Path(sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))) / installed,
    ]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataNotFoundError(
        f"The ready-made models are not installed; expected them in one of {', '.join(map(str, candidates))}. "
        "Install stemsim again, or load a model of your own by its folder."
    )
