"""The embedder: every distinct segment computed once, stored by content, resumed after any failure."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import CountingEncoder, NanEncoder, WrongShapeEncoder, write_songs

from stemsim.audio import Segment, read_audio, segment_windows, write_audio
from stemsim.embedding import StemEmbedder
from stemsim.errors import AudioError, ConfigError, DataNotFoundError, EmbeddingError
from stemsim.separators import Bands, MixOnly, Multitrack, StemSource
from stemsim.stems import STEMS

TESTS = Path(__file__).resolve().parent


def embedder(store=None, *, source=None, encoder=None, **options):
    return StemEmbedder(source or Multitrack(), encoder or CountingEncoder(), store=store, progress=False, **options)


def windows(mixes, duration=1.0):
    return [segment for mix in mixes for segment in segment_windows(mix, duration=duration)]


def computed(embeddings):
    """Return how many stems of embeddings were encoded."""
    return int(embeddings.present.sum())


def assert_equal(seen, wanted, tolerance=0.0):
    for left, right in zip(seen, wanted, strict=True):
        assert left.shape == right.shape
        assert torch.allclose(left.double(), right.double(), rtol=0.0, atol=tolerance)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Mixes of seven songs of 3 s; six of them lack a stem each. Not to be changed."""
    return write_songs(tmp_path_factory.mktemp("songs"), 7, 3.0)


# ---------------------------------------------------------------- what is computed


def test_stem_k_of_a_song_points_to_band_k(songs):
    embeddings = embedder().embed(windows(songs))
    assert embeddings.vectors.shape == (21, 7, 8)
    norms = embeddings.vectors.norm(dim=2)
    assert torch.allclose(norms[embeddings.present], torch.ones(computed(embeddings)), atol=1e-6)
    for index in range(6):
        loudest = embeddings.vectors[embeddings.present[:, index], index].argmax(dim=1)
        assert (loudest == index).all()


def test_every_distinct_segment_is_computed_once_and_given_as_often_as_asked_for(songs):
    segments = windows(songs[:3])
    once = embedder().embed(segments)
    encoder = CountingEncoder()
    order = [4, 0, 4, 8, 0, 1, 4]
    repeated = embedder(encoder=encoder, batch_size=2).embed([segments[index] for index in order])
    assert_equal(repeated, once.take(torch.tensor(order)), 1e-6)
    assert encoder.clips == computed(once.take(torch.tensor([0, 1, 4, 8])))


def test_equal_content_at_two_paths_is_computed_once(songs, tmp_path):
    shutil.copytree(songs[0].parent, tmp_path / "again")
    segments = windows([songs[0], tmp_path / "again" / "mix.wav"])
    encoder = CountingEncoder()
    embeddings = embedder(encoder=encoder).embed(segments)
    assert torch.equal(embeddings.vectors[:3], embeddings.vectors[3:])
    assert encoder.clips == computed(embeddings) / 2


def test_order_is_that_of_the_segments_whatever_is_stored(songs, tmp_path):
    segments = windows(songs[:3])
    expected = embedder().embed(segments)
    half = embedder(tmp_path)
    half.embed([segments[index] for index in (7, 2, 5)])
    order = [8, 2, 0, 5, 7, 1]
    assert_equal(half.embed([segments[index] for index in order]), expected.take(torch.tensor(order)), 1e-6)


def test_silent_stems_are_not_encoded_and_are_zero_vectors(songs):
    encoder = CountingEncoder()
    embeddings = embedder(encoder=encoder).embed(windows(songs))
    lacking = torch.zeros(21, 7, dtype=torch.bool)
    for number in range(7):
        lacking[3 * number : 3 * number + 3, number % 6] = True
    assert torch.equal(embeddings.present, ~lacking)
    assert not embeddings.vectors[lacking].any()
    assert (embeddings.levels[lacking] == -120.0).all()
    assert (embeddings.levels[~lacking] > -30.0).all()
    assert encoder.clips == 21 * 6


def test_silence_is_decided_by_the_level(songs):
    segments = windows(songs[:2])
    levels = embedder().embed(segments).levels
    threshold = float(levels[levels > -100].median())
    embeddings = embedder(silence=threshold).embed(segments)
    assert torch.equal(embeddings.present, levels > threshold)
    assert torch.equal(embeddings.vectors.any(dim=2), embeddings.present)


def test_without_a_level_of_silence_every_stem_is_encoded(songs):
    encoder = CountingEncoder()
    embeddings = embedder(encoder=encoder, silence=None).embed(windows(songs))
    assert embeddings.present.all()
    assert torch.allclose(embeddings.vectors.norm(dim=2), torch.ones(21, 7), atol=1e-6)
    assert encoder.clips == 21 * 7


def test_wholly_silent_segments_need_no_encoder(tmp_path):
    write_audio(tmp_path / "silence.wav", torch.zeros(1, 8000), 8000)
    encoder = NanEncoder()
    embeddings = embedder(source=MixOnly(), encoder=encoder).embed([Segment(tmp_path / "silence.wav", 0.0, 1.0)])
    assert not embeddings.present.any()
    assert encoder.clips == 0


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batch_size_and_order_change_nothing(songs, batch_size):
    segments = windows(songs)
    expected = embedder().embed(segments)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(batch_size))
    seen = embedder(batch_size=batch_size).embed([segments[index] for index in order])
    assert_equal(seen, expected.take(order), 1e-6)


def test_durations_may_be_mixed(songs):
    segments = [Segment(songs[index % 3], 0.25 * index, duration) for index, duration in enumerate((1.0, 0.5, 0.7) * 2)]
    together = embedder(batch_size=4).embed(segments)
    for index, segment in enumerate(segments):
        assert_equal(embedder().embed_batch([segment]), together.take(torch.tensor([index])), 1e-6)


def test_nothing_to_embed_is_empty_tensors_of_the_right_shape(tmp_path):
    for empty in (embedder().embed([]), embedder(tmp_path).embed([])):
        assert [tuple(part.shape) for part in empty] == [(0, 7, 8), (0, 7), (0, 7)]
        assert empty.present.dtype == torch.bool


# ---------------------------------------------------------------- the store


def test_the_store_is_opened_at_its_first_use_and_once(songs, tmp_path):
    stored = embedder(tmp_path / "store")
    with pytest.raises(DataNotFoundError):
        stored.embed([Segment(tmp_path / "nowhere.wav", 0.0, 1.0)])
    assert not (tmp_path / "store").exists()  # a start that fails leaves no folder behind
    with ThreadPoolExecutor(4) as pool:
        stores = set(pool.map(lambda _: id(stored.store), range(8)))
    assert stores == {id(stored.store)}
    stored.embed(windows(songs[:1]))
    assert len(stored.store) == 3
    assert embedder().store is None


def test_second_run_computes_nothing_and_gives_the_same_bits(songs, tmp_path):
    first = embedder(tmp_path).embed(windows(songs))
    encoder = CountingEncoder()
    assert_equal(embedder(tmp_path, encoder=encoder).embed(windows(songs)), first)
    assert encoder.clips == 0


def test_only_what_is_new_is_computed(songs, tmp_path):
    embedder(tmp_path).embed(windows(songs[:4]))
    encoder = CountingEncoder()
    embeddings = embedder(tmp_path, encoder=encoder).embed(windows(songs))
    assert encoder.clips == computed(embeddings.take(torch.arange(12, 21)))


def test_moved_song_is_not_computed_again_and_changed_song_is(tmp_path):
    mixes = write_songs(tmp_path / "songs", 2, 2.0)
    before = embedder(tmp_path / "store").embed(windows(mixes))
    moved = tmp_path / "elsewhere"
    mixes[0].parent.rename(moved)
    encoder = CountingEncoder()
    after = embedder(tmp_path / "store", encoder=encoder).embed(windows([moved / "mix.wav", mixes[1]]))
    assert_equal(after, before)
    assert encoder.clips == 0

    write_songs(tmp_path / "others", 1, 2.0, first=5)
    shutil.copy(tmp_path / "others" / "song05" / "vocals.wav", mixes[1].parent / "vocals.wav")  # one stem, not the mix
    changed = embedder(tmp_path / "store", encoder=encoder).embed(windows([moved / "mix.wav", mixes[1]]))
    assert encoder.clips == computed(changed.take(torch.tensor([2, 3])))
    vocals = STEMS.index("vocals")
    assert not torch.allclose(changed.vectors[2:, vocals], before.vectors[2:, vocals], atol=1e-3)
    assert_equal(changed.take(torch.tensor([0, 1])), before.take(torch.tensor([0, 1])))


def test_file_that_becomes_another_stem_is_computed_again(tmp_path):
    (mix,) = write_songs(tmp_path / "songs", 1, 1.0)  # it has no bass
    bass, drums = STEMS.index("bass"), STEMS.index("drums")
    before = embedder(tmp_path / "store").embed(windows([mix]))
    (mix.parent / "drums.wav").rename(mix.parent / "bass.wav")
    after = embedder(tmp_path / "store").embed(windows([mix]))
    assert torch.allclose(after.vectors[0, bass], before.vectors[0, drums], atol=1e-6)
    assert not after.present[0, drums]


@pytest.mark.parametrize(
    "other",
    [
        {"silence": None},
        {"silence": -50.0},
        {"source": Multitrack("4-stem")},
        {"source": MixOnly()},
        {"encoder": CountingEncoder(dim=4)},
        {"encoder": CountingEncoder(sample_rate=4000)},
    ],
    ids=["no silence", "silence", "stems", "separator", "dimension", "rate"],
)
def test_options_that_change_numbers_do_not_share_rows(songs, tmp_path, other):
    embedder(tmp_path).embed(windows(songs[:1]))
    fresh = embedder(**other).embed(windows(songs[:1]))
    assert_equal(embedder(tmp_path, **other).embed(windows(songs[:1])), fresh)


# ---------------------------------------------------------------- what goes wrong


def test_too_short_segment_is_named(songs):
    short = Segment(songs[0], 0.5, 0.2)
    with pytest.raises(EmbeddingError, match=r"too short for the encoder .* at least 0\.5 s") as raised:
        embedder(encoder=CountingEncoder(min_duration=0.5)).embed([short])
    assert str(short) in str(raised.value)


def test_encoder_of_the_wrong_shape_is_named(songs, tmp_path):
    broken = embedder(tmp_path, encoder=WrongShapeEncoder())
    with pytest.raises(EmbeddingError, match=r"returned shape \((\d+), 9\), expected \(\1, 8\)"):
        broken.embed(windows(songs[:1]))
    assert len(broken.store) == 0


def test_nan_is_an_error_and_only_the_batches_before_it_are_stored(songs, tmp_path):
    # Batches of two segments are 12 clips: song 0 lacks a stem, and so do the others.
    broken = embedder(tmp_path, encoder=NanEncoder(sound=30), batch_size=2, workers=1)
    segments = windows(songs)
    with pytest.raises(EmbeddingError, match="NaN or not of unit norm") as raised:
        broken.embed(segments)
    assert str(segments[4]) in str(raised.value)
    assert len(broken.store) == 4
    encoder = CountingEncoder()
    assert_equal(embedder(tmp_path, encoder=encoder).embed(segments), embedder().embed(segments), 1e-6)
    assert encoder.clips == 17 * 6


class BrokenSource(StemSource):
    """Gives stems that a function spoiled."""

    stems = STEMS
    identity = "broken-source"

    def __init__(self, spoil):
        self.spoil = spoil

    def read(self, segments, sample_rate):
        return self.spoil(Multitrack().read(segments, sample_rate))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stems: stems * torch.nan,
        lambda stems: stems.index_fill(1, torch.tensor([3]), torch.inf),
        lambda stems: stems[:, :-1],
        lambda stems: stems[:-1],
        lambda stems: stems[:, :, :-100],
        lambda stems: stems.unsqueeze(2),
    ],
    ids=["NaN", "infinite stem", "stems", "segments", "samples", "dimensions"],
)
def test_stem_source_that_breaks_its_promise_is_named_and_nothing_is_stored(songs, tmp_path, spoil):
    broken = embedder(tmp_path, source=BrokenSource(spoil))
    with pytest.raises(EmbeddingError, match="broken-source"):
        broken.embed(windows(songs[:1]))
    assert len(broken.store) == 0


@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_bad_file_in_the_middle_keeps_the_batches_before_it_and_is_resumed_once_mended(tmp_path, damage):
    mixes = write_songs(tmp_path / "songs", 6, 2.0)
    segments = windows(mixes)
    expected = embedder().embed(segments)
    bad = mixes[4].parent / "piano.wav"
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"la la la " * 50)
    encoder = CountingEncoder()
    first = embedder(tmp_path / "store", encoder=encoder, batch_size=2, workers=1)
    with pytest.raises(AudioError) as raised:
        first.embed(segments)
    assert str(bad) in str(raised.value)
    assert len(first.store) == 8  # four songs of two segments come before the bad one
    assert encoder.clips == computed(expected.take(torch.arange(8)))
    bad.write_bytes(content)
    again = CountingEncoder()
    assert_equal(embedder(tmp_path / "store", encoder=again).embed(segments), expected, 1e-6)
    assert again.clips == computed(expected.take(torch.arange(8, 12)))


def test_corrupt_row_is_computed_again(songs, tmp_path):
    first = embedder(tmp_path)
    segments = windows(songs)
    expected = first.embed(segments)
    first.store._table.raw.update(where=f"path = '{songs[2]}'", values={"checksum": 1})
    encoder = CountingEncoder()
    assert_equal(embedder(tmp_path, encoder=encoder).embed(segments), expected, 1e-6)
    assert encoder.clips == 3 * 6
    assert_equal(embedder(tmp_path, encoder=encoder).embed(segments), expected, 1e-6)
    assert encoder.clips == 3 * 6


# ---------------------------------------------------------------- workers, memory and devices


@pytest.fixture(scope="module")
def segments(songs):
    """Twelve segments of four songs."""
    return windows(songs[:4])


class LimitedEncoder(CountingEncoder):
    """Runs out of memory above a number of clips at once."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, waveforms):
        if len(waveforms) > self.most:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"
            raise torch.OutOfMemoryError(msg)
        return super().forward(waveforms)


class MeetingEncoder(CountingEncoder):
    """Answers only while as many threads as expected are in it."""

    def __init__(self, threads):
        super().__init__()
        self.barrier = threading.Barrier(threads, timeout=20)
        self.threads = set()

    def forward(self, waveforms):
        self.threads.add((threading.get_ident(), torch.get_num_threads()))
        self.barrier.wait()
        return super().forward(waveforms)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_many_workers_give_the_bytes_of_one(segments, workers):
    one = embedder(workers=1, batch_size=1).embed(segments)
    many = embedder(workers=workers, batch_size=1).embed(segments)
    assert all(torch.equal(left, right) for left, right in zip(one, many, strict=True))


def test_workers_work_at_the_same_time_and_share_the_cores(segments):
    before = torch.get_num_threads()
    encoder = MeetingEncoder(2)
    embedder(encoder=encoder, workers=2, batch_size=1).embed(segments)
    assert len({thread for thread, _ in encoder.threads}) == 2
    assert {threads for _, threads in encoder.threads} == {max(1, before // 2)}
    assert torch.get_num_threads() == before


def test_after_an_error_what_the_other_workers_had_in_hand_is_stored(segments, tmp_path):
    class Slow(CountingEncoder):
        def forward(self, waveforms):
            time.sleep(0.3)
            return super().forward(waveforms)

    bad = Segment(segments[0].path, 100.0, 1.0)  # beyond the end, and first in order of file and time is segment 0
    filled = embedder(tmp_path, encoder=Slow(), source=MixOnly(), workers=2, batch_size=1)
    with pytest.raises(AudioError):
        filled.embed([segments[0], bad])
    assert len(filled.store) == 1


@pytest.fixture
def full_batches(monkeypatch):
    """Let batches be as large as they may, however few there are."""
    monkeypatch.setattr("stemsim.embedding.embedder._BATCHES_PER_WORKER", 1)


@pytest.mark.usefixtures("full_batches")
def test_when_memory_runs_out_the_batch_is_halved_once_and_it_says_so(segments, caplog):
    expected = embedder(source=MixOnly()).embed(segments)
    limited = embedder(source=MixOnly(), encoder=LimitedEncoder(2), workers=1, batch_size=4)
    with caplog.at_level(logging.WARNING, logger="stemsim"):
        seen = limited.embed(segments)
    assert torch.allclose(seen.vectors, expected.vectors, atol=1e-6)
    assert limited.batch_size == 2
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "Out of memory on cpu with 4 segments at once (CUDA out of memory. Tried to allocate 2.00 GiB.): now 2." in (
        warning
    )


@pytest.mark.usefixtures("full_batches")
def test_when_memory_runs_out_again_it_is_an_error_that_keeps_what_is_stored(segments, tmp_path):
    embedder(tmp_path, source=MixOnly()).embed(segments[:3])
    limited = embedder(tmp_path, source=MixOnly(), encoder=LimitedEncoder(1), workers=1, batch_size=4)
    with pytest.raises(EmbeddingError, match="already been halved"):
        limited.embed(segments)
    assert len(limited.store) >= 3


def test_several_workers_that_run_out_at_once_halve_once(segments):
    limited = embedder(source=MixOnly(), encoder=LimitedEncoder(2), workers=3, batch_size=4)
    limited._batches = lambda missing: iter(
        [(list(missing)[start : start + 4], segments[start : start + 4]) for start in range(0, len(segments), 4)]
    )
    assert len(limited.embed(segments).vectors) == len(segments)
    assert limited.batch_size == 2


@pytest.mark.parametrize(("free", "batch"), [(10**9, 3), (10**5, 1), (10**12, 128)])
def test_the_batch_is_fitted_to_the_memory_of_a_gpu(segments, monkeypatch, free, batch):
    """What CUDA would answer is made up: no GPU is needed, and none is tested."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 50_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 150_000_000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    fitted = embedder(source=MixOnly(), workers=2)
    assert fitted.batch_size == 16
    fitted._fits = False  # as on a GPU
    fitted.embed(segments[:4])
    assert fitted.batch_size == batch


@pytest.mark.parametrize("device", ["cuda:99", "quantum"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ConfigError, match=device):
        embedder(device=device)


@pytest.mark.parametrize("options", [{"workers": 0}, {"batch_size": 0}, {"batch_size": -1}])
def test_counts_below_one_are_refused(options):
    with pytest.raises(ConfigError, match="at least 1"):
        embedder(**options)


# ---------------------------------------------------------------- audio in memory


@pytest.mark.parametrize("source", [Bands, MixOnly])
def test_a_waveform_is_embedded_as_the_file_that_holds_it(segments, source):
    expected = embedder(source=source()).embed(segments[:2])
    inputs = [read_audio(segment.path, segment.start, segment.duration) for segment in segments[:2]]
    seen = embedder(source=source()).embed_waveforms(inputs)
    for left, right in zip(seen, expected, strict=True):
        assert torch.allclose(left.double(), right.double(), atol=1e-5)


def test_waveforms_may_differ_in_length_rate_and_channels():
    rng = np.random.default_rng(0)
    inputs = [
        (torch.from_numpy(rng.normal(size=4000) * 0.1), 8000),
        (torch.from_numpy(rng.normal(size=(2, 33075)) * 0.1).float(), 44100),
    ]
    seen = embedder(source=MixOnly()).embed_waveforms(inputs)
    assert seen.vectors.shape == (2, 1, 8)
    alone = embedder(source=MixOnly()).embed_waveforms(inputs[1:])
    assert torch.equal(seen.vectors[1:], alone.vectors)
    assert len(embedder(source=MixOnly()).embed_waveforms([]).vectors) == 0


def test_a_waveform_cannot_be_separated_by_files_and_may_be_too_short():
    noise = torch.randn(800)
    with pytest.raises(ConfigError, match="cannot separate a waveform"):
        embedder().embed_waveforms([(noise, 8000)])
    with pytest.raises(EmbeddingError, match="too short"):
        embedder(source=MixOnly(), encoder=CountingEncoder(min_duration=0.2)).embed_waveforms([(noise, 8000)])


# ---------------------------------------------------------------- a killed extraction

EXTRACTION = """
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from fakes import CountingEncoder
from stemsim.audio import SongFolder, segment_windows
from stemsim.embedding import StemEmbedder
from stemsim.separators import Multitrack

class SlowEncoder(CountingEncoder):
    def forward(self, waveforms):
        time.sleep(0.05)
        return super().forward(waveforms)

segments = [s for song in SongFolder("songs").songs() for s in segment_windows(song.mix, duration=1.0)]
StemEmbedder(Multitrack(), SlowEncoder(), store="store", batch_size=2, workers=1, progress=False).embed(segments)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_extraction_resumes(tmp_path):
    segments = windows(write_songs(tmp_path / "songs", 15, 4.0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    script = textwrap.dedent(EXTRACTION)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60.0
    while len(list((tmp_path / "store").glob("*/data/*.lance"))) < 6:
        assert process.poll() is None, "the extraction ended before it could be killed"
        assert time.monotonic() < deadline, "the extraction stores nothing"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60.0) == -signal.SIGKILL

    expected = embedder().embed(segments)
    encoder = CountingEncoder()
    resumed = embedder(tmp_path / "store", encoder=encoder)
    done = len(resumed.store)
    assert 10 <= done < 60
    assert done % 2 == 0
    assert_equal(resumed.embed(segments), expected, 1e-6)
    assert encoder.clips == computed(expected.take(torch.arange(done, 60)))  # the first ones were there
    assert len(resumed.store) == 60
    assert_equal(embedder(tmp_path / "store", encoder=NanEncoder()).embed(segments), expected, 1e-6)
