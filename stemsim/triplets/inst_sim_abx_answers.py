"""Answers of the listening test Inst-Sim-ABX, and the samples that they are about; no audio is needed."""

import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from stemsim.documents import read_json
from stemsim.errors import DataNotFoundError, TripletError
from stemsim.triplets.answers import Answers, DummyCheck, Excerpt
from stemsim.triplets.table import PERSPECTIVES, BoolArray, TestType

ANSWERS_FILE: Final = "csvs/inst_sim_abx_answers.csv"
INSTRUMENTS: Final = ("bass", "drums", "guitar", "piano", "residuals", "mix")
"""The stems that the listeners heard, or `mix`: whole recordings."""

_REPOSITORY: Final = "zume06/Inst-Sim-ABX-Dataset"
# In canonical order. The data set's own Readme has the two tests the other way round; the roles in the files decide.
_ROLES: Final[dict[TestType, tuple[str, str, str]]] = {"XAB": ("X", "A", "B"), "XYC": ("X", "Y", "C")}
_TESTS: Final[dict[TestType, str]] = {"XYC": "test1", "XAB": "test2"}
_SAMPLE_FIELDS: Final = ("ID", "seg", "filename", "sr", "index_s", "index_e")
_PRESENTED: Final = ("reference", "sample_a", "sample_b")
_ANSWERS: Final = tuple(f"answer_{question}" for question in ("total", *PERSPECTIVES))
_PATHS: Final = ("x_path", "a_path", "b_path")  # in canonical order
_COLUMNS: Final = ("ex_name", "subject_id", *_PRESENTED, *_ANSWERS)
_CHOICES: Final = {"A+": 1, "A-": 1, "B+": -1, "B-": -1, "NA": 0}  # + is sure, - is a little; NA: not asked
_SAMPLE: Final = re.compile(rf"(?P<folder>set\d+/\d+/(?:{'|'.join(INSTRUMENTS)}))/(?P<role>[XABYC])_\d+-\d+\.wav")


def read_answers(root: str | Path) -> Answers:
    """Read the answers of Inst-Sim-ABX and verify them against the sample configurations.

    The test ran twice. The second run (`ex202407`) repeated all questions of the first one and added more; repeated
    questions count as two triplets here, and no listener answered both. `Answers.pooled` makes them one. Paths of
    excerpts are relative to a Slakh2100 folder.

    Source: Hashizume and Toda, arXiv:2502.02138; repository zume06/Inst-Sim-ABX-Dataset.

    Args:
        root: Folder of the repository, with `csvs` and `sample_configs`.

    Raises:
        DataNotFoundError: If a file is missing.
        TripletError: If a file is not as published: a column is missing, an answer is unknown, or a path disagrees
            with the sample configuration.
    """
    path = Path(root) / ANSWERS_FILE
    frame = _read_csv(path)
    dummy = frame["reference"].str.fullmatch(r"samples/[^/]+")
    if dummy.all():
        raise TripletError(
            f"{path} holds dummy checks only, and no answer. Restore it from the repository {_REPOSITORY}."
        )
    dummies, frame = _dummy_checks(frame[dummy], path), frame[~dummy]
    known = _read_samples(path.parents[1], sorted(set(frame["ex_name"])))
    triplets = pd.Index(known["run"].str.cat(known[list(_PATHS)], sep=" "))
    there, back = (
        triplets.get_indexer(pd.Index(frame["ex_name"].str.cat(frame[["reference", *order]], sep=" ")))
        for order in (["sample_a", "sample_b"], ["sample_b", "sample_a"])
    )
    row, swapped = np.maximum(there, back).astype(np.int64), there < 0  # -1: not found
    _require(row >= 0, frame, path, lambda answer: _mismatch(answer, known))
    repeated = frame.assign(row=row).duplicated(["subject_id", "row"]).to_numpy(bool)
    _require(~repeated, frame, path, "{subject_id} answered this question before".format_map)
    asked, triplet = np.unique(row, return_inverse=True)
    presented = np.stack([frame[column].map(_CHOICES).to_numpy(np.int8) for column in _ANSWERS], axis=1)
    return Answers(
        asked=known.iloc[asked],
        triplet=triplet.astype(np.int64),
        subject=frame["subject_id"].to_numpy(str),
        choices=np.where(swapped[:, None], -presented, presented),
        sure=np.stack([frame[column].str.endswith("+").to_numpy(bool) for column in _ANSWERS], axis=1),
        swapped=swapped,
        seconds=pd.to_numeric(frame["choice_time"], errors="coerce").to_numpy(float) / 1000.0,
        at_random=np.ones(len(frame), bool),
        dummies=dummies,
        repeats=(),
        graded=True,
        named=True,
        instruments=INSTRUMENTS,
        source="Inst-Sim-ABX",
    )


def _read_csv(path: Path) -> pd.DataFrame:
    """Read and verify the columns that we need as text, `NA` included."""
    if not path.is_file():
        raise DataNotFoundError(
            f"No answers at {path}. Set the folder to a copy of the repository {_REPOSITORY} (arXiv:2502.02138), which "
            "holds `csvs` and `sample_configs`."
        )
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise TripletError(
            f"{path} is not a table of answers ({error}). Restore it from the repository {_REPOSITORY}."
        ) from error
    if missing := [column for column in _COLUMNS if column not in frame.columns]:
        raise TripletError(
            f"{path} must have the columns {', '.join(_COLUMNS)}; it lacks {', '.join(missing)}. Restore it from the "
            f"repository {_REPOSITORY}."
        )
    frame = frame.reindex(columns=[*_COLUMNS, "choice_time"]).fillna("")
    for column in _ANSWERS:
        allowed = [code for code, choice in _CHOICES.items() if choice or column != _ANSWERS[0]]
        must = f"`{column}` must be one of {', '.join(allowed)}; got {{{column}!r}}"
        _require(frame[column].isin(allowed).to_numpy(bool), frame, path, must.format_map)
    return frame


def _require(good: BoolArray, frame: pd.DataFrame, path: Path, describe: Callable[[dict[str, Any]], str]) -> None:
    """Raise an error about the first row that is not good; `describe` explains what is wrong with it."""
    if not good.all():
        answer = frame.iloc[int(good.argmin())]
        line = int(str(answer.name)) + 2  # the heading is line 1
        problem = describe({str(name): value for name, value in answer.items()})
        raise TripletError(f"{path}, line {line}: {problem}. Restore the file from the repository {_REPOSITORY}.")


def _dummy_checks(frame: pd.DataFrame, path: Path) -> tuple[DummyCheck, ...]:
    """Return the dummy checks: rows in which one candidate is the file of the reference."""
    is_a, is_b = ((frame[column] == frame["reference"]).to_numpy(bool) for column in ("sample_a", "sample_b"))
    must = "one candidate of a dummy check must be {reference} itself; got {sample_a} and {sample_b}"
    _require(is_a != is_b, frame, path, must.format_map)
    lines, expected = (frame.index + 2).tolist(), np.where(is_a, "A", "B").tolist()
    return tuple(map(DummyCheck, lines, frame["subject_id"], frame[_ANSWERS[0]], expected))


def _mismatch(answer: dict[str, Any], known: pd.DataFrame) -> str:
    """Explain why the paths of an answer are not those of a triplet of the sample configuration."""
    parts = []
    for column in _PRESENTED:
        if (part := _SAMPLE.fullmatch(answer[column])) is None:
            return (
                f"`{column}` must be a path such as set2/0/mix/X_1876-3.wav, of {', '.join(INSTRUMENTS)}, unless the "
                f"reference is that of a dummy check, such as samples/dummyX1.wav; got {answer[column]!r}"
            )
        parts.append(part)
    roles, seen = [part["role"] for part in parts], ", ".join(part[0] for part in parts)
    tests = [test for test, (x, a, b) in _ROLES.items() if roles in ([x, a, b], [x, b, a])]
    if not tests or len({part["folder"] for part in parts}) > 1:
        return f"a triplet must be X with A and B, or X with Y and C, of one set, sample and instrument; got {seen}"
    of_run = known[(known["run"] == answer["ex_name"]) & (known["test_type"] == tests[0])]
    same = of_run[of_run["x_path"].str.startswith(f"{parts[0]['folder']}/")][list(_PATHS)]
    expected = "no such sample" if same.empty else ", ".join(same.iloc[0])
    return f"the listener heard {seen}, but the sample configuration of {answer['ex_name']} has {expected}"


def _read_samples(root: Path, runs: list[str]) -> pd.DataFrame:
    """Return all triplets of some runs of the test, as `Answers.asked` with `run` and the paths of the samples."""
    rows = [row for run in runs for row in _read_run(root, run)]
    if not rows:
        raise TripletError(
            f"The sample configurations of {', '.join(runs)} in {root} are empty. Restore them from {_REPOSITORY}."
        )
    return pd.DataFrame(rows, columns=["run", "test_type", "instrument", *_PATHS, "x", "a", "b"])


def _read_run(root: Path, run: str) -> Iterator[tuple[Any, ...]]:
    """Yield the triplets of one run: run, test type, instrument, the paths and the excerpts of the three samples."""
    name = re.fullmatch(r"ex(\d+)", run)
    if name is None:
        raise TripletError(
            f"Unknown run {run!r} of the listening test: expected a name such as ex202404. Restore the answers file."
        )
    path = root / "sample_configs" / f"dict_triplet_{name[1]}.json"
    if not path.is_file():
        raise DataNotFoundError(
            f"No sample configuration at {path}, which the answers of {run} refer to. Set the folder to a complete "
            f"copy of the repository {_REPOSITORY}."
        )
    try:
        for set_name, samples in read_json(path.read_text(encoding="utf-8")).items():
            for (sample, tests), (test_type, roles) in product(samples.items(), _ROLES.items()):
                for instrument, described in tests[_TESTS[test_type]].items():
                    folder = f"set{set_name}/{sample}/{instrument}"
                    excerpts = [_excerpt(described[role], role, folder, path) for role in roles]
                    paths = [f"{folder}/{described[role]['filename']}" for role in roles]
                    yield run, test_type, instrument, *paths, *excerpts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TripletError(
            f"{path} is not a sample configuration of Inst-Sim-ABX ({error!r}): expected set -> sample -> test1, test2 "
            f"-> instrument -> role -> {{{', '.join(_SAMPLE_FIELDS)}}}. Restore it from the repository {_REPOSITORY}."
        ) from error


def _excerpt(described: dict[str, Any], role: str, folder: str, path: Path) -> Excerpt:
    """Return the excerpt of a sample, having verified its name and its ends."""
    track, segment, filename, rate, start, end = (described[field] for field in _SAMPLE_FIELDS)
    if filename != f"{role}_{track}-{segment}.wav" or not 0 <= int(start) < int(end) or int(rate) <= 0:
        raise TripletError(
            f"{path}: the sample {role} of {folder} is named {filename} and spans samples {start} to {end} at {rate} "
            f"Hz; expected {role}_{track}-{segment}.wav and a stretch of positive length. Restore the file."
        )
    name = f"Track{int(track):05d}"
    return Excerpt(name, Path(name) / "mix.flac", int(start) / float(rate), (int(end) - int(start)) / float(rate))
