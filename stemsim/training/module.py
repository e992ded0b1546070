"""The trainable model: a fusion of stem similarities, fitted to the preferences of listeners."""
# ruff: noqa: ARG002 - the signatures of hooks are Lightning's

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import lightning
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torchmetrics import MeanMetric

from stemsim.errors import ConfigError
from stemsim.evaluation import PARTS, TIE, ceiling_credit
from stemsim.fusion import Fusion, LinearFusion
from stemsim.losses import Loss, SquaredError
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.stems import check_same_layout, stem_layout
from stemsim.training.data import Part, TripletBatch
from stemsim.triplets import TEST_TYPES

__all__ = ["StemSimilarityModule", "agreement_means", "baseline_means", "full_batch_lbfgs"]

_AGREEMENTS: Final = ("agreement", *(f"agreement_{kind.lower()}" for kind in TEST_TYPES))
_BASELINES: Final = ("human_ceiling", "mix_cosine", "uniform_weights")

Means = dict[str, tuple[Tensor, Tensor]]


def full_batch_lbfgs(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return an LBFGS that minimises a convex loss to about 1e-9 in a few steps on full batches."""
    return LBFGS(
        parameters,
        max_iter=50,
        history_size=20,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )


class StemSimilarityModule(lightning.LightningModule):
    """Fusion of stem similarities, fitted to triplets (paper, section 3.4).

    The objective is `mean((preference - y)^2) + l2 * |w|^2` with y = +1 or -1; for the linear fusion its minimum is
    `Ridge(alpha = n * l2, fit_intercept=False)`. There is no intercept: swapping A and B flips the preference exactly.
    Other losses, targets y and weights of the triplets are settings.

    Args:
        stems: Stem layout, in order; the command line takes it from the separator.
        fusion: Class of the fusion, with its options.
        l2: Weight of the squared weights in the loss: ridge's alpha divided by the number of train triplets.
        optimizer: Class of the optimizer; the default is LBFGS, which needs full batches (data.batch_size=null).
        vote_weighted: Count every answer in the agreement, instead of every triplet.
        loss: Loss between preferences and targets (data.target); null: the squared error, as in the paper.
    """

    batches_trained: Tensor

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
            raise ConfigError(f"`l2` must not be negative; got {l2}.")
        # Only what belongs to the weights: a checkpoint then loads with weights_only=True, and overrides nothing else.
        self.stems = list(stem_layout(stems))
        self.save_hyperparameters({"stems": self.stems, "l2": l2}, logger=False)
        self.fusion = fusion(self.stems)
        self.l2 = l2
        self.loss = loss or SquaredError()
        self.make_optimizer = optimizer
        self.vote_weighted = vote_weighted
        self.register_buffer("batches_trained", torch.zeros((), dtype=torch.long))
        logged = [f"{part}/{name}" for part in PARTS for name in (*_AGREEMENTS, *_BASELINES)]
        self.means = nn.ModuleDict({name: MeanMetric().set_dtype(torch.float64) for name in logged})

    @property
    def trained(self) -> bool:
        """True if the weights have been learned, here or in the checkpoint that was loaded."""
        return bool(self.batches_trained)

    def forward(self, x: StemEmbeddings, a: StemEmbeddings, b: StemEmbeddings) -> Tensor:
        """Return the preference `(batch,)`: positive where A is closer to X, negative where B is."""
        return self.fusion.preference(x, a, b)

    def objective(self, preference: Tensor, batch: TripletBatch) -> Tensor:
        """Return the objective of a fit: the loss of predicted preferences `(batch,)`, plus the penalties."""
        loss: Tensor = self.loss(preference, batch.target, batch.weight)
        return loss + self.l2 * self.fusion.penalty() + self.fusion.roughness()

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor:
        """Return the loss; LBFGS calls this many times on one batch, so that metrics wait for the end of the batch."""
        return self.objective(self(batch.x, batch.a, batch.b), batch)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: TripletBatch, batch_idx: int) -> None:
        """Log loss and agreement with the weights that the step has reached."""
        self.batches_trained += 1
        self._log("train", batch)

    def validation_step(self, batch: TripletBatch, batch_idx: int) -> None:
        """Log loss, agreement and baselines of a validation batch."""
        self._log("val", batch)

    def test_step(self, batch: TripletBatch, batch_idx: int) -> None:
        """Log loss, agreement and baselines of a test batch."""
        self._log("test", batch)

    def predict_step(self, batch: TripletBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return `row` and `preference` `(batch,)`, and the `contributions` `(batch, stem)` that sum to it."""
        contributions = self.fusion.contributions(batch.x, batch.a) - self.fusion.contributions(batch.x, batch.b)
        return {"row": batch.row, "preference": self(batch.x, batch.a, batch.b), "contributions": contributions}

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer of the fusion's parameters."""
        return self.make_optimizer(self.fusion.parameters())

    def check_stems(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise a `StemMismatchError` unless the weights in a checkpoint belong to this stem layout."""
        remedy = "Use the separator (data.separator) that it was fitted with, or fit again."
        check_same_layout(self.stems, checkpoint["hyper_parameters"]["stems"], what="the checkpoint", remedy=remedy)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verify that the weights belong to this stem layout."""
        self.check_stems(checkpoint)
        # Older checkpoints have no such buffer.
        checkpoint["state_dict"].setdefault("batches_trained", torch.tensor(checkpoint["global_step"]))

    def _log(self, part: Part, batch: TripletBatch) -> None:
        """Log the same metrics for any data: a mean over nothing is NaN."""
        preference = self(batch.x, batch.a, batch.b)
        size = len(batch.row)
        self.log(f"{part}/loss", self.objective(preference, batch), on_epoch=True, on_step=False, batch_size=size)
        means = agreement_means(preference, batch, vote_weighted=self.vote_weighted)
        if part != "train":
            means |= baseline_means(batch, self.stems, vote_weighted=self.vote_weighted)
        for name, (values, weights) in means.items():
            metric = cast("MeanMetric", self.means[f"{part}/{name}"])
            metric.update(values, weights)
            self.log(f"{part}/{name}", metric, on_epoch=True, on_step=False, batch_size=size)


def agreement_means(preference: Tensor, batch: TripletBatch, *, vote_weighted: bool = False) -> Means:
    """Return the agreement of predicted preferences `(batch,)` with the listeners, overall and by test type.

    With `vote_weighted`, every answer counts instead of every triplet: the share of answers that a model agrees with,
    which is directly comparable with the human ceiling.

    Returns:
        By metric: values `(batch,)`, and their weights `(batch,)` in the mean.
    """
    lead, total = (batch.votes[:, 0] - batch.votes[:, 1]).double(), batch.votes.sum(dim=1).double()
    majority, weight = (lead / total, total) if vote_weighted else (lead.sign(), torch.ones_like(total))
    value = TIE * (1.0 + preference.sign() * majority)
    by_type = {f"agreement_{kind.lower()}": batch.test_type == index for index, kind in enumerate(TEST_TYPES)}
    return {"agreement": (value, weight), **{name: (value, weight * rows) for name, rows in by_type.items()}}


def baseline_means(batch: TripletBatch, stems: Sequence[str], *, vote_weighted: bool = False) -> Means:
    """Return the human ceiling, and the agreement of the mix-only cosine and of uniform weights.

    As `agreement_means`; without a mix in the stem layout, the mix-only cosine has no weight.
    """
    deltas, votes = stem_deltas(batch.x, batch.a, batch.b), batch.votes.cpu().numpy()
    earned, answers = (torch.from_numpy(part).to(deltas.device) for part in ceiling_credit(votes))
    mix = deltas[:, stems.index("mix")] if "mix" in stems else torch.zeros_like(deltas[:, 0])
    mix_cosine, uniform_weights = (
        agreement_means(score, batch, vote_weighted=vote_weighted)["agreement"] for score in (mix, deltas.sum(dim=1))
    )
    return {
        "human_ceiling": (earned / answers.clamp(min=1.0), answers),
        "mix_cosine": (mix_cosine[0], mix_cosine[1] * ("mix" in stems)),
        "uniform_weights": uniform_weights,
    }
