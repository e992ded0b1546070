"""Files that are written beside their place: whole or not at all, and otherwise as any new file."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
import soundfile
import torch

from stemsim.audio import write_audio
from stemsim.errors import OutputError
from stemsim.replacing import replacing, write_text


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_like_any_other_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "no/such/folder/é.json", "ä\n")
    (written,) = (tmp_path / "no/such/folder").iterdir()
    assert written.read_bytes() == "ä\n".encode()
    assert mode(written) == mode(tmp_path / "usual")


def test_an_old_file_keeps_its_mode_and_its_links(tmp_path):
    old = tmp_path / "a/old"
    old.parent.mkdir()
    old.write_text("old")
    old.chmod(0o640)
    (link := tmp_path / "link").symlink_to("a/old")
    reader = old.open()
    write_text(link, "new")
    assert (old.read_text(), mode(old), link.is_symlink()) == ("new", 0o640, True)
    assert reader.read() == "old"  # whoever reads it goes on with what was there
    (dangling := tmp_path / "dangling").symlink_to("b/new")
    write_text(dangling, "new")
    assert (tmp_path / "b/new").read_text() == "new"


def test_the_longest_names_are_written(tmp_path):
    write_text(tmp_path / ("n" * 251 + ".txt"), "text")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    def write():
        with replacing(target) as partial:
            partial.write_text("half")
            raise error

    (target := tmp_path / "x").write_text("old")
    with pytest.raises(type(error)):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_killed_process_leaves_what_was_there(tmp_path):
    (target := tmp_path / "x").write_text("old")
    script = (
        "import os, sys; from stemsim.replacing import replacing\n"
        "with replacing(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"


@pytest.mark.parametrize(
    ("place", "reason"), [("/proc/nowhere/x", "No such file"), ("/dev/full", "No space"), (".", "directory")]
)
def test_what_cannot_be_written_is_an_error_of_our_own(place, reason):
    with pytest.raises(OutputError, match=f"{place} cannot be written .*{reason}.*Make room"):
        write_text(place, "text")


def test_pipes_are_written_to_and_not_replaced(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "text")
    reader.join(60)
    assert read == ["text"]
    assert list(tmp_path.iterdir()) == [pipe]
    script = "from stemsim.replacing import write_text; write_text('/dev/stdout', 'text')"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"text"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aif", "aiff", "AIFF", "mp3"])
def test_audio_has_the_format_of_its_name(tmp_path, suffix):
    write_audio(path := tmp_path / f"x.{suffix}", torch.zeros(1, 800), 8000)
    assert soundfile.info(path).format == {"aif": "AIFF"}.get(suffix, suffix.upper())
