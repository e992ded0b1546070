"""Registry of the pretrained models that stemsim knows, by upstream's own names."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["encoder", "separator", "part"]


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A pretrained model as its publisher offers it.

    Attributes:
        name: Upstream's name of it.
        kind: Its purpose; a `part` is of no use on its own.
        summary: A short description.
        repo: Repository on the Hugging Face hub.
        files: Files that are needed; alternatives, the best one first, are separated by `|`.
        megabytes: Size of all files, rounded.
        license: Terms of use of the weights in the publisher's words; `not stated` where there are none.
        license_source: Address where the publisher says so.
        noncommercial: Whether these terms exclude commercial use.
        needs: Names of the parts that are downloaded with it.
    """

    name: str
    kind: Kind
    summary: str
    repo: str
    files: tuple[str, ...]
    megabytes: int
    license: str
    license_source: str
    noncommercial: bool = False
    needs: tuple[str, ...] = ()

    @property
    def alternatives(self) -> tuple[tuple[str, ...], ...]:
        """Return, for each file, the names that it may have."""
        return tuple(tuple(name.split("|")) for name in self.files)

    @property
    def terms(self) -> str:
        """Return the license of the weights, and that it excludes commercial use if it does."""
        return f"{self.license}{', no commercial use' if self.noncommercial else ''}"


# The metadata of the model card on the hub: https://huggingface.co/lukewys/laion_clap/blob/main/README.md
_clap = partial(
    Pretrained,
    kind="encoder",
    repo="lukewys/laion_clap",
    license="CC0-1.0",
    license_source="https://huggingface.co/lukewys/laion_clap",
)
# "The model weights (MuQ-large-msd-iter, MuQ-MuLan-large) in this repository are released under the CC-BY-NC 4.0
# license": README and LICENSE_weights of the repository and of the package muq.
_muq = partial(
    Pretrained,
    license="CC-BY-NC-4.0",
    license_source="https://github.com/tencent-ailab/MuQ#license",
    noncommercial=True,
)
# Alexandre Défossez, the author, in issue #327 (2022): "The model weights are not covered by the MIT license, and are
# provided only for scientific purposes"; in #508 (2023), asked about commercial products: "Weights are provided for
# research purpose!" His hub repositories, published in July 2026, first carried the tag `mit`, which a later commit
# removed (https://huggingface.co/adefossez/HTDemucs-6s/discussions/1).
_demucs = partial(
    Pretrained,
    kind="separator",
    license="not covered by the MIT license of the code; for scientific purposes only",
    license_source="https://github.com/facebookresearch/demucs/issues/327",
    noncommercial=True,
)

_MODELS: Final = (
    _clap(
        name="630k-audioset-best",
        summary="LAION-CLAP, HTSAT-tiny: the paper's",
        files=("630k-audioset-best.pt",),
        megabytes=1860,
    ),
    _clap(
        name="music_audioset_epoch_15_esc_90.14",
        summary="LAION-CLAP, HTSAT-base, trained on music",
        files=("music_audioset_epoch_15_esc_90.14.pt",),
        megabytes=2350,
    ),
    _muq(
        name="MuQ-MuLan-large",
        kind="encoder",
        summary="MuQ-MuLan: the paper's best",
        repo="OpenMuQ/MuQ-MuLan-large",
        files=("config.json", "model.safetensors|pytorch_model.bin"),
        megabytes=2600,
        needs=("MuQ-large-msd-iter",),
    ),
    _demucs(
        name="htdemucs",
        summary="Demucs v4: 4 stems",
        repo="adefossez/HTDemucs",
        files=("htdemucs.yaml", "955717e8.safetensors|955717e8-8726e21a.th"),
        megabytes=84,
    ),
    _demucs(
        name="htdemucs_6s",
        summary="Demucs v4: 6 stems",
        repo="adefossez/HTDemucs-6s",
        files=("htdemucs_6s.yaml", "5c90dfd2.safetensors|5c90dfd2-34c22ccb.th"),
        megabytes=55,
    ),
    _muq(
        name="MuQ-large-msd-iter",
        kind="part",
        summary="settings of MuQ, for MuQ-MuLan",
        repo="OpenMuQ/MuQ-large-msd-iter",
        files=("config.json",),
        megabytes=0,
    ),
    Pretrained(
        name="roberta-base",
        kind="part",
        summary="tokenizer, for text with LAION-CLAP",
        repo="FacebookAI/roberta-base",
        files=("config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"),
        megabytes=3,
        license="MIT",
        license_source="https://huggingface.co/FacebookAI/roberta-base",
    ),
    Pretrained(
        name="xlm-roberta-base",
        kind="part",
        summary="tokenizer, for text with MuQ-MuLan",
        repo="FacebookAI/xlm-roberta-base",
        files=("config.json", "tokenizer.json", "sentencepiece.bpe.model", "tokenizer_config.json"),
        megabytes=14,
        license="MIT",
        license_source="https://huggingface.co/FacebookAI/xlm-roberta-base",
    ),
)

PRETRAINED: Final[Mapping[str, Pretrained]] = MappingProxyType({model.name: model for model in _MODELS})
"""The encoders, the separators and the parts that they need, by name."""
