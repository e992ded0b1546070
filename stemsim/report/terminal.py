"""Tables of results as text, for the terminal and for pages."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stemsim.analysis.leakage import Leakage
from stemsim.report.results import (
    CrossvalResults,
    FitResults,
    PartResults,
    PerspectivesResults,
    QuestionResult,
    Results,
    Score,
)
from stemsim.triplets import TEST_TYPES

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TextTable", "show", "stem_table", "tables"]

_PART_ROWS: Final = (
    ("human ceiling", "human_ceiling"),
    ("mix cosine", "mix_cosine"),
    ("uniform weights", "uniform_weights"),
    ("fitted weights", "agreement"),
    ("  XAB triplets", "agreement_xab"),
    ("  XYC triplets", "agreement_xyc"),
)


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text.

    Attributes:
        title: Lines above the table.
        headings: One for each column; the first column is aligned left, the others right.
        rows: Cells of each row.
        notes: Lines below the table.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def show(results: Results, console: "Console") -> None:
    """Print the tables of a job's results, and its verdicts."""
    from rich.markup import escape
    from rich.table import Table

    for one in tables(results):
        if one.title:  # as lines of its own: a title above a narrow table would be broken
            console.print(f"\n{one.title}", highlight=False, markup=False, style="bold", soft_wrap=True)
        if not one.rows:
            continue
        table = Table()
        for place, heading in enumerate(one.headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=bool(place))
        for row in one.rows:
            table.add_row(*map(escape, row), style="bold" if row[0] == "fitted weights" else None)
        console.print(table)
        for note in one.notes:
            console.print(note, highlight=False, markup=False, style="italic", soft_wrap=True)
    for sentence in getattr(results, "verdicts", ()):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def tables(results: Results) -> list[TextTable]:
    """Return the tables of a job's results."""
    match results:
        case FitResults():
            return [_fit_table(results)]
        case PartResults():
            return [_part_table(results)]
        case CrossvalResults():
            leakage = [] if results.leakage is None else [_leakage_table(results.leakage)]
            return [_score_table(results), stem_table(results), *leakage]
        case PerspectivesResults():
            return [_perspectives_table(results)]
    return []


def _fit_table(results: FitResults) -> TextTable:
    """Fitted weights beside exact and true ones."""
    title = [f"{results.fusion} fitted to {results.triplets} triplets: {results.source}"]
    if math.isfinite(results.max_abs_weight_gap):
        title.append(f"largest gap to the closed form {results.max_abs_weight_gap:.1e}")
    if math.isfinite(results.cosine_to_true_weights):
        title.append(f"cosine between fitted and true weights {results.cosine_to_true_weights:.4f}")
    found = [(part, results.metrics.get(f"{part}/agreement", math.nan)) for part in ("train", "val")]
    if agreed := [f"{part} {_percent(value)} %" for part, value in found if math.isfinite(value)]:
        title.append(f"agreement: {', '.join(agreed)}")
    columns = results.columns
    rows = [(stem, *(_fixed(column[stem], 4) for column in columns.values())) for stem in results.weights]
    return TextTable("\n".join(title), ("stem", *columns), tuple(rows))


def _part_table(results: PartResults) -> TextTable:
    """Agreement on one part beside ceiling and baselines; the standard error is that of a share of the triplets."""
    size, rows = results.triplets, []
    values = {name: results.metrics.get(f"{results.part}/{name}", math.nan) for _, name in _PART_ROWS}
    ceiling = values["human_ceiling"]
    for label, name in _PART_ROWS:
        text = _percent(values[name])
        if name == "agreement" and text != "-":
            # Agresti and Coull's estimate: the plain one says "± 0" where nothing was wrong yet.
            share = (values[name] * size + 2.0) / (size + 4.0)
            text += f" ± {_percent((share * (1.0 - share) / (size + 4.0)) ** 0.5)}"
        # The ceiling is that of both test types together.
        of_ceiling = [] if not ceiling > 0.0 else [""] if label[0] == " " else [_percent(values[name] / ceiling)]
        rows.append((label.replace("human", "simulated") if results.simulated else label, text, *of_ceiling))
    headings = (f"{results.part}: {size} triplets", "agreement, %", "of ceiling, %")
    title = f"{results.source}\n{results.split} split, {results.tracks} tracks in this part"
    return TextTable(title, headings[: len(rows[0])], tuple(rows))


def _score_table(results: CrossvalResults) -> TextTable:
    """Test agreement of every model."""
    splits = results.splits
    title = (
        f"{results.source}\n{results.triplets} triplets, {splits.count} {splits.kind} splits, "
        f"{100 * splits.train_fraction:.0f} % train, {splits.mean_test_size:.0f} tested on average"
    )
    rows = [
        (
            model.name,
            *(_spread(model.agreement[column], 1, 100.0) for column in ("all", "XAB", "XYC")),
            _percent(model.share_of_ceiling),
            "" if math.isnan(model.median_alpha) else f"{model.median_alpha:.3g}",
        )
        for model in results.models
    ]
    headings = ("model", "agreement,\n%", *TEST_TYPES, "of\nceiling, %", "alpha")
    return TextTable(title, headings, tuple(rows), ("mean ± standard deviation over the splits",))


def stem_table(results: CrossvalResults) -> TextTable:
    """Return the weights of each stem, with its interval, importance and variance inflation.

    Args:
        results: Results of a cross-validation.

    Returns:
        A table without a title.
    """
    by_stem, notes = results.by_stem, ["weights: mean ± standard deviation over the splits"]
    columns = {"stem": list(by_stem)}
    for model in results.models:
        if model.name in {"OLS", "ridge"}:
            columns[model.name] = [_spread(model.weights[stem], 2) for stem in by_stem]
    if any(math.isfinite(row.lower) for row in by_stem.values()):
        columns[f"{100 * results.level:g} % interval"] = [_interval(row.lower, row.upper) for row in by_stem.values()]
        notes.append(f"interval: OLS on all triplets, {results.interval_method}")
    drops = [row.agreement_drop for row in by_stem.values() if row.agreement_drop is not None]
    if drops:
        stars = ["*" if drop.p_value < 1.0 - results.level else " " for drop in drops]
        columns["drop"] = [_fixed(100 * drop.mean, 1) + star for drop, star in zip(drops, stars, strict=True)]
        notes.append("drop: agreement lost without the stem, in points (* significant)")
    inflations = [row.variance_inflation for row in by_stem.values()]
    columns["VIF"] = ["silent" if math.isnan(inflation) else f"{inflation:.1f}" for inflation in inflations]
    notes.append("VIF: variance inflation factor; from 10 on, collinear with other stems")
    return TextTable("", tuple(columns), tuple(zip(*columns.values(), strict=True)), tuple(notes))


def _leakage_table(found: Leakage) -> TextTable:
    """Agreement by both kinds of split; the last columns are of the same test triplets."""
    first, second = (f"{size:.0f}" for size in found.train_size)
    notes = (
        f"by triplet: random splits, {first} triplets to train on; by track: no track on both sides, {second}",
        "(test agreement in %, test types weighted as in the whole table)",
        f"tracks seen, unseen: same test triplets, of the splits by track; trained on {second} triplets",
        "that may share their tracks, or that share none; leak: the difference",
    )
    same = dict(zip(("OLS", "ridge"), found.same_test, strict=True))
    rows = []
    for row in found.rows:
        cells = [row.model, _percent(row.stratified), _spread(Score(mean=row.grouped, std=row.grouped_std), 1, 100.0)]
        if (one := same.get(row.model)) is not None:
            reach = one.difference.upper - one.difference.mean
            cells += [_percent(value) for value in one.agreement]
            cells.append(f"{100 * one.difference.mean:+.1f} ± {100 * reach:.1f}")
        rows.append((*cells, *[""] * (6 - len(cells))))
    headings = ("model", "by triplet", "by track", "tracks\nseen", "tracks\nunseen", "leak,\npoints")
    return TextTable("", headings, tuple(rows), notes)


def _perspectives_table(results: PerspectivesResults) -> TextTable:
    """Part of each stem by question, and agreement with the majority on each question."""
    fits = results.questions.values()
    scores = [{model.slug: model.agreement["all"] for model in fit.models} for fit in fits]
    notes = [
        "part: what a stem typically moves the preference by, relative to all (squares add up to 1)",
        f"± half of the {100 * results.level:g} % interval, least squares on all triplets; * significant",
        "agreement with the majority on the same question: mean ± standard deviation over the splits",
        "ceiling: one listener with the majority of the others on the same question",
    ]
    if results.simulated:
        notes.append("in brackets: the true parts of the simulated listeners")
    rows = [(stem, *(_part(fit, stem) for fit in fits)) for stem in results.stems]
    rows.append(("triplets", *(str(fit.triplets) for fit in fits)))
    rows.append(("answers", *(str(fit.answers) for fit in fits)))
    rows.append(("ceiling %", *(_percent(one["ceiling"].mean) for one in scores)))
    for slug, label in (("mix_cosine", "mix cosine %"), ("uniform_weights", "uniform %"), ("ridge", "ridge %")):
        rows.append((label, *(_spread(one[slug], 1, 100.0) if slug in one else "-" for one in scores)))
    rows.append(("of ceiling %", *(_percent(fit.share_of_ceiling) for fit in fits)))
    return TextTable(results.source, ("", *results.questions), tuple(rows), tuple(notes))


def _part(fit: QuestionResult, stem: str) -> str:
    """Write a part with its interval, and the truth where it is known."""
    row = fit.by_stem[stem]
    truth = "" if math.isnan(row.true_part) else f"\n({row.true_part:.2f})"
    if not math.isfinite(row.standard_error):
        return f"open{truth}"
    significant = row.lower > 0.0 or row.upper < 0.0
    return f"{_fixed(row.part, 2)} ± {row.upper - row.part:.2f}{'*' if significant else ' '}{truth}"


def _interval(lower: float, upper: float) -> str:
    """Write an interval; one without ends says nothing about the weight."""
    return f"[{_fixed(lower, 2)}, {_fixed(upper, 2)}]" if math.isfinite(lower) and math.isfinite(upper) else "open"


def _spread(score: Score, digits: int, scale: float = 1.0) -> str:
    """Write mean and standard deviation."""
    if math.isnan(score.mean):
        return "-"
    return f"{_fixed(scale * score.mean, digits)} ± {_fixed(scale * score.std, digits)}"


def _percent(share: float) -> str:
    return _fixed(100.0 * share, 1) if math.isfinite(share) else "-"


def _fixed(value: float, digits: int) -> str:
    """Write a number with a fixed number of digits, and zero without a sign."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}"
