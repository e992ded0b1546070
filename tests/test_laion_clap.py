"""LAION-CLAP against upstream's own module, from a checkpoint as upstream's training saves it."""

import json

import numpy as np
import pytest
import torch
from random_models import upstream_clap, write_clap, write_roberta
from signals import CLIPS, make_signal

from stemsim.encoders import LaionClap
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.loading import import_checkpoint

RATE = 48_000
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Upstream's module, its checkpoint, and the folder of its RoBERTa."""
    folder = tmp_path_factory.mktemp("clap")
    roberta = write_roberta(folder / "roberta-base")
    module = upstream_clap(roberta)
    return module, write_clap(folder / "630k-audioset-best.pt", module), roberta


@pytest.fixture(scope="module")
def encoder(files):
    _, path, roberta = files
    return LaionClap(str(path), text=str(roberta))


def batch(seconds, count=2):
    return np.stack([make_signal(seed, seconds, RATE) for seed in range(count)])


def embed(encoder, waveforms):
    with torch.inference_mode():
        return encoder(torch.from_numpy(waveforms)).numpy()


@pytest.mark.parametrize("seconds", [CLIPS[name] for name in CLIPS if name != "23 s"])
def test_vectors_are_upstreams(files, encoder, seconds):
    waveforms = batch(seconds)
    expected = files[0].get_audio_embedding_from_data(waveforms)
    seen = embed(encoder, waveforms)
    assert np.abs(seen - expected).max() <= TOLERANCE
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the model tells them apart: the comparison means something


def test_exactly_five_seconds_repeat_twice_and_one_sample_more_does_not(files, encoder):
    longer = np.pad(batch(5.0, 1), ((0, 0), (0, 1)))
    expected = files[0].get_audio_embedding_from_data(longer)
    assert np.abs(embed(encoder, longer) - expected).max() <= TOLERANCE
    assert np.abs(embed(encoder, longer[:, :-1]) - expected).max() > 1e-4


def test_above_ten_seconds_fixed_windows_are_averaged(files, encoder):
    waveforms = batch(23.0)
    starts = [0, 480_000, waveforms.shape[1] - 480_000]  # upstream crops at random: it is given each window
    windows = [files[0].get_audio_embedding_from_data(waveforms[:, start : start + 480_000]) for start in starts]
    mean = np.mean(windows, axis=0)
    seen = embed(encoder, waveforms)
    assert np.abs(seen - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() <= TOLERANCE
    np.testing.assert_array_equal(seen, embed(encoder, waveforms))


@pytest.mark.parametrize("level", [0.0, 1e-5, 3.0], ids=["silence", "under one 16-bit step", "clipped"])
def test_silence_whispers_and_clipping_are_treated_as_upstream_does(files, encoder, level):
    waveforms = level * batch(5.0, 2)
    expected = files[0].get_audio_embedding_from_data(waveforms.astype(np.float32))
    assert np.abs(embed(encoder, waveforms.astype(np.float32)) - expected).max() <= TOLERANCE


def test_a_clip_has_the_same_vector_in_any_batch_and_order(encoder):
    waveforms = batch(5.0, 3)
    together = embed(encoder, waveforms)
    assert np.abs(embed(encoder, waveforms[::-1].copy())[::-1] - together).max() <= TOLERANCE
    for row in range(3):
        assert np.abs(embed(encoder, waveforms[row : row + 1])[0] - together[row]).max() <= TOLERANCE


def test_text_is_upstreams_and_loads_when_asked_for(files, encoder):
    texts = ["warm analog bass", "a", "brushed drums, " * 30]
    seen = encoder.encode_text(texts)
    np.testing.assert_allclose(seen.numpy(), files[0].get_text_embedding(texts), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(3))
    assert encoder.encode_text([]).shape == (0, 512)


def test_audio_needs_no_tokenizer_and_text_says_where_one_is_expected(files):
    audio_only = LaionClap(str(files[1]), text="no/such-folder")
    assert embed(audio_only, batch(0.4, 1)).shape == (1, 512)
    with pytest.raises(DataNotFoundError, match="no/such-folder"):
        audio_only.encode_text(["bass"])


def test_safetensors_of_the_checkpoint_are_the_same_encoder(files, encoder):
    imported = import_checkpoint(files[1])
    other = LaionClap(str(imported))
    assert other.identity == encoder.identity
    np.testing.assert_array_equal(embed(other, batch(5.0, 1)), embed(encoder, batch(5.0, 1)))
    imported.unlink()


def test_it_is_frozen_and_stays_in_evaluation_mode(encoder):
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_lower_precision_is_near_and_has_an_identity_of_its_own(files, encoder, precision, bound):
    lower = LaionClap(str(files[1]), precision=precision)
    assert lower.identity != encoder.identity
    assert 0.0 < np.abs(embed(lower, batch(5.0)) - embed(encoder, batch(5.0))).max() < bound
    with pytest.raises(ConfigError, match="float8"):
        LaionClap(str(files[1]), precision="float8")


def test_the_larger_architecture_is_told_by_its_tensors(files, tmp_path):
    module = upstream_clap(files[2], "HTSAT-base")
    encoder = LaionClap(str(write_clap(tmp_path / "music.pt", module)))
    assert "HTSAT-base" in encoder.identity
    expected = module.get_audio_embedding_from_data(batch(5.0, 1))
    assert np.abs(embed(encoder, batch(5.0, 1)) - expected).max() <= TOLERANCE


def test_checkpoints_that_do_not_fit_are_refused(files, tmp_path):
    state = torch.load(files[1], weights_only=False)["state_dict"]
    first = "module.audio_branch.patch_embed.proj.weight"
    cases = {
        "another model": ({"layer.weight": torch.zeros(3)}, "no LAION-CLAP checkpoint"),
        "PANN": ({**state, first: torch.zeros(64, 1, 4, 4)}, "no LAION-CLAP checkpoint"),
        "fusion": ({**state, "module.audio_branch.patch_embed.fusion_model.x": torch.zeros(1)}, "fusion checkpoint"),
        "part": ({name: state[name] for name in [*list(state)[:50], first]}, "tensors missing"),
        "NaN": ({**state, first: state[first] * torch.nan}, "not finite"),
    }
    for name, (tensors, message) in cases.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"state_dict": tensors}, path)
        with pytest.raises(CheckpointError, match=message):
            LaionClap(str(path))


def test_truncated_and_missing_checkpoints_are_named(files, tmp_path):
    content = files[1].read_bytes()
    cut = tmp_path / "cut.pt"
    for size in (len(content) // 2, 100, 0):
        cut.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
            LaionClap(str(cut))
    cut.write_text(json.dumps({"not": "a checkpoint"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        LaionClap(str(cut))
    with pytest.raises(DataNotFoundError, match=r"nowhere\.pt"):
        LaionClap(str(tmp_path / "nowhere.pt"))


def test_a_checkpoint_with_code_in_it_is_refused_before_the_code_runs(files, tmp_path):
    witness = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (type(witness).touch, (witness,))

    state = torch.load(files[1], weights_only=False)["state_dict"]
    torch.save({"state_dict": state, "extra": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"without running code.*stemsim models import .*--allow-pickle"):
        LaionClap(str(tmp_path / "evil.pt"))
    assert not witness.exists()
