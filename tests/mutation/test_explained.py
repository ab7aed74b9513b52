"""What is explained about survivors is about code that is there."""

from pathlib import Path

import pytest
from mutation.explained import explained_mutants

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("diff", sorted(explained_mutants()))
def test_an_explained_mutant_is_of_lines_that_are_there(diff):
    module, *lines = diff.removeprefix("@@ ").splitlines()
    source = [line.strip() for line in (REPOSITORY / module).read_text().splitlines()]
    assert {line[0] for line in lines} <= {"-", "+"}
    for line in lines:
        if line.startswith("-"):
            assert line[1:] in source, f"{module} has no line {line[1:]!r}: run tests/mutation/kill_mutants.py again"
