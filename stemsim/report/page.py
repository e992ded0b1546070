"""One self-contained HTML page of several runs: nothing on it is loaded from anywhere else."""

import base64
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import yaml

from stemsim.audio import Segment
from stemsim.errors import AudioError, ConfigError, DataNotFoundError
from stemsim.evaluation.report_audio import ogg_data_uri
from stemsim.evaluation.report_plot import svg_text
from stemsim.evaluation.run_results import CrossvalResults, RunResults, WorstTriplet

__all__ = ["ComparisonRow", "Report", "comparison_rows", "render_report", "short_setting"]

_COLUMNS: Final = ("all", "XAB", "XYC")
_HEADINGS: Final = {"fit": "Fit", "val": "Validation", "test": "Test", "crossval": "Cross-validation"}


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One model of one run.

    Attributes:
        run: Name of the run.
        model: Name of the model.
        percent: Mean and standard deviation of the test agreement in %, by `all`, `XAB` and `XYC`.
        share: Share of the ceiling in %; NaN where there is none.
        best: The columns in which it is the best of all models on the same triplets and splits.
        predicts: Whether it is a model; the ceiling is not.
    """

    run: str
    model: str
    percent: Mapping[str, tuple[float, float]]
    share: float
    best: frozenset[str]
    predicts: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A page, and what could not be put on it.

    Attributes:
        html: The page.
        gone: Why audio of segments is not on it, one sentence a file.
    """

    html: str
    gone: tuple[str, ...] = ()


@dataclass(slots=True)
class _Clips:
    """Encodes every segment once, and remembers what is gone."""

    wanted: bool
    addresses: dict[Segment, str] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)

    def address(self, segment: Segment) -> str:
        """Return the `data:` address of a segment; empty if its audio cannot be had."""
        if self.wanted and segment not in self.addresses:
            try:
                self.addresses[segment] = ogg_data_uri(segment)
            except (AudioError, DataNotFoundError) as error:
                self.addresses[segment] = ""
                self.gone.setdefault(str(segment.path), str(error))
        return self.addresses.get(segment, "")


def comparison_rows(runs: Sequence[RunResults]) -> tuple[ComparisonRow, ...]:
    """Return the comparison of all models of all runs that were cross-validated.

    Args:
        runs: What the runs found.

    Returns:
        One row a model, in the order of the runs. Best marks compare models on the same triplets and splits only.
    """
    entries = [(run, run.crossval, model) for run in runs if run.crossval is not None for model in run.crossval.models]
    best: dict[tuple[Any, str], float] = {}
    for _, found, model in entries:
        for column in _COLUMNS if model.is_model else ():
            mean = model.agreement[column].mean
            key = (_comparable(found), column)
            best[key] = max(best.get(key, -math.inf), -math.inf if math.isnan(mean) else mean)
    return tuple(
        ComparisonRow(
            run.name,
            model.name,
            {column: (100 * score.mean, 100 * score.std) for column, score in model.agreement.items()},
            100 * model.share,
            frozenset(
                column
                for column in _COLUMNS
                if model.is_model and model.agreement[column].mean == best[_comparable(found), column]
            ),
            model.is_model,
        )
        for run, found, model in entries
    )


def _comparable(found: CrossvalResults) -> tuple[Any, ...]:
    """Return what two cross-validations must share to be compared: the triplets and the splits.

    The ceiling depends on the listeners' votes alone and stands for them: two sets of triplets of one name and size
    have other votes.
    """
    votes = [repr(model.agreement) for model in found.models if not model.is_model]
    return found.source, found.triplets, tuple(sorted(found.splits.items())), tuple(votes)


def render_report(runs: Sequence[RunResults], *, worst: int = 8, audio: bool = True, command: str = "") -> Report:
    """Write the page.

    Args:
        runs: What the runs found, in the order of the page.
        worst: Number of worst triplets of each run.
        audio: Whether to put the segments of these triplets on the page.
        command: The command that asked for it.

    Returns:
        The page.

    Raises:
        ConfigError: If there are no runs, or the number is negative.
    """
    if not runs or worst < 0:
        msg = f"A report takes at least one run and 0 or more worst triplets; got {len(runs)} runs and {worst}."
        raise ConfigError(msg)
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("stemsim.evaluation", "."),
        autoescape=True,  # names, sources and verdicts come from files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    clips, drawing = _Clips(audio), svg_text(runs)
    # Matplotlib escapes the labels of its drawing itself.
    plot = None if drawing is None else Markup(drawing)  # noqa: S704
    rows = comparison_rows(runs)
    html = environment.get_template("report.html.j2").render(
        title=f"stemsim: {', '.join(run.name for run in runs)}",
        command=command,
        made_with=f"stemsim {version('stemsim')}, Python {platform.python_version()}",
        header=_header(runs),
        rows=rows,
        several_data=len({_comparable(run.crossval) for run in runs if run.crossval is not None}) > 1,
        columns=_COLUMNS,
        plot=plot,
        scores=[score for run in runs for score in _scores(run)],
        sections=[_section(run, clips, worst) for run in runs],
        simulated=[run.name for run in runs if _is_simulated(run)],
    )
    return Report(html, tuple(clips.gone.values()))


def _header(runs: Sequence[RunResults]) -> list[tuple[str, list[str]]]:
    """Return what was compared: a line for each setting, a cell for each run; lines that no run fills are left out."""
    lines: dict[str, list[str]] = {}
    for run in runs:
        data, model = (run.settings.get(part) or {} for part in ("data", "model"))
        found = run.crossval
        cells = {
            "Folder": str(run.folder),
            "Triplets": _source(run),
            "Reader": short_setting(data.get("triplets")),
            "Separator": short_setting(data.get("separator")),
            "Encoder": short_setting(data.get("encoder")),
            "Silence": "" if data.get("silence") is None else f"below {data['silence']:g} dBFS",
            "Target": short_setting(data.get("target")),
            "Loss": short_setting(model.get("loss")),
            "L2": short_setting(model.get("l2")),
            "Fusion": short_setting(model.get("fusion")),
            "Split of fit and test": short_setting(data.get("split")),
            "Splits of crossval": "" if found is None else _splits(found),
            "Seed": short_setting(run.settings.get("seed_everything")),
            "Versions": ", ".join(f"{name} {number}" for name, number in run.versions.items()),
        }
        for name, cell in cells.items():
            lines.setdefault(name, []).append(cell)
    return [(name, cells) for name, cells in lines.items() if any(cells)]


def short_setting(value: Any) -> str:
    """Return a setting in a few words: a class by its last name, with its own settings in brackets.

    Args:
        value: As in a configuration.

    Returns:
        Text; empty for null.
    """
    if value is None:
        return ""
    if not isinstance(value, dict):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if "class_path" not in value:
        return ", ".join(f"{key} {short_setting(one)}" for key, one in value.items() if one is not None)
    name = str(value["class_path"]).rpartition(".")[2]
    inside = short_setting(value.get("init_args"))
    return f"{name} ({inside})" if inside else name


def _splits(found: CrossvalResults) -> str:
    settings = found.splits
    return (
        f"{settings['count']} {settings['kind']}, {100 * settings['train_fraction']:g} % to train, "
        f"seed {settings['seed']}, {found.triplets} triplets"
    )


def _source(run: RunResults) -> str:
    sources = [one.source for one in (run.crossval, run.fit, *run.parts) if one is not None]
    return "; ".join(dict.fromkeys(sources))


def _is_simulated(run: RunResults) -> bool:
    return any(one is not None and one.simulated for one in (run.crossval, run.fit))


def _scores(run: RunResults) -> list[dict[str, Any]]:
    """Return what fit, validate and test measured, one line a part."""
    found: list[tuple[str, str, Mapping[str, float], str]] = []
    if run.fit is not None:
        found += [("fit", part, run.fit.metrics, "") for part in ("train", "val")]
    found += [
        (_HEADINGS[one.part].lower(), one.part, one.metrics, f"{one.triplets} of {one.tracks} tracks, {one.split}")
        for one in run.parts
    ]
    names = ("agreement", "agreement_xab", "agreement_xyc", "human_ceiling", "mix_cosine", "uniform_weights")
    return [
        {
            "run": run.name,
            "job": job,
            "part": part,
            "size": size,
            "percent": [100 * metrics.get(f"{part}/{name}", math.nan) for name in names],
        }
        for job, part, metrics, size in found
        if f"{part}/agreement" in metrics
    ]


def _section(run: RunResults, clips: _Clips, worst: int) -> dict[str, Any]:
    """Return what the page says of one run alone."""
    commands = run.commands()
    text = yaml.safe_dump(dict(run.settings), sort_keys=False) if run.settings else ""
    return {
        "name": run.name,
        "settings": text,
        "settings_file": run.settings_file,
        "settings_address": _data_uri("text/yaml", text.encode()) if text else "",
        "done": [commands[job] for job in commands if job not in run.missing()],
        "missing": run.missing(),
        "fit": run.fit,
        "verdicts": () if run.crossval is None else run.crossval.verdicts,
        "sentences": run.sentences,
        "worst": [_triplet(one, clips) for one in run.worst[:worst]],
        "has_worst": bool(run.worst),
        "pictures": [
            (picture.path.stem, _HEADINGS.get(picture.job, picture.job), _png(picture.path.read_bytes()))
            for picture in run.pictures
        ],
    }


def _triplet(one: WorstTriplet, clips: _Clips) -> dict[str, Any]:
    said = "A" if one.votes[0] > one.votes[1] else "B" if one.votes[1] > one.votes[0] else "neither"
    strongest = sorted(one.contributions.items(), key=lambda pair: -abs(pair[1]))
    return {
        "test_type": one.test_type,
        "votes": f"{one.votes[0]:g} for A, {one.votes[1]:g} for B",
        "listeners": said,
        "model": "A" if one.preference > 0 else "B" if one.preference < 0 else "neither",
        "preference": f"{one.preference:+.3f}",
        "contributions": [(stem, f"{value:+.3f}") for stem, value in strongest if value],
        "segments": [
            {
                "role": role,
                "file": "/".join(segment.path.parts[-2:]),
                "start": f"{segment.start:g} s",
                "duration": f"{segment.duration:g} s",
                "address": clips.address(segment),
                "gone": clips.gone.get(str(segment.path), ""),
            }
            for role, segment in (("X", one.x), ("A", one.a), ("B", one.b))
        ],
    }


def _png(data: bytes) -> str:
    return _data_uri("image/png", data)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _number(value: float, digits: int = 2) -> str:
    """Return a number as text; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"  # noqa: RUF001 - a dash, as in printed tables


def _percent(pair: tuple[float, float]) -> str:
    """Return mean ± standard deviation as text."""
    mean, spread = pair
    return _number(mean, 1) if math.isnan(spread) or math.isnan(mean) else f"{mean:.1f} ± {spread:.1f}"
