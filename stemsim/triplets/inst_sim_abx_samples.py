"""The sample configurations of Inst-Sim-ABX: which stretch of which Slakh2100 track each sample is."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from stemsim.audio import Segment
from stemsim.errors import DataNotFoundError, TripletError
from stemsim.triplets.table import TestType

__all__ = ["REPOSITORY", "ROLES", "SampleTable", "read_samples"]

REPOSITORY: Final = "zume06/Inst-Sim-ABX-Dataset"
ROLES: Final[dict[TestType, tuple[str, str, str]]] = {"XAB": ("X", "A", "B"), "XYC": ("X", "Y", "C")}
"""The samples of a triplet in canonical order, by test type."""

# The data set's own Readme has these the other way round; the roles in the files themselves decide.
_TESTS: Final[dict[TestType, str]] = {"XYC": "test1", "XAB": "test2"}
_RUN: Final = re.compile(r"ex(\d+)")
_FIELDS: Final = ("ID", "seg", "filename", "sr", "index_s", "index_e")

IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class SampleTable:
    """All samples of the sample configurations, one row each.

    Attributes:
        keys: Which sample it is: `run/set/sample/test type/instrument/role`.
        filename: `(row,)` the file name that the configuration gives.
        described: `(row,)` the file name that follows from role, track and segment number; equal to `filename`.
        track: `(row,)` number of the Slakh2100 track.
        start: `(row,)` first sample of the stretch.
        end: `(row,)` the sample after its last one.
        sample_rate: `(row,)` of both, in Hz.
    """

    keys: pd.Index
    filename: StrArray
    described: StrArray
    track: IntArray
    start: IntArray
    end: IntArray
    sample_rate: IntArray

    def find(self, keys: pd.Index) -> IntArray:
        """Return the row of each key, -1 where there is none."""
        return self.keys.get_indexer(keys).astype(np.int64)

    def segment(self, row: int) -> Segment:
        """Return the stretch of the track's mix; its path is relative to a Slakh2100 folder."""
        rate = float(self.sample_rate[row])
        start, end = int(self.start[row]), int(self.end[row])
        return Segment(Path(self.track_name(row)) / "mix.flac", start / rate, (end - start) / rate)

    def track_name(self, row: int) -> str:
        """Return the folder name of the Slakh2100 track."""
        return f"Track{self.track[row]:05d}"


def read_samples(root: Path, runs: Sequence[str]) -> SampleTable:
    """Read the sample configurations of some runs of the test.

    Args:
        root: The folder of the Inst-Sim-ABX repository.
        runs: Names as in the column `ex_name`: the samples of `ex202404` are in `dict_triplet_202404.json`.

    Returns:
        All samples that the runs could have presented.

    Raises:
        DataNotFoundError: If a file is missing.
        TripletError: If the name of a run, or a file, is not as published.
    """
    rows = [row for run in runs for row in _read_run(root, run)]
    if not rows:
        msg = f"The sample configurations of {', '.join(runs)} in {root} are empty. Restore them from {REPOSITORY}."
        raise TripletError(msg)
    keys, filename, described, track, start, end, rate = zip(*rows, strict=True)
    return SampleTable(
        keys=pd.Index(keys, dtype=str),
        filename=np.array(filename, dtype=str),
        described=np.array(described, dtype=str),
        track=np.array(track, dtype=np.int64),
        start=np.array(start, dtype=np.int64),
        end=np.array(end, dtype=np.int64),
        sample_rate=np.array(rate, dtype=np.int64),
    )


def _read_run(root: Path, run: str) -> Iterator[tuple[str, str, str, int, int, int, int]]:
    """Yield one row for each sample of a run."""
    name = _RUN.fullmatch(run)
    if name is None:
        msg = f"Unknown run {run!r} of the listening test: expected a name such as ex202404. Restore the answers file."
        raise TripletError(msg)
    path = root / "sample_configs" / f"dict_triplet_{name[1]}.json"
    if not path.is_file():
        msg = (
            f"No sample configuration at {path}, which the answers of {run} refer to. Set the folder to a whole copy "
            f"of the repository {REPOSITORY}."
        )
        raise DataNotFoundError(msg)
    try:
        sets = json.loads(path.read_text(encoding="utf-8"))
        for key, role, sample in _walk(sets):
            track, segment, filename, rate, start, end = (sample[field] for field in _FIELDS)
            if not 0 <= int(start) < int(end) or int(rate) <= 0:
                msg = (
                    f"{path}: sample {key} spans {start} to {end} at {rate} Hz, which is no stretch. Restore the file."
                )
                raise TripletError(msg)
            described = f"{role}_{int(track)}-{int(segment)}.wav"
            yield f"{run}/{key}/{role}", str(filename), described, int(track), int(start), int(end), int(rate)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"{path} is not a sample configuration of Inst-Sim-ABX ({error!r}): expected set -> sample -> test1, test2 "
            f"-> instrument -> role -> {{{', '.join(_FIELDS)}}}. Restore it from the repository {REPOSITORY}."
        )
        raise TripletError(msg) from error


def _walk(sets: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield `set/sample/test type/instrument`, role and description of every sample of a configuration."""
    for set_name, samples in sets.items():
        for sample_name, tests in samples.items():
            for test_type, roles in ROLES.items():
                for instrument, described in tests[_TESTS[test_type]].items():
                    for role in roles:
                        yield f"{set_name}/{sample_name}/{test_type}/{instrument}", role, described[role]
