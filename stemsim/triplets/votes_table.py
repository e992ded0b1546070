"""Rows of a votes file: reading what people's tables look like, and adding votes that no crash can lose."""

import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from stemsim.errors import DataNotFoundError, StoreError, TripletError
from stemsim.triplets.table import PERSPECTIVES

ROLES: Final = ("x", "a", "b")
QUESTION_COLUMNS: Final = ("answer", *PERSPECTIVES)

_ALIASES: Final[dict[str, tuple[str, ...]]] = {  # besides the name itself
    "x": ("reference",),
    "a": ("sample_a",),
    "b": ("sample_b",),
    "answer": ("answer_total", "answer_overall", "overall"),
    **{name: (f"answer_{name}",) for name in PERSPECTIVES},
    "votes_a": (),
    "votes_b": (),
    "listener": ("subject_id", "subject", "listener_id"),
    "question": ("perspective",),
    "test_type": (),
    "instrument": (),
    "choice_time": (),
    "trial_type": (),
    "chosen_by": (),
    "vote_id": (),
    "start": (),
    "duration": (),
    **{f"{name}_{role}": () for name in ("start", "duration", "track") for role in ROLES},
}
_KNOWN: Final = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases)}
_DELIMITERS: Final = ",;\t"

COLUMNS: Final = (
    *("ex_name", "subject_id", "reference", "sample_a", "sample_b"),
    *("answer_timbre", "answer_rhythm", "answer_melody", "answer_total", "choice_time"),
    *("vote_id", "session_id", "trial_index", "presented_at", "trial_type", "chosen_by", "probability"),
    *(f"{name}_{role}" for name in ("start", "duration", "hash", "gain", "plays") for role in ROLES),
    *("model", "app_version"),
)
"""Columns of a file that `append_vote` writes; the first ten are those of Inst-Sim-ABX."""

_log = logging.getLogger(__name__)


def append_vote(path: str | Path, vote: Mapping[str, str]) -> None:
    """Add one vote to a votes file, and return when the disk has it.

    The line is written whole or not at all, by one process at a time. What a killed process has left of a line, a vote
    that nobody confirmed, is removed.

    Args:
        path: The file; made with its heading if needed.
        vote: Text of each of `COLUMNS`; those not named are empty.

    Raises:
        TripletError: If there is no such column, a text has several lines, or the file has other columns.
        StoreError: If it cannot be written to.
    """
    if unknown := sorted(set(vote) - set(COLUMNS)):
        raise TripletError(f"A vote has the columns {', '.join(COLUMNS)}; got {', '.join(unknown)}. Leave these out.")
    if broken := [name for name, text in vote.items() if set(text) & {"\n", "\r", "\0"}]:
        raise TripletError(f"Texts in a vote have one line; got {vote[broken[0]]!r} as `{broken[0]}`. Rename the file.")
    line = _line([vote.get(name, "") for name in COLUMNS])
    path = Path(path)
    try:
        with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b", buffering=0) as file:
            _append(file, path, line.encode())
    except OSError as error:
        raise StoreError(
            f"The vote is not kept: {path} cannot be written to ({error.strerror or error}). Free some space or allow "
            "writing there, and answer again."
        ) from error


def _append(file: io.FileIO, path: Path, line: bytes) -> None:
    """Write a line behind the last whole one; after an error, that is the last one again."""
    file.seek(0)
    content, heading = file.read(), _line(COLUMNS).encode()
    whole = content[: content.rfind(b"\n") + 1]
    if not (whole or heading).startswith(heading):
        raise TripletError(f"{path} has other columns than {', '.join(COLUMNS)}. Collect votes in a file of its own.")
    file.truncate(len(whole))
    text = memoryview(line if whole else heading + line)
    try:
        while text:  # a disk that fills up takes a part, and refuses the next
            text = text[file.write(text) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(len(whole))
        raise


def _line(cells: list[str] | tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def read_rows(path: Path) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet file as text.

    Returns:
        One row for each row of the file that is not blank, by its line number (Parquet: row number), with the columns
        that stemsim knows, under their short names and without spaces around the cells.

    Raises:
        DataNotFoundError: If there is no such file.
        TripletError: If it is not a table, with the line where that shows.
    """
    if not path.is_file():
        raise DataNotFoundError(f"No votes at {path}: expected a CSV, TSV or Parquet file. Correct the path.")
    if path.suffix.lower() == ".parquet":
        heading, rows = _parquet(path)
        decimal_comma = False
    else:
        text = _text(path)
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(_DELIMITERS, key=first.count)
        lines = _csv_rows(path, text, delimiter)
        _, heading = next(lines, (1, []))
        rows = dict(lines)
        decimal_comma = delimiter == ";"
    names = [_KNOWN.get(name.strip().lower().replace(" ", "_").replace("-", "_")) for name in heading]
    known = [name for name in names if name is not None]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise fault(path, 1, f"several columns mean `{twice[0]}`: {', '.join(heading)}", "Keep one of them")
    if not {"x", "a", "b"} <= set(known):
        seen = ", ".join(heading) or "nothing"
        raise fault(path, 1, f"the heading must name the columns x, a and b; got {seen}", "Add such a line on top")
    if ignored := [name for name, meant in zip(heading, names, strict=True) if meant is None and name not in COLUMNS]:
        _log.info("%s: columns that are not used: %s.", path, ", ".join(map(repr, ignored)))
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=range(len(heading)), dtype=str)
    frame = frame[[place for place, name in enumerate(names) if name is not None]].set_axis(known, axis=1)
    if decimal_comma:  # as spreadsheets write numbers where the comma is taken
        numbers = [name for name in known if name.startswith(("start", "duration", "choice_time"))]
        frame[numbers] = frame[numbers].apply(lambda column: column.str.replace(",", "."))
    return frame


def fault(path: Path, line: int, what: str, remedy: str) -> TripletError:
    """Return the error about one line of a votes file."""
    return TripletError(f"{path}, line {line}: {what}. {remedy}.")


def _text(path: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 as spreadsheets write it."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if error.reason == "unexpected end of data":  # within a torn last line
            return content[: error.start].decode(encoding)
        seen = f"the bytes {content[error.start : error.end]!r} are not UTF-8 text"
        raise fault(path, line, seen, "Save the file in the encoding UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise fault(path, line, "there is a NUL character, so this is not a text file", "Save it as CSV in UTF-8")
    return text


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not blank, the heading first; a torn last line is left out."""
    width, line, ours, torn = 0, 1, False, not text.endswith(("\n", "\r"))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    last = sum(1 for _ in io.StringIO(text, newline=""))  # lines as the reader of CSV counts them
    while True:
        line = lines.line_num + 1
        try:
            cells = [cell.strip() for cell in next(lines)]
        except StopIteration:
            return
        except csv.Error as error:
            if torn and str(error) == "unexpected end of data":
                _log.warning("%s, line %d: a vote that was not written to its end is left out.", path, line)
                return
            raise fault(path, line, f"this is not a row of a table ({error})", "Correct the quotation marks") from error
        if not any(cells):
            continue
        if not width:
            width, ours = len(cells), cells == list(COLUMNS)
        if torn and lines.line_num == last and (ours or len(cells) < width):  # `append_vote` ends every line
            _log.warning("%s, line %d: a vote that was not written to its end is left out.", path, line)
            return
        if len(cells) < width or any(cells[width:]):
            seen = f"{len(cells)} cells where the heading has {width}"
            raise fault(
                path, line, seen, f"Put cells that contain {delimiter!r} in quotation marks, and leave none out"
            )
        yield line, cells[:width]


def _parquet(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return heading and rows of a Parquet file as text."""
    try:
        # Without what pandas may have noted about columns, which can be anything.
        frame = pq.ParquetFile(path).read().replace_schema_metadata(None).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TripletError(f"{path} is not a Parquet file ({error}). Write it again.") from error

    def text(number: int, cell: Any) -> str:
        if not pd.api.types.is_scalar(cell):
            raise fault(path, number, f"a cell holds several values: {cell!r}", "Write one value in each")
        if pd.isna(cell):
            return ""
        return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()

    rows = {
        number: [text(number, cell) for cell in row]
        for number, row in enumerate(frame.itertuples(index=False), start=1)
    }
    return list(map(str, frame.columns)), rows
