"""Fusions of many fits, whose stacked parameters are differentiated together (`torch.func`)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from stemsim.fusion import Fusion, StemPairs
from stemsim.losses import Loss
from stemsim.similarity import StemEmbeddings

__all__ = ["Examples", "FusionStack"]


class Examples(NamedTuple):
    """Triplets with their targets.

    Attributes:
        x: Stem embeddings of the references.
        a: Stem embeddings of the first candidates.
        b: Stem embeddings of the second candidates.
        target: `(triplet,)` targets in [-1, 1], float64.
        loss: Compares preferences with the targets.
    """

    x: StemEmbeddings
    a: StemEmbeddings
    b: StemEmbeddings
    target: Tensor
    loss: Loss

    def pairs(self, rows: Tensor) -> StemPairs:
        """Return the pairs (X, A), then (X, B), of some triplets; `rows` are indices `(n,)`."""
        x, a, b = (one.take(rows) for one in self[:3])
        query, candidate = (
            StemEmbeddings(*(torch.cat(tensors) for tensors in zip(one, other, strict=True)))
            for one, other in ((x, x), (a, b))
        )
        return StemPairs.of(query, candidate)


class FusionStack:
    """Fusions of one kind, each with its own counts of the triplets.

    Args:
        fusions: As many as there are fits.
        examples: The triplets.
        counts: `(fit, triplet)` weight of each triplet in the loss; 0: it is not trained on.
        l2: `(fit,)` cost of the squared parameters.
        alike: Number of neighbouring fusions that have observed the same pairs, and so prepare pairs alike.
        anchored: Penalise the squared distance of all parameters from their present values, in place of the squared
            weights and the roughness.
    """

    def __init__(
        self,
        fusions: Sequence[Fusion],
        examples: Examples,
        counts: Tensor,
        l2: Tensor,
        *,
        alike: int = 1,
        anchored: bool = False,
    ) -> None:
        self.examples = examples
        self.counts = counts
        self.l2 = l2
        predictors = [_Predictor(fusion) for fusion in fusions]
        self.parameters, self.buffers = stack_module_state(predictors)
        self.start = {name: values.detach().clone() for name, values in self.parameters.items()} if anchored else None
        self._predictor = predictors[0]
        self._pairs = self._prepare(fusions[::alike], alike)

    def _prepare(self, fusions: Sequence[Fusion], alike: int) -> tuple[StemPairs, StemPairs]:
        """Compare the segments and prepare them for every fusion, once for all steps."""
        x, a, b = self.examples[:3]
        to_a, to_b = StemPairs.of(x, a), StemPairs.of(x, b)
        features: list[list[Tensor]] = [[], []]
        with torch.no_grad():
            for fusion in fusions:
                for side, pairs in zip(features, (to_a, to_b), strict=True):
                    prepared = fusion.prepare(pairs)
                    if prepared is not None:
                        side.append(prepared)
        if not features[0]:
            return to_a, to_b
        first, second = (torch.stack(side).repeat_interleave(alike, dim=0) for side in features)
        return to_a._replace(features=first), to_b._replace(features=second)

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return preferences `(fit, triplet)` and objectives `(fit,)`."""

        def predict(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], *features: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor]:
            pairs = tuple(one._replace(features=own) for one, own in zip(self._pairs, features, strict=True))
            output: tuple[Tensor, Tensor, Tensor] = functional_call(self._predictor, (parameters, buffers), pairs)
            return output

        features = [pairs.features for pairs in self._pairs]
        axes = (0, 0, *(None if one is None else 0 for one in features))
        preference, penalty, roughness = vmap(predict, in_dims=axes)(self.parameters, self.buffers, *features)
        values = self.examples.loss.terms(preference, self.examples.target).value
        mean = (self.counts * values).sum(dim=1) / self.counts.sum(dim=1)
        if self.start is not None:
            distances = [self.parameters[name] - start for name, start in self.start.items()]
            penalty = torch.stack([distance.square().flatten(1).sum(dim=1) for distance in distances]).sum(dim=0)
            roughness = torch.zeros_like(penalty)
        return preference, mean + self.l2 * penalty + roughness

    def descend(self, steps: int, learning_rate: float) -> Iterator[tuple[int, Tensor]]:
        """Minimise by Adam on the full batch.

        Args:
            steps: Number of steps.
            learning_rate: Of Adam.

        Yields:
            Step, and preferences `(fit, triplet)` before it is taken; the last ones are those of the final parameters.
        """
        optimizer = torch.optim.Adam(
            [values for values in self.parameters.values() if values.requires_grad], lr=learning_rate
        )
        for step in range(steps + 1):
            preference, objective = self.evaluate()
            yield step, preference.detach()
            if step < steps:
                optimizer.zero_grad()
                objective.sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()


class _Predictor(nn.Module):
    """A fusion, as a function of pairs that have been compared."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, to_a: StemPairs, to_b: StemPairs) -> tuple[Tensor, Tensor, Tensor]:
        """Return preference `(triplet,)`, penalty and roughness."""
        preference = self.fusion.similarity(to_a) - self.fusion.similarity(to_b)
        return preference, self.fusion.penalty(), self.fusion.roughness()
