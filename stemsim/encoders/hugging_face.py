"""Any audio model of the Hugging Face hub, averaged over time."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from stemsim.encoders.base import Encoder
from stemsim.errors import CheckpointError, ConfigError
from stemsim.pretrained import locate
from stemsim.pretrained.loading import state_hash
from stemsim.pretrained.precision import Precision, autocast, check_precision, precision_suffix
from stemsim.pretrained.torchvision_repair import repair_torchvision


class HuggingFaceAudio(Encoder):
    """The mean over time of a hidden layer of any audio model with a `config.json`: MERT, wav2vec 2.0, HuBERT, ...

    Args:
        model: `org/name` of a repository that was fetched with `stemsim models download org/name`, such as
            `m-a-p/MERT-v1-95M`, or a folder written by `save_pretrained`.
        layer: Hidden layer to average, 0 being the input of the first; null takes the output of the last.
        trust_code: Run the Python files that come with the model. MERT and others need it; read them first.
        precision: `float32`, or `bfloat16` or `float16` by automatic mixed precision.
    """

    min_duration = 0.1  # the convolutions at the input of most models need some 25 ms

    def __init__(
        self, model: str, layer: int | None = None, trust_code: bool = False, precision: Precision = "float32"
    ) -> None:
        super().__init__()
        repair_torchvision()
        from transformers import AutoFeatureExtractor, AutoModel

        self.precision = check_precision(precision)
        folder = locate(model)
        self._model = _load(AutoModel, folder, trust_code)
        extractor = _load(AutoFeatureExtractor, folder, trust_code)
        config = self._model.config
        layers = int(getattr(config, "num_hidden_layers", 0))
        if layer is not None and not 0 <= layer <= layers:
            raise ConfigError(f"{folder} has the hidden layers 0 to {layers}; got layer {layer}. Choose one, or null.")
        self._layer = layer
        self._normalise = bool(getattr(extractor, "do_normalize", False))
        self.sample_rate = int(extractor.sampling_rate)
        self.dim = int(config.hidden_size)
        name = f"{type(self._model).__name__}:{state_hash(self._model.state_dict())}"
        self.identity = f"hugging-face-v1({name},layer={layer}{precision_suffix(self.precision)})"
        self.requires_grad_(requires_grad=False).eval()

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed mono waveforms `(batch, time)` as unit vectors `(batch, dim)`."""
        values = waveforms.float()
        if self._normalise:  # as Wav2Vec2FeatureExtractor: zero mean and unit variance, clip by clip
            variance = values.var(dim=1, keepdim=True, unbiased=False)
            values = (values - values.mean(dim=1, keepdim=True)) / torch.sqrt(variance + 1e-7)
        with autocast(values.device, self.precision):
            output = self._model(values, output_hidden_states=self._layer is not None)
        hidden = output.last_hidden_state if self._layer is None else output.hidden_states[self._layer]
        return normalize(hidden.float().mean(dim=1), dim=1)  # over (batch, frame, dim)


def _load(kind: Any, folder: Path, trust_code: bool) -> Any:
    """Load a part of a model from its folder, never from the network."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_code)
    except (SafetensorError, OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError) as error:
        hint = "" if trust_code else " If the model comes with Python files that you trust, set `trust_code: true`."
        first = (str(error).splitlines() or [repr(error)])[0]
        raise CheckpointError(f"{folder} cannot be loaded by {kind.__name__} ({first}).{hint}") from error
