"""Audio files, waveforms, segments and song folders."""

import os
import shutil
import struct

import av
import numpy as np
import pytest
import soundfile
import torch
from bad_audio import encoded, without_tag
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.audio import (
    AUDIO_SUFFIXES,
    LEVEL_FLOOR,
    Segment,
    SongFolder,
    audio_info,
    downmix,
    ffmpeg,
    file_hash,
    level_dbfs,
    read_audio,
    resample,
    segment_windows,
    to_channels,
    write_audio,
)
from stemsim.audio.files import file_version
from stemsim.errors import AudioError, DataNotFoundError

RATE = 44_100
FORMATS = ("wav", "flac", "ogg", "mp3", "aiff", "aif")
LOSSLESS = ("wav", "flac", "aiff", "aif")
# Largest error of a loud chord of sines after decoding: half a step of 16 bits, or what the lossy coder adds.
FIDELITY = {"wav": 2**-15, "flac": 2**-15, "aiff": 2**-15, "aif": 2**-15, "ogg": 0.02, "mp3": 0.02}


def chord(frames=RATE, channels=2, rate=RATE):
    """Return `(channel, time)` sines, one chord a channel, that fade in and out and change over time."""
    time = torch.arange(frames, dtype=torch.float64) / rate
    fade = torch.sin(torch.pi * torch.arange(frames) / frames)
    voices = [[220.0 * (1 + channel), 333.0 + 50 * channel, 3000.0] for channel in range(channels)]
    return torch.stack([sum(fade * 0.2 * torch.sin(2 * torch.pi * f * time) for f in v) for v in voices]).float()


def written(folder, suffix, waveform=None, rate=RATE):
    path = folder / f"chord.{suffix}"
    write_audio(path, chord() if waveform is None else waveform, rate)
    return path


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_reads_back_what_was_written(tmp_path, suffix):
    path = written(tmp_path, suffix)
    waveform, rate = read_audio(path)
    assert rate == RATE
    assert waveform.shape == (2, RATE)
    assert waveform.dtype == torch.float32
    assert (waveform - chord()).abs().max() <= FIDELITY[suffix]
    assert suffix not in LOSSLESS or torch.equal(read_audio(path, 0.25)[0], waveform[:, RATE // 4 :])
    info = audio_info(path)
    assert (info.frames, info.sample_rate, info.channels, info.duration) == (RATE, RATE, 2, 1.0)
    assert f".{suffix}" in AUDIO_SUFFIXES


@pytest.mark.parametrize("suffix", LOSSLESS)
@given(first=st.integers(0, RATE - 1), frames=st.integers(1, RATE))
@settings(max_examples=15, deadline=None)
def test_part_of_a_lossless_file_is_exactly_that_slice_of_the_whole(tmp_path_factory, suffix, first, frames):
    path = tmp_path_factory.getbasetemp() / f"slices.{suffix}"
    if not path.exists():
        write_audio(path, chord(), RATE)
    whole, _ = read_audio(path)
    part, _ = read_audio(path, first / RATE, frames / RATE, pad=True)
    assert part.shape == (2, frames)
    inside = min(frames, RATE - first)
    assert torch.equal(part[:, :inside], whole[:, first : first + inside])
    assert not part[:, inside:].any()


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_part_of_a_lossy_file_is_that_slice_of_the_whole(tmp_path, suffix):
    path = written(tmp_path, suffix)
    whole, _ = read_audio(path)
    for first, frames in ((4410, 4410), (22_050, 10_000), (40_000, 4100)):
        part, _ = read_audio(path, first / RATE, frames / RATE)
        assert (part - whole[:, first : first + frames]).abs().max() < 1e-3


def test_part_beyond_the_end_is_an_error_that_tells_both_lengths_or_zeros_if_asked(tmp_path):
    path = written(tmp_path, "wav")
    with pytest.raises(AudioError, match=r"asked for 0\.500 s from 0\.750 s, got 0\.250 s") as raised:
        read_audio(path, 0.75, 0.5)
    assert str(path) in str(raised.value)
    padded, _ = read_audio(path, 0.75, 0.5, pad=True)
    assert padded.shape == (2, RATE // 2)
    assert not padded[:, RATE // 4 :].any()
    assert not read_audio(path, 3.0, 0.5, pad=True)[0].any()
    with pytest.raises(AudioError, match="ends too early"):
        read_audio(path, 3.0, 0.5)


@pytest.mark.parametrize(("start", "duration"), [(-0.5, 0.2), (0.0, 0.0), (0.0, -1.0), (2.0, None)])
def test_part_that_is_none_is_an_error(tmp_path, start, duration):
    path = written(tmp_path, "wav")
    with pytest.raises(AudioError, match="must start at 0 s or later and have a length"):
        read_audio(path, start, duration)


def test_two_roundings_do_not_ask_for_a_sample_that_the_file_lacks(tmp_path):
    # 1.5 s are 16 537.5 samples at 11 025 Hz: start and length are both rounded up, 3 s are 33 075.
    path = written(tmp_path, "wav", chord(33_075, 1), 11_025)
    windows = segment_windows(path, duration=1.5)
    assert len(windows) == 2
    last, _ = read_audio(path, windows[1].start, windows[1].duration)
    assert torch.equal(last, read_audio(path)[0][:, -16_538:])


@given(
    rate=st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000]),
    frames=st.integers(1000, 30_000),
    duration=st.floats(0.01, 0.7),
    hop=st.floats(0.01, 0.7),
)
@settings(max_examples=40, deadline=None)
def test_every_window_of_a_file_can_be_read_in_full(tmp_path_factory, rate, frames, duration, hop):
    path = tmp_path_factory.mktemp("windows") / "x.wav"
    write_audio(path, torch.zeros(1, frames), rate)
    windows = segment_windows(path, duration=duration, hop=hop)
    length = frames / rate
    for window in windows:
        assert read_audio(path, window.start, window.duration)[0].shape[1] == round(window.duration * rate)
    if length >= duration:  # and none was left out
        assert windows[-1].start + hop + duration > length


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
@pytest.mark.parametrize("read", [audio_info, read_audio, lambda path: read_audio(path, 0.0, 0.1)])
def test_half_of_a_wav_or_aiff_is_truncated_even_where_the_part_asked_for_is_there(tmp_path, suffix, read):
    path = written(tmp_path, suffix)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AudioError, match="is truncated or damaged: only 0") as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
@pytest.mark.parametrize("share", [0.5, 0.96])
def test_flac_or_mp3_that_is_cut_off_is_refused_only_if_much_is_missing(tmp_path, caplog, suffix, share):
    noise = 0.3 * torch.randn(1, 10 * RATE, generator=torch.Generator().manual_seed(0))  # all seconds take equal space
    path = written(tmp_path, suffix, noise)
    os.truncate(path, int(path.stat().st_size * share))
    if share == 0.5:
        with pytest.raises(
            AudioError, match=r"is truncated or damaged: only [45]\.\d+ s of the (9\.9|10\.0)"
        ) as raised:
            read_audio(path, 0.0, 1.0)
        assert str(path) in str(raised.value)
        return
    assert audio_info(path).duration == pytest.approx(9.6, abs=0.15)
    assert read_audio(path)[0].shape[1] == audio_info(path).frames
    assert f"{path}: only 9." in caplog.text


def with_frames(content, change):
    """Change the number of frames in the tag of an MP3."""
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    frames = int.from_bytes(content[place : place + 4])
    return content[:place] + change(frames).to_bytes(4) + content[place + 4 :]


JUNK = bytes(range(1, 255)) * 20  # 5 kB without the start of a frame
WRONG_HEADERS = {
    "no tag": without_tag,
    "no tag, junk in front": lambda content: JUNK + without_tag(content),
    "no frames": lambda content: with_frames(content, lambda _: 0),
    "a third of the frames": lambda content: with_frames(content, lambda frames: frames // 3),
    "one frame too many": lambda content: with_frames(content, lambda frames: frames + 1),
    "large picture": lambda content: b"ID3\x04\x00\x00\x00\x06\x00\x00" + bytes(6 << 14) + content,
}


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("wrong", WRONG_HEADERS)
def test_all_of_an_mp3_is_read_whatever_its_header_says(tmp_path, capfd, mode, wrong):
    time = torch.arange(12 * RATE) / RATE
    # Loud noise in one half and a sine in the other, so that a length guessed from the bit rate is far off.
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    sound = 0.2 * torch.sin(2 * torch.pi * 440 * time) + 0.2 * noise * (time > 9)
    whole, odd = tmp_path / "whole.mp3", tmp_path / "odd.mp3"
    soundfile.write(whole, sound.numpy(), RATE, bitrate_mode=mode, compression_level=0.5)
    odd.write_bytes(WRONG_HEADERS[wrong](whole.read_bytes()))
    assert audio_info(whole).duration == pytest.approx(12.0, abs=1e-3)
    assert audio_info(odd).duration == pytest.approx(12.0, abs=0.06)  # the tag also holds the delay of the encoder
    waveform, _ = read_audio(odd)
    assert waveform.shape[1] == audio_info(odd).frames
    for start in (0.0, 3.0, 2.5, 8.0, 11.5):  # forwards and backwards
        part, _ = read_audio(odd, start, 0.4)
        first = round(start * RATE)
        assert torch.equal(part, waveform[:, first : first + part.shape[1]])
    # The tag of the frames says where the sound starts; without it, the delay of the encoder is heard.
    lag = 0 if wrong != "no tag" and "junk" not in wrong else 1105
    assert (waveform[0, lag + RATE : lag + 3 * RATE] - sound[RATE : 3 * RATE]).abs().max() < 0.03
    assert waveform[0, 10 * RATE :].std() > 0.15
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "codec", "container", "error"),
    [
        ("x.m4a", "aac", None, 0.05),
        ("x.m4a", "alac", None, 1e-3),
        ("x.wma", "wmav2", None, 0.05),
        ("x.opus", "libopus", None, 0.05),
        ("mp3.wav", "libmp3lame", "wav", 0.05),
        ("renamed.wav", "libmp3lame", "mp3", 0.05),
        ("adpcm.wav", "adpcm_ms", None, 0.05),
    ],
)
def test_formats_that_libsndfile_reads_badly_or_not_at_all(tmp_path, name, codec, container, error):
    rate = 48_000
    sound = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(4 * rate) / rate)
    path = encoded(tmp_path / name, codec, sound, rate, container)
    info = audio_info(path)
    assert (info.sample_rate, info.channels) == (rate, 1)
    assert info.duration == pytest.approx(4.0, abs=0.06)
    waveform, _ = read_audio(path)
    lag = int(torch.stack([waveform[0, at : at + rate] @ sound[:rate] for at in range(3000)]).argmax())
    assert (waveform[0, lag + 4800 : lag + 3 * rate] - sound[4800 : 3 * rate]).abs().max() < error
    part, _ = read_audio(path, 2.0, 1.0)
    assert torch.equal(part, waveform[:, 2 * rate : 3 * rate])


def test_ffmpeg_reads_more_channels_than_its_frames_have_planes(tmp_path):
    path = written(tmp_path, "wav", chord(4000, 12, 8000), 8000)
    assert ffmpeg.count_samples(path)[:3] == (4000, 8000, 12)
    decoded = ffmpeg.decode(file_version(path), 0, 4000)
    assert torch.equal(torch.from_numpy(decoded.T.copy()), read_audio(path)[0])


def test_a_stream_that_changes_its_channels_is_refused(tmp_path):
    parts = [written(tmp_path, "mp3", chord(RATE // 2, channels)).read_bytes() for channels in (1, 2)]
    path = tmp_path / "both.mp3"
    path.write_bytes(b"".join(parts))
    with pytest.raises(AudioError, match=r"begins with .* and goes on with"):
        audio_info(path)


def test_vorbis_in_riff_is_read(tmp_path):
    ogg, riff = written(tmp_path, "ogg"), tmp_path / "riff.ogg"
    form, content = struct.pack("<HHIIHHH", 0x674F, 2, RATE, 16_000, 1, 0, 0), ogg.read_bytes()
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(content)) + content
    riff.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert torch.allclose(read_audio(riff)[0], read_audio(ogg)[0], atol=1e-5)


def test_the_end_of_a_vorbis_file_by_ffmpeg_is_where_it_is(tmp_path):
    sound = 0.2 * torch.randn(1, 12 * RATE, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    path = tmp_path / "x.ogg"
    with av.open(written(tmp_path, "ogg", sound)) as source, av.open(path, "w") as target:
        copied = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    whole, _ = read_audio(path)
    for start in (11.0, 11.3, 11.5, 11.7):  # libsndfile is a part of a page off there
        part, _ = read_audio(path, start, 0.25)
        assert torch.equal(part, whole[:, round(start * RATE) :][:, : part.shape[1]])


@pytest.mark.parametrize("size", [0, 2, 0xFFFFFFFF], ids=["zero", "two bytes too large", "unknown"])
def test_wav_with_a_wrong_size_of_its_samples_is_read(tmp_path, caplog, size):
    path = written(tmp_path, "wav")
    expected, _ = read_audio(path)
    content = bytearray(path.read_bytes())
    data = content.index(b"data") + 4
    true = int.from_bytes(content[data : data + 4], "little")
    content[data : data + 4] = (true + 2 if size == 2 else size).to_bytes(4, "little")
    odd = tmp_path / "odd.wav"
    odd.write_bytes(content)
    assert torch.equal(read_audio(odd)[0], expected)
    assert audio_info(odd).frames == RATE
    assert not caplog.text


@pytest.mark.parametrize(
    ("field", "value", "seen"),
    [(24, 2_000_000_000, "a sample rate of 2000000000 Hz"), (24, 1, "a sample rate of 1 Hz")],
)
def test_header_that_no_recording_has_is_refused_before_reading(tmp_path, field, value, seen):
    path = written(tmp_path, "wav")
    content = bytearray(path.read_bytes())
    content[field : field + 4] = value.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(AudioError, match=seen) as raised:
        audio_info(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("read", [audio_info, read_audio, file_hash])
def test_pipe_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(AudioError, match="is a folder, a pipe or a device"):
        read(tmp_path / "x.wav")


@pytest.mark.parametrize("balance", [-1.0, -0.99])
def test_channels_in_opposite_phase_are_heard_and_it_is_said_once(tmp_path, caplog, balance):
    left = chord()[:1]
    path = written(tmp_path, "wav", torch.cat([left, balance * left]))
    waveform, _ = read_audio(path)
    read_audio(path, 0.2, 0.5)
    assert (downmix(waveform) - left[0]).abs().max() < 1e-3
    assert (to_channels(waveform, 2) - left).abs().max() < 1e-3  # what a separator of stereo gets
    assert caplog.text.count(f"{path}: its channels cancel each other out") == 1
    # Nothing else changes: unrelated channels, one channel alone, and each clip of a batch for itself.
    others = torch.stack([chord(), torch.cat([left, torch.zeros_like(left)])])
    assert torch.equal(downmix(others), others.mean(dim=-2))
    assert torch.equal(to_channels(others, 2), others)
    assert torch.equal(downmix(torch.stack([chord(), waveform]))[0], chord().mean(dim=0))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"These are the lyrics of a song.\n" * 40], ids=["empty", "text"])
def test_file_that_is_no_audio_is_named(tmp_path, suffix, content):
    path = tmp_path / f"notes.{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError) as raised:
        read_audio(path)
    assert str(path) in str(raised.value)
    if suffix == "wav":
        soundfile.write(path, np.zeros((0, 2), np.float32), RATE)
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(path)


@pytest.mark.parametrize("read", [audio_info, read_audio, file_hash, Segment.whole])
def test_missing_file_is_named(tmp_path, read):
    path = tmp_path / "nowhere.wav"
    with pytest.raises(DataNotFoundError, match=r"No (audio )?file at") as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_samples_that_are_not_finite_are_an_error_where_they_lie_and_nowhere_else(tmp_path, bad):
    samples = np.zeros(8000, np.float32)
    samples[5000] = bad
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN, infinite or absurdly large") as raised:
        read_audio(path)
    assert str(path) in str(raised.value)
    assert read_audio(path, 0.0, 0.6)[0].shape == (1, 4800)


def test_header_is_read_anew_when_the_file_changes(tmp_path):
    path = written(tmp_path, "wav")
    assert audio_info(path).frames == RATE
    write_audio(path, chord(1000, 1), 8000)
    assert (audio_info(path).frames, audio_info(path).sample_rate) == (1000, 8000)


def test_samples_beyond_full_scale_are_clipped_and_do_not_wrap(tmp_path):
    path = written(tmp_path, "wav", torch.tensor([[3.0, -3.0, 0.5]]), 8000)
    assert torch.allclose(read_audio(path)[0], torch.tensor([[1.0, -1.0, 0.5]]), atol=1e-4)


# ---------------------------------------------------------------- waveforms


@pytest.mark.parametrize("target", [48_000, 22_050, 24_000])
def test_resampled_sine_is_the_sine_at_the_other_rate(target):
    frequency, amplitude = 1000.0, 0.8
    sine = amplitude * torch.sin(2 * torch.pi * frequency * torch.arange(RATE, dtype=torch.float64) / RATE + 0.3)
    other = resample(sine.float(), RATE, target)
    time = torch.arange(target, dtype=torch.float64) / target
    expected = amplitude * torch.sin(2 * torch.pi * frequency * time + 0.3)
    assert other.shape == (target,)
    interior = slice(target // 20, -target // 20)  # the filter sees zeros beyond the ends
    assert (other - expected)[interior].abs().max() < 1e-3


@pytest.mark.parametrize("target", [22_050, 24_000])
def test_what_lies_above_the_new_nyquist_frequency_does_not_alias(target):
    sine = torch.sin(2 * torch.pi * 15_000.0 * torch.arange(RATE, dtype=torch.float64) / RATE).float()
    assert resample(sine, RATE, target)[target // 20 : -target // 20].abs().max() < 1e-3


@given(
    time=st.integers(1, 5000),
    source=st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000]),
    target=st.sampled_from([8000, 16_000, 24_000, 44_100, 48_000]),
)
@settings(max_examples=40, deadline=None)
def test_resampled_length_is_the_rounded_one(time, source, target):
    waveform = torch.linspace(-0.5, 0.5, 3 * time).reshape(3, 1, time)
    before = waveform.clone()
    resampled = resample(waveform, source, target)
    assert resampled.shape == (3, 1, round(time * target / source))
    assert torch.equal(waveform, before)
    assert source != target or torch.equal(resampled, waveform)
    alone = resample(waveform[1, 0], source, target)
    assert torch.equal(resampled[1, 0], alone)


def test_channels_are_downmixed_and_repeated_only_where_their_number_differs():
    stereo = chord(100)
    assert torch.equal(to_channels(stereo, 2), stereo)
    assert torch.equal(to_channels(stereo, 1), stereo.mean(dim=0, keepdim=True))
    assert torch.equal(to_channels(stereo[:1], 2), stereo[:1].repeat(2, 1))
    assert torch.equal(to_channels(chord(100, 6), 2), chord(100, 6).mean(dim=0).repeat(2, 1))


def test_level_of_a_sine_is_3_db_below_that_of_a_square():
    time = torch.arange(48_000) / 48_000
    sine = torch.sin(2 * torch.pi * 100 * time)
    levels = level_dbfs(torch.stack([sine, torch.where(sine >= 0, 1.0, -1.0), 0.1 * sine]))
    assert torch.allclose(levels, torch.tensor([-3.0103, 0.0, -23.0103]), atol=1e-3)


def test_level_of_silence_is_the_floor_and_very_low_levels_are_measured():
    quiet = torch.full((3, 100), 1.0)
    quiet *= torch.tensor([[0.0], [1e-5], [1e-20]])  # digital silence, -100 dB, and what squares to 0 in float32
    assert level_dbfs(quiet).tolist() == pytest.approx([LEVEL_FLOOR, -100.0, LEVEL_FLOOR], abs=1e-4)


@given(gain=st.floats(-90.0, 0.0))
def test_level_follows_the_gain(gain):
    waveform = chord(4000, 1)
    assert float(level_dbfs(waveform * 10 ** (gain / 20)) - level_dbfs(waveform)) == pytest.approx(gain, abs=1e-3)


# ---------------------------------------------------------------- segments


@pytest.fixture(scope="module")
def eighty_seconds(tmp_path_factory):
    path = tmp_path_factory.mktemp("song") / "song.flac"
    write_audio(path, torch.zeros(1, 80 * 8000), 8000)
    return path


@pytest.mark.parametrize(
    ("duration", "hop", "count"),
    [(5.0, None, 16), (5.0, 2.5, 31), (5.0, 10.0, 8), (80.0, None, 1), (79.9, 0.1, 2), (0.1, None, 800)],
)
def test_windows_are_all_those_that_lie_inside(eighty_seconds, duration, hop, count):
    windows = segment_windows(eighty_seconds, duration=duration, hop=hop)
    assert len(windows) == count
    assert windows[-1].start + duration <= 80.0 + 1e-6
    assert np.allclose(np.diff([window.start for window in windows]), hop or duration)
    assert segment_windows(eighty_seconds, duration=81.0) == [Segment(eighty_seconds, 0.0, 80.0)]


@pytest.mark.parametrize(("duration", "hop"), [(0.0, None), (-1.0, None), (5.0, 0.0), (5.0, -1.0)])
def test_windows_need_positive_times(eighty_seconds, duration, hop):
    with pytest.raises(AudioError, match="positive duration and hop"):
        segment_windows(eighty_seconds, duration=duration, hop=hop)


@pytest.mark.parametrize(
    ("start", "duration"), [(-0.1, 1.0), (0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))]
)
def test_segment_has_a_place_and_a_length(tmp_path, start, duration):
    with pytest.raises(AudioError, match="starts at 0 s or later"):
        Segment(tmp_path / "x.wav", start, duration)


def test_hash_is_that_of_the_content_and_not_of_the_name(tmp_path):
    first, second = written(tmp_path, "wav"), tmp_path / "moved.wav"
    shutil.copy(first, second)
    other = written(tmp_path, "wav", chord(RATE, 1))
    assert file_hash(second) == Segment(second, 0.0, 1.0).content_hash
    assert file_hash(other) != file_hash(second)
    shutil.copy(second, other)
    assert file_hash(other) == file_hash(second)


def test_hash_changes_with_one_byte_of_a_file_of_equal_size(tmp_path):
    path = written(tmp_path, "wav")
    before = file_hash(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    stamp = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp + 1))  # the clock of the file system may tick slowly
    assert file_hash(path) != before


# ---------------------------------------------------------------- songs


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_songs_are_subfolders_with_a_mix_and_all_other_audio_files(tmp_path):
    touch(tmp_path, "b/mix.ogg", "b/drums.ogg", "b/bass.ogg", "a/mix.FLAC", "album/c.mp3", "album/c.wav", "mix.wav")
    touch(tmp_path, "Track01876/mix.flac", "Track01876/stems/S00.flac", "Track01876/stems/S01.flac")
    songs = SongFolder(tmp_path).songs()
    mixes = ["Track01876/mix.flac", "a/mix.FLAC", "album/c.mp3", "album/c.wav", "b/mix.ogg", "mix.wav"]
    assert [song.name for song in songs] == ["Track01876", "a", "album/c.mp3", "album/c.wav", "b", "mix.wav"]
    assert [str(song.mix.relative_to(tmp_path)) for song in songs] == mixes


def test_hidden_files_and_other_files_are_no_songs(tmp_path):
    touch(tmp_path, "._x.wav", "a/._mix.wav", ".song-000-killed/new/mix.flac", "x.wav", "cover.jpg", "a/y.wav")
    (tmp_path / "folder.wav").mkdir()
    assert [song.name for song in SongFolder(tmp_path).songs()] == ["a/y.wav", "x.wav"]


def test_folder_without_audio_and_folder_that_is_missing_are_named(tmp_path):
    touch(tmp_path, "notes.txt", "._x.wav")
    with pytest.raises(DataNotFoundError, match="No audio in") as raised:
        SongFolder(tmp_path).songs()
    assert str(tmp_path) in str(raised.value)
    for nowhere in (tmp_path / "nowhere", tmp_path / "notes.txt"):
        with pytest.raises(DataNotFoundError, match="No folder of songs at") as raised:
            SongFolder(nowhere).songs()
        assert str(nowhere) in str(raised.value)


def test_real_songs_are_found_and_cut_into_16_windows_each(shared_data):
    folder = shared_data / "everything-is-free"
    if not folder.is_dir():
        pytest.skip(f"no songs at {folder}")
    songs = SongFolder(folder).songs()
    names = ["caesium", "francium", "hydrogen", "lithium", "potassium", "rubidium", "sodium"]
    assert [song.name for song in songs] == names
    for song in songs:
        assert len(segment_windows(song.mix, duration=5.0)) == 16
    # What lies in the middle of a Vorbis file is what decoding it from the start gives there.
    whole, rate = read_audio(songs[0].mix)
    part, _ = read_audio(songs[0].mix, 40.0, 5.0)
    assert rate == RATE
    assert (part - whole[:, 40 * rate : 45 * rate]).abs().max() < 1e-6
    assert level_dbfs(downmix(part)) > -40.0
