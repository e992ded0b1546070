"""Tables of text for the terminal and for Markdown, and the numbers in them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TextTable", "fixed", "percent", "with_spread"]


@dataclass(frozen=True, slots=True)
class TextTable:
    """Table of text."""

    title: str  # lines above the table
    headings: tuple[str, ...]  # one for each column; the first column is aligned left, the others right
    rows: tuple[tuple[str, ...], ...]  # cells of each row, which may have several lines
    notes: tuple[str, ...] = ()  # lines below the table
    strong: int | None = None  # index of the row to emphasise, if any

    def print(self, console: "Console", *, compact: bool = False) -> None:
        """Print the table with title and notes.

        Args:
            console: The terminal.
            compact: Leave out borders and margins, for tables of many columns.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        if self.title:  # as lines of its own: a title above a narrow table would be broken
            console.print(f"\n{self.title}", highlight=False, markup=False, style="bold", soft_wrap=True)
        if not self.rows:
            return
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False) if compact else Table()
        table.show_lines = compact and any("\n" in cell for row in self.rows for cell in row)
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=compact or place > 0)
        for place, row in enumerate(self.rows):
            style, below = "bold" if place == self.strong else None, compact and place + 1 == self.strong
            table.add_row(*map(Text, row), style=style, end_section=below)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False, markup=False, style="italic", soft_wrap=True)

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        lines = [self.headings, (":--", *["--:"] * (len(self.headings) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |".replace("\n", " ") for cells in lines)


def fixed(value: float | None, digits: int = 1) -> str:
    """Return a number with a fixed number of digits, zero without a sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


def percent(share: float | None) -> str:
    """Return a share in percent, with one digit; a dash where there is none."""
    return fixed(None if share is None else 100.0 * share)


def with_spread(mean: float | None, spread: float | None, digits: int = 1) -> str:
    """Return a number ± its standard deviation, if it has one; a dash where there is no number."""
    text = fixed(mean, digits)
    return text if text == "-" or spread is None else f"{text} ± {fixed(spread, digits)}"
