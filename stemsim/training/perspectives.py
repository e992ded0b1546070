"""`train.py perspectives`: timbre, rhythm, melody and overall similarity fitted side by side."""

import lightning
import numpy as np
from rich.table import Table

from stemsim.evaluation import SplitKind
from stemsim.evaluation.crossval import ALPHAS
from stemsim.evaluation.perspective_plots import plot_perspectives
from stemsim.evaluation.perspectives import PerspectiveFit, Perspectives, compare_perspectives
from stemsim.training.data import TripletDataModule
from stemsim.training.results import publish

__all__ = ["perspectives_table", "run_perspectives"]


def run_perspectives(
    trainer: lightning.Trainer,
    datamodule: TripletDataModule,
    *,
    splits: int = 100,
    train_fraction: float = 0.7,
    kind: SplitKind = "stratified",
    alphas: list[float] | None = None,
    seed: int = 0,
) -> Perspectives:
    """Fit every question that listeners were asked, show the fits side by side, and keep and log them.

    Args:
        trainer: Knows the run's folder and the loggers.
        datamodule: Where the triplets come from; its own split and target play no part.
        splits: Number of splits.
        train_fraction: Share of the triplets (grouped: of the tracks) to train on; the others are tested.
        kind: `stratified` as in the paper, or `grouped` so that no track is on both sides.
        alphas: Ridge penalties, chosen by leave-one-out within each train part; null: 20 from 0.001 to 1000.
        seed: Seed of the splits.

    Returns:
        The fits.
    """
    found = compare_perspectives(
        datamodule.perspectives(),
        datamodule.stems,
        count=splits,
        train_fraction=train_fraction,
        kind=kind,
        alphas=ALPHAS if alphas is None else alphas,
        seed=seed,
    )
    metrics: dict[str, float] = {}
    for fit in found.fits:
        metrics[f"perspectives/{fit.question}/ridge"] = _mean(fit, "ridge")
        metrics |= {
            f"perspectives/{fit.question}/part_{stem}": float(part)
            for stem, part in zip(found.stems, fit.part, strict=True)
        }
    for logger in trainer.loggers:
        logger.log_metrics(metrics)
        logger.save()
    publish(
        trainer,
        "perspectives",
        found.to_dict(),
        tables=[perspectives_table(found)],
        notes=found.sentences,
        figures={"perspectives": plot_perspectives(found)},
        frames={"perspectives": found.frame()},
    )
    return found


def perspectives_table(found: Perspectives) -> Table:
    """Show the part of each stem by question, and how well each question's majority is predicted.

    Args:
        found: Fits to all questions.

    Returns:
        One column a question.
    """
    simulated = any(fit.true_part is not None for fit in found.fits)
    said = [
        "part: what a stem typically moves the preference by, relative to all (squares add up to 1)",
        f"± half of the {100 * found.level:g} % interval, least squares on all triplets; * told from 0",
    ]
    said.append("agreement with the majority on the same question: mean ± standard deviation over the splits")
    said.append("ceiling: one listener with the majority of the others on the same question")
    if simulated:
        said.append("in brackets: the parts that the simulated listeners went by")
    table = Table(title=found.source, title_justify="left", caption="\n".join(said), caption_justify="left")
    table.add_column("")
    for fit in found.fits:
        table.add_column(fit.question, justify="right")
    for index, stem in enumerate(found.stems):
        table.add_row(stem, *(_part(fit, index) for fit in found.fits), end_section=stem == found.stems[-1])
    table.add_row("triplets", *(str(fit.triplets) for fit in found.fits))
    table.add_row("answers", *(str(fit.answers) for fit in found.fits))
    table.add_row("ceiling, %", *(_percent(fit.ceiling) for fit in found.fits))
    for model, label in (("mix cosine", "mix cosine, %"), ("uniform weights", "uniform, %"), ("ridge", "ridge, %")):
        table.add_row(label, *(_agreement(fit, model) for fit in found.fits))
    table.add_row("of ceiling, %", *("-" if fit.share is None else _percent(fit.share.share) for fit in found.fits))
    return table


def _part(fit: PerspectiveFit, index: int) -> str:
    """Write a part with its interval, and the truth where it is known."""
    truth = "" if fit.true_part is None else f" ({fit.true_part[index]:.2f})"
    if not np.isfinite(fit.standard_error[index]):
        return f"open{truth}"
    told = fit.lower[index] > 0.0 or fit.upper[index] < 0.0
    reach = fit.upper[index] - fit.part[index]
    return f"{fit.part[index] + 0.0:.2f} ± {reach:.2f}{'*' if told else ' '}{truth}"


def _mean(fit: PerspectiveFit, model: str) -> float:
    agreed = fit.agreement(model)
    return float("nan") if agreed is None else float(np.nanmean(agreed))


def _agreement(fit: PerspectiveFit, model: str) -> str:
    agreed = fit.agreement(model)
    return "-" if agreed is None else f"{100 * np.nanmean(agreed):.1f} ± {100 * np.nanstd(agreed):.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if np.isfinite(share) else "-"
