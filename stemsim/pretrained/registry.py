"""The pretrained models that we know, by upstream's own names."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["PRETRAINED", "Pretrained"]

Kind = Literal["encoder", "separator", "part"]


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A pretrained model as it is published.

    Attributes:
        name: Upstream's name of it.
        kind: What it is for; a `part` is nothing on its own.
        summary: What it is, in a few words.
        repo: Repository on the Hugging Face hub.
        files: What is needed of it; alternatives, the best one first, are parted by `|`.
        megabytes: Size of all files, rounded.
        license: Of the weights.
        noncommercial: Whether that licence forbids commercial use.
        needs: Names of the parts that come along.
    """

    name: str
    kind: Kind
    summary: str
    repo: str
    files: tuple[str, ...]
    megabytes: int
    license: str
    noncommercial: bool = False
    needs: tuple[str, ...] = ()

    @property
    def alternatives(self) -> tuple[tuple[str, ...], ...]:
        """Return, for each file, the names that it may have."""
        return tuple(tuple(name.split("|")) for name in self.files)

    @property
    def terms(self) -> str:
        """Return the licence, and in words what it forbids."""
        return f"{self.license}: not for commercial use" if self.noncommercial else self.license


_MODELS: Final = (
    Pretrained(
        name="630k-audioset-best",
        kind="encoder",
        summary="LAION-CLAP, HTSAT-tiny: the paper's",
        repo="lukewys/laion_clap",
        files=("630k-audioset-best.pt",),
        megabytes=1860,
        license="CC0-1.0",
    ),
    Pretrained(
        name="music_audioset_epoch_15_esc_90.14",
        kind="encoder",
        summary="LAION-CLAP, HTSAT-base, trained on music",
        repo="lukewys/laion_clap",
        files=("music_audioset_epoch_15_esc_90.14.pt",),
        megabytes=2350,
        license="CC0-1.0",
    ),
    Pretrained(
        name="MuQ-MuLan-large",
        kind="encoder",
        summary="MuQ-MuLan: the paper's best",
        repo="OpenMuQ/MuQ-MuLan-large",
        files=("config.json", "model.safetensors|pytorch_model.bin"),
        megabytes=2600,
        license="CC-BY-NC-4.0",
        noncommercial=True,
        needs=("MuQ-large-msd-iter",),
    ),
    Pretrained(
        name="htdemucs",
        kind="separator",
        summary="Demucs v4: 4 stems",
        repo="adefossez/HTDemucs",
        files=("htdemucs.yaml", "955717e8.safetensors|955717e8-8726e21a.th"),
        megabytes=84,
        license="MIT",
    ),
    Pretrained(
        name="htdemucs_6s",
        kind="separator",
        summary="Demucs v4: 6 stems",
        repo="adefossez/HTDemucs-6s",
        files=("htdemucs_6s.yaml", "5c90dfd2.safetensors|5c90dfd2-34c22ccb.th"),
        megabytes=55,
        license="MIT",
    ),
    Pretrained(
        name="MuQ-large-msd-iter",
        kind="part",
        summary="settings of MuQ, for MuQ-MuLan",
        repo="OpenMuQ/MuQ-large-msd-iter",
        files=("config.json",),
        megabytes=0,
        license="CC-BY-NC-4.0",
        noncommercial=True,
    ),
    Pretrained(
        name="roberta-base",
        kind="part",
        summary="tokenizer, for words with LAION-CLAP",
        repo="FacebookAI/roberta-base",
        files=("config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"),
        megabytes=3,
        license="MIT",
    ),
    Pretrained(
        name="xlm-roberta-base",
        kind="part",
        summary="tokenizer, for words with MuQ-MuLan",
        repo="FacebookAI/xlm-roberta-base",
        files=("config.json", "tokenizer.json", "sentencepiece.bpe.model", "tokenizer_config.json"),
        megabytes=14,
        license="MIT",
    ),
)

PRETRAINED: Final[Mapping[str, Pretrained]] = MappingProxyType({model.name: model for model in _MODELS})
"""By name: the encoders, the separators, and the parts that they need."""
