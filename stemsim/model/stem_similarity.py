"""The model without Lightning: what `stemsim.load` returns."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from stemsim.embedding import StemEmbedder
from stemsim.errors import ConfigError
from stemsim.fusion import LinearFusion
from stemsim.model.card import ModelCard, write_model
from stemsim.model.explanation import Explanation, SilentIn
from stemsim.model.inputs import Inputs, ParsedInputs, parse_inputs
from stemsim.model.parts import describe
from stemsim.similarity import StemEmbeddings, stem_cosines
from stemsim.stems import StemLayout, check_same_layout

__all__ = ["StemSimilarity"]

_SILENT_IN: Final[dict[tuple[bool, bool], SilentIn]] = {
    (False, True): "a",
    (True, False): "b",
    (False, False): "both",
}  # by whether the stem is present in A and in B


class StemSimilarity:
    """How similar two pieces sound: the weighted sum of the cosines of their stems (paper, section 3.4).

    An input is the path of an audio file (all of it), a `Segment`, `(waveform, sample_rate)` with floats `(time,)` or
    `(channel, time)`, or `StemEmbeddings` that `embed` gave. A list of paths and segments, or one of waveforms, is a
    batch, and so are `StemEmbeddings` of more than one input. A single input goes with every one of a batch.

    Args:
        embedder: Separates and embeds the inputs.
        weights: One weight for each stem of the embedder, by name.
        card: What is known of the model. Its parts are replaced by those of the embedder where they differ.

    Raises:
        StemMismatchError: If weights, card and embedder do not have the same stems.
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

    def __init__(self, embedder: StemEmbedder, weights: Mapping[str, float], *, card: ModelCard | None = None) -> None:
        stems = embedder.stems
        named = tuple(stem for stem in stems if stem in weights)  # names travel with the weights: their order is ours
        check_same_layout(
            stems,
            named if len(named) == len(stems) == len(weights) else tuple(weights),
            what="the set of weights",
            remedy="Give one weight for each stem of the embedder's separator.",
        )
        self.embedder = embedder
        self._fusion = LinearFusion(stems)
        self._fusion.set_weights(torch.tensor([float(weights[stem]) for stem in stems], dtype=torch.float64))
        self._fusion.requires_grad_(requires_grad=False)
        self._card = self._described(card)

    @property
    def stems(self) -> StemLayout:
        """Stem layout, in order."""
        return self.embedder.stems

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each stem, in order."""
        return dict(zip(self.stems, self._fusion.weight.tolist(), strict=True))

    @property
    def card(self) -> ModelCard:
        """What is known of the model, with the identities of the encoder and the separator in use."""
        return self._card

    def __call__(self, a: Inputs, b: Inputs) -> float | Tensor:
        """Return how similar two inputs, or the inputs of two batches one by one, sound.

        Args:
            a: One input or a batch.
            b: One input or a batch.

        Returns:
            The similarity; higher is closer, and equal inputs have the sum of the weights of the stems that sound. For
            batches `(n,)` float64.

        Raises:
            StemsimError: If an input is none, cannot be read or embedded, or the batches are not equally long.
        """
        (query, candidate), single = self._matched(a, b)
        return _result(self._similarity(query, candidate), single=single)

    def prefer(self, x: Inputs, a: Inputs, b: Inputs) -> float | Tensor:
        """Return which of A and B is closer to X: sum_i w_i (cos(X_i, A_i) - cos(X_i, B_i)) (paper, section 3.4).

        Args:
            x: The reference, or a batch.
            a: The first candidate, or a batch.
            b: The second candidate, or a batch.

        Returns:
            The preference, clamped to [-1, 1]: positive where A is closer, negative where B is, 0 neutral; swapping A
            and B flips the sign exactly. For batches `(n,)` float64.

        Raises:
            StemsimError: As for a similarity.
        """
        (reference, first, second), single = self._matched(x, a, b)
        with torch.no_grad():
            preference = self._fusion.preference(reference, first, second).clamp(-1.0, 1.0)
        return _result(preference, single=single)

    def explain(self, a: Inputs, b: Inputs) -> Explanation | list[Explanation]:
        """Return what each stem adds to the similarity of two inputs.

        Args:
            a: One input or a batch.
            b: One input or a batch.

        Returns:
            An explanation, whose contributions sum to the similarity; for batches one for each pair.

        Raises:
            StemsimError: As for a similarity.
        """
        (query, candidate), single = self._matched(a, b)
        with torch.no_grad():
            contributions = self._fusion.contributions(query, candidate)
        figures = zip(
            self._similarity(query, candidate).tolist(),
            stem_cosines(query, candidate).tolist(),
            contributions.tolist(),
            query.present.tolist(),
            candidate.present.tolist(),
            strict=True,
        )
        explanations = [self._explanation(*row) for row in figures]
        return explanations[0] if single else explanations

    def embed(self, inputs: Inputs) -> StemEmbeddings:
        """Embed inputs once, to compare them often.

        Args:
            inputs: One input or a batch.

        Returns:
            Stem embeddings `(n, stem, dim)` on the CPU, an input of every other method.

        Raises:
            StemsimError: If an input is none, or cannot be read or embedded.
        """
        return self._embedded([self._parsed(inputs)])[0]

    def save(self, folder: str | Path) -> None:
        """Write weights and card, from which `load` makes this model again.

        Args:
            folder: Folder to write to; made if there is none.

        Raises:
            CheckpointError: If it cannot be written.
        """
        write_model(folder, self._card, self._fusion.weight)

    def _described(self, card: ModelCard | None) -> ModelCard:
        """Return the card of the model as it is."""
        weights = tuple(self.weights.values())
        encoder = describe(self.embedder.encoder, None if card is None else card.encoder)
        separator = describe(self.embedder.source, None if card is None else card.separator)
        if card is None:
            return ModelCard("custom", self.stems, weights, encoder, separator, self.embedder.silence)
        check_same_layout(
            self.stems,
            card.stems,
            what=f"the card of {card.name!r}",
            remedy="Give the embedder a separator with the stems of the card.",
        )
        return replace(card, weights=weights, encoder=encoder, separator=separator, silence=self.embedder.silence)

    def _similarity(self, query: StemEmbeddings, candidate: StemEmbeddings) -> Tensor:
        with torch.no_grad():
            similarity: Tensor = self._fusion(query, candidate)
        return similarity

    def _parsed(self, inputs: Inputs) -> ParsedInputs:
        return parse_inputs(inputs, self.stems, self.embedder.spec.dim)

    def _matched(self, *arguments: Inputs) -> tuple[list[StemEmbeddings], bool]:
        """Embed arguments, and repeat single ones as often as the batches are long."""
        parsed = [self._parsed(argument) for argument in arguments]
        lengths = {len(batch) for batch in parsed if not batch.single}
        if len(lengths) > 1:
            msg = (
                f"Batches are compared one by one, so they must be equally long; got "
                f"{' and '.join(str(len(batch)) for batch in parsed)} inputs. A single input goes with all of a batch."
            )
            raise ConfigError(msg)
        embedded = self._embedded(parsed)
        if not lengths:
            return embedded, True
        rows = torch.zeros(lengths.pop(), dtype=torch.long)
        return [one.take(rows) if batch.single else one for one, batch in zip(embedded, parsed, strict=True)], False

    def _embedded(self, parsed: list[ParsedInputs]) -> list[StemEmbeddings]:
        """Embed all arguments at once, so that what occurs in several is embedded once."""
        segments = [segment for batch in parsed for segment in batch.segments]
        waveforms = [waveform for batch in parsed for waveform in batch.waveforms]
        files = self.embedder.embed(segments) if segments else self._empty()
        clips = self._embed_waveforms(waveforms) if waveforms else self._empty()
        first_file, first_clip = 0, 0
        results = []
        for batch in parsed:
            if batch.embeddings is not None:
                results.append(StemEmbeddings(*(tensor.detach().cpu() for tensor in batch.embeddings)))
                continue
            files_here = torch.arange(first_file, first_file + len(batch.segments))
            clips_here = torch.arange(first_clip, first_clip + len(batch.waveforms))
            results.append(files.take(files_here) if len(files_here) else clips.take(clips_here))
            first_file += len(files_here)
            first_clip += len(clips_here)
        return results

    def _embed_waveforms(self, waveforms: list[tuple[Tensor, int]]) -> StemEmbeddings:
        """Embed waveforms, equal ones once."""
        keys = [_content(waveform, rate) for waveform, rate in waveforms]
        distinct = dict(zip(keys, waveforms, strict=True))
        rows = {key: row for row, key in enumerate(distinct)}
        return self.embedder.embed_waveforms(list(distinct.values())).take(torch.tensor([rows[key] for key in keys]))

    def _empty(self) -> StemEmbeddings:
        levels = torch.zeros(0, len(self.stems))
        return StemEmbeddings(torch.zeros(0, len(self.stems), self.embedder.spec.dim), levels, levels.bool())

    def _explanation(
        self, similarity: float, cosines: list[float], contributions: list[float], in_a: list[bool], in_b: list[bool]
    ) -> Explanation:
        silent = {
            stem: _SILENT_IN[present]
            for stem, present in zip(self.stems, zip(in_a, in_b, strict=True), strict=True)
            if not all(present)
        }
        cosine = dict(zip(self.stems, cosines, strict=True))
        contribution = dict(zip(self.stems, contributions, strict=True))
        return Explanation(self.stems, similarity, self.weights, cosine, contribution, silent)


def _content(waveform: Tensor, rate: int) -> tuple[int, tuple[int, ...], bytes]:
    """Return what two waveforms share only if they are equal."""
    samples = waveform.contiguous().numpy()
    return rate, tuple(waveform.shape), hashlib.blake2b(samples.data, digest_size=16).digest()


def _result(values: Tensor, *, single: bool) -> float | Tensor:
    return float(values[0]) if single else values
