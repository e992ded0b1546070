"""The folders of runs of `train.py`, read back and verified."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from stemsim.audio import Segment
from stemsim.errors import AudioError, DataNotFoundError, ResultsError
from stemsim.evaluation.run_results import (
    CrossvalResults,
    FitResults,
    ModelResult,
    PartResults,
    Picture,
    RunResults,
    Score,
    WorstTriplet,
)

__all__ = ["read_run", "read_runs"]

_SETTINGS: Final = ("seed_everything", "trainer", "model", "data")  # what every job of train.py accepts
_PACKAGES: Final = ("stemsim", "torch", "lightning", "scikit-learn", "numpy", "demucs", "laion_clap", "muq")
_PARTS: Final = ("test", "val")


def read_runs(folders: Sequence[Path]) -> tuple[RunResults, ...]:
    """Read several runs, and call each by as much of its path as tells it from the others.

    Args:
        folders: `trainer.default_root_dir` of each.

    Returns:
        The runs, in this order; a folder that is given twice counts once.

    Raises:
        DataNotFoundError: If a folder is not that of a run.
        ResultsError: If a file in it is damaged.
    """
    unique = list(dict.fromkeys(folder.resolve() for folder in folders))
    depth = 1
    while len({folder.parts[-depth:] for folder in unique}) < len(unique):
        depth += 1
    return tuple(read_run(folder, name="/".join(folder.parts[-depth:])) for folder in unique)


def read_run(folder: Path, *, name: str | None = None) -> RunResults:
    """Read one run.

    Args:
        folder: Its `trainer.default_root_dir`.
        name: What to call it; default: the name of the folder.

    Returns:
        What it holds.

    Raises:
        DataNotFoundError: If this is not the folder of a run.
        ResultsError: If a file in it is damaged.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not found:
        seen = "holds no results" if folder.is_dir() else "is not there"
        msg = (
            f"{folder} {seen}: expected the folder of a run (trainer.default_root_dir) with fit.json, test.json or "
            "crossval.json in it. Make one: python train.py crossval -c configs/demo.yaml"
        )
        raise DataNotFoundError(msg)
    documents = {job: _read_json(path) for job, path in found.items()}
    with _readable(folder / "crossval.json"):
        crossval = _crossval(documents["crossval"]) if "crossval" in documents else None
    with _readable(folder / "fit.json"):
        fit = _fit(documents["fit"]) if "fit" in documents else None
    parts = []
    for part in _PARTS:
        with _readable(folder / f"{part}.json"):
            parts += [_part(part, documents[part])] if part in documents else []
    return RunResults(
        name=name or folder.resolve().name,
        folder=folder,
        settings=_read_settings(_settings_file(folder)),
        versions=_versions(folder),
        fit=fit,
        parts=tuple(parts),
        crossval=crossval,
        worst=_worst(folder),
        sentences={
            job: tuple(map(str, document["verdicts"]))
            for job, document in documents.items()
            if job != "crossval" and isinstance(document.get("verdicts"), list)
        },
        pictures=_pictures(folder, documents),
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of a document of another shape into one that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, AudioError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        msg = f"{path} is not what train.py writes ({reason}). Run that job again, or take the file out of the folder."
        raise ResultsError(msg) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is damaged: expected JSON, but {error}. Run that job again, or take the file out of the folder."
        raise ResultsError(msg) from error
    if not isinstance(document, dict):
        msg = f"{path} is damaged: expected a JSON object, got a {type(document).__name__}. Run that job again."
        raise ResultsError(msg)
    return document


def _settings_file(folder: Path) -> Path:
    """Return where the configuration was saved: the run's folder, the newest of its CSV logger, or by our own jobs."""
    logged = sorted(folder.glob("*/version_*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
    ours = [folder / f"{job}.yaml" for job in ("crossval", "perspectives")]
    found = [path for path in (folder / "config.yaml", *reversed(logged), *ours) if path.exists()]
    return found[0] if found else folder / "config.yaml"


def _read_settings(path: Path) -> dict[str, Any]:
    """Return the part of a configuration that every job accepts; the rest belongs to the job that ran last."""
    if not path.exists():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        msg = f"{path} is damaged: expected YAML, but {error}. Run `fit` or `test` again, or remove the file."
        raise ResultsError(msg) from error
    if not isinstance(settings, dict):
        msg = f"{path} is damaged: expected settings by name, got a {type(settings).__name__}. Remove the file."
        raise ResultsError(msg)
    return {key: settings[key] for key in _SETTINGS if key in settings}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _score(entry: Mapping[str, Any]) -> Score:
    return Score(_number(entry["mean"]), _number(entry["std"]))


def _crossval(document: Mapping[str, Any]) -> CrossvalResults:
    models = tuple(
        ModelResult(
            str(name),
            {column: _score(entry["agreement"][column]) for column in ("all", "XAB", "XYC")},
            _number(entry.get("share_of_ceiling")),
            {str(stem): _score(weight) for stem, weight in entry.get("weights", {}).items()},
        )
        for name, entry in document["models"].items()
    )
    kinds = {"kind": str, "count": int, "train_fraction": float, "seed": int}
    ends = ("track bootstrap: lower", "track bootstrap: upper")
    return CrossvalResults(
        source=str(document["source"]),
        simulated=bool(document["simulated"]),
        triplets=int(document["triplets"]),
        splits={key: kind(document["splits"][key]) for key, kind in kinds.items()},
        models=models,
        verdicts=tuple(map(str, document.get("verdicts", ()))),
        intervals={
            str(stem): (_number(row[ends[0]]), _number(row[ends[1]]))
            for stem, row in document.get("by_stem", {}).items()
            if all(end in row for end in ends)
        },
        level=_number(document.get("level")),
    )


def _fit(document: Mapping[str, Any]) -> FitResults:
    return FitResults(
        source=str(document["source"]),
        simulated=bool(document["simulated"]),
        weights={str(stem): float(weight) for stem, weight in document.get("weights", {}).items()},
        metrics={str(name): _number(value) for name, value in document["metrics"].items()},
        gap=_number(document.get("closed_form/max_abs_weight_gap")),
        cosine_to_truth=_number(document.get("cosine_to_true_weights")),
    )


def _part(part: str, document: Mapping[str, Any]) -> PartResults:
    return PartResults(
        part=part,
        source=str(document["source"]),
        split=str(document["split"]),
        triplets=int(document["triplets"]),
        tracks=int(document["tracks"]),
        metrics={str(name): _number(value) for name, value in document["metrics"].items()},
    )


def _worst(folder: Path) -> tuple[WorstTriplet, ...]:
    """Read the worst triplets of the test part, or else of the validation part."""
    paths = [path for part in ("test", "val") if (path := folder / f"{part}_worst_triplets.csv").exists()]
    if not paths:
        return ()
    with _readable(paths[0]):
        frame = pd.read_csv(paths[0])
        return tuple(_triplet(row) for row in frame.to_dict("records"))


def _triplet(row: Mapping[Any, Any]) -> WorstTriplet:
    roles = {
        role: Segment(Path(str(row[f"{role}_path"])), float(row[f"{role}_start"]), float(row["duration"]))
        for role in ("x", "a", "b")
    }
    return WorstTriplet(
        **roles,
        test_type=str(row["test_type"]),
        votes=(float(row["votes_a"]), float(row["votes_b"])),
        preference=float(row["preference"]),
        contributions={
            key.removeprefix("contribution_"): float(value)
            for key, value in row.items()
            if key.startswith("contribution_")
        },
    )


def _pictures(folder: Path, documents: Mapping[str, Any]) -> tuple[Picture, ...]:
    """Return the pictures `JOB.png` and `JOB_*.png`, each with the job of the longest name that fits."""
    found = []
    for path in sorted(folder.glob("*.png")):
        jobs = [job for job in documents if path.stem == job or path.stem.startswith(f"{job}_")]
        found += [Picture(max(jobs, key=len), path)] if jobs else []
    return tuple(found)


def _versions(folder: Path) -> dict[str, str]:
    """Return the versions that W&B recorded with the newest job of the run."""
    paths = sorted(folder.glob("wandb/*run-*/files/requirements.txt"))
    if not paths:
        return {}
    pairs = (line.split("==", 1) for line in paths[-1].read_text(encoding="utf-8").splitlines() if "==" in line)
    installed = {name.strip().lower().replace("-", "_"): version.strip() for name, version in pairs}
    return {name: installed[key] for name in _PACKAGES if (key := name.replace("-", "_")) in installed}
