"""README and documentation: code blocks run, commands and options exist, links lead somewhere.

A block is marked by a comment on the line above it: `<!-- run -->` before a shell block runs its commands here, and
`<!-- not run: reason -->` before a Python block only compiles it. Every other Python block runs, and every command of
every other shell block is parsed. The blocks of a page run in order, in a folder with a few small sounds; a Python
block that begins with `# NAME.py` is saved under that name and imported.
"""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import typer
import yaml

from stemsim.cli import app
from stemsim.encoders import HuggingFaceAudio
from stemsim.model import available_models
from stemsim.pretrained import PRETRAINED
from stemsim.training.cli import StemsimCLI, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
EXPORTS = re.compile(r"""^(?:\w+=(?:"[^"]*"|[^\s"]\S*)\s+)+""")


class Block(NamedTuple):
    mark: str
    language: str
    code: str

    @property
    def file_name(self):
        found = re.match(r"# (\w+\.py)\n", self.code)
        return found and found[1]


def blocks(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return [Block(one["mark"] or "", one["language"], one["code"]) for one in FENCE.finditer(text)]


def commands(code):
    """Return the commands of a shell block, as lists of words, with the first value of a loop for its variable."""
    values, found = {}, []
    for line in code.replace("\\\n", " ").splitlines():
        loop = re.fullmatch(r"for (\w+) in (\S+) .*; do", line.strip())
        if loop:
            values[loop[1]] = loop[2]
            continue
        filled = re.sub(r"\$(\w+)", lambda one: values.get(one[1], one[0]), line.strip())
        if words := shlex.split(EXPORTS.sub("", filled), comments=True):
            found.append(words)
    return found


def ours(words):
    return words[0] == "stemsim" or tuple(words[:2]) == ("python", "train.py")


ALL_COMMANDS = sorted(
    {tuple(words) for name in NAMES for one in blocks(name) if one.language == "bash" for words in commands(one.code)}
)


def write_sound(path, seed, seconds):
    """Write a beat over a bass note and noise, a different one for each seed."""
    rate, rng = 22_050, np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    beat = np.exp(-8.0 * (time * (1.5 + 0.25 * (seed % 5)) % 1.0)) * rng.standard_normal(len(time))
    note = np.sin(2 * np.pi * 55.0 * 2 ** (seed % 12 / 12) * time) * (1.0 + 0.5 * np.sin(0.7 * time + seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * beat + 0.2 * note + 0.01 * rng.standard_normal(len(time)), rate)


def write_small_config(path):
    """Copy a configuration with fewer and shorter songs, and with the CSV logger, which starts at once."""
    config = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    config["trainer"].update(yaml.safe_load((ROOT / "configs/logger/csv.yaml").read_text(encoding="utf-8"))["trainer"])
    if isinstance(config["data"]["triplets"], dict):
        listeners = config["data"]["triplets"]["init_args"]
        listeners.update(triplets=400, min_agreement=0.0)
        listeners["songs"]["init_args"].update(count=8, seconds=15.0)
    Path(path).write_text(yaml.safe_dump(config), encoding="utf-8")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Current folder with the sounds and configurations that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(ROOT / "configs", "configs")
    for config in ("configs/demo.yaml", "configs/everything_is_free.yaml", "configs/votes_file.yaml"):
        write_small_config(config)
    sounds = {"a": 3, "b": 3, "x": 3, "song": 6, "loops/kick one": 1, "loops/loop two": 2, "songs/third": 6}
    sounds |= {f"my-songs/song {number}": 10 for number in range(7)}
    for seed, (name, seconds) in enumerate(sounds.items()):
        write_sound(Path(f"{name}.wav"), seed, seconds)
    Path("votes.csv").write_text("x,a,b,votes_a,votes_b\nx.wav,a.wav,b.wav,4,1\nx.wav,b.wav,song.wav,2,3\n")
    return tmp_path


def run_command(words):
    if words[0] == "stemsim":
        app(words[1:], standalone_mode=False)
    elif words[:2] == ["python", "train.py"]:
        main(words[2:])


def run_block(block, namespace):
    if block.language == "bash":
        for words in commands(block.code) if block.mark == "run" else ():
            run_command(words)
    elif block.language == "python":
        code = compile(block.code, block.file_name or "block", "exec")
        if block.mark.startswith("not run"):
            return
        if block.file_name:
            Path(block.file_name).write_text(block.code, encoding="utf-8")
            code = f"from {block.file_name.removesuffix('.py')} import *"
        exec(code, namespace)


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(name)])
def test_the_blocks_of_a_page_run(name, workspace):
    del workspace
    namespace = {"__name__": "page"}
    for block in blocks(name):
        assert not block.mark or block.mark == "run" or block.mark.startswith("not run: "), block.mark
        run_block(block, namespace)


def test_quick_start_and_tutorial_are_run():
    for name in ("README.md", "docs/getting-started.md", "docs/tutorial.md"):
        run = [words for one in blocks(name) if one.mark == "run" for words in commands(one.code)]
        assert {words[1] for words in run} >= {"compare", "index", "search"}
        assert all(ours(words) for words in run)
    assert {"fit", "test", "crossval"} <= {words[2] for words in run if words[0] == "python"}


# ---------------------------------------------------------------- commands that are not run


class Parsed(Exception):  # noqa: N818 - not an error
    pass


@pytest.fixture
def only_parse(workspace, monkeypatch):
    """Let `train.py` stop as soon as its arguments are parsed; the classes of the pages can be imported."""
    whole = StemsimCLI.parse_arguments

    def parse_arguments(self, parser, args):
        whole(self, parser, args)
        raise Parsed

    monkeypatch.setattr(StemsimCLI, "parse_arguments", parse_arguments)
    for name in NAMES:
        for block in blocks(name):
            if block.file_name:
                Path(block.file_name).write_text(block.code, encoding="utf-8")
    return workspace


def parse_stemsim(words):
    """Parse the arguments of `stemsim`, and return those that the command does not know."""
    command, context, name = typer.main.get_command(app), None, "stemsim"
    while words or context is None:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "commands"):
            return context.args
        words = [*context._protected_args, *context.args]
        if words:
            name, command, words = command.resolve_command(context, words)
    return []


def parse_train(words):
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            main(words)
    else:
        with pytest.raises(Parsed):
            main(words)


def test_every_command_of_the_pages_exists_with_its_options(only_parse):
    del only_parse
    parsed = [words for words in ALL_COMMANDS if ours(words)]
    assert len(parsed) > 40
    for words in parsed:
        try:
            if words[0] == "stemsim":
                further = parse_stemsim(words[1:])
                if words[1] == "embed":
                    parse_train(["fit", *words[2:4], *further])
            else:
                parse_train(list(words[2:]))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, say of which command
            pytest.fail(f"{shlex.join(words)}: {error!r}")


def test_other_commands_of_the_pages_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for words in ALL_COMMANDS:
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), words
        elif words[:2] == ("pip", "install"):
            for given in re.findall(r"\[([\w,]+)\]", words[-1]):
                assert set(given.split(",")) <= set(extras), words


@pytest.mark.parametrize("name", NAMES)
def test_options_and_files_named_in_the_text_exist(name):
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    command = typer.main.get_command(app)
    for line in re.findall(r"`(stemsim [^`]+)`", text):
        first, *words = line.split()[1:]
        assert first in command.commands, line
        group = getattr(command.commands[first], "commands", {})
        default = next((group[name] for name in ("add", "count", "list") if name in group), None)
        one = group.get(words[0] if words else "list", default) if group else command.commands[first]
        known = {option for parameter in one.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= {*known, "--help"}, line
    for job in re.findall(r"`python train\.py (\w+)[^`]*`", text):
        assert job in StemsimCLI.subcommands(), job
    for path in re.findall(r"\b((?:configs|tests)/[\w./]+\.\w+)", text):
        assert (ROOT / path).is_file(), path


# ---------------------------------------------------------------- the README


def test_the_readme_is_short_and_names_every_command_and_model():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 8192
    assert text.count("![") == 2  # the idea and the page
    for name in typer.main.get_command(app).commands:
        assert f"stemsim {name}" in text
    for job in StemsimCLI.subcommands():
        assert job in text
    for model in available_models():
        assert f"`{model}`" in text


def test_the_terms_of_weights_are_those_of_the_registry():
    demucs, muq = PRETRAINED["htdemucs_6s"].license, PRETRAINED["MuQ-MuLan-large"].license
    assert "MIT" not in demucs.split(";")[-1]
    assert "scientific purposes" in demucs
    assert muq.replace("-", " ") == "CC BY NC 4.0"
    for name in ("README.md", "docs/compare.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "scientific purposes" in text
        assert "CC BY-NC 4.0" in text
        assert not re.search(r"Demucs('s?)?( weights)?:? (is |are )?MIT", text)


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_links_of_the_top_folder_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_every_promise_is_held_by_a_test_that_exists():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    rows = [line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise")]
    assert len(promises) > 10
    for row in promises:
        assert (named := re.findall(r"`(test_\w+)`", row)), row
        assert all(f"def {name}(" in tests for name in named), row


def test_the_navigation_names_every_page():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in NAMES:
        assert not name.startswith("docs/") or name.removeprefix("docs/") in config, name
    assert "font: false" in config


# ---------------------------------------------------------------- guides


def test_the_guide_to_an_encoder_is_short_and_gives_what_hugging_face_audio_gives(tmp_path):
    pytest.importorskip("transformers")
    from test_hugging_face import batch, write_model

    (guide,) = [one.code for one in blocks("docs/extend.md") if one.file_name == "mert.py"]
    assert len(guide.splitlines()) < 40
    namespace = {}
    exec(compile(guide, "mert.py", "exec"), namespace)
    encoder = namespace["Mert"](str(write_model(tmp_path / "model")))
    expected = HuggingFaceAudio(str(tmp_path / "model"), layer=1)
    torch.testing.assert_close(encoder(batch()), expected(batch()), atol=1e-5, rtol=0)


def test_the_guide_to_a_fusion_is_the_tested_one():
    (guide,) = [one.code for one in blocks("docs/fusions.md") if one.file_name == "power.py"]
    assert guide.removeprefix("# power.py\n") == (ROOT / "tests/power.py").read_text(encoding="utf-8")
    assert len(guide.splitlines()) < 30


def test_the_benchmark_book_runs_every_benchmark_and_says_what_failed_and_what_is_not_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    import book

    scripts = {path.name for path in (ROOT / "tests" / "benchmarks").glob("bench_*.py")}
    assert {one.script for one in book.BENCHMARKS.values()} == scripts
    two = book.BENCHMARKS["crossval"]._replace(quick=("--triplets 331 --splits 5", "--triplets many"))
    monkeypatch.setitem(book.BENCHMARKS, "crossval", two)
    given = ["--quick", "--out", str(tmp_path), "--data", str(tmp_path)]
    book.main([*given, "--only", "crossval"])
    record = json.loads((tmp_path / "crossval.json").read_text(encoding="utf-8"))
    assert record[0]["report"]["largest difference of a weight"] < 1e-9
    record[0]["report"] |= {"ours, s": 0.25, "scikit-learn, s": 2.0}  # the page is made of what is recorded
    (tmp_path / "crossval.json").write_text(json.dumps(record), encoding="utf-8")
    book.main([*given, "--no-run"])
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "331 triplets, 7 stems, 20 penalties, 5 splits | 250 ms | scikit-learn RidgeCV(cv=splits): 2 s" in page
    assert "| 8 x |" in page
    assert re.search(r"\| crossval \| \*\*bench_crossval.py --triplets many: .*invalid int value: 'many'\*\* \|", page)
    assert "| search | **not run** |" in page
    assert (tmp_path / "crossval.svg").exists()
