"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real data, which is not part of the repository; tests that need it skip where it is absent."""
    folder = REPOSITORY / os.environ.get("STEMSIM_DATA", "../shared/data")  # an absolute path stands for itself
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set STEMSIM_DATA to their folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def inst_sim_abx(shared_data):
    """Folder of the published listening test."""
    folder = shared_data / "inst-sim-abx"
    if not folder.is_dir():
        pytest.skip(f"no listening test at {folder}: copy the repository zume06/Inst-Sim-ABX-Dataset there")
    return folder
