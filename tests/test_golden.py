"""Golden files: what version 1 wrote must always be read, and found to hold the same."""

from pathlib import Path

import numpy as np
import pytest
from golden.make_golden import CASES, FOLDER, contents

from softlabel_codec import SoftLabelReader
from softlabel_codec.report import verify


def test_every_case_has_its_file_and_nothing_else_is_there():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.{ending}" for name in CASES for ending in ("slc", "npz")}


@pytest.mark.parametrize("name", CASES)
def test_golden_file(name):
    found = contents(FOLDER / f"{name}.slc")
    with np.load(FOLDER / f"{name}.npz") as expected:
        assert set(found) == set(expected.files)
        for part in expected.files:
            wanted = expected[part]
            if wanted.dtype.kind == "f" and ("values=f" not in str(expected["codec"]) or part == "tails"):
                np.testing.assert_allclose(found[part], wanted, rtol=1e-6)  # exp may differ in the last place
            else:
                np.testing.assert_array_equal(found[part], wanted)
    assert verify(FOLDER / f"{name}.slc", deep=True).problems == []


@pytest.mark.parametrize("name", CASES)
def test_reading_single_crops_of_a_golden_file(name):
    with SoftLabelReader(FOLDER / f"{name}.slc") as reader:
        for number in range(0, len(reader), max(1, len(reader) // 7)):
            whole = reader[number]
            last = len(whole) - 1
            part = reader.read(number, [last, 0])
            np.testing.assert_array_equal(part.crops, whole.crops[[last, 0]])
            np.testing.assert_array_equal(part.flips, whole.flips[[last, 0]])
            if "features" in reader.codec:
                np.testing.assert_array_equal(part.labels.vectors, whole.labels.vectors[[last, 0]])
            else:
                np.testing.assert_array_equal(part.labels.top1, whole.labels.top1[[last, 0]])
                if reader.num_classes < 10**6:
                    np.testing.assert_array_equal(part.labels.dense(), whole.labels.dense()[[last, 0]])


def test_golden_files_are_not_written_again():
    script = (Path(__file__).parent / "golden" / "make_golden.py").read_text()
    assert "if not container.exists():" in script
