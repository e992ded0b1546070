"""Fixtures that several test files share."""

import logging
import os
from collections import defaultdict
from pathlib import Path

import pytest
from fake_slakh import STEMS, write_fake_slakh

from stemsim.triplets.inst_sim_abx_answers import read_answers

LONGEST_FIRST = (
    "test_ray_engine",
    "test_training",
    "test_audio_text_encoders",
    "test_paper_models",
    "test_paper_tables",
    "test_store",
    "test_indexes",
    "test_demucs",
    "test_embed_command",
)
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that of two processes neither waits for the other in the end."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def _log_level_of_a_new_process():
    """Undo what a command run in this process, by a test or a fixture, has set."""
    logging.getLogger("stemsim").setLevel(logging.NOTSET)


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


@pytest.fixture(scope="session")
def answers(inst_sim_abx):
    """The answers of the published listening test."""
    return read_answers(inst_sim_abx)


@pytest.fixture(scope="session")
def slakh(tmp_path_factory, answers):
    """All tracks of the real listening test, as long as it needs them; 500 Hz, so that it takes seconds."""
    needed = defaultdict(float)
    for segment, track in zip(answers.table.segments, answers.table.tracks, strict=True):
        number = int(track.removeprefix("Track"))
        needed[number] = max(needed[number], segment.start + segment.duration)
    root = tmp_path_factory.mktemp("slakh") / "test"
    write_fake_slakh(root, sorted(needed), seconds=dict(needed), seed=0, sample_rate=500, stems=STEMS[:2])
    return root.parent
