"""One run of W&B that sums up the runs of an experiment."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stemsim.audio import Segment
from stemsim.errors import AudioError, ConfigError, DataNotFoundError
from stemsim.report.audio import clip
from stemsim.report.page import comparison_rows
from stemsim.report.plots import plot_run_weights
from stemsim.report.run_files import Run

if TYPE_CHECKING:
    import wandb
    from matplotlib.figure import Figure

__all__ = ["common_group", "log_summary"]

_LOG = logging.getLogger(__name__)


def common_group(runs: Sequence[Run]) -> str:
    """Return the W&B group that all runs were logged to.

    Args:
        runs: What the runs found.

    Returns:
        The group of their loggers.

    Raises:
        ConfigError: If there is none, or more than one.
    """
    groups = {_group(run) for run in runs}
    if len(groups) != 1 or None in groups:
        seen = ", ".join(sorted(group or "none" for group in groups))
        msg = f"The runs of one experiment share one W&B group; these have: {seen}. Name one by --wandb-group."
        raise ConfigError(msg)
    return str(groups.pop())


def log_summary(
    runs: Sequence[Run],
    project: str,
    *,
    group: str,
    folder: Path,
    online: bool = False,
    worst: int = 8,
    audio: bool = True,
) -> Path | str:
    """Log comparison, weights and worst triplets of several runs as a run of its own, of the job type `summary`.

    Args:
        runs: What the runs found.
        project: W&B project.
        group: W&B group that the runs share.
        folder: Where W&B puts its own folder, `wandb`.
        online: Whether to log to W&B's server, which needs an account.
        worst: Number of worst triplets of each run.
        audio: Whether to log the audio of their segments.

    Returns:
        The folder of the offline run, or the address of the run online.

    Raises:
        ConfigError: If W&B cannot be reached with an account.
    """
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        summary = wandb.init(
            project=project,
            group=group,
            job_type="summary",
            name=f"summary of {group}",
            dir=str(folder),
            mode="online" if online else "offline",
            config={run.name: dict(run.settings) for run in runs},
            reinit="create_new",  # leaves a run of this process as it is
            settings=wandb.Settings(quiet=True),
        )
    except wandb.errors.Error as error:
        msg = f"W&B does not take the summary: {error}. Log in with `wandb login`, or leave out --online."
        raise ConfigError(msg) from error
    with summary:
        logged: dict[str, Any] = {"comparison": _comparison(runs), "worst_triplets": _worst(runs, worst, audio=audio)}
        figure = plot_run_weights(runs)
        if figure is not None:
            logged["weights"] = wandb.Image(_pixels(figure))
        summary.log(logged)
        for run in runs:
            if run.crossval is not None:
                summary.summary[f"verdicts/{run.name}"] = list(run.crossval.verdicts)
        return str(summary.url) if online else Path(summary.dir).parent


def _group(run: Run) -> str | None:
    logger = run.settings.get("trainer", {}).get("logger")
    settings = logger.get("init_args", {}) if isinstance(logger, dict) else {}
    group = settings.get("group")
    return None if group is None else str(group)


def _pixels(figure: "Figure") -> npt.NDArray[np.uint8]:
    """Draw a figure on white; given the figure itself, W&B looks for pyplot, which draws none of ours."""
    from matplotlib.image import imread

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    file.seek(0)
    return (255.0 * np.asarray(imread(file))).astype(np.uint8)  # (row, column, channel)


def _comparison(runs: Sequence[Run]) -> "wandb.Table":
    import wandb

    columns = ["run", "model"]
    for name in ("agreement", "XAB", "XYC"):
        columns += [f"{name}, %", f"{name}, standard deviation"]
    table = wandb.Table(columns=[*columns, "share of ceiling, %", "best in"])
    for row in comparison_rows(runs):
        scores = [row.model.agreement[column] for column in ("all", "XAB", "XYC")]
        figures = [100 * figure for score in scores for figure in (score.mean, score.std)]
        table.add_data(row.run, row.model.name, *figures, 100 * row.model.share_of_ceiling, ", ".join(sorted(row.best)))
    return table


def _worst(runs: Sequence[Run], count: int, *, audio: bool) -> "wandb.Table":
    import wandb

    table = wandb.Table(columns=["run", "test type", "X", "A", "B", "votes A", "votes B", "preference", "segments"])
    for run in runs:
        for one in run.worst[:count]:
            sounds = [_audio(segment, wanted=audio) for segment in one.segments.values()]
            named = "; ".join(f"{role} {segment}" for role, segment in one.segments.items())
            table.add_data(run.name, one.test_type, *sounds, *one.votes, one.preference, named)
    return table


def _audio(segment: Segment, *, wanted: bool) -> "wandb.Audio | None":
    """Return a segment for W&B; None if it is not wanted, or its file is gone, which is logged."""
    import wandb

    if not wanted:
        return None
    try:
        samples, rate = clip(segment)
    except (AudioError, DataNotFoundError) as error:
        _LOG.warning("No audio in the summary: %s", error)
        return None
    return wandb.Audio(samples, sample_rate=rate, caption=str(segment))
