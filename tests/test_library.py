"""Libraries: what goes in, what stays in whatever happens, and what a search finds."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fakes import CountingEncoder, write_songs

import stemsim
from stemsim.audio import Segment, level_dbfs, read_audio
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import ConfigError, DataNotFoundError, StemMismatchError, StemsimError, StoreError
from stemsim.fusion import AttentionFusion, WeightedFusion
from stemsim.retrieval import ItemFilter, Library, Routing
from stemsim.retrieval.card import LibraryCard
from stemsim.retrieval.catalogue import Catalogue
from stemsim.retrieval.indexing import adding, files
from stemsim.separators import MixOnly, Multitrack, Separator
from stemsim.similarity import StemEmbeddings

RATE = 8000
BAND = RATE / 2 / 8  # of the eight of CountingEncoder


class Halves(Separator):
    """Two stems of known geometry: `bass` is what lies in the lower half of the spectrum, `drums` the rest."""

    stems = ("bass", "drums", "mix")
    identity = "halves"
    sample_rate = RATE
    channels = 1

    def __call__(self, waveforms):
        spectrum = torch.fft.rfft(waveforms)
        low = spectrum.clone()
        low[..., spectrum.shape[-1] // 2 :] = 0
        bass = torch.fft.irfft(low, waveforms.shape[-1])
        return torch.stack([bass, waveforms - bass, waveforms], dim=1)


class TextEncoder(CountingEncoder):
    """Knows the words `band 0` to `band 7`."""

    def encode_text(self, texts):
        return torch.eye(self.dim)[[int(text.split()[-1]) for text in texts]]


class SlowEncoder(CountingEncoder):
    def forward(self, waveforms):
        time.sleep(0.2)
        return super().forward(waveforms)


def embedder(encoder=None, source=None, **options):
    return StemEmbedder(source or Halves(), encoder or CountingEncoder(), progress=False, **options)


def tone(*bands, seconds=1.0, level=0.2):
    time_ = np.arange(round(seconds * RATE)) / RATE
    return sum(level * np.sin(2 * np.pi * (band + 0.5) * BAND * time_) for band in bands)


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples, np.float32), rate, subtype="FLOAT")
    return path


def items(library):
    """Return key -> (path, start) of all items."""
    table = library.index.table(["key", "path", "start"])
    keys = table["key"].to_pylist()
    assert len(keys) == len(set(keys))
    return dict(zip(keys, zip(table["path"].to_pylist(), table["start"].to_pylist(), strict=True), strict=True))


def check_whole(library):
    """Check that the files that are done have their items, and no item has no file."""
    done = [record for record in library._catalogue.records() if record.done]
    expected = {key for record in done for key in record.item_keys(library.card.windowing)}
    assert set(items(library)) == expected
    return done


@pytest.fixture
def folder(tmp_path):
    """Four short sounds, one of two windows and a half."""
    root = tmp_path / "sounds"
    write(root / "Kicks/low.wav", tone(0))
    write(root / "Hats/high.wav", tone(7))
    write(root / "loops/both_120bpm_Am.wav", tone(1, 6, seconds=2.0))
    write(root / "long.wav", np.concatenate([tone(0, seconds=4), tone(3, seconds=4), tone(5, seconds=2)]))
    return root


@pytest.fixture
def library(tmp_path, folder):
    made = Library(tmp_path / "L", embedder(), window=4.0)
    made.add(folder, listen=False)
    return made


def test_files_go_in_once(library, folder):
    report = library.add(folder, listen=False)
    assert (report.added, report.changed, report.unchanged, report.failures) == (0, 0, 4, [])
    assert len(items(library)) == 6
    assert sorted(start for path, start in items(library).values() if path.endswith("long.wav")) == [0.0, 4.0, 6.0]
    clips = library.encoder.clips
    os.utime(folder / "long.wav")
    report = library.add([folder / "long.wav", folder], listen=False)
    assert (report.unchanged, library.encoder.clips) == (4, clips)  # a look at the content, and no embedding
    assert library.add(folder, listen=False).unchanged == 4
    check_whole(library)


def test_an_unchanged_file_is_not_opened(library, folder, monkeypatch):
    monkeypatch.setattr("stemsim.retrieval.indexing.files._prepare", lambda *_: pytest.fail("opened"))
    assert library.add(folder, listen=False).unchanged == 4


def test_what_changed_is_replaced_and_what_is_gone_is_pruned(library, folder):
    write(folder / "long.wav", tone(2, seconds=4.5))
    report = library.add(folder, listen=False)
    assert (report.added, report.changed, report.unchanged, report.items) == (0, 1, 3, 1)
    assert len(check_whole(library)) == 4
    (folder / "Kicks/low.wav").unlink()
    assert library.add(folder, listen=False).unchanged == 3
    assert library.stats().missing == 1
    assert library.prune() == [folder / "Kicks/low.wav"]
    assert len(check_whole(library)) == 3
    assert library.prune() == []
    assert library.remove(folder / "Hats") == [folder / "Hats/high.wav"]
    assert library.remove([folder / "long.wav"]) == [folder / "long.wav"]
    assert [Path(record.path).name for record in check_whole(library)] == ["both_120bpm_Am.wav"]
    with pytest.raises(DataNotFoundError, match="has no file"):
        library.remove(folder / "Hat")


def test_a_disk_that_is_not_there_empties_no_library(library, folder):
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DataNotFoundError, match="even-all"):
        library.prune()
    assert len(items(library)) == 6
    assert len(library.prune(even_all=True)) == 4
    assert len(items(library)) == 0
    assert library.search(folder.with_name("elsewhere") / "long.wav") == []


def test_files_that_cannot_be_read_are_listed_and_stop_nothing(tmp_path, folder):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("hello", encoding="utf-8")
    whole = (folder / "long.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    broken = tone(1)
    broken[100] = np.nan
    write(folder / "nan.wav", broken)
    (folder / "link.wav").symlink_to(folder / "nowhere.wav")
    (folder / ".hidden.wav").write_text("hello", encoding="utf-8")
    library = Library(tmp_path / "L", embedder(), window=4.0)
    report = library.add(folder, listen=False)
    failed = {failure.path.name: failure.reason for failure in report.failures}
    assert set(failed) == {"empty.wav", "text.wav", "truncated.wav", "nan.wav", "link.wav"}
    assert "truncated" in failed["truncated.wav"]
    assert "NaN" in failed["nan.wav"]
    assert (report.added, report.items) == (4, 6)
    check_whole(library)
    assert {path["path"].rsplit("/")[-1] for path in report.to_dict()["failures"]} == set(failed)
    assert len(library.search(folder / "long.wav", k=9)) == 3
    write(folder / "nan.wav", tone(1))
    assert library.add(folder, listen=False).added == 1


def test_folders_say_what_they_skip_and_linked_ones_are_followed_if_asked_for(tmp_path, folder):
    elsewhere = tmp_path / "elsewhere"
    for suffix in ("opus", "oga", "aifc", "caf", "au", "w64", "rf64", "mp3"):  # what a folder walk must not overlook
        path = folder / f"x.{suffix}"
        kind = {"opus": ("OGG", "OPUS"), "oga": ("OGG", "VORBIS"), "aifc": ("AIFF", None)}
        form, subtype = kind.get(suffix, (suffix.upper(), None))
        soundfile.write(path, tone(3), RATE, format=form, subtype=subtype)
    for name in ("a.rx2", "b.RX2", "README", ".hidden.wav"):
        (folder / name).write_bytes(b"x")
    write(elsewhere / "linked.wav", tone(5))
    (folder / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)  # in a circle
    library = Library(tmp_path / "L", embedder(), window=4.0)
    report = library.add(folder, listen=False)
    assert (report.added, report.failures) == (12, [])
    skipped = {".rx2": 2, "without extension": 1, "hidden": 1, "linked folders": 1}
    assert dict(report.skipped) == report.to_dict()["skipped"] == skipped
    again = library.add(folder, listen=False, follow_links=True)
    assert (again.added, again.unchanged, again.failures) == (1, 12, [])
    assert "linked folders" not in again.skipped


def test_one_odd_file_stops_nothing_whatever_it_causes(tmp_path, folder, monkeypatch):
    soundfile.write(folder / "huge.wav", tone(3) * 1e30, RATE, subtype="FLOAT")
    os.mkfifo(folder / "pipe.wav")
    write(folder / "untagged.wav", tone(2))
    write(folder / "odd.wav", tone(7, seconds=3.5))

    class Picky(CountingEncoder):
        def forward(self, waveforms):
            if waveforms.shape[-1] == 3.5 * RATE:
                raise ZeroDivisionError("of this length")
            return super().forward(waveforms)

    describe = files.describe_file
    monkeypatch.setattr(files, "describe_file", lambda p, **o: 1 / 0 if p.stem == "untagged" else describe(p, **o))
    report = Library(tmp_path / "L", embedder(Picky()), window=4.0).add(folder, listen=True)
    assert report.added == 4
    reasons = {failure.path.name: failure.reason for failure in report.failures}
    assert reasons.keys() == {"huge.wav", "pipe.wav", "untagged.wav", "odd.wav"}
    assert "absurdly large" in reasons["huge.wav"]
    assert "a pipe" in reasons["pipe.wav"]
    assert "ZeroDivisionError: division by zero" in reasons["untagged.wav"]
    assert "ZeroDivisionError: of this length" in reasons["odd.wav"]


@pytest.mark.parametrize(("damaged", "kept"), [(1, 19), (3, None)])
def test_windows_beside_a_damaged_spot_are_kept_if_they_are_most(tmp_path, caplog, damaged, kept):
    sound = np.tile(tone(3), 20)
    for second in range(damaged):
        sound[(2 + 5 * second) * RATE + 100] = np.nan
    soundfile.write(tmp_path / "x.wav", sound, RATE, subtype="FLOAT")
    library = Library(tmp_path / "L", embedder(), window=1.0)
    report = library.add(tmp_path / "x.wav", listen=False)
    if kept is None:
        assert "NaN" in report.failures[0].reason
        assert not items(library)
    else:
        assert (report.items, report.failures) == (kept, [])
        assert 2.0 not in [start for _, start in items(library).values()]
        assert "x.wav: 1 of 20 windows are left out" in caplog.text
    assert library.add(tmp_path / "x.wav", listen=False).unchanged == (kept is not None)


def test_a_name_in_no_encoding_is_listed(tmp_path, folder):
    name = os.fsencode(str(folder)) + b"/caf\xe9.wav"
    try:
        shutil.copy(folder / "Kicks/low.wav", name)
    except OSError:
        pytest.skip("this file system has no such names")
    report = Library(tmp_path / "L", embedder()).add(folder, listen=False)
    assert [failure.reason for failure in report.failures] == ["The name of the file is not valid UTF-8. Rename it."]
    assert report.added == 4


def test_the_same_content_is_embedded_once_and_found_by_either_path(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(folder / "long.wav", folder / "snare copy.wav")
    library = Library(tmp_path / "L", embedder(), window=4.0)
    first = library.add(folder, listen=False)
    assert (first.added, first.copied, first.items) == (5, 1, 9)
    clips = library.encoder.clips
    report = library.add([tmp_path / "copy"], listen=False)
    assert (report.added, report.copied, library.encoder.clips) == (4, 4, clips)
    check_whole(library)
    hits = library.search((tone(7), RATE), routing="mix", k=1)
    assert {hits[0].path, *hits[0].also} == {folder / "Hats/high.wav", tmp_path / "copy/Hats/high.wav"}
    snares = library.search(folder / "Kicks/low.wav", where=ItemFilter(category=("snare",)), include_self=True)
    assert {hit.path.name for hit in snares} == {"snare copy.wav"}
    library.remove(folder)
    assert len(check_whole(library)) == 4
    assert library.search((tone(7), RATE), routing="mix", k=1)[0].path == tmp_path / "copy/Hats/high.wav"


def test_a_search_is_the_double_loop_over_stems(library, folder):
    query = folder / "loops/both_120bpm_Am.wav"
    weights = {("bass", "bass"): 0.7, ("drums", "mix"): 1.3, ("bass", "mix"): -0.4}
    routing = Routing.pairs_of(library.stems, weights)
    asked = library.query(query).vectors.double()
    expected = {}
    for part in library.index.scan():
        for row in range(len(part)):
            vectors = dict(zip(library.stems, part.vectors[row].double(), strict=True))
            total = sum(w * float(asked[library.stems.index(i)] @ vectors[j]) for (i, j), w in weights.items())
            expected[part.path[row], part.start[row]] = total
    hits = library.search(query, routing=routing, k=10, include_self=True, fold=2.0)
    found = {(str(hit.path), hit.start): hit.similarity for hit in hits}
    # windows of long.wav that overlap by half count as one
    assert set(found) == set(expected) - {
        (str(folder / "long.wav"), min((4.0, 6.0), key=lambda start: expected[str(folder / "long.wav"), start]))
    }
    assert all(similarity == pytest.approx(expected[place], abs=1e-9) for place, similarity in found.items())
    # Of those that are equal up to rounding the smaller key is first.
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(found.values(), reverse=True), abs=1e-9)
    for hit in hits:
        assert sum(hit.contributions.values()) == pytest.approx(hit.similarity, abs=1e-9)
        assert set(hit.contributions) == {"bass", "bass:mix", "drums:mix"}


def test_stems_decide_what_is_found(library, folder):
    query = np.concatenate([tone(0, 7)]), RATE
    assert {hit.path.name for hit in library.search(query, routing="bass", k=2)} == {"low.wav", "long.wav"}
    assert library.search(query, routing={"drums": 1.0}, k=1)[0].path == folder / "Hats/high.wav"
    # the query's low half against whole sounds
    assert {hit.path.name for hit in library.search(query, routing="bass:mix", k=2)} == {"low.wav", "long.wav"}
    hit = library.search(query, routing="drums:mix", k=1)[0]
    assert (hit.path, hit.stems, hit.categories) == (folder / "Hats/high.wav", ("drums", "mix"), ("hat",))
    assert hit.similarity == pytest.approx(1.0, abs=2e-3)
    with pytest.raises(ConfigError, match=r"silent in drums"):
        library.search(folder / "Kicks/low.wav", routing="drums")
    # what has no bass would be favoured by a negative weight
    assert {"low.wav"} == {
        hit.path.name
        for hit in library.search((tone(5), RATE), routing="mix=1,bass=-1", where=ItemFilter(category=("kick", "hat")))
    }


def test_windows_of_one_file_that_coincide_are_one_hit(tmp_path):
    write(tmp_path / "x/same.wav", tone(2, seconds=20))
    write(tmp_path / "x/other.wav", np.concatenate([tone(2, seconds=4), tone(6, seconds=8)]))
    library = Library(tmp_path / "L", embedder(), window=4.0, hop=2.0)
    library.add(tmp_path / "x", listen=False)
    hits = library.search((tone(2), RATE), routing="mix", k=10)
    assert {(hit.path.name, hit.folded) for hit in hits} == {("same.wav", 8), ("other.wav", 1), ("other.wav", 2)}
    best = library.search((tone(2), RATE), routing="mix", k=2)  # equal but for rounding, which decides the order
    assert {hit.path.name for hit in best} == {"same.wav", "other.wav"}


def test_a_query_does_not_find_itself_unless_it_is_asked_to(library, folder):
    query = folder / "long.wav"
    assert query not in [hit.path for hit in library.search(query, k=10)]
    assert library.search(query, k=10, include_self=True)[0].path == query
    part = Segment(query, 0.0, 4.0)
    found = {(hit.path, hit.start) for hit in library.search(part, k=10)}
    assert (query, 0.0) not in found
    assert {path for path, _ in found} >= {query}  # another passage of the same file is not the query
    shutil.copy(query, folder / "copy.wav")
    assert library.search(folder / "copy.wav", k=1)[0].path != query  # by content, not by name


def test_short_sounds_are_searchable_as_they_are(tmp_path):
    hit = tone(4, seconds=0.03)
    for name, seconds in (("a", 0.03), ("b", 0.031), ("c", 0.52), ("click", 0.0005)):
        write(tmp_path / f"x/{name}.wav", tone(4, seconds=seconds))
    library = Library(tmp_path / "L", embedder(CountingEncoder(min_duration=0.25)))
    report = library.add(tmp_path / "x", listen=False)
    assert (report.added, report.items, report.failures) == (4, 4, [])
    found = library.search((hit, RATE), routing="mix", k=4)
    assert {hit.path.name for hit in found} >= {"a.wav", "b.wav"}
    assert found[0].similarity == pytest.approx(1.0, abs=1e-3)
    by_name = {hit.path.name: hit for hit in found}
    assert by_name["a.wav"].duration == pytest.approx(0.03)
    for name in ("a.wav", "c.wav"):
        waveform, _ = read_audio(tmp_path / "x" / name)
        assert by_name[name].loudness == pytest.approx(float(level_dbfs(waveform[0])), abs=0.01)


def test_silence_is_no_item(tmp_path):
    write(tmp_path / "x/silent.wav", np.zeros(RATE))
    write(tmp_path / "x/half.wav", np.concatenate([np.zeros(4 * RATE), tone(3, seconds=4)]))
    library = Library(tmp_path / "L", embedder(), window=4.0)
    report = library.add(tmp_path / "x", listen=False)
    assert (report.added, report.items) == (2, 1)
    assert [path.name for path in report.silent] == ["silent.wav"]
    assert report.to_dict()["silent"] == [str(report.silent[0])]
    assert library.add(tmp_path / "x", listen=False).unchanged == 2
    assert [start for _, start in items(library).values()] == [4.0]
    with pytest.raises(ConfigError, match="silent in bass, drums, mix"):
        library.search(tmp_path / "x/silent.wav")


def test_metadata_is_found_and_filtered(library):
    def names(**conditions):
        hits = library.search((tone(1, 6), RATE), k=10, where=ItemFilter(**conditions))
        return {hit.path.name for hit in hits}

    assert names(category=("kick", "hat")) == {"low.wav", "high.wav"}
    assert names(bpm=(118, 124)) == names(musical_key=("A minor",)) == {"both_120bpm_Am.wav"}
    assert names(bpm=(None, 119)) == set()
    assert names(duration=(0.5, 1.5)) == {"low.wav", "high.wav"}
    assert names(stems=("bass", "drums")) == {"both_120bpm_Am.wav", "long.wav"}
    assert names(loudness=(-16, None)) == {"both_120bpm_Am.wav"}
    hit = library.search((tone(1, 6), RATE), k=1)[0]
    assert (hit.bpm, hit.musical_key, hit.categories, hit.type, hit.file_duration) == (
        120.0,
        "A minor",
        (),
        "loop",
        2.0,
    )
    assert hit.measured == frozenset()
    assert names(category=("loop",)) == names(type=("loop",)) == names(bpm=(235, 245), octaves=True) == {hit.path.name}
    stats = library.stats()
    assert (stats.files, stats.items, stats.with_bpm, stats.with_key) == (4, 6, 1, 1)
    assert stats.categories == {"": 4, "kick": 1, "hat": 1}
    assert stats.stems["mix"] == 6


def test_words_alone_beside_audio_and_on_stems(tmp_path, folder):
    library = Library(tmp_path / "L", embedder(TextEncoder()), window=4.0)
    library.add(folder, listen=False)
    assert library.search(text="band 7", k=1)[0].path == folder / "Hats/high.wav"
    assert set(library.search(text="band 7", k=1)[0].contributions) == {"mix"}
    lowest = library.search(text="band 0", routing="bass", k=2)
    assert {hit.path.name for hit in lowest} == {"low.wav", "long.wav"}
    low = tone(0), RATE
    assert library.search(low, text="band 7", text_weight=0.9, routing="mix", k=1)[0].path == folder / "Hats/high.wav"

    def similarities(**options):
        hits = library.search(low, routing="bass=1,mix=0.5", k=10, fold=2.0, **options)
        return {(hit.path, hit.start): hit.similarity for hit in hits}

    audio, words = similarities(), similarities(text="band 3", text_weight=1.0)
    mixed = similarities(text="band 3", text_weight=0.25)
    places = set(audio) & set(words) & set(mixed)
    assert len(places) >= 4
    assert all(mixed[p] == pytest.approx(0.75 * audio[p] + 0.25 * words[p], abs=1e-6) for p in places)
    on_mix = similarities(text="band 3", text_weight=1.0, text_stems=("mix",))
    kick = folder / "Kicks/low.wav", 0.0
    assert on_mix[kick] > 0.99  # its bass is still that of the query
    with pytest.raises(ConfigError, match="vocals"):
        library.search(low, text="band 3", text_stems=("vocals",))
    with pytest.raises(ConfigError, match="between 0"):
        library.search(low, text="band 3", text_weight=1.5)
    with pytest.raises(ConfigError, match="empty"):
        library.search(text=" ")


def test_words_need_an_encoder_that_knows_them(library):
    with pytest.raises(ConfigError, match=r"counting.*does not encode text"):
        library.search(text="warm analog bass")
    with pytest.raises(ConfigError, match="nothing to search with"):
        library.search()


def test_another_encoder_or_stem_order_is_refused_with_both_names(library, tmp_path):
    class Turned(Halves):
        stems = ("drums", "bass", "mix")
        identity = "turned"

    with pytest.raises(StemMismatchError, match=r"\(drums, bass, mix\), expected \(bass, drums, mix\)"):
        Library(library.root, embedder(source=Turned()))
    with pytest.raises(ConfigError, match=r"counting\(rate=8000, dim=4\).*counting\(rate=8000, dim=8\)"):
        Library(library.root, embedder(CountingEncoder(dim=4)))
    with pytest.raises(ConfigError, match=r"silence=None.*silence=-60\.0"):
        Library(library.root, embedder(silence=None))
    with pytest.raises(ConfigError, match=r"windows of.*4\.0; got 5"):
        Library(library.root, embedder(), window=5.0)
    with pytest.raises(StemMismatchError):
        library.search((tone(1), RATE), routing=Routing.equal(("mix", "bass", "drums")))
    with pytest.raises(ConfigError, match="vocals"):
        library.search((tone(1), RATE), routing="vocals=1")
    with pytest.raises(DataNotFoundError, match="There is no library"):
        Library(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StemsimError):
        Library(tmp_path / "file", embedder())


def test_a_library_is_opened_by_its_folder_alone(tmp_path, shared_data):
    embedder = StemEmbedder(MixOnly(), Spectral(), progress=False)
    made = stemsim.Library(tmp_path / "L", embedder, window=3.0, weights={"mix": 2.0}, model="muq-mix")
    made.add([shared_data / "samples/uzu-drumkit/bd", shared_data / "samples/uzu-drumkit/hh"], listen=False)
    opened = stemsim.Library(tmp_path / "L")
    assert opened.card == made.card
    assert opened.routing().text == "mix=2"
    query = shared_data / "samples/uzu-drumkit/bd/10_bd_switchangel.wav"
    hits = opened.search(query, k=3)
    assert query not in [hit.path for hit in hits]
    assert {hit.categories for hit in hits} == {("kick",)}
    assert hits[0].similarity > 1.0  # the weight of the card
    assert opened.search(query, k=1, include_self=True)[0].similarity == pytest.approx(2.0, abs=2e-3)


def test_true_stems_come_from_files_beside_the_mixes(tmp_path):
    mixes = write_songs(tmp_path / "songs", 3, 4.0)
    library = Library(tmp_path / "L", embedder(source=Multitrack()), window=2.0)
    report = library.add(tmp_path / "songs", listen=False)
    assert (report.added, report.items) == (3, 6)
    assert library.add(tmp_path / "songs", listen=False).unchanged == 3
    write(mixes[0].parent / "drums.wav", tone(2, seconds=4.0))
    report = library.add(tmp_path / "songs", listen=False)
    assert (report.changed, report.unchanged) == (1, 2)  # though the mix is the same
    assert library.card.build_embedder(encoder=CountingEncoder()).source.identity == Multitrack().identity


def test_cards_of_older_libraries_are_read(tmp_path):
    card = {"version": 1, "silence": -60.0, "preprocessing": "v1;silence=-60.0", "window": 5.0, "hop": None}
    card |= {"stems": ["drums", "mix"], "dim": 8, "weights": [1.0, 2.0], "model": "x", "index": None}
    card |= {"encoder": {"name": "spectral", "options": {}, "identity": "spectral"}}
    card |= {"separator": {"name": None, "options": {}, "identity": "multitrack(drums+mix)"}}
    read = LibraryCard.from_json(json.dumps(card), "L")
    assert (read.fusion, read.weights, read.is_multitrack) == (None, {"drums": 1.0, "mix": 2.0}, True)
    assert read.build_hash_source().stems == ("drums", "mix")
    read.check_buildable()
    assert LibraryCard.from_json(read.to_json(), "L") == read
    with pytest.raises(StoreError, match=r"version 3, expected 2\. Make it again"):
        LibraryCard.from_json(json.dumps(card | {"version": 3}), "L")
    with pytest.raises(StoreError, match=r"version 1, expected 2\. Make it again"):
        LibraryCard.from_json(json.dumps(card | {"index": str(tmp_path / "x.db")}), "L")
    with pytest.raises(StoreError, match="L is not a library"):
        LibraryCard.from_json("{}", "L")


def test_two_libraries_in_one_milvus_do_not_see_each_others_items(tmp_path, folder, monkeypatch):
    address = tmp_path / "items.db"
    one = Library(tmp_path / "one", embedder(), window=4.0, index=address)
    other = Library(tmp_path / "other", embedder(silence=None), window=4.0, index=address)
    one.add(folder / "Kicks", listen=False)
    other.add(folder / "Hats", listen=False)
    for library, name in ((one, "low.wav"), (other, "high.wav")):
        assert [path.rsplit("/")[-1] for path, _ in items(library).values()] == [name]
        assert [hit.path.name for hit in library.search((tone(0, 7), RATE))] == [name]
    collection = one.index.collection
    monkeypatch.chdir(folder)
    again = Library("../one", index="../sounds/../items.db")
    assert (again.index.collection, again.index.count()) == (collection, 1)
    with pytest.raises(ConfigError, match=r"silence=-60\.0.*silence=None"):
        _ = Library(tmp_path / "third", embedder(silence=None), index=f"{address}#{collection}").index
    with pytest.raises(ConfigError, match=f"the collection {collection}; got stemsim"):
        Library(tmp_path / "one", index=f"{address}#stemsim")


def test_a_library_whose_card_names_no_collection_keeps_its_items(tmp_path, folder):
    card = LibraryCard.of(embedder(), index=str(tmp_path / "items.db"))
    Catalogue(tmp_path / "L").create(card)
    library = Library(tmp_path / "L", embedder(), index=tmp_path / "items.db#stemsim")
    library.add(folder / "Kicks", listen=False)
    assert (library.index.collection, Library(tmp_path / "L").index.count()) == ("stemsim", 1)


class Cubed(WeightedFusion):
    """Cubes the cosines, so that one close stem counts more than several that are less close."""

    def fuse(self, pairs):
        return self.weight * pairs.cosines**3


class ByCandidate(WeightedFusion):
    def fuse(self, pairs):
        return self.weight * pairs.cosines * pairs.candidate.levels


@pytest.fixture
def fused(tmp_path, monkeypatch):
    """Return a function that makes a library of random sounds whose model has a fusion."""
    rng = np.random.default_rng(0)
    for number in range(60):
        write(
            tmp_path / f"random/{number:02d}.wav",
            tone(*rng.integers(8, size=3), seconds=0.5, level=0.1 + 1e-3 * number),
        )

    def make(fusion):
        with torch.no_grad():
            fusion.weight.copy_(torch.tensor([0.5, 1.0, 0.25]))
        monkeypatch.setattr("stemsim.model.load_fusion", lambda _: fusion)
        weights = dict(zip(Halves.stems, fusion.weight.tolist(), strict=True))
        library = Library(tmp_path / "fused", embedder(), weights=weights, model=str(tmp_path))
        library.add(tmp_path / "random", listen=False)
        return Library(tmp_path / "fused", embedder())

    return make


def attentive():
    fusion = AttentionFusion(Halves.stems)
    with torch.no_grad():
        fusion.temperature.fill_(0.7)
        fusion.middle.fill_(-15.0)
        fusion.spread.fill_(5.0)
    return fusion


@pytest.mark.parametrize("make", [lambda: Cubed(Halves.stems), attentive])
def test_a_nonlinear_fusion_ranks_the_candidates_of_the_weighted_sum_again(fused, make):
    library, query = fused(make()), (tone(1, 5, seconds=0.5) + tone(6, seconds=0.5, level=0.05), RATE)
    asked = library.embedder.embed_waveforms([(torch.from_numpy(query[0]), RATE)])
    (stored,) = library.index.scan()
    candidates = StemEmbeddings(stored.vectors, torch.zeros(len(stored), 3), torch.from_numpy(stored.present))
    repeated = StemEmbeddings(*(part.expand(len(stored), *part.shape[1:]) for part in asked))
    expected = dict(zip(stored.path, library.fusion(repeated, candidates).tolist(), strict=True))
    for routing in (None, "learned"):
        hits = library.search(query, routing=routing, k=60)
        assert [hit.similarity for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-6)
        for hit in hits:
            assert hit.similarity == pytest.approx(expected[str(hit.path)], abs=1e-6)
            assert sum(hit.contributions.values()) == pytest.approx(hit.similarity, abs=1e-12)
            assert hit.fusion == type(library.fusion).__name__
    assert library.search(query, k=1)[0] == hits[0]
    linear = library.search(query, routing=library.card.weights, k=60)
    assert {hit.fusion for hit in linear} == {None}
    assert [hit.path for hit in linear] != [hit.path for hit in hits]
    assert library.search(query, routing="learned,drums=2", k=1)[0].fusion is None


def test_a_fusion_that_a_library_cannot_use_says_so(fused, monkeypatch):
    query = (tone(1, 5, seconds=0.5), RATE)
    library = fused(ByCandidate(Halves.stems))
    with pytest.raises(ConfigError, match="ByCandidate gives similarities that are not finite"):
        library.search(query)
    monkeypatch.setattr("stemsim.model.load_fusion", _gone)
    library = Library(library.root, embedder())
    with pytest.raises(ConfigError, match=r"ranks by the ByCandidate.*cannot be loaded \(gone\)"):
        library.search(query)
    assert library.search(query, routing="equal")


def _gone(name):
    message = "gone"
    raise DataNotFoundError(message)


def test_a_search_imports_nothing_of_indexing_and_of_other_indexes(library):
    code = (
        "import sys\nfrom stemsim.retrieval.library import Library\n"
        f"opened = Library({library.root!r})\nopened.index.count()\nopened.routing('drums=1')\n"
        "print(*(name for name in sys.modules if name.startswith('stemsim.retrieval')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    rooms = {name.split(".")[2] for name in done.stdout.split() if name.count(".") > 1}
    assert rooms & {"indexing", "tags", "stats", "recall", "growth"} == set()
    assert "stemsim.retrieval.indexes.milvus" not in done.stdout.split()


def test_a_failed_commit_leaves_nothing_behind(library, folder, monkeypatch):
    """As if killed between the items and the list of files; then the file itself goes away."""
    write(folder / "new.wav", tone(3))
    put = library._catalogue.put

    def dies(records):
        if any(record.done for record in records):
            message = "killed"
            raise StoreError(message)
        put(records)

    monkeypatch.setattr(library._catalogue, "put", dies)
    with pytest.raises(StoreError, match="killed"):
        library.add(folder, listen=False)
    assert len(items(library)) == 7
    monkeypatch.undo()
    assert library.search((tone(3), RATE), k=1)
    (folder / "new.wav").unlink()
    assert library.prune() == []  # it never counted as in
    assert len(items(library)) == 6
    check_whole(library)
    write(folder / "new.wav", tone(3))
    assert library.add(folder, listen=False).added == 1
    check_whole(library)


def test_ctrl_c_keeps_what_is_complete(tmp_path, folder, monkeypatch):
    library = Library(tmp_path / "L", embedder(workers=1, batch_size=1), window=4.0)
    taken = adding.Adding._take

    def take(self, prepared, rows):
        taken(self, prepared, rows)
        if self.report.added == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(adding.Adding, "_take", take)
    with pytest.raises(KeyboardInterrupt):
        library.add(folder, listen=False)
    assert len(check_whole(library)) == 2
    monkeypatch.undo()
    assert library.add(folder, listen=False).added == 2


def test_a_writer_does_not_undo_what_another_one_completed(library, folder, monkeypatch):
    late = Library(library.root, embedder(), window=4.0)
    monkeypatch.setattr(late._catalogue, "records", list)  # it looked before the other one began
    monkeypatch.setattr(late.index, "_write", lambda _: pytest.fail("written again"))
    assert late.add(folder, listen=False).added == 4
    assert len(check_whole(library)) == 4


def test_a_removal_that_is_killed_leaves_no_file_done_without_its_items(library, folder, monkeypatch):
    monkeypatch.setattr(library._catalogue, "delete", lambda _: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        library.remove(folder / "long.wav")
    monkeypatch.undo()
    assert len(check_whole(library)) == 3
    assert library.add(folder, listen=False).added == 1
    assert len(check_whole(library)) == 4


def add_slowly(root, folders, seed):
    """Add folders in another process, with a commit every few files."""
    torch.set_num_threads(1)
    adding._ITEMS_PER_COMMIT = 5
    order = [path for folder in folders for path in Path(folder).glob("*.wav")]
    random.Random(seed).shuffle(order)
    Library(root, embedder(SlowEncoder(), source=MixOnly(), workers=1, batch_size=4), window=1.0).add(
        order, listen=False
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for number in range(30):
        folder = root / ("ab"[number % 2])
        write(folder / f"{number:02d}.wav", 0.1 * rng.normal(size=RATE // 4 + 10 * number))
    return root


def test_two_writers_of_which_one_is_killed_and_a_reader(tmp_path, many):
    spawn = multiprocessing.get_context("spawn")
    folders = [many / "a", many / "b"]
    killed, other = (spawn.Process(target=add_slowly, args=(tmp_path / "L", folders, seed)) for seed in (0, 1))
    killed.start()
    other.start()
    library = Library(tmp_path / "L", embedder(source=MixOnly()), window=1.0)
    query = library.embedder.embed([Segment.whole(many / "a/00.wav")])
    seen, searches, committed = 0, 0, set()
    while other.is_alive():
        found = len(library.search(query, k=30, fold=2.0))
        assert found >= seen  # nothing that was found goes away
        seen, searches = found, searches + 1
        records = library._catalogue.records()
        if killed.is_alive() and (any(not r.done for r in records) or len(records) > 9):  # mostly amid a commit
            os.kill(killed.pid, signal.SIGKILL)
            killed.join()
            committed = {r.path for r in library._catalogue.records() if r.done}
            keys = set(items(library))
            assert all(set(r.item_keys(library.card.windowing)) <= keys for r in records if r.done)
        time.sleep(0.05)
    other.join()
    assert (other.exitcode, killed.exitcode) == (0, -signal.SIGKILL)
    assert searches > 2
    done = check_whole(library)
    assert len(done) == len({record.path for record in done}) == len(items(library)) == 30
    assert committed <= {record.path for record in done}
    assert library.add(many, listen=False).unchanged == 30
