"""Fixtures that several test files share."""

import ast
import logging
import os
from collections import Counter, defaultdict
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
    "test_app_browser",
    "test_library",
    "test_docs",
    "test_bad_audio",
    "test_determinism",
)
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that of two processes neither waits for the other in the end."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_addoption(parser):
    parser.addoption("--attack-page", type=Path, help="Write what was attacked, by test file, to this Markdown file.")


def pytest_terminal_summary(terminalreporter, config):
    """Count attacks: a test is one, or as many as its property `attacks` says."""
    page = config.getoption("--attack-page")
    if page is None:
        return
    counts = defaultdict(Counter)  # by file
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            tried = dict(report.user_properties).get("attacks", 1)
            for name in (report.nodeid.partition("::")[0], ""):
                counts[name][outcome] += tried
    lines = ["| attack | tried | survived | lost | left out |", "|---|---|---|---|---|"]
    for file, of in sorted(counts.items(), key=lambda item: item[0] or "~"):
        doc = ast.get_docstring(ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))) if file else "**All**"
        lost = of["failed"] + of["error"]
        cells = (of["passed"] + lost, of["passed"], lost, of["skipped"])
        lines.append(f"| {doc.splitlines()[0].rstrip('.')} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(["# Attacks", "", *lines, ""]), encoding="utf-8")
    terminalreporter.write_line("\n" + "\n".join([*lines, "", f"Written to {page}."]))


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
