"""Results as terminal tables."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.table import Table

from stemsim.evaluation import CrossValidation
from stemsim.evaluation.weight_report import WeightReport
from stemsim.triplets import TEST_TYPES

__all__ = ["agreement_table", "crossval_tables", "scale_truth", "weights_table"]

FloatArray = npt.NDArray[np.float64]

_ROWS = (
    ("human ceiling", "human_ceiling"),
    ("mix cosine", "mix_cosine"),
    ("uniform weights", "uniform_weights"),
    ("[bold]fitted weights[/bold]", "agreement"),
    ("  XAB triplets", "agreement_xab"),
    ("  XYC triplets", "agreement_xyc"),
)


def scale_truth(weights: FloatArray, truth: FloatArray) -> FloatArray:
    """Scale the true weights of simulated listeners to the fitted ones, by least squares.

    Votes say which candidate is closer, not by how much, so that weights are known up to a positive factor.

    Args:
        weights: `(stem,)` fitted weights.
        truth: `(stem,)` true weights.

    Returns:
        `(stem,)` the true weights times the factor that brings them closest to the fitted ones.
    """
    factor: float = max(float(weights @ truth), 0.0) / float(truth @ truth)
    return factor * truth


def weights_table(frame: pd.DataFrame, title: str) -> Table:
    """Show stem weights.

    Args:
        frame: One row a stem, in a column `stem` and columns of weights: fitted, closed form, true.
        title: Title of the table.

    Returns:
        The table.
    """
    table = Table(title=title, title_justify="left")
    for name in frame.columns:
        table.add_column(str(name), justify="left" if name == "stem" else "right")
    for row in frame.itertuples(index=False):
        table.add_row(str(row[0]), *(_fixed(value, 4) for value in row[1:]))
    return table


def agreement_table(metrics: Mapping[str, float], part: str, size: int, *, title: str, simulated: bool) -> Table:
    """Show the agreement on one part beside human ceiling and baselines.

    Args:
        metrics: Logged metrics, named `test/agreement` and so on.
        part: `test` or `val`.
        size: Number of triplets in the part.
        title: Title of the table.
        simulated: Whether the listeners were simulated.

    Returns:
        The table; the standard error is that of a share of `size` triplets.
    """
    table = Table(title=title, title_justify="left")
    table.add_column(f"{part}: {size} triplets")
    table.add_column("agreement, %", justify="right")
    ceiling = metrics.get(f"{part}/human_ceiling")
    if ceiling:
        table.add_column("of ceiling, %", justify="right")
    for row, name in _ROWS:
        label = f"simulated {row.removeprefix('human ')}" if simulated and name == "human_ceiling" else row
        value = metrics.get(f"{part}/{name}")
        if value is None:
            text = "-"
        elif name == "agreement":
            # Agresti and Coull's estimate: the plain one says "± 0" where nothing was wrong yet.
            share = (value * size + 2.0) / (size + 4.0)
            text = f"[bold]{100 * value:.1f} ± {100 * (share * (1.0 - share) / (size + 4.0)) ** 0.5:.1f}[/bold]"
        else:
            text = f"{100 * value:.1f}"
        # The ceiling is over both test types; those of one type have another.
        of_ceiling = "" if value is None or not ceiling or row.startswith(" ") else f"{100 * value / ceiling:.1f}"
        table.add_row(label, text, *([of_ceiling] if ceiling else []))
    return table


def crossval_tables(result: CrossValidation, report: WeightReport) -> list[Table]:
    """Show agreement and weights over all splits, and how sure the weights are.

    Args:
        result: A cross-validation.
        report: How sure its weights are.

    Returns:
        A table of test agreement by test type, and one of weights.
    """
    splits = f"{len(result.test_size)} {result.kind} splits, {100 * result.train_fraction:.0f} % train"
    title = f"{result.source}\n{result.triplets} triplets, {splits}, {result.test_size.mean():.0f} tested on average"
    scores = Table(title=title, title_justify="left", caption="mean ± standard deviation over the splits")
    scores.add_column("model")
    for name in ("agreement, %", *TEST_TYPES, "of ceiling, %", "alpha"):
        scores.add_column(name, justify="right")
    for model in result.models:
        alpha = "" if model.alphas is None else f"{np.median(model.alphas):.3g}"
        share = result.share_of_ceiling(model)
        scores.add_row(
            model.name,
            *(_spread(100 * column, 1) for column in model.agreement.T),
            "-" if np.isnan(share) else f"{100 * share:.1f}",
            alpha,
        )
    return [scores, _stem_table(result, report)]


def _stem_table(result: CrossValidation, report: WeightReport) -> Table:
    """Show the weights of each stem, its interval, what is lost without it, and its variance inflation."""
    fits = [model for model in result.models if model.name in {"OLS", "ridge"} and model.weights is not None]
    said = ["weights: mean ± standard deviation over the splits"]
    names = ["stem", *(model.name for model in fits)]
    if report.intervals:
        first = report.intervals[0]
        names.append(f"{100 * first.level:g} % interval")
        said.append(f"interval: OLS on all triplets, {first.method}")
    if report.importance is not None:
        names.append("worth")
        said.append("worth: agreement lost without the stem, in points (* told from 0)")
    names.append("VIF")
    said.append("VIF: variance inflation; 10 or more: not told apart from other stems")
    table = Table(caption="\n".join(said), caption_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name == "stem" else "right", no_wrap=True)
    for row, stem in enumerate(result.stems):
        cells = [_spread(model.weights[:, row], 2) for model in fits if model.weights is not None]
        if report.intervals:
            cells.append(_interval(report.intervals[0].lower[row], report.intervals[0].upper[row]))
        if report.importance is not None:
            drop = report.importance.agreement_drop[row]
            cells.append(f"{_fixed(100 * drop.mean, 1)}{'*' if drop.p_value < 1.0 - drop.level else ' '}")
        inflation = report.collinearity.inflation[row]
        cells.append("silent" if np.isnan(inflation) else f"{inflation:.1f}")
        table.add_row(stem, *cells)
    return table


def _interval(lower: float, upper: float) -> str:
    """Write an interval; one without ends says nothing about the weight."""
    return f"[{_fixed(lower, 2)}, {_fixed(upper, 2)}]" if np.isfinite(lower) and np.isfinite(upper) else "open"


def _spread(values: FloatArray, digits: int) -> str:
    """Write mean and standard deviation of the values that are known."""
    known = values[~np.isnan(values)]
    return f"{_fixed(known.mean(), digits)} ± {_fixed(known.std(), digits)}" if len(known) else "-"


def _fixed(value: float, digits: int) -> str:
    """Write a number with a fixed number of digits, and zero without a sign."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}"
