"""`stemsim index`, `search` and `compare`, as one types them."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.embedding import StemEmbedder
from stemsim.encoders import Spectral
from stemsim.fusion import AttentionFusion, MonotoneFusion
from stemsim.model import StemSimilarity
from stemsim.separators import Bands

RATE = 44_100


def sound(kind, seconds=0.2, seed=0):
    """A low thump, a hiss or a note."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(size=len(time))
    return {
        "kick": 0.5 * np.sin(2 * np.pi * (60 + seed) * time) * np.exp(-8 * time),
        "hat": 0.1 * noise * np.exp(-30 * time),
        "note": sum(0.2 / k * np.sin(2 * np.pi * k * (220 + 20 * seed) * time) for k in range(1, 6)) * np.exp(-time),
    }[kind]


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)
    return path


def run(*arguments, code=0):
    """Run a command; return what it prints, as JSON if it was asked to."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if "--json" in arguments and code == 0:
        return json.loads(result.stdout)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of sounds, and the library of them that is made without options."""
    root = tmp_path_factory.mktemp("commands")
    for kind, folder in (("kick", "Kicks"), ("hat", "Hats")):
        for number in range(3):
            write(root / f"sounds/{folder}/{number}.wav", sound(kind, seed=number))
    write(root / "sounds/Bass_100bpm_Am.wav", sound("note"))
    write(root / "sounds/song.wav", np.concatenate([sound("kick", 5.0), sound("note", 1.5, 5)]))
    said = run("index", root / "sounds", "--library", root / "L", "--no-progress")
    assert "New library" in said
    assert "bands" in said
    assert "spectral" in said
    assert "need no downloaded weights" in said
    assert "8 files added, 0 replaced, 0 unchanged, 0 cannot be read; 9 new items" in said
    return root


def test_again_nothing_is_to_do_and_bad_files_are_listed(root, tmp_path):
    assert "0 files added, 0 replaced, 8 unchanged" in run("index", "--library", root / "L", root / "sounds")
    whole = (root / "sounds/song.wav").read_bytes()
    (tmp_path / "truncated.wav").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("hello", encoding="utf-8")
    arguments = "index", "add", tmp_path, root / "sounds", "-l", root / "L", "--no-progress"
    report = run(*arguments, "--json")
    assert (report["added"], report["unchanged"]) == (0, 8)
    assert [failure["path"] for failure in report["failures"]] == [
        str(tmp_path / name) for name in ("empty.wav", "text.wav", "truncated.wav")
    ]
    said = run(*arguments)
    assert "3 cannot be read" in said
    assert "truncated.wav is truncated" in said
    assert "No file or folder" in run("index", tmp_path / "nowhere", "--library", root / "L", code=2)


def test_a_search_needs_no_options(root):
    query = root / "sounds/Kicks/1.wav"
    found = run("search", query, "--library", root / "L", "-k", "3", "--json")
    assert found["weights"] == "bass=1,drums=1,residuals=1,mix=1"
    assert [(hit["categories"], hit["type"]) for hit in found["hits"][:2]] == [(["kick"], "one-shot")] * 2
    assert str(query) not in [hit["path"] for hit in found["hits"]]
    first = run("search", query, "--library", root / "L", "-k", "1", "--include-self", "--json")["hits"][0]
    assert first["path"] == str(query)
    assert sum(first["contributions"].values()) == pytest.approx(first["similarity"])
    said = run("search", query, "--library", root / "L", "-k", "3", "--weights", "drums:mix=2,bass")
    assert "weights bass=1,drums:mix=2" in said
    assert f"In {root}/sounds" in said


def test_a_part_of_a_file_and_conditions(root):
    def names(*arguments):
        query = "song" if "--from" in arguments else "Kicks/1"
        found = run("search", root / f"sounds/{query}.wav", "--library", root / "L", "--json", *arguments)
        return [hit["path"].removeprefix(f"{root}/sounds/") for hit in found["hits"]]

    assert names("--from", 5, "--to", 6, "-k", 1)[0] == "Bass_100bpm_Am.wav"
    assert names("--from", 0, "--to", 1, "-k", 1, "--weights", "mix", "--duration", ":1")[0].startswith("Kicks")
    others = {"Hats/0.wav", "Hats/1.wav", "Hats/2.wav", "Kicks/0.wav", "Kicks/2.wav"}
    for words in ("kick,hat", "Kicks,HI-HATS", "BD,hh"):
        assert set(names("--category", words, "-k", 9)) == others
    assert set(names("--type", "one-shot", "-k", 9)) == others | {
        "Bass_100bpm_Am.wav",
        "song.wav",
    }  # no beat is heard in it
    assert names("--category", "bass", "--type", "One Shots") == ["Bass_100bpm_Am.wav"]
    assert names("--category", "bass", "--type", "loop") == []
    for condition in (
        ("--bpm", "98:102"),
        ("--bpm", "100"),
        ("--bpm", "50", "--octaves"),
        ("--key", "Am"),
        ("--key", "A"),
        ("--category", "bass"),
    ):
        assert names(*condition) == ["Bass_100bpm_Am.wav"]
    (root / "preset.txt").write_text("drums=1,bass=0.5\n")
    assert names("--weights", f"@{root}/preset.txt") == names("--weights", "drums=1,bass=0.5")
    asked = run("search", root / "sounds/Kicks/1.wav", "-l", root / "L", "--json", "--weights", f"@{root}/preset.txt")
    assert asked["weights"] == "bass=0.5,drums=1"
    query, library = root / "sounds/Kicks/1.wav", ("--library", root / "L", "--bpm", "200", "--octaves")
    assert "Tempo 200, or half or double of it." in run("search", query, *library)
    assert run("search", query, *library, "--json")["octaves"]
    assert names("--bpm", "101:") == names("--key", "C minor") == []
    assert len(names("--folder", root / "sounds/Kicks")) == 2
    assert names("--loudness=-90:-60") == []
    assert "Nothing meets" in run("search", root / "sounds/Kicks/1.wav", "--library", root / "L", "--loudness=-90:-60")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bpm", "fast"], "--bpm is two numbers"),
        (["--bpm", "130:120"], "the lower first"),
        (["--bpm", ":"], "--bpm is two numbers"),
        (["--key", "H"], "A key is a note"),
        (["--category", "bananas"], "Expected one of kick"),
        (["--category", "kick snare"], "Expected one of kick"),
        (["--type", "bass"], "Expected one of one-shot, loop, song"),
        (["--octaves"], "give `bpm` too"),
        (["--weights", "vocals=1"], "no stem 'vocals'"),
        (["--weights", "learned"], "no learned weights"),
        (["--weights", "@none.txt"], "@none.txt cannot be read"),
        (["--from", "90"], "has no part from 90 s to the end"),
        (["--from", "0.1", "--to", "0"], "has no part from 0.1 s to 0 s"),
        (["--text", "warm analog bass"], "does not encode text"),
        (["-k", "0"], "at least 1"),
        (["--export", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_wrong_searches_say_what_to_do(root, arguments, message):
    assert message in run("search", root / "sounds/Kicks/1.wav", "--library", root / "L", *arguments, code=2)


def test_searches_of_nothing(root, tmp_path):
    assert "nothing to search with" in run("search", "--library", root / "L", code=2)
    assert "There is no library" in run("search", root / "sounds/song.wav", "--library", tmp_path / "none", code=2)
    assert "No file at" in run("search", tmp_path / "none.wav", "--library", root / "L", code=2)
    assert "There is no library" in run("index", "stats", "--library", tmp_path / "none", code=2)


def test_hits_are_exported(root, tmp_path):
    found = run(
        "search", root / "sounds/Kicks/0.wav", "--library", root / "L", "-k", 9, "--json", "--export", tmp_path / "out"
    )
    assert len(found["exported"]) == len(found["hits"])
    for file, hit in zip(found["exported"], found["hits"], strict=True):
        samples, rate = soundfile.read(file)
        assert len(samples) / rate == pytest.approx(hit["duration"], abs=1e-4)
        original, _ = soundfile.read(hit["path"], start=round(hit["start"] * rate), frames=len(samples))
        assert np.abs(samples - original).max() < 1e-4


def test_what_cannot_be_exported_is_listed_and_the_rest_written(tmp_path):
    names = ("plain", "é" * 125 + "k", "gone")  # the second has 251 bytes, and its copy a number before it
    for number, name in enumerate(names):
        write(tmp_path / f"sounds/{name}.wav", sound("kick", seed=number))
    run("index", tmp_path / "sounds", "--library", tmp_path / "L", "--no-progress")
    (tmp_path / "sounds/gone.wav").unlink()
    found = run(
        "search", tmp_path / "sounds/plain.wav", "-l", tmp_path / "L", "--include-self", "--json", "--export", tmp_path
    )
    assert len(found["hits"]) == 3
    assert len(found["exported"]) == 2
    assert all(soundfile.info(path).frames == 0.2 * RATE for path in found["exported"])
    assert list(found["not_exported"]) == [str(tmp_path / "sounds/gone.wav")]
    assert "Not written: " in run(
        "search", tmp_path / "sounds/plain.wav", "-l", tmp_path / "L", "--export", tmp_path / "again"
    )


@pytest.mark.parametrize("fusion", [AttentionFusion, MonotoneFusion])
def test_a_search_says_that_the_fusion_of_the_model_ranks(root, tmp_path, fusion):
    name = fusion.__name__
    embedder = StemEmbedder(Bands(), Spectral(), progress=False)
    StemSimilarity(embedder, fusion(Bands.stems)).save(tmp_path / "model")
    run("index", root / "sounds/Kicks", "-l", tmp_path / "L", "--model", tmp_path / "model", "--no-measure")
    arguments = "search", root / "sounds/song.wav", "--library", tmp_path / "L"
    found = run(*arguments, "--json")
    assert found["fusion"] == found["hits"][0]["fusion"] == name
    assert f"ranked again by the {name} of {tmp_path}" in run(*arguments, "--weights", "learned")
    assert f"{name} ranks the best again" in run("index", "stats", "--library", tmp_path / "L")
    assert run(*arguments, "--json", "--weights", "equal")["fusion"] is None
    assert name not in run(*arguments, "--weights", "drums=1")
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    assert "Put the model back" in run(*arguments, code=2)


def test_another_encoder_separator_or_window_is_refused(root):
    for arguments, message in (
        (["--encoder", "laion-clap"], "made with the encoder spectral, and --encoder says laion-clap"),
        (["--separator", "demucs"], "made with the separator bands"),
        (["--separator", "mix"], "made with the separator bands"),
        (["--window", "3"], "windows of (s) 5.0; got 3.0"),
        (["--hop", "2.5"], "a hop of (s) 5.0; got 2.5"),
        (["--model", "clap-mix", "--encoder", "spectral"], "--model names an encoder"),
        (["--encoder", "spectral:large"], "after a colon"),
    ):
        assert message in run("index", root / "sounds", "--library", root / "L", *arguments, code=2)
    assert "8 unchanged" in run(
        "index",
        root / "sounds",
        "--library",
        root / "L",
        "--encoder",
        "spectral",
        "--separator",
        "bands",
        "--window",
        5,
    )


def test_the_other_commands_look_after_a_library(root, tmp_path, monkeypatch):
    write(tmp_path / "check/hat.wav", sound("hat", seed=7))
    write(tmp_path / "check/more/kick.wav", sound("kick", seed=7))
    monkeypatch.chdir(tmp_path)
    run("index", "./check", "--library", "L", "--separator", "mix", "--window", 2, "--hop", 1, "--no-measure")
    stats = run("index", "stats", "--library", "L", "--json")
    assert (stats["files"], stats["categories"], stats["types"]) == (2, {"hat": 1, "kick": 1}, {"one-shot": 2})
    assert stats["made_with"]["window"] == 2.0
    assert "windows of 2 s every 1 s" in run("index", "stats", "--library", "L")
    check = run("index", "check", "--library", "L", "--json", "--queries", 3)
    assert all(row["recall"] == 1.0 for row in check["weights"])
    assert {row["weights"] for row in check["weights"]} == {"random", "single stem", "negative", "cross-stem"}
    assert "Least recall@50: 1.0000" in run("index", "check", "--library", "L", "--queries", 3)
    (tmp_path / "check/hat.wav").unlink()
    assert run("index", "prune", "--library", "L", "--json") == {"dropped": [str(tmp_path / "check/hat.wav")]}
    assert "1 files removed" in run("index", "remove", "check/more", "--library", "L")
    assert "has no file" in run("index", "remove", "check/more", "--library", "L", code=2)
    assert "index, or" not in run("index", "--help")


def test_two_pieces_are_compared(root, tmp_path):
    kicks = [root / f"sounds/Kicks/{number}.wav" for number in range(2)]
    close = run("compare", *kicks, "--json")
    far = run("compare", kicks[0], root / "sounds/Hats/0.wav", "--json")
    assert close["similarity"] > far["similarity"]
    assert close["similarity"] == pytest.approx(sum(close["contributions"].values()))
    weighted = run("compare", *kicks, "--json", "--weights", "drums=2,mix=0.5")
    assert weighted["weights"] == {"bass": 0.0, "drums": 2.0, "residuals": 0.0, "mix": 0.5}
    assert weighted["contributions"]["drums"] == pytest.approx(2 * close["cosines"]["drums"])
    said = run("compare", *kicks, "--plot", tmp_path / "x.png")
    assert "similarity; higher is closer" in said
    assert "bands(crossover=200.0) x spectral" in said
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    alone = run("compare", *kicks, "--separator", "mix", "--from", 0.05, "--to", 0.15, "--json")
    assert list(alone["cosines"]) == ["mix"]


def test_wrong_comparisons_say_what_to_do(root, tmp_path, monkeypatch):
    monkeypatch.setenv("STEMSIM_PRETRAINED", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    kicks = [root / f"sounds/Kicks/{number}.wav" for number in range(2)]
    assert "stem by stem" in run("compare", *kicks, "--weights", "drums:mix", code=2)
    assert "has no part from 9 s" in run("compare", *kicks, "--from", 9, code=2)
    assert "No ready-made model" in run("compare", *kicks, "--model", "clap-5stem", code=2)
    assert "models download" in run("compare", *kicks, "--model", "clap-4stem", code=2)
    assert "Unknown encoder" in run("compare", *kicks, "--encoder", "mfcc", code=2)
    assert "cannot be written" in run("compare", *kicks, "--plot", "/proc/nowhere/x.png", code=2)
    assert "No file at" in run("compare", kicks[0], tmp_path / "none.wav", code=2)
