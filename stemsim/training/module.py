"""The trainable model: a fusion of stem similarities, fitted to listeners' preferences."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torchmetrics import MetricCollection

from stemsim.errors import ConfigError
from stemsim.fusion import Fusion, LinearFusion, StemPairs
from stemsim.losses import Loss, SquaredError
from stemsim.regression import ridge_weights
from stemsim.similarity import StemEmbeddings
from stemsim.stems import stem_layout
from stemsim.training.checkpoint import check_checkpoint_stems
from stemsim.training.data import TripletBatch, TripletDataModule
from stemsim.training.metrics import Agreement, Baselines, CreditMetric
from stemsim.triplets import TestType

__all__ = ["StemSimilarityModule", "full_batch_lbfgs"]

_PROVENANCE: Final = "stemsim"


def full_batch_lbfgs(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return LBFGS set up to reach the minimum of a convex loss to about 1e-9 in a few steps on full batches."""
    return LBFGS(
        parameters,
        max_iter=50,
        history_size=20,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )


class StemSimilarityModule(lightning.LightningModule):
    """Learns how much each stem counts from triplets (paper, section 3.4).

    What is minimised is `mean((preference - y)^2) + l2 * |w|^2` with y = +1 or -1; for the linear fusion its minimum
    equals `Ridge(alpha = n * l2, fit_intercept=False)`. There is no intercept: swapping A and B flips the preference
    exactly. Other losses than the squared error, other targets y and weights of the triplets are settings.

    Args:
        stems: Stem layout, in order; the command line takes it from the separator.
        fusion: Makes the fusion from the stem layout.
        l2: Weight of the squared weights in the loss: ridge's alpha divided by the number of train triplets.
        optimizer: Makes the optimizer; the default is LBFGS, which needs full batches (data.batch_size=null).
        vote_weighted: Let agreement count every answer instead of every triplet.
        loss: Compares preferences with what listeners said (data.target); null: the squared error, as in the paper.
    """

    def __init__(
        self,
        stems: list[str],
        fusion: Callable[[list[str]], Fusion] = LinearFusion,
        l2: float = 0.0,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = full_batch_lbfgs,
        vote_weighted: bool = False,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        if l2 < 0.0:
            msg = f"`l2` must not be negative; got {l2}."
            raise ConfigError(msg)
        # Only what must follow the weights: a checkpoint then loads with weights_only=True, and overrides nothing else.
        self.stems = list(stem_layout(stems))
        self.save_hyperparameters({"stems": self.stems, "l2": l2})
        self.fusion = fusion(self.stems)
        self.l2 = l2
        self.loss = loss or SquaredError()
        self.make_optimizer = optimizer
        self.trained = False
        kinds: dict[str, TestType | None] = {"agreement": None, "agreement_xab": "XAB", "agreement_xyc": "XYC"}
        metrics = MetricCollection(
            {name: Agreement(kind, vote_weighted=vote_weighted) for name, kind in kinds.items()}, compute_groups=False
        )
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.val_baselines = Baselines(self.stems, "val/", vote_weighted=vote_weighted)
        self.test_baselines = Baselines(self.stems, "test/", vote_weighted=vote_weighted)

    def forward(self, x: StemEmbeddings, a: StemEmbeddings, b: StemEmbeddings) -> Tensor:
        """Return the preference `(batch,)`: positive where A is closer to X, negative where B is."""
        return self.fusion.preference(x, a, b)

    def objective(self, preference: Tensor, batch: TripletBatch) -> Tensor:
        """Return what a fit minimises: the loss of predicted preferences `(batch,)`, and the L2 term."""
        loss: Tensor = self.loss(preference, batch.target, batch.weight)
        return loss + self.l2 * self.fusion.penalty() + self.fusion.roughness()

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """Let a nonlinear fusion see the train part, and start from its best linear weights, unless a fit goes on."""
        data = getattr(self._trainer, "datamodule", None)
        if self.trained or isinstance(self.fusion, LinearFusion) or not isinstance(data, TripletDataModule):
            return
        rows = data.rows("train")
        batch = data.batch(rows)
        x, a, b = (StemEmbeddings(*(part.to(self.device) for part in segments)) for segments in batch[:3])
        both = (StemEmbeddings(*map(torch.cat, zip(*pair, strict=True))) for pair in ((x, x), (a, b)))
        self.fusion.observe(StemPairs.of(*both))
        if type(self.fusion).start_from is Fusion.start_from:  # it contains no weighted sum
            return
        root = batch.weight.sqrt()  # least squares with weights is that of rows scaled by their roots
        alpha = float(batch.weight.sum()) * self.l2
        self.fusion.start_from(ridge_weights(data.deltas(rows) * root.unsqueeze(1), batch.target * root, alpha))

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor:
        """Return the loss; LBFGS calls this many times on one batch, so that metrics wait for the end of the batch."""
        del batch_idx
        return self.objective(self(batch.x, batch.a, batch.b), batch)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: TripletBatch, batch_idx: int) -> None:
        """Log loss and agreement with the weights that the step has reached."""
        del outputs, batch_idx
        self._log_fit("train", self.train_metrics, batch)

    def on_train_end(self) -> None:
        """Remember that the weights have been learned."""
        self.trained = True

    def validation_step(self, batch: TripletBatch, batch_idx: int) -> None:
        """Log loss, agreement and baselines of a validation batch."""
        del batch_idx
        self._log_fit("val", self.val_metrics, batch)
        self._log_metrics(self.val_baselines.update(batch), len(batch.row))

    def on_test_start(self) -> None:
        """Warn if the weights are those of a new module: agreement would say nothing."""
        if not self.trained:
            rank_zero_warn(
                "Testing weights that were never trained: they know nothing of the votes. Give --ckpt_path the "
                "checkpoint that `fit` named. The uniform-weights baseline stands beside them."
            )

    def test_step(self, batch: TripletBatch, batch_idx: int) -> None:
        """Log loss, agreement and baselines of a test batch."""
        del batch_idx
        self._log_fit("test", self.test_metrics, batch)
        self._log_metrics(self.test_baselines.update(batch), len(batch.row))

    def predict_step(self, batch: TripletBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return `row` and `preference` `(batch,)`, and the `contributions` `(batch, stem)` that make it up."""
        del batch_idx
        contributions = self.fusion.contributions(batch.x, batch.a) - self.fusion.contributions(batch.x, batch.b)
        return {"row": batch.row, "preference": self(batch.x, batch.a, batch.b), "contributions": contributions}

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer of the fusion's parameters."""
        return self.make_optimizer(self.fusion.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what the weights belong to."""
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, TripletDataModule):
            checkpoint[_PROVENANCE] = {
                "encoder": data.embedder.spec.encoder,
                "separator": data.embedder.spec.separator,
                "source": data.table().source,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verify that the weights belong to this stem layout, and warn if they do not belong to this encoder."""
        check_checkpoint_stems(checkpoint, self.stems)
        data = getattr(self._trainer, "datamodule", None)
        made_with = checkpoint.get(_PROVENANCE, {})
        if isinstance(data, TripletDataModule):
            for what, identity in (
                ("encoder", data.embedder.spec.encoder),
                ("separator", data.embedder.spec.separator),
            ):
                if made_with.get(what, identity) != identity:
                    rank_zero_warn(f"The weights were fitted with {what} {made_with[what]!r}; now it is {identity!r}.")
        self.trained = True

    def _log_fit(self, part: str, metrics: MetricCollection, batch: TripletBatch) -> None:
        """Log the loss, and the agreement over all triplets and by test type."""
        preference = self(batch.x, batch.a, batch.b)
        size = len(batch.row)
        self.log(f"{part}/loss", self.objective(preference, batch), on_epoch=True, on_step=False, batch_size=size)
        metrics.update(preference, batch.votes, batch.test_type)
        self._log_metrics({name: cast("CreditMetric", metric) for name, metric in metrics.items()}, size)

    def _log_metrics(self, metrics: Mapping[str, CreditMetric], batch_size: int) -> None:
        """Log what has counted anything: a test type that does not occur has no agreement, and NaN helps nobody."""
        for name, metric in metrics.items():
            if metric.counted:
                self.log(name, metric, on_epoch=True, on_step=False, batch_size=batch_size)
