"""The test vectors of the specification: what the package finds in the valid ones, and why it refuses the invalid ones."""

import contextlib
import json
from pathlib import Path

import minimal_reader
import numpy as np
import pytest
from test_spec import table
from vectors import invalid, valid

from softlabel_codec import SoftLabelReader, recover
from softlabel_codec import errors as error_classes
from softlabel_codec.report import verify

VECTORS = valid.FOLDER.parent
CONFORMANCE = (VECTORS.parent / "conformance-v1.md").read_text()


def read_everything(path: Path) -> None:
    """Do all that a reader can be asked for, each image in all ways."""
    with SoftLabelReader(path) as reader:
        if len(reader):
            reader.read_batch(range(len(reader)))
        for number, key in enumerate(reader.keys):
            reader.read(number)
            reader.read(number, [0])
            reader.keys.find(key)


def test_every_valid_vector_has_its_contents_and_nothing_else_is_there():
    assert {path.name for path in valid.FOLDER.iterdir()} == {f"{name}.{ending}" for name in valid.NAMES for ending in ("slc", "npz")}


@pytest.mark.parametrize("name", valid.NAMES)
def test_valid_vector(name):
    compare_arrays(valid.contents(valid.FOLDER / f"{name}.slc"), valid.FOLDER / f"{name}.npz")
    assert verify(valid.FOLDER / f"{name}.slc", deep=True).problems == []


def compare_arrays(found, path):
    """Check that these arrays are those of an npz file."""
    with np.load(path) as expected:
        assert set(found) == set(expected.files)
        codec = str(expected["codec"]) if "codec" in expected.files else ""
        for part in expected.files:
            wanted = expected[part]
            has_exp = "values=f" not in codec or part == "tails" or (part == "targets" and "tail=all" in codec)
            if wanted.dtype.kind == "f" and has_exp:
                np.testing.assert_allclose(found[part], wanted, rtol=1e-6)  # exp may differ in the last place
            else:
                np.testing.assert_array_equal(found[part], wanted)


@pytest.mark.parametrize("name", valid.NAMES)
def test_reading_single_crops_of_a_valid_vector(name):
    with SoftLabelReader(valid.FOLDER / f"{name}.slc") as reader:
        for number in range(0, len(reader), max(1, len(reader) // 7)):
            assert reader.keys.find(reader.keys[number]) == number
            whole = reader[number]
            last = whole.num_crops - 1
            part = reader.read(number, [last, 0])
            np.testing.assert_array_equal(part.crops, whole.crops[[last, 0]])
            np.testing.assert_array_equal(part.flips, whole.flips[[last, 0]])
            if "features" in reader.codec:
                np.testing.assert_array_equal(part.labels.vectors, whole.labels.vectors[[last, 0]])
            else:
                np.testing.assert_array_equal(part.labels.top1, whole.labels.top1[[last, 0]])
                if reader.num_classes < 10**6:
                    np.testing.assert_array_equal(part.labels.dense(), whole.labels[[last, 0]].dense())


def test_every_recoverable_vector_has_its_contents_and_nothing_else_is_there():
    for folder, cases in invalid.RECOVERABLE.items():
        ending = "slc.partial" if folder == invalid.UNFINISHED_FOLDER else "slc"
        assert {path.name for path in folder.iterdir()} == {f"{name}.{end}" for name in cases for end in (ending, "json")}


def test_every_defect_has_its_vector_and_nothing_else_is_there():
    for folder, cases in invalid.FOLDERS.items():
        assert {path.stem for path in folder.iterdir()} == set(cases)


@pytest.mark.parametrize("name", invalid.REFUSED)
def test_vector_that_every_reader_refuses(name):
    path = invalid.REFUSED_FOLDER / f"{name}.slc"
    error = getattr(error_classes, name.split("-")[0])
    with pytest.raises(error) as caught:
        read_everything(path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    report = verify(path, deep=True)
    assert error.__name__ in [problem.error for problem in report.problems]
    with pytest.raises(getattr(minimal_reader, error.__name__)) as caught:
        minimal_reader.read(path.read_bytes())
    assert type(caught.value).__name__ == error.__name__


@pytest.mark.parametrize("name", invalid.FOUND_BY_VERIFIERS)
def test_vector_that_every_verifier_refuses(name):
    path = invalid.VERIFIER_FOLDER / f"{name}.slc"
    error = name.split("-")[0]
    assert [problem.error for problem in verify(path, deep=True).problems] == [error]
    with pytest.raises(getattr(minimal_reader, error)):
        minimal_reader.read(path.read_bytes())
    with contextlib.suppress(getattr(error_classes, error)):  # a reader may look closer than it must
        read_everything(path)


@pytest.mark.parametrize("name", invalid.UNFINISHED)
def test_the_whole_blocks_of_an_unfinished_vector_are_recovered(name, tmp_path):
    path = invalid.UNFINISHED_FOLDER / f"{name}.slc.partial"
    with pytest.raises(error_classes.TruncatedError, match="unfinished file"):
        SoftLabelReader(path)
    check_recovered(path, json.loads(path.with_name(f"{name}.json").read_text()), tmp_path)


@pytest.mark.parametrize("name", invalid.DAMAGED)
def test_the_whole_blocks_of_a_damaged_vector_are_recovered(name, tmp_path):
    path = invalid.DAMAGED_FOLDER / f"{name}.slc"
    with pytest.raises(getattr(error_classes, name.split("-")[0])):
        read_everything(path)
    check_recovered(path, json.loads(path.with_suffix(".json").read_text()), tmp_path)


def check_recovered(path, expected, tmp_path):
    result = recover(path, tmp_path / "kept.slc")
    assert (result.num_blocks, result.num_images) == (expected["num_blocks"], len(expected["keys"]))
    with SoftLabelReader(tmp_path / "kept.slc") as reader:
        assert list(reader.keys) == expected["keys"]
        assert reader.num_crops.tolist() == expected["crops_of_images"]
    assert [image.key for image in minimal_reader.recover(path.read_bytes())] == expected["keys"]


def test_the_conformance_table_lists_all_defects():
    listed = []
    for row in table(CONFORMANCE, "condition", "error", "found by", "vectors"):
        cases = {"reader": invalid.REFUSED, "verifier": invalid.FOUND_BY_VERIFIERS}[row["found by"]]
        names = [f"{row['error']}-{name.strip().strip('`')}" for name in row["vectors"].split(",")]
        assert set(names) <= set(cases), row
        listed += names
    assert sorted(listed) == sorted([*invalid.REFUSED, *invalid.FOUND_BY_VERIFIERS])
