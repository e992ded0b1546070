"""The classical encoder: contract, invariances, and what it hears."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from stemsim.encoders.spectral import GROUPS, Spectral
from stemsim.errors import EmbeddingError

DATA = Path(os.environ.get("STEMSIM_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))
RATE = Spectral.sample_rate


def tone(
    *,
    fundamental=262.0,
    duration=1.0,
    attack=0.02,
    decay=None,
    tilt=-9.0,
    odd_over_even=0.0,
    stretch=0.0,
    vibrato=0.0,
    noise=0.0,
    seed=0,
):
    """Synthesise a tone: attack and decay in s, tilt in dB/octave, odd over even in dB, vibrato in cents."""
    time = np.arange(int(duration * RATE)) / RATE
    random = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(fundamental * 2 ** (vibrato / 1200 * np.sin(2 * np.pi * 5.5 * time))) / RATE
    order = np.arange(1, 41)
    ratio = order * np.sqrt(1 + stretch * order**2)
    level = 10 ** ((tilt * np.log2(order) - odd_over_even * (order % 2 == 0)) / 20) * (ratio * fundamental < 15000)
    start = random.uniform(0, 2 * np.pi, len(order))
    sound = sum(a * np.sin(r * phase + s) for a, r, s in zip(level, ratio, start, strict=True) if a)
    hiss = random.standard_normal(len(time))
    sound = np.sqrt(1 - noise) * sound / sound.std() + np.sqrt(noise) * hiss / hiss.std()
    envelope = np.minimum(1, time / attack) * np.minimum(1, (duration - time) / 0.05)
    if decay:
        envelope = envelope * np.exp(-np.maximum(0, time - attack) / decay)
    sound = sound * envelope
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def read_mono(path):
    """Read a file as a mono waveform at `RATE`."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)
    return mono if rate == RATE else soxr.resample(mono, rate, RATE)


def samples(collection):
    """Return mono waveforms at `RATE` and the categories of one folder of samples."""
    root = DATA / "samples" / collection
    paths = sorted([*root.glob("*.flac"), *root.glob("*/*.wav")])
    if not paths:
        pytest.skip(f"no samples in {root}; set STEMSIM_DATA")
    categories = [path.stem.split("_")[0] if path.parent == root else path.parent.name for path in paths]
    return [read_mono(path) for path in paths], np.array(categories)


def precision_at_5(similarity, categories):
    """Share of the 5 nearest of the query's category; the same over min(5, others in it). Means over queries.

    Queries are the items whose category has at least two members; all items are candidates.
    """
    similarity = similarity.copy()
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :5]
    hits = (categories[nearest] == categories[:, None]).sum(axis=1)
    others = (categories[:, None] == categories).sum(axis=1) - 1
    asked = others > 0
    return (hits[asked] / 5).mean(), (hits[asked] / np.minimum(5, others[asked])).mean()


def mean_mfcc(waveform, rate=RATE):
    """Average the 20 MFCCs that librosa computes by default."""
    import librosa

    return librosa.feature.mfcc(y=waveform, sr=rate, n_fft=min(2048, len(waveform))).mean(axis=1)


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def embed_each(encoder, waveforms):
    return torch.cat([encoder(torch.from_numpy(waveform)[None]) for waveform in waveforms]).numpy()


@pytest.fixture(scope="module")
def encoder():
    return Spectral()


@pytest.fixture(scope="module")
def batch():
    settings = [{}, {"tilt": -4.0}, {"attack": 0.2}, {"noise": 0.2}, {"fundamental": 110.0, "decay": 0.2}]
    return torch.from_numpy(np.stack([tone(**kwargs) for kwargs in settings]))


def test_vectors_have_unit_norm_and_the_announced_length(encoder, batch):
    vectors = encoder(batch)
    assert vectors.shape == (len(batch), encoder.dim)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(batch)), atol=1e-6, rtol=0)


def test_company_and_order_do_not_matter(encoder, batch):
    together = encoder(batch)
    alone = torch.cat([encoder(row[None]) for row in batch])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    torch.testing.assert_close(encoder(batch.flip(0)).flip(0), together, atol=2e-6, rtol=0)


def test_two_instances_give_the_same_bytes(encoder, batch):
    other = Spectral()
    assert other.identity == encoder.identity
    assert other(batch).numpy().tobytes() == encoder(batch).numpy().tobytes()


def test_the_numbers_are_those_that_the_identity_promises(encoder):
    loop = np.tile(tone(duration=0.25, attack=0.004, decay=0.1), 4)
    values = encoder.describe(torch.from_numpy(np.stack([loop, tone(noise=0.2, fundamental=110.0)])))
    seen = torch.stack([value.sum(dim=1) for value in values.values()], dim=1)
    pinned = (
        "-62.2877 9.9116 -1.4069 271.5697 -1.183 80.4876 -4.1225 -0.6776 -2.2257 "
        "-2.7688 1.9805 0.5554 3.7516 0 -0.7019 0.2646 0.3613 0.7279 "
        "130.1408 5.5966 3.4357 118.7546 -3.2341 73.0189 -3.4265 -1.5662 -3.0955 "
        "8.0586 0.0584 4.011 1.6543 0 -0.2275 0.8115 0.0945 0.0471"
    )
    assert (encoder.identity, encoder.dim) == ("spectral-1-1afb02b953cc", 296)
    assert seen.flatten().tolist() == pytest.approx([float(text) for text in pinned.split()], rel=1e-3, abs=1e-3)


def test_level_does_not_matter(encoder, batch):
    for gain in (0.01, 0.3, 3.0):
        torch.testing.assert_close(encoder(batch * gain), encoder(batch), atol=1e-4, rtol=0)


def test_faint_input_fades_to_silence_not_to_noise(encoder):
    hiss = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    silence = torch.zeros(1, RATE)
    likeness = [(encoder(hiss * level) @ encoder(silence).T).item() for level in (1e-2, 1e-7, 1e-9)]
    assert likeness[0] < likeness[1] < likeness[2]


def degenerate_inputs():
    click, time = torch.zeros(RATE), torch.arange(RATE) / RATE
    click[1000] = 1.0
    sine = torch.sin(2 * torch.pi * 440 * time)
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(1))
    return {
        "silence": torch.zeros(RATE),
        "dc": torch.ones(RATE),
        "click": click,
        "sine": sine,
        "sine of 20 Hz": torch.sin(2 * torch.pi * 20 * time),
        "sine of 21 kHz": torch.sin(2 * torch.pi * 21000 * time),
        "clipped": (20 * sine).clamp(-1, 1),
        "noise": noise,
        "enormous": noise * 1e15,
        "denormal": noise * 1e-40,
        "alternating": torch.ones(RATE) * (1 - 2 * (torch.arange(RATE) % 2)),
    }


@pytest.mark.parametrize("name", degenerate_inputs())
def test_odd_input_gives_a_finite_unit_vector(encoder, name):
    vector = encoder(degenerate_inputs()[name][None])
    assert torch.isfinite(vector).all()
    assert abs(vector.norm().item() - 1) < 1e-5


@pytest.mark.parametrize("duration", [Spectral.min_duration, 0.02, 0.1, 0.251, 3.0, 90.0])
def test_any_length_is_described(encoder, duration):
    samples_ = round(duration * RATE)
    vector = encoder(torch.randn(1, samples_, generator=torch.Generator().manual_seed(2)))
    assert torch.isfinite(vector).all()
    assert abs(vector.norm().item() - 1) < 1e-5


def test_an_empty_batch_is_an_empty_answer(encoder):
    assert encoder(torch.zeros(0, RATE)).shape == (0, encoder.dim)


@pytest.mark.parametrize("shape", [(RATE,), (1, 2, RATE), (1, 440), (3, 0)])
def test_a_wrong_shape_is_refused(encoder, shape):
    with pytest.raises(EmbeddingError, match="Expected mono waveforms"):
        encoder(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_input_that_is_not_finite_is_refused(encoder, value):
    waveforms = torch.zeros(3, RATE)
    waveforms[1, 7] = value
    with pytest.raises(EmbeddingError, match="1 of 3 waveforms"):
        encoder(waveforms)


def test_input_is_left_alone_and_nothing_trains(encoder, batch):
    before = batch.clone()
    vectors = encoder(batch.requires_grad_())
    batch.requires_grad_(requires_grad=False)
    assert torch.equal(before, batch)
    assert not vectors.requires_grad
    assert not list(encoder.parameters())
    assert not encoder.train().training
    assert not encoder.state_dict()


def test_weights_can_be_trained_on_its_cosines(encoder, batch):
    vectors = encoder(batch)
    weight = torch.ones(encoder.dim, requires_grad=True)
    (vectors @ (vectors[0] * weight)).sum().backward()
    assert weight.grad is not None


def test_descriptors_are_named_and_measure_what_they_say(encoder):
    dull, bright, slow = (
        encoder.describe(torch.from_numpy(tone(**kwargs))[None]) for kwargs in ({}, {"tilt": -3.0}, {"attack": 0.2})
    )
    assert {group.name for group in GROUPS} < set(dull)
    assert bright["shape"][0, 0] > dull["shape"][0, 0]
    assert slow["attack"][0, 0] > dull["attack"][0, 0] + 0.7
    assert dull["register"][0, 0].item() == pytest.approx(np.log2(262 / 55), abs=0.02)
    assert dull["single"].item() > 0.8


def test_a_loop_counts_as_rhythm_and_one_shot_does_not(encoder):
    hit = tone(duration=0.25, attack=0.004, decay=0.05)
    values = encoder.describe(torch.from_numpy(np.stack([np.tile(hit, 12), np.pad(hit, (0, 11 * len(hit)))])))
    assert values["repeated"][0] > 0.8
    assert values["repeated"][1] < 0.1


SWEEPS = {
    "attack": [0.005, 0.012, 0.03, 0.07, 0.16],
    "decay": [1.5, 0.7, 0.35, 0.17, 0.08],
    "tilt": [-15.0, -12.0, -9.0, -6.0, -3.0],
    "odd_over_even": [0.0, 5.0, 10.0, 18.0],
    "stretch": [0.0, 0.0003, 0.001, 0.003, 0.01],
    "vibrato": [0.0, 15.0, 35.0, 70.0, 120.0],
    "noise": [0.0, 0.02, 0.08, 0.25, 0.6],
}


@pytest.mark.parametrize("name", SWEEPS)
def test_similarity_falls_as_a_tone_changes(encoder, name):
    tones = torch.from_numpy(np.stack([tone(**{name: value}) for value in SWEEPS[name]]))
    similarity = encoder(tones) @ encoder(tones[:1]).squeeze(0)
    assert (similarity.diff() < 0).all(), similarity


INSTRUMENTS = {
    "pluck": {"attack": 0.004, "decay": 0.35, "stretch": 0.0003},
    "flute": {"attack": 0.08, "tilt": -16.0, "noise": 0.03, "vibrato": 15.0},
    "clarinet": {"attack": 0.04, "tilt": -8.0, "odd_over_even": 20.0},
    "string": {"attack": 0.12, "tilt": -6.0, "vibrato": 25.0, "noise": 0.01},
    "bell": {"attack": 0.003, "decay": 0.5, "tilt": -5.0, "stretch": 0.01},
    "mallet": {"attack": 0.003, "decay": 0.12, "tilt": -14.0, "stretch": 0.02},
}


def test_a_semitone_or_two_hurt_less_than_another_instrument(encoder):
    tones = [
        tone(fundamental=262 * 2 ** (step / 12), **kwargs) for kwargs in INSTRUMENTS.values() for step in (0, 1, 2)
    ]
    vectors = encoder(torch.from_numpy(np.stack(tones)))
    similarity = (vectors @ vectors.T).numpy()
    instrument = np.repeat(np.arange(len(INSTRUMENTS)), 3)
    same = instrument[:, None] == instrument
    for row, is_same in zip(similarity, same, strict=True):
        assert row[is_same].min() > row[~is_same].max()


@pytest.mark.parametrize("collection", ["sonic-pi", "uzu-drumkit"])
def test_real_samples_are_found_better_than_by_mfcc(encoder, collection):
    waveforms, categories = samples(collection)
    ours = np.array(precision_at_5(cosines(embed_each(encoder, waveforms)), categories))
    mfcc = np.array(precision_at_5(cosines(np.stack([mean_mfcc(waveform) for waveform in waveforms])), categories))
    assert (ours > mfcc + 0.08).all(), (ours, mfcc)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_vectors(encoder, batch):
    torch.testing.assert_close(Spectral().cuda()(batch.cuda()).cpu(), encoder(batch), atol=1e-3, rtol=0)
