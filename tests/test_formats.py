"""Labels in formats of others: what comes in equals the source, what goes out comes back, and what is wrong is refused or named."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import random_probs, write_labels
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from softlabel_codec import (
    ArgumentError,
    CorruptError,
    MismatchError,
    SoftLabelError,
    SoftLabelReader,
    SoftLabelWriter,
    copy_labels,
    writer,
)
from softlabel_codec.cli.importing import EXPORTED as EXPORTED_OF_COMMAND
from softlabel_codec.cli.importing import IMPORTED
from softlabel_codec.cli.main import main
from softlabel_codec.formats import EXPORTED, FORMATS, export_labels, import_labels
from softlabel_codec.formats import run as import_run
from softlabel_codec.formats.converting import SUFFIXES
from softlabel_codec.report import verify

ENDINGS = {format: suffix for suffix, format in SUFFIXES.items()}
CODECS = [
    "marginal_smoothing:k=5",
    "marginal_smoothing:k=3,values=f16",
    "marginal_smoothing:k=20,values=f32",
    "marginal_smoothing:t=0.05,values=f32",
    "marginal_smoothing:t=0.1",
    "marginal_renorm:k=4,values=f32",
    "marginal_renorm:t=0.02",
    "smoothing",
    "hard",
    "dense",
    "dense:values=f16",
    "dense:values=log8",
]

EXCHANGED = EXPORTED[1:]
"""Formats that are read as they are written; see `test_fkd.py` for the other."""


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def assert_same(first, second, exact=True):
    """Compare two label files image by image: labels to float32, all else exactly."""
    with SoftLabelReader(first) as one, SoftLabelReader(second) as other:
        assert list(one.keys) == list(other.keys)
        assert one.num_classes == other.num_classes
        for key in one.keys:
            before, after = one[key], other[key]
            assert before.image_size == after.image_size
            assert before.image_crc32 == after.image_crc32
            np.testing.assert_array_equal(before.crops, after.crops)
            np.testing.assert_array_equal(before.flips, after.flips)
            np.testing.assert_allclose(before.labels.dense(), after.labels.dense(), rtol=0, atol=2e-7)
            if exact and hasattr(before.labels, "indices"):
                np.testing.assert_array_equal(before.labels.values, after.labels.values)
                np.testing.assert_array_equal(np.sort(before.labels.indices), np.sort(after.labels.indices))  # equal values change places


@pytest.mark.parametrize("format", EXCHANGED)
@pytest.mark.parametrize("codec", CODECS)
def test_what_goes_out_comes_back(tmp_path, format, codec):
    write_labels(tmp_path / "a.slc", codec, counts=[4] * 7, metadata={"teacher": "ours", "temperature": 2.0})
    out = tmp_path / f"a{ENDINGS[format]}"
    written = export_labels(tmp_path / "a.slc", out)
    assert (written.format, written.num_images, written.num_crops, written.file_bytes) == (format, 7, 28, out.stat().st_size)
    report = import_labels(out, tmp_path / "b.slc")
    assert (report.format, report.num_images, report.num_crops, report.notes, report.lost) == (format, 7, 28, [], [])
    assert_same(tmp_path / "a.slc", tmp_path / "b.slc")
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        assert reader.metadata["teacher"] == "ours"
        assert reader.temperature == 2.0
        assert reader.metadata["source"]["format"] == format
        assert reader.parsed_codec.name == codec.partition(":")[0]
    assert verify(tmp_path / "b.slc", deep=True).ok
    first = out.read_bytes()
    export_labels(tmp_path / "a.slc", out, overwrite=True)
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.slc", "b.slc", out.name])


@pytest.mark.parametrize("format", EXCHANGED)
@pytest.mark.parametrize("crops", ["derived", "fractions:f16", "fractions:f32"])
def test_crops_of_every_kind(tmp_path, format, crops):
    from softlabel_codec import CropSampler

    rng, sampler = np.random.default_rng(0), CropSampler(seed=3)
    options = {"sampler": sampler, "image_checksums": True} if crops == "derived" else {}
    with SoftLabelWriter(tmp_path / "a.slc", 10, "marginal_smoothing:k=2", crops=crops, **options) as writer:
        for number in range(5):
            geometry = {}
            if crops == "derived":
                geometry = {"image_size": (40 + number, 60), "image_crc32": number}
            else:
                geometry = {"crops": rng.random((3, 4)).astype(crops.replace("fractions:f", "float")), "flips": rng.random(3) < 0.5}
            writer.add(f"n/{number}.jpg", probs=random_probs(rng, 3, 10), **geometry)
    out = tmp_path / f"a{ENDINGS[format]}"
    lost = export_labels(tmp_path / "a.slc", out).lost
    assert lost == (["that crops come from a sampler: they are written as numbers"] if crops == "derived" else [])
    import_labels(out, tmp_path / "b.slc")
    assert_same(tmp_path / "a.slc", tmp_path / "b.slc")


@pytest.mark.parametrize("format", EXCHANGED)
@pytest.mark.parametrize("content", ["logits", "features"])
def test_vectors(tmp_path, format, content):
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 3, (4, 2, 6)).astype(np.float32)
    with SoftLabelWriter(tmp_path / "a.slc", 6, f"dense:content={content}") as writer:
        for number in range(4):
            writer.add(str(number), image_size=(9, 9), crops=[[0, 0, 9, 9]] * 2, flips=[False, True], vectors=vectors[number])
    out = tmp_path / f"a{ENDINGS[format]}"
    export_labels(tmp_path / "a.slc", out)
    assert import_labels(out, tmp_path / "b.slc").codec == f"dense:content={content}"
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        np.testing.assert_array_equal(reader[2].labels.vectors, vectors[2])
    if content == "logits":
        import_labels(out, tmp_path / "c.slc", codec="marginal_smoothing:k=6,values=f32")
        powers = np.exp(vectors[2])
        with SoftLabelReader(tmp_path / "c.slc") as reader:
            np.testing.assert_allclose(reader[2].labels.dense(), powers / powers.sum(axis=1, keepdims=True), atol=1e-6)
    else:
        with pytest.raises(ArgumentError, match="the source has features, which are not probabilities"):
            import_labels(out, tmp_path / "c.slc", codec="hard")


@pytest.mark.parametrize("format", EXCHANGED)
@pytest.mark.parametrize("codec", ["marginal_smoothing:t=0.1,tail=5", "field"])
def test_what_arrays_cannot_say_is_refused_or_written_as_targets(tmp_path, format, codec):
    write_labels(tmp_path / "a.slc", codec, counts=[12, 12])
    out = tmp_path / f"a{ENDINGS[format]}"
    with pytest.raises(ArgumentError, match="for which there are no arrays. Write the targets of all classes"):
        export_labels(tmp_path / "a.slc", out)
    assert not out.exists()
    report = export_labels(tmp_path / "a.slc", out, dense=True)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert report.lost[-1] == f"how labels were stored, in {reader.codec}"
    import_labels(out, tmp_path / "b.slc")
    assert_same(tmp_path / "a.slc", tmp_path / "b.slc", exact=False)
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        assert reader.metadata["transcoded_from"] == [codec]


@pytest.mark.parametrize("format", EXCHANGED)
def test_images_with_different_numbers_of_crops(tmp_path, format):
    write_labels(tmp_path / "a.slc", counts=(3, 1, 40, 7))
    out = tmp_path / f"a{ENDINGS[format]}"
    if format in ("npz", "safetensors"):
        with pytest.raises(ArgumentError, match=r"images have 1 to 40 crops, but arrays .* as many for each"):
            export_labels(tmp_path / "a.slc", out)
        copy_labels(tmp_path / "a.slc", tmp_path / "c.slc", crops=1)
        export_labels(tmp_path / "c.slc", out)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.slc", "c.slc", out.name])
        return
    export_labels(tmp_path / "a.slc", out)
    import_labels(out, tmp_path / "b.slc")
    assert_same(tmp_path / "a.slc", tmp_path / "b.slc")


def test_several_files_and_sets(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[4] * 7)
    copy_labels(tmp_path / "a.slc", tmp_path / "set", shards=3)
    for name, pattern in (("l-{00..02}.tar", "l-*.tar"), ("p-{a,b}.parquet", "p-*.parquet")):
        report = export_labels(tmp_path / "set", tmp_path / name)
        assert report.num_files == len(list(tmp_path.glob(pattern)))
        for source in (tmp_path / name, tmp_path / pattern):
            import_labels(source, tmp_path / "b.slc", overwrite=True)
            assert_same(tmp_path / "a.slc", tmp_path / "b.slc")
    with pytest.raises(ArgumentError, match="several files are written of webdataset and parquet only"):
        export_labels(tmp_path / "a.slc", tmp_path / "x-{0..3}.npz")
    with pytest.raises(FileExistsError):
        export_labels(tmp_path / "a.slc", tmp_path / "l-{00..02}.tar")
    (tmp_path / "shards").mkdir()
    (tmp_path / "l-00.tar").rename(tmp_path / "shards" / "l-00.tar")
    assert import_labels(tmp_path / "shards", tmp_path / "c.slc").format == "webdataset"


@pytest.mark.parametrize("format", EXCHANGED)
def test_what_was_left_out_once_is_not_known_later(tmp_path, format):
    """Targets of all classes that were made of five of them say nothing of the others at a higher temperature."""
    write_labels(tmp_path / "a.slc", "marginal_smoothing:k=5", counts=[2], metadata={"temperature": 1.0})
    out = tmp_path / f"a{ENDINGS[format]}"
    export_labels(tmp_path / "a.slc", out, dense=True)
    import_labels(out, tmp_path / "b.slc")
    with pytest.raises(ArgumentError, match="labels of 'marginal_smoothing:k=5', of which these were made"):
        SoftLabelReader(tmp_path / "b.slc", temperature=4)


# Files that others write.


@pytest.fixture
def arrays():
    """Arrays as somebody else may have them: 3 images of 2 crops, 5 classes kept of 30."""
    rng = np.random.default_rng(0)
    probs = random_probs(rng, 6, 30).reshape(3, 2, 30)
    indices = np.argsort(-probs, axis=2)[:, :, :5]
    return {
        "keys": np.array(["a.jpg", "b.jpg", "é.jpg"]),
        "indices": indices,
        "values": np.take_along_axis(probs, indices, axis=2),
        "crops": np.tile(np.int64([[0, 0, 10, 12], [1, 2, 5, 6]]), (3, 1, 1)),
        "flips": np.array([[True, False]] * 3),
        "image_sizes": np.int64([[20, 30]] * 3),
        "num_classes": np.array(30),
    }


def rows_of(arrays):
    """Return the same as rows of a table."""
    names = {"keys": "key", "image_sizes": "image_size", "image_crc32s": "image_crc32"}
    count = len(arrays["keys"])
    return {names.get(name, name): [array[row].tolist() for row in range(count)] for name, array in arrays.items() if array.shape}


def crop_rows_of(arrays):
    """Return the same with a row for each crop."""
    rows = rows_of(arrays)
    names = {"crops": "crop", "flips": "flip"}
    counts = [len(crops) for crops in rows.get("crops", rows.get("indices", rows.get("probs")))]
    found = {}
    for name, column in rows.items():
        if name in ("key", "image_size"):
            found[name] = [value for value, count in zip(column, counts, strict=True) for _ in range(count)]
        else:
            found[names.get(name, name)] = [row for rows_ in column for row in rows_]
    return found


def write_table(path, columns, num_classes=None):
    table = pa.table(columns)
    parquet.write_table(table if num_classes is None else table.replace_schema_metadata({"num_classes": str(num_classes)}), path)


def write_shard(path, arrays, **members):
    """Write a shard as a user of WebDataset does: with numpy and tarfile, beside images."""
    import io

    with tarfile.open(path, "w") as tar:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for row, key in enumerate(arrays["keys"].tolist()):
            singular = {"image_sizes": "image_size", "image_crc32s": "image_crc32"}
            part = {singular.get(name, name): array[row] if array.shape else array for name, array in arrays.items() if name != "keys"}
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **{**part, **members.get(key, {})})
            add(key, b"an image")
            add(key.rpartition(".")[0] + ".labels.npz", buffer.getvalue())
            add(key.rpartition(".")[0] + ".cls", b"3")


def write_source(folder, format, arrays):
    """Write the arrays with the other project's own library, and return the file."""
    path = folder / f"source{ENDINGS[format.removesuffix(' of crops')]}" if "crops" not in format else folder / "source.parquet"
    if format == "npz":
        np.savez(path, **arrays)
    elif format == "safetensors":
        text = "".join(f"{key}\n" for key in arrays["keys"]).encode()
        numbers = {name: np.ascontiguousarray(array) for name, array in arrays.items() if name != "keys"}
        save_file({**numbers, "keys": np.frombuffer(text, np.uint8)}, path)
    elif format == "webdataset":
        write_shard(path, arrays)
    else:
        write_table(path, (rows_of if format == "parquet" else crop_rows_of)(arrays), arrays.get("num_classes"))
    return path


SOURCES = [*EXCHANGED, "parquet of crops"]


def keys_in(format, arrays):
    """Return the keys as they come out: samples of WebDataset lack the ending."""
    keys = arrays["keys"].tolist()
    return [key.rpartition(".")[0] for key in keys] if format == "webdataset" else keys


@pytest.mark.parametrize("format", SOURCES)
def test_files_that_others_write(tmp_path, format, arrays):
    path = write_source(tmp_path, format, arrays)
    floats = "f64" if "parquet" in format else "f32"  # Python's floats have 64 bits
    report = import_labels(path, tmp_path / "a.slc")
    assert report.codec == "marginal_smoothing:k=5,values=f32"
    assert (report.num_images, report.num_crops) == (3, 6)
    assert report.labels == "the 5 most probable of 30 classes, float32"
    assert report.lost == (["float64: indices are rounded to float32"] if floats == "f64" else [])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == keys_in(format, arrays)
        for row in range(3):
            image = reader[row]
            np.testing.assert_array_equal(image.crops, arrays["crops"][row])
            np.testing.assert_array_equal(image.flips, arrays["flips"][row])
            np.testing.assert_array_equal(image.labels.indices, arrays["indices"][row])
            np.testing.assert_array_equal(image.labels.values, arrays["values"][row].astype(np.float32))
            expected = np.repeat((1 - arrays["values"][row].sum(axis=1, keepdims=True)) / 25, 30, axis=1)
            np.put_along_axis(expected, arrays["indices"][row], arrays["values"][row], axis=1)
            np.testing.assert_allclose(image.labels.dense(), expected, atol=1e-6)
            assert image.image_size == (20, 30)
    import_labels(path, tmp_path / "b.slc", codec="marginal_renorm:k=2")
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        np.testing.assert_array_equal(reader[1].labels.indices, arrays["indices"][1][:, :2])


@pytest.mark.parametrize("format", SOURCES)
def test_fractions_become_pixels_with_the_images(tmp_path, format, arrays):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for key in arrays["keys"]:
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / key)
    pixels = arrays["crops"]
    arrays["crops"] = (pixels / [20, 30, 20, 30]).astype(np.float32)
    del arrays["image_sizes"]
    path = write_source(tmp_path, format, arrays)
    import_labels(path, tmp_path / "a.slc", images=tmp_path / "images")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.crops == "pixels"
        np.testing.assert_array_equal(reader[1].crops, pixels[1])
        assert reader[1].image_size == (20, 30)
    import_labels(path, tmp_path / "b.slc")
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        assert reader.crops == "fractions:f32"


@pytest.mark.parametrize("format", SOURCES)
def test_classes_without_values_are_hard(tmp_path, format, arrays):
    arrays["indices"] = arrays["indices"][:, :, :1]
    del arrays["values"]
    assert import_labels(write_source(tmp_path, format, arrays), tmp_path / "a.slc").codec == "hard"
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_array_equal(reader[2].labels.top1, arrays["indices"][2, :, 0])


def change(name, value):
    def changed(arrays):
        arrays[name] = value(arrays[name]) if callable(value) else value
        return arrays

    return changed


def without(*names):
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


def with_entry(name, place, value):
    def changed(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value
        return arrays

    return changed


WRONG = {
    "no labels": (without("indices", "values"), MismatchError, "expected labels as one of probs, logits, features, indices"),
    "two kinds": (change("probs", np.ones((3, 2, 30), np.float32) / 30), MismatchError, "got probs and indices"),
    "no sizes": (without("image_sizes"), MismatchError, "image_size: expected"),
    "no number of classes": (without("num_classes"), ArgumentError, "do not say how many there are"),
    "too few classes": (change("num_classes", np.array(9)), MismatchError, "expected class indices from 0 to 8, got"),
    "NaN": (with_entry("values", (1, 1, 2), np.nan), MismatchError, "values: crop 1: holds NaN or infinity"),
    "negative": (with_entry("values", (1, 1, 2), -0.1), MismatchError, "values: crop 1: a probability is negative"),
    "logits of some classes": (change("values", lambda values: values * 9), MismatchError, "expected probabilities that sum to at most 1"),
    "keys twice": (change("keys", np.array(["a.jpg", "b.jpg", "a.jpg"])), MismatchError, "the key 'a.*' occurs twice"),
    "a class twice": (with_entry("indices", (2, 0, 1), 0), MismatchError, "."),
    "fractions above 1": (change("crops", lambda crops: crops.astype(np.float32)), MismatchError, "expected fractions from 0 to 1"),
    "crops outside": (with_entry("crops", (2, 0, 0), 15), MismatchError, "cannot be stored: .*: crops: row 0: expected top, left"),
    "whole numbers as flips": (change("flips", lambda flips: flips + 1), MismatchError, "flips: expected bool"),
    "half indices": (change("indices", lambda indices: indices + 0.5), MismatchError, "expected class indices from 0 to 29"),
}


@pytest.mark.parametrize("format", SOURCES)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused(tmp_path, format, case, arrays):
    changed, error, message = WRONG[case]
    if case == "a class twice":
        arrays["indices"][2, 0, 0] = 0
        message = "holds a class twice"
    path = write_source(tmp_path, format, changed(arrays))
    with pytest.raises(error, match=message):
        import_labels(path, tmp_path / "a.slc")
    assert not (tmp_path / "a.slc").exists()


@pytest.mark.parametrize("format", SOURCES)
def test_one_bad_image_can_be_skipped(tmp_path, format, arrays):
    path = write_source(tmp_path, format, with_entry("values", (1, 1, 2), np.nan)(arrays))
    report = import_labels(path, tmp_path / "a.slc", on_error="skip")
    assert (report.num_images, list(report.skipped)) == (2, keys_in(format, arrays)[1:2])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.summary["skipped_keys"] == keys_in(format, arrays)[1:2]


@pytest.mark.parametrize("format", SOURCES)
def test_float16_indices_and_sums_that_are_not_1(tmp_path, format, arrays):
    arrays["indices"] = arrays["indices"].astype(np.float16)
    arrays["values"][0, 0] *= 1.004 / arrays["values"][0, 0].sum()
    path = write_source(tmp_path, format, arrays)
    report = import_labels(path, tmp_path / "a.slc")
    assert report.notes == ["1 crop: probabilities summed to 1 only within 0.01; they were divided by their sum"]
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_array_equal(reader[2].labels.indices, arrays["indices"][2])
        assert reader[0].labels.dense()[0].min() >= 0
        assert reader[0].labels.remainder[0] == pytest.approx(0, abs=1e-6)
    if "parquet" not in format:  # there they are float64 by now
        arrays["num_classes"] = np.array(3000)
        with pytest.raises(MismatchError, match="class indices above 2048 are not exact in float16"):
            import_labels(write_source(tmp_path, format, arrays), tmp_path / "b.slc")


@pytest.mark.parametrize("format", SOURCES)
def test_probabilities_that_are_logits(tmp_path, format, arrays):
    logits = np.random.default_rng(0).normal(0, 3, (3, 2, 30)).astype(np.float32)
    path = write_source(tmp_path, format, {**without("indices", "values")(arrays), "probs": logits})
    with pytest.raises(MismatchError, match="a probability is negative. If these are logits, name the array 'logits'"):
        import_labels(path, tmp_path / "a.slc")
    with pytest.raises(MismatchError, match="expected 31 classes, got 30"):
        import_labels(path, tmp_path / "a.slc", num_classes=31)


@pytest.mark.parametrize("format", SOURCES)
def test_labels_without_crops_are_not_for_training(tmp_path, format, arrays):
    path = write_source(tmp_path, format, without("crops", "flips", "image_sizes")(arrays))
    report = import_labels(path, tmp_path / "a.slc")
    assert report.lost[-1].startswith("training: the source has no")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_array_equal(reader[1].labels.indices, arrays["indices"][1])
        with pytest.raises(MismatchError, match="it is not known which crops these labels belong to: the source has no"):
            reader.draw([0], crops_per_image=1)
    for again in EXCHANGED:
        export_labels(tmp_path / "a.slc", tmp_path / f"again{ENDINGS[again]}")
        import_labels(tmp_path / f"again{ENDINGS[again]}", tmp_path / "b.slc", overwrite=True)
        with SoftLabelReader(tmp_path / "b.slc") as reader, pytest.raises(MismatchError, match="not known which crops"):
            reader.draw([0], crops_per_image=1)


@pytest.mark.torch
def test_a_dataset_refuses_labels_without_crops(tmp_path, arrays, image_folder):
    from softlabel_codec.torch import SoftLabelDataset

    import_labels(write_source(tmp_path, "npz", without("crops", "flips", "image_sizes")(arrays)), tmp_path / "a.slc")
    with pytest.raises(MismatchError, match="They can be looked at"):
        SoftLabelDataset(image_folder, tmp_path / "a.slc")


@pytest.mark.parametrize("format", SOURCES)
def test_truncated_files_are_named(tmp_path, format, arrays):
    path = write_source(tmp_path, format, arrays)
    data = path.read_bytes()
    length = len(data.rstrip(b"\0"))
    for keep in (0, 10, length // 2, length - 100):
        path.write_bytes(data[:keep])
        with pytest.raises(CorruptError, match=path.name):
            import_labels(path, tmp_path / "a.slc")
        assert not (tmp_path / "a.slc").exists()


@pytest.mark.parametrize("format", SOURCES)
def test_an_interrupted_import_continues(tmp_path, format, arrays):
    path = write_source(tmp_path, format, arrays)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(path, tmp_path / "a.slc", progress=interrupt)
    assert import_labels(path, tmp_path / "a.slc").num_images == 3
    import_labels(path, tmp_path / "b.slc")
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


def test_names_are_the_same_everywhere():
    assert IMPORTED == FORMATS
    assert EXPORTED_OF_COMMAND == EXPORTED


def test_the_command_says_what_it_found_before_it_starts(tmp_path, arrays):
    path = write_source(tmp_path, "npz", {**arrays, "notes": np.array([1, 2])})
    text = run("import", path, tmp_path / "a.slc")
    assert "slcodec: found npz: the 5 most probable of 30 classes, float32; 3 images, 6 crops; " in text
    assert "slcodec: will be lost: array 'notes': not one of" in text
    assert text.index("found npz") < text.index("converted  3 images, 6 crops, 0 skipped, to marginal_smoothing:k=5,values=f32")
    assert "found" not in run("import", path, tmp_path / "b.slc", "--quiet", "--from", "npz")
    report = json.loads(run("import", "npz", path, tmp_path / "c.slc", "--json"))
    assert (report["format"], report["num_crops"]) == ("npz", 6)
    for words, message in (
        (["import", path], "expected SOURCE and OUT"),
        (["import", "nothing", path, "x.slc"], "expected a format before SOURCE and OUT"),
        (["import", "npz", path, "x.slc", "--from", "fkd"], "--from fkd contradicts 'npz'"),
        (["import", tmp_path / "nowhere.npz", "x.slc"], "does not exist"),
        (["import", path, tmp_path / "d.slc", "--label-type", "hard"], "label_type: is for files of FKD"),
        (["import", tmp_path, tmp_path / "d.slc"], "found none. Say what it is"),
    ):
        assert message in " ".join(run(*words, code=2).split())
    (tmp_path / "x.pth").write_bytes(b"x")
    assert "files like this are pickles" in run("import", tmp_path / "x.pth", tmp_path / "d.slc", code=2)


def test_the_command_exports(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[2, 2])
    text = run("export", tmp_path / "a.slc", tmp_path / "a.parquet")
    assert f"a.parquet: 2 images, 4 crops, {(tmp_path / 'a.parquet').stat().st_size} bytes, as parquet" in text
    assert json.loads(run("export", tmp_path / "a.slc", tmp_path / "b", "--to", "npz", "--json"))["format"] == "npz"
    assert "expected a name that ends in .npz" in run("export", tmp_path / "a.slc", tmp_path / "c", code=2)
    assert "exists; --overwrite replaces it" in run("export", tmp_path / "a.slc", tmp_path / "b", "--to", "npz", code=1)


def test_formats_need_neither_torch_nor_pillow():
    code = (
        "import sys, softlabel_codec.formats; print([name for name in ('torch', 'PIL', 'pyarrow', 'safetensors') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_padding_is_refused(tmp_path):
    from softlabel_codec import Padding

    write_labels(tmp_path / "a.slc", counts=[2], padding=Padding(4))
    with pytest.raises(ArgumentError, match="crops count from the corner of padded images"):
        export_labels(tmp_path / "a.slc", tmp_path / "a.npz")


# What is particular to a format.


def test_numpy_reads_the_npz(tmp_path):
    written = write_labels(tmp_path / "a.slc", "dense", counts=[2] * 3)
    export_labels(tmp_path / "a.slc", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as data:
        assert sorted(data.files) == ["about", "crops", "flips", "image_sizes", "keys", "num_classes", "probs"]
        assert data["probs"].shape == (3, 2, 20)
        np.testing.assert_array_equal(data["crops"], [crops for crops, _, _ in written.values()])
        np.testing.assert_array_equal(data["probs"], [probs for _, _, probs in written.values()])
        assert data["keys"].tolist() == list(written)


def test_safetensors_reads_the_file(tmp_path):
    written = write_labels(tmp_path / "a.slc", "dense:values=f16", counts=[2] * 3)
    export_labels(tmp_path / "a.slc", tmp_path / "a.safetensors")
    data = load_file(tmp_path / "a.safetensors")
    assert data["probs"].dtype == np.float16
    np.testing.assert_array_equal(data["probs"], np.array([probs for _, _, probs in written.values()], np.float16))
    assert data["keys"].tobytes().decode().split("\n")[:-1] == list(written)


def test_pyarrow_reads_the_table(tmp_path):
    written = write_labels(tmp_path / "a.slc", "marginal_smoothing:t=0.1,values=f32", counts=(2, 3, 1))
    export_labels(tmp_path / "a.slc", tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["key", "indices", "values", "crops", "flips", "image_size"]
    assert table.schema.metadata[b"num_classes"] == b"20"
    for row, (crops, flips, probs) in zip(table.to_pylist(), written.values(), strict=True):
        assert row["crops"] == crops.tolist()
        assert row["flips"] == flips.tolist()
        assert row["image_size"] == [48, 64]
        for indices, values, each in zip(row["indices"], row["values"], probs, strict=True):
            assert sorted(indices) == sorted({*np.flatnonzero(each >= 0.1).tolist(), int(each.argmax())})
            np.testing.assert_array_equal(np.float32(values), each[indices])


def test_objects_are_never_unpickled(tmp_path, arrays, capsys):
    class Evil:
        def __reduce__(self):
            return print, ("code from the file ran",)

    np.savez(tmp_path / "a.npz", **{**arrays, "values": np.array([[Evil()]])}, allow_pickle=True)
    with pytest.raises(CorruptError, match="Objects are pickles, which are never read"):
        import_labels(tmp_path / "a.npz", tmp_path / "a.slc")
    assert "ran" not in capsys.readouterr().out


def test_arrays_of_npz_that_do_not_fit(tmp_path, arrays):
    def refused(changed, error, message):
        np.savez(tmp_path / "a.npz", **changed)
        with pytest.raises(error, match=message):
            import_labels(tmp_path / "a.npz", tmp_path / "a.slc")

    refused({**arrays, "keys": arrays["keys"][:2]}, CorruptError, "keys")
    refused({**arrays, "keys": np.arange(3)}, MismatchError, "keys: expected texts")
    refused(without("keys")(arrays), MismatchError, "expected an array 'keys'")
    refused({**arrays, "flips": arrays["flips"][:, :1]}, MismatchError, "flips: expected a row for an image and crop")
    refused({**arrays, "crops": arrays["crops"][:, :, :3]}, MismatchError, r"crops: expected numbers of shape \(M, 4\)")
    refused({**arrays, "values": arrays["values"][:, :, :4]}, MismatchError, "values: expected")
    refused({**arrays, "values": np.asfortranarray(arrays["values"])}, CorruptError, "C order")
    refused({**arrays, "num_classes": np.array([30, 30])}, CorruptError, "num_classes: expected one integer")
    refused({**arrays, "about": np.array("{}")}, CorruptError, "about: expected JSON")
    refused({**arrays, "indices": np.where(arrays["indices"] < 5, -1, arrays["indices"])}, MismatchError, "got fewer")
    refused({**without("values")(arrays)}, MismatchError, "expected one class of each crop")


def test_a_refused_npz_is_closed(tmp_path, arrays):
    path = tmp_path / "a.npz"
    for changed in ({**arrays, "values": np.asfortranarray(arrays["values"])}, {**arrays, "flips": arrays["flips"][:, :1]}):
        np.savez(path, **changed)
        with pytest.raises(SoftLabelError) as refused:  # which keeps the frames that have read it
            import_labels(path, tmp_path / "a.slc")
        assert refused.tb
        assert str(path) not in {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}


def test_a_changed_byte_of_an_npz_is_noticed(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.index(arrays["values"].astype(np.float32).tobytes()[:16])
    data[place] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(CorruptError, match="Bad CRC-32"):
        import_labels(tmp_path / "a.npz", tmp_path / "a.slc")


def test_an_array_that_is_there_twice(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("keys.npy", archive.read("keys.npy"))
    with pytest.raises(CorruptError, match="holds an array twice"):
        import_labels(tmp_path / "a.npz", tmp_path / "a.slc")


def test_mixed_images_of_tables_and_shards(tmp_path, arrays):
    rows = rows_of(arrays)
    rows["indices"][1] = [row[:4] for row in rows["indices"][1]]
    rows["values"][1] = [row[:4] for row in rows["values"][1]]
    write_table(tmp_path / "a.parquet", rows, 30)
    with pytest.raises(MismatchError, match=r"row 1: indices: expected 5 classes of each crop, as in the first image, got 4"):
        import_labels(tmp_path / "a.parquet", tmp_path / "a.slc")
    write_shard(tmp_path / "a.tar", arrays, **{"b.jpg": {"indices": np.array(rows["indices"][1]), "values": np.float32(rows["values"][1])}})
    with pytest.raises(MismatchError, match=r"b\.labels\.npz: indices: expected 5 classes of each crop, as in the first image, got 4"):
        import_labels(tmp_path / "a.tar", tmp_path / "a.slc")
    write_shard(tmp_path / "a.tar", arrays, **{"b.jpg": {"num_classes": np.array(31)}})
    with pytest.raises(MismatchError, match="expected 30 classes, as in the first image, got 31"):
        import_labels(tmp_path / "a.tar", tmp_path / "a.slc")


def test_tables_that_are_not_as_described(tmp_path, arrays):
    rows = rows_of(arrays)

    def refused(columns, message):
        write_table(tmp_path / "a.parquet", columns, 30)
        with pytest.raises(MismatchError, match=message):
            import_labels(tmp_path / "a.parquet", tmp_path / "a.slc")

    refused({**rows, "key": [1, 2, 3]}, "key: expected a string")
    refused({name: column for name, column in rows.items() if name != "key"}, "expected a column 'key'")
    refused({**rows, "indices": [None, *rows["indices"][1:]]}, "indices: expected a list in each row, got null")
    refused({**rows, "values": ["a", "b", "c"]}, "values")
    refused({**rows, "indices": [1, 2, 3]}, "expected lists of labels")
    each = crop_rows_of(arrays)
    swapped = {name: [column[place] for place in (0, 2, 1, 3, 4, 5)] for name, column in each.items()}
    refused(swapped, "occurs twice: expected the crops of an image together")
    write_table(tmp_path / "a.parquet", {name: column[:0] for name, column in pa.table(rows).to_pydict().items()}, 30)
    with pytest.raises(MismatchError, match="expected"):
        import_labels(tmp_path / "a.parquet", tmp_path / "a.slc")


def test_damaged_members_of_a_shard_can_be_skipped(tmp_path, arrays):
    write_shard(tmp_path / "a.tar", arrays)
    with tarfile.open(tmp_path / "a.tar") as tar:
        place = next(member.offset_data for member in tar if member.name == "b.labels.npz")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[place : place + 200] = bytes(200)
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(CorruptError, match=r"a\.tar: b\.labels\.npz"):
        import_labels(tmp_path / "a.tar", tmp_path / "a.slc")
    assert list(import_labels(tmp_path / "a.tar", tmp_path / "a.slc", on_error="skip", overwrite=True).skipped) == ["b"]


def test_keys_that_would_be_one_sample(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[1, 1], keys=["n/a.b.jpg", "n/a.c.jpg"])
    with pytest.raises(MismatchError, match="the images 'n/a.b.jpg' and 'n/a.c.jpg' would be one sample 'n/a' of WebDataset"):
        export_labels(tmp_path / "a.slc", tmp_path / "a.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["a.slc"]


def test_a_shard_is_never_in_memory_as_a_whole(tmp_path):
    import tracemalloc

    counts = [40] * 100
    write_labels(tmp_path / "a.slc", "dense", num_classes=500, counts=counts)
    tracemalloc.start()
    try:
        export_labels(tmp_path / "a.slc", tmp_path / "a.tar")
        import_labels(tmp_path / "a.tar", tmp_path / "b.slc")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "a.tar").stat().st_size > 8_000_000
    assert peak < 100_000_000


@pytest.mark.parametrize("format", SOURCES)
def test_damage_is_an_error_of_ours_or_does_no_harm(tmp_path, format, arrays):
    path = write_source(tmp_path, format, arrays)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for number in range(60):
        data = bytearray(good)
        for place in rng.integers(0, len(good.rstrip(b"\0")), 1 + number % 3):
            data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            import_labels(path, tmp_path / "a.slc", num_classes=30, overwrite=True)
        except SoftLabelError:
            continue


def test_arrays_that_claim_too_much(tmp_path, arrays):
    """A few bytes that say to be large are refused before memory is taken."""
    np.savez(tmp_path / "good.npz", **arrays)

    def claim(name, shape, descr="<f4", data=bytes(4096)):
        with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for member in good.namelist():
                if member != f"{name}.npy":
                    archive.writestr(member, good.read(member))
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
                stream.write(data)

    for name, shape, descr, message in (
        ("values", (3, 2, 2**40), "<f4", "expected at most 268435456 numbers of an image"),
        ("num_classes", (2**40,), "<i8", "expected at most 268435456 bytes"),
        ("keys", (3,), f"<U{2**20}", "keys: expected texts"),
        ("about", (), f"<U{2**28}", "about: expected a text"),
        ("keys", (2**40,), "<U9", "keys ends too early"),
    ):
        claim(name, shape, descr)
        with pytest.raises(SoftLabelError, match=message):
            import_labels(tmp_path / "a.npz", tmp_path / "a.slc")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOSPC])
def test_a_failing_disk_is_no_damaged_file(tmp_path, monkeypatch, number):
    np.savez(tmp_path / "a.npz", keys=["a"], probs=np.full((1, 1, 4), 0.25, np.float32))

    def fails(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("zipfile.ZipFile", fails)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as found:
        import_labels(tmp_path / "a.npz", tmp_path / "a.slc", on_error="skip")
    assert found.value.errno == number


@pytest.mark.parametrize("format", SOURCES)
def test_several_processes_write_the_same_file(tmp_path, format, arrays, monkeypatch):
    monkeypatch.setattr(import_run, "_MOST_AT_ONCE", 2)  # so that there are several parts
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 6144)  # as other processes have it
    path = write_source(tmp_path, format, arrays)
    alone = import_labels(path, tmp_path / "a.slc")
    together = import_labels(path, tmp_path / "b.slc", workers=2)
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()
    assert (together.num_images, together.num_crops, together.notes) == (alone.num_images, alone.num_crops, alone.notes)


def test_images_larger_than_the_first_do_not_fill_the_memory(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(12):
            large = {"unused": np.zeros(2**25 if number else 1, np.uint8)}
            out = io.BytesIO()
            np.savez_compressed(out, probs=np.full((1, 4), 0.25, np.float32), crops=np.float32([[0, 0, 1, 1]]), **large)
            member = tarfile.TarInfo(f"{number}.labels.npz")
            member.size = len(out.getvalue())
            tar.addfile(member, io.BytesIO(out.getvalue()))
    tracemalloc.start()
    import_labels(tmp_path / "a.tar", tmp_path / "a.slc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**25


_IN_BACKGROUND = """
import os, signal, sys
from softlabel_codec.formats import import_labels, run

def interrupt(done, total):
    if done == 1:
        os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    run._MOST_AT_ONCE = 1
    print(import_labels(sys.argv[1], sys.argv[2], workers=1, progress=interrupt).num_images)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_processes_ignore_ctrl_c_if_the_import_does(tmp_path):
    np.savez(tmp_path / "a.npz", keys=[*"abcdefgh"], probs=np.full((8, 1, 4), 0.25, np.float32), crops=np.float32([[[0, 0, 1, 1]]] * 8))
    (tmp_path / "script.py").write_text(_IN_BACKGROUND)
    command = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "script.py", "a.npz", "a.slc"]
    done = subprocess.run(command, cwd=tmp_path, start_new_session=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
