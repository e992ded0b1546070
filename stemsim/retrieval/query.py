"""What one searches with: audio, words, or both, as one vector a stem."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stemsim.audio import Segment
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError
from stemsim.model.inputs import Input, parse_inputs
from stemsim.retrieval.embedding_files import embed_clips
from stemsim.retrieval.filter import ItemFilter
from stemsim.retrieval.routing import Routing
from stemsim.retrieval.windows import Windowing
from stemsim.similarity import StemEmbeddings
from stemsim.stems import StemLayout

__all__ = ["Query", "audio_query", "check_heard", "stems_to_sound", "text_query", "with_text"]

_SILENT: Final = 1e-6  # length of a mean vector that points nowhere


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What one searches with.

    Attributes:
        stems: Stem layout, in order.
        vectors: `(stem, dim)`; zeros where the query has nothing to say about a stem.
        content: Hash of the audio that it is a part of; None if it is no file.
        start: Where in that audio it begins, in seconds.
        end: Where it ends.
    """

    stems: StemLayout
    vectors: Tensor
    content: str | None = None
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        """Verify the shape."""
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.stems):  # noqa: PLR2004 - a matrix
            msg = f"Expected one vector for each of {', '.join(self.stems)}; got {tuple(self.vectors.shape)}."
            raise ConfigError(msg)

    @property
    def silent(self) -> tuple[str, ...]:
        """The stems about which it has nothing to say."""
        lengths = self.vectors.norm(dim=1)
        return tuple(stem for stem, length in zip(self.stems, lengths.tolist(), strict=True) if length < _SILENT)

    def overlaps(self, content: str, start: float, end: float) -> bool:
        """Tell whether a stretch of audio is, in part at least, the query itself.

        Args:
            content: Hash of the audio.
            start: Where the stretch begins, in seconds.
            end: Where it ends.
        """
        return content == self.content and start < self.end and self.start < end


def audio_query(audio: Input, embedder: StemEmbedder, windowing: Windowing) -> Query:
    """Return the query that a piece of audio is.

    What is longer than a window is cut like the files of the library, and each stem is represented by the mean of its
    vectors over the windows in which it sounds.

    Args:
        audio: A path, a `Segment`, `(waveform, sample_rate)`, or `StemEmbeddings` of windows.
        embedder: The library's.
        windowing: How its files are cut.

    Returns:
        The query.

    Raises:
        StemsimError: If it is none of these, or cannot be read or embedded.
    """
    parsed = parse_inputs(audio, embedder.stems, embedder.spec.dim)
    if parsed.embeddings is not None:
        return Query(embedder.stems, _mean(parsed.embeddings))
    if parsed.waveforms:
        waveform, rate = parsed.waveforms[0]
        return Query(embedder.stems, _mean(_embed_waveform(waveform, rate, embedder, windowing)))
    segment = parsed.segments[0]
    embeddings = _embed_segment(segment, embedder, windowing)
    content = embedder.source.content_hash(segment)
    return Query(embedder.stems, _mean(embeddings), content, segment.start, segment.start + segment.duration)


def _mean(embeddings: StemEmbeddings) -> Tensor:
    """Return the mean direction `(stem, dim)` of each stem over the windows in which it sounds."""
    total = embeddings.vectors.double().sum(dim=0)  # silent stems are zeros
    return torch.where(total.norm(dim=1, keepdim=True) > _SILENT, normalize(total, dim=1), 0.0).float()


def _embed_segment(segment: Segment, embedder: StemEmbedder, windowing: Windowing) -> StemEmbeddings:
    windows = [
        Segment(segment.path, segment.start + start, duration) for start, duration in windowing.spans(segment.duration)
    ]
    parts = [
        embed_clips(windows[start : start + embedder.batch_size], embedder, windowing)
        for start in range(0, len(windows), embedder.batch_size)
    ]
    return StemEmbeddings(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _embed_waveform(waveform: Tensor, rate: int, embedder: StemEmbedder, windowing: Windowing) -> StemEmbeddings:
    """Embed a waveform `(channel, time)` as a file with it would be."""
    clips = []
    for start, duration in windowing.spans(waveform.shape[-1] / rate):
        first = round(start * rate)
        clip = waveform[:, first : first + round(duration * rate)]
        filled = round(windowing.filled(duration, embedder.encoder.min_duration) * rate)
        clips.append((torch.nn.functional.pad(clip, (0, max(0, filled - clip.shape[-1]))), rate))
    return embedder.embed_waveforms(clips)


def text_query(text: str, encoder: Encoder, stems: StemLayout) -> Query:
    """Return the query that a description in words is: one vector that stands for every stem.

    Args:
        text: Such as "warm analog bass".
        encoder: The library's; it must know text.
        stems: Stem layout of the library.

    Returns:
        The query.

    Raises:
        ConfigError: If the encoder knows no text, or the text is empty.
        DataNotFoundError: If the tokenizer is not here.
    """
    return Query(stems, _encode(text, encoder).expand(len(stems), -1))


def with_text(
    query: Query, text: str, encoder: Encoder, *, weight: float = 0.5, stems: Sequence[str] | None = None
) -> Query:
    """Mix a description in words into a query: the similarity becomes a weighted mean of the two.

    Args:
        query: An audio query.
        text: The description.
        encoder: The library's; it must know text.
        weight: Share of the words, from 0 to 1.
        stems: The stems that the words are about; None: all. The others stay the query's alone.

    Returns:
        The mixed query.

    Raises:
        ConfigError: If the weight is out of range, a stem is unknown, or the encoder knows no text.
    """
    if not 0.0 <= weight <= 1.0:
        msg = f"The weight of the text lies between 0 (audio alone) and 1 (words alone); got {weight}."
        raise ConfigError(msg)
    chosen = query.stems if stems is None else tuple(stems)
    if not chosen or (unknown := [stem for stem in chosen if stem not in query.stems]):
        named = ", ".join(unknown) if chosen else "none"
        msg = f"Words are about stems of the library ({', '.join(query.stems)}); got {named}."
        raise ConfigError(msg)
    mixed = (1.0 - weight) * query.vectors + weight * _encode(text, encoder)
    here = torch.tensor([stem in chosen for stem in query.stems]).unsqueeze(1)
    return replace(query, vectors=torch.where(here, mixed, query.vectors))


def _encode(text: str, encoder: Encoder) -> Tensor:
    """Return the unit vector `(dim,)` of a description."""
    if not text.strip():
        msg = "The text is empty; describe a sound, such as 'warm analog bass'."
        raise ConfigError(msg)
    if type(encoder).encode_text is Encoder.encode_text:
        msg = (
            f"The library was made with the encoder {encoder.identity!r}, which knows no text: it cannot be searched "
            f"with {text!r}. Make a library with laion-clap or muq-mulan, or search with audio."
        )
        raise ConfigError(msg)
    return encoder.encode_text([text])[0].float().cpu()


def check_heard(query: Query, routing: Routing) -> None:
    """Raise if every stem of the query that counts is silent: all items would be equally similar.

    Args:
        query: The query.
        routing: What counts.

    Raises:
        ConfigError: If nothing of the query is left.
    """
    asked = {stem for stem, _, _ in routing.pairs}
    if asked <= set(query.silent):
        msg = (
            f"The query is silent in {', '.join(sorted(asked))}, which is all that counts here ({routing.text}). Weigh "
            "other stems, or take another part of it."
        )
        raise ConfigError(msg)


def stems_to_sound(where: ItemFilter | None, routing: Routing) -> ItemFilter | None:
    """Ask for the stems that count less than nothing: an item that lacks them would be favoured for it.

    Args:
        where: Conditions.
        routing: Weights.

    Returns:
        The conditions with those stems added.
    """
    negative = [library for _, library, weight in routing.pairs if weight < 0.0]
    if not negative:
        return where
    conditions = where or ItemFilter()
    return replace(conditions, stems=tuple(dict.fromkeys([*(conditions.stems or ()), *negative])))
