"""Separators that compute stems from the mix: what every one of them promises, and what `Bands` hears."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.audio import Segment, downmix, read_audio, segment_windows, write_audio
from stemsim.errors import AudioError, ConfigError, EmbeddingError
from stemsim.separators import Bands, MixOnly, Separator
from stemsim.separators.bands import _harmonic_mask

RATE = Bands.sample_rate
BASS, DRUMS, RESIDUALS, MIX = range(4)


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tone(frequency, seconds=3.0, level=0.2):
    return level * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


def hits(seconds=3.0, every=0.5, length=0.01, level=0.8):
    """Return bursts of noise, such as those of a hi-hat, and where they are (a mask over time)."""
    time = round(seconds * RATE)
    frames, gap = round(length * RATE), round(every * RATE)
    where = torch.arange(time) % gap < frames
    where[: gap // 2] = False
    return level * noise(time).div(0.3).clamp(-1, 1) * where, where


# ---------------------------------------------------------------- what every separator promises


@pytest.mark.parametrize("separator", [Bands(), MixOnly()])
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 2),
    time=st.sampled_from([1, 2, 1023, 1024, 2048, 2049, 6000]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_stems_have_the_shape_of_the_mix_and_add_up_to_it(separator, batch, channels, time, seed):
    mix = noise(batch, channels, time, seed=seed) * (seed > 9)  # and silence
    before = mix.clone()
    stems = separator(mix)
    assert stems.shape == (batch, len(separator.stems), channels, time)
    assert torch.equal(stems[:, separator.stems.index("mix")], mix)
    parts = [index for index, stem in enumerate(separator.stems) if stem != "mix"]
    if parts:
        assert torch.allclose(stems[:, parts].sum(dim=1), mix, atol=1e-6)
    assert torch.isfinite(stems).all()
    assert torch.equal(mix, before)
    assert seed > 9 or not stems.any()


def test_stems_are_the_same_at_every_run_and_in_every_batch():
    mix = noise(5, 2, 20_000)
    bands = Bands()
    together = bands(mix)
    assert torch.equal(together, bands(mix))
    for index in (0, 4):
        assert torch.allclose(bands(mix[index : index + 1])[0], together[index], atol=1e-6)
    assert torch.allclose(bands(mix.flip(0)).flip(0), together, atol=1e-6)


@pytest.mark.parametrize("gain", [1e-4, 0.1])
def test_separation_does_not_depend_on_the_gain(gain):
    mix = noise(1, 1, 20_000)
    assert torch.allclose(Bands()(gain * mix) / gain, Bands()(mix), atol=1e-5)


# ---------------------------------------------------------------- what Bands hears


def song():
    """Return a mix of a low tone, two high tones and hits `(time,)`."""
    return tone(80.0) + tone(1000.0) + tone(2500.0, level=0.1) + hits()[0]


def test_harmonic_mask_is_that_of_librosa_away_from_the_edges():
    import librosa

    spectrum = np.abs(librosa.stft(song().numpy() + noise(3 * RATE).numpy() * 0.01, n_fft=2048, hop_length=1024))
    expected, _ = librosa.decompose.hpss(spectrum, kernel_size=(17, 31), power=2.0, mask=True)
    seen = _harmonic_mask(torch.from_numpy(spectrum)[None])[0].numpy()
    # Half a kernel from the edges the medians see the same values; nearer, librosa reflects them and we repeat them.
    interior = (slice(15, -15), slice(8, -8))
    assert np.abs(seen - expected)[interior].max() < 1e-5
    assert 0.0 < expected[interior].mean() < 1.0


def share(part, whole, frequency):
    """Return how much of the tone of a frequency in `whole` is in `part`, by amplitude."""
    carrier = torch.exp(2j * torch.pi * frequency * torch.arange(len(whole)) / RATE)
    window = torch.hann_window(len(whole))
    return float((part * window * carrier).sum().abs() / (whole * window * carrier).sum().abs())


def test_low_tone_is_bass_high_tones_are_residuals_and_hits_are_drums():
    mix = song()
    stems = Bands()(mix[None, None])[0, :, 0]
    assert share(stems[BASS], mix, 80.0) > 0.9
    assert share(stems[RESIDUALS], mix, 80.0) < 0.1
    for frequency in (1000.0, 2500.0):
        assert share(stems[RESIDUALS], mix, frequency) > 0.9
        assert share(stems[BASS], mix, frequency) < 0.01
        assert share(stems[DRUMS], mix, frequency) < 0.1
    clicks, where = hits()
    energy = clicks.square().sum()
    assert (stems[DRUMS] - clicks)[where].square().sum() < 0.2 * energy
    assert stems[DRUMS][where].square().sum() > 0.8 * energy
    assert stems[BASS].sub(tone(80.0))[where].square().sum() < 0.02 * energy


def test_kick_is_drums_although_it_is_low():
    time = torch.arange(round(0.12 * RATE)) / RATE
    kick = torch.sin(2 * torch.pi * (50 * time + 60 * 0.02 * (1 - torch.exp(-time / 0.02)))) * torch.exp(-time / 0.02)
    track = torch.zeros(3 * RATE)
    for start in range(RATE // 4, 3 * RATE - RATE // 4, RATE // 2):
        track[start : start + len(kick)] = 0.8 * kick
    stems = Bands()((track + tone(1000.0))[None, None])[0, :, 0]
    energy = track.square().sum()
    assert (stems[DRUMS] - track).square().sum() < 0.3 * energy
    assert stems[BASS].square().sum() < 0.2 * energy


@pytest.mark.parametrize(("frequency", "crossover"), [(200.0, 200.0), (400.0, 400.0), (300.0, 200.0)])
def test_tone_passes_from_bass_to_residuals_at_the_crossover(frequency, crossover):
    mix = tone(frequency)
    stems = Bands(crossover)(mix[None, None])[0, :, 0]
    expected = 1 / (1 + (frequency / crossover) ** 8)
    assert share(stems[BASS], mix, frequency) == pytest.approx(expected, abs=0.05)


def test_identity_changes_with_the_crossover_and_nothing_else():
    assert Bands().identity == Bands(200).identity
    identities = {Bands(crossover).identity for crossover in (100.0, 199.5, 200.0, 201.0)}
    assert len(identities) == 4
    assert MixOnly().identity not in identities


@pytest.mark.parametrize("crossover", [0.0, -1.0, 22_050.0, float("nan")])
def test_crossover_outside_the_spectrum_is_an_error(crossover):
    with pytest.raises(ConfigError, match="crossover lies between 0 and 22050 Hz"):
        Bands(crossover)


# ---------------------------------------------------------------- reading segments


@pytest.fixture
def stereo(tmp_path):
    path = tmp_path / "song.wav"
    write_audio(path, noise(2, 2 * 44_100).clamp(-0.9, 0.9), 44_100)
    return path


@pytest.mark.parametrize("separator", [Bands(), MixOnly()])
@pytest.mark.parametrize("rate", [44_100, 48_000, 24_000, 22_050, 11_025])
@pytest.mark.parametrize("duration", [219_136 / 44_100 / 4, 0.3333, 0.5])
def test_read_gives_the_rounded_number_of_samples(stereo, separator, rate, duration):
    stems = separator.read([Segment(stereo, 0.1, duration), Segment(stereo, 0.21, duration)], rate)
    assert stems.shape == (2, len(separator.stems), round(duration * rate))


@pytest.mark.parametrize("separator", [Bands(), MixOnly()])
def test_read_gives_the_downmix_of_the_file_as_mix(stereo, separator):
    stems = separator.read([Segment(stereo, 0.5, 0.25), Segment(stereo, 0.1, 0.25)], 44_100)
    waveform, _ = read_audio(stereo)
    expected = downmix(waveform)
    index = separator.stems.index("mix")
    assert torch.allclose(stems[0, index], expected[22_050 : 22_050 + 11_025], atol=1e-6)
    assert torch.allclose(stems[1, index], expected[4410 : 4410 + 11_025], atol=1e-6)


def test_files_of_other_rates_and_channels_are_read_in_one_batch(tmp_path):
    segments = []
    for rate, channels in ((44_100, 2), (22_050, 1), (48_000, 6)):
        path = tmp_path / f"{rate}.wav"
        sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        soundfile.write(path, np.repeat(sine[:, None], channels, axis=1), rate)
        segments.append(Segment(path, 0.0, 1.0))
    stems = Bands().read(segments, 24_000)
    interior = slice(2400, -2400)
    assert (stems[1] - stems[0])[:, interior].abs().max() < 2e-3
    assert (stems[2] - stems[0])[:, interior].abs().max() < 2e-3


def test_segment_beyond_the_end_is_an_error_and_not_silence(stereo):
    with pytest.raises(AudioError, match="ends too early"):
        Bands().read([Segment(stereo, 0.0, 1.0), Segment(stereo, 1.5, 1.0)], 44_100)


class Broken(Separator):
    stems = ("bass", "mix")
    identity = "broken-separator"
    sample_rate = None
    channels = None

    def __init__(self, result):
        self.result = result

    def __call__(self, waveforms):
        return self.result(waveforms)


@pytest.mark.parametrize(
    "result",
    [
        lambda waveforms: waveforms.unsqueeze(1),
        lambda waveforms: waveforms.unsqueeze(1).repeat(1, 3, 1, 1),
        lambda waveforms: waveforms.unsqueeze(1).repeat(2, 2, 1, 1),
        lambda waveforms: waveforms.unsqueeze(1).repeat(1, 2, 1, 1) * torch.nan,
        lambda waveforms: waveforms.unsqueeze(1).repeat(1, 2, 1, 1) / 0.0,
    ],
    ids=["too few stems", "too many stems", "too many segments", "NaN", "infinite"],
)
def test_separator_that_breaks_its_promise_is_named(stereo, result):
    segment = Segment(stereo, 0.25, 0.5)
    with pytest.raises(EmbeddingError, match="broken-separator") as raised:
        Broken(result).read([segment], 8000)
    assert str(segment) in str(raised.value)


@pytest.mark.parametrize("dropped", [1, 4000, -500], ids=["a sample short", "half", "too long"])
def test_separator_that_changes_the_length_is_named(stereo, dropped):
    def other_length(waveforms):
        return torch.nn.functional.pad(waveforms.unsqueeze(1).repeat(1, 2, 1, 1), (0, -dropped))

    with pytest.raises(EmbeddingError, match="broken-separator"):
        Broken(other_length).read([Segment(stereo, 0.25, 0.5)], 44_100)


def test_real_songs_add_up_and_have_drums(shared_data):
    folder = shared_data / "everything-is-free"
    if not folder.is_dir():
        pytest.skip(f"no songs at {folder}")
    segment = segment_windows(folder / "hydrogen" / "mix.ogg", duration=5.0)[8]
    stems = Bands().read([segment], RATE)[0]
    assert torch.allclose(stems[:MIX].sum(dim=0), stems[MIX], atol=1e-5)
    true_drums = downmix(read_audio(folder / "hydrogen" / "drums.ogg", segment.start, segment.duration)[0])

    def similarity(stem):
        return float(torch.nn.functional.cosine_similarity(stem, true_drums, dim=0))

    assert similarity(stems[DRUMS]) > similarity(stems[RESIDUALS])
