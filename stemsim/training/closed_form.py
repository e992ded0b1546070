"""The exact solution beside every fit."""

import logging
from typing import Final

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn

from stemsim.fusion import LinearFusion
from stemsim.losses import SquaredError
from stemsim.regression import ridge_weights
from stemsim.training.data import TripletDataModule
from stemsim.training.module import StemSimilarityModule

__all__ = ["ClosedFormCheck"]

_log = logging.getLogger(__name__)

_GAP_NAME: Final = "closed_form/max_abs_weight_gap"


class ClosedFormCheck(lightning.Callback):
    """Compares the weights of a linear fusion with exact OLS or ridge on the train part, after every epoch.

    Logs `closed_form/max_abs_weight_gap`, the largest absolute difference, and warns at the end if it is too large.
    Targets may be anything in [-1, 1] and triplets may weigh differently (weighted least squares). Other fusions and
    losses have no closed form and are left alone; of a loss that is said.

    Args:
        tolerance: Gap above which the fit counts as not converged.
    """

    def __init__(self, tolerance: float = 1e-4) -> None:
        self.tolerance = tolerance
        self.exact: torch.Tensor | None = None
        self.gap = float("nan")

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Solve the train part exactly."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.exact = None
        if not (
            isinstance(data, TripletDataModule)
            and isinstance(pl_module, StemSimilarityModule)
            and isinstance(pl_module.fusion, LinearFusion)
        ):
            return
        if not isinstance(pl_module.loss, SquaredError):
            _log.info(
                "No closed form to compare the weights with: only the squared error has one, and the loss is %s.",
                type(pl_module.loss).__name__,
            )
            return
        rows = data.rows("train")
        batch = data.batch(rows)
        root = batch.weight.sqrt()  # least squares with weights is that of rows scaled by their roots
        self.exact = ridge_weights(
            data.deltas(rows) * root.unsqueeze(1),
            batch.target * root,
            alpha=float(batch.weight.sum()) * pl_module.l2,
            nonnegative=pl_module.fusion.nonnegative,
        )

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the gap."""
        del trainer
        if self.exact is not None and isinstance(pl_module, StemSimilarityModule):
            weight = pl_module.fusion.weight
            assert isinstance(weight, torch.Tensor)  # noqa: S101 - for the type checker
            self.gap = float((weight.detach().cpu() - self.exact).abs().max())
            pl_module.log(_GAP_NAME, self.gap)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn if the fit has not reached the exact solution."""
        del trainer, pl_module
        if self.exact is not None and not self.gap <= self.tolerance:
            rank_zero_warn(
                f"The fit has not converged: its weights are up to {self.gap:.2g} away from the exact solution "
                f"(expected at most {self.tolerance:g}). Train longer (trainer.max_epochs), or use the default LBFGS "
                "on full batches."
            )
