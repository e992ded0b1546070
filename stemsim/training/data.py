"""Data module: triplets of stem embeddings, split into parts and batched."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder, Spectral
from stemsim.errors import ConfigError, SplitError
from stemsim.evaluation import DROPPED, PARTS, SplitKind, split_triplets
from stemsim.evaluation.splits import PartArray
from stemsim.separators import Bands, StemSource
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout
from stemsim.triplets import TEST_TYPES, EmbeddedTriplets, TargetKind, TripletReader, Triplets

__all__ = ["Part", "TripletBatch", "TripletDataModule"]

_log = logging.getLogger(__name__)

Part = Literal["train", "val", "test"]
_NEEDED_PART: Final[dict[TrainerFn | None, Part]] = {
    TrainerFn.FITTING: "train",
    TrainerFn.VALIDATING: "val",
    TrainerFn.TESTING: "test",
}


class TripletBatch(NamedTuple):
    """A batch of triplets."""

    x: StemEmbeddings  # of the references, vectors `(batch, stem, dim)` and masks `(batch, stem)`
    a: StemEmbeddings  # of the first candidates
    b: StemEmbeddings  # of the second candidates
    target: Tensor  # `(batch,)` target of the fit, in [-1, 1], float64
    weight: Tensor  # `(batch,)` weight of each triplet in the loss, float64
    votes: Tensor  # `(batch, 2)` votes for A and for B
    test_type: Tensor  # `(batch,)` index into `TEST_TYPES`
    row: Tensor  # `(batch,)` row in the triplet table


class TripletDataModule(lightning.LightningDataModule):
    """Reads triplets, embeds their segments once, splits the table, and yields batches of triplets.

    Args:
        triplets: Source of the triplets.
        separator: Source of the stems; the model takes its stem layout. null: Bands, which needs no weights.
        encoder: Frozen encoder; null: Spectral, which needs no weights.
        store: Folder of the embedding store.
        silence: Level in dBFS below which a stem counts as silent and contributes nothing; null encodes every stem.
        embedding_batch: Maximum number of segments separated and encoded at once; halved once if memory runs out.
            null: 16 on a CPU; on a GPU, as many as fit.
        device: Device for separator and encoder, e.g. `cpu` or `cuda:0`.
        workers: Number of batches processed at the same time; null: one per core, up to 8, or two on a GPU.
        split: `stratified` (the paper), or `grouped` so that no track is on both sides.
        val_fraction: Share of the triplets (grouped: of the tracks) for validation.
        test_fraction: Share for testing; the rest is for training.
        seed: Seed of the split.
        batch_size: Number of triplets in a batch; null: the whole train part, as full-batch LBFGS needs.
        progress: Show a progress bar while embedding.
        target: Target of the fit: `majority` (the paper), `share` of the votes, or `graded`, the mean answer on the
            scale sure (1) to a little sure (1/2). Agreement is always measured against the majority.
        vote_weighted_loss: Weight each triplet in the loss by its number of votes.
        pretraining: Same-song triplets of unlabelled songs (stemsim.triplets.SameSong) for `crossval` to pre-train on,
            as additional models; null: none.
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
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, or null for full batches; got {batch_size}.")
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

    @property
    def stems(self) -> StemLayout:
        """Stem layout of all embeddings."""
        return self.embedder.stems

    @cached_property
    def embedded(self) -> EmbeddedTriplets:
        """The triplets with their embeddings: read and embedded when first asked for.

        Raises:
            ConfigError: If the listeners heard other stems than the model weights.
            TripletError: If there are no triplets, some have no majority, or the target needs graded answers and there
                are none.
        """
        return self.reader.embed(self.embedder, self._check)

    @cached_property
    def parts(self) -> PartArray:
        """`(triplet,)` index into `PARTS`, or `DROPPED`: the split of the table."""
        triplets = self.embedded.triplets
        parts: PartArray = split_triplets(triplets, self.fractions, kind=self.split, seed=self.seed)[0]
        sizes = ", ".join(f"{(parts == index).sum()} {name}" for index, name in enumerate(PARTS))
        dropped = f", {lost} dropped" if (lost := int((parts == DROPPED).sum())) else ""
        _log.info("%s: %d triplets, %s split: %s%s.", triplets.source, len(triplets), self.split, sizes, dropped)
        return parts

    def prepare_data(self) -> None:
        """Embed everything before loggers start; of several processes, only one fills the store."""
        job = None if self.trainer is None else self.trainer.state.fn
        _ = self.rows(_NEEDED_PART[job]) if job in _NEEDED_PART else self.parts

    def setup(self, stage: str) -> None:
        """Load the embeddings, in the processes where `prepare_data` has not run."""
        del stage
        _ = self.parts

    def rows(self, part: Part) -> Tensor:
        """Return the rows `(n,)` of the table that belong to a part.

        Raises:
            SplitError: If there are none.
        """
        rows = torch.from_numpy(np.flatnonzero(self.parts == PARTS.index(part)))
        if len(rows) == 0:
            triplets = self.embedded.triplets
            raise SplitError(
                f"The {part} part is empty: a {self.split} split of {len(triplets)} triplets over "
                f"{len(set(triplets.tracks))} tracks into train/val/test {tuple(round(f, 3) for f in self.fractions)}. "
                "Change data.val_fraction and data.test_fraction so that every part has some triplets, use more "
                "triplets or tracks, or split by triplet (data.split=stratified)."
            )
        return rows

    def train_dataloader(self) -> DataLoader[int]:
        """Yield the train part: shuffled mini-batches, or one full batch."""
        return self._loader(self.rows("train"), shuffle=self.batch_size is not None)

    def val_dataloader(self) -> DataLoader[int] | list[DataLoader[int]]:
        """Yield the validation part; a fit can do without one."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if fitting and not (self.parts == PARTS.index("val")).any():
            return []
        return self._loader(self.rows("val"))

    def test_dataloader(self) -> DataLoader[int]:
        """Yield the test part."""
        return self._loader(self.rows("test"))

    def predict_dataloader(self) -> DataLoader[int]:
        """Yield all triplets of all parts."""
        return self._loader(torch.arange(len(self.embedded)))

    def batch(self, rows: Tensor) -> TripletBatch:
        """Return some rows `(n,)` of the table as one batch."""
        embedded, triplets = self.embedded, self.embedded.triplets
        targets = embedded.target(self.target)
        weights = embedded.vote_weights() if self.vote_weighted_loss else torch.ones_like(targets)
        test_types = torch.tensor([TEST_TYPES.index(kind) for kind in triplets.test_type[rows.numpy()]])
        votes = torch.from_numpy(triplets.votes)[rows]
        return TripletBatch(*embedded.roles(rows), targets[rows], weights[rows], votes, test_types, rows)

    def _loader(self, rows: Tensor, *, shuffle: bool = False) -> DataLoader[int]:
        size = self.batch_size or len(rows)
        items: Dataset[int] = cast("Dataset[int]", rows.tolist())  # any sequence will do
        return DataLoader(
            items, batch_size=size, shuffle=shuffle, collate_fn=lambda chosen: self.batch(torch.tensor(chosen))
        )

    def _check(self, triplets: Triplets) -> None:
        """Verify the table, if possible before hours of embedding."""
        triplets.check()
        triplets.target(self.target)
        if repeated := len(triplets) - len(triplets.pooled()):
            _log.warning(
                "%d of %d triplets repeat a question about the same three segments, so that one may be trained on and "
                "the other tested: Triplets.pooled() adds up their votes.",
                repeated,
                len(triplets),
            )
        if (train := self.fractions[0] * len(triplets)) < len(self.stems):
            _log.warning(
                "About %d triplets to train on do not determine %d weights: ask listeners more, or use fewer stems.",
                round(train),
                len(self.stems),
            )
        heard = sorted(set(triplets.instrument.tolist()))
        if heard != ["mix"] and tuple(heard) != self.stems:
            raise ConfigError(
                f"In these triplets, listeners heard {', '.join(heard)}, but the model would weight "
                f"{', '.join(self.stems)}. Keep only triplets with `instrument: mix`, or set the separator's stems to "
                "the one instrument that was heard."
            )
