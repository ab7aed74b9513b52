"""The test vectors of label sets: what the package and the second reader find in the valid ones, and why they refuse the others."""

import contextlib
import json
from pathlib import Path

import minimal_reader
import numpy as np
import pytest
from test_minimal_reader import compare_contents
from test_spec import table
from test_vectors import CONFORMANCE, compare_arrays, read_everything
from vectors import sets, valid

from softlabel_codec import SoftLabelReader
from softlabel_codec import errors as error_classes
from softlabel_codec.checks import limits
from softlabel_codec.report import verify

SPEC = sets.FOLDER.parents[1] / "set-v1.md"
ERRORS = {name: getattr(error_classes, name, OSError) for name in {case.split("-")[0] for case in sets.REFUSED}}


def read_with_the_second_reader(folder: Path) -> minimal_reader.File:
    return minimal_reader.read_set((folder / sets.INDEX).read_bytes(), lambda name: (folder / name).read_bytes())


def test_every_vector_is_there_and_nothing_else():
    assert {path.name for path in sets.FOLDER.iterdir()} == {"valid", "invalid", "invalid-for-verifiers"}
    assert {path.name for path in sets.VALID_FOLDER.iterdir()} == {*sets.VALID, *(f"{name}.npz" for name in sets.VALID)}
    assert {path.name for path in sets.REFUSED_FOLDER.iterdir()} == set(sets.REFUSED)
    assert {path.name for path in sets.VERIFIER_FOLDER.iterdir()} == set(sets.FOUND_BY_VERIFIERS)


@pytest.mark.parametrize("name", sets.VALID)
def test_valid_set(name):
    folder = sets.VALID_FOLDER / name
    compare_arrays(valid.contents(folder), folder.with_suffix(".npz"))
    assert verify(folder, deep=True).problems == []
    compare_contents(read_with_the_second_reader(folder), folder)


@pytest.mark.parametrize("name", sets.VALID)
def test_single_images_of_a_valid_set(name):
    with SoftLabelReader(sets.VALID_FOLDER / name) as reader:
        for number, image in enumerate(reader):
            key = reader.keys[number]
            assert reader.keys.find(key) == number
            np.testing.assert_array_equal(reader.read(key, [0]).labels.dense(), image.labels[0].dense())


@pytest.mark.parametrize("name", sets.REFUSED)
def test_set_that_every_reader_refuses(name):
    folder = sets.REFUSED_FOLDER / name
    error = ERRORS[name.split("-")[0]]
    with pytest.raises(error) as caught:
        read_everything(folder)
    assert str(folder) in str(caught.value)
    named = [problem.error for problem in verify(folder, deep=True).problems]
    if error is OSError:
        assert named == ["FileNotFoundError"]
        with pytest.raises(OSError, match="00001-of-00002"):
            read_with_the_second_reader(folder)
        return
    assert type(caught.value) is error
    assert set(named) == {error.__name__}
    with pytest.raises(getattr(minimal_reader, error.__name__)) as caught:
        read_with_the_second_reader(folder)
    assert type(caught.value).__name__ == error.__name__


@pytest.mark.parametrize("name", sets.FOUND_BY_VERIFIERS)
def test_set_that_every_verifier_refuses(name):
    folder = sets.VERIFIER_FOLDER / name
    error = name.split("-")[0]
    assert [problem.error for problem in verify(folder).problems] == [error]
    with pytest.raises(getattr(minimal_reader, error)):
        read_with_the_second_reader(folder)
    with contextlib.suppress(getattr(error_classes, error)):  # a reader may look closer than it must
        read_everything(folder)


def test_what_the_invalid_sets_are_made_of_is_sound(tmp_path):
    sets.write_files(tmp_path / "base", sets.base())
    assert verify(tmp_path / "base", deep=True).problems == []
    read_with_the_second_reader(tmp_path / "base")


def test_the_conformance_table_lists_all_defects_of_sets():
    listed = []
    for row in table(CONFORMANCE, "condition of a set", "error", "found by", "vectors"):
        cases = {"reader": sets.REFUSED, "verifier": sets.FOUND_BY_VERIFIERS}[row["found by"]]
        names = [f"{row['error']}-{name.strip().strip('`')}" for name in row["vectors"].split(",")]
        assert set(names) <= set(cases), row
        listed += names
    assert sorted(listed) == sorted([*sets.REFUSED, *sets.FOUND_BY_VERIFIERS])


def test_the_specification_of_sets_states_limits_and_keys_of_the_package():
    text = SPEC.read_text()
    assert f"at most {limits.MAX_SET_INDEX_BYTES} bytes" in text
    assert f"1 to {limits.MAX_SHARDS} shards" in text
    index = json.loads((sets.VALID_FOLDER / "several-shards" / sets.INDEX).read_bytes())
    rows = [row["key"].strip("`") for row in table(text, "key", "type", "meaning", "error if violated")]
    named = {name.strip(" `") for row in rows for name in row.split(",")}
    assert named >= set(index)
    of_shard = text[text.index("Each shard is an object") :]
    rows = [row["key"].strip("`") for row in table(of_shard, "key", "type", "meaning")]
    assert {name.strip(" `") for row in rows for name in row.split(",")} == set(index["shards"][0])
