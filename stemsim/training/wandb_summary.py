"""Summary run of W&B: one run that compares the runs of an experiment."""

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb

from stemsim.audio import Segment
from stemsim.errors import AudioError, ConfigError, DataNotFoundError
from stemsim.report.audio import clip
from stemsim.report.page import comparison_rows
from stemsim.report.plots import plot_run_weights
from stemsim.report.run_files import Run

__all__ = ["common_group", "log_summary"]

_log = logging.getLogger(__name__)


def common_group(runs: Sequence[Run]) -> str:
    """Return the W&B group that all runs were logged to, if there is exactly one."""
    groups = set()
    for run in runs:
        logger = run.settings.get("trainer", {}).get("logger")
        groups.add(logger.get("init_args", {}).get("group") if isinstance(logger, dict) else None)
    if len(groups) != 1 or None in groups:
        seen = ", ".join(sorted(str(group or "none") for group in groups))
        raise ConfigError(f"The runs do not share one W&B group; they have: {seen}. Name one with --wandb-group.")
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
        runs: The runs.
        project: W&B project.
        group: W&B group of the runs.
        folder: Folder for W&B's own folder, `wandb`.
        online: Log to W&B's server, which needs an account and may refuse.
        worst: Number of worst triplets of each run.
        audio: Log the audio of their segments.

    Returns:
        The folder of the offline run, or the address of the run online.
    """
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
        raise ConfigError(f"W&B refuses the summary: {error}. Run `wandb login`, or leave out --online.") from error
    with summary:
        compared = [f"{name}, {unit}" for name in ("agreement", "XAB", "XYC") for unit in ("%", "standard deviation")]
        triplet: list[str | int] = ["run", "test type", "X", "A", "B", "votes A", "votes B", "preference", "segments"]
        logged: dict[str, Any] = {
            "comparison": wandb.Table(
                ["run", "model", *compared, "share of ceiling, %", "best in"], list(_comparison(runs))
            ),
            "worst_triplets": wandb.Table(triplet, list(_worst(runs, worst, audio=audio))),
        }
        if (figure := plot_run_weights(runs)) is not None:
            from PIL import Image

            buffer = io.BytesIO()  # given the figure itself, W&B looks for pyplot, which has drawn none of ours
            figure.savefig(buffer, format="png", dpi=150, facecolor="white")
            logged["weights"] = wandb.Image(Image.open(buffer))
        summary.log(logged)
        for run in runs:
            if run.crossval is not None:
                summary.summary[f"verdicts/{run.name}"] = list(run.crossval.verdicts)
        return str(summary.url) if online else Path(summary.dir).parent


def _comparison(runs: Sequence[Run]) -> Iterator[list[Any]]:
    """Yield one row for each model of each run."""
    for row in comparison_rows(runs):
        scores = [row.model.agreement[column] for column in ("all", "XAB", "XYC")]
        figures = [100 * figure for score in scores for figure in (score.mean, score.std)]
        yield [row.run, row.model.name, *figures, 100 * row.model.share_of_ceiling, ", ".join(sorted(row.best))]


def _worst(runs: Sequence[Run], count: int, *, audio: bool) -> Iterator[list[Any]]:
    """Yield one row for each of the worst triplets of each run."""
    for run in runs:
        for one in run.worst[:count]:
            sounds = [_audio(segment) if audio else None for segment in one.segments.values()]
            named = "; ".join(f"{role} {segment}" for role, segment in one.segments.items())
            yield [run.name, one.test_type, *sounds, *one.votes, one.preference, named]


def _audio(segment: Segment) -> wandb.Audio | None:
    """Return a segment for W&B; None, with a warning, if its file is gone."""
    try:
        samples, rate = clip(segment)
    except (AudioError, DataNotFoundError) as error:
        _log.warning("No audio in the summary: %s", error)
        return None
    return wandb.Audio(samples, sample_rate=rate, caption=str(segment))
