"""Results of a run: in the terminal, as files in the run's folder, and in W&B where it is in use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table

from stemsim.evaluation import PARTS, CrossValidation, agreement_credit
from stemsim.evaluation.plots import (
    plot_cross_validation,
    plot_intervals,
    plot_ridge_path,
    plot_weights,
    save_figure,
)
from stemsim.evaluation.weight_report import WeightReport
from stemsim.fusion import LinearFusion
from stemsim.losses import SquaredError
from stemsim.model import ReportedAgreement, StemSimilarity, write_model
from stemsim.training.closed_form import ClosedFormCheck
from stemsim.training.data import Part, TripletDataModule
from stemsim.training.leakage import LeakageReport
from stemsim.training.module import StemSimilarityModule
from stemsim.training.tables import agreement_table, crossval_tables, scale_truth, weights_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PredictionWriter", "ResultsReport", "prediction_frame", "publish", "report_cross_validation"]


def publish(
    trainer: lightning.Trainer,
    name: str,
    results: Mapping[str, Any],
    *,
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    figures: "Mapping[str, Figure] | None" = None,
    frames: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Print tables, write `NAME.json`, a PNG a figure and a CSV a frame into the run's folder, and log them to W&B.

    Args:
        trainer: Knows the run's folder and the loggers.
        name: What the results are of, e.g. `fit` or `crossval`.
        results: Numbers, strings, lists and dictionaries.
        tables: Tables for the terminal.
        notes: Sentences below them.
        figures: Pictures, by name.
        frames: Tables for files and W&B, by name.
    """
    if not trainer.is_global_zero:
        return
    console, folder = Console(), Path(trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _show(console, tables, notes)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    written = [path]
    for title, figure in (figures or {}).items():
        written.append(folder / f"{title}.png")
        save_figure(figure, written[-1])
    for title, frame in (frames or {}).items():
        written.append(folder / f"{title}.csv")
        frame.to_csv(written[-1], index=False)
    console.print("Wrote " + ", ".join(str(file) for file in written), soft_wrap=True)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            for title, frame in (frames or {}).items():
                logger.log_table(title, dataframe=frame)
            for title in figures or {}:
                logger.log_image(title, [str(folder / f"{title}.png")])
            logger.experiment.summary.update({name: results})


def _show(console: Console, tables: Sequence[Table], notes: Sequence[str]) -> None:
    for table in tables:
        if table.title:  # as lines of its own: a title above a narrow table would be broken
            console.print(f"\n{table.title}", highlight=False, style="bold", soft_wrap=True)
            table.title = None
        console.print(table)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)


class ResultsReport(lightning.Callback):
    """Shows and keeps what a fit, a validation or a test found.

    Args:
        worst: Number of worst triplets to keep: those where the preference is furthest from what listeners said.
    """

    def __init__(self, worst: int = 20) -> None:
        self.worst = worst

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the weights beside the exact ones and, if the listeners were simulated, beside the true ones."""
        module, data = _ours(trainer, pl_module)
        if not isinstance(module.fusion, LinearFusion):
            return
        stems, table = data.stems, data.table()
        frame = pd.DataFrame({"stem": stems, "fitted": module.fusion.weight.detach().cpu().numpy()})
        results: dict[str, Any] = {"source": table.source, "simulated": table.simulated, "l2": module.l2}
        results["method"] = _method(module, data)
        title = f"Weights fitted to {len(data.rows('train'))} triplets: {table.source}"
        check = next((call for call in _callbacks(trainer) if isinstance(call, ClosedFormCheck)), None)
        if check is not None and check.exact is not None:
            frame["closed form"] = check.exact.numpy()
            results["closed_form/max_abs_weight_gap"] = check.gap
            title += f"\nlargest gap to the closed form {check.gap:.1e}"
        if table.true_weights is not None:
            truth = np.array(list(table.true_weights.values()))
            frame["true (simulated), scaled"] = scale_truth(frame["fitted"].to_numpy(), truth)
            cosine = frame["fitted"] @ truth / (np.linalg.norm(frame["fitted"]) * np.linalg.norm(truth))
            results |= {"true_weights": table.true_weights, "cosine_to_true_weights": float(cosine)}
            title += f"\ncosine between fitted and true weights {cosine:.4f}"
        results["weights"] = dict(zip(stems, frame["fitted"].tolist(), strict=True))
        results["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        agreed = [
            f"{part} {100 * results['metrics'][f'{part}/agreement']:.1f} %"
            for part in ("train", "val")
            if f"{part}/agreement" in results["metrics"]
        ]
        title += f"\nagreement: {', '.join(agreed)}"
        publish(
            trainer,
            "fit",
            results,
            tables=[weights_table(frame, title)],
            figures={"fit": plot_weights(frame, title)},
            frames={"weights": frame},
        )
        if trainer.is_global_zero:
            _save_model(Path(trainer.default_root_dir) / "model", module.fusion.weight.detach().cpu(), data, results)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the agreement on the validation part, unless a fit only looks at it in passing."""
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the agreement on the test part."""
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, part: Part) -> None:
        module, data = _ours(trainer, pl_module)
        rows, table = data.rows(part), data.table()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        results = {
            "source": table.source,
            "simulated": table.simulated,
            "split": data.split,
            "triplets": len(rows),
            "tracks": len(set(table.select(rows.numpy()).tracks)),
            "metrics": metrics,
        }
        predictions = predict(module, data, rows)
        error = -predictions["preference"] * (predictions["votes_a"] - predictions["votes_b"]).map(np.sign)
        worst = predictions.loc[error.sort_values(ascending=False, kind="stable").index].head(self.worst)
        title = f"{table.source}\n{data.split} split, {results['tracks']} tracks in this part"
        publish(
            trainer,
            part,
            results,
            tables=[agreement_table(metrics, part, len(rows), title=title, simulated=table.simulated)],
            frames={f"{part}_worst_triplets": worst},
        )


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.csv`: one row a triplet, with its preference and what each stem contributed."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write what `predict_step` returned for all batches."""
        del batch_indices
        _, data = _ours(trainer, pl_module)
        joined = {name: torch.cat([batch[name] for batch in predictions]).cpu() for name in predictions[0]}
        frame = prediction_frame(data, **joined)
        results = {"source": data.table().source, "simulated": data.table().simulated, "triplets": len(frame)}
        publish(trainer, "predictions", results, frames={"predictions": frame})


def predict(module: StemSimilarityModule, data: TripletDataModule, rows: torch.Tensor) -> pd.DataFrame:
    """Predict some rows of the triplet table.

    Args:
        module: The model.
        data: The data module, set up.
        rows: `(n,)` rows.

    Returns:
        See `prediction_frame`.
    """
    with torch.no_grad():
        output = module.predict_step(move_data_to_device(data.batch(rows), module.device), 0)
    return prediction_frame(data, **{name: values.cpu() for name, values in output.items()})


def _save_model(folder: Path, weight: torch.Tensor, data: TripletDataModule, results: Mapping[str, Any]) -> None:
    """Write what `stemsim.load` reads: weights and a card that says where they come from."""
    model = StemSimilarity(data.embedder, dict(zip(data.stems, weight.tolist(), strict=True)))
    sizes = ", ".join(f"{(data.parts == index).sum()} {part}" for index, part in enumerate(PARTS))
    card = replace(
        model.card,
        name=folder.parent.resolve().name,
        fitted=f"{results['method']} on {results['source']}, {data.split} split ({sizes})",
        measured_on=f"{results['source']}, {data.split} split",
        agreement=tuple(
            ReportedAgreement(f"{part} part", round(100 * results["metrics"][f"{part}/agreement"], 2))
            for part in ("train", "val")
            if f"{part}/agreement" in results["metrics"]
        ),
    )
    write_model(folder, card, model.fusion)
    Console().print(f'Load it: stemsim.load("{folder}")', soft_wrap=True, highlight=False)


def _method(module: StemSimilarityModule, data: TripletDataModule) -> str:
    """Say how weights were fitted."""
    if isinstance(module.loss, SquaredError):
        method = f"ridge, L2 {module.l2:g} on the mean squared error" if module.l2 else "least squares"
    else:
        method = f"{type(module.loss).__name__} loss" + (f", L2 {module.l2:g}" if module.l2 else "")
    target = {"majority": "", "share": ", shares of votes", "graded": ", graded votes"}[data.target]
    return method + target + (", triplets weighed by their votes" if data.vote_weighted_loss else "")


def prediction_frame(
    data: TripletDataModule, row: torch.Tensor, preference: torch.Tensor, contributions: torch.Tensor
) -> pd.DataFrame:
    """Put predictions beside what listeners said.

    Args:
        data: The data module, set up.
        row: `(n,)` rows of the triplet table.
        preference: `(n,)` predicted preference.
        contributions: `(n, stem)` what each stem adds to it.

    Returns:
        One row a triplet: the three segments, test type, instrument, part, votes, preference, credit (1, 0.5 or 0) and
        one column `contribution_STEM` a stem.
    """
    table = data.table().select(row.numpy())
    columns: dict[str, Any] = {}
    for role, index in (("x", table.x), ("a", table.a), ("b", table.b)):
        segments = [table.segments[int(i)] for i in index]
        columns[f"{role}_path"] = [str(segment.path) for segment in segments]
        columns[f"{role}_start"] = [segment.start for segment in segments]
    columns |= {
        "duration": [table.segments[int(i)].duration for i in table.x],
        "test_type": table.test_type,
        "instrument": table.instrument,
        "part": ["dropped" if part < 0 else PARTS[part] for part in data.parts[row.numpy()]],
        "votes_a": table.votes[:, 0],
        "votes_b": table.votes[:, 1],
        "preference": preference.numpy(),
        "credit": agreement_credit(preference.numpy(), table.preference),
    }
    columns |= {f"contribution_{stem}": contributions[:, i].numpy() for i, stem in enumerate(data.stems)}
    return pd.DataFrame(columns)


def report_cross_validation(
    trainer: lightning.Trainer, result: CrossValidation, report: WeightReport, leak: LeakageReport
) -> None:
    """Show and keep the result of a cross-validation.

    Args:
        trainer: Knows the run's folder and the loggers.
        result: The result.
        report: How sure the weights are, and what they are worth.
        leak: What shared tracks add to the agreement.
    """
    columns = {m.name: m.weights.mean(axis=0) for m in result.models if m.weights is not None}
    weights = pd.DataFrame({"stem": result.stems, **columns, "ridge on all": result.path.weights})
    figures = {
        "crossval": plot_cross_validation(result),
        "crossval_ridge_path": plot_ridge_path(report.path, f"Ridge on all triplets: {result.source}"),
    }
    if report.intervals:
        figures["crossval_intervals"] = plot_intervals(report.intervals, f"Weights on all triplets: {result.source}")
    publish(
        trainer,
        "crossval",
        {**result.to_dict(), **report.to_dict(), "leakage": leak.to_dict()},
        tables=[*crossval_tables(result, report), *leak.tables()],
        notes=[*report.sentences, *leak.sentences],
        figures=figures,
        frames={"crossval_weights": weights, "crossval_stems": report.frame()},
    )


def _ours(
    trainer: lightning.Trainer, pl_module: lightning.LightningModule
) -> tuple[StemSimilarityModule, TripletDataModule]:
    """Return module and data module as what they are; these callbacks are of no use with others."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(pl_module, StemSimilarityModule) or not isinstance(data, TripletDataModule):
        msg = f"This callback needs StemSimilarityModule and TripletDataModule, got {type(pl_module)} and {type(data)}."
        raise TypeError(msg)
    return pl_module, data


def _callbacks(trainer: lightning.Trainer) -> list[lightning.Callback]:
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
