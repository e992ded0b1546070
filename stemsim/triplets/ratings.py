"""Triplets from dissimilarity ratings: matrices of sounds by sounds, one for each listener or averaged over them."""

import csv
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path

import numpy as np
import pandas as pd

from stemsim.errors import ConfigError, DataNotFoundError, TripletError
from stemsim.replacing import write_text
from stemsim.triplets.table import FloatArray, IntArray


def votes_from_ratings(
    files: Sequence[Path],
    votes: Path,
    *,
    audio: Path | None = None,
    margin: float = 0.1,
    most: int = 2000,
    seed: int = 0,
) -> int:
    """Write the triplets that dissimilarity ratings decide into a votes file.

    The listener of a matrix votes for A in a triplet (x, a, b) if d(x, a) is less than d(x, b) by more than the margin.
    Which candidate is A is drawn at random. A matrix need not be symmetric: row x has the ratings with x as reference.

    Args:
        files: Matrices as CSV or TSV, one for each listener, named by the file, or averaged. The sounds head the
            columns and begin the rows; pairs that nobody rated are empty.
        votes: The file to write, with the columns `listener`, `x`, `a`, `b` and `answer`.
        audio: Folder that the names of the sounds are relative to; None: that of the votes file.
        margin: Smallest difference that counts, as a share of the range of the matrix, in [0, 1).
        most: Most triplets of each matrix; beyond, so many are drawn at random.
        seed: Seed of the draws.

    Returns:
        The number of votes.

    Raises:
        DataNotFoundError: If a matrix is missing.
        TripletError: If one is not square with equal names, has entries that are no numbers, or decides no triplet.
        ConfigError: If margin or number are out of range, or two matrices have one name.
    """
    if not 0.0 <= margin < 1.0 or most < 1:
        raise ConfigError(f"The margin lies in [0, 1), and there is at least one triplet; got {margin} and {most}.")
    if len({file.stem for file in files}) < len(files):
        raise ConfigError("Each matrix is that of the listener its file is named after: give them different names.")
    rng, parts = np.random.default_rng(seed), []
    for file in files:
        names, matrix = _read_matrix(file)
        x, a, b = _decided(matrix, margin * float(np.ptp(matrix[np.isfinite(matrix)])))
        if not len(x):
            raise TripletError(f"{file} decides no triplet at a margin of {margin:g}. Choose a smaller one.")
        chosen = np.sort(rng.choice(len(x), most, replace=False)) if len(x) > most else np.arange(len(x))
        paths = np.array([relpath((audio or votes.parent) / name, votes.parent) for name in names])
        swapped = rng.random(len(chosen)) < 0.5  # noqa: PLR2004 - each candidate is A equally often
        closer, farther = paths[a[chosen]], paths[b[chosen]]
        columns = {
            "listener": file.stem,
            "x": paths[x[chosen]],
            "a": np.where(swapped, farther, closer),
            "b": np.where(swapped, closer, farther),
            "answer": np.where(swapped, "B", "A"),
        }
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts)
    write_text(votes, table.to_csv(index=False))
    return len(table)


def _decided(matrix: FloatArray, margin: float) -> tuple[IntArray, IntArray, IntArray]:
    """Return all x, a and b, indices `(triplet,)`, with d(x, a) less than d(x, b) by more than the margin."""
    others = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    x, a, b = np.nonzero(others[:, None, :] - others[:, :, None] > margin)
    return x, a, b


def _read_matrix(file: Path) -> tuple[list[str], FloatArray]:
    """Return the names of the sounds, and their dissimilarities `(sound, sound)`, NaN where a pair was not rated."""
    if not file.is_file():
        raise DataNotFoundError(f"No ratings at {file}: expected a CSV or TSV file. Correct the path.")
    try:
        frame = pd.read_csv(file, sep=None, engine="python", index_col=0, encoding="utf-8-sig")
    except (ValueError, LookupError, csv.Error) as error:  # LookupError: of blank lines alone
        raise TripletError(f"{file} is not a table ({error}). Write a CSV file in the encoding UTF-8.") from error
    rows, columns = ([str(name).strip() for name in axis] for axis in (frame.index, frame.columns))
    if rows != columns or len(set(rows)) < len(rows) or len(rows) < 3:  # noqa: PLR2004 - x, a and b
        raise TripletError(
            f"{file} must have the same three or more sounds, each once, in its first row and its first column; got "
            f"{len(columns)} columns ({', '.join(columns[:5])}) and {len(rows)} rows ({', '.join(rows[:5])})."
        )
    numbers = frame.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = (np.isnan(numbers) & frame.notna().to_numpy()) | np.isinf(numbers)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise TripletError(
            f"{file}, row {rows[row]!r}: the rating with {columns[column]!r} must be a finite number, or empty; got "
            f"{frame.iloc[row, column]!r}. Correct it."
        )
    if not np.isfinite(numbers).any():
        raise TripletError(f"{file} has no rating. Fill it in.")
    return rows, numbers
