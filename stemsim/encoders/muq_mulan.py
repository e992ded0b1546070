"""MuQ-MuLan (Zhu et al., arXiv:2501.01108): the audio half, and the text half when text is asked for."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from stemsim.encoders.base import Encoder
from stemsim.encoders.windows import encode_windows
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained import locate, locate_file
from stemsim.pretrained.loading import load_strictly, read_checkpoint, state_hash
from stemsim.pretrained.precision import Float32, Precision, autocast, check_precision, precision_suffix
from stemsim.pretrained.torchvision_repair import repair_torchvision

__all__ = ["MuQMuLan"]

_AUDIO: Final = ("audio.", "audio_to_latents.")
_TEXT: Final = ("text.", "text_to_latents.")


class MuQMuLan(Encoder):
    """MuQ-MuLan: 512-d vectors that music and text share. Its weights are CC BY-NC 4.0: **not for commercial use**.

    The audio half alone is built from upstream's own modules and embeds whole batches at once. Windows are upstream's:
    10 s without overlap, the last one filled up from the clip's beginning (a clip under 5 s is heard twice, no more).
    The mean over the windows of a longer clip is renormalised, which upstream leaves to its users.

    Args:
        weights: `MuQ-MuLan-large`, or a folder of the same layout: `config.json` with `model.safetensors` or
            `pytorch_model.bin`, and beside the folder, or in it, one named like the audio model with its `config.json`.
        text: Tokenizer and configuration of the text half: `xlm-roberta-base`, or a folder. Read when text is asked
            for.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
    """

    min_duration = 0.05  # the spectrum reflects 1024 samples at each end; a clip is heard twice

    def __init__(
        self,
        weights: str = "MuQ-MuLan-large",
        text: str = "xlm-roberta-base",
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.weights = weights
        self.precision = check_precision(precision)
        folder = locate(weights)
        self._path = locate_file(folder, suffixes=(".safetensors", ".bin"))
        self._text = text
        self._text_half: _TextHalf | None = None
        self._config = _read_config(folder)
        mulan = self._config["mulan"]
        self.sample_rate, self.dim = int(mulan["sr"]), int(mulan["dim_latent"])
        self._window = self.sample_rate * int(mulan["clip_secs"])
        audio_config = _audio_model_folder(folder, self._config["audio_model"]["name"])
        self._audio = _audio_half(self._config, _read_json(audio_config / "config.json"))
        state = _part(read_checkpoint(self._path).state, _AUDIO)
        load_strictly(self._audio, state, str(self._path))
        self.identity = f"muq-mulan-v1({state_hash(state)}{precision_suffix(self.precision)})"
        audio: Any = self._audio["audio"]
        model = audio.model.model
        model.preprocessor_melspec_2048 = Float32(_Mel(model.preprocessor_melspec_2048))
        self.requires_grad_(requires_grad=False).eval()

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)` at 24 kHz into unit vectors `(batch, 512)`."""
        return encode_windows(_windows(waveforms.float(), self._window), self._encode)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions in words into unit vectors `(len(texts), 512)`; the first call loads the text half."""
        if not texts:
            return torch.zeros(0, self.dim)
        if self._text_half is None:
            state = _part(read_checkpoint(self._path).state, _TEXT)
            self._text_half = _TextHalf(state, self._config, locate(self._text), str(self._path))
        return self._text_half(texts)

    def _encode(self, windows: Tensor) -> Tensor:
        with autocast(windows.device, self.precision):
            vectors = self._audio["audio_to_latents"](self._audio["audio"](windows))
        return normalize(vectors.float(), dim=1)


class _TextHalf:
    """XLM-R, a transformer and a projection, out of the same checkpoint as the audio half.

    Args:
        state: Tensors of the text half.
        config: Configuration of MuQ-MuLan.
        folder: Folder with the tokenizer and `config.json` of XLM-R.
        what: Where the checkpoint comes from, for errors.
    """

    def __init__(self, state: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path, what: str) -> None:
        repair_torchvision()
        from muq.muq_mulan.models.text import TextTransformerPretrained
        from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

        class Text(TextTransformerPretrained):  # type: ignore[misc]
            """Upstream's text half without the download of XLM-R, whose weights are in the checkpoint."""

            def _init_pretrained_model(self) -> nn.Module:
                model: nn.Module = XLMRobertaModel(XLMRobertaConfig.from_pretrained(folder, local_files_only=True))
                return model

        text = Text(
            config["text_model"]["name"],
            model_dim=config["text_model"]["model_dim"],
            frozen_pretrained=False,
            **config["text_transformer"],
        )
        text._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # noqa: SLF001 - upstream fetches one here
        projection = nn.Linear(text.dim, int(config["mulan"]["dim_latent"]))
        self._modules = nn.ModuleDict({"text": text, "text_to_latents": projection})
        position_ids = "text.model.embeddings.position_ids"  # of old versions of transformers
        load_strictly(self._modules, {name: state[name] for name in state if name != position_ids}, what)
        self._modules.requires_grad_(requires_grad=False).eval()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors `(len(texts), dim)`."""
        return normalize(self._modules["text_to_latents"](self._modules["text"](raw_texts=list(texts))), dim=1)


class _Mel:
    """MuQ's mel spectrogram, which is no module and is moved to the device by hand."""

    def __init__(self, mel: Any) -> None:
        self._mel = mel

    def __call__(self, waveforms: Tensor) -> Tensor:
        result: Tensor = self._mel.to(waveforms.device)(waveforms)
        return result


def _windows(waveforms: Tensor, window: int) -> Tensor:
    """Cut waveforms `(batch, time)` into windows `(batch, window, time)`, the last one filled from the beginning.

    As `MuQMuLan._get_all_clips` of upstream, for a whole batch.
    """
    time = waveforms.shape[1]
    whole = [waveforms[:, start : start + window] for start in range(0, time - window + 1, window)]
    if rest := time % window:
        # A clip shorter than half a window gives all that it has, and the window stays shorter.
        whole.append(torch.cat([waveforms[:, time - rest :], waveforms[:, : window - rest]], dim=1))
    return torch.stack(whole, dim=1)


def _audio_half(config: Mapping[str, Any], muq_config: dict[str, Any]) -> nn.ModuleDict:
    """Return the untrained audio half with upstream's names, without the download of MuQ."""
    if find_spec("muq") is None:
        msg = "MuQ-MuLan needs the package muq: pip install 'stemsim[models]'."
        raise ConfigError(msg)
    repair_torchvision()
    from muq import MuQ
    from muq.muq_mulan.models.audio import AudioSpectrogramTransformerPretrained

    class Audio(AudioSpectrogramTransformerPretrained):  # type: ignore[misc]
        """Upstream's audio half without the download of MuQ, whose weights are in the checkpoint."""

        def _init_pretrained_model(self, _model_name: str) -> None:
            self.model = MuQ(muq_config)

    # Upstream tells MuQ from MERT by the name.
    name = config["audio_model"]["name"] if "muq" in config["audio_model"]["name"].lower() else "muq"
    audio = Audio(
        name,
        model_dim=config["audio_model"]["model_dim"],
        use_layer_idx=config["audio_model"]["use_layer_idx"],
        frozen_pretrained=False,
        **config["audio_transformer"],
    )
    return nn.ModuleDict({"audio": audio, "audio_to_latents": nn.Linear(audio.dim, int(config["mulan"]["dim_latent"]))})


def _part(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors of one half, by the names that they have in it."""
    inner = {name.removeprefix("mulan."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in inner.items() if name.startswith(prefixes)}


def _read_config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / "config.json")
    needed = ("mulan", "audio_model", "text_model", "audio_transformer", "text_transformer")
    if missing := [key for key in needed if key not in config]:
        msg = f"{folder / 'config.json'} is no configuration of MuQ-MuLan: it lacks {', '.join(missing)}."
        raise CheckpointError(msg)
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"No configuration at {path} ({error.strerror}). Expected it beside the weights: download them again."
        raise DataNotFoundError(msg) from error
    except ValueError as error:
        msg = f"{path} is damaged ({error}). Download it again."
        raise CheckpointError(msg) from error
    return config


def _audio_model_folder(folder: Path, name: str) -> Path:
    """Find the folder with the configuration of the audio model that MuQ-MuLan's configuration names."""
    last = Path(name).name  # OpenMuQ/MuQ-large-msd-iter
    for candidate in (Path(name), folder / last, folder.parent / last):
        if (candidate / "config.json").is_file():
            return candidate
    return locate(last)
