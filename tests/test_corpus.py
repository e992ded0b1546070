"""Inputs that a fuzzer has found, and those it began with: each gives a result or an error of ours."""

import resource

import pytest
from fuzz import run
from fuzz_targets import CORPUS, MEGABYTES, TARGETS, failure

INPUTS = sorted(path for path in CORPUS.glob("*/*"))


def test_every_target_has_inputs():
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_gives_a_result_or_an_error_of_ours(path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if (error := failure(path.parent.name, path.read_bytes())) is not None:
        raise error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * MEGABYTES


@pytest.mark.attack
@pytest.mark.parametrize("name", TARGETS)
def test_a_fuzzer_finds_no_other_end(name, record_property):
    found = run(name, seconds=20, seed=1)
    record_property("attacks", found["inputs"])
    assert found["inputs"]
    assert not found["failures"], found
