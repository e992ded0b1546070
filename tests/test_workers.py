"""Batches in several workers, memory that runs out, devices, and audio that is in memory already."""

import logging
import threading
import time

import numpy as np
import pytest
import torch
from fakes import CountingEncoder, write_songs

from stemsim.audio import Segment, read_audio, segment_windows
from stemsim.embedding import StemEmbedder
from stemsim.errors import AudioError, ConfigError, EmbeddingError
from stemsim.separators import Bands, MixOnly, Multitrack


def embedder(store=None, *, source=None, encoder=None, **options):
    return StemEmbedder(source or Multitrack(), encoder or CountingEncoder(), store=store, progress=False, **options)


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    mixes = write_songs(tmp_path_factory.mktemp("songs"), 4, 4.0)
    return [segment for mix in mixes for segment in segment_windows(mix, duration=1.0)]


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
