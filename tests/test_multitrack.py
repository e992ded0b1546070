"""True stems from files: both layouts, grouping, what may be missing and what may not."""

import pickle
import shutil

import pytest
import torch
import yaml
from fake_slakh import STEMS, write_fake_slakh

from stemsim.audio import Segment, SongFolder, downmix, read_audio, write_audio
from stemsim.errors import AudioError, ConfigError, DataNotFoundError, StemMismatchError
from stemsim.separators import Multitrack
from stemsim.stems import LAYOUTS, check_same_layout

RATE = 8000
SLAKH_STEMS = {
    "bass": ["S00"],
    "drums": ["S01"],
    "guitar": ["S02", "S03"],
    "piano": ["S04"],
    "vocals": [],
    "residuals": ["S05", "S07"],  # strings and organ; the synth pad was never rendered
}


def write_song(folder, *, seconds=2.0, short=(), stems=("bass", "drums", "guitar", "piano", "vocals", "residuals")):
    """Write a song in our own layout: one tone a stem, and their sum; stems in `short` end half-way."""
    folder.mkdir(parents=True)
    time = torch.arange(int(seconds * RATE)) / RATE
    mix = torch.zeros(1, len(time))
    for index, stem in enumerate(stems):
        waveform = 0.1 * torch.sin(2 * torch.pi * 200.0 * (index + 1) * time)[None]
        if stem in short:
            waveform = waveform[:, : len(time) // 2]
        write_audio(folder / f"{stem}.wav", waveform, RATE)
        mix[:, : waveform.shape[1]] += waveform
    write_audio(folder / "mix.wav", mix, RATE)
    return Segment(folder / "mix.wav", 0.0, seconds)


def mono(path, segment):
    return downmix(read_audio(path, segment.start, segment.duration)[0])


@pytest.fixture
def track(tmp_path):
    """A segment of a Slakh2100 track."""
    (folder,) = write_fake_slakh(tmp_path / "slakh", [1876], seconds=6.0, seed=0, sample_rate=RATE)
    return Segment(folder / "mix.flac", 0.5, 5.0)


@pytest.fixture(scope="module")
def songs(shared_data):
    folder = shared_data / "everything-is-free"
    if not folder.is_dir():
        pytest.skip(f"no real songs at {folder}")
    return SongFolder(folder).songs()


class TestOwnLayout:
    def test_each_file_is_its_stem(self, tmp_path):
        segment = write_song(tmp_path / "song")
        source = Multitrack("6-stem")
        (stems,) = source.read([segment], RATE)
        assert stems.shape == (7, 2 * RATE)
        for stem, waveform in zip(source.stems, stems, strict=True):
            torch.testing.assert_close(waveform, mono(segment.path.with_name(f"{stem}.wav"), segment))

    def test_four_stems_put_guitar_and_piano_into_residuals(self, tmp_path):
        segment = write_song(tmp_path / "song")
        four = dict(zip(LAYOUTS["4-stem"], Multitrack("4-stem").read([segment], RATE)[0], strict=True))
        six = dict(zip(LAYOUTS["6-stem"], Multitrack("6-stem").read([segment], RATE)[0], strict=True))
        torch.testing.assert_close(four["residuals"], six["residuals"] + six["guitar"] + six["piano"])
        for stem in ("bass", "drums", "vocals", "mix"):
            torch.testing.assert_close(four[stem], six[stem])

    def test_stems_come_in_the_order_asked_for(self, tmp_path):
        segment = write_song(tmp_path / "song")
        (one,) = Multitrack(["drums", "mix", "bass"]).read([segment], RATE)
        (other,) = Multitrack(["bass", "drums", "mix"]).read([segment], RATE)
        torch.testing.assert_close(one[[2, 0, 1]], other)

    def test_without_residuals_other_stems_are_left_out(self, tmp_path):
        segment = write_song(tmp_path / "song")
        (stems,) = Multitrack(["drums"]).read([segment], RATE)
        torch.testing.assert_close(stems[0], mono(segment.path.with_name("drums.wav"), segment))

    def test_a_stem_that_the_song_lacks_is_silent(self, tmp_path):
        segment = write_song(tmp_path / "song", stems=("drums", "residuals"))
        stems = dict(zip(LAYOUTS["6-stem"], Multitrack("6-stem").read([segment], RATE)[0], strict=True))
        assert {stem for stem, waveform in stems.items() if waveform.any()} == {"drums", "residuals", "mix"}

    def test_other_is_residuals(self, tmp_path):
        segment = write_song(tmp_path / "song", stems=("drums", "other"))
        (stems,) = Multitrack(["drums", "residuals"]).read([segment], RATE)
        torch.testing.assert_close(stems[1], mono(segment.path.with_name("other.wav"), segment))

    @pytest.mark.parametrize("name", ["strings.wav", "Bass.wav", "other.wav", "bass.flac"])
    def test_unknown_or_second_file_of_a_stem(self, tmp_path, name):
        segment = write_song(tmp_path / "song")
        shutil.copy(segment.path, segment.path.with_name(name))
        with pytest.raises(ConfigError, match="is not the file of a stem, or is a second file"):
            Multitrack().read([segment], RATE)

    def test_other_files_do_not_count(self, tmp_path):
        segment = write_song(tmp_path / "song")
        for name in ("licence.txt", "._bass.wav", "cover.jpg"):
            segment.path.with_name(name).write_text("not music")
        assert Multitrack().read([segment], RATE).shape == (1, 7, 2 * RATE)

    def test_mix_alone(self, tmp_path):
        segment = write_song(tmp_path / "song", stems=())
        with pytest.raises(DataNotFoundError, match=r"No stems beside .*mix\.wav"):
            Multitrack().read([segment], RATE)

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataNotFoundError, match=r"No song folder at .*nowhere"):
            Multitrack().read([Segment(tmp_path / "nowhere" / "mix.wav", 0.0, 1.0)], RATE)

    def test_a_stem_shorter_than_the_mix_is_silent_after_its_end(self, tmp_path):
        whole = write_song(tmp_path / "song", short=("vocals",))
        (stems,) = Multitrack(["vocals", "mix"]).read([whole], RATE)
        assert stems[0, :RATE].any()
        assert not stems[0, RATE:].any()
        late = Segment(whole.path, 1.2, 0.5)  # begins where the stem has ended
        (stems,) = Multitrack(["vocals", "mix"]).read([late], RATE)
        assert not stems[0].any()
        assert stems[1].any()

    def test_a_mix_shorter_than_the_segment_is_an_error(self, tmp_path):
        segment = write_song(tmp_path / "song")
        with pytest.raises(AudioError, match="ends too early"):
            Multitrack().read([Segment(segment.path, 1.5, 1.0)], RATE)

    def test_other_sample_rate(self, tmp_path):
        segment = write_song(tmp_path / "song")
        assert Multitrack().read([segment, segment], 48_000).shape == (2, 7, 96_000)


class TestSlakh:
    def test_classes_are_grouped(self, track):
        stems = dict(zip(LAYOUTS["6-stem"], Multitrack("6-stem").read([track], RATE)[0], strict=True))
        folder = track.path.parent / "stems"
        for stem, names in SLAKH_STEMS.items():
            expected = sum((mono(folder / f"{name}.flac", track) for name in names), torch.zeros(5 * RATE))
            torch.testing.assert_close(stems[stem], expected)
            assert bool(stems[stem].any()) == bool(names)
        torch.testing.assert_close(sum(stems[stem] for stem in SLAKH_STEMS), stems["mix"])

    def test_four_stems_put_guitar_and_piano_into_residuals(self, track):
        four = dict(zip(LAYOUTS["4-stem"], Multitrack("4-stem").read([track], RATE)[0], strict=True))
        names = [name for stem in ("guitar", "piano", "residuals") for name in SLAKH_STEMS[stem]]
        expected = sum(mono(track.path.parent / "stems" / f"{name}.flac", track) for name in names)
        torch.testing.assert_close(four["residuals"], expected)

    @pytest.mark.parametrize("inst_class", ["Strings", "Synth Pad", "Organ", "Reed", "Ethnic", "Sound Effects"])
    def test_every_other_class_is_residuals(self, tmp_path, inst_class):
        stems = [STEMS[1], ("S02", inst_class, 0, "a program", "a_plugin.nkm", True)]
        (folder,) = write_fake_slakh(tmp_path, [7], seconds=1.0, seed=0, sample_rate=RATE, stems=stems)
        segment = Segment(folder / "mix.flac", 0.0, 1.0)
        (waveforms,) = Multitrack(["drums", "residuals"]).read([segment], RATE)
        torch.testing.assert_close(waveforms[1], mono(folder / "stems" / "S02.flac", segment))

    def test_a_rendered_stem_without_its_file(self, track):
        (track.path.parent / "stems" / "S02.flac").unlink()
        with pytest.raises(DataNotFoundError, match=r"lacks S02, which metadata\.yaml says were rendered"):
            Multitrack().read([track], RATE)

    def test_a_stem_that_was_not_rendered_needs_no_file(self, track):
        assert not (track.path.parent / "stems" / "S06.flac").exists()
        assert Multitrack().read([track], RATE).shape == (1, 7, 5 * RATE)

    def test_no_rendered_stem(self, tmp_path):
        stems = [(*stem[:-1], False) for stem in STEMS]
        (folder,) = write_fake_slakh(tmp_path, [7], seconds=1.0, seed=0, stems=stems)
        with pytest.raises(AudioError, match="has no rendered stem"):
            Multitrack().read([Segment(folder / "mix.flac", 0.0, 1.0)], RATE)

    @pytest.mark.parametrize(
        "text", ["", "stems: 3", "stems: {S00: {is_drum: false}}", "stems: [", "UUID: x", "a: !!bool x"]
    )
    def test_metadata_that_cannot_be_read(self, track, text):
        (track.path.parent / "metadata.yaml").write_text(text)
        with pytest.raises(ConfigError, match="is not valid Slakh2100 metadata"):
            Multitrack().read([track], RATE)

    def test_changed_metadata_are_read_again(self, track):
        path = track.path.parent / "metadata.yaml"
        before = Multitrack(["piano"]).read([track], RATE)
        metadata = yaml.safe_load(path.read_text())
        metadata["stems"]["S04"]["inst_class"] = "Organ"
        path.write_text(yaml.safe_dump(metadata))
        assert before.any()
        assert not Multitrack(["piano"]).read([track], RATE).any()

    def test_found_as_songs(self, track):
        (song,) = SongFolder(track.path.parents[1]).songs()
        assert (song.name, song.mix) == ("Track01876", track.path)


class TestContentHash:
    def test_same_content_elsewhere_is_the_same(self, track, tmp_path):
        copy = shutil.copytree(track.path.parent, tmp_path / "elsewhere" / "Track00001")
        assert Multitrack().content_hash(track) == Multitrack().content_hash(Segment(copy / "mix.flac", 0.5, 5.0))

    @pytest.mark.parametrize("name", ["mix.flac", "stems/S00.flac", "stems/S07.flac"])
    def test_changes_with_any_file(self, track, name):
        before = Multitrack().content_hash(track)
        path = track.path.parent / name
        waveform, rate = read_audio(path)
        write_audio(path, 0.5 * waveform, rate)
        assert Multitrack().content_hash(track) != before

    def test_changes_with_the_class_of_a_stem(self, track):
        before = Multitrack().content_hash(track)
        path = track.path.parent / "metadata.yaml"
        path.write_text(path.read_text().replace("inst_class: Organ", "inst_class: Piano"))
        assert Multitrack().content_hash(track) != before

    def test_changes_when_a_stem_of_our_layout_comes_or_goes(self, tmp_path):
        segment = write_song(tmp_path / "song", stems=("drums", "residuals"))
        before = Multitrack().content_hash(segment)
        shutil.copy(segment.path.with_name("drums.wav"), segment.path.with_name("vocals.wav"))
        added = Multitrack().content_hash(segment)
        segment.path.with_name("vocals.wav").unlink()
        assert added != before
        assert Multitrack().content_hash(segment) == before

    def test_does_not_depend_on_where_the_segment_lies(self, track):
        late = Segment(track.path, 0.7, 5.0)
        assert Multitrack().content_hash(track) == Multitrack().content_hash(late)


class TestRealSongs:
    """The seven songs of Everything is Free: Ogg Vorbis, each stem coded on its own."""

    @pytest.mark.parametrize("layout", ["4-stem", "6-stem"])
    def test_the_stems_add_up_to_the_mix_within_codec_noise(self, songs, layout):
        assert len(songs) == 7
        for song in songs:
            (stems,) = Multitrack(layout).read([Segment(song.mix, 30.0, 10.0)], 44_100)
            residue = stems[:-1].sum(dim=0) - stems[-1]
            ratio = 10 * torch.log10(stems[-1].square().mean() / residue.square().mean())
            assert ratio > 15.0, f"{song.name}: {ratio:.1f} dB"
            # Noise leans on no stem; a stem left out, or counted twice, would show as 1 here.
            present = stems[:-1][stems[:-1].square().mean(dim=1) > 1e-6]
            leaning = torch.linalg.lstsq(present.T.double(), residue[:, None].double()).solution
            assert leaning.abs().max() < 0.1, f"{song.name}: {leaning.flatten().tolist()}"

    def test_stems_that_a_song_lacks_are_silent(self, songs):
        for song in songs:
            there = {path.stem for path in song.mix.parent.glob("*.ogg")}
            (stems,) = Multitrack("6-stem").read([Segment(song.mix, 40.0, 5.0)], 44_100)
            heard = {stem for stem, waveform in zip(LAYOUTS["6-stem"], stems, strict=True) if waveform.any()}
            assert {"mix"} < heard <= there


def test_a_mismatch_of_stem_layouts_survives_pickling_between_processes():
    with pytest.raises(StemMismatchError, match=r"the fusion has \(mix, bass\), expected \(bass, mix\)") as raised:
        check_same_layout(["bass", "mix"], ["mix", "bass"], what="the fusion", remedy="Sort them.")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.expected, copy.seen, str(copy)) == (("bass", "mix"), ("mix", "bass"), str(raised.value))
