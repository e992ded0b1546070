"""The Milvus index on a real standalone server, the one in the package `milvus` 2.3.5: old, but no imitation.

That server listens on all interfaces whatever its settings say. So it runs in a network of its own that has nothing but
the loopback interface, and in a process namespace of its own that ends with all its children, the server included.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALONE = [
    "unshare",
    "--net",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "sh",
    "-c",
    'ip link set lo up; "$@"',
    "-",
]


@pytest.mark.milvus
def test_a_real_server_does_all_that_the_other_engines_do(tmp_path):
    if importlib.util.find_spec("milvus") is None:
        pytest.skip("no Milvus server: pip install milvus==2.3.5")
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], check=False).returncode:
        pytest.skip("a network of its own needs util-linux' unshare, iproute2 and user namespaces (Linux)")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inside'}"]
    done = subprocess.run(
        [*ALONE, *command, str(HERE / "real_milvus.py")],
        check=False,
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
