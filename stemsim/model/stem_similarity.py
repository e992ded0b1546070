"""The similarity of two pieces of music, and what each stem contributes to it."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from stemsim.embedding import StemEmbedder
from stemsim.errors import ConfigError
from stemsim.fusion import Fusion, LinearFusion, WeightedFusion
from stemsim.model.card import ModelCard, write_model
from stemsim.model.inputs import Inputs, ParsedInputs, parse_inputs
from stemsim.model.parts import describe
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.stems import StemLayout, check_same_layout

SilentIn = Literal["a", "b", "both"]
# By whether the stem is present in A and in B.
_SILENT_IN: Final[dict[tuple[bool, ...], SilentIn]] = {(False, True): "a", (True, False): "b", (False, False): "both"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """The similarity of two inputs A and B, stem by stem (paper, section 3.4: similarity = sum_i w_i cos_i).

    Attributes:
        stems: Stem layout, in order.
        similarity: Sum of the contributions; higher is closer.
        weights: Weight of each stem; None if the fusion has no stem weights.
        cosines: Cosine similarity of each stem, in [-1, 1]; 0 where it is silent in either input.
        contributions: Contribution of each stem; with the linear fusion weight times cosine.
        silent: The stems that are silent, and in which of the two inputs.
    """

    stems: StemLayout
    similarity: float
    weights: Mapping[str, float] | None
    cosines: Mapping[str, float]
    contributions: Mapping[str, float]
    silent: Mapping[str, SilentIn]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain lists and dictionaries, for JSON for instance."""
        return {**asdict(self), "stems": list(self.stems)}

    def __str__(self) -> str:
        lines = [f"{'stem':<12}{'weight':>8}{'cosine':>9}{'contribution':>14}"]
        for stem in self.stems:
            weight = "-" if self.weights is None else f"{self.weights[stem]:.3f}"
            cosine = "-" if stem in self.silent else f"{self.cosines[stem]:.3f}"
            line = f"{stem:<12}{weight:>8}{cosine:>9}{self.contributions[stem]:>14.3f}"
            lines.append(f"{line}  silent in {self.silent[stem].upper()}" if stem in self.silent else line)
        return "\n".join([*lines, f"{'sum':<29}{self.similarity:>14.3f}  similarity; higher is closer"])


class StemSimilarity:
    """Similarity of two pieces as a fusion of the similarities of their stems (paper, section 3.4).

    An input is the path of an audio file (all of it), a `Segment`, `(waveform, sample_rate)` with floats `(time,)` or
    `(channel, time)`, or `StemEmbeddings` that `embed` gave. A list of paths and segments, or one of waveforms, is a
    batch, and so are `StemEmbeddings` of more than one input. A single input goes with every one of a batch.

    Args:
        embedder: Separates and embeds the inputs.
        weights_or_fusion: One weight for each stem of the embedder, by name, for a weighted sum; or a fitted fusion.
        card: What is known of the model. Its parts are replaced by those in use where they differ.

    Attributes:
        fusion: The frozen fusion of the stems' similarities.
        card: Card of the model, with the identities of the encoder and the separator in use.

    Raises:
        StemMismatchError: If weights or fusion, card and embedder do not have the same stems.
        ConfigError: If a weight is not finite.

    Example:
        >>> import torch
        >>> from stemsim.embedding import StemEmbedder
        >>> from stemsim.encoders import Spectral
        >>> from stemsim.separators import MixOnly
        >>> sim = StemSimilarity(StemEmbedder(MixOnly(), Spectral(), progress=False), {"mix": 2.0})
        >>> tone = torch.sin(torch.arange(44_100) / 20), 44_100
        >>> round(sim(tone, tone), 6), sim.prefer(tone, tone, tone)
        (2.0, 0.0)
    """

    def __init__(
        self, embedder: StemEmbedder, weights_or_fusion: Mapping[str, float] | Fusion, *, card: ModelCard | None = None
    ) -> None:
        self.embedder = embedder
        if isinstance(weights_or_fusion, Fusion):
            remedy = "Give the embedder a separator with the stems of the fusion."
            check_same_layout(embedder.stems, weights_or_fusion.stems, what="the fusion", remedy=remedy)
            fusion = deepcopy(weights_or_fusion).cpu()
        else:
            fusion = _weighted_sum(embedder.stems, weights_or_fusion)
        self.fusion = fusion.eval().requires_grad_(requires_grad=False)
        self.card: ModelCard = self._described(card)

    @property
    def stems(self) -> StemLayout:
        """Stem layout, in order."""
        return self.embedder.stems

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each stem, in order.

        Raises:
            ConfigError: If the fusion has no stem weights.
        """
        if not isinstance(self.fusion, WeightedFusion):
            raise ConfigError(
                f"{type(self.fusion).__name__} has no stem weights: expected a WeightedFusion. `explain` tells what "
                "each stem contributes to a similarity; `fusion` has all parameters."
            )
        return dict(zip(self.stems, self.fusion.weight.tolist(), strict=True))

    @torch.no_grad()
    def __call__(self, a: Inputs, b: Inputs) -> float | Tensor:
        """Return the similarity of two inputs, or of two batches pair by pair.

        Returns:
            The similarity; higher is closer. In a weighted sum, equal inputs have the sum of the weights of the stems
            that sound. For batches `(n,)` float64.

        Raises:
            StemsimError: If an input is not one, cannot be read or embedded, or the batches are not equally long.
        """
        (query, candidate), single = self._matched(a, b)
        return _result(self.fusion(query, candidate), single=single)

    @torch.no_grad()
    def prefer(self, x: Inputs, a: Inputs, b: Inputs) -> float | Tensor:
        """Return the preference for candidate A or B: similarity(X, A) - similarity(X, B) (paper, section 3.4).

        Returns:
            The preference, clamped to [-1, 1]: positive where A is closer, negative where B is, 0 neutral; swapping A
            and B flips the sign exactly. For batches `(n,)` float64.
        """
        (reference, first, second), single = self._matched(x, a, b)
        return _result(self.fusion.preference(reference, first, second).clamp(-1.0, 1.0), single=single)

    @torch.no_grad()
    def explain(self, a: Inputs, b: Inputs) -> Explanation | list[Explanation]:
        """Return the contribution of each stem to the similarity of two inputs.

        Returns:
            An explanation whose contributions sum to the similarity; for batches one explanation for each pair.
        """
        (query, candidate), single = self._matched(a, b)
        figures = zip(
            self.fusion(query, candidate).tolist(),
            stem_cosines(query, candidate).tolist(),
            self.fusion.contributions(query, candidate).tolist(),
            torch.stack([query.present, candidate.present], dim=2).tolist(),  # (batch, stem, side)
            strict=True,
        )
        weights = self.weights if isinstance(self.fusion, WeightedFusion) else None
        explanations = [
            Explanation(
                self.stems,
                similarity,
                weights,
                dict(zip(self.stems, cosines, strict=True)),
                dict(zip(self.stems, contributions, strict=True)),
                {stem: _SILENT_IN[tuple(in_)] for stem, in_ in zip(self.stems, present, strict=True) if not all(in_)},
            )
            for similarity, cosines, contributions, present in figures
        ]
        return explanations[0] if single else explanations

    def embed(self, inputs: Inputs) -> StemEmbeddings:
        """Embed inputs once, to compare them many times.

        Returns:
            Stem embeddings `(n, stem, dim)` on the CPU, an input of every other method.
        """
        return self._embedded([parse_inputs(inputs, self.stems, self.embedder.spec.dim)])[0]

    def save(self, folder: str | Path) -> None:
        """Write the fitted fusion and the card into a folder, from which `load` makes this model again.

        Raises:
            CheckpointError: If it cannot be written.
        """
        write_model(folder, self.card, self.fusion)

    def _described(self, card: ModelCard | None) -> ModelCard:
        """Return the card of the model as it is."""
        encoder, source, silence = self.embedder.encoder, self.embedder.source, self.embedder.silence
        known = card or ModelCard(
            name="custom", stems=self.stems, encoder=describe(encoder), separator=describe(source), silence=silence
        )
        remedy = "Give the embedder a separator with the stems of the card."
        check_same_layout(self.stems, known.stems, what=f"the card of {known.name!r}", remedy=remedy)
        return replace(
            known,
            encoder=describe(encoder, known.encoder),
            separator=describe(source, known.separator),
            silence=silence,
            fusion=describe(self.fusion),
        )

    def _matched(self, *arguments: Inputs) -> tuple[list[StemEmbeddings], bool]:
        """Embed arguments, and repeat single ones as often as the batches are long."""
        parsed = [parse_inputs(argument, self.stems, self.embedder.spec.dim) for argument in arguments]
        lengths = {len(batch) for batch in parsed if not batch.single}
        if len(lengths) > 1:
            raise ConfigError(
                f"Batches are compared one by one, so they must be equally long; got "
                f"{' and '.join(str(len(batch)) for batch in parsed)} inputs. A single input goes with all of a batch."
            )
        embedded = self._embedded(parsed)
        if not lengths:
            return embedded, True
        rows = torch.zeros(lengths.pop(), dtype=torch.long)
        return [one.take(rows) if batch.single else one for one, batch in zip(embedded, parsed, strict=True)], False

    def _embedded(self, parsed: list[ParsedInputs]) -> list[StemEmbeddings]:
        """Embed all arguments at once, so that an input that occurs in several is embedded once."""
        segments = self.embedder.embed([segment for batch in parsed for segment in batch.segments])
        waveforms = self._once([waveform for batch in parsed for waveform in batch.waveforms])
        files = _parts(segments, [len(batch.segments) for batch in parsed])
        clips = _parts(waveforms, [len(batch.waveforms) for batch in parsed])
        return [
            StemEmbeddings(*(tensor.detach().cpu() for tensor in batch.embeddings))
            if batch.embeddings is not None
            else clip
            if batch.waveforms
            else file
            for batch, file, clip in zip(parsed, files, clips, strict=True)
        ]

    def _once(self, waveforms: list[tuple[Tensor, int]]) -> StemEmbeddings:
        """Embed waveforms, equal ones once."""
        if not waveforms:
            return self.embedder.embed([])  # of sources, too, that cannot separate a waveform
        keys = [
            (rate, waveform.shape, hashlib.blake2b(waveform.contiguous().numpy().data).digest())
            for waveform, rate in waveforms
        ]
        distinct = dict(zip(keys, waveforms, strict=True))
        rows = {key: row for row, key in enumerate(distinct)}
        return self.embedder.embed_waveforms(list(distinct.values())).take(torch.tensor([rows[key] for key in keys]))


def _weighted_sum(stems: StemLayout, weights: Mapping[str, float]) -> LinearFusion:
    """Return the linear fusion with some weights; names travel with them, so that their order is that of the stems."""
    named = stems if set(weights) == set(stems) else tuple(weights)
    remedy = "Give one weight for each stem of the embedder's separator."
    check_same_layout(stems, named, what="the set of weights", remedy=remedy)
    fusion = LinearFusion(stems)
    fusion.start_from(torch.tensor([float(weights[stem]) for stem in stems], dtype=torch.float64))
    return fusion


def _parts(embeddings: StemEmbeddings, lengths: list[int]) -> list[StemEmbeddings]:
    """Cut a batch into consecutive parts."""
    columns = (torch.split(tensor, lengths) for tensor in embeddings)
    return [StemEmbeddings(*part) for part in zip(*columns, strict=True)]


def _result(values: Tensor, *, single: bool) -> float | Tensor:
    return float(values[0]) if single else values
