"""LAION-CLAP (Wu et al., ICASSP 2023, arXiv:2211.06687)."""

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from stemsim.encoders.base import AudioTextEncoder
from stemsim.errors import CheckpointError, ConfigError
from stemsim.pretrained import locate, locate_file
from stemsim.pretrained.loading import state_hash
from stemsim.pretrained.precision import Float32, Precision, precision_suffix
from stemsim.pretrained.torchvision_repair import repair_torchvision

_WINDOW: Final = 480_000  # samples: 10 s at 48 kHz
_ARCHITECTURES: Final = {96: "tiny", 128: "base", 256: "large"}  # by the width of HTS-AT's first stage


class LaionClap(AudioTextEncoder):
    """LAION-CLAP: 512-d vectors that audio and text share.

    The audio half is built from upstream's own modules, without importing the `laion_clap` package, which downloads
    three tokenizers. Input is treated as upstream does: clipped to +-1, rounded to 16 bit, repeated as often as it fits
    into 10 s and padded with zeros. Upstream takes 10 s of longer clips at random; here consecutive windows of 10 s are
    averaged, the last one ending where the clip ends, so that the same clip always has the same vector.

    Args:
        weights: `630k-audioset-best` (the paper's), `music_audioset_epoch_15_esc_90.14` (trained on music), or the path
            of such a checkpoint, as `.pt` or as the `.safetensors` file that `stemsim models import` writes.
        text: Tokenizer and configuration of the text half: `roberta-base`, or a folder. Read when text is first
            embedded.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
    """

    sample_rate = 48_000
    dim = 512

    def __init__(
        self, weights: str = "630k-audioset-best", text: str = "roberta-base", precision: Precision = "float32"
    ) -> None:
        super().__init__(weights, locate_file(weights, suffixes=(".safetensors", ".pt")), text, precision)
        state = self._state("audio_branch", "audio_projection")
        architecture = self._architecture(state)
        branch, width = _audio_branch(architecture)
        self._audio = self._filled(state, audio_branch=branch, audio_projection=_projection(width))
        self.identity = f"laion-clap-v1(HTSAT-{architecture}:{state_hash(state)}{precision_suffix(self.precision)})"
        branch.spectrogram_extractor = Float32(branch.spectrogram_extractor)
        branch.logmel_extractor = Float32(branch.logmel_extractor)
        self.eval()

    def _windows(self, waveforms: Tensor) -> Tensor:
        # The 16-bit round trip of upstream: the model was trained on these values, whatever their type.
        waveforms = (waveforms.clamp(-1.0, 1.0) * 32767.0).to(torch.int16).float() / 32767.0
        time = waveforms.shape[1]
        if time <= _WINDOW:
            repeated = waveforms.repeat(1, _WINDOW // time)  # only as often as it fits completely, as upstream
            return pad(repeated, (0, _WINDOW - repeated.shape[1])).unsqueeze(1)
        starts = [*range(0, time - _WINDOW, _WINDOW), time - _WINDOW]
        return torch.stack([waveforms[:, start : start + _WINDOW] for start in starts], dim=1)

    def _embed(self, windows: Tensor) -> Tensor:
        hidden = self._audio["audio_branch"]({"waveform": windows}, device=windows.device)["embedding"]
        return cast("Tensor", self._audio["audio_projection"](hidden))

    def _load_text_half(self) -> Callable[[list[str]], Tensor]:
        repair_torchvision()
        from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

        folder = locate(self._text)
        config = RobertaConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = RobertaTokenizer.from_pretrained(folder, local_files_only=True)
        branch, projection = RobertaModel(config), _projection(config.hidden_size)
        self._filled(self._state("text_branch", "text_projection"), text_branch=branch, text_projection=projection)

        def embed_text(texts: list[str]) -> Tensor:
            tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
            hidden = branch(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
            return cast("Tensor", projection(hidden))

        return embed_text

    def _architecture(self, state: dict[str, Tensor]) -> str:
        """Return the size of HTS-AT, from the shape of its first layer."""
        first = state.get("audio_branch.patch_embed.proj.weight")
        if first is None or first.shape[0] not in _ARCHITECTURES:
            raise CheckpointError(
                f"{self._path} is not a LAION-CLAP checkpoint with an HTS-AT audio half: expected the tensor "
                f"audio_branch.patch_embed.proj.weight with {', '.join(map(str, _ARCHITECTURES))} rows, got "
                f"{'none' if first is None else tuple(first.shape)}. `stemsim models` lists suitable ones."
            )
        if any(name.startswith("audio_branch.patch_embed.fusion") for name in state):
            remedy = "Use 630k-audioset-best or music_audioset_epoch_15_esc_90.14."
            raise CheckpointError(f"{self._path} is a fusion checkpoint, which crops long clips at random. {remedy}")
        return _ARCHITECTURES[first.shape[0]]


def _projection(width: int) -> nn.Sequential:
    """Return the untrained projection of one half into the shared space."""
    return nn.Sequential(nn.Linear(width, LaionClap.dim), nn.ReLU(), nn.Linear(LaionClap.dim, LaionClap.dim))


def _audio_branch(architecture: str) -> tuple[Any, int]:
    """Return an untrained HTS-AT and the length of its vectors, built by `clap_module.htsat` of the package laion_clap.

    Only this module is imported, under a name of our own: `import laion_clap` still works for those who want it.
    """
    spec = find_spec("laion_clap")
    if spec is None or spec.origin is None:
        raise ConfigError("LAION-CLAP needs the package laion-clap: pip install 'stemsim[models]'.")
    folder = Path(spec.origin).parent / "clap_module"
    name = "_stemsim_clap_module"
    if name not in sys.modules:
        repair_torchvision()
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    htsat = importlib.import_module(f"{name}.htsat")
    config = json.loads((folder / "model_configs" / f"HTSAT-{architecture}.json").read_text(encoding="utf-8"))
    with warnings.catch_warnings():  # about a future default of `torch.meshgrid`
        warnings.simplefilter("ignore", UserWarning)
        audio = SimpleNamespace(**config["audio_cfg"])
        branch = htsat.create_htsat_model(audio, enable_fusion=False, fusion_type="None")
    return branch, int(config["embed_dim"])
