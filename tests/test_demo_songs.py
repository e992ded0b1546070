"""The synthetic songs of the demo: the same for everyone, different from each other, and complete on disk."""

import json

import librosa
import numpy as np
import pytest
import torch

from stemsim.audio import level_dbfs, read_audio, segment_windows
from stemsim.demo import SyntheticSongs, synthesise_song
from stemsim.errors import ConfigError
from stemsim.separators import Multitrack
from stemsim.stems import STEMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    songs = SyntheticSongs(tmp_path_factory.mktemp("songs"), count=10, seconds=20.0)
    return songs, songs.songs()


def test_one_seed_gives_the_same_samples_and_another_seed_others():
    first, again, other = (synthesise_song((seed,), 4.0) for seed in (1, 1, 2))
    assert all(torch.equal(first[stem], again[stem]) for stem in first)
    assert not torch.equal(first["mix"], other["mix"])


def test_the_mix_is_the_sum_of_the_stems_also_when_read_back(folder):
    _, songs = folder
    for song in songs[:3]:
        segment = segment_windows(song.mix, duration=5.0)[1]
        stems = Multitrack("6-stem").read([segment], 22050)[0]
        quantisation = len(STEMS) / 2**15
        assert (stems[:-1].sum(dim=0) - stems[-1]).abs().max() <= quantisation


def test_stems_are_at_musical_levels_and_peaks_stay_below_full_scale(folder):
    _, songs = folder
    windows = [window for song in songs for window in segment_windows(song.mix, duration=5.0)]
    levels = level_dbfs(Multitrack("6-stem").read(windows, 22050))
    heard = levels[levels > -60.0]
    assert heard.median() > -35.0
    assert levels[:, -1].min() > -30.0, "no mix is silent"
    assert max(float(read_audio(song.mix)[0].abs().max()) for song in songs) < 1.0


def test_every_stem_occurs_and_some_songs_lack_one(folder):
    _, songs = folder
    present = [{path.stem for path in song.mix.parent.glob("*.flac")} for song in songs]
    assert set.union(*present) == set(STEMS)
    assert any(stems < set(STEMS) for stems in present)


def test_what_is_there_is_left_alone_and_what_differs_is_written_anew(tmp_path):
    root = tmp_path / "songs"
    first = SyntheticSongs(root, count=2, seconds=2.0).songs()
    (root / ".song-002-killed").mkdir()  # what a killed process leaves
    times = [song.mix.stat().st_mtime_ns for song in first]
    more = SyntheticSongs(root, count=3, seconds=2.0).songs()
    assert [song.name for song in more] == ["song-000", "song-001", "song-002"]
    assert [song.mix.stat().st_mtime_ns for song in more[:2]] == times
    longer = SyntheticSongs(root, count=3, seconds=3.0).songs()
    assert all(json.loads((song.mix.parent / "song.json").read_text())["seconds"] == 3.0 for song in longer)


@pytest.mark.parametrize("lost", ["mix", "drums"])
def test_a_song_that_lost_a_file_is_written_anew(tmp_path, lost):
    (song,) = SyntheticSongs(tmp_path, count=1, seconds=2.0).songs()
    (song.mix.parent / f"{lost}.flac").unlink()
    assert SyntheticSongs(tmp_path, count=1, seconds=2.0).songs() == [song]
    assert (song.mix.parent / f"{lost}.flac").is_file()


def test_a_folder_that_is_no_synthetic_song_is_not_overwritten(tmp_path):
    (tmp_path / "song-000").mkdir()
    (tmp_path / "song-000" / "mix.wav").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="not a synthetic song"):
        SyntheticSongs(tmp_path, count=1, seconds=2.0).songs()
    assert (tmp_path / "song-000" / "mix.wav").read_bytes() == b"precious"


@pytest.mark.parametrize("bad", [{"count": 0}, {"seconds": 0.5}, {"seconds": float("nan")}, {"seed": -1}])
def test_settings_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(ConfigError, match="got"):
        SyntheticSongs(tmp_path, **bad)


@pytest.mark.parametrize("stem", STEMS)
def test_each_stem_tells_songs_apart(folder, stem):
    """Windows of one song have closer mean MFCCs than windows of two songs, more often than not by far."""
    _, songs = folder
    features, names = [], []
    for song in songs:
        path = song.mix.parent / f"{stem}.flac"
        if not path.exists():
            continue
        for window in segment_windows(path, duration=5.0):
            wave = read_audio(window.path, window.start, window.duration)[0][0]
            if level_dbfs(wave) > -50.0:
                features.append(librosa.feature.mfcc(y=wave.numpy(), sr=22050).mean(axis=1)[1:])
                names.append(song.name)
    features, names = np.array(features), np.array(names)
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    closer = [
        (distance[i][same[i]][:, None] < distance[i][names != names[i]]).mean()
        for i in range(len(names))
        if same[i].any()
    ]
    assert np.mean(closer) > 0.75
