"""Agreement and the human ceiling as torchmetrics."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from stemsim.evaluation import TIE, ceiling_credit
from stemsim.similarity import stem_deltas
from stemsim.training.data import TripletBatch
from stemsim.triplets import TEST_TYPES, TestType

__all__ = ["Agreement", "Baselines", "CreditMetric", "HumanCeiling"]


class CreditMetric(Metric):
    """A share: credit earned over what was counted."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    credit: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("credit", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def counted(self) -> bool:
        """Whether anything was counted."""
        return bool(self.total > 0)

    def compute(self) -> Tensor:
        """Return the share in [0, 1]; NaN if nothing was counted."""
        return self.credit / self.total


class Agreement(CreditMetric):
    """Share of triplets on which a model picks the listeners' majority choice, a tie counting `TIE`.

    Args:
        test_type: Count only triplets of this type; None counts all.
        vote_weighted: Count every answer instead of every triplet: the share of answers that the model agrees with,
            which is directly comparable with the human ceiling.
    """

    def __init__(self, test_type: TestType | None = None, *, vote_weighted: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.test_type = test_type
        self.vote_weighted = vote_weighted

    def update(self, preference: Tensor, votes: Tensor, test_type: Tensor) -> None:
        """Count a batch.

        Args:
            preference: `(batch,)` predicted preference.
            votes: `(batch, 2)` votes for A and for B.
            test_type: `(batch,)` index into `TEST_TYPES`.
        """
        choice = preference.sign().double()
        lead = (votes[:, 0] - votes[:, 1]).double()
        weight = votes.sum(dim=1).double() if self.vote_weighted else torch.ones_like(choice)
        credit = TIE * (weight + choice * (lead if self.vote_weighted else lead.sign()))
        if self.test_type is not None:
            counted = test_type == TEST_TYPES.index(self.test_type)
            weight, credit = weight * counted, credit * counted
        self.credit += credit.sum()
        self.total += weight.sum()


class HumanCeiling(CreditMetric):
    """How often one listener's answer agrees with the majority of the others (`evaluation.human_ceiling`)."""

    def update(self, votes: Tensor) -> None:
        """Count a batch of votes `(batch, 2)`."""
        credit, answers = ceiling_credit(votes.cpu().numpy())
        self.credit += float(credit.sum())
        self.total += float(answers.sum())


class Baselines(nn.Module):
    """What stands beside the model in every table: human ceiling, mix-only cosine and uniform weights.

    Args:
        stems: Stem layout of the batches.
        prefix: Put before each name, e.g. `test/`.
        vote_weighted: See `Agreement`.
    """

    def __init__(self, stems: Sequence[str], prefix: str, *, vote_weighted: bool = False) -> None:
        super().__init__()
        self.prefix = prefix
        self.mix = stems.index("mix") if "mix" in stems else None
        self.ceiling = HumanCeiling()
        self.uniform = Agreement(vote_weighted=vote_weighted)
        self.cosine = Agreement(vote_weighted=vote_weighted)

    def update(self, batch: TripletBatch) -> dict[str, CreditMetric]:
        """Count a batch, and return the metrics by name."""
        deltas = stem_deltas(batch.x, batch.a, batch.b)
        self.ceiling.update(batch.votes)
        self.uniform.update(deltas.sum(dim=1), batch.votes, batch.test_type)
        if self.mix is not None:
            self.cosine.update(deltas[:, self.mix], batch.votes, batch.test_type)
        metrics = {"human_ceiling": self.ceiling, "mix_cosine": self.cosine, "uniform_weights": self.uniform}
        return {self.prefix + name: metric for name, metric in metrics.items()}
