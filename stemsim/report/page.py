"""A self-contained HTML page about several runs, which loads nothing from anywhere else."""

import base64
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import yaml

from stemsim.audio import Segment
from stemsim.errors import AudioError, ConfigError, DataNotFoundError
from stemsim.report.audio import encode_ogg
from stemsim.report.plots import svg_text
from stemsim.report.results import CrossvalResults, ModelResult
from stemsim.report.run_files import Run
from stemsim.report.tables import stem_table
from stemsim.report.text import fixed, percent

__all__ = ["ComparisonRow", "Report", "comparison_rows", "render_report"]

_COLUMNS: Final = ("all", "XAB", "XYC")
_JOBS: Final = {
    "fit": "Fit",
    "val": "Validation",
    "test": "Test",
    "crossval": "Cross-validation",
    "perspectives": "Perspectives",
}
_METRICS: Final = ("agreement", "agreement_xab", "agreement_xyc", "human_ceiling", "mix_cosine", "uniform_weights")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One model of one run, `best` in the columns where no model on the same triplets and splits agrees more often."""

    run: str
    model: ModelResult
    best: frozenset[str]


@dataclass(frozen=True, slots=True)
class Report:
    """A page, and one sentence about each audio file that could not be put on it."""

    html: str
    gone: tuple[str, ...] = ()


def comparison_rows(runs: Sequence[Run]) -> tuple[ComparisonRow, ...]:
    """Compare all models of all runs that were cross-validated: one row for each model, in the order of the runs."""
    tested = [(run.name, run.crossval, _comparable(run.crossval)) for run in runs if run.crossval is not None]
    rows = []
    for name, results, key in tested:
        rivals = [
            model for _, other, its_key in tested if its_key == key for model in other.models if model.kind != "ceiling"
        ]
        highest = {
            column: np.nanmax([-math.inf, *(model.agreement[column].mean for model in rivals)]) for column in _COLUMNS
        }
        for model in results.models:
            means = {column: model.agreement[column].mean for column in _COLUMNS if model.kind != "ceiling"}
            best = frozenset(column for column, mean in means.items() if mean == highest[column])
            rows.append(ComparisonRow(name, model, best))
    return tuple(rows)


def _comparable(results: CrossvalResults) -> tuple[str, ...]:
    """Return what two cross-validations must share to be compared: the triplets and the splits.

    The ceiling depends on the listeners' votes alone and stands for them: two sets of triplets with one name and size
    have other votes.
    """
    return results.source, str(results.triplets), str(results.splits), str(results.models[0].agreement)


def render_report(runs: Sequence[Run], *, worst: int = 8, audio: bool = True, command: str = "") -> Report:
    """Write the page.

    Args:
        runs: The runs, in the order of the page.
        worst: Number of worst triplets of each run.
        audio: Whether to put the segments of these triplets on the page.
        command: The command that asked for the page.

    Raises:
        ConfigError: If there are no runs, or the number is negative.
    """
    if not runs or worst < 0:
        raise ConfigError(
            f"A report takes at least one run and 0 or more worst triplets; got {len(runs)} runs and {worst}."
        )
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("stemsim.report", "."),
        autoescape=True,  # names, sources and verdicts come from files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "percent": percent, "choice": _choice, "yaml": _yaml, "data_uri": _data_uri}
    gone: dict[str, str] = {}

    @cache
    def address(segment: Segment) -> str:
        """Return the `data:` address of a segment; empty if there is no audio."""
        try:
            return _data_uri(encode_ogg(segment), "audio/ogg") if audio else ""
        except (AudioError, DataNotFoundError) as error:
            gone.setdefault(str(segment.path), str(error))
            return ""

    plot = svg_text(runs)
    compared = [run.crossval for run in runs if run.crossval is not None]
    html = environment.get_template("report.html.j2").render(
        runs=runs,
        command=command,
        made_with=f"stemsim {version('stemsim')}, Python {platform.python_version()}",
        simulated=[run.name for run in runs if any(results.simulated for results in run.results)],
        settings=_settings(runs),
        columns=_COLUMNS,
        rows=comparison_rows(runs),
        several_data=len(set(map(_comparable, compared))) > 1,
        # Matplotlib escapes the labels of its drawing itself.
        plot=None if plot is None else Markup(plot),  # noqa: S704
        stem_tables=[(run.name, stem_table(run.crossval)) for run in runs if run.crossval is not None],
        scores=[score for run in runs for score in _scores(run)],
        worst=worst,
        address=address,
        gone=gone,
        jobs=_JOBS,
    )
    return Report(html, tuple(gone.values()))


def _settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the settings side by side: a line for each, a cell for each run; lines that no run fills are left out."""
    lines: dict[str, list[str]] = {}
    for run in runs:
        data, model = (run.settings.get(part) or {} for part in ("data", "model"))
        cells = {
            "Folder": str(run.folder),
            "Triplets": "; ".join(dict.fromkeys(results.source for results in run.results)),
            "Reader": _short(data.get("triplets")),
            **{name.title(): _short(data.get(name)) for name in ("separator", "encoder", "silence", "target")},
            **{name.title(): _short(model.get(name)) for name in ("loss", "l2", "fusion")},
            "Split of fit and test": _short(data.get("split")),
            "Splits of crossval": "" if run.crossval is None else _splits(run.crossval),
            "Seed": _short(run.settings.get("seed_everything")),
            "Versions": ", ".join(f"{name} {number}" for name, number in run.versions.items()),
        }
        cells["Silence"] = cells["Silence"] and f"below {cells['Silence']} dBFS"
        for name, cell in cells.items():
            lines.setdefault(name, []).append(cell)
    return [(name, cells) for name, cells in lines.items() if any(cells)]


def _splits(results: CrossvalResults) -> str:
    splits = results.splits
    drawn = f"{splits.count} {splits.kind}, {100 * splits.train_fraction:g} % to train, seed {splits.seed}"
    return f"{drawn}, {results.triplets} triplets"


def _short(value: Any) -> str:
    """Return a setting in a few words: a class by its last name, with its own settings in brackets."""
    if value is None:
        return ""
    if not isinstance(value, dict):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if "class_path" not in value:
        return ", ".join(f"{key} {_short(one)}" for key, one in value.items() if one is not None)
    name, inside = str(value["class_path"]).rpartition(".")[2], _short(value.get("init_args"))
    return f"{name} ({inside})" if inside else name


def _scores(run: Run) -> list[tuple[str, str, str, list[float], str]]:
    """Return the agreement of fit, validate and test: run, job, part, shares of 1, and size of the part."""
    found = [] if run.fit is None else [("fit", part, run.fit.metrics, "") for part in ("train", "val")]
    found += [
        (_JOBS[one.part].lower(), one.part, one.metrics, f"{one.triplets} of {one.tracks} tracks, {one.split}")
        for one in (run.test, run.val)
        if one is not None
    ]
    return [
        (run.name, job, part, [metrics.get(f"{part}/{name}", math.nan) for name in _METRICS], size)
        for job, part, metrics, size in found
        if f"{part}/agreement" in metrics
    ]


def _yaml(settings: Any) -> str:
    return str(yaml.safe_dump(dict(settings), sort_keys=False))


def _data_uri(content: str | bytes, kind: str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _choice(lead: float) -> str:
    """Return the candidate that a preference, or a lead in votes, speaks for."""
    return "A" if lead > 0 else "B" if lead < 0 else "neither"
