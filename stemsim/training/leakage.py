"""Splits by triplet and by track beside each other, for the terminal and for files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from stemsim.errors import SplitError
from stemsim.evaluation.comparison import Comparison, format_p
from stemsim.evaluation.crossval import ALPHAS
from stemsim.evaluation.leakage import Leakage, leakage
from stemsim.training.data import TripletDataModule

__all__ = ["LeakageReport", "leakage_report", "leakage_table"]


@dataclass(frozen=True, slots=True, eq=False)
class LeakageReport:
    """How much of an agreement is there because train and test share tracks.

    Attributes:
        found: Both kinds of splits; None where too few tracks leave a grouped split empty.
        sentences: What they say, in plain words; or why there is nothing to say.
    """

    found: Leakage | None
    sentences: tuple[str, ...]

    def tables(self) -> list[Table]:
        """Return the table for the terminal, if there is anything to show."""
        return [] if self.found is None else [leakage_table(self.found)]

    def to_dict(self) -> dict[str, Any]:
        """Return numbers, strings and lists, ready for JSON; what is not known is None."""
        found: dict[str, Any] = {"sentences": list(self.sentences)}
        if self.found is not None:
            rows = self.found.frame().to_dict("records")
            found["models"] = {
                row["model"]: {
                    str(name): float(value) if np.isfinite(value) else None
                    for name, value in row.items()
                    if name != "model"
                }
                for row in rows
            }
            found["same_test_triplets"] = {
                name: {
                    "with_tested_tracks": one.agreement[0],
                    "without_them": one.agreement[1],
                    "leak": one.difference.mean,
                    "lower": one.difference.lower,
                    "upper": one.difference.upper,
                    "p_value": one.difference.p_value,
                }
                for name, one in zip(("OLS", "ridge"), self.found.same_test, strict=True)
            }
            found["mean_train_size"] = dict(zip(("stratified", "grouped"), self.found.train_size, strict=True))
        return found


def leakage_report(
    datamodule: TripletDataModule,
    *,
    splits: int = 100,
    train_fraction: float = 0.7,
    alphas: list[float] | None = None,
    seed: int = 0,
) -> LeakageReport:
    """Cross-validate by triplet and by track.

    Args:
        datamodule: Where the triplets come from, set up; its own split plays no part.
        splits: Number of splits of each kind.
        train_fraction: Share of the triplets, or tracks, to train on; the others are tested.
        alphas: Ridge penalties; null: 20 from 0.001 to 1000.
        seed: Seed of the splits.

    Returns:
        What was found; nothing, with the reason, where too few tracks leave a grouped split empty.
    """
    try:
        found = leakage(
            datamodule.deltas(),
            datamodule.table(),
            datamodule.stems,
            count=splits,
            train_fraction=train_fraction,
            alphas=ALPHAS if alphas is None else alphas,
            seed=seed,
        )
    except SplitError as error:
        return LeakageReport(None, (f"Splits by track are left out: {error}",))
    return LeakageReport(found, (_sentence(found.same_test[-1], found.train_size[1]),))


def _sentence(ridge: Comparison, trained: float) -> str:
    """Say what ridge regression owes to tracks that it was trained on."""
    seen, unseen = (100.0 * value for value in ridge.agreement)
    gap = ridge.difference
    verdict = "no leak can be told" if not ridge.told_apart else "tracks leak" if gap.mean > 0.0 else "the reverse"
    return (
        f"Leakage, ridge on the same test triplets: {seen:.1f} % when trained on {trained:.0f} triplets that may share "
        f"their tracks, {unseen:.1f} % on as many that share none; {100 * gap.mean:+.1f} points, {100 * gap.level:g} % "
        f"interval [{100 * gap.lower:.1f}, {100 * gap.upper:.1f}], p {format_p(gap.p_value)}: {verdict}."
    )


def leakage_table(found: Leakage) -> Table:
    """Show agreement by both kinds of split.

    Args:
        found: What was found.

    Returns:
        One row a model; the last columns are of the same test triplets.
    """
    first, second = (f"{size:.0f}" for size in found.train_size)
    same = dict(zip(("OLS", "ridge"), found.same_test, strict=True))
    said = (
        f"by triplet: random splits, trained on {first}; by track: no track on both sides, trained on {second}",
        "(test agreement in %, test types weighed as in the whole table)",
        f"tracks seen, unseen: the same test triplets (of the splits by track, more often XYC), trained on {second}",
        "triplets that may share their tracks, or share none",
    )
    table = Table(caption="\n".join(said), caption_justify="left")
    table.add_column("model", no_wrap=True)
    for name in ("by triplet", "by track", "tracks\nseen", "tracks\nunseen", "leak,\npoints"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        cells = [f"{100 * row.stratified:.1f}", f"{100 * row.grouped:.1f} ± {100 * row.grouped_std:.1f}"]
        if (one := same.get(row.model)) is not None:
            reach = one.difference.upper - one.difference.mean
            cells += [f"{100 * value:.1f}" for value in one.agreement]
            cells.append(f"{100 * one.difference.mean:+.1f} ± {100 * reach:.1f}")
        table.add_row(row.model, *("-" if "nan" in cell else cell for cell in cells))
    return table
