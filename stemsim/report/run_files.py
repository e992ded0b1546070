"""Folders of runs of `train.py`: their results, settings, pictures and CSV tables."""

import csv
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict

from stemsim.audio import Segment
from stemsim.documents import read_yaml
from stemsim.errors import AudioError, DataNotFoundError, ResultsError
from stemsim.report.results import CrossvalResults, FitResults, PartResults, PerspectivesResults, Results

__all__ = ["Run", "WorstTriplet", "read_run", "read_runs"]

_SETTINGS: Final = ("seed_everything", "trainer", "model", "data")  # accepted by every job of train.py
_PACKAGES: Final = ("stemsim", "torch", "lightning", "scikit-learn", "numpy", "demucs", "laion_clap", "muq")
_JOBS: Final[Mapping[str, type[Results]]] = {
    "fit": FitResults,
    "val": PartResults,
    "test": PartResults,
    "crossval": CrossvalResults,
    "perspectives": PerspectivesResults,
}


class WorstTriplet(BaseModel):
    """Triplet on which the model is far from the listeners; one row of `test_worst_triplets.csv`."""

    model_config = ConfigDict(frozen=True)
    segments: Mapping[str, Segment]  # X, A and B, by these names
    test_type: str
    votes: tuple[float, float]
    preference: float  # preference of the model; positive = A
    contributions: Mapping[str, float]  # contribution of each stem to the preference

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the triplet of a row of the file."""
        start = "contribution_"
        return cls(
            segments={
                role.upper(): Segment(Path(row[f"{role}_path"]), float(row[f"{role}_start"]), float(row["duration"]))
                for role in ("x", "a", "b")
            },
            test_type=row["test_type"],
            votes=(row["votes_a"], row["votes_b"]),
            preference=row["preference"],
            contributions={name.removeprefix(start): row[name] for name in row if name.startswith(start)},
        )

    @property
    def strongest(self) -> list[tuple[str, float]]:
        """Contributions that are not 0, the largest first."""
        return sorted(((stem, one) for stem, one in self.contributions.items() if one), key=lambda pair: -abs(pair[1]))


@dataclass(frozen=True, slots=True)
class Run:
    """Contents of the folder of a run."""

    name: str  # name that distinguishes the run from the others
    folder: Path  # the folder, `trainer.default_root_dir`
    settings: Mapping[str, Any]  # configuration, as far as every job accepts it; empty if no job wrote one
    options: Mapping[str, Any]  # options of `crossval` beside the settings
    versions: Mapping[str, str]  # versions of the main packages, where W&B recorded them
    fit: FitResults | None  # results of `fit`, if it ran; likewise `val`, `test`, `crossval` and `perspectives`
    val: PartResults | None
    test: PartResults | None
    crossval: CrossvalResults | None
    perspectives: PerspectivesResults | None
    worst: tuple[WorstTriplet, ...]  # worst triplets of the test part, or else of the validation part
    pictures: tuple[Path, ...]  # pictures `JOB.png` and `JOB_*.png` of the jobs with results

    @property
    def results(self) -> tuple[Results, ...]:
        """Results of all jobs that ran."""
        return tuple(found for job in _JOBS if (found := getattr(self, job)) is not None)

    @property
    def settings_file(self) -> str:
        """Name for a copy of the settings."""
        return f"{self.name.replace('/', '-')}.yaml"

    @property
    def commands(self) -> dict[str, str]:
        """Command of each job, with the settings in a file called `settings_file`."""
        config = shlex.quote(self.settings_file)
        last = shlex.quote(str(self.folder / "checkpoints" / "last.ckpt"))
        options: dict[str, Any] = dict(self.options)
        if self.crossval is not None:
            drawn = self.crossval.splits
            options |= {"kind": drawn.kind, "splits": drawn.count}
            options |= {"train_fraction": drawn.train_fraction, "seed": drawn.seed}
        texts = {name: one if isinstance(one, str) else json.dumps(one) for name, one in options.items()}
        given = [f" --{name} {shlex.quote(text)}" for name, text in texts.items()]
        return {
            "fit": f"python train.py fit -c {config}",
            "test": f"python train.py test -c {config} --ckpt_path {last}",
            "crossval": f"python train.py crossval -c {config}{''.join(given)}",
        }

    @property
    def missing(self) -> dict[str, str]:
        """The jobs that did not run, each with its command."""
        return {job: command for job, command in self.commands.items() if getattr(self, job) is None}


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Read several runs, and name each by as much of its path as distinguishes it from the others.

    Args:
        folders: `trainer.default_root_dir` of each; one that is given twice counts once.

    Raises:
        DataNotFoundError: If a folder is not that of a run.
        ResultsError: If a file in it is damaged.
    """
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    depth = 1
    while len({folder.parts[-depth:] for folder in unique}) < len(unique):
        depth += 1
    return tuple(read_run(folder, name="/".join(folder.parts[-depth:])) for folder in unique)


def read_run(folder: Path, *, name: str | None = None) -> Run:
    """Read one run from its `trainer.default_root_dir`; its name is by default that of the folder.

    Raises:
        DataNotFoundError: If this is not the folder of a run.
        ResultsError: If a file in it is damaged.
    """
    if not any(folder.glob("*.json")):
        seen = "holds no results" if folder.is_dir() else "is not there"
        raise DataNotFoundError(
            f"{folder} {seen}: expected the folder of a run (trainer.default_root_dir) with fit.json, test.json or "
            "crossval.json in it. Make one: python train.py crossval -c configs/demo.yaml"
        )
    paths = {job: folder / f"{job}.json" for job in _JOBS}
    found: dict[str, Any] = {job: _JOBS[job].read(path) if path.exists() else None for job, path in paths.items()}
    settings = _settings(folder)
    options = _yaml(folder / "crossval.yaml")
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        settings={key: settings[key] for key in _SETTINGS if key in settings},
        options={key: value for key, value in options.items() if key not in _SETTINGS and value not in (None, [])},
        versions=_versions(folder),
        **found,
        worst=_worst(folder),
        pictures=tuple(
            path for path in sorted(folder.glob("*.png")) if (folder / f"{path.stem.partition('_')[0]}.json").exists()
        ),
    )


def _settings(folder: Path) -> dict[str, Any]:
    """Return the configuration of the job that ran last: of the run's folder, a CSV logger, or a cross-validation."""
    logged = sorted(folder.glob("*/version_*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
    paths = [folder / "config.yaml", *reversed(logged), folder / "crossval.yaml"]
    return _yaml(next((path for path in paths if path.exists()), paths[0]))


def _yaml(path: Path) -> dict[str, Any]:
    """Read settings; empty if there is no file."""
    try:
        settings = read_yaml(path.read_text(encoding="utf-8"), aliases=True) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path} is damaged: expected YAML, but {error}. Run that job again, or remove the file."
        ) from error
    if not isinstance(settings, dict):
        raise ResultsError(
            f"{path} is damaged: expected settings by name, got a {type(settings).__name__}. Remove the file."
        )
    return settings


def _worst(folder: Path) -> tuple[WorstTriplet, ...]:
    """Read the worst triplets of the test part, or else of the validation part."""
    paths = [path for part in ("test", "val") if (path := folder / f"{part}_worst_triplets.csv").exists()]
    if not paths:
        return ()
    try:
        with paths[0].open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = tuple(map(WorstTriplet.of, rows))
    except (OSError, KeyError, ValueError, AudioError) as error:
        found, reason = (), f"no column {error}" if isinstance(error, KeyError) else str(error)
    else:
        reason = "it has no rows"
    if not found:
        raise ResultsError(
            f"{paths[0]} does not hold triplets of train.py ({reason}). Run `test` again, or remove the file."
        )
    return found


def _versions(folder: Path) -> dict[str, str]:
    """Return the versions that W&B recorded with the newest job of the run."""
    paths = sorted(folder.glob("wandb/*run-*/files/requirements.txt"))
    if not paths:
        return {}
    pairs = re.findall(r"^(\S+)==(\S+)", paths[-1].read_text(encoding="utf-8"), re.MULTILINE)
    installed = {name.lower().replace("-", "_"): version for name, version in pairs}
    return {name: installed[key] for name in _PACKAGES if (key := name.replace("-", "_")) in installed}
