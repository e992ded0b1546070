"""Callbacks: checkpoints, the start of a fit, the exact solution beside it, and the results."""
# ruff: noqa: ARG002 - the signatures of hooks are Lightning's

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor

from stemsim.errors import CheckpointError, ConfigError
from stemsim.evaluation import PARTS, agreement_credit
from stemsim.fusion import Fusion, LinearFusion, StemPairs, WeightedFusion
from stemsim.losses import SquaredError
from stemsim.model import ReportedAgreement, StemSimilarity, write_model
from stemsim.regression import ridge_weights
from stemsim.report.results import FitResults, PartResults, PredictionResults
from stemsim.similarity import StemEmbeddings
from stemsim.training.data import TripletDataModule
from stemsim.training.module import StemSimilarityModule
from stemsim.training.trainer import log_settings, publish

__all__ = ["CHECKPOINTS", "ClosedFormCheck", "LastCheckpoint", "ResultsReport", "StartAtRidge"]

_log = logging.getLogger(__name__)

CHECKPOINTS: Final = "checkpoints"
"""Folder of the checkpoints, in the run's folder."""

_PROVENANCE: Final = "stemsim"
_MODEL: Final = "model"  # folder of the model, in the run's folder


class LastCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/last.ckpt` in the run's folder, and with `monitor` also `checkpoints/best.ckpt`.

    Checkpoints store encoder, separator and triplet source; a warning says if they are others when one is loaded.

    Args:
        monitor: Logged metric that chooses the best epoch, e.g. `val/loss`; null keeps the last epoch alone.
        mode: `min` if a lower value of the metric is better, else `max`.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["min", "max"] = "min") -> None:
        super().__init__(
            filename="last" if monitor is None else "best",
            monitor=monitor,
            mode=mode,
            save_last=monitor is not None,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )

    @property
    def state_key(self) -> str:
        """Key in checkpoints; the same with and without `monitor`, so that either can be loaded."""
        return type(self).__name__

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Set the folder, which the trainer knows."""
        self.dirpath = str(Path(trainer.default_root_dir) / CHECKPOINTS)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remove the best checkpoint of an earlier fit."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / CHECKPOINTS / "best.ckpt").unlink(missing_ok=True)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the provenance of the weights."""
        _, data = _ours(trainer, pl_module)
        spec, source = data.embedder.spec, data.embedded.triplets.source
        checkpoint[_PROVENANCE] = {"encoder": spec.encoder, "separator": spec.separator, "source": source}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Warn if encoder or separator differ from those of the fit."""
        _, data = _ours(trainer, pl_module)
        fitted = checkpoint.get(_PROVENANCE, {})
        for part in ("encoder", "separator"):
            now = getattr(data.embedder.spec, part)
            if fitted.get(part, now) != now:
                rank_zero_warn(f"The weights were fitted with {part} {fitted[part]!r}, but it is now {now!r}.")


class StartAtRidge(Callback):
    """Lets a nonlinear fusion observe the train part and start from its ridge weights, unless a fit is resumed."""

    @torch.no_grad()
    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Prepare the fusion."""
        module, data = _ours(trainer, pl_module)
        fusion = module.fusion
        if module.trained or isinstance(fusion, LinearFusion):
            return
        x, a, b = data.batch(data.rows("train"))[:3]
        both = (StemEmbeddings(*map(torch.cat, zip(*pair, strict=True))) for pair in ((x, x), (a, b)))
        fusion.observe(StemPairs.of(*move_data_to_device(tuple(both), module.device)))
        if type(fusion).start_from is not Fusion.start_from:  # else it contains no weighted sum
            fusion.start_from(_exact_weights(module, data))


class ClosedFormCheck(Callback):
    """Compares the weights of a linear fusion with exact least squares or ridge on the train part, after every epoch.

    Logs `closed_form/max_abs_weight_gap`, the largest absolute difference, and warns at the end if it is too large.
    Other fusions, and other losses than the squared error, have no closed form and are left alone.

    Args:
        tolerance: Gap above which the fit counts as not converged.
    """

    def __init__(self, tolerance: float = 1e-4) -> None:
        self.tolerance = tolerance
        self.exact: Tensor | None = None
        self.gap = float("nan")

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Solve the train part exactly."""
        module, data = _ours(trainer, pl_module)
        self.exact = None
        if not isinstance(module.fusion, LinearFusion):
            return
        if not isinstance(module.loss, SquaredError):
            loss = type(module.loss).__name__
            _log.info("No closed form for the loss %s: only the squared error has one.", loss)
            return
        self.exact = _exact_weights(module, data, nonnegative=module.fusion.nonnegative)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the gap."""
        module, _ = _ours(trainer, pl_module)
        if self.exact is not None and isinstance(module.fusion, LinearFusion):
            self.gap = float((module.fusion.weight.detach().cpu() - self.exact).abs().max())
            module.log("closed_form/max_abs_weight_gap", self.gap)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn if the fit has not reached the exact solution."""
        if self.exact is not None and not self.gap <= self.tolerance:
            rank_zero_warn(
                f"The fit has not converged: its weights are up to {self.gap:.2g} away from the exact solution "
                f"(expected at most {self.tolerance:g}). Train longer (trainer.max_epochs), or use the default LBFGS "
                "on full batches."
            )


class ResultsReport(Callback):
    """Prints, keeps and logs the results of a fit, a validation or a test.

    Args:
        worst: Number of worst triplets to keep: those whose preference is furthest from the listeners' choice.
    """

    def __init__(self, worst: int = 20) -> None:
        self.worst = worst

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Log the settings of the run."""
        log_settings(trainer, *_ours(trainer, pl_module))

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the fit, and write the model that `stemsim.load` reads."""
        module, data = _ours(trainer, pl_module)
        if not module.trained:
            raise ConfigError(
                "Nothing was fitted, as not one batch was trained on. Earlier results stay as they are. Set "
                f"trainer.max_epochs (now {trainer.max_epochs}) and trainer.limit_train_batches (now "
                f"{trainer.limit_train_batches}) above 0."
            )
        triplets, fusion = data.embedded.triplets, module.fusion
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        check = next((one for one in callbacks if isinstance(one, ClosedFormCheck)), ClosedFormCheck())
        cosine = float("nan")
        if triplets.true_weights is not None and isinstance(fusion, LinearFusion):
            truth = torch.tensor(list(triplets.true_weights.values()), dtype=torch.float64)
            cosine = float(torch.nn.functional.cosine_similarity(fusion.weight.detach().cpu(), truth, dim=0))
        results = FitResults(
            source=triplets.source,
            simulated=triplets.simulated,
            triplets=len(data.rows("train")),
            method=_method(module, data),
            fusion=type(fusion).__name__,
            l2=module.l2,
            weights=_by_stem(data, fusion.weight.detach() if isinstance(fusion, WeightedFusion) else None),
            closed_form=_by_stem(data, check.exact),
            max_abs_weight_gap=check.gap,
            true_weights=triplets.true_weights or {},
            cosine_to_true_weights=cosine,
            metrics=_metrics(trainer),
        )
        publish(trainer, results, folders=(_MODEL,))
        if trainer.is_global_zero:
            _write_model(Path(trainer.default_root_dir) / _MODEL, module, data, results)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Refuse weights that were never trained, except during a fit: their agreement means nothing."""
        if trainer.state.fn != "fit" and not _ours(trainer, pl_module)[0].trained:
            raise CheckpointError(
                f"The weights {f'in {trainer.ckpt_path} ' if trainer.ckpt_path else ''}were never trained, so they "
                "know nothing of the votes. Fit them first, or name the checkpoint of a fit."
            )

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the agreement on the validation part, except during a fit."""
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the agreement on the test part."""
        self._report(trainer, pl_module, "test")

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write `predictions.csv`: all triplets, each with its preference and the contribution of each stem."""
        module, data = _ours(trainer, pl_module)
        triplets = data.embedded.triplets
        results = PredictionResults(source=triplets.source, simulated=triplets.simulated, triplets=len(triplets))
        publish(trainer, results, frames={"predictions": _predictions(module, data, torch.arange(len(triplets)))})

    def _report(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, part: Literal["val", "test"]
    ) -> None:
        module, data = _ours(trainer, pl_module)
        rows, triplets = data.rows(part), data.embedded.triplets
        results = PartResults(
            source=triplets.source,
            simulated=triplets.simulated,
            part=part,
            split=data.split,
            triplets=len(rows),
            tracks=len(set(triplets.select(rows.numpy()).tracks)),
            checkpoint=os.fspath(trainer.ckpt_path or "weights in memory"),
            metrics=_metrics(trainer),
        )
        predictions = _predictions(module, data, rows)
        error = -predictions["preference"] * np.sign(predictions["votes_a"] - predictions["votes_b"])
        worst = predictions.loc[error.sort_values(ascending=False, kind="stable").index].head(self.worst)
        publish(trainer, results, frames={f"{part}_worst_triplets": worst})


def _ours(
    trainer: lightning.Trainer, pl_module: lightning.LightningModule
) -> tuple[StemSimilarityModule, TripletDataModule]:
    """Return module and data module by their own types; these callbacks work with no others."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(pl_module, StemSimilarityModule) or not isinstance(data, TripletDataModule):
        raise TypeError(f"Expected StemSimilarityModule and TripletDataModule, got {type(pl_module)} and {type(data)}.")
    return pl_module, data


def _exact_weights(module: StemSimilarityModule, data: TripletDataModule, *, nonnegative: bool = False) -> Tensor:
    """Return the least-squares or ridge weights `(stem,)` of the train part, for the target and weights of the fit."""
    rows = data.rows("train")
    batch = data.batch(rows)
    root = batch.weight.sqrt()  # weighted least squares is least squares on rows scaled by the roots of the weights
    deltas = data.embedded.deltas[rows] * root.unsqueeze(1)
    alpha = float(batch.weight.sum()) * module.l2
    return ridge_weights(deltas, batch.target * root, alpha, nonnegative=nonnegative)


def _by_stem(data: TripletDataModule, weights: Tensor | None) -> dict[str, float]:
    return {} if weights is None else dict(zip(data.stems, weights.tolist(), strict=True))


def _metrics(trainer: lightning.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _method(module: StemSimilarityModule, data: TripletDataModule) -> str:
    """Describe how the weights were fitted."""
    if isinstance(module.loss, SquaredError):
        method = f"ridge, L2 {module.l2:g} on the mean squared error" if module.l2 else "least squares"
    else:
        method = f"{type(module.loss).__name__} loss" + (f", L2 {module.l2:g}" if module.l2 else "")
    target = {"majority": "", "share": ", shares of votes", "graded": ", graded votes"}[data.target]
    return method + target + (", triplets weighted by their votes" if data.vote_weighted_loss else "")


def _write_model(folder: Path, module: StemSimilarityModule, data: TripletDataModule, results: FitResults) -> None:
    """Write the fitted fusion with a card that states its origin."""
    model = StemSimilarity(data.embedder, module.fusion)
    sizes = ", ".join(f"{(data.parts == index).sum()} {part}" for index, part in enumerate(PARTS))
    measured = {part: results.metrics.get(f"{part}/agreement") for part in ("train", "val")}
    card = replace(
        model.card,
        name=folder.parent.resolve().name,
        fitted=f"{results.method} on {results.source}, {data.split} split ({sizes})",
        measured_on=f"{results.source}, {data.split} split",
        agreement=tuple(
            ReportedAgreement(f"{part} part", round(100 * value, 2))
            for part, value in measured.items()
            if value is not None
        ),
    )
    write_model(folder, card, model.fusion)
    Console().print(f'Load it: stemsim.load("{folder}")', soft_wrap=True, highlight=False)


@torch.no_grad()
def _predictions(module: StemSimilarityModule, data: TripletDataModule, rows: Tensor) -> pd.DataFrame:
    """Put the predictions for some triplets beside the votes.

    Returns:
        One row per triplet: the three segments, test type, instrument, part, votes, preference, credit (1, 0.5 or 0)
        and one column `contribution_STEM` for each stem.
    """
    output = module.predict_step(move_data_to_device(data.batch(rows), module.device), 0)
    preference, contributions = (output[key].cpu().numpy() for key in ("preference", "contributions"))
    triplets, row = data.embedded.triplets, rows.numpy()
    columns: dict[str, Any] = {}
    for role, members in zip("xab", triplets.members[row].T, strict=True):
        segments = [triplets.segments[index] for index in members]
        columns |= {
            f"{role}_path": [str(one.path) for one in segments],
            f"{role}_start": [one.start for one in segments],
        }
    columns |= {
        "duration": [one.duration for one in segments],
        "test_type": triplets.test_type[row],
        "instrument": triplets.instrument[row],
        "part": ["dropped" if part < 0 else PARTS[part] for part in data.parts[row]],
        "votes_a": triplets.votes[row, 0],
        "votes_b": triplets.votes[row, 1],
        "preference": preference,
        "credit": agreement_credit(preference, triplets.preference[row]),
    }
    return pd.DataFrame(columns | {f"contribution_{stem}": contributions[:, i] for i, stem in enumerate(data.stems)})
