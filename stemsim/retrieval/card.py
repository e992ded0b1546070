"""The card of a library: how it was made, so that a search needs no options, and cannot mix two kinds of vectors."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stemsim.embedding import EmbeddingSpec, StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, StemMismatchError, StoreError
from stemsim.model.parts import Part, build_encoder, build_separator, describe
from stemsim.retrieval.windows import Windowing
from stemsim.separators import MixOnly, Multitrack, StemSource
from stemsim.stems import StemLayout, stem_layout

__all__ = ["LibraryCard", "card_of_json"]

_MULTITRACK: Final = re.compile(r"multitrack\((.+)\)")
_VERSION: Final = 1  # raise it whenever older libraries cannot be read any more


@dataclass(frozen=True, slots=True)
class LibraryCard:
    """How a library was made.

    Attributes:
        encoder: What embedded its items.
        separator: What separated them.
        silence: Level in dBFS under which a stem is silent; None embeds every stem whatever its level.
        preprocessing: What happened between the two, as the embedder names it.
        stems: Stem layout of the items.
        dim: Length of one vector.
        windowing: How files were cut.
        weights: Weight of each stem that a search takes if it is told none; empty: all equal.
        model: The ready-made model that encoder, separator and weights are of; None if they are of none.
        index: Where the items are: None, in the library itself, or the URI of a server.
    """

    encoder: Part
    separator: Part
    silence: float | None
    preprocessing: str
    stems: StemLayout
    dim: int
    windowing: Windowing = field(default_factory=Windowing)
    weights: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        """Verify that weights are those of the stems."""
        stem_layout(self.stems)
        if self.weights and tuple(self.weights) != self.stems:
            raise StemMismatchError(
                self.stems, tuple(self.weights), what="the set of weights", remedy="Give one weight for each stem."
            )

    @classmethod
    def of(
        cls,
        embedder: StemEmbedder,
        *,
        windowing: Windowing,
        weights: Mapping[str, float] | None = None,
        model: str | None = None,
        index: str | None = None,
    ) -> "LibraryCard":
        """Return the card of a library that an embedder makes.

        Args:
            embedder: Separates and embeds the items.
            windowing: How files are cut.
            weights: Weights of a search that is told none.
            model: Name of the model that they are of.
            index: URI of the server that holds the items.
        """
        return cls(
            describe(embedder.encoder),
            describe(embedder.source),
            embedder.silence,
            embedder.spec.preprocessing,
            embedder.stems,
            embedder.spec.dim,
            windowing,
            dict(weights or {}),
            model,
            index,
        )

    @property
    def is_multitrack(self) -> bool:
        """Whether stems come from files beside a song's mix."""
        return _MULTITRACK.fullmatch(self.separator.identity or "") is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain dictionaries and lists."""
        parts: dict[str, Any] = {
            part.kind: {"name": part.name, "options": dict(part.options), "identity": part.identity}
            for part in (self.encoder, self.separator)
        }
        return {
            "version": _VERSION,
            **parts,
            "silence": self.silence,
            "preprocessing": self.preprocessing,
            "stems": list(self.stems),
            "dim": self.dim,
            "window": self.windowing.length,
            "hop": self.windowing.hop,
            "weights": list(self.weights.values()),  # in the order of the stems
            "model": self.model,
            "index": self.index,
        }

    def build_embedder(
        self,
        *,
        encoder: Encoder | None = None,
        separator: StemSource | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> StemEmbedder:
        """Make the embedder that the library was made with.

        Args:
            encoder: The encoder; None makes the one that the card names.
            separator: The separator; None makes the one that the card names.
            device: Where they compute.
            batch_size: Most items embedded at once.
            workers: Batches in work at the same time.

        Raises:
            ConfigError: If the card names none that stemsim knows, or what is made is not what the library was made
                with.
            DataNotFoundError: If weights are missing.
        """
        embedder = StemEmbedder(
            self._build_separator() if separator is None else separator,
            build_encoder(self.encoder) if encoder is None else encoder,
            silence=self.silence,
            device=device,
            batch_size=batch_size,
            workers=workers,
            progress=False,
        )
        self.check_embedder(embedder.spec)
        return embedder

    def check_buildable(self) -> None:
        """Raise unless encoder and separator can be made from the card alone, such as on another machine.

        Raises:
            ConfigError: If one of them is none that stemsim knows.
        """
        for part in (self.encoder, self.separator):
            if part.name is None and not (part is self.separator and self.is_multitrack):
                msg = (
                    f"The library was made with the {part.kind} {part.identity!r}, which stemsim does not ship, so "
                    "that no other machine can make it. Add files in this process (without an engine)."
                )
                raise ConfigError(msg)

    def build_hash_source(self) -> StemSource:
        """Make a source that hashes files as the library's own does, and needs no weights."""
        return self._build_separator() if self.is_multitrack else MixOnly()

    def _build_separator(self) -> StemSource:
        """Make the separator; true stems have no name in the table of parts, but say of themselves which they are."""
        found = _MULTITRACK.fullmatch(self.separator.identity or "")
        return build_separator(self.separator) if found is None else Multitrack(found[1].split("+"))

    def check_embedder(self, spec: EmbeddingSpec) -> None:
        """Raise, naming both, unless an embedder gives vectors of the kind that the library holds.

        Args:
            spec: What the embedder gives.

        Raises:
            StemMismatchError: If the stem layouts differ.
            ConfigError: If encoder, separator or what happens between them differs.
        """
        if spec.stems != self.stems:
            raise StemMismatchError(
                self.stems,
                spec.stems,
                what=f"the separator {spec.separator!r}",
                remedy=f"The library was made with {self.separator.identity!r}: use that, or make another library.",
            )
        for what, mine, theirs in (
            ("encoder", self.encoder.identity, spec.encoder),
            ("separator", self.separator.identity, spec.separator),
            ("preprocessing", self.preprocessing, spec.preprocessing),
        ):
            if mine != theirs:
                msg = (
                    f"The library was made with the {what} {mine!r}, and this is {theirs!r}: their vectors cannot be "
                    "compared. Use what the library was made with (leave the options out), or make another library."
                )
                raise ConfigError(msg)


def card_of_json(text: str, where: str) -> LibraryCard:
    """Read a card.

    Args:
        text: What `LibraryCard.to_dict` gave, as JSON.
        where: The library, for errors.

    Returns:
        The card.

    Raises:
        StoreError: If it is none, or of another version.
    """
    try:
        content = json.loads(text)
        if content["version"] != _VERSION:
            msg = f"The library {where} is of version {content['version']}, expected {_VERSION}. Make it again."
            raise StoreError(msg)
        stems = tuple(content["stems"])
        return LibraryCard(
            encoder=Part("encoder", **content["encoder"]),
            separator=Part("separator", **content["separator"]),
            silence=content["silence"],
            preprocessing=content["preprocessing"],
            stems=stems,
            dim=content["dim"],
            windowing=Windowing(content["window"], content["hop"]),
            weights=dict(zip(stems, content["weights"], strict=True)) if content["weights"] else {},
            model=content["model"],
            index=content["index"],
        )
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        msg = f"{where} is no library of stemsim ({error!r}). Name another folder."
        raise StoreError(msg) from error
