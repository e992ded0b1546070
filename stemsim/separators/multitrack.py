"""True stems from the files of a multitrack song."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from stemsim.audio import Segment, downmix, file_hash, fit_length, is_audio_path, read_audio, resample
from stemsim.documents import read_yaml
from stemsim.errors import AudioError, ConfigError, DataNotFoundError
from stemsim.separators.base import StemSource
from stemsim.stems import STEMS, stem_layout

_SLAKH_CLASSES: Final = {"Bass": "bass", "Drums": "drums", "Guitar": "guitar", "Piano": "piano"}
_ALIASES: Final = {"other": "residuals"}  # the word of Demucs and MUSDB18
StemFiles = Mapping[str, tuple[Path, ...]]


class Multitrack(StemSource):
    """True stems, stored beside a song's mix in one of two layouts.

    *Ours*: a folder with `mix.*` and one file for each stem that the song uses (`bass.*`, `drums.*`, `guitar.*`,
    `piano.*`, `vocals.*`, `residuals.*` or `other.*`). *Slakh2100*: a track folder with `mix.flac`, `metadata.yaml` and
    `stems/S00.flac ...`, grouped by instrument class; a stem with `audio_rendered: false` has no file.

    A stem that is not part of the stem layout is added to `residuals`, so that the 4-stem residuals include guitar
    and piano, like Demucs' `other`; if the layout has no `residuals`, it is left out.

    Args:
        stems: `4-stem`, `6-stem`, `mix`, or a list of stems in the order wanted.
    """

    def __init__(self, stems: str | list[str] = "6-stem") -> None:
        self.stems = stem_layout(stems)
        self.identity = f"multitrack({'+'.join(self.stems)})"

    def read(self, segments: Sequence[Segment], sample_rate: int) -> Tensor:
        """Read the stems of segments of equal duration: `(segment, stem, time)`, mono at `sample_rate` Hz."""
        result = torch.zeros(len(segments), len(self.stems), round(segments[0].duration * sample_rate))
        for segment, stems in zip(segments, result, strict=True):
            for index, (stem, paths) in enumerate(self._files(segment).items()):
                for path in paths:
                    # A stem may end before the song does and is silent from there on; the mix may not.
                    waveform, rate = read_audio(path, segment.start, segment.duration, pad=stem != "mix")
                    stems[index] += fit_length(resample(downmix(waveform), rate, sample_rate), stems.shape[1])
        return result

    def content_hash(self, segment: Segment) -> str:
        """Hash the mix and all stem files, together with the stem that each file belongs to."""
        digest = hashlib.blake2b(digest_size=16)
        for stem, paths in self._files(segment).items():
            for path in paths:
                digest.update(f"{stem}:{file_hash(path)};".encode())
        return digest.hexdigest()

    def _files(self, segment: Segment) -> dict[str, list[Path]]:
        """Return, for each stem of the layout, the files that add up to it; none if the song lacks the stem."""
        grouped: dict[str, list[Path]] = {stem: [] for stem in self.stems}
        metadata = segment.path.parent / "metadata.yaml"
        source, find = (metadata, _slakh_files) if metadata.is_file() else (segment.path.parent, _plain_files)
        version = source.stat().st_mtime_ns if source.exists() else 0
        for stem, paths in find(segment.path, version).items():
            target = stem if stem in grouped else "residuals"
            if target in grouped:
                grouped[target] += paths
        if "mix" in grouped:
            grouped["mix"] = [segment.path]
        return grouped


@lru_cache(maxsize=8192)
def _plain_files(mix: Path, _version: int) -> StemFiles:
    """Find the stems in our own layout; a new version of the folder makes the cache look again."""
    if not mix.parent.is_dir():
        raise DataNotFoundError(
            f"No song folder at {mix.parent}. Check the folder of songs that the configuration names."
        )
    files: dict[str, tuple[Path, ...]] = {}
    beside = sorted(mix.parent.iterdir()) if mix.stem == "mix" else []  # any other file has no stems beside it
    for path in (path for path in beside if is_audio_path(path) and path.stem != "mix"):
        stem = _ALIASES.get(path.stem, path.stem)
        if stem not in STEMS or stem in files:
            raise ConfigError(
                f"{path} is not the file of a stem, or is a second file of the same stem: expected one file each of "
                f"{', '.join(STEMS[:-1])} beside {mix.name}. Rename it, mix it into residuals{path.suffix}, or move it."
            )
        files[stem] = (path,)
    if not files:
        raise DataNotFoundError(
            f"No stems beside {mix}: expected files such as drums.wav and bass.wav, or a Slakh2100 metadata.yaml. "
            "For plain mixes use a separator (stemsim.separators.Bands) or the mix alone (stemsim.separators.MixOnly)."
        )
    return files


@lru_cache(maxsize=8192)
def _slakh_files(mix: Path, _version: int) -> StemFiles:
    """Find the stems of a Slakh2100 track, grouped by instrument class."""
    metadata = mix.with_name("metadata.yaml")
    try:
        stems = read_yaml(metadata.read_text(encoding="utf-8"))["stems"]
        classes = {name: (stem["inst_class"], stem.get("audio_rendered", True)) for name, stem in sorted(stems.items())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{metadata} is not valid Slakh2100 metadata ({error!r}): expected `stems: {{S00: {{inst_class: Bass, "
            "...}, ...}`. Unpack the track again."
        ) from error
    files: dict[str, tuple[Path, ...]] = {}
    missing: list[str] = []
    for name, (inst_class, rendered) in classes.items():
        path = next((p for p in sorted((metadata.parent / "stems").glob(f"{name}.*")) if is_audio_path(p)), None)
        if path is not None:
            stem = _SLAKH_CLASSES.get(str(inst_class), "residuals")
            files[stem] = (*files.get(stem, ()), path)
        elif rendered:
            missing.append(name)
    if missing:
        seen = f"{metadata.parent / 'stems'} lacks {', '.join(missing)}"
        raise DataNotFoundError(f"{seen}, which metadata.yaml says were rendered. Unpack the track again.")
    if not files:
        raise AudioError(f"{metadata.parent} has no rendered stem. Unpack the track again, or leave it out.")
    return files
