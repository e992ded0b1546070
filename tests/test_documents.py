"""YAML and JSON of others: whatever is wrong with them is a ValueError."""

import pytest

from stemsim.documents import read_json, read_yaml

DEEP = "[" * 3000


@pytest.mark.parametrize(
    "text",
    ["{", "!!int x", "!!bool x", "!!timestamp x", "!!python/name:os.system", "2001-99-99", "1" + "0" * 5000, DEEP],
)
def test_yaml_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=r"\S"):
        read_yaml(text)


def test_a_few_lines_of_aliases_do_not_become_a_large_document():
    lines = ["a0: &a0 [x, x]", *(f"a{number}: &a{number} [*a{number - 1}, *a{number - 1}]" for number in range(1, 40))]
    with pytest.raises(ValueError, match="aliases"):
        read_yaml("\n".join(lines))
    assert read_yaml("a: &a [x]\nb: *a", aliases=True) == {"a": ["x"], "b": ["x"]}


@pytest.mark.parametrize("text", ["{", '{"a": 1' + "0" * 5000 + "}", 40 * DEEP])
def test_json_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=r"\S"):
        read_json(text)
