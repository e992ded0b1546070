"""What a library reads off names and measures in audio: category, tempo, key; and how it cuts files into items."""

from itertools import pairwise
from pathlib import Path, PurePath

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from stemsim.errors import AudioError, ConfigError, DataNotFoundError
from stemsim.retrieval.tags import describe_file
from stemsim.retrieval.tags.categories import guess_categories, guess_type, is_loop, tag_named
from stemsim.retrieval.tags.measuring import key_of_chroma, measure
from stemsim.retrieval.tags.names import KEYS, NOTES, named_bpm, named_key
from stemsim.retrieval.tags.vocabulary import CATEGORIES, terms_of, words_of
from stemsim.retrieval.windows import Windowing

RATE = 22_050


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples, np.float32), rate)
    return path


def clicks(bpm, seconds, *, rate=RATE):
    """Noise bursts on every beat, the first of four louder."""
    rng = np.random.default_rng(0)
    samples = np.zeros(round(seconds * rate))
    for beat in range(int(seconds * bpm / 60)):
        start = round(beat * 60 / bpm * rate)
        burst = (
            rng.normal(size=min(1000, len(samples) - start)) * np.exp(-np.arange(1000) / 200)[: len(samples) - start]
        )
        samples[start : start + len(burst)] += (0.3 if beat % 4 == 0 else 0.2) * burst
    return samples


def chords(notes, seconds=4.0):
    """Chords of decaying harmonic tones, each a list of MIDI numbers."""
    time = np.arange(round(seconds / len(notes) * RATE)) / RATE
    parts = []
    for chord in notes:
        tones = [np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * k * time) / k for note in chord for k in (1, 2, 3)]
        parts.append(np.exp(-time) * sum(tones) / len(tones))
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HiHat_Closed-03 (bright)", ["hi", "hat", "closed", "03", "bright"]),
        ("KICKDrum808", ["kick", "drum", "808"]),
        ("BDPunchy", ["bd", "punchy"]),
        ("Drum&Bass", ["drum", "and", "bass"]),
        ("...", []),
    ],
)
def test_words(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("path", "categories"),
    [
        ("Kicks/01.wav", "kick"),
        ("One Shots/Hi Hats/Closed/CR78.wav", "hat"),
        ("kit/BD_hard_02.wav", "kick"),
        ("kit/HH/10.wav", "hat"),
        ("x/openHat3.wav", "hat"),
        ("Bass Drum Deep.wav", "kick"),
        ("x/drum_bass_soft.wav", "kick"),
        ("Drum & Bass/x.wav", ""),
        ("Snares/loop_03.wav", "snare"),
        ("SynthBassLoop_120.wav", "synth bass"),
        ("Kick & Snare 120.wav", "kick snare"),
        ("x/FemaleVocals.wav", "vocals"),
        ("x/Brass stab.wav", "brass"),
        ("x/stab.wav", "synth"),
        ("Loops/x.wav", ""),
        # written apart, in one, and with something before or after
        ("x/cow bell.wav", "perc"),
        ("x/WoodBlock.wav", "perc"),
        ("x/hhopen.wav", "hat"),
        ("x/closehihat3.wav", "hat"),
        ("x/technobass.wav", "bass"),
        ("x/bassslap.wav", "bass"),
        ("x/zorgsnare.wav", "snare"),
        ("x/hatred.wav", ""),
        ("x/kickstart.wav", ""),
        ("x/sharp.wav", ""),
        # a part of an instrument is none
        ("x/Ride Bell.wav", "cymbal"),
        ("x/Djembe Bass.wav", "perc"),
        # two letters count after words, and not in sentences
        ("Pads/Oh My.wav", "pad"),
        ("x/Oh My.wav", ""),
        ("x/Oh_03.wav", "hat"),
        ("x/TR8_OH_03.wav", "hat"),
        ("Study Ch 3/x.wav", ""),
        ("Recordings/2020-03-01.wav", ""),
        # the file before the folder, the nearer before the farther
        ("Pads/Kicks/x.wav", "kick"),
        ("Pads/Kicks/snare_kick.wav", "snare kick"),
        ("Kicks/a/b/c/x.wav", ""),
        # names of artists and packs
        ("Tom Petty/x.wav", ""),
        ("Toms/x.wav", "tom"),
        ("Kit/Crash/01.wav", "cymbal"),
        ("Crash/Loops/01.wav", ""),
        ("Crashes/Low/01.wav", "cymbal"),
    ],
)
def test_categories_of_paths(path, categories):
    assert guess_categories(PurePath("/home/someone/Music") / path, 0.5) == tuple(categories.split())


@pytest.mark.parametrize(
    ("path", "categories"),
    [
        ("Billy Joel/02 Piano Man.mp3", ""),
        ("Stems/Night Drive - Lead Vocals.wav", "synth vocals"),
        ("Songs/01_Kick.wav", "kick"),
        ("Drums/Title.wav", ""),
    ],
)
def test_titles_of_songs_are_no_descriptions(path, categories):
    assert guess_categories(PurePath("/x") / path, 200.0) == tuple(categories.split())


@pytest.mark.parametrize(
    ("path", "duration", "type_"),
    [
        ("loops/x.wav", 0.3, "one-shot"),  # whatever its folder says
        ("loops/x.wav", 4.0, "loop"),
        ("beats/kick.wav", 0.4, "one-shot"),
        ("beats/rave_kick.wav", 2.66, "loop"),
        ("One Shots/Bass Loop.wav", 4.0, "loop"),
        ("Bass Loops/hit.wav", 4.0, "one-shot"),
        ("x/Snare.wav", 2.0, "one-shot"),
        ("Groove Union/Bass.wav", 4.0, None),
        ("x/Piano_C3.wav", 4.0, "one-shot"),
        ("x/Piano.wav", 4.0, None),
        ("x/something.wav", 4.0, None),
        ("x/Pad_120bpm.wav", 8.0, "loop"),
        ("x/Master v2.wav", 40.0, "song"),
        ("x/Master v2.wav", 4.0, None),
        ("x/something.wav", 180.0, "song"),
        ("Loops/something.wav", 180.0, "loop"),
    ],
)
def test_types_of_paths(path, duration, type_):
    path = PurePath("/x") / path
    assert guess_type(path, duration, guess_categories(path, duration), bpm=named_bpm(path, duration)) == type_


@pytest.mark.parametrize(("names", "least"), [("conventions.tsv", 0.955), ("debian.tsv", 0.955)])
def test_categories_and_types_of_many_names(names, least):
    """The measure of `bench_tags.py`, which prints more."""
    lines = (Path(__file__).parent / "benchmarks/names" / names).read_text(encoding="utf-8").splitlines()[1:]
    right = {"categories": 0, "type": 0}
    for line in lines:
        name, seconds, listed, type_, _ = line.split("\t")
        path, duration = PurePath("/x") / name, float(seconds)
        possible = {word.rstrip("?") for word in listed.split() if word != "-"}
        certain = {word for word in listed.split() if word != "-" and not word.endswith("?")}
        found = guess_categories(path, duration)
        right["categories"] += certain <= set(found) <= possible
        guess = guess_type(path, duration, found, bpm=named_bpm(path, duration)) or "one-shot"
        right["type"] += type_ in {guess, "-"}
    assert min(right.values()) / len(lines) >= least


@pytest.mark.parametrize(
    ("text", "tag"),
    [("Snares", "snare"), ("SNARE", "snare"), ("hi-hat", "hat"), ("bd", "kick"), ("LOOPS", "loop"), ("break", "drums")],
)
def test_tags_in_the_words_of_users(text, tag):
    assert tag_named(text, (*CATEGORIES, "loop")) == tag
    assert tag_named(tag, (*CATEGORIES, "loop")) == tag


@pytest.mark.parametrize("text", ["bananas", "kick snare", "", "song"])
def test_other_words_of_users_are_refused(text):
    with pytest.raises(ConfigError, match=r"Expected one of kick, .*got"):
        tag_named(text, CATEGORIES)


def test_categories_of_the_real_samples(shared_data):
    """Sonic Pi's prefix is the category; the prefixes that are kinds of production (elec, mehackit, ...) have none."""
    truth = {"ambi": "pad", "bass": "bass", "bd": "kick", "guit": "guitar", "hat": "hat", "perc": "perc"}
    truth |= {"ride": "cymbal", "sn": "snare", "tabla": "perc", "vinyl": "fx"}
    files = {path: truth.get(path.stem.partition("_")[0]) for path in (shared_data / "samples/sonic-pi").iterdir()}
    known = {path: category for path, category in files.items() if category is not None}
    right = sum(category in guess_categories(path, 0.5) for path, category in known.items())
    assert (right, len(known)) == (102, 106)
    loops = [path for path in files if path.stem.startswith("loop_")]
    assert {describe_file(path, listen=False).type for path in loops} == {"loop"}
    drums = [path for path in files if path.stem.startswith("drum_")]
    kinds = {category for path in drums for category in guess_categories(path, 0.5)}
    assert kinds <= {"kick", "snare", "cymbal", "tom", "hat", "perc", "drums"}


def test_categories_of_the_real_drum_kit_by_folder_alone(shared_data):
    truth = {"bd": "kick", "sd": "snare", "hh": "hat", "oh": "hat", "cp": "clap", "cb": "perc", "rim": "rim"}
    truth |= {"ht": "tom", "mt": "tom", "lt": "tom", "cr": "cymbal", "rd": "cymbal", "sh": "perc", "tb": "perc"}
    truth |= {"brk": "drums", "misc": None}
    files = list((shared_data / "samples/uzu-drumkit").rglob("*.wav"))
    assert len(files) == 41
    for path in files:
        expected = truth[path.parent.name]
        assert guess_categories(PurePath("kit", path.parent.name, "1.wav"), 0.5) == ((expected,) if expected else ())


@given(st.text(max_size=30), st.text(max_size=30), st.floats(0.01, 500.0))
def test_any_path_has_categories_of_ours(folder, name, duration):
    path = PurePath("/x") / folder.replace("/", "") / (name.replace("/", "") + ".wav")
    found = guess_categories(path, duration)
    assert set(found) <= set(CATEGORIES)
    assert len(set(found)) == len(found)
    assert guess_type(path, duration, found, bpm=None) in {"one-shot", "loop", "song", None}


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12))
def test_a_word_is_cut_into_nothing_but_itself(word):
    """The parts of a compound in their order are the word; else they are one of its ends, or it is unknown."""
    terms = terms_of(word)
    if all(term.known for term in terms) and len(terms) > 1:
        assert "".join(term.text for term in terms) == word
    else:
        assert terms[0].text in word


@pytest.mark.parametrize(
    ("path", "duration", "bpm"),
    [
        ("Amen_174bpm.wav", 3.0, 174.0),
        ("Amen 97.5 BPM.wav", 3.0, 97.5),
        ("bpm120_x.wav", 3.0, 120.0),
        ("BPM-088 x.wav", 3.0, 88.0),
        ("Loops 124bpm/x.wav", 3.0, 124.0),
        ("Loop_120_Am.wav", 3.0, 120.0),
        ("Loops/funk 98.wav", 3.0, 98.0),
        ("funk_120_x.wav", 8.0, 120.0),  # four bars
        ("funk_120_x.wav", 7.3, None),
        ("Kick 120.wav", 0.31, None),
        ("take_2020.wav", 8.0, None),
        ("Loop_808.wav", 8.0, None),
        ("Loop SH101.wav", 8.0, None),
        ("Loop SH 101.wav", 8.0, None),
        ("Loop 1200.wav", 8.0, None),
        ("Loop_12.wav", 8.0, None),
        ("Loop 999bpm.wav", 8.0, None),
        ("48000_120.5.wav", 8.0, None),
        ("rpm120.wav", 3.0, None),
    ],
)
def test_tempo_of_names(path, duration, bpm):
    assert named_bpm(PurePath("/x") / path, duration) == bpm


@pytest.mark.parametrize(
    ("name", "category", "key"),
    [
        ("Loop_Am_120", None, "A minor"),
        ("Loop_C#min", None, "C# minor"),
        ("x F_major", None, "F major"),
        ("x_f_major", None, "F major"),
        ("Rhodes Bbm", "keys", "A# minor"),
        ("Rhodes E♭ maj7", "keys", "D# major"),
        ("x Gmaj", None, "G major"),
        ("Pad F sharp minor", "pad", "F# minor"),
        ("guit_em9", "guitar", "E minor"),
        ("Bass_F#2", "bass", "F#"),
        ("Bass_C", "bass", "C"),
        ("Pluck G 128", "synth", "G"),
        ("Cbmaj", None, "B major"),
        ("Groove 3 (F)", "loop", "F"),
        ("Stab [Eb]", "synth", "D#"),
        # what is none
        ("A", "bass", None),
        ("Am", None, "A minor"),
        ("Take A", "vocals", None),
        ("Loop B", "synth", None),
        ("beat_a", "loop", None),
        ("Kick C", "kick", None),
        ("Kick F#m", "kick", None),
        ("CB_01", "perc", None),
        ("Loop_GB", "loop", None),
        ("EB 02", None, None),
        ("Pad_DB", "pad", None),
        ("Take (B)", "vocals", None),
        ("I am here", "vocals", None),
        ("9 am", "vocals", None),
        ("FM Bass", "bass", None),
        ("ab_test", "bass", None),
        ("Gm2020x", "bass", None),
        ("drum_bass_hard", "bass", None),
        ("minor swing", None, None),
    ],
)
def test_keys_of_names(name, category, key):
    assert named_key(PurePath(f"/x/{name}.wav"), () if category is None else (category,)) == key


@given(st.sampled_from(KEYS), st.sampled_from(["_", "-", " ", ""]), st.sampled_from(["{}_120bpm", "Loop_{}", "x {} y"]))
def test_every_key_is_read_as_it_is_spelt(key, gap, pattern):
    note, mode = key.split()
    assert named_key(PurePath(pattern.format(f"{note}{gap}{mode}") + ".wav"), ()) == key


@pytest.mark.parametrize("bpm", [85.0, 97.5, 120.0, 128.0, 174.0])
@pytest.mark.parametrize("bars", [2, 11.37])
def test_tempo_is_measured(tmp_path, bpm, bars):
    measured = measure(write(tmp_path / "x.wav", clicks(bpm, bars * 240 / bpm)))
    assert measured.bpm == pytest.approx(bpm, rel=0.005)


def test_tempo_of_real_loops(shared_data):
    """Their tempi are in Sonic Pi's documentation, or follow from their whole numbers of bars."""
    loops = {"compus": 148.0, "garzul": 120.0, "mika": 120.0, "safari": 120.0, "breakbeat": 126.0, "electric": 97.0}
    for name, bpm in loops.items():
        assert describe_file(shared_data / f"samples/sonic-pi/loop_{name}.flac").bpm == pytest.approx(bpm, rel=0.001)


def test_no_tempo_without_repetition(tmp_path):
    rng = np.random.default_rng(0)
    assert measure(write(tmp_path / "noise.wav", 0.1 * rng.normal(size=6 * RATE))).bpm is None
    assert measure(write(tmp_path / "silence.wav", np.zeros(6 * RATE))).bpm is None
    assert measure(write(tmp_path / "short.wav", clicks(120, 1.0))).bpm is None


def test_key_is_measured(tmp_path):
    cadence = [[60, 64, 67], [65, 69, 72], [67, 71, 74], [60, 64, 67]]
    assert measure(write(tmp_path / "c.wav", chords(cadence))).musical_key == "C major"
    transposed = [[note + 6 for note in chord] for chord in cadence]
    assert measure(write(tmp_path / "fis.wav", chords(transposed))).musical_key == "F# major"
    minor = [[57, 60, 64], [62, 65, 69], [64, 68, 71], [57, 60, 64]]
    assert measure(write(tmp_path / "a.wav", chords(minor))).musical_key == "A minor"
    for cents in (-40, -32, 20, 45):  # -32 is A = 432 Hz
        tuned = [[note + cents / 100 for note in chord] for chord in cadence]
        assert measure(write(tmp_path / "tuned.wav", chords(tuned))).musical_key == "C major"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [np.eye(1, 3 * RATE)[0], np.full(3 * RATE, 0.5)], ids=["click", "constant"])
def test_no_key_without_notes(tmp_path, samples):
    assert measure(write(tmp_path / "x.wav", samples)).musical_key is None


def test_every_profile_finds_its_own_key():
    major = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
    assert [key_of_chroma(np.roll(major, k)) for k in range(12)] == [f"{note} major" for note in NOTES]
    assert key_of_chroma(np.ones(12)) is None
    assert key_of_chroma(np.full(12, np.nan)) is None


def test_names_go_before_what_is_measured(tmp_path):
    loop = clicks(120, 8.0)
    named = describe_file(write(tmp_path / "Bass_90bpm_Am.wav", loop))
    assert (named.bpm, named.musical_key, named.categories, named.measured) == (90.0, "A minor", ("bass",), frozenset())
    heard = describe_file(write(tmp_path / "loop.wav", loop))
    assert heard.bpm == pytest.approx(120.0, rel=0.001)
    assert "bpm" in heard.measured
    assert describe_file(tmp_path / "loop.wav", listen=False).bpm is None
    assert describe_file(write(tmp_path / "kick_long.wav", loop)).bpm is None
    assert describe_file(write(tmp_path / "kick_loop.wav", loop)).bpm == pytest.approx(120.0, rel=0.001)
    assert is_loop(PurePath("/Drum Loops/x.wav"))


def test_what_a_name_leaves_open_is_a_loop_if_it_has_a_beat(tmp_path):
    beat, none = write(tmp_path / "x/bass 1.wav", clicks(120, 8.0)), write(tmp_path / "x/bass 2.wav", chords([[40]]))
    assert [describe_file(path).type for path in (beat, none)] == ["loop", "one-shot"]
    assert [describe_file(path, listen=False).type for path in (beat, none)] == [None, None]


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"nothing\.wav"):
        describe_file(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("hello", encoding="utf-8")
    with pytest.raises(AudioError, match=r"text\.wav"):
        describe_file(tmp_path / "text.wav")


@pytest.mark.parametrize(
    ("seconds", "hop", "starts", "length"),
    [
        (0.2, None, [0.0], 0.2),
        (5.0, None, [0.0], 5.0),
        (6.2, None, [0.0], 5.0),
        (6.26, None, [0.0, 1.26], 5.0),
        (10.0, None, [0.0, 5.0], 5.0),
        (12.0, None, [0.0, 5.0, 7.0], 5.0),
        (12.0, 2.5, [0.0, 2.5, 5.0, 7.0], 5.0),
        (11.0, None, [0.0, 5.0], 5.0),
    ],
)
def test_windows(seconds, hop, starts, length):
    spans = Windowing(5.0, hop).spans(seconds)
    assert [start for start, _ in spans] == pytest.approx(starts)
    assert all(duration == pytest.approx(length) for _, duration in spans)


@given(st.floats(0.0003, 100.0), st.integers(1, 8), st.integers(1, 4))
def test_windows_cover_what_they_are_cut_from_but_for_a_short_rest(duration, length, parts):
    windowing = Windowing(float(length), length / parts)
    spans = windowing.spans(duration)
    assert spans[0][0] == 0.0
    assert all(start + span <= duration + 1e-4 for start, span in spans)
    assert all(0.0 < b[0] - a[0] <= windowing.step + 1e-9 for a, b in pairwise(spans))
    assert duration - sum(spans[-1]) < 0.25 * length + 1e-4


@pytest.mark.parametrize(("length", "hop"), [(0.0, None), (5.0, 0.0), (5.0, 6.0), (float("nan"), None), (5.0, -1.0)])
def test_impossible_windows_are_refused(length, hop):
    with pytest.raises(ConfigError, match=r"indow"):
        Windowing(length, hop)


@given(st.floats(0.001, 9.9), st.floats(0.0, 1.0))
def test_short_clips_are_filled_up_a_little(duration, shortest):
    windowing = Windowing(5.0)
    filled = windowing.padded(duration, shortest)
    assert filled >= max(duration, shortest) - 1e-9
    if duration >= 5.0:
        assert filled == duration
    else:
        assert filled <= max(duration, shortest) + 0.1 + 1e-9
        assert windowing.padded(filled, shortest) == pytest.approx(filled)
