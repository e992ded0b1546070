"""Checkpoints: written to one stable place, and checked before they are loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from stemsim.errors import CheckpointError
from stemsim.stems import check_same_layout

__all__ = ["LastCheckpoint", "check_checkpoint", "check_checkpoint_stems"]


class LastCheckpoint(ModelCheckpoint):
    """Keeps the weights of the last epoch in `checkpoints/last.ckpt` of the run's folder, whatever was there before."""

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False, save_on_train_epoch_end=True)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Settle on the folder, which the trainer knows."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)


def check_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of stemsim without running any code in it.

    Args:
        path: A `.ckpt` file written by `fit`.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If the file is missing, damaged, or not a checkpoint of stemsim.
    """
    file = Path(path)
    if not file.is_file():
        msg = f"No checkpoint at {file}. Expected the `last.ckpt` that `python train.py fit` names when it ends."
        raise CheckpointError(msg)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the safe unpickler raises all kinds of errors on garbage
        reason = f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0]
        msg = (
            f"{file} is not a checkpoint that can be read safely ({reason}). It is damaged, or holds more than tensors "
            "and primitives. Fit again."
        )
        raise CheckpointError(msg) from error
    if not isinstance(checkpoint, dict) or "stems" not in checkpoint.get("hyper_parameters", {}):
        msg = f"{file} is not a checkpoint of stemsim: it names no stems. Expected one that `train.py fit` wrote."
        raise CheckpointError(msg)
    return checkpoint


def check_checkpoint_stems(checkpoint: Mapping[str, Any], stems: Sequence[str]) -> None:
    """Verify that the weights in a checkpoint belong to a stem layout.

    Args:
        checkpoint: A checkpoint of stemsim.
        stems: The stem layout in use.

    Raises:
        StemMismatchError: If they do not; the message names both orders.
    """
    check_same_layout(
        stems,
        checkpoint.get("hyper_parameters", {}).get("stems", ()),
        what="the checkpoint",
        remedy="Test it with the separator (data.separator) that it was fitted with, or fit again.",
    )
