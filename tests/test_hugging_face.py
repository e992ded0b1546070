"""Any Hugging Face audio model by its folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from signals import make_signal
from torch.nn.functional import normalize

from stemsim.encoders import HuggingFaceAudio
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.torchvision_repair import repair_torchvision

repair_torchvision()
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000


def write_model(folder, kind="Hubert", *, normalise=True):
    """Write a small random model and its feature extractor as `save_pretrained` does; return the folder."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16,) * 7
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=normalise).save_pretrained(folder)
    return folder


def batch(count=3, seconds=2.0):
    return torch.from_numpy(np.stack([make_signal(seed, seconds, RATE) for seed in range(count)]))


@pytest.mark.parametrize("kind", ["Hubert", "Wav2Vec2", "WavLM"])
@pytest.mark.parametrize("normalise", [True, False])
def test_vectors_are_the_mean_over_time_of_what_the_model_gives(tmp_path, kind, normalise):
    folder = write_model(tmp_path / "model", kind, normalise=normalise)
    encoder = HuggingFaceAudio(str(folder))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for clip, seen in zip(batch(), encoder(batch()), strict=True):
        values = extractor(clip.numpy(), sampling_rate=RATE, return_tensors="pt").input_values
        with torch.inference_mode():
            expected = normalize(model(values).last_hidden_state.mean(dim=1), dim=1)[0]
        assert (seen - expected).abs().max() < 1e-5
    assert (encoder.sample_rate, encoder.dim) == (RATE, 32)


def test_a_layer_may_be_chosen_and_is_part_of_the_identity(tmp_path):
    folder = write_model(tmp_path / "model")
    encoders = [HuggingFaceAudio(str(folder), layer=layer) for layer in (None, 0, 1, 2)]
    assert len({encoder.identity for encoder in encoders}) == 4
    vectors = [encoder(batch()) for encoder in encoders]
    assert (vectors[1] - vectors[2]).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="hidden layers 0 to 2; got layer 3"):
        HuggingFaceAudio(str(folder), layer=3)


def test_code_of_a_model_runs_only_where_it_is_trusted(tmp_path):
    folder = write_model(tmp_path / "model")
    witness = tmp_path / "ran"
    code = f"""
from pathlib import Path
from transformers import HubertConfig, HubertModel
Path({str(witness)!r}).touch()
class OwnConfig(HubertConfig):
    model_type = "own"
class OwnModel(HubertModel):
    config_class = OwnConfig
"""
    (folder / "modeling_own.py").write_text(code, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    config |= {"model_type": "own", "architectures": ["OwnModel"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="trust_code: true"):
        HuggingFaceAudio(str(folder))
    assert not witness.exists()
    assert HuggingFaceAudio(str(folder), trust_code=True)(batch()).shape == (3, 32)
    assert witness.exists()


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match="stemsim models download m-a-p/MERT-v1-95M"):
        HuggingFaceAudio("m-a-p/MERT-v1-95M")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="cannot be loaded by AutoModel"):
        HuggingFaceAudio(str(tmp_path / "empty"))
    folder = write_model(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        HuggingFaceAudio(str(folder))
