"""Tables of results, as text and as data frames."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from stemsim.analysis.leakage import Leakage
from stemsim.report.results import (
    CrossvalResults,
    FitResults,
    PartResults,
    PerspectivesResults,
    QuestionResult,
    Results,
)
from stemsim.report.text import TextTable, fixed, percent, with_spread
from stemsim.triplets import TEST_TYPES

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = ["frames", "show", "stem_table", "tables"]

_PART_ROWS: Final = {
    "human ceiling": "human_ceiling",
    "mix cosine": "mix_cosine",
    "uniform weights": "uniform_weights",
    "fitted weights": "agreement",
    "  XAB triplets": "agreement_xab",
    "  XYC triplets": "agreement_xyc",
}


def show(results: Results, console: "Console") -> None:
    """Print the tables of a job's results, and its verdicts."""
    for table in tables(results):
        table.print(console)
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
    agreed = {part: percent(results.metrics.get(f"{part}/agreement")) for part in ("train", "val")}
    if found := [f"{part} {text} %" for part, text in agreed.items() if text != "-"]:
        title.append(f"agreement: {', '.join(found)}")
    columns = results.columns
    rows = [(stem, *(fixed(column[stem], 4) for column in columns.values())) for stem in results.weights]
    return TextTable("\n".join(title), ("stem", *columns), tuple(rows))


def _part_table(results: PartResults) -> TextTable:
    """Agreement on one part beside ceiling and baselines; the standard error is that of a share of the triplets."""
    size, rows = results.triplets, []
    values = {name: results.metrics.get(f"{results.part}/{name}", math.nan) for name in _PART_ROWS.values()}
    ceiling = values["human_ceiling"]
    for label, name in _PART_ROWS.items():
        text = percent(values[name])
        if name == "agreement" and text != "-":
            # Agresti and Coull's estimate: the plain one says "± 0" where nothing was wrong yet.
            share = (values[name] * size + 2.0) / (size + 4.0)
            text += f" ± {percent((share * (1.0 - share) / (size + 4.0)) ** 0.5)}"
        # The ceiling is that of both test types together.
        of_ceiling = [] if not ceiling > 0.0 else [""] if label[0] == " " else [percent(values[name] / ceiling)]
        rows.append((label.replace("human", "simulated") if results.simulated else label, text, *of_ceiling))
    headings = (f"{results.part}: {size} triplets", "agreement, %", "of ceiling, %")
    title = f"{results.source}\n{results.split} split, {results.tracks} tracks in this part"
    return TextTable(title, headings[: len(rows[0])], tuple(rows), strong=list(_PART_ROWS).index("fitted weights"))


def _score_table(results: CrossvalResults) -> TextTable:
    """Test agreement of every model."""
    splits = results.splits
    title = (
        f"{results.source}\n{results.triplets} triplets, {splits.count} {splits.kind} splits, "
        f"{100 * splits.train_fraction:.0f} % train, {splits.mean_test_size:.0f} tested on average"
    )
    rows = []
    for model in results.models:
        agreement = (model.agreement[column].percent for column in ("all", *TEST_TYPES))
        alpha = "" if math.isnan(model.median_alpha) else f"{model.median_alpha:.3g}"
        rows.append((model.name, *agreement, percent(model.share_of_ceiling), alpha))
    headings = ("model", "agreement,\n%", *TEST_TYPES, "of\nceiling, %", "alpha")
    return TextTable(title, headings, tuple(rows), ("mean ± standard deviation over the splits",))


def stem_table(results: CrossvalResults) -> TextTable:
    """Return the weights of each stem, with its interval, importance and variance inflation; without a title."""
    by_stem, notes = results.by_stem, ["weights: mean ± standard deviation over the splits"]
    columns = {"stem": list(by_stem)}
    for model in results.models:
        if model.name in {"OLS", "ridge"}:
            columns[model.name] = [with_spread(score.mean, score.std, 2) for score in model.weights.values()]
    if results.has_intervals:
        columns[f"{100 * results.level:g} % interval"] = [
            f"[{fixed(row.lower, 2)}, {fixed(row.upper, 2)}]" if math.isfinite(row.upper - row.lower) else "open"
            for row in by_stem.values()
        ]
        notes.append(f"interval: OLS on all triplets, {results.interval_method}")
    drops = [row.agreement_drop for row in by_stem.values() if row.agreement_drop is not None]
    if drops:
        columns["drop"] = [percent(drop.mean) + "* "[drop.p_value >= 1.0 - results.level] for drop in drops]
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
    same: dict[str, tuple[str, ...]] = {}
    for name, one in zip(("OLS", "ridge"), found.same_test, strict=True):
        leak, reach = 100 * one.difference.mean, 100 * (one.difference.upper - one.difference.mean)
        same[name] = (*map(percent, one.agreement), f"{leak:+.1f} ± {reach:.1f}")
    rows = []
    for row in found.rows:
        by_track = with_spread(100 * row.grouped, 100 * row.grouped_std)
        rows.append((row.model, percent(row.stratified), by_track, *same.get(row.model, ("", "", ""))))
    headings = ("model", "by triplet", "by track", "tracks\nseen", "tracks\nunseen", "leak,\npoints")
    return TextTable("", headings, tuple(rows), notes)


def _perspectives_table(results: PerspectivesResults) -> TextTable:
    """Part of each stem by question, and agreement with the majority on each question."""
    fits = results.questions.values()
    models = [{model.slug: model for model in fit.models} for fit in fits]
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
    rows.append(("ceiling %", *(percent(one["ceiling"].agreement["all"].mean) for one in models)))
    for slug, label in (("mix_cosine", "mix cosine %"), ("uniform_weights", "uniform %"), ("ridge", "ridge %")):
        rows.append((label, *(one[slug].agreement["all"].percent if slug in one else "-" for one in models)))
    rows.append(("of ceiling %", *(percent(one["ridge"].share_of_ceiling) for one in models)))
    return TextTable(results.source, ("", *results.questions), tuple(rows), tuple(notes))


def _part(fit: QuestionResult, stem: str) -> str:
    """Write a part with its interval, and the truth where it is known."""
    row = fit.by_stem[stem]
    truth = "" if math.isnan(row.true_part) else f"\n({row.true_part:.2f})"
    if not math.isfinite(row.standard_error):
        return f"open{truth}"
    star = "*" if row.lower > 0.0 or row.upper < 0.0 else " "
    return f"{with_spread(row.part, row.upper - row.part, 2)}{star}{truth}"


def frames(results: Results) -> "dict[str, pd.DataFrame]":
    """Return the CSV tables of a job's results, by the stem of their file's name.

    These are `weights` of a fit; `crossval_weights` (mean weights of every model) and `crossval_stems` (intervals,
    importance and variance inflation); and `perspectives`. There are none for `validate` and `test`.
    """
    import pandas as pd

    def by_stem(columns: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
        return pd.DataFrame(columns).rename_axis("stem").reset_index()

    match results:
        case FitResults():
            return {"weights": by_stem(results.columns)} if results.weights else {}
        case CrossvalResults():
            linear = [model for model in results.models if model.weights]
            means = {model.name: {stem: score.mean for stem, score in model.weights.items()} for model in linear}
            means["ridge on all"] = {stem: row.refit for stem, row in results.by_stem.items()}
            rows = [
                {"stem": stem, **row.model_dump(exclude={"refit"}, exclude_none=True)}
                for stem, row in results.by_stem.items()
            ]
            return {"crossval_weights": by_stem(means), "crossval_stems": pd.json_normalize(rows, sep="_")}
        case PerspectivesResults():
            parts = [
                {"question": question, "stem": stem, **part.model_dump()}
                for question, fit in results.questions.items()
                for stem, part in fit.by_stem.items()
            ]
            return {"perspectives": pd.DataFrame(parts).dropna(axis="columns", how="all")}
    return {}
