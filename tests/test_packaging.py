"""What the package promises to run with is what CI runs it with."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def floors() -> dict[str, Version]:
    """Return the lowest version of each library that the package may import, torch aside, as setup.cfg promises it."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    named = [extras[name] for name in ("torch", "plot", "show", "sources", "formats")]
    lines = "\n".join([setup["options"]["install_requires"], *named])
    found = dict(re.findall(r"^(\w+)>=([\d.]+)$", lines, re.MULTILINE))
    return {name: Version(version) for name, version in found.items() if name != "torch"}


def test_the_lowest_versions_that_are_promised_are_tested():
    pinned = dict(re.findall(r"^(\w+)==([\d.]+)$", (ROOT / "constraints-floors.txt").read_text(), re.MULTILINE))
    assert len(floors()) == 12
    assert {name: Version(pinned[name]) for name in floors()} == floors()
    assert "make test-floors" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_tests_that_need_no_torch_are_found_by_what_their_modules_import(tmp_path):
    from torch_free import needs_torch

    for number, (text, needs) in enumerate(
        (
            ("import torch", True),
            ("from torch.nn import functional", True),
            ("import softlabel_codec.teacher.finished", True),  # whose package imports it
            ("from softlabel_codec import teacher", True),
            ("from shapes import write_shapes", True),
            ("try:\n    import torch\nexcept ImportError: pass", True),
            ("import softlabel_codec.cli.main", False),
            ("import numpy\ndef later():\n    import torch", False),
            ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", False),
        )
    ):
        path = tmp_path / f"{number}.py"
        path.write_text(text)
        assert needs_torch(path) == needs, text


def test_a_split_that_leaves_too_few_tests_is_an_error(monkeypatch):
    import torch_free

    class Session:
        items = [None] * (torch_free.FEWEST - 1)

    with pytest.raises(pytest.UsageError, match=f"expected at least {torch_free.FEWEST} tests that need no torch"):
        torch_free.WithoutTorch().pytest_collection_finish(Session())
