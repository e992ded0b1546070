"""Triplets of stem embeddings for training."""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder, Spectral
from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation import DROPPED, PARTS, SplitKind, split_triplets
from stemsim.separators import Bands, StemSource
from stemsim.similarity import StemEmbeddings, stem_deltas
from stemsim.stems import StemLayout
from stemsim.triplets import QUESTIONS, TARGETS, TEST_TYPES, TargetKind, TripletReader, Triplets

__all__ = ["Part", "TripletBatch", "TripletDataModule", "TripletDataset"]

_log = logging.getLogger(__name__)

Part = Literal["train", "val", "test"]


class TripletBatch(NamedTuple):
    """A batch of triplets.

    Attributes:
        x: Stem embeddings of the references, vectors `(batch, stem, dim)` and masks `(batch, stem)`.
        a: Stem embeddings of the first candidates.
        b: Stem embeddings of the second candidates.
        preference: `(batch,)` the listeners' majority choice, +1 = A or -1 = B, float64.
        target: `(batch,)` what a fit should predict, in [-1, 1], float64; the majority choice unless votes are shared.
        weight: `(batch,)` what a triplet counts in the loss, float64; 1 unless votes weigh.
        votes: `(batch, 2)` votes for A and for B.
        test_type: `(batch,)` index into `TEST_TYPES`.
        row: `(batch,)` row in the triplet table.
    """

    x: StemEmbeddings
    a: StemEmbeddings
    b: StemEmbeddings
    preference: Tensor
    target: Tensor
    weight: Tensor
    votes: Tensor
    test_type: Tensor
    row: Tensor


class TripletDataset(Dataset[TripletBatch]):
    """Rows of a triplet table, gathered a batch at a time from the embeddings of their segments.

    Args:
        triplets: The table.
        embeddings: Stem embeddings of `triplets.segments`.
        rows: `(n,)` rows that this data set consists of.
        target: What the batches' targets are; see `Triplets.target`.
        vote_weighted_loss: Let the batches' weights be the numbers of votes, divided by their mean.
    """

    def __init__(
        self,
        triplets: Triplets,
        embeddings: StemEmbeddings,
        rows: Tensor,
        *,
        target: TargetKind = "majority",
        vote_weighted_loss: bool = False,
    ) -> None:
        self.embeddings = embeddings
        self.rows = rows
        self.members = torch.from_numpy(np.stack([triplets.x, triplets.a, triplets.b]))  # (3, triplet)
        self.preference = torch.from_numpy(triplets.preference).double()
        self.target = torch.from_numpy(triplets.target(target))
        self.weight = torch.from_numpy(triplets.vote_weights()) if vote_weighted_loss else torch.ones_like(self.target)
        self.votes = torch.from_numpy(triplets.votes)
        self.test_type = torch.tensor([TEST_TYPES.index(kind) for kind in triplets.test_type.tolist()])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TripletBatch:
        """Return one triplet, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> TripletBatch:
        """Return a batch: PyTorch's loader calls this instead of `__getitem__` once for each batch."""
        row = self.rows[torch.tensor(indices)]
        x, a, b = (self.embeddings.take(members) for members in self.members[:, row])
        said = (self.preference[row], self.target[row], self.weight[row], self.votes[row])
        return TripletBatch(x, a, b, *said, self.test_type[row], row)


class TripletDataModule(lightning.LightningDataModule):
    """Embeds the segments of a triplet table, splits the table, and yields batches of triplets.

    Args:
        triplets: Where the triplets come from.
        separator: Where stems come from; its stem layout is the model's. null: Bands, which needs no weights.
        encoder: Frozen encoder; null: Spectral, which needs no weights.
        store: Folder of the embedding store.
        silence: Level in dBFS under which a stem is silent and adds nothing; null encodes every stem.
        embedding_batch: Most segments separated and encoded at once; halved once when memory runs out. null: 16 on a
            CPU, and as many as fit on a GPU.
        device: Where separator and encoder compute, e.g. `cpu` or `cuda:0`.
        workers: Batches in work at the same time; null: as many as there are cores, up to 8, or two on a GPU.
        split: `stratified` (the paper) or `grouped`, so that no track is on both sides.
        val_fraction: Share of the triplets (grouped: of the tracks) for validation.
        test_fraction: Share for testing; the rest is trained on.
        seed: Seed of the split.
        batch_size: Triplets in a batch; null takes the whole train part, as full-batch LBFGS needs.
        progress: Show a progress bar while embedding.
        target: What is fitted: `majority` (the paper), `share` of the votes, or `graded`, the mean of answers that are
            sure (1) or a little sure (1/2). Agreement is measured against the majority in any case.
        vote_weighted_loss: Let a triplet count in the loss as much as it has votes.
        pretraining: Same-song triplets of unlabelled songs (stemsim.triplets.SameSong) that `crossval` fits first, as
            models of their own rows; null: none.
    """

    def __init__(
        self,
        triplets: TripletReader,
        separator: StemSource | None = None,
        encoder: Encoder | None = None,
        store: str = "runs/embeddings",
        silence: float | None = -60.0,
        embedding_batch: int | None = None,
        device: str = "cpu",
        workers: int | None = None,
        split: SplitKind = "stratified",
        val_fraction: float = 0.1,
        test_fraction: float = 0.3,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = True,
        target: TargetKind = "majority",
        vote_weighted_loss: bool = False,
        pretraining: TripletReader | None = None,
    ) -> None:
        super().__init__()
        if target not in TARGETS:
            msg = f"`target` is one of {', '.join(TARGETS)}; got {target!r}."
            raise ConfigError(msg)
        if batch_size is not None and batch_size < 1:
            msg = f"`batch_size` is at least 1, or null for full batches; got {batch_size}."
            raise ConfigError(msg)
        self.reader = triplets
        self.embedder = StemEmbedder(
            separator or Bands(),
            encoder or Spectral(),
            store=Path(store),
            silence=silence,
            batch_size=embedding_batch,
            device=device,
            workers=workers,
            progress=progress,
        )
        self.split: SplitKind = split
        self.fractions = (1.0 - val_fraction - test_fraction, val_fraction, test_fraction)
        self.seed = seed
        self.batch_size = batch_size
        self.target: TargetKind = target
        self.vote_weighted_loss = vote_weighted_loss
        self.pretraining = pretraining
        self.triplets: Triplets | None = None

    @property
    def stems(self) -> StemLayout:
        """Stem layout of everything that this module yields."""
        return self.embedder.stems

    def prepare_data(self) -> None:
        """Embed and store what the store lacks."""
        self.embedder.embed(self.read().segments)

    def setup(self, stage: str) -> None:
        """Read triplets and embeddings, and split."""
        del stage
        if self.triplets is not None:
            return
        triplets = self.read()
        self.embeddings = self.embedder.embed(triplets.segments)
        self.parts = split_triplets(triplets, self.fractions, kind=self.split, seed=self.seed)[0]
        self.triplets = triplets
        sizes = {name: int((self.parts == index).sum()) for index, name in enumerate(PARTS)}
        dropped = int((self.parts == DROPPED).sum())
        _log.info(
            "%s: %s triplets, %s split %s, %d dropped.", triplets.source, len(triplets), self.split, sizes, dropped
        )

    def read(self) -> Triplets:
        """Read the table, and keep the triplets that have a majority.

        Raises:
            SplitError: If none are left.
            ConfigError: If listeners heard another stem than the model weighs.
            TripletError: If their answers have no grades, and these are to be fitted.
        """
        triplets = self._with_majority(self.reader.read(self.embedder))
        if len(triplets) == 0:
            msg = f"No triplets left of {triplets.source}. Loosen the filter: min_agreement, min_votes, test_type."
            raise SplitError(msg)
        triplets.target(self.target)  # an error, if there is none, comes before hours of embedding
        return triplets

    def perspectives(self) -> dict[str, tuple[Triplets, Tensor]]:
        """Read the triplets by what listeners were asked about them, and embed their segments.

        Returns:
            By question, `overall` first: the triplets with a majority on it, by its own votes and cut-offs, and their
            stem features `(triplet, stem)`. Questions without any are left out, which is said.

        Raises:
            SplitError: If none are left on any question.
            ConfigError: If listeners heard another stem than the model weighs.
        """
        read = self.reader.read_perspectives(self.embedder)
        tables = {question: self._with_majority(table) for question, table in read.items()}
        if lacking := [question for question in QUESTIONS if not len(tables.get(question, ()))]:
            _log.info("No triplets with a majority on %s.", ", ".join(lacking))
        tables = {question: table for question, table in tables.items() if len(table)}
        if not tables:
            msg = "No triplets left on any question. Loosen the filter: min_agreement, min_votes, test_type."
            raise SplitError(msg)
        distinct = dict.fromkeys(segment for table in tables.values() for segment in table.segments)
        place = {segment: index for index, segment in enumerate(distinct)}
        embeddings = self.embedder.embed(tuple(place))
        found = {}
        for question, table in tables.items():
            index = torch.tensor([place[segment] for segment in table.segments])
            members = (embeddings.take(index[torch.from_numpy(role)]) for role in (table.x, table.a, table.b))
            found[question] = (table, stem_deltas(*members))
        return found

    def _with_majority(self, everything: Triplets) -> Triplets:
        """Keep the triplets that have a majority, and verify that listeners heard what the model weighs."""
        triplets = everything.filter()
        if len(triplets) < len(everything):
            _log.info("Left out %d triplets without a majority.", len(everything) - len(triplets))
        heard = sorted(set(triplets.instrument.tolist()))
        if heard not in ([], ["mix"]) and tuple(heard) != self.stems:
            msg = (
                f"Listeners heard {', '.join(heard)} in these triplets, and the model would weigh "
                f"{', '.join(self.stems)}. Filter them by `instrument: mix`, or set the separator's stems to the one "
                "instrument chosen."
            )
            raise ConfigError(msg)
        return triplets

    def table(self) -> Triplets:
        """Return the triplets; `setup` must have run."""
        if self.triplets is None:
            self.setup("")
        assert self.triplets is not None  # noqa: S101 - for the type checker: setup has just set it
        return self.triplets

    def rows(self, part: Part) -> Tensor:
        """Return the rows `(n,)` of the table that belong to a part.

        Raises:
            SplitError: If there are none.
        """
        table = self.table()
        rows = torch.from_numpy(np.flatnonzero(self.parts == PARTS.index(part)))
        if len(rows) == 0:
            msg = (
                f"The {part} part is empty: a {self.split} split of {len(table)} triplets over "
                f"{len(set(table.tracks))} tracks into train/val/test {tuple(round(f, 3) for f in self.fractions)}. "
                "Set data.val_fraction and data.test_fraction so that every part has some (train has the rest), use "
                "more triplets or tracks, or split by triplet (data.split=stratified)."
            )
            raise SplitError(msg)
        return rows

    def deltas(self, rows: Tensor | None = None) -> Tensor:
        """Return the stem features `(n, stem)` of some rows of the table, or of all."""
        table = self.table()
        index = torch.arange(len(table)) if rows is None else rows
        members = (torch.from_numpy(column)[index] for column in (table.x, table.a, table.b))
        return stem_deltas(*(self.embeddings.take(member) for member in members))

    def train_dataloader(self) -> DataLoader[TripletBatch]:
        """Yield the train part: shuffled mini-batches, or one full batch."""
        return self._loader(self.rows("train"), shuffle=self.batch_size is not None)

    def val_dataloader(self) -> DataLoader[TripletBatch] | list[DataLoader[TripletBatch]]:
        """Yield the validation part; nothing where `val_fraction` is 0 and a fit merely asks in passing."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if fitting and not (self.table() and (self.parts == PARTS.index("val")).any()):
            return []
        return self._loader(self.rows("val"))

    def test_dataloader(self) -> DataLoader[TripletBatch]:
        """Yield the test part."""
        return self._loader(self.rows("test"))

    def predict_dataloader(self) -> DataLoader[TripletBatch]:
        """Yield all triplets, whatever their part."""
        return self._loader(torch.arange(len(self.table())))

    def batch(self, rows: Tensor) -> TripletBatch:
        """Return some rows `(n,)` of the table as one batch."""
        return self._dataset(rows).__getitems__(list(range(len(rows))))

    def _loader(self, rows: Tensor, *, shuffle: bool = False) -> DataLoader[TripletBatch]:
        dataset = self._dataset(rows)
        return DataLoader(dataset, batch_size=self.batch_size or len(rows), shuffle=shuffle, collate_fn=_as_it_is)

    def _dataset(self, rows: Tensor) -> TripletDataset:
        return TripletDataset(
            self.table(),
            self.embeddings,
            rows,
            target=self.target,
            vote_weighted_loss=self.vote_weighted_loss,
        )


def _as_it_is(batch: Any) -> Any:
    """Collate nothing: the data set gathers whole batches."""
    return batch
