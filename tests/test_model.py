"""The model without Lightning against an explicit loop, and what must hold of any similarity and preference."""

import doctest
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from fakes import CountingEncoder, NanEncoder, write_songs
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsim.audio import Segment, write_audio
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.errors import AudioError, ConfigError, DataNotFoundError, EmbeddingError, StemMismatchError, StemsimError
from stemsim.model import Part, StemSimilarity, stem_similarity
from stemsim.separators import Bands, MixOnly, Multitrack
from stemsim.similarity import StemEmbeddings
from stemsim.stems import LAYOUTS, STEMS

RATE = 8000
WEIGHTS = dict(zip(STEMS, (0.32, 0.83, -0.61, 0.27, 0.33, 1.27, 1.64), strict=True))
SEEDS = st.integers(0, 100_000)


def model(source=None, encoder=None, weights=None, **options):
    source = source or Multitrack()
    weights = weights or {stem: WEIGHTS[stem] for stem in source.stems}
    return StemSimilarity(StemEmbedder(source, encoder or CountingEncoder(), progress=False, **options), weights)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Mixes of five songs of 1 s; song k lacks stem k (bass, drums, guitar, piano, vocals). Not to be changed."""
    return write_songs(tmp_path_factory.mktemp("songs"), 5, 1.0)


@pytest.fixture(scope="module")
def sim():
    return model()


def embeddings(rng, batch, *, stems=7, dim=8):
    """Return random unit vectors, every fifth stem or so being silent."""
    vectors = torch.from_numpy(rng.normal(size=(batch, stems, dim))).float()
    present = torch.from_numpy(rng.random((batch, stems)) > 0.2)
    vectors = torch.nn.functional.normalize(vectors, dim=2) * present.unsqueeze(2)
    return StemEmbeddings(vectors, torch.zeros(batch, stems), present)


def oracle(a, b):
    """The similarity of two songs from their files, stem by stem, without anything of ours but the encoder."""
    total = 0.0
    for stem in STEMS:
        files = [mix.with_name(f"{stem}.wav") for mix in (a, b)]
        if not all(file.exists() for file in files):
            continue
        vectors = []
        for file in files:
            samples, _ = soundfile.read(file, dtype="float32")
            vectors.append(CountingEncoder()(torch.from_numpy(samples)[None])[0].tolist())
        cosine = 0.0
        for left, right in zip(*vectors, strict=True):
            cosine += left * right
        total += WEIGHTS[stem] * cosine
    return total


# ---------------------------------------------------------------- similarity


def test_similarity_is_the_weighted_sum_of_the_cosines_of_the_stems(sim, songs):
    for a in songs:
        for b in songs:
            seen = sim(a, b)
            assert isinstance(seen, float)
            assert seen == pytest.approx(oracle(a, b), abs=1e-5)


def test_an_equal_pair_has_the_sum_of_the_weights_of_the_stems_that_sound(sim, songs):
    for index, song in enumerate(songs):
        assert sim(song, song) == pytest.approx(sum(WEIGHTS.values()) - WEIGHTS[STEMS[index]], abs=1e-5)


def test_silent_stems_count_where_the_paper_counts_them(songs):
    assert model(silence=None)(songs[0], songs[0]) == pytest.approx(sum(WEIGHTS.values()), abs=1e-5)


@given(SEEDS, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_similarity_is_symmetric_to_the_last_bit_and_never_beyond_the_weights(sim, seed, batch):
    rng = np.random.default_rng(seed)
    a, b = embeddings(rng, batch), embeddings(rng, batch)
    forth, back = torch.as_tensor(sim(a, b)), torch.as_tensor(sim(b, a))
    assert torch.equal(forth, back)
    assert forth.dtype == torch.float64 or batch == 1
    assert (forth.abs() <= sum(map(abs, WEIGHTS.values())) + 1e-6).all()


@given(SEEDS, st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_batched_equals_single(sim, seed, batch):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng, batch) for _ in range(3))
    rows = [[part.take(torch.tensor([row])) for part in (x, a, b)] for row in range(batch)]
    one_by_one = torch.tensor([sim(one, other) for one, other, _ in rows])
    assert torch.allclose(sim(x, a), one_by_one.double(), rtol=0, atol=1e-6)
    preferences = torch.tensor([sim.prefer(*row) for row in rows])
    assert torch.allclose(sim.prefer(x, a, b), preferences.double(), rtol=0, atol=1e-6)
    contributions = [explanation.contributions for explanation in sim.explain(x, a)]
    for row, expected in zip(rows, contributions, strict=True):
        assert sim.explain(*row[:2]).contributions == pytest.approx(expected, abs=1e-12)


def test_batches_of_files_go_one_by_one_and_a_single_input_goes_with_all(sim, songs):
    expected = torch.tensor([sim(songs[0], song) for song in songs], dtype=torch.float64)
    for left, right in ((songs[0], songs), (songs, songs[0]), (songs[0], tuple(songs)), ([songs[0]] * 5, songs)):
        assert torch.allclose(sim(left, right), expected, rtol=0, atol=1e-6)
    assert torch.allclose(sim(sim.embed(songs[0]), list(map(str, songs))), expected, rtol=0, atol=1e-6)
    assert sim([songs[0]], [songs[1]]).shape == (1,)
    mixed = sim(songs[0], [songs[1], Segment.whole(songs[1]), str(songs[1])])
    assert (mixed == mixed[0]).all()
    assert sim(songs[0], []).shape == (0,)
    assert sim.explain(songs[0], []) == []
    pairs = sim.prefer(songs[0], songs[1:4], songs[2])
    assert pairs.tolist() == pytest.approx([sim.prefer(songs[0], a, songs[2]) for a in songs[1:4]], abs=1e-6)


# ---------------------------------------------------------------- explanation


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_contributions_sum_to_the_similarity(sim, seed):
    rng = np.random.default_rng(seed)
    a, b = embeddings(rng, 1), embeddings(rng, 1)
    explanation = sim.explain(a, b)
    assert explanation.similarity == sim(a, b)
    scale = math.fsum(map(abs, explanation.contributions.values()))
    assert math.fsum(explanation.contributions.values()) == pytest.approx(explanation.similarity, abs=4e-16 * scale)
    for stem in STEMS:
        assert explanation.contributions[stem] == WEIGHTS[stem] * explanation.cosines[stem]
    for index, stem in enumerate(STEMS):
        present = bool(a.present[0, index]), bool(b.present[0, index])
        assert explanation.silent.get(stem) == {(0, 1): "a", (1, 0): "b", (0, 0): "both"}.get(present)


def test_an_explanation_names_the_silent_stems_and_reads_as_a_table(sim, songs):
    explanation = sim.explain(songs[0], songs[1])
    assert explanation.stems == STEMS
    assert explanation.silent == {"bass": "a", "drums": "b"}
    assert explanation.contributions["bass"] == explanation.contributions["drums"] == 0.0
    assert sim.explain(songs[0], songs[0]).silent == {"bass": "both"}
    assert json.loads(json.dumps(explanation.to_dict())) == explanation.to_dict()
    assert explanation.to_dict()["silent"] == explanation.silent
    header, *rows, total = str(explanation).splitlines()
    assert header.split() == ["stem", "weight", "cosine", "contribution"]
    assert [line.split()[0] for line in rows] == list(STEMS)
    assert rows[0].split() == ["bass", "0.320", "-", "0.000", "silent", "in", "A"]
    mix = explanation.cosines["mix"], explanation.contributions["mix"]
    assert rows[-1].split() == ["mix", "1.640", *(f"{value:.3f}" for value in mix)]
    assert total.split()[:2] == ["sum", f"{explanation.similarity:.3f}"]


# ---------------------------------------------------------------- preference


@given(SEEDS, st.integers(1, 9), st.floats(0.01, 10))
@settings(max_examples=60, deadline=None)
def test_swapping_candidates_flips_the_preference_to_the_last_bit(seed, batch, scale):
    rng = np.random.default_rng(seed)
    x, a, b = (embeddings(rng, batch) for _ in range(3))
    scaled = model(weights={stem: scale * weight for stem, weight in WEIGHTS.items()})
    forth, back = (torch.as_tensor(scaled.prefer(x, *pair)) for pair in ((a, b), (b, a)))
    assert torch.equal(forth, -back)
    assert (forth.abs() <= 1.0).all()
    difference = torch.as_tensor(scaled(x, a)) - torch.as_tensor(scaled(x, b))
    assert torch.allclose(forth, difference.clamp(-1.0, 1.0), rtol=0, atol=1e-6)
    assert not torch.as_tensor(scaled.prefer(x, a, a)).any()


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("source", [MixOnly(), Bands()], ids=["mix", "bands"])
def test_all_kinds_of_inputs_agree(source, songs):
    sim = model(source)
    samples, rate = soundfile.read(songs[1], dtype="float32")
    kinds = [
        songs[1],
        str(songs[1]),
        Segment.whole(songs[1]),
        (torch.from_numpy(samples), rate),
        (torch.from_numpy(samples)[None], np.int64(rate)),
        (torch.from_numpy(samples).double().expand(2, -1).requires_grad_(), rate),
        (samples, rate),
        (samples[::-1].copy()[::-1][None].astype(np.float64), rate),
        sim.embed(songs[1]),
        sim.embed((samples, rate)),
    ]
    first, second = sim.embed(songs[0]), sim.embed(songs[1])
    expected = sim(first, second)
    for kind in kinds:
        assert sim(first, kind) == pytest.approx(expected, abs=1e-5)
        embedded = sim.embed(kind).vectors
        assert embedded.shape == (1, len(source.stems), 8)
        assert torch.allclose(embedded, second.vectors, rtol=0, atol=1e-5)
    assert all(torch.equal(seen, one) for seen, one in zip(sim.embed(second), second, strict=True))
    assert sim.prefer(*kinds[2:4], songs[0]) == pytest.approx(sim.prefer(second, second, first), abs=1e-5)


def test_waveforms_may_differ_in_length_and_rate(songs):
    sim = model(MixOnly())
    samples, rate = soundfile.read(songs[0], dtype="float32")
    clips = [(samples, rate), (samples[: rate // 2], rate), (np.repeat(samples, 2), 2 * rate)]
    together = sim.embed(clips).vectors
    assert together.shape == (3, 1, 8)
    for index, clip in enumerate(clips):
        assert torch.allclose(sim.embed(clip).vectors[0], together[index], rtol=0, atol=1e-6)
    assert sim(clips[0], tuple(clips)).shape == (3,)


def test_what_occurs_twice_is_embedded_once(songs):
    encoder = CountingEncoder()
    sim = model(MixOnly(), encoder)
    sim.prefer(songs[0], [songs[1], songs[0], songs[2]], [songs[0], songs[1], songs[1]])
    assert encoder.clips == 3
    clip = soundfile.read(songs[0], dtype="float32")
    sim(clip, [clip, (clip[0].copy(), clip[1]), (clip[0][None], clip[1])])
    assert encoder.clips == 4
    sim(clip, (clip[0], 2 * clip[1]))  # the same samples at another rate are another sound
    assert encoder.clips == 6
    sim(sim.embed(songs[0]), sim.embed(songs[0]))
    assert encoder.clips == 8


def test_inputs_are_left_as_they_are(songs):
    samples, rate = soundfile.read(songs[0], dtype="float32")
    tensor, copy = torch.from_numpy(samples), samples.copy()
    model(MixOnly())((tensor, rate), (samples, rate))
    assert (samples == copy).all()
    assert torch.equal(tensor, torch.from_numpy(copy))


SECOND = np.zeros(RATE, np.float32)
BAD_INPUTS = {
    "a bare waveform": (SECOND, ConfigError, "needs its sample rate beside it"),
    "a number": (3.0, ConfigError, "Expected the path .* got float"),
    "a list as a pair": ([SECOND, RATE], ConfigError, "got a list of ndarray, int"),
    "waveforms without rates": ((SECOND, SECOND), AudioError, "positive integer in Hz"),
    "three things": ((SECOND, RATE, 1), AudioError, "positive integer in Hz"),
    "rate zero": ((SECOND, 0), AudioError, "positive integer in Hz; got \\(0,\\)"),
    "rate true": ((SECOND, True), AudioError, "positive integer in Hz"),
    "integers": ((SECOND.astype(np.int16), RATE), AudioError, "got int16. Divide"),
    "booleans": ((SECOND > 0, RATE), AudioError, "got bool"),
    "empty": ((SECOND[:0], RATE), AudioError, "at least one sample, got the shape \\(0,\\)"),
    "three dimensions": ((np.zeros((1, 2, 9)), RATE), AudioError, "got the shape \\(1, 2, 9\\)"),
    "time before channel": ((np.zeros((100, 2)), RATE), AudioError, "Transpose"),
    "NaN": ((np.full(9, np.nan), RATE), AudioError, "NaN or infinite"),
    "beyond float32": ((np.full(9, 1e300), RATE), AudioError, "NaN or infinite"),
    "several kinds": (["a.wav", (SECOND, RATE)], ConfigError, "a list of str, waveforms with sample rates"),
    "a list of a list": ([["a.wav"]], ConfigError, "got a list of list"),
    "a missing file": ("nowhere.wav", DataNotFoundError, "nowhere.wav"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_bad_inputs_are_errors_of_ours(case):
    value, kind, message = BAD_INPUTS[case]
    sim = model(MixOnly())
    good = (SECOND, RATE)
    for call in (lambda: sim.embed(value), lambda: sim(value, good), lambda: sim.prefer(good, good, value)):
        with pytest.raises(kind, match=message):
            call()


def test_embeddings_of_another_model_are_errors(sim):
    rng = np.random.default_rng(0)
    good = embeddings(rng, 2)
    wrong = [
        embeddings(rng, 2, stems=5),
        embeddings(rng, 2, dim=9),
        good._replace(levels=good.levels[:1]),
        good._replace(present=good.present[:, :3]),
        StemEmbeddings(*(torch.tensor(0.0),) * 3),
    ]
    for one in wrong:
        with pytest.raises(EmbeddingError, match="Embed them with this model's `embed`"):
            sim(good, one)
    with pytest.raises(EmbeddingError, match="NaN"):
        sim(good, good._replace(vectors=good.vectors * torch.nan))
    with pytest.raises(ConfigError, match="list of StemEmbeddings"):
        sim(good, [good, good])


def test_batches_must_be_equally_long(sim, songs):
    with pytest.raises(ConfigError, match="equally long; got 2 and 3 inputs"):
        sim(songs[:2], songs[:3])
    with pytest.raises(ConfigError, match="equally long; got 1 and 2 and 3 inputs"):
        sim.prefer(songs[0], songs[:2], songs[:3])


def test_files_that_are_no_audio_and_what_cannot_be_embedded_are_errors_of_ours(sim, songs, tmp_path):
    with pytest.raises(EmbeddingError):
        model(encoder=NanEncoder())(songs[0], songs[1])
    with pytest.raises(ConfigError, match="reads stems from files"):
        sim((SECOND, RATE), (SECOND, RATE))
    (tmp_path / "words.wav").write_text("words")
    write_audio(tmp_path / "alone.wav", torch.zeros(1, 800), RATE)
    for path in (tmp_path / "words.wav", tmp_path, tmp_path / "alone.wav"):  # the last one has no stems beside it
        with pytest.raises(StemsimError):
            sim(path, path)


# ---------------------------------------------------------------- construction


def test_weights_are_by_name_and_in_the_order_of_the_stems(songs):
    backwards = dict(reversed(WEIGHTS.items()))
    sim = model(weights=backwards)
    assert list(sim.weights.items()) == list(WEIGHTS.items())
    assert sim.stems == STEMS
    assert sim(songs[0], songs[1]) == model()(songs[0], songs[1])


@pytest.mark.parametrize(
    "weights", [{}, {"mix": 1.0}, {**WEIGHTS, "choir": 1.0}, dict.fromkeys(LAYOUTS["4-stem"], 1.0)]
)
def test_weights_of_other_stems_are_an_error(weights):
    embedder = StemEmbedder(Multitrack(), CountingEncoder(), progress=False)
    with pytest.raises(StemMismatchError, match="the set of weights has"):
        StemSimilarity(embedder, weights)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_are_finite(bad):
    with pytest.raises(ConfigError, match="finite"):
        model(weights={**WEIGHTS, "mix": bad})


def test_the_card_says_what_runs():
    card = model(Bands(crossover=150.0), Spectral(), silence=-50.0).card
    assert (card.encoder.name, card.separator.name) == ("spectral", "bands")
    assert card.separator.options == {"crossover": 150.0}
    assert card.silence == -50.0
    own = model().card
    assert (own.encoder.name, own.encoder.identity) == (None, CountingEncoder().identity)
    assert own.separator == Part("separator", "multitrack", {"stems": "6-stem"}, Multitrack().identity)


def test_the_example_of_the_docstring_runs():
    assert doctest.testmod(stem_similarity).attempted > 3
    assert not doctest.testmod(stem_similarity).failed


def test_importing_stemsim_needs_no_torch_and_the_model_no_lightning():
    script = (
        "import sys, stemsim; light = 'torch' in sys.modules; names = dir(stemsim); stemsim.load;"
        "heavy = {'lightning', 'wandb', 'gradio', 'demucs', 'laion_clap', 'muq', 'transformers'} & set(sys.modules);"
        "print(light, 'load' in names, len(heavy), stemsim.StemSimilarity.__name__, len(stemsim.available_models()))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["False", "True", "0", "StemSimilarity", "6"], result.stderr
