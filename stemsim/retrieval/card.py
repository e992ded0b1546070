"""The card of a library: how it was made, so that a search needs no options and cannot mix two kinds of vectors."""

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, Self

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from stemsim.documents import read_json
from stemsim.embedding import EmbeddingSpec, StemEmbedder
from stemsim.encoders import Encoder
from stemsim.errors import ConfigError, StemMismatchError, StoreError
from stemsim.model.parts import Part, build, describe
from stemsim.retrieval.windows import Windowing
from stemsim.separators import MixOnly, Multitrack, StemSource
from stemsim.stems import StemLayout, stem_layout

_VERSION: Final = 2  # raise it whenever older versions of stemsim cannot read new libraries


@dataclass(frozen=True, slots=True)
class LibraryCard:
    """The models and settings that a library was made with."""

    encoder: Part
    separator: Part
    silence: float | None  # level in dBFS below which a stem is silent; None embeds every stem
    preprocessing: str  # version and options of the steps between the two, as the embedder names them
    stems: StemLayout
    dim: int
    window: float = 5.0  # length of an item in seconds
    hop: float | None = None  # from one item's start to the next; None: `window`
    weights: Mapping[str, float] = field(default_factory=dict)  # of a search by default; empty: all equal
    model: str | None = None  # name or folder of the model that encoder, separator and weights are from
    fusion: str | None = None  # class of the model's fusion if that is nonlinear and so ranks the best items again
    index: str | None = None  # Milvus that holds the items (`URI#collection`); None: the library itself

    def __post_init__(self) -> None:
        """Verify that windows have a length, and that weights are those of the stems."""
        stem_layout(self.stems)
        Windowing(self.window, self.hop)
        if self.weights and tuple(self.weights) != self.stems:
            remedy = "Give one weight for each stem."
            raise StemMismatchError(self.stems, tuple(self.weights), what="the set of weights", remedy=remedy)

    @classmethod
    def of(cls, embedder: StemEmbedder, **settings: Any) -> Self:
        """Return the card of a library made by an embedder, `settings` being the attributes from `window` on."""
        encoder, separator, spec = describe(embedder.encoder), describe(embedder.source), embedder.spec
        return cls(encoder, separator, embedder.silence, spec.preprocessing, spec.stems, spec.dim, **settings)

    @property
    def windowing(self) -> Windowing:
        """Length and hop of the windows that files are cut into."""
        return Windowing(self.window, self.hop)

    @property
    def spec(self) -> EmbeddingSpec:
        """Specification of the library's embeddings."""
        separator, encoder = str(self.separator.identity), str(self.encoder.identity)
        return EmbeddingSpec(separator, encoder, self.preprocessing, self.stems, self.dim)

    @property
    def is_multitrack(self) -> bool:
        """True if stems come from files beside a song's mix."""
        return self.separator.name == "multitrack"

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain dictionaries and lists."""
        kinds = {"encoder": {"kind"}, "separator": {"kind"}}
        content: dict[str, Any] = _CARD.dump_python(self, mode="json", exclude=kinds)
        return {"version": _VERSION, **content, "weights": list(self.weights.values())}  # in the order of the stems

    def to_json(self) -> str:
        """Return the card as JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> "LibraryCard":
        """Read a card; `where` is the library, for errors.

        Raises:
            StoreError: If it is not a card, or of another version.
        """
        try:
            content = read_json(text)
            # In version 1 an item had one category. `LanceIndex` updates its tables, but those of Milvus are fixed.
            if content["version"] != _VERSION and (content["version"] != 1 or content.get("index")):
                raise StoreError(f"{where} has version {content['version']}, expected {_VERSION}. Make it again.")
            stems = content["stems"]
            if content["separator"]["identity"] == Multitrack(stems).identity:  # older cards do not name it
                content["separator"] |= {"name": "multitrack", "options": {"stems": stems}}
            for kind in ("encoder", "separator"):
                content[kind]["kind"] = kind
            content["weights"] = dict(zip(stems, content["weights"], strict=True)) if content["weights"] else {}
            return _CARD.validate_python(content)
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise StoreError(f"{where} is not a library of stemsim ({error!r}). Name another folder.") from error

    def build_embedder(
        self, *, encoder: Encoder | None = None, separator: StemSource | None = None, **options: Any
    ) -> StemEmbedder:
        """Build the embedder that the library was made with; parts that are not given are built from the card.

        `options` are `device`, `batch_size` and `workers` of `StemEmbedder`.

        Raises:
            ConfigError: If the card names one that stemsim does not ship, or the result is not what the library was
                made with.
            DataNotFoundError: If weights are missing.
        """
        embedder = StemEmbedder(
            build(self.separator) if separator is None else separator,
            build(self.encoder) if encoder is None else encoder,
            silence=self.silence,
            progress=False,
            **options,
        )
        self.check_embedder(embedder)
        return embedder

    def check_buildable(self) -> None:
        """Raise a `ConfigError` unless stemsim ships encoder and separator, so that other machines can build them."""
        for part in (self.encoder, self.separator):
            if part.name is None:
                raise ConfigError(
                    f"The library was made with the {part.kind} {part.identity!r}, which stemsim does not ship, so "
                    "that no other machine can build it. Add files in this process (without an engine)."
                )

    def build_hash_source(self) -> StemSource:
        """Build a source that hashes files as the library's own does, and needs no weights."""
        source: StemSource = build(self.separator) if self.is_multitrack else MixOnly()
        return source

    def check_embedder(self, embedder: StemEmbedder) -> None:
        """Raise, naming both, unless an embedder makes vectors of the kind that the library holds."""
        made = f"The library was made with {self.separator} x {self.encoder}"
        remedy = f"{made}: leave the options out, or make another library."
        self.spec.check(embedder.spec.text, "this embedder", remedy=remedy)


_CARD: Final = TypeAdapter(LibraryCard)
