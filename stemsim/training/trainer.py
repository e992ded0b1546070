"""Lightning's Trainer with two jobs more: cross-validation, and the perspectives of listeners side by side."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import lightning
from torch import Tensor

from stemsim.evaluation import CrossValidation, SplitKind, cross_validate
from stemsim.evaluation.crossval import ALPHAS, Challenger
from stemsim.evaluation.fusion_fit import fusion_challenger
from stemsim.evaluation.perspectives import Perspectives
from stemsim.evaluation.pretraining import pretrain, prior_challenger
from stemsim.evaluation.vote_fit import vote_challenger
from stemsim.evaluation.weight_report import weight_report
from stemsim.fusion import Fusion, LinearFusion
from stemsim.training.data import TripletDataModule
from stemsim.training.leakage import leakage_report
from stemsim.training.module import StemSimilarityModule
from stemsim.training.perspectives import run_perspectives
from stemsim.training.results import report_cross_validation

__all__ = ["StemTrainer"]


class StemTrainer(lightning.Trainer):
    """Lightning's Trainer, plus `crossval` and `perspectives`."""

    def crossval(
        self,
        model: StemSimilarityModule,
        datamodule: TripletDataModule,
        splits: int = 100,
        train_fraction: float = 0.7,
        kind: SplitKind = "stratified",
        alphas: list[float] | None = None,
        seed: int = 0,
    ) -> CrossValidation:
        """Fit OLS and ridge on many random splits, exactly, beside human ceiling, baselines and fits to the votes.

        Args:
            model: A fusion other than the linear one is fitted too, to all splits at once, and compared with ridge;
                its optimizer and loss play no part.
            datamodule: Where the triplets come from; its own split plays no part. With `pretraining`, models that start
                from same-song triplets have rows of their own.
            splits: Number of splits.
            train_fraction: Share of the triplets (grouped: of the tracks) to train on; the others are tested.
            kind: `stratified` as in the paper, or `grouped` so that no track is on both sides.
            alphas: Ridge penalties, chosen by leave-one-out within each train part; null: 20 from 0.001 to 1000.
            seed: Seed of the splits.

        Returns:
            Agreement and weights on every split.
        """
        datamodule.prepare_data()
        datamodule.setup("crossval")
        penalties = ALPHAS if alphas is None else alphas
        deltas, table = datamodule.deltas(), datamodule.table()
        challengers = [
            vote_challenger(deltas, table, alphas=penalties),
            *_fusion_challengers(model.fusion, datamodule, penalties),
        ]
        result = cross_validate(
            deltas,
            table,
            datamodule.stems,
            count=splits,
            train_fraction=train_fraction,
            kind=kind,
            alphas=penalties,
            seed=seed,
            challengers=challengers,
        )
        self._log_scores(result)
        report = weight_report(result, deltas, table, alphas=penalties)
        leak = leakage_report(datamodule, splits=splits, train_fraction=train_fraction, alphas=alphas, seed=seed)
        report_cross_validation(self, result, report, leak)
        return result

    def perspectives(
        self,
        model: StemSimilarityModule,
        datamodule: TripletDataModule,
        splits: int = 100,
        train_fraction: float = 0.7,
        kind: SplitKind = "stratified",
        alphas: list[float] | None = None,
        seed: int = 0,
    ) -> Perspectives:
        """Fit timbre, rhythm, melody and overall similarity side by side: which stem drives which.

        Args:
            model: Not trained; only its stem layout counts.
            datamodule: Where the triplets come from; its own split and target play no part.
            splits: Number of splits.
            train_fraction: Share of the triplets (grouped: of the tracks) to train on; the others are tested.
            kind: `stratified` as in the paper, or `grouped` so that no track is on both sides.
            alphas: Ridge penalties, chosen by leave-one-out within each train part; null: 20 from 0.001 to 1000.
            seed: Seed of the splits.

        Returns:
            The fit of each question, each to its own votes.
        """
        del model
        return run_perspectives(
            self, datamodule, splits=splits, train_fraction=train_fraction, kind=kind, alphas=alphas, seed=seed
        )

    def _log_scores(self, result: CrossValidation) -> None:
        """Log mean agreement and weights as plain metrics, so that any logger has them."""
        entries = result.to_dict()["models"]
        metrics: dict[str, float] = {}
        for name, entry in entries.items():
            short = name.replace(" ", "_").lower()
            for column, value in entry["agreement"].items():
                if value["mean"] is not None:
                    metrics[f"crossval/{short}/{column}"] = value["mean"]
            for stem, value in entry.get("weights", {}).items():
                metrics[f"crossval/{short}/weight_{stem}"] = value["mean"]
        for logger in self.loggers:
            logger.log_metrics(metrics)
            logger.save()


def _fusion_challengers(fusion: Fusion, datamodule: TripletDataModule, alphas: Sequence[float]) -> Iterator[Challenger]:
    """Yield what fits a fusion other than the linear one, and what starts from same-song triplets."""
    untrained = deepcopy(fusion)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(fusion).__name__).lower()
    stems, table, nonlinear = datamodule.stems, datamodule.table(), not isinstance(fusion, LinearFusion)

    def make(_: list[str]) -> Fusion:
        return deepcopy(untrained)

    def fitted(title: str, start: Mapping[str, Tensor] | None = None) -> Challenger:
        show = datamodule.embedder.progress
        return fusion_challenger(
            title, make, stems, datamodule.embeddings, table, alphas=alphas, start=start, progress=show
        )

    if nonlinear:
        yield fitted(name)
    if datamodule.pretraining is not None:
        songs = datamodule.pretraining.read(datamodule.embedder)
        embeddings = datamodule.embedder.embed(songs.segments)
        known = pretrain(make if nonlinear else LinearFusion, stems, embeddings, songs, alphas=alphas)
        yield prior_challenger("ridge, same-song prior", datamodule.deltas(), table, known.weights, alphas=alphas)
        if nonlinear:
            yield fitted(f"{name}, pre-trained", known.state)
