"""Demucs against upstream's own separator, from folders as upstream lays them out."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from random_models import FOUR, LOW_RATE, REAL_RATE, SIX, SMALL_DEMUCS, write_htdemucs
from signals import CLIPS, make_signal

from stemsim.audio import Segment, level_dbfs
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained.loading import import_checkpoint
from stemsim.separators import Demucs
from stemsim.stems import LAYOUTS

RATE = LOW_RATE
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("demucs")
    write_htdemucs(root / "htdemucs", "htdemucs", FOUR, rate=RATE)
    write_htdemucs(root / "htdemucs_6s", "htdemucs_6s", SIX, seed=1, rate=RATE)
    return root


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A file of 31 s, and its waveform."""
    waveform = make_signal(5, 31.0, RATE, channels=2)
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, waveform.T, RATE, subtype="FLOAT")
    return path, torch.from_numpy(waveform)


def upstream(folder, name, waveform, rate=RATE):
    """Return upstream's stems `(stem, 2, time)` of one clip in our order; both at the rate of the model."""
    from demucs.api import Separator

    separator = Separator(name, repo=folder / name, shifts=0, device="cpu")
    assert separator.samplerate == rate
    mix, sources = separator.separate_tensor(waveform)
    sources = {"mix": mix, "residuals": sources["other"], **sources}
    return torch.stack([sources[stem] for stem in LAYOUTS["6-stem" if name.endswith("6s") else "4-stem"]])


@pytest.mark.parametrize("seconds", CLIPS.values(), ids=CLIPS.keys())
@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_6s"])
def test_stems_are_upstreams(folder, name, seconds):
    separator = Demucs(str(folder / name))
    assert separator.stems == LAYOUTS["6-stem" if name.endswith("6s") else "4-stem"]
    count = 2 if seconds < 6.0 else 1
    waveforms = torch.from_numpy(np.stack([make_signal(seed, seconds, RATE, channels=2) for seed in range(count)]))
    waveforms[1:] *= 0.01  # normalised clip by clip
    seen = separator(waveforms)
    for clip, stems in zip(waveforms, seen, strict=True):
        expected = upstream(folder, name, clip)
        assert (stems - expected).abs().max() <= TOLERANCE * clip.abs().max()
        assert expected[:-1].std() > 1e-3 * clip.std()  # it answers with sound


def test_stems_are_upstreams_at_the_rate_of_the_real_models(tmp_path):
    write_htdemucs(tmp_path / "htdemucs_6s", "htdemucs_6s", SIX, rate=REAL_RATE)
    separator = Demucs(str(tmp_path / "htdemucs_6s"))
    assert separator.sample_rate == REAL_RATE == 44_100
    waveform = make_signal(0, 10.0, REAL_RATE, channels=2)  # more than one chunk
    soundfile.write(tmp_path / "song.wav", waveform.T, REAL_RATE, subtype="FLOAT")
    expected = upstream(tmp_path, "htdemucs_6s", torch.from_numpy(waveform), REAL_RATE)
    seen = separator(torch.from_numpy(waveform)[None])[0]
    assert (seen - expected).abs().max() <= TOLERANCE * np.abs(waveform).max()
    mono = separator.read([Segment(tmp_path / "song.wav", 0.0, 10.0)], REAL_RATE)[0]
    assert (mono - expected.mean(dim=1)).abs().max() <= TOLERANCE * np.abs(waveform).max()


def test_silence_stays_silence(folder):
    assert not Demucs(str(folder / "htdemucs"))(torch.zeros(1, 2, 5 * RATE)).any()


def test_a_mono_file_is_separated_as_upstream_separates_it(folder, tmp_path):
    from demucs.audio import convert_audio

    mono = make_signal(3, 5.0, RATE)
    soundfile.write(tmp_path / "mono.wav", mono, RATE, subtype="FLOAT")
    seen = Demucs(str(folder / "htdemucs")).read([Segment(tmp_path / "mono.wav", 0.0, 5.0)], RATE)
    stereo = convert_audio(torch.from_numpy(mono)[None], RATE, RATE, 2)
    expected = upstream(folder, "htdemucs", stereo).mean(dim=1)
    assert (seen[0] - expected).abs().max() <= TOLERANCE


def test_levels_between_stems_scale_with_the_clip(folder):
    separator = Demucs(str(folder / "htdemucs"))
    clip = torch.from_numpy(make_signal(4, 5.0, RATE, channels=2))[None]
    loud, quiet = level_dbfs(separator(clip)[0]), level_dbfs(separator(0.1 * clip)[0])
    torch.testing.assert_close(loud - quiet, torch.full_like(loud, 20.0), atol=1e-2, rtol=0)


def test_a_segment_has_the_same_stems_in_any_batch_and_order(folder, song):
    separator = Demucs(str(folder / "htdemucs"))
    segments = [Segment(song[0], start, 5.0) for start in (0.0, 11.3, 26.0)]
    together = separator.read(segments, 48_000)
    assert together.shape == (3, 5, 240_000)
    assert (separator.read(segments[::-1], 48_000).flip(0) - together).abs().max() <= TOLERANCE
    many = Demucs(str(folder / "htdemucs"), batch_size=3).read(segments, 48_000)
    assert (many - together).abs().max() <= TOLERANCE


def test_a_file_separated_once_is_upstreams_separation_of_the_whole_file(folder, song):
    path, waveform = song
    expected = upstream(folder, "htdemucs", waveform).mean(dim=1)
    separator = Demucs(str(folder / "htdemucs"), context="file")
    segments = [Segment(path, start, 5.0) for start in (26.0, 0.0, 3.0, 11.3)]
    stems = separator.read(segments, RATE)
    for segment, seen in zip(segments, stems, strict=True):
        start = round(segment.start * RATE)
        assert (seen - expected[:, start : start + 5 * RATE]).abs().max() <= TOLERANCE
    whole = separator.read([Segment(path, 0.0, 31.0)], RATE)[0]
    assert (whole - expected).abs().max() <= TOLERANCE


def test_a_file_is_separated_once_whatever_windows_are_cut_from_it(folder, song):
    separator = Demucs(str(folder / "htdemucs"), context="file")
    chunks = []
    forward = separator._model.forward
    separator._model.forward = lambda heard: chunks.append(len(heard)) or forward(heard)
    segments = [Segment(song[0], float(start), 2.0) for start in range(29)]
    for first in range(0, 29, 4):
        separator.read(segments[first : first + 4], RATE)
    assert sum(chunks) == 6  # 31 s in chunks of 7.8 s that begin every 5.85 s


def test_a_file_that_changes_is_separated_again(folder, tmp_path):
    path = tmp_path / "song.wav"
    separator = Demucs(str(folder / "htdemucs"), context="file")
    for seed in range(2):
        waveform = make_signal(seed, 9.0 + seed, RATE, channels=2)
        soundfile.write(path, waveform.T, RATE, subtype="FLOAT")
        seen = separator.read([Segment(path, 1.0, 5.0)], RATE)[0]
        expected = upstream(folder, "htdemucs", torch.from_numpy(waveform)).mean(dim=1)[:, RATE : 6 * RATE]
        assert (seen - expected).abs().max() <= TOLERANCE


def test_neighbours_are_what_the_file_holds_around_the_segment(folder, song):
    from demucs.apply import TensorChunk, apply_model

    path, waveform = song
    separator = Demucs(str(folder / "htdemucs"), context="neighbours")
    reference = waveform.mean(dim=0)
    mean, deviation = reference.mean(), reference.std() + 1e-8
    track = ((waveform - mean) / deviation)[None]
    for start in (0.0, 10.0, 26.0):
        chunk = TensorChunk(track, round(start * RATE), 5 * RATE)
        with torch.inference_mode():
            sources = apply_model(separator._model, chunk, shifts=0, split=False)[0] * deviation + mean
        expected = sources[[FOUR.index(name) for name in ("bass", "drums", "vocals", "other")]].mean(dim=1)
        seen = separator.read([Segment(path, start, 5.0)], RATE)[0]
        assert (seen[:-1] - expected).abs().max() <= TOLERANCE
        alone = Demucs(str(folder / "htdemucs")).read([Segment(path, start, 5.0)], RATE)[0]
        assert (alone[:-1] - expected).abs().max() > 1e-4
        assert torch.equal(alone[-1], seen[-1])  # the mix is the mix


@pytest.mark.parametrize(("precision", "decibels"), [("bfloat16", 25.0), ("float16", 45.0)])
def test_lower_precision_is_near_and_has_an_identity_of_its_own(folder, precision, decibels):
    clip = torch.from_numpy(make_signal(4, 5.0, RATE, channels=2))[None]
    exact, lower = Demucs(str(folder / "htdemucs")), Demucs(str(folder / "htdemucs"), precision=precision)
    assert lower.identity != exact.identity
    error = (lower(clip) - exact(clip))[:, :-1]
    assert error.any()
    assert 20 * torch.log10(exact(clip)[:, :-1].std() / error.std()) > decibels


def test_all_layouts_of_the_files_are_the_same_separator(folder, tmp_path):
    expected = Demucs(str(folder / "htdemucs")).identity
    (weights,) = (folder / "htdemucs").glob("*.th")
    assert Demucs(str(weights)).identity == expected
    assert Demucs(str(folder / "htdemucs" / "htdemucs.yaml")).identity == expected
    shutil.copytree(folder / "htdemucs", tmp_path / "safe")
    import_checkpoint(tmp_path / "safe" / weights.name)
    (tmp_path / "safe" / weights.name).unlink()
    assert Demucs(str(tmp_path / "safe")).identity == expected
    from demucs.hf import load_safetensors_model

    model = load_safetensors_model(next((tmp_path / "safe").glob("*.safetensors")))  # upstream reads it too
    assert model.sources == FOUR


def test_models_that_do_not_fit_are_refused(folder, tmp_path):
    def copy(name):
        shutil.copytree(folder / "htdemucs", tmp_path / name)
        return tmp_path / name, next((tmp_path / name).glob("*.th"))

    cut, weights = copy("cut")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        Demucs(str(cut))
    named, weights = copy("named")
    weights.rename(weights.with_name(f"{weights.stem}-00000000.th"))
    with pytest.raises(CheckpointError, match="its name says 00000000"):
        Demucs(str(named))
    plain, weights = copy("plain")
    torch.save({"layer.weight": torch.zeros(2)}, weights)
    with pytest.raises(CheckpointError, match="model of no stated class"):
        Demucs(str(plain))
    other, weights = copy("other")
    package = torch.load(weights, weights_only=False)
    torch.save({**package, "kwargs": {**package["kwargs"], "depth": 3}}, weights)
    with pytest.raises(CheckpointError, match="another architecture"):
        Demucs(str(other))
    bag, weights = copy("bag")
    (bag / "htdemucs.yaml").write_text(yaml.safe_dump({"models": [weights.stem] * 4}))
    with pytest.raises(ConfigError, match="bag of 4 models"):
        Demucs(str(bag))
    for text in ("nothing", "models: !!timestamp x", "{models: [x], segment: long}"):
        (bag / "htdemucs.yaml").write_text(text)
        with pytest.raises(CheckpointError, match="does not describe a Demucs model"):
            Demucs(str(bag))
    gone, weights = copy("gone")
    weights.unlink()
    with pytest.raises(DataNotFoundError, match=weights.stem):
        Demucs(str(gone))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataNotFoundError, match="has 0 models"):
        Demucs(str(empty))


def test_a_model_with_other_sources_is_refused(tmp_path):
    write_htdemucs(tmp_path / "odd", "odd", ["drums", "kazoo"], **SMALL_DEMUCS)
    with pytest.raises(CheckpointError, match="kazoo"):
        Demucs(str(tmp_path / "odd"))


@pytest.mark.parametrize("options", [{"context": "around"}, {"batch_size": 0}, {"precision": "int8"}])
def test_settings_out_of_range_are_refused(folder, options):
    with pytest.raises(ConfigError):
        Demucs(str(folder / "htdemucs"), **options)
