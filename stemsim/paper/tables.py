"""The tables of the paper, computed again beside the published figures."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import yaml

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import DataNotFoundError, SplitError, StemsimError
from stemsim.evaluation.agreement import agreement, human_ceiling
from stemsim.evaluation.crossval import CrossValidation, cross_validate
from stemsim.separators import MixOnly, Multitrack, StemSource
from stemsim.similarity import stem_deltas
from stemsim.stems import LAYOUTS, STEMS
from stemsim.triplets import TEST_TYPES, InstSimABX, Triplets
from stemsim.triplets.inst_sim_abx_answers import read_answers

__all__ = ["Cell", "PaperTables", "Study", "paper_tables", "pivot", "published", "rows_and_columns"]

_log = logging.getLogger(__name__)

INSTRUMENTS: Final = ("drums", "bass", "guitar", "piano", "residuals", "mix")
_LAYOUTS: Final = ("4-stem", "6-stem")
_SEPARATIONS: Final = ("demucs", "true")
_FITS: Final = ("mix cosine", "OLS", "ridge")


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a table.

    Attributes:
        table: `1`, `2-3` or `4`.
        row: What the row is of.
        column: What the column is of.
        ours: Our figure, agreement in % or a weight; None where something is missing.
        spread: Its standard deviation over the splits.
        published: The paper's figure; None where it gives none.
        published_spread: Its standard deviation.
        ceiling: Agreement of one listener with the majority of the others on the same triplets, in %.
        triplets: Number of triplets; None where they are not known.
    """

    table: str
    row: str
    column: str
    ours: float | None = None
    spread: float | None = None
    published: float | None = None
    published_spread: float | None = None
    ceiling: float | None = None
    triplets: int | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.published is None else self.ours - self.published


@dataclass(frozen=True, slots=True)
class PaperTables:
    """All cells, and what could not be computed.

    Attributes:
        cells: In the order of the tables.
        skipped: For each missing piece, what it is, why, and what to do.
        settings: What the figures depend on.
    """

    cells: tuple[Cell, ...]
    skipped: tuple[str, ...]
    settings: Mapping[str, Any]

    def frame(self) -> pd.DataFrame:
        """Return one row a cell."""
        columns = [*Cell.__slots__]
        frame = pd.DataFrame([[getattr(cell, name) for name in columns] for cell in self.cells], columns=columns)
        frame["difference"] = [cell.difference for cell in self.cells]
        return frame


@dataclass(frozen=True, slots=True)
class Study:
    """What is needed to compute the tables.

    Attributes:
        abx: Folder of Inst-Sim-ABX.
        slakh: Folder of Slakh2100; None where there is none.
        encoders: By the paper's name (`CLAP`, `MuQ-MuLan`, or others), what makes the encoder.
        separators: By layout (`4-stem`, `6-stem`), what makes the separator.
        store: Folder of the embedding store, which makes a run go on where it stopped.
        instruments: What the listeners of Table 1 heard.
        thresholds: Least shares of the majority's votes.
        splits: Number of shuffle splits.
        seed: Of the splits.
        device: Where separator and encoder compute.
        progress: Show progress bars.
    """

    abx: Path
    slakh: Path | None
    encoders: Mapping[str, Callable[[], Encoder]]
    separators: Mapping[str, Callable[[], StemSource]]
    store: Path
    instruments: tuple[str, ...] = INSTRUMENTS
    thresholds: tuple[float, ...] = (0.75, 0.8)
    splits: int = 100
    seed: int = 0
    device: str = "cpu"
    progress: bool = True


@cache
def published() -> dict[str, Any]:
    """Return the paper's figures, as the file beside this module holds them."""
    text = files("stemsim.evaluation").joinpath("published.yaml").read_text(encoding="utf-8")
    figures: dict[str, Any] = yaml.safe_load(text)
    return figures


def paper_tables(study: Study) -> PaperTables:
    """Compute Tables 1 to 4 of arXiv:2601.19109.

    What is missing (Slakh2100, the weights of a model) is named and skipped; its cells hold the published figure and
    the human ceiling alone. Embeddings are stored, so an interrupted run goes on where it stopped.

    Args:
        study: Data and models.

    Returns:
        The tables.

    Raises:
        DataNotFoundError: If there is no Inst-Sim-ABX.
    """
    skipped: dict[str, None] = {}
    questions = _Questions(study)
    if study.slakh is None:
        skipped["Slakh2100: no folder given (--slakh), so nothing that needs audio was computed."] = None
    encoders = {name: _made(name, make, skipped) for name, make in study.encoders.items()}
    cells = list(_table_1(study, questions, encoders, skipped))
    results = {
        (name, layout, separation): _crossval(study, questions, name, encoder, layout, separation, skipped)
        for name, encoder in encoders.items()
        for layout in _LAYOUTS
        for separation in _SEPARATIONS
    }
    cells += _table_2_3(results, questions.votes("mix", max(study.thresholds)))
    cells += _table_4(results)
    settings = {
        "thresholds": list(study.thresholds),
        "splits": study.splits,
        "seed": study.seed,
        "encoders": {name: None if encoder is None else encoder.identity for name, encoder in encoders.items()},
        "published": published()["source"],
    }
    return PaperTables(tuple(cells), tuple(skipped), settings)


def _made(name: str, make: Callable[[], Any], skipped: dict[str, None]) -> Any | None:
    """Make an encoder or a separator; where its weights are missing, say so and go on."""
    try:
        return make()
    except StemsimError as error:
        skipped[f"{name}: {error}"] = None
        return None


class _Questions:
    """The triplets of the listening test, each kind read once.

    Args:
        study: Data and models.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._votes = read_answers(study.abx).count()  # says at once if the answers are not there
        self._with_audio: dict[tuple[str, float], Triplets] = {}

    def votes(self, instrument: str, threshold: float) -> Triplets:
        """Return triplets for their votes alone: their segments need not be there."""
        return self._votes.filter(instrument=instrument, min_agreement=threshold)

    def triplets(self, instrument: str, threshold: float) -> Triplets:
        """Return the same triplets, with segments of the files of Slakh2100."""
        key = instrument, threshold
        if key not in self._with_audio:
            reader = InstSimABX(self._study.abx, self._study.slakh, instrument=instrument, min_agreement=threshold)
            self._with_audio[key] = reader.read(StemEmbedder(MixOnly(), _Silent(), progress=False))
        return self._with_audio[key]


class _Silent(Encoder):
    """Stands where a reader asks for an encoder and uses none."""

    sample_rate, dim, identity = 1, 1, "none"

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def _deltas(study: Study, source: StemSource, encoder: Encoder, triplets: Triplets) -> torch.Tensor:
    """Embed the segments of triplets, every stem whatever its level, as the paper does."""
    embedder = StemEmbedder(
        source, encoder, store=study.store, silence=None, device=study.device, progress=study.progress
    )
    embeddings = embedder.embed(triplets.segments)
    members = (embeddings.take(torch.from_numpy(column)) for column in (triplets.x, triplets.a, triplets.b))
    return stem_deltas(*members)


def _table_1(
    study: Study, questions: _Questions, encoders: Mapping[str, Encoder | None], skipped: dict[str, None]
) -> Iterator[Cell]:
    """Yield the agreement of the cosine, for each model, instrument, test type and threshold."""
    figures = published()["table1"]
    for name, encoder in encoders.items():
        model = f"{name}-cosine"
        for instrument in study.instruments:
            triplets = questions.votes(instrument, min(study.thresholds))
            signs = _cosine_signs(study, questions, instrument, encoder, skipped)
            for test_type, threshold in product(TEST_TYPES, study.thresholds):
                chosen = (triplets.test_type == test_type) & (triplets.majority_share >= threshold - 1e-9)
                votes = triplets.votes[chosen]
                ours = None  # as where there is no such triplet
                if signs is not None and chosen.any():
                    ours = agreement(signs[chosen], triplets.preference[chosen])
                yield Cell(
                    "1",
                    f"{model}, {test_type}, ≥ {100 * threshold:g} %",
                    instrument,
                    ours=_percent(ours),
                    published=figures.get(model, {}).get(test_type, {}).get(instrument),
                    ceiling=_percent(human_ceiling(votes)),
                    triplets=len(votes),
                )
    others = [model for model in figures if model.removesuffix("-cosine") not in encoders]
    for model, instrument, test_type in product(others, study.instruments, TEST_TYPES):  # the paper says no threshold
        yield Cell(
            "1", f"{model}, {test_type}", instrument, published=figures[model].get(test_type, {}).get(instrument)
        )


def _cosine_signs(
    study: Study, questions: _Questions, instrument: str, encoder: Encoder | None, skipped: dict[str, None]
) -> "np.ndarray[Any, np.dtype[np.float64]] | None":
    """Return cos(X, A) - cos(X, B) of what the listeners heard, `(triplet,)`; None where it cannot be computed."""
    if encoder is None or study.slakh is None:
        return None
    try:
        triplets = questions.triplets(instrument, min(study.thresholds))
        source = MixOnly() if instrument == "mix" else Multitrack([instrument])
        return _deltas(study, source, encoder, triplets)[:, 0].numpy()
    except StemsimError as error:
        skipped[f"table 1, {instrument}: {error}"] = None
        return None


def _crossval(
    study: Study,
    questions: _Questions,
    name: str,
    encoder: Encoder | None,
    layout: str,
    separation: str,
    skipped: dict[str, None],
) -> CrossValidation | None:
    """Return the paper's protocol for one configuration; None where something is missing."""
    if encoder is None or study.slakh is None:
        return None
    what = f"tables 2 to 4, {name}, {layout}, {separation} stems"
    source: StemSource | None = Multitrack(layout)
    if separation == "demucs":
        if layout not in study.separators:
            skipped[f"{what}: no separator for this layout."] = None
            return None
        source = _made(f"{layout} separator", study.separators[layout], skipped)
    if source is None:
        return None
    _log.info("Computing %s.", what)
    try:
        triplets = questions.triplets("mix", max(study.thresholds))
        deltas = _deltas(study, source, encoder, triplets)
        return cross_validate(deltas, triplets, source.stems, count=study.splits, seed=study.seed)
    except (DataNotFoundError, SplitError) as error:
        skipped[f"{what}: {error}"] = None
        return None


def _table_2_3(results: Mapping[tuple[str, str, str], CrossValidation | None], mix: Triplets) -> Iterator[Cell]:
    """Yield test agreement of the fits and of the mix cosine on the mix triplets."""
    ceiling = _percent(human_ceiling(mix.votes))
    for (name, layout, separation), result in results.items():
        figures = published()["table2_3"].get(name, {})
        scores = {} if result is None else {model.name: model.agreement[:, 0] for model in result.models}
        for fit in _FITS:
            reported = figures.get(fit) if fit == "mix cosine" else figures.get(layout, {}).get(separation, {}).get(fit)
            mean, spread = reported or (None, None)
            values = scores.get(fit)
            yield Cell(
                "2-3",
                f"{name}, {layout} + mix, {separation} stems",
                fit,
                ours=None if values is None else _percent(float(np.nanmean(values))),
                spread=None if values is None else _percent(float(np.nanstd(values))),
                published=mean,
                published_spread=spread,
                ceiling=ceiling,
                triplets=len(mix),
            )


def _table_4(results: Mapping[tuple[str, str, str], CrossValidation | None]) -> Iterator[Cell]:
    """Yield the weights, averaged over the splits, of both fits."""
    for (name, layout, separation), result in results.items():
        figures = published()["table4"].get(name, {}).get(layout, {})
        fitted = {} if result is None else {model.name: model.weights for model in result.models}
        for fit in ("OLS", "ridge"):
            for stem in LAYOUTS[layout]:
                weights = fitted.get(fit)
                column = None if weights is None or result is None else weights[:, result.stems.index(stem)]
                yield Cell(
                    "4",
                    f"{name}, {layout}, {separation} stems, {fit}",
                    stem,
                    ours=None if column is None else float(column.mean()),
                    spread=None if column is None else float(column.std()),
                    published=figures.get(stem),
                    triplets=None if result is None else result.triplets,
                )


def _percent(share: float | None) -> float | None:
    return None if share is None or np.isnan(share) else 100.0 * share


def pivot(cells: Sequence[Cell], show: Callable[[Cell], str]) -> pd.DataFrame:
    """Return cells of one table as it is printed: a row each, a column each.

    Args:
        cells: Of one table.
        show: What stands in a cell.
    """
    rows, columns = rows_and_columns(cells)
    texts = {(cell.row, cell.column): show(cell) for cell in cells}
    return pd.DataFrame(
        [[texts.get((row, column), "") for column in columns] for row in rows], index=rows, columns=columns
    )


def rows_and_columns(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Return the names of rows and columns of one table, in the order in which they are shown."""
    rows, columns = list(dict.fromkeys(cell.row for cell in cells)), list(dict.fromkeys(cell.column for cell in cells))
    if set(columns) == set(STEMS):  # the 4-stem rows come first and lack two of them
        columns = list(STEMS)
    return rows, columns
