"""MuQ-MuLan (Zhu et al., arXiv:2501.01108)."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stemsim.documents import read_json
from stemsim.encoders.base import AudioTextEncoder
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained import locate, locate_file
from stemsim.pretrained.loading import state_hash
from stemsim.pretrained.precision import Float32, Precision, precision_suffix
from stemsim.pretrained.torchvision_repair import repair_torchvision


class MuQMuLan(AudioTextEncoder):
    """MuQ-MuLan: 512-d vectors that music and text share. Its weights are CC BY-NC 4.0: **not for commercial use**.

    Only the audio half is built from upstream's own modules and embeds whole batches at once. Windows are upstream's:
    10 s without overlap, the last one filled up from the clip's beginning (a clip under 5 s is repeated only once).
    The mean over the windows of a longer clip is renormalised, which upstream leaves to its users.

    Args:
        weights: `MuQ-MuLan-large`, or a folder of the same layout: `config.json` with `model.safetensors` or
            `pytorch_model.bin`, and, beside the folder or in it, a folder named after the audio model with its own
            `config.json`.
        text: Tokenizer and configuration of the text half: `xlm-roberta-base`, or a folder. Read when text is first
            embedded.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
    """

    _prefix = "mulan."
    min_duration = 0.05  # the spectrum reflects 1024 samples at each end, and a clip is repeated once

    def __init__(
        self, weights: str = "MuQ-MuLan-large", text: str = "xlm-roberta-base", precision: Precision = "float32"
    ) -> None:
        folder = locate(weights)
        super().__init__(weights, locate_file(folder, suffixes=(".safetensors", ".bin")), text, precision)
        sections = ("mulan", "audio_model", "text_model", "audio_transformer", "text_transformer")
        self._config = _read_config(folder, sections)
        mulan = self._config["mulan"]
        self.sample_rate, self.dim = int(mulan["sr"]), int(mulan["dim_latent"])
        self._window = self.sample_rate * int(mulan["clip_secs"])
        audio_config = _audio_model_folder(folder, self._config["audio_model"]["name"])
        audio = _audio_half(self._config, _read_config(audio_config))
        state = self._state("audio", "audio_to_latents")
        self._audio = self._filled(state, audio=audio, audio_to_latents=nn.Linear(audio.dim, self.dim))
        self.identity = f"muq-mulan-v1({state_hash(state)}{precision_suffix(self.precision)})"
        # MuQ's mel spectrogram is not a module: it has to be moved to the device explicitly.
        model, mel = audio.model.model, audio.model.model.preprocessor_melspec_2048
        model.preprocessor_melspec_2048 = Float32(lambda waveforms: mel.to(waveforms.device)(waveforms))
        self.eval()

    def _windows(self, waveforms: Tensor) -> Tensor:
        """Cut windows `(batch, window, time)` as `MuQMuLan._get_all_clips` of upstream does, for a whole batch."""
        time, window = waveforms.shape[1], self._window
        clips = [waveforms[:, start : start + window] for start in range(0, time - window + 1, window)]
        if rest := time % window:
            # A clip shorter than half a window has less to fill it with, and the window stays shorter.
            clips.append(torch.cat([waveforms[:, time - rest :], waveforms[:, : window - rest]], dim=1))
        return torch.stack(clips, dim=1)

    def _embed(self, windows: Tensor) -> Tensor:
        return cast("Tensor", self._audio["audio_to_latents"](self._audio["audio"](windows)))

    def _load_text_half(self) -> Callable[[list[str]], Tensor]:
        folder = locate(self._text)
        repair_torchvision()
        from muq.muq_mulan.models.text import TextTransformerPretrained
        from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

        class Text(TextTransformerPretrained):  # type: ignore[misc]
            """Upstream's text half without the download of XLM-R, whose weights are in the checkpoint."""

            def _init_pretrained_model(self) -> nn.Module:
                model: nn.Module = XLMRobertaModel(XLMRobertaConfig.from_pretrained(folder, local_files_only=True))
                return model

        settings, transformer = self._config["text_model"], self._config["text_transformer"]
        text = Text(settings["name"], model_dim=settings["model_dim"], frozen_pretrained=False, **transformer)
        text._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # noqa: SLF001 - upstream downloads one here
        projection = nn.Linear(text.dim, self.dim)
        self._filled(self._state("text", "text_to_latents"), text=text, text_to_latents=projection)
        return lambda texts: projection(text(raw_texts=texts))


def _audio_half(config: dict[str, Any], muq_config: dict[str, Any]) -> Any:
    """Return the untrained audio half with upstream's names, without the download of MuQ."""
    if find_spec("muq") is None:
        raise ConfigError("MuQ-MuLan needs the package muq: pip install 'stemsim[models]'.")
    repair_torchvision()
    from muq import MuQ
    from muq.muq_mulan.models.audio import AudioSpectrogramTransformerPretrained

    class Audio(AudioSpectrogramTransformerPretrained):  # type: ignore[misc]
        """Upstream's audio half without the download of MuQ, whose weights are in the checkpoint."""

        def _init_pretrained_model(self, _model_name: str) -> None:
            self.model = MuQ(muq_config)

    settings = config["audio_model"]
    name = settings["name"] if "muq" in settings["name"].lower() else "muq"  # upstream tells MuQ from MERT by the name
    options = {option: settings[option] for option in ("model_dim", "use_layer_idx")}
    return Audio(name, frozen_pretrained=False, **options, **config["audio_transformer"])


def _read_config(folder: Path, sections: Sequence[str] = ()) -> dict[str, Any]:
    """Read the `config.json` of a folder and verify that it has some sections."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataNotFoundError(f"No configuration at {path} ({error.strerror}). Download the model again.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Download it again.") from error
    if missing := [section for section in sections if section not in config]:
        remedy = "Download the model again, or name another folder."
        raise CheckpointError(f"{path} is not a configuration of MuQ-MuLan: it lacks {', '.join(missing)}. {remedy}")
    return config


def _audio_model_folder(folder: Path, name: str) -> Path:
    """Find the folder of the audio model that MuQ-MuLan's configuration names."""
    last = Path(name).name  # OpenMuQ/MuQ-large-msd-iter
    candidates = (Path(name), folder / last, folder.parent / last)
    return next((path for path in candidates if (path / "config.json").is_file()), None) or locate(last)
