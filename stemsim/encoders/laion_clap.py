"""LAION-CLAP (Wu et al., ICASSP 2023, arXiv:2211.06687): the audio half, and the text half when text is asked for."""

import importlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from stemsim.encoders.base import Encoder
from stemsim.encoders.windows import encode_windows
from stemsim.errors import CheckpointError, ConfigError
from stemsim.pretrained import locate, locate_file
from stemsim.pretrained.loading import load_strictly, read_checkpoint, state_hash
from stemsim.pretrained.precision import Float32, Precision, autocast, check_precision, precision_suffix
from stemsim.pretrained.torchvision_repair import repair_torchvision

__all__ = ["LaionClap"]

_WINDOW: Final = 480_000  # samples: 10 s at 48 kHz
_ARCHITECTURES: Final = {96: "tiny", 128: "base", 256: "large"}  # by the width of HTS-AT's first stage
_TOKENS: Final = 77


class LaionClap(Encoder):
    """LAION-CLAP: 512-d vectors that audio and text share.

    The audio half is built from upstream's own modules, without importing the `laion_clap` package, whose import
    fetches three tokenizers. Input is treated as upstream does: clipped to +-1, rounded to 16 bit, repeated as often as
    it fits into 10 s and padded with zeros. Of longer clips upstream takes 10 s at random; here consecutive windows of
    10 s are averaged, the last one ending where the clip ends, so that the same clip has the same vector.

    Args:
        weights: `630k-audioset-best` (the paper's), `music_audioset_epoch_15_esc_90.14` (trained on music), or the path
            of such a checkpoint, as `.pt` or as the `.safetensors` that `stemsim models import` makes.
        text: Tokenizer and configuration of the text half: `roberta-base`, or a folder. Read when text is asked for.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
    """

    sample_rate = 48_000
    dim = 512

    def __init__(
        self,
        weights: str = "630k-audioset-best",
        text: str = "roberta-base",
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.weights = weights
        self.precision = check_precision(precision)
        self._path = locate_file(weights, suffixes=(".safetensors", ".pt"))
        self._text = text
        self._text_half: _TextHalf | None = None
        state = read_checkpoint(self._path).state
        audio = {
            name: tensor for name, tensor in state.items() if name.startswith(("audio_branch.", "audio_projection."))
        }
        architecture = self._architecture(state)
        branch, width = _audio_branch(architecture)
        self._audio = nn.ModuleDict({"audio_branch": branch, "audio_projection": _projection(width)})
        load_strictly(self._audio, audio, str(self._path))
        self.identity = f"laion-clap-v1(HTSAT-{architecture}:{state_hash(audio)}{precision_suffix(self.precision)})"
        branch.spectrogram_extractor = Float32(branch.spectrogram_extractor)
        branch.logmel_extractor = Float32(branch.logmel_extractor)
        self.requires_grad_(requires_grad=False).eval()

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)` at 48 kHz into unit vectors `(batch, 512)`."""
        # The 16-bit round trip of upstream: the values, not the type, are what the model was trained on.
        quantised = (waveforms.float().clamp(-1.0, 1.0) * 32767.0).to(torch.int16).float() / 32767.0
        return encode_windows(_windows(quantised), self._encode)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions in words into unit vectors `(len(texts), 512)`; the first call loads the text half."""
        if not texts:
            return torch.zeros(0, self.dim)
        if self._text_half is None:
            self._text_half = _TextHalf(read_checkpoint(self._path).state, locate(self._text), str(self._path))
        return self._text_half(texts)

    def _encode(self, windows: Tensor) -> Tensor:
        with autocast(windows.device, self.precision):
            hidden = self._audio["audio_branch"]({"waveform": windows}, device=windows.device)["embedding"]
            vectors = self._audio["audio_projection"](hidden)
        return normalize(vectors.float(), dim=1)

    def _architecture(self, state: Mapping[str, Tensor]) -> str:
        """Tell the size of HTS-AT from the shape of its first layer."""
        first = state.get("audio_branch.patch_embed.proj.weight")
        if first is None or first.shape[0] not in _ARCHITECTURES:
            msg = (
                f"{self._path} is no LAION-CLAP checkpoint with an HTS-AT audio half: expected the tensor "
                f"audio_branch.patch_embed.proj.weight with {', '.join(map(str, _ARCHITECTURES))} rows, got "
                f"{'none' if first is None else tuple(first.shape)}. `stemsim models` lists those that are."
            )
            raise CheckpointError(msg)
        if any(name.startswith("audio_branch.patch_embed.fusion") for name in state):
            msg = (
                f"{self._path} is a fusion checkpoint, whose crops of long clips are random. Use "
                "630k-audioset-best or music_audioset_epoch_15_esc_90.14."
            )
            raise CheckpointError(msg)
        return _ARCHITECTURES[first.shape[0]]


class _TextHalf:
    """RoBERTa and its projection, out of the same checkpoint as the audio half.

    Args:
        state: The whole checkpoint.
        folder: Folder with the tokenizer and `config.json` of RoBERTa.
        what: Where the checkpoint comes from, for errors.
    """

    def __init__(self, state: Mapping[str, Tensor], folder: Path, what: str) -> None:
        repair_torchvision()
        from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

        config = RobertaConfig.from_pretrained(folder, local_files_only=True)
        self._tokenizer = RobertaTokenizer.from_pretrained(folder, local_files_only=True)
        self._modules = nn.ModuleDict(
            {"text_branch": RobertaModel(config), "text_projection": _projection(config.hidden_size)}
        )
        # `position_ids` is a buffer of old versions of transformers that holds nothing but 0, 1, 2, ...
        text = {
            name: tensor
            for name, tensor in state.items()
            if name.startswith(("text_branch.", "text_projection.")) and not name.endswith("position_ids")
        }
        load_strictly(self._modules, text, what)
        self._modules.requires_grad_(requires_grad=False).eval()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors `(len(texts), 512)`."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        )
        hidden = self._modules["text_branch"](
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return normalize(self._modules["text_projection"](hidden), dim=1)


def _windows(waveforms: Tensor) -> Tensor:
    """Cut or fill waveforms `(batch, time)` to windows `(batch, window, 480 000)`."""
    time = waveforms.shape[1]
    if time <= _WINDOW:
        repeated = waveforms.repeat(1, _WINDOW // time)  # as often as it fits in whole, as upstream
        return pad(repeated, (0, _WINDOW - repeated.shape[1])).unsqueeze(1)
    starts = [*range(0, time - _WINDOW, _WINDOW), time - _WINDOW]
    return torch.stack([waveforms[:, start : start + _WINDOW] for start in starts], dim=1)


def _projection(width: int) -> nn.Sequential:
    """Return the untrained projection of one half into the shared space."""
    return nn.Sequential(nn.Linear(width, LaionClap.dim), nn.ReLU(), nn.Linear(LaionClap.dim, LaionClap.dim))


def _audio_branch(architecture: str) -> tuple[Any, int]:
    """Return an untrained HTS-AT and the length of what it gives."""
    htsat, folder = _upstream()
    config = json.loads((folder / "model_configs" / f"HTSAT-{architecture}.json").read_text(encoding="utf-8"))
    with warnings.catch_warnings():  # of a default of `torch.meshgrid` that changes one day
        warnings.simplefilter("ignore", UserWarning)
        audio = SimpleNamespace(**config["audio_cfg"])
        branch = htsat.create_htsat_model(audio, enable_fusion=False, fusion_type="None")
    return branch, int(config["embed_dim"])


def _upstream() -> tuple[ModuleType, Path]:
    """Import `clap_module.htsat` out of the package laion_clap, and none of the rest of it.

    It is imported under a name of our own: `import laion_clap` still works for those who want it.
    """
    spec = find_spec("laion_clap")
    if spec is None or spec.origin is None:
        msg = "LAION-CLAP needs the package laion-clap: pip install 'stemsim[models]'."
        raise ConfigError(msg)
    folder = Path(spec.origin).parent / "clap_module"
    name = "_stemsim_clap_module"
    if name not in sys.modules:
        repair_torchvision()
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.htsat"), folder
