"""LAION-CLAP and MuQ-MuLan against upstream's own classes, from files as upstream writes them."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from random_models import upstream_clap, upstream_muq_mulan, write_clap, write_roberta
from signals import CLIPS, make_signal
from torch.nn.functional import normalize

from stemsim.encoders import LaionClap, MuQMuLan
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.loading import import_checkpoint

WINDOW = 480_000  # samples: 10 s at CLAP's 48 kHz
TEXTS = ["warm analog bass", "a", "brushed drums, " * 30]


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """LAION-CLAP: upstream's module, its files, and our encoder of them."""
    folder = tmp_path_factory.mktemp("clap")
    roberta = write_roberta(folder / "roberta-base")
    upstream = upstream_clap(roberta)
    path = write_clap(folder / "630k-audioset-best.pt", upstream)

    def make(text=roberta, **options):
        return LaionClap(str(path), text=str(text), **options)

    return SimpleNamespace(
        make=make,
        encoder=make(),
        path=path,
        roberta=roberta,
        upstream=upstream,
        audio=upstream.get_audio_embedding_from_data,
        text=upstream.get_text_embedding,
        tolerance=1e-6,
    )


@pytest.fixture(scope="module")
def muq(tmp_path_factory):
    """MuQ-MuLan: upstream's module, its folders, and our encoder of them."""
    folder = tmp_path_factory.mktemp("muq")
    upstream = upstream_muq_mulan(folder)

    def make(text=folder / "xlm-roberta-base", **options):
        return MuQMuLan(str(folder / "MuQ-MuLan-large"), text=str(text), **options)

    return SimpleNamespace(
        make=make,
        encoder=make(),
        folder=folder,
        upstream=upstream,
        audio=lambda waveforms: upstream_vectors(upstream, waveforms),
        text=lambda texts: upstream(texts=texts).numpy(),
        tolerance=1e-5,
    )


@pytest.fixture(params=["clap", "muq"])
def model(request):
    return request.getfixturevalue(request.param)


def batch(encoder, seconds, count=2):
    return np.stack([make_signal(seed, seconds, encoder.sample_rate) for seed in range(count)])


def embed(encoder, waveforms):
    with torch.inference_mode():
        return encoder(torch.from_numpy(waveforms)).numpy()


def upstream_vectors(upstream, waveforms):
    """Return MuQ-MuLan's mean over windows, renormalised, which upstream leaves out."""
    with torch.inference_mode():
        return normalize(upstream(wavs=torch.from_numpy(waveforms)), dim=1).numpy()


# ---------------------------------------------------------------- what both promise


@pytest.mark.parametrize("seconds", CLIPS.values())
def test_vectors_are_upstreams(model, seconds):
    if isinstance(model.encoder, LaionClap) and seconds > 10.0:
        pytest.skip("upstream crops longer clips at random")
    waveforms = batch(model.encoder, seconds)
    expected, seen = model.audio(waveforms), embed(model.encoder, waveforms)
    assert np.abs(seen - expected).max() <= model.tolerance
    assert np.abs(np.linalg.norm(seen, axis=1) - 1.0).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the model tells them apart: the comparison means something


@pytest.mark.parametrize("level", [0.0, 1e-5, 3.0], ids=["silence", "under one 16-bit step", "clipped"])
def test_silence_whispers_and_clipping_are_treated_as_upstream_does(model, level):
    waveforms = (level * batch(model.encoder, 5.0)).astype(np.float32)
    assert np.abs(embed(model.encoder, waveforms) - model.audio(waveforms)).max() <= model.tolerance


def test_a_clip_has_the_same_vector_in_any_batch_and_order(model):
    waveforms = batch(model.encoder, 11.0)
    together = embed(model.encoder, waveforms)
    assert np.abs(embed(model.encoder, waveforms[::-1].copy())[::-1] - together).max() <= model.tolerance
    for row in range(2):
        assert np.abs(embed(model.encoder, waveforms[row : row + 1])[0] - together[row]).max() <= model.tolerance


def test_text_is_upstreams(model):
    seen = model.encoder.encode_text(TEXTS).numpy()
    with torch.inference_mode():
        np.testing.assert_allclose(seen, model.text(TEXTS), rtol=0, atol=model.tolerance)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1.0, atol=1e-5)
    assert model.encoder.encode_text([]).shape == (0, 512)


def test_only_the_audio_half_is_in_memory_until_text_is_asked_for(model):
    encoder = model.make(text="no/such-folder")
    assert not any("text" in name for name, _ in encoder.named_parameters())
    assert embed(encoder, batch(encoder, 0.4, 1)).shape == (1, 512)
    with pytest.raises(DataNotFoundError, match="no/such-folder"):
        encoder.encode_text(["bass"])


def test_it_is_frozen_and_stays_in_evaluation_mode(model):
    for encoder in (model.make(), model.encoder.train()):
        assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_lower_precision_is_near_and_has_an_identity_of_its_own(model, precision, bound):
    lower = model.make(precision=precision)
    assert lower.identity != model.encoder.identity
    waveforms = batch(lower, 5.0)
    assert 0.0 < np.abs(embed(lower, waveforms) - embed(model.encoder, waveforms)).max() < bound


def test_an_unknown_precision_is_refused(model):
    with pytest.raises(ConfigError, match="float8"):
        model.make(precision="float8")


# ---------------------------------------------------------------- LAION-CLAP


def test_exactly_five_seconds_repeat_twice_and_one_sample_more_does_not(clap):
    longer = np.pad(batch(clap.encoder, 5.0, 1), ((0, 0), (0, 1)))
    expected = clap.audio(longer)
    assert np.abs(embed(clap.encoder, longer) - expected).max() <= clap.tolerance
    assert np.abs(embed(clap.encoder, longer[:, :-1]) - expected).max() > 1e-4


def test_above_ten_seconds_fixed_windows_are_averaged(clap):
    waveforms = batch(clap.encoder, 23.0)
    starts = [0, WINDOW, waveforms.shape[1] - WINDOW]  # upstream crops at random: it is given each window
    mean = np.mean([clap.audio(waveforms[:, start : start + WINDOW]) for start in starts], axis=0)
    seen = embed(clap.encoder, waveforms)
    assert np.abs(seen - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() <= clap.tolerance
    np.testing.assert_array_equal(seen, embed(clap.encoder, waveforms))


def test_safetensors_of_the_checkpoint_are_the_same_encoder(clap):
    imported = import_checkpoint(clap.path)
    other = LaionClap(str(imported))
    assert other.identity == clap.encoder.identity
    waveforms = batch(other, 5.0, 1)
    np.testing.assert_array_equal(embed(other, waveforms), embed(clap.encoder, waveforms))
    imported.unlink()


def test_the_larger_architecture_is_told_by_its_tensors(clap, tmp_path):
    upstream = upstream_clap(clap.roberta, "HTSAT-base")
    encoder = LaionClap(str(write_clap(tmp_path / "music.pt", upstream)))
    assert "HTSAT-base" in encoder.identity
    waveforms = batch(encoder, 5.0, 1)
    assert np.abs(embed(encoder, waveforms) - upstream.get_audio_embedding_from_data(waveforms)).max() <= 1e-6


def test_checkpoints_that_do_not_fit_are_refused(clap, tmp_path):
    state = torch.load(clap.path, weights_only=False)["state_dict"]
    first = "module.audio_branch.patch_embed.proj.weight"
    cases = {
        "another model": ({"layer.weight": torch.zeros(3)}, "not a LAION-CLAP checkpoint"),
        "PANN": ({**state, first: torch.zeros(64, 1, 4, 4)}, "not a LAION-CLAP checkpoint"),
        "fusion": ({**state, "module.audio_branch.patch_embed.fusion_model.x": torch.zeros(1)}, "fusion checkpoint"),
        "part": ({name: state[name] for name in [*list(state)[:50], first]}, "tensors missing"),
        "NaN": ({**state, first: state[first] * torch.nan}, "not finite"),
    }
    for name, (tensors, message) in cases.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"state_dict": tensors}, path)
        with pytest.raises(CheckpointError, match=message):
            LaionClap(str(path))


def test_truncated_and_missing_checkpoints_are_named(clap, tmp_path):
    content = clap.path.read_bytes()
    cut = tmp_path / "cut.pt"
    for size in (len(content) // 2, 100, 0):
        cut.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
            LaionClap(str(cut))
    cut.write_text(json.dumps({"not": "a checkpoint"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        LaionClap(str(cut))
    with pytest.raises(DataNotFoundError, match=r"nowhere\.pt"):
        LaionClap(str(tmp_path / "nowhere.pt"))


def test_a_checkpoint_with_code_in_it_is_refused_before_the_code_runs(clap, tmp_path):
    witness = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (type(witness).touch, (witness,))

    state = torch.load(clap.path, weights_only=False)["state_dict"]
    torch.save({"state_dict": state, "extra": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"without running code.*stemsim models import .*--allow-pickle"):
        LaionClap(str(tmp_path / "evil.pt"))
    assert not witness.exists()


# ---------------------------------------------------------------- MuQ-MuLan


@pytest.mark.parametrize("seconds", [4.0, 20.0, 0.05])
def test_windows_are_filled_as_upstream_fills_them(muq, seconds):
    waveforms = batch(muq.encoder, seconds)
    assert np.abs(embed(muq.encoder, waveforms) - muq.audio(waveforms)).max() <= muq.tolerance


def test_a_transformer_on_top_is_built_as_configured(tmp_path):
    upstream = upstream_muq_mulan(tmp_path, depth=2)
    encoder = MuQMuLan(str(tmp_path / "MuQ-MuLan-large"))
    waveforms = batch(encoder, 5.0)
    assert np.abs(embed(encoder, waveforms) - upstream_vectors(upstream, waveforms)).max() <= 1e-5


def test_the_pickled_layout_of_the_same_weights_is_the_same_encoder(muq, tmp_path):
    shutil.copytree(muq.folder, tmp_path / "hub")
    other = tmp_path / "hub" / "MuQ-MuLan-large"
    (other / "model.safetensors").unlink()
    torch.save(muq.upstream.state_dict(), other / "pytorch_model.bin")
    assert MuQMuLan(str(other)).identity == muq.encoder.identity


def test_damaged_folders_are_named(muq, tmp_path):
    def copy(name):
        shutil.copytree(muq.folder, tmp_path / name)
        return tmp_path / name / "MuQ-MuLan-large"

    cut = copy("cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        MuQMuLan(str(cut))
    other = copy("other")
    config = json.loads((other / "config.json").read_text())
    config["mulan"]["dim_latent"] = 256
    for text, error, message in (
        (json.dumps(config), CheckpointError, "another architecture"),
        ('{"hidden_size": 768}', CheckpointError, "lacks mulan, audio_model"),
        ("{", CheckpointError, r"config\.json is damaged"),
    ):
        (other / "config.json").write_text(text)
        with pytest.raises(error, match=message):
            MuQMuLan(str(other))
    (other / "config.json").unlink()
    with pytest.raises(DataNotFoundError, match=r"config\.json"):
        MuQMuLan(str(other))
    no_weights = copy("no-weights")
    (no_weights / "model.safetensors").unlink()
    with pytest.raises(DataNotFoundError, match=r"model\.safetensors"):
        MuQMuLan(str(no_weights))
