"""Queries: audio, words, or both, as one vector for each stem."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError
from stemsim.model.inputs import Input, parse_inputs
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.routing import Routing
from stemsim.retrieval.windows import Windowing, embed_windows
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

_SILENT: Final = 1e-6  # length of a mean vector without a direction


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A query of one vector for each stem."""

    stems: StemLayout
    vectors: Tensor  # `(stem, dim)`; zeros where the query is silent
    levels: Tensor | None = None  # `(stem,)` in dBFS, for nonlinear fusions; None for words
    content: str | None = None  # hash of the audio that it is a part of; None if it is not from a file
    start: float = 0.0  # where in that audio it begins, in seconds
    end: float = 0.0  # where it ends

    def __post_init__(self) -> None:
        """Verify the shape."""
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.stems):  # noqa: PLR2004 - a matrix
            raise ConfigError(
                f"Expected one vector for each of {', '.join(self.stems)}; got {tuple(self.vectors.shape)}."
            )

    @property
    def present(self) -> Tensor:
        """`(stem,)` whether the stem sounds."""
        present: Tensor = self.vectors.norm(dim=1) >= _SILENT
        return present

    @property
    def silent(self) -> tuple[str, ...]:
        """The stems that are silent."""
        return tuple(stem for stem, sounds in zip(self.stems, self.present.tolist(), strict=True) if not sounds)

    def overlaps(self, content: str, start: float, end: float) -> bool:
        """Return whether a stretch of audio, from start to end in seconds, is at least in part the query itself."""
        return content == self.content and start < self.end and self.start < end


class Listener(Protocol):
    """Follows how a file becomes a query, batch by batch."""

    def separated(self, segments: Sequence[Segment], stems: Tensor) -> None:
        """Hear the stems `(segment, stem, time)` of windows, mono at the encoder's rate."""

    def embedded(self, segments: Sequence[Segment]) -> None:
        """Take note that windows have been embedded."""


def audio_query(
    audio: Input, embedder: StemEmbedder, windowing: Windowing, *, listener: Listener | None = None
) -> Query:
    """Return the query for a piece of audio, given the library's embedder and windows.

    Audio longer than a window is cut like the files of the library; the vector of each stem is then the mean direction
    over the windows in which it sounds, its level the mean power in these. The listener follows audio from a file.
    """
    parsed = parse_inputs(audio, embedder.stems, embedder.spec.dim)
    if parsed.embeddings is not None:
        return _mean(parsed.embeddings, embedder.stems)
    if parsed.waveforms:
        waveform, rate = parsed.waveforms[0]
        return _mean(_embed_waveform(waveform, rate, embedder, windowing), embedder.stems)
    segment = parsed.segments[0]
    query = _mean(_embed_segment(segment, embedder, windowing, listener), embedder.stems)
    content = embedder.source.content_hash(segment)
    return replace(query, content=content, start=segment.start, end=segment.start + segment.duration)


def _mean(embeddings: StemEmbeddings, stems: StemLayout) -> Query:
    """Average windows `(window, stem, dim)` over those in which each stem sounds."""
    total = embeddings.vectors.double().sum(dim=0)  # silent stems are zeros
    vectors = torch.where(total.norm(dim=1, keepdim=True) > _SILENT, functional.normalize(total, dim=1), 0.0)
    counted = embeddings.present | ~embeddings.present.any(dim=0)
    power = (torch.pow(10.0, embeddings.levels / 10.0) * counted).sum(dim=0) / counted.sum(dim=0)
    return Query(stems, vectors.float(), levels=10.0 * torch.log10(power))


def _embed_segment(
    segment: Segment, embedder: StemEmbedder, windowing: Windowing, listener: Listener | None
) -> StemEmbeddings:
    spans, size = windowing.spans(segment.duration), embedder.batch_size
    windows = [Segment(segment.path, segment.start + start, duration) for start, duration in spans]
    parts = []
    for batch in (windows[start : start + size] for start in range(0, len(windows), size)):
        parts.append(embed_windows(batch, embedder, windowing, heard=None if listener is None else listener.separated))
        if listener is not None:
            listener.embedded(batch)
    return StemEmbeddings(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _embed_waveform(waveform: Tensor, rate: int, embedder: StemEmbedder, windowing: Windowing) -> StemEmbeddings:
    """Embed a waveform `(channel, time)` like a file with the same samples."""
    clips = []
    for start, duration in windowing.spans(waveform.shape[-1] / rate):
        first = round(start * rate)
        clip = waveform[:, first : first + round(duration * rate)]
        padded = round(windowing.padded(duration, embedder.encoder.min_duration) * rate)
        clips.append((functional.pad(clip, (0, max(0, padded - clip.shape[-1]))), rate))
    return embedder.embed_waveforms(clips)


def text_query(text: str, encoder: Encoder, stems: StemLayout) -> Query:
    """Return the query for a description in words: the same vector for every stem of a layout."""
    return Query(stems, _encode(text, encoder).expand(len(stems), -1))


def with_text(
    query: Query, text: str, encoder: Encoder, *, weight: float = 0.5, stems: Sequence[str] | None = None
) -> Query:
    """Mix a description in words into an audio query: the similarity becomes a weighted mean of the two.

    `weight` is the share of the words, `stems` are those that they describe (None: all); the others stay as they are.
    """
    if not 0.0 <= weight <= 1.0:
        raise ConfigError(f"The weight of the text lies between 0 (audio alone) and 1 (words alone); got {weight}.")
    chosen = query.stems if stems is None else tuple(stems)
    if not chosen or not set(chosen) <= set(query.stems):
        named = ", ".join(stem for stem in chosen if stem not in query.stems) or "none"
        raise ConfigError(f"Words describe stems of the library ({', '.join(query.stems)}); got {named}.")
    mixed = (1.0 - weight) * query.vectors + weight * _encode(text, encoder)
    here = torch.tensor([stem in chosen for stem in query.stems]).unsqueeze(1)
    return replace(query, vectors=torch.where(here, mixed, query.vectors), levels=None)


def _encode(text: str, encoder: Encoder) -> Tensor:
    """Return the unit vector `(dim,)` of a description."""
    if not text.strip():
        raise ConfigError("The text is empty; describe a sound, such as 'warm analog bass'.")
    if type(encoder).encode_text is Encoder.encode_text:
        raise ConfigError(
            f"The library was made with the encoder {encoder.identity!r}, which does not encode text: it cannot be "
            f"searched with {text!r}. Make a library with laion-clap or muq-mulan, or search with audio."
        )
    return encoder.encode_text([text])[0].float().cpu()


def check_audible(query: Query, routing: Routing, source: Input | None = None) -> None:
    """Raise a `ConfigError` if every weighted stem of the query is silent: all items would be equally similar.

    `source` is what the query was made of; a file is named.
    """
    asked = {stem for stem, _, _ in routing.pairs}
    if asked <= set(query.silent):
        name = str(source) if isinstance(source, str | Path | Segment) else "The query"
        raise ConfigError(
            f"{name} is silent in {', '.join(sorted(asked))}, the only stems with a weight ({routing.text}). Give "
            "other stems a weight, or take another part of it."
        )


def require_negative_stems(where: ItemFilter | None, routing: Routing) -> ItemFilter | None:
    """Add to conditions that stems of negative weight sound: items that lack them would be favoured for it."""
    negative = [library for _, library, weight in routing.pairs if weight < 0.0]
    if not negative:
        return where
    conditions = where or ItemFilter()
    return replace(conditions, stems=tuple(dict.fromkeys([*(conditions.stems or ()), *negative])))
