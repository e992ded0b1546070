"""Lightning's Trainer with cross-validation, and the publication of results: terminal, files, loggers."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import lightning
import pandas as pd
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console

from stemsim.analysis import ANALYSES, Analysis, Summary, summarise
from stemsim.analysis.perspectives import compare_perspectives
from stemsim.evaluation import ALPHAS, SplitKind, SplitModel, Splits, cross_validate
from stemsim.fitting import FusionModel, PriorModel, distinct_vote_models, pretrain
from stemsim.fusion import Fusion, LinearFusion
from stemsim.replacing import replacing, write_text
from stemsim.report.results import CrossvalResults, PerspectivesResults, Results
from stemsim.training.data import TripletDataModule
from stemsim.training.module import StemSimilarityModule
from stemsim.triplets import QUESTIONS

__all__ = ["StemTrainer", "log_settings", "publish"]

Report = Literal["standard", "full", "votes", "importance", "penalty", "leakage", "perspectives"]


class _WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place: Lightning copies them there from another disk, where /tmp is one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; one on an object storage is written by Lightning, which makes it whole at once."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path) as partial:
            super().save_checkpoint(checkpoint, partial, storage_options)


class StemTrainer(lightning.Trainer):
    """Lightning's Trainer with one job more: `crossval`; its checkpoints are whole, whatever is killed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = _WholeCheckpoints()

    def crossval(
        self,
        model: StemSimilarityModule,
        datamodule: TripletDataModule,
        splits: int = 100,
        train_fraction: float = 0.7,
        kind: SplitKind = "stratified",
        alphas: list[float] | None = None,
        seed: int = 0,
        report: Report | list[Analysis] = "standard",
    ) -> Summary:
        """Cross-validate least squares and ridge on random splits, beside the human ceiling and baselines.

        Args:
            model: A fusion other than the linear one is fitted to every split too, with the model's loss, and compared
                with ridge.
            datamodule: Source of the triplets; its own split is not used. With `pretraining`, models that start from
                same-song triplets are added.
            splits: Number of splits.
            train_fraction: Share of the triplets (grouped: of the tracks) to train on; the rest is tested.
            kind: `stratified` as in the paper, or `grouped` so that no track is on both sides.
            alphas: Ridge penalties, chosen by leave-one-out within each train part; null: 20 from 0.001 to 1000.
            seed: Seed of the splits.
            report: Analyses to add: `votes` (other losses and targets), `importance` (agreement lost without each
                stem), `penalty` (weights as functions of the penalty, nested cross-validation), `leakage` (effect of
                shared tracks), `perspectives` (timbre, rhythm and melody beside overall similarity). One name, a list,
                `full` for all, or `standard` for none.

        Returns:
            The summary of the cross-validation.
        """
        embedded, penalties = datamodule.embedded, tuple(ALPHAS if alphas is None else alphas)
        names = [report] if isinstance(report, str) else report
        analyses = [name for name in ANALYSES if name in names or report == "full"]
        drawn = Splits.draw(embedded.triplets, count=splits, train_fraction=train_fraction, kind=kind, seed=seed)
        settings = {"split": kind, "seed": seed, "splits": splits, "train_fraction": train_fraction}
        log_settings(self, model, datamodule, **settings, report=analyses)
        models: list[SplitModel] = [*_configured_models(model, datamodule, penalties)]
        if "votes" in analyses:
            models = [*distinct_vote_models(embedded, alphas=penalties), *models]
        summary = summarise(cross_validate(embedded, drawn, models, alphas=penalties), analyses)
        found = CrossvalResults.of(summary)
        publish(self, found, metrics=_crossval_metrics(found))
        if "perspectives" in analyses:
            asked = datamodule.reader.embed_questions(datamodule.embedder)
            compared = PerspectivesResults.of(compare_perspectives(summary.result, asked))
            publish(self, compared, metrics=_perspectives_metrics(compared))
        return summary


def log_settings(
    trainer: lightning.Trainer, module: StemSimilarityModule, data: TripletDataModule, **others: Any
) -> None:
    """Log the resolved settings of a run, and `others`, to every logger, so that runs can be filtered and compared."""
    spec = data.embedder.spec
    settings = {
        "triplets": data.embedded.triplets.source,
        "encoder": spec.encoder,
        "separator": spec.separator,
        "stems": list(spec.stems),
        "silence": data.embedder.silence,
        "split": data.split,
        "seed": data.seed,
        "target": data.target,
        "vote_weighted_loss": data.vote_weighted_loss,
        "fusion": type(module.fusion).__name__,
        "loss": type(module.loss).__name__,
        "l2": module.l2,
        **others,
    }
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)


def publish(
    trainer: lightning.Trainer,
    results: Results,
    *,
    metrics: dict[str, float] | None = None,
    frames: Mapping[str, pd.DataFrame] | None = None,
    folders: Sequence[str] = (),
) -> None:
    """Print results, write them into the run's folder with their pictures and tables, and log them.

    Other results of the same job are moved into the folder `older` first.

    Args:
        trainer: Knows the run's folder and its loggers.
        results: The results.
        metrics: Numbers for every logger, by stable key.
        frames: Further tables, by file stem.
        folders: Names of folders that the caller writes next, which belong to the results too.
    """
    if not trainer.is_global_zero:
        return
    from stemsim.report.plots import figures
    from stemsim.report.style import save_figure
    from stemsim.report.tables import frames as tables_of
    from stemsim.report.tables import show

    console, folder = Console(), Path(trainer.default_root_dir)
    show(results, console)
    drawn, tables = figures(results), {**tables_of(results), **(frames or {})}
    files = [*(f"{stem}.png" for stem in drawn), *(f"{stem}.csv" for stem in tables), *folders]
    if (kept := _keep_older(results, folder, files)) is not None:
        console.print(f"Earlier results of {results.job} are now in {kept}", soft_wrap=True)
    written = [results.write(folder)]
    for stem, figure in drawn.items():
        written.append(folder / f"{stem}.png")
        save_figure(figure, written[-1])
    for stem, table in tables.items():
        written.append(folder / f"{stem}.csv")
        write_text(written[-1], table.to_csv(index=False))
    console.print("Wrote " + ", ".join(map(str, written)), soft_wrap=True)
    for logger in trainer.loggers:
        if metrics:
            logger.log_metrics(metrics)
        if isinstance(logger, WandbLogger):
            for stem, table in tables.items():
                logger.log_table(stem, dataframe=table)
            for stem in drawn:
                logger.log_image(stem, [str(folder / f"{stem}.png")])
            logger.experiment.summary.update({results.file_stem: results.model_dump(mode="json")})
        logger.save()


def _keep_older(results: Results, folder: Path, files: Sequence[str]) -> Path | None:
    """Move other results of the same job, with their files, into a folder of their own; return it if there are some."""
    path = folder / f"{results.file_stem}.json"
    if not path.is_file() or path.read_text(encoding="utf-8") == results.text:
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
    older = folder / "older" / f"{results.file_stem} {written:%Y-%m-%d %H.%M.%S.%f}"
    older.mkdir(parents=True, exist_ok=True)  # a killed process may have begun it
    for name in (*files, path.name):  # last, as it says that there is something to move
        if (folder / name).exists():
            (folder / name).rename(older / name)
    return older


def _configured_models(
    module: StemSimilarityModule, data: TripletDataModule, alphas: Sequence[float]
) -> Iterator[SplitModel]:
    """Yield the configured fusion, if it is not the linear one, and the models that start from same-song triplets."""
    untrained, nonlinear = deepcopy(module.fusion), not isinstance(module.fusion, LinearFusion)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(untrained).__name__).lower()

    def make(_: Sequence[str]) -> Fusion:
        return deepcopy(untrained)

    fitted = FusionModel(name, make, alphas, loss=module.loss, progress=data.embedder.progress)
    if nonlinear:
        yield fitted
    if data.pretraining is not None:
        known = pretrain(make if nonlinear else LinearFusion, data.pretraining.embed(data.embedder), alphas=alphas)
        yield PriorModel("ridge, same-song prior", known.linear[0], alphas)
        if nonlinear:
            yield replace(fitted, name=f"{name}, pre-trained", start=known)


def _crossval_metrics(found: CrossvalResults) -> dict[str, float]:
    """Return mean agreement and mean weights, by `crossval/MODEL/all`, `.../xab`, `.../xyc` and `.../weight_STEM`."""
    metrics: dict[str, float] = {}
    for model in found.models:
        columns = {column.lower(): score for column, score in model.agreement.items()}
        columns |= {f"weight_{stem}": score for stem, score in model.weights.items()}
        metrics |= {f"crossval/{model.slug}/{column}": score.mean for column, score in columns.items()}
    return metrics


def _perspectives_metrics(found: PerspectivesResults) -> dict[str, float]:
    """Return agreement of ridge and parts, by `perspectives/QUESTION/ridge` and `.../part_STEM`; NaN if left out."""
    keys = [
        f"{question}/{column}" for question in QUESTIONS for column in ("ridge", *map("part_{}".format, found.stems))
    ]
    known: dict[str, float] = {}
    for question, fit in found.questions.items():
        known |= {f"{question}/{model.slug}": model.agreement["all"].mean for model in fit.models}
        known |= {f"{question}/part_{stem}": part.part for stem, part in fit.by_stem.items()}
    return {f"perspectives/{key}": known.get(key, math.nan) for key in keys}
