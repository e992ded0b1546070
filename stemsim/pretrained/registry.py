"""Registry of the pretrained models that stemsim knows, by upstream's own names."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

Kind = Literal["encoder", "separator", "part"]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
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


def _read(file: Path) -> dict[str, Pretrained]:
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    return TypeAdapter(dict[str, Pretrained]).validate_python(
        {name: {"name": name, **entries[name]} for name in entries}
    )


PRETRAINED: Final[Mapping[str, Pretrained]] = MappingProxyType(_read(Path(__file__).with_name("models.yaml")))
"""The encoders, the separators and the parts that they need, by name."""
