"""MuQ-MuLan against upstream's own class, from folders as `save_pretrained` writes them."""

import json
import shutil

import numpy as np
import pytest
import torch
from random_models import upstream_muq_mulan
from signals import CLIPS, make_signal
from torch.nn.functional import normalize

from stemsim.encoders import MuQMuLan
from stemsim.errors import CheckpointError, DataNotFoundError

RATE = 24_000
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("muq")


@pytest.fixture(scope="module")
def upstream(folder):
    return upstream_muq_mulan(folder)


@pytest.fixture(scope="module")
def encoder(folder, upstream):
    return MuQMuLan(str(folder / "MuQ-MuLan-large"), text=str(folder / "xlm-roberta-base"))


def batch(seconds, count=3):
    return torch.from_numpy(np.stack([make_signal(seed, seconds, RATE) for seed in range(count)]))


@torch.inference_mode()
def expected_of(upstream, waveforms):
    """Return upstream's mean over windows, renormalised, which upstream leaves out."""
    return normalize(upstream(wavs=waveforms), dim=1)


@pytest.mark.parametrize("seconds", [*CLIPS.values(), 4.0, 20.0, 0.05])
def test_vectors_are_upstreams(upstream, encoder, seconds):
    waveforms = batch(seconds)
    expected = expected_of(upstream, waveforms)
    with torch.inference_mode():
        seen = encoder(waveforms)
    assert (seen - expected).abs().max() <= TOLERANCE
    assert (seen.norm(dim=1) - 1.0).abs().max() < 1e-5
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_silence_is_upstreams(upstream, encoder):
    silence = torch.zeros(2, 5 * RATE)
    with torch.inference_mode():
        assert (encoder(silence) - expected_of(upstream, silence)).abs().max() <= TOLERANCE


def test_a_transformer_on_top_is_built_as_configured(tmp_path):
    upstream = upstream_muq_mulan(tmp_path, depth=2)
    encoder = MuQMuLan(str(tmp_path / "MuQ-MuLan-large"))
    with torch.inference_mode():
        assert (encoder(batch(5.0)) - expected_of(upstream, batch(5.0))).abs().max() <= TOLERANCE


def test_a_clip_has_the_same_vector_in_any_batch_and_order(encoder):
    waveforms = batch(23.0, 4)
    with torch.inference_mode():
        together = encoder(waveforms)
        assert (encoder(waveforms.flip(0)).flip(0) - together).abs().max() <= TOLERANCE
        for row in range(4):
            assert (encoder(waveforms[row : row + 1])[0] - together[row]).abs().max() <= TOLERANCE


def test_text_is_upstreams(upstream, encoder):
    texts = ["warm analog bass", "a", "Trommeln wie im Regen"]
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode_text(texts), upstream(texts=texts), atol=TOLERANCE, rtol=0)
    assert encoder.encode_text([]).shape == (0, 512)


def test_only_the_audio_half_is_in_memory_until_text_is_asked_for(folder, upstream):
    encoder = MuQMuLan(str(folder / "MuQ-MuLan-large"), text="no/such-folder")
    assert not any("text" in name for name, _ in encoder.named_parameters())
    with pytest.raises(DataNotFoundError, match="no/such-folder"):
        encoder.encode_text(["bass"])


def test_the_pickled_layout_of_the_same_weights_is_the_same_encoder(folder, upstream, encoder, tmp_path):
    shutil.copytree(folder, tmp_path / "hub")
    other = tmp_path / "hub" / "MuQ-MuLan-large"
    (other / "model.safetensors").unlink()
    torch.save(upstream.state_dict(), other / "pytorch_model.bin")
    assert MuQMuLan(str(other)).identity == encoder.identity


def test_lower_precision_is_near_and_has_an_identity_of_its_own(folder, encoder):
    lower = MuQMuLan(str(folder / "MuQ-MuLan-large"), precision="bfloat16")
    assert lower.identity != encoder.identity
    with torch.inference_mode():
        assert 0.0 < (lower(batch(5.0)) - encoder(batch(5.0))).abs().max() < 2e-2


def test_it_is_frozen_and_stays_in_evaluation_mode(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_damaged_folders_are_named(folder, upstream, tmp_path):
    def copy(name):
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name / "MuQ-MuLan-large"

    cut = copy("cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        MuQMuLan(str(cut))
    other = copy("other")
    config = json.loads((other / "config.json").read_text())
    config["mulan"]["dim_latent"] = 256
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="another architecture"):
        MuQMuLan(str(other))
    (other / "config.json").write_text('{"hidden_size": 768}')
    with pytest.raises(CheckpointError, match="lacks mulan, audio_model"):
        MuQMuLan(str(other))
    (other / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        MuQMuLan(str(other))
    (other / "config.json").unlink()
    with pytest.raises(DataNotFoundError, match=r"config\.json"):
        MuQMuLan(str(other))
    no_weights = copy("no-weights")
    (no_weights / "model.safetensors").unlink()
    with pytest.raises(DataNotFoundError, match=r"model\.safetensors"):
        MuQMuLan(str(no_weights))
