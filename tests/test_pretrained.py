"""Pretrained files: found, downloaded from a hub on loopback, converted, and refused where they are not sound."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import COMMIT, fake_hub, stated_hash
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from typer.testing import CliRunner

from stemsim.cli import app
from stemsim.errors import CheckpointError, ConfigError, DataNotFoundError
from stemsim.pretrained import PRETRAINED, is_offline, locate, locate_file, pretrained_folder
from stemsim.pretrained.download import RECORD, download
from stemsim.pretrained.folder import is_repository
from stemsim.pretrained.loading import Checkpoint, import_checkpoint, read_checkpoint, state_hash, write_checkpoint

WEIGHTS = np.random.default_rng(0).bytes(3_000_000)
DEMUCS_SOURCE = "https://github.com/facebookresearch/demucs/issues/327"
MUQ = ("MuQ-MuLan-large", "MuQ-large-msd-iter")
BAG = b"models: ['955717e8']\n" + 99 * b"#"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder of pretrained files, and the network allowed."""
    monkeypatch.setenv("STEMSIM_PRETRAINED", str(tmp_path / "pretrained"))
    for name in ("STEMSIM_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "pretrained"


@pytest.fixture
def hub():
    with fake_hub() as served:
        served.add("adefossez/HTDemucs", "htdemucs.yaml", BAG, large=False)
        served.add("adefossez/HTDemucs", "955717e8.safetensors", WEIGHTS)
        yield served


def fetch(hub, name="htdemucs", **options):
    lines = []
    return download(name, announce=lines.append, endpoint=hub.endpoint, **options), lines


def start_fetching(hub, name="htdemucs", **environment):
    """Download in another process, whose output is text."""
    script = (
        f"from stemsim.pretrained.download import download as d; d({name!r}, announce=print, endpoint={hub.endpoint!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-u", "-c", script],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# ---------------------------------------------------------------- downloads


def test_a_download_is_announced_complete_and_recorded(hub, folder):
    path, (terms, line) = fetch(hub)
    assert path == folder / "htdemucs" == locate("htdemucs")
    assert terms == f"htdemucs: license of the weights: {PRETRAINED['htdemucs'].terms} ({DEMUCS_SOURCE})."
    assert (path / "955717e8.safetensors").read_bytes() == WEIGHTS
    assert line == f"htdemucs: 3.0 MB from adefossez/HTDemucs to {path}."
    record = json.loads((path / RECORD).read_text())
    assert record["repository"] == "adefossez/HTDemucs"
    assert record["license"] == PRETRAINED["htdemucs"].terms
    assert record["license_source"] == DEMUCS_SOURCE
    assert record["files"] == [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "commit": COMMIT}
        for name, content in (("htdemucs.yaml", BAG), ("955717e8.safetensors", WEIGHTS))
    ]


def test_a_token_is_for_the_hub_and_not_for_the_server_that_it_sends_us_on_to(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(hub)
    assert {"/store/" in path: token for _, path, token in hub.requests} == {False: "Bearer hf_secret", True: None}


def test_what_is_there_and_sound_is_not_fetched_again(hub, folder):
    fetch(hub)
    served = hub.served
    _, (_, line) = fetch(hub)
    assert "already in" in line
    assert hub.served == served
    for name, content in (("htdemucs.yaml", BAG), ("955717e8.safetensors", WEIGHTS)):
        (folder / "htdemucs" / name).write_bytes(content[:99] + b"!" + content[100:])
        fetch(hub)
        assert (folder / "htdemucs" / name).read_bytes() == content
        served += len(content)
        assert hub.served == served


def test_a_killed_download_keeps_what_is_finished_and_gives_no_part_the_name_of_the_file(hub, folder):
    hub.stall_after = 1_000_000
    process = start_fetching(hub)
    assert hub.stalled.wait(30)
    process.kill()
    process.communicate()
    assert (folder / "htdemucs/htdemucs.yaml").read_bytes() == BAG
    assert not (folder / "htdemucs/955717e8.safetensors").exists()
    with pytest.raises(DataNotFoundError):
        locate("htdemucs")
    hub.go_on.set()
    served = hub.served
    fetch(hub)
    assert hub.served == served + len(WEIGHTS)
    assert {path.name for path in (folder / "htdemucs").iterdir()} == {"htdemucs.yaml", "955717e8.safetensors", RECORD}


def test_of_two_processes_one_waits_and_the_file_is_fetched_once(hub, folder):
    hub.stall_after = 1_000_000
    first = start_fetching(hub)
    assert hub.stalled.wait(30)
    second = start_fetching(hub)
    said = [second.stdout.readline() for _ in range(3)]
    assert "htdemucs: 3.0 MB from" in said[1]
    assert "Another process is downloading htdemucs; waiting for it." in said[2]
    hub.go_on.set()
    for process in (first, second):
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
    assert (folder / "htdemucs/955717e8.safetensors").read_bytes() == WEIGHTS
    assert len(hub.bodies) == 1


@pytest.mark.parametrize(("name", "content"), [("htdemucs.yaml", BAG), ("955717e8.safetensors", WEIGHTS)])
def test_other_bytes_than_the_hash_is_of_are_thrown_away(hub, folder, name, content):
    hub.corrupt = name
    expected, seen = (stated_hash(served, large=content is WEIGHTS) for served in (content, content[::-1]))
    with pytest.raises(CheckpointError, match=f"deleted: {name} expected {expected}, got {seen}"):
        fetch(hub)
    assert not (folder / "htdemucs" / name).exists()
    assert not (folder / "htdemucs" / RECORD).exists()
    hub.corrupt = None
    fetch(hub)
    assert (folder / "htdemucs" / name).read_bytes() == content


def test_a_disk_that_fills_up_in_mid_download_is_an_error(hub, folder):
    script = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # writes beyond fail as on a full disk
        from stemsim.errors import CheckpointError
        from stemsim.pretrained.download import download
        try:
            download("htdemucs", announce=print, endpoint={hub.endpoint!r})
        except CheckpointError as error:
            print("error:", error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "error: No room left in" in result.stdout
    assert not (folder / "htdemucs/955717e8.safetensors").exists()


def test_too_small_a_disk_is_said_before_anything_is_fetched(hub, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(CheckpointError, match=r"Not enough room in .* 3 MB to download, 1 MB free"):
        fetch(hub)
    assert not hub.served


@pytest.mark.parametrize("switch", ["STEMSIM_OFFLINE", "HF_HUB_OFFLINE", "option"])
def test_offline_fails_at_once_and_names_files_and_folder(hub, folder, monkeypatch, switch):
    if switch != "option":
        monkeypatch.setenv(switch, "1")
        assert is_offline()
    begin = time.monotonic()
    message = rf"955717e8\.safetensors or .*in {folder / 'htdemucs'}"
    with pytest.raises(DataNotFoundError, match=message):
        fetch(hub, offline=switch == "option")
    with pytest.raises(DataNotFoundError, match=message):
        locate("htdemucs")
    assert time.monotonic() - begin < 1.0
    assert not hub.requests


def test_offline_is_content_with_what_is_there_and_names_the_parts_that_are_not(hub, folder):
    fetch(hub)
    asked = len(hub.requests)
    path, (line,) = fetch(hub, offline=True)
    assert path == folder / "htdemucs"
    assert "already in" in line
    assert "not compared with the hub" in line
    assert len(hub.requests) == asked
    part = folder / "MuQ-large-msd-iter"
    with pytest.raises(DataNotFoundError, match=rf"expected config\.json in {part}\. To download"):
        fetch(hub, "MuQ-MuLan-large", offline=True)


@pytest.mark.parametrize("name", ["htdemucs", "nobody/nothing"])
def test_a_hub_that_does_not_answer_is_given_up(hub, name):
    hub.delay = 20.0
    process = start_fetching(hub, name, HF_HUB_ETAG_TIMEOUT="1")
    output, _ = process.communicate(timeout=15)
    assert f"{PRETRAINED[name].repo if name in PRETRAINED else name} could not be downloaded: " in output
    assert "timed out" in output


def test_what_is_not_a_hub_is_reported_before_anything_is_downloaded(hub):
    hub.sizes = False
    with pytest.raises(DataNotFoundError, match="states no sizes"):
        fetch(hub)
    hub.page = b"<html>Welcome to our hotel. Please log in.</html>"
    with pytest.raises(DataNotFoundError, match="could not be downloaded"):
        fetch(hub, "nobody/nothing")
    for endpoint in ("http://127.0.0.1:not-a-port", "ftp://127.0.0.1"):
        with pytest.raises(DataNotFoundError, match="could not be downloaded"):
            download("htdemucs", announce=print, endpoint=endpoint)
    assert not hub.bodies


def test_a_folder_that_cannot_be_made_is_named(hub, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEMSIM_PRETRAINED", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"file/htdemucs cannot be written.*STEMSIM_PRETRAINED"):
        fetch(hub)
    assert not hub.bodies


def test_without_huggingface_hub_downloads_say_what_to_install_and_the_rest_works(hub, folder, monkeypatch):
    fetch(hub)
    for name in ("huggingface_hub", "huggingface_hub.errors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'stemsim\[models\]'"):
        fetch(hub)
    assert locate("htdemucs") == folder / "htdemucs"
    with pytest.raises(DataNotFoundError, match="stemsim models download htdemucs_6s"):
        locate("htdemucs_6s")


def test_no_network_no_repository_and_a_broken_hub_are_errors_within_seconds(hub):
    begin = time.monotonic()
    with pytest.raises(DataNotFoundError, match="could not be downloaded"):
        download("htdemucs", announce=print, endpoint="http://127.0.0.1:9")
    with pytest.raises(DataNotFoundError, match="no repository OpenMuQ/MuQ-large-msd-iter for you"):
        fetch(hub, "MuQ-MuLan-large")
    with pytest.raises(DataNotFoundError, match="no repository nobody/nothing for you"):
        fetch(hub, "nobody/nothing")
    for status, advice in ((401, "hf auth login"), (403, "hf auth login"), (503, "finished files are kept")):
        hub.status = status
        for name in ("htdemucs", "nobody/nothing"):
            with pytest.raises(DataNotFoundError, match=f"{status}.*{advice}"):
                fetch(hub, name)
    assert time.monotonic() - begin < 10.0


def test_parts_come_along_and_the_licence_is_said(hub, folder):
    hub.add("OpenMuQ/MuQ-large-msd-iter", "config.json", b"{}", large=False)
    hub.add("OpenMuQ/MuQ-MuLan-large", "config.json", b"{}", large=False)
    hub.add("OpenMuQ/MuQ-MuLan-large", "pytorch_model.bin", WEIGHTS)  # the second of two alternatives
    _, lines = fetch(hub, "MuQ-MuLan-large")
    assert len(lines) == 4
    assert all("CC-BY-NC-4.0, no commercial use (https://github.com/tencent-ailab/MuQ" in line for line in lines[::2])
    assert (folder / "MuQ-large-msd-iter/config.json").is_file()
    assert locate_file("MuQ-MuLan-large", suffixes=(".safetensors", ".bin")).name == "pytorch_model.bin"


def test_any_repository_is_fetched_without_its_code_unless_told(hub, folder):
    repo = "m-a-p/MERT-v1-95M"
    for name in ("config.json", "preprocessor_config.json", "modeling_MERT.py", "README.md"):
        hub.add(repo, name, name.encode(), large=False)
    hub.add(repo, "pytorch_model.bin", WEIGHTS)
    hub.licenses[repo] = "cc-by-nc-4.0"
    path, (terms, _) = fetch(hub, repo)
    assert terms == f"{repo}: license of the weights: cc-by-nc-4.0 (https://huggingface.co/{repo})."
    assert path == folder / "m-a-p--MERT-v1-95M" == locate(repo)
    assert {file.name for file in path.iterdir()} == {
        *("config.json", "preprocessor_config.json", "pytorch_model.bin", RECORD)
    }
    del hub.licenses[repo]
    _, (terms, _) = fetch(hub, repo, with_code=True)
    assert "license of the weights: not stated" in terms
    assert (path / "modeling_MERT.py").read_bytes() == b"modeling_MERT.py"
    hub.add("some/text", "README.md", b"words", large=False)
    with pytest.raises(ConfigError, match=r"lacks config\.json or weights"):
        fetch(hub, "some/text")


# ---------------------------------------------------------------- where files are


def test_every_model_states_the_license_of_its_publisher_and_where_it_is_expected(folder):
    for name, model in PRETRAINED.items():
        assert model.license
        assert model.license_source.startswith("https://") or model.license == "not stated"
        with pytest.raises(DataNotFoundError) as raised:
            locate(name)
        for part in (str(folder / name), f"stemsim models download {name}", f"license: {model.terms}"):
            assert part in str(raised.value)
        if "demucs" in name:
            assert model.license == "not covered by the MIT license of the code; for scientific purposes only"
            assert (model.license_source, model.noncommercial) == (DEMUCS_SOURCE, True)
    assert all((PRETRAINED[n].license, PRETRAINED[n].noncommercial) == ("CC-BY-NC-4.0", True) for n in MUQ)
    assert PRETRAINED["630k-audioset-best"].license == "CC0-1.0"


def test_a_slip_of_the_pen_is_answered_by_the_nearest_name():
    with pytest.raises(DataNotFoundError, match=r"Did you mean htdemucs_6s\?.*Known models: 630k-audioset-best"):
        locate("htdemucs6s")
    with pytest.raises(ConfigError, match="Unknown model"):
        download("htdemucs6s", announce=print)


@pytest.mark.parametrize(
    "name",
    [
        *("data/my song.pt", "a/b..pt", "a/b--c", "-a/b", "a/b.git", "é/b", "a/" + 97 * "b", "m-a-p/MERT-v1-95M"),
        *("a_/b", "a.b/c.d", "a-/b", "a/b-", "_a/_b", "a/b.gits", "a/.b", "a", "a/b/c", "a /b"),
    ],
)
def test_repositories_are_spelt_as_huggingface_hub_does_and_what_can_be_none_is_no_path_and_no_model(name):
    try:
        validate_repo_id(name)
        right = name.count("/") == 1
    except HFValidationError:
        right = False
    assert is_repository(name) == right
    if not right:
        with pytest.raises(DataNotFoundError, match=r"No file, folder or model "):
            locate(name)
        with pytest.raises(ConfigError, match="Unknown model"):
            download(name, announce=print)


def test_paths_stand_for_themselves(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    assert locate(tmp_path / "a.pt") == tmp_path / "a.pt"
    assert locate_file(str(tmp_path), suffixes=(".safetensors", ".pt")) == tmp_path / "a.pt"
    (tmp_path / "b.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"several models: a\.pt, b\.pt"):
        locate_file(tmp_path, suffixes=(".pt",))
    with pytest.raises(DataNotFoundError, match=r"expected a file \*\.bin"):
        locate_file(tmp_path, suffixes=(".bin",))


def test_what_upstreams_own_loaders_fetched_is_found(tmp_path, monkeypatch):
    import huggingface_hub

    snapshot = tmp_path / "hub/models--lukewys--laion_clap/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in ("630k-audioset-best.pt", "630k-best.pt"):
        (snapshot / name).write_bytes(b"x")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(COMMIT)
    real = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, name: real(repo, name, cache_dir=tmp_path / "hub")
    )
    assert locate("630k-audioset-best") == snapshot
    assert locate_file("630k-audioset-best", suffixes=(".pt",)) == snapshot / "630k-audioset-best.pt"


def test_the_folder_follows_the_environment(folder, monkeypatch):
    assert pretrained_folder() == folder
    monkeypatch.delenv("STEMSIM_PRETRAINED")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert pretrained_folder() == Path("/cache/stemsim/pretrained")


# ---------------------------------------------------------------- checkpoints


def test_a_training_checkpoint_is_unwrapped_and_its_import_is_the_same(tmp_path):
    state = {
        "a.weight": torch.randn(3, 2),
        "b": torch.arange(4),
        "half": torch.randn(2).half(),
        "scalar": torch.tensor(2.0),
    }
    wrapped = {"epoch": 3, "best": np.float64(0.9), "state_dict": {f"module.{key}": state[key] for key in state}}
    torch.save(wrapped, tmp_path / "clap.pt")
    imported = import_checkpoint(tmp_path / "clap.pt")
    assert imported == tmp_path / "clap.safetensors"
    for path in (tmp_path / "clap.pt", imported):
        seen = read_checkpoint(path).state
        assert set(seen) == set(state)
        assert all(torch.equal(seen[key], state[key]) and seen[key].dtype == state[key].dtype for key in state)
        assert state_hash(seen) == state_hash(state)
    with pytest.raises(ConfigError, match="exists already"):
        import_checkpoint(tmp_path / "clap.pt")
    import_checkpoint(tmp_path / "clap.pt", overwrite=True)


def test_hashes_tell_names_types_shapes_and_contents_apart():
    states = [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.tensor([0.0, 0.0, 0.0, 1e-30])},
    ]
    assert len({state_hash(state) for state in states}) == len(states)
    assert state_hash({"x": states[0]["a"], "y": states[2]["a"]}) == state_hash(
        {"y": states[2]["a"], "x": states[0]["a"]}
    )


def test_arguments_with_fractions_and_shared_tensors_survive_safetensors(tmp_path):
    shared = torch.randn(4)
    kwargs = {"segment": Fraction(39, 5), "sources": ["a"], "nested": {"x": 1}}
    written = Checkpoint(
        {"a": shared, "b": shared, "c": torch.randn(4, 4).T}, {"klass": "k", "args": [1], "kwargs": kwargs}
    )
    write_checkpoint(tmp_path / "x.safetensors", written)
    seen = read_checkpoint(tmp_path / "x.safetensors")
    assert seen.metadata == {"klass": "k", "args": [1], "kwargs": kwargs}
    assert all(torch.equal(seen.state[key], written.state[key]) for key in "abc")


def test_a_demucs_package_and_its_import_are_the_same(tmp_path):
    from demucs.hf import load_safetensors_model
    from demucs.htdemucs import HTDemucs

    kwargs = {"sources": ["drums", "bass"], "segment": Fraction(39, 5), "channels": 8, "t_layers": 1, "t_heads": 2}
    model = HTDemucs(**kwargs).eval()
    package = {"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": model.state_dict()}
    torch.save(package, tmp_path / "x.th")
    imported = import_checkpoint(tmp_path / "x.th")
    for path in (tmp_path / "x.th", imported):
        seen = read_checkpoint(path)
        assert seen.metadata == {"klass": "demucs.htdemucs.HTDemucs", "args": [], "kwargs": kwargs}
        assert list(seen.state) == list(model.state_dict()) or path.suffix == ".safetensors"  # which sorts them
        assert seen.state.keys() == model.state_dict().keys()
        assert all(torch.equal(seen.state[key], tensor) for key, tensor in model.state_dict().items())
    upstream = load_safetensors_model(imported).state_dict()
    assert all(torch.equal(upstream[key], tensor) for key, tensor in model.state_dict().items())


def test_an_import_is_named_as_what_it_is_and_never_replaces_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(2)}, "a.pt")
    before = Path("a.pt").read_bytes()
    with pytest.raises(ConfigError, match="by its ending only"):
        import_checkpoint("a.pt", output=Path("b.pt"))
    imported = import_checkpoint("a.pt", output=Path("b.safetensors"))
    with pytest.raises(ConfigError, match="onto itself"):
        import_checkpoint(imported, output=tmp_path / imported, overwrite=True)
    with pytest.raises(ConfigError, match="onto itself"):
        import_checkpoint("a.pt", output=tmp_path / "a.pt", overwrite=True)
    assert Path("a.pt").read_bytes() == before
    with pytest.raises(CheckpointError, match="cannot be written"):
        import_checkpoint("a.pt", output=Path("b.safetensors/in a file.safetensors"))


class Payload:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (os.mkdir, (str(self.witness),))


def test_code_in_a_pickle_runs_only_where_it_is_allowed(tmp_path):
    witness, file = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "extra": Payload(witness)}, file)
    for read in (read_checkpoint, import_checkpoint):
        with pytest.raises(
            CheckpointError, match=r"without running code that it holds \(posix\.mkdir\).*--allow-pickle"
        ):
            read(file)
    assert not witness.exists()
    assert not file.with_suffix(".safetensors").exists()
    result = CliRunner().invoke(app, ["models", "import", str(file), "--allow-pickle"])
    assert result.exit_code == 0, result.output
    assert witness.exists()
    assert set(read_checkpoint(file.with_suffix(".safetensors")).state) == {"a"}


def test_pickles_that_the_safe_reader_does_not_know_are_explained(tmp_path):
    torch.save({"a": np.zeros(2)}, tmp_path / "new.pt", pickle_protocol=3)
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        read_checkpoint(tmp_path / "new.pt")


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    contents = {
        "empty.pt": b"",
        "page.pt": b"<html>404</html>",
        "zip.pt": b"PK\x03\x04" + bytes(50),
        "x.safetensors": b"{}",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            read_checkpoint(tmp_path / name)
    for name, package in {"list.pt": [torch.zeros(1)], "numbers.pt": {"a": 1}, "none.pt": {}}.items():
        torch.save(package, tmp_path / name)
        with pytest.raises(CheckpointError, match=r"not a checkpoint of a known kind|no tensors"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(DataNotFoundError, match="No checkpoint at"):
        read_checkpoint(tmp_path / "nowhere.pt")


def header(tensors, length=None):
    """Return a safetensors file of 16 bytes of data, whose header may state another length than it has."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(16)


def entry(dtype="F32", shape=(4,), place=(0, 16)):
    """Return what a header says of a tensor; as it is given, all of the data."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


LIES = {
    "the largest length": header({"w": entry()}, 2**64 - 1),
    "longer than the file": header({"w": entry()}, 10**6),
    "shorter than it is": header({"w": entry()}, 5),
    "no JSON": header(b"\xff" * 40),
    "nested too deep": header(b'{"w":' * 100_000),
    "data beyond the end": header({"w": entry(shape=(8,), place=(0, 32))}),
    "backwards": header({"w": entry(place=(16, 0))}),
    "one over the other": header({"v": entry(), "w": entry()}),
    "a gap": header({"v": entry(shape=(1,), place=(0, 4)), "w": entry(shape=(1,), place=(12, 16))}),
    "another size than its shape": header({"w": entry(shape=(3,))}),
    "a shape that overflows": header({"w": entry(shape=(2**62, 2**62))}),
    "a negative shape": header({"w": entry(shape=(-4,))}),
    "an unknown type": header({"w": entry(dtype="PICKLE")}),
    "metadata that is no text": header({"__metadata__": {"a": [1]}, "w": entry()}),
}


def test_a_header_that_is_true_is_read(tmp_path):
    (tmp_path / "true.safetensors").write_bytes(header({"w": entry()}))
    assert read_checkpoint(tmp_path / "true.safetensors").state["w"].shape == (4,)


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused(tmp_path, lie):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(CheckpointError, match=path.name):
        read_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_leaves_what_was_there(tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"before")
    script = f"""
        import resource, torch
        from stemsim.errors import CheckpointError
        from stemsim.pretrained.loading import Checkpoint, write_checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_checkpoint({str(target)!r}, Checkpoint({{"a": torch.zeros(10_000)}}))
        except CheckpointError as error:
            print("error:", error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot be written" in result.stdout
    assert [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()] == [b"before"]


# ---------------------------------------------------------------- the command


def test_the_list_says_what_is_here_and_what_it_may_be_used_for(hub):
    fetch(hub)
    text = CliRunner().invoke(app, ["models"]).output
    assert "music_audioset_epoch_15_esc_90.14" in text
    assert all(f"license: {model.terms}\n    {model.license_source}\n" in text for model in PRETRAINED.values())
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).output)
    here = {model["name"]: model["folder"] for model in listed["models"]}
    assert here["htdemucs"] == str(Path(listed["folder"]) / "htdemucs")
    assert here["htdemucs_6s"] is None
    assert {model["license_source"] for model in listed["models"] if "demucs" in model["name"]} == {DEMUCS_SOURCE}


def test_the_command_downloads_and_fails_in_words(hub):
    done = CliRunner().invoke(app, ["models", "download", "htdemucs", "--endpoint", hub.endpoint])
    assert done.exit_code == 0, done.output
    assert "3.0 MB from adefossez/HTDemucs" in done.output
    refused = CliRunner().invoke(app, ["models", "download", "htdemucs_6s", "--offline"])
    assert refused.exit_code == 2
    assert "The model htdemucs_6s is not on this disk" in refused.output
