"""Tables 1 to 4 of the paper, computed again beside the published figures."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import yaml

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import DataNotFoundError, SplitError, StemsimError
from stemsim.evaluation import CrossValidation, Splits, agreement, cross_validate, human_ceiling
from stemsim.separators import MixOnly, Multitrack, StemSource
from stemsim.stems import LAYOUTS, STEMS
from stemsim.triplets import TEST_TYPES, EmbeddedTriplets, InstSimABX, Triplets
from stemsim.triplets.inst_sim_abx_answers import read_answers
from stemsim.triplets.table import FloatArray, IntArray

__all__ = ["Cell", "PaperTables", "Reproduction", "grid", "published"]

_log = logging.getLogger(__name__)

INSTRUMENTS: Final = ("drums", "bass", "guitar", "piano", "residuals", "mix")
_THRESHOLDS: Final = (0.75, 0.8)  # least shares of the majority's votes
_Made = TypeVar("_Made")
_NOTHING: Final[tuple[float | None, float | None]] = (None, None)  # in place of a mean and its standard deviation


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a table."""

    table: str  # `1`, `2-3` or `4`
    row: str
    column: str
    ours: float | None = None  # our figure, agreement in % or a weight; None where something is missing
    spread: float | None = None  # its standard deviation over the splits
    published: float | None = None  # the paper's figure; None where it gives none
    published_spread: float | None = None
    ceiling: float | None = None  # agreement of one listener with the majority of the others on the same triplets, in %
    triplets: int | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.published is None else self.ours - self.published


@dataclass(frozen=True, slots=True)
class PaperTables:
    """The tables with what is missing."""

    cells: tuple[Cell, ...]  # the figures, in the order of the tables
    skipped: tuple[str, ...]  # for each piece that is missing: its name, the reason, and a remedy
    settings: Mapping[str, Any]  # settings that the figures depend on

    def table(self, name: str) -> list[Cell]:
        """Return the cells of one table."""
        return [cell for cell in self.cells if cell.table == name]

    def records(self) -> list[dict[str, Any]]:
        """Return all cells with their differences, as primitives."""
        return [{**asdict(cell), "difference": cell.difference} for cell in self.cells]


@cache
def published() -> dict[str, Any]:
    """Return the paper's figures, as in `published.yaml`."""
    text = files("stemsim.paper").joinpath("published.yaml").read_text(encoding="utf-8")
    figures: dict[str, Any] = yaml.safe_load(text)
    return figures


@dataclass(eq=False)
class Reproduction:
    """Tables 1 to 4 of arXiv:2601.19109, computed again.

    If Slakh2100 or the weights of a model are missing, the cells that need them hold the published figure and the human
    ceiling alone.

    Args:
        abx: Folder of Inst-Sim-ABX.
        slakh: Folder of Slakh2100; None if there is none.
        encoders: Functions that make the encoders, by the paper's name (`CLAP`, `MuQ-MuLan`) or another one.
        separators: Functions that make the separators, by layout (`4-stem`, `6-stem`).
        store: Folder of the embedding store, so that an interrupted computation can be continued.
        instruments: Instruments of Table 1.
        splits: Number of random splits.
        seed: Seed of the splits.
        device: Device of separator and encoder.
        progress: Whether to show progress bars.
    """

    abx: Path
    slakh: Path | None
    encoders: Mapping[str, Callable[[], Encoder]]
    separators: Mapping[str, Callable[[], StemSource]]
    store: Path
    instruments: tuple[str, ...] = INSTRUMENTS
    splits: int = 100
    seed: int = 0
    device: str = "cpu"
    progress: bool = True
    _skipped: dict[str, None] = field(default_factory=dict, init=False)  # in the order in which they were met
    _with_audio: dict[tuple[str, float], Triplets] = field(default_factory=dict, init=False)

    def tables(self) -> PaperTables:
        """Compute the tables.

        Raises:
            DataNotFoundError: If Inst-Sim-ABX is missing.
        """
        votes = read_answers(self.abx).count()
        if self.slakh is None:
            self._skip("Slakh2100", "no folder given (--slakh), so nothing that needs audio was computed.")
        encoders = {name: self._made(name, make) for name, make in self.encoders.items()}
        cells = [*self._table_1(encoders, votes)]
        results = {
            (name, *case): self._crossval(name, encoder, *case)
            for name, encoder in encoders.items()
            for case in product(("4-stem", "6-stem"), ("demucs", "true"))
        }
        cells += _table_2_3(results, votes.filter(instrument="mix", min_agreement=max(_THRESHOLDS)))
        cells += _table_4(results)
        settings = {
            "thresholds": list(_THRESHOLDS),
            "splits": self.splits,
            "seed": self.seed,
            "encoders": {name: None if encoder is None else encoder.identity for name, encoder in encoders.items()},
            "published": published()["source"],
        }
        return PaperTables(tuple(cells), tuple(self._skipped), settings)

    def _skip(self, name: str, reason: object) -> None:
        self._skipped[f"{name}: {reason}"] = None

    def _made(self, name: str, make: Callable[[], _Made]) -> _Made | None:
        """Make an encoder or a separator; None if its weights are missing."""
        try:
            return make()
        except StemsimError as error:
            self._skip(name, error)
            return None

    def _embedded(self, instrument: str, threshold: float, source: StemSource, encoder: Encoder) -> EmbeddedTriplets:
        """Embed the triplets of one instrument, every stem whatever its level, as in the paper."""
        key = (instrument, threshold)
        if key not in self._with_audio:
            reader = InstSimABX(self.abx, self.slakh, instrument=instrument, min_agreement=threshold)
            self._with_audio[key] = reader.read()
        embedder = StemEmbedder(
            source, encoder, store=self.store, silence=None, device=self.device, progress=self.progress
        )
        return EmbeddedTriplets.of(self._with_audio[key], embedder)

    def _table_1(self, encoders: Mapping[str, Encoder | None], votes: Triplets) -> Iterator[Cell]:
        """Yield the agreement of the cosine by model, instrument, test type and threshold."""
        figures = published()["table1"]
        for (name, encoder), instrument in product(encoders.items(), self.instruments):
            model = f"{name}-cosine"
            triplets = votes.filter(instrument=instrument, min_agreement=min(_THRESHOLDS))
            preference = self._cosine_preference(instrument, encoder)
            for test_type, threshold in product(TEST_TYPES, _THRESHOLDS):
                chosen = (triplets.test_type == test_type) & triplets.retained(min_agreement=threshold)
                ours = None
                if preference is not None and chosen.any():
                    ours = 100.0 * agreement(preference[chosen], triplets.preference[chosen])
                yield Cell(
                    "1",
                    f"{model}, {test_type}, ≥ {100 * threshold:g} %",
                    instrument,
                    ours,
                    published=figures.get(model, {}).get(test_type, {}).get(instrument),
                    ceiling=_ceiling(triplets.votes[chosen]),
                    triplets=int(chosen.sum()),
                )
        others = [model for model in figures if model.removesuffix("-cosine") not in encoders]
        for model, instrument, test_type in product(others, self.instruments, TEST_TYPES):
            figure = figures[model].get(test_type, {}).get(instrument)
            yield Cell("1", f"{model}, {test_type}", instrument, published=figure)  # the paper names no threshold

    def _cosine_preference(self, instrument: str, encoder: Encoder | None) -> FloatArray | None:
        """Return cos(X, A) - cos(X, B) of the sounds that listeners heard, `(triplet,)`; None if audio is missing."""
        if encoder is None or self.slakh is None:
            return None
        source = MixOnly() if instrument == "mix" else Multitrack([instrument])
        try:
            deltas: FloatArray = self._embedded(instrument, min(_THRESHOLDS), source, encoder).deltas.numpy()
        except StemsimError as error:
            self._skip(f"table 1, {instrument}", error)
            return None
        return deltas[:, 0]

    def _crossval(self, name: str, encoder: Encoder | None, layout: str, separation: str) -> CrossValidation | None:
        """Follow the paper's protocol for one configuration; None if something is missing."""
        if encoder is None or self.slakh is None:
            return None
        source: StemSource | None = Multitrack(layout)
        if separation == "demucs":
            source = self._made(f"{layout} separator", self.separators[layout])
        if source is None:
            return None
        title = f"tables 2 to 4, {name}, {layout}, {separation} stems"
        _log.info("Computing %s.", title)
        try:
            embedded = self._embedded("mix", max(_THRESHOLDS), source, encoder)
            splits = Splits.draw(embedded.triplets, count=self.splits, seed=self.seed)
        except (DataNotFoundError, SplitError) as error:
            self._skip(title, error)
            return None
        return cross_validate(embedded, splits)


def _table_2_3(results: Mapping[tuple[str, str, str], CrossValidation | None], mix: Triplets) -> Iterator[Cell]:
    """Yield test agreement of the fits and of the mix cosine on the mix triplets."""
    for (name, layout, separation), result in results.items():
        figures = published()["table2_3"].get(name, {})
        by_fit: dict[str, tuple[float | None, float | None] | None]
        by_fit = {"mix cosine": figures.get("mix cosine"), **figures.get(layout, {}).get(separation, {})}
        row = f"{name}, {layout} + mix, {separation} stems"
        for fit in ("mix cosine", "OLS", "ridge"):
            ours, paper = _NOTHING, by_fit.get(fit) or _NOTHING
            if result is not None:
                ours = 100.0 * result[fit].mean, 100.0 * float(np.nanstd(result[fit].agreement[:, 0]))
            yield Cell("2-3", row, fit, *ours, *paper, _ceiling(mix.votes), len(mix))


def _table_4(results: Mapping[tuple[str, str, str], CrossValidation | None]) -> Iterator[Cell]:
    """Yield the mean weights of both fits over the splits."""
    for (name, layout, separation), result in results.items():
        figures = published()["table4"].get(name, {}).get(layout, {})
        for fit, stem in product(("OLS", "ridge"), LAYOUTS[layout]):
            ours, triplets = _NOTHING, None
            if result is not None and (weights := result[fit].weights) is not None:
                column = weights[:, result.stems.index(stem)]
                ours, triplets = (float(column.mean()), float(column.std())), len(result.embedded)
            row = f"{name}, {layout}, {separation} stems, {fit}"
            yield Cell("4", row, stem, *ours, published=figures.get(stem), triplets=triplets)


def _ceiling(votes: IntArray) -> float | None:
    share = human_ceiling(votes)
    return None if np.isnan(share) else 100.0 * share


def grid(cells: Sequence[Cell]) -> tuple[list[str], dict[str, list[Cell | None]]]:
    """Arrange the cells of one table as they are shown.

    Args:
        cells: Cells of one table.

    Returns:
        The names of the columns, and the cells by row; None where a row has no such column.
    """
    by_row: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, {})[cell.column] = cell
    columns = list(dict.fromkeys(cell.column for cell in cells))
    if set(columns) == set(STEMS):  # the 4-stem rows come first and lack two of them
        columns = list(STEMS)
    return columns, {row: [found.get(column) for column in columns] for row, found in by_row.items()}
