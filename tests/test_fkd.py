"""Import of FKD's label files."""

import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import write_labels
from PIL import Image
from torch.utils.data import default_collate

from softlabel_codec import (
    ArgumentError,
    Codec,
    CorruptError,
    CropSampler,
    MismatchError,
    SoftLabelReader,
    SoftLabelWriter,
    StateError,
    writer,
)
from softlabel_codec.formats import export_labels, import_labels, run
from softlabel_codec.formats.fkd import import_fkd, label_codec, read_fkd_file
from softlabel_codec.formats.fkd.exporting import label_type_for
from softlabel_codec.formats.fractions import exact_crops
from softlabel_codec.formats.importing import Entry, Found, SourceImage
from softlabel_codec.formats.labels import Kind
from softlabel_codec.report import verify

TYPES = ["hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10", "marginal_renorm_k5"]


def fkd_labels(label_type, rng, num_crops, dtype=np.float32):
    """Return labels as FKD's generator arranges them."""
    codec = label_codec(label_type)
    if codec.name == "hard":
        return rng.integers(0, 1000, num_crops)
    k = codec.kept_classes
    classes = np.stack([rng.choice(1000, k, replace=False) for _ in range(num_crops)])
    values = -np.sort(-rng.dirichlet([0.3] * (k + 1), num_crops)[:, :k], axis=1)
    pairs = np.stack([classes, values], axis=1).astype(dtype)
    return pairs[:, :, 0] if codec.name == "smoothing" else pairs


@pytest.fixture
def fkd_folder(tmp_path):
    """Two label files and their images, f32 marginal smoothing."""
    rng = np.random.default_rng(0)
    for name, size in (("a.b", (375, 500)), ("c", (200, 100))):
        crops = np.array([[3, 7, 100, 90], [100, 50, 80, 50], [0, 0, *size]])
        fractions = (crops / np.array([*size, *size])).astype(np.float32)
        parts = [fractions, np.array([True, False, True]), fkd_labels("marginal_smoothing_k5", rng, 3)]
        path = tmp_path / "labels" / "train" / "n01" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(parts, path)
        image = tmp_path / "images" / "n01" / f"{name}.JPEG"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1]).save(image)
    return tmp_path


@pytest.mark.shared
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("label_type", TYPES)
def test_decoding_equals_fkds_own(shared, tmp_path, label_type, half, teacher_logits):
    name = label_type + ("_f16" if half else "")
    expected = np.load(shared / "interop" / "fkd" / "expected-dense-first5.npz")
    places = {str(key).removesuffix(".JPEG"): place for place, key in enumerate(teacher_logits["keys"])}
    for images in (None, shared / "data" / "imagenet-100" / "train"):
        report = import_fkd(shared / "interop" / "fkd" / name, tmp_path / "a.slc", label_type, images=images, overwrite=True)
        assert (report.num_images, report.num_crops, report.uncertain_crops) == (3, 120, 0)
        with SoftLabelReader(report.path) as reader:
            assert reader.crops == ("pixels" if images else "fractions:f16" if half else "fractions:f32")
            for key in reader.keys:
                np.testing.assert_allclose(reader[key].labels.dense()[:5], expected[f"{name}/{key}"], rtol=0, atol=1e-6)
                np.testing.assert_array_equal(reader[key].flips, teacher_logits["flips"][places[key]][:40])
                if images:
                    np.testing.assert_array_equal(reader[key].crops, teacher_logits["crops"][places[key]][:40])
        assert verify(report.path, deep=True).ok


def test_values_stay_as_they_are_unless_asked_otherwise(fkd_folder):
    report = import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5")
    assert report.codec == "marginal_smoothing:k=5,values=f32"
    raw = read_fkd_file(fkd_folder / "labels/train/n01/c.tar", label_codec("marginal_smoothing_k5"), 1000)
    with SoftLabelReader(fkd_folder / "a.slc") as reader:
        assert list(reader.keys) == ["n01/a.b", "n01/c"]
        assert reader.metadata["source"]["label_type"] == "marginal_smoothing_k5"
        np.testing.assert_array_equal(reader["n01/c"].crops, raw.crops)
        np.testing.assert_array_equal(reader["n01/c"].labels.values, raw.values)
        np.testing.assert_array_equal(reader["n01/c"].labels.indices, raw.indices)
    report = import_fkd(fkd_folder / "labels", fkd_folder / "b.slc", "marginal_smoothing_k5", codec="marginal_smoothing:k=3")
    with SoftLabelReader(fkd_folder / "b.slc") as reader:
        assert reader.codec == "marginal_smoothing:k=3"
        np.testing.assert_array_equal(reader["n01/c"].labels.indices, raw.indices[:, :3])


def test_pixels_come_back_with_the_images(fkd_folder):
    import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", images=fkd_folder / "images")
    with SoftLabelReader(fkd_folder / "a.slc") as reader:
        assert reader["n01/a.b"].crops.tolist() == [[3, 7, 100, 90], [100, 50, 80, 50], [0, 0, 375, 500]]
        assert reader["n01/c"].image_size == (200, 100)
    Image.new("RGB", (501, 375)).save(fkd_folder / "images/n01/a.b.JPEG")
    with pytest.raises(MismatchError, match=r"a\.b\.tar: crop 0: .* are not whole pixels of an image of 375 x 501"):
        import_fkd(fkd_folder / "labels", fkd_folder / "b.slc", "marginal_smoothing_k5", images=fkd_folder / "images")
    (fkd_folder / "images/n01/c.JPEG").rename(fkd_folder / "images/n01/d.JPEG")
    (fkd_folder / "images/n01/a.b.JPEG").unlink()
    with pytest.raises(MismatchError, match="no image for the key 'n01/a.b'"):
        import_fkd(fkd_folder / "labels", fkd_folder / "c.slc", "marginal_smoothing_k5", images=fkd_folder / "images")


def test_half_precision_fractions_of_large_images_are_counted():
    rng = np.random.default_rng(0)
    size = (3000, 4000)
    height, width = rng.integers(1000, 2900, 200), rng.integers(1000, 3900, 200)
    crops = np.stack([rng.integers(0, size[0] - height), rng.integers(0, size[1] - width), height, width], axis=1)
    fractions = crops / np.array([*size, *size])
    exact, uncertain = exact_crops(fractions.astype(np.float32), size)
    np.testing.assert_array_equal(exact, crops)
    assert uncertain == 0
    near, uncertain = exact_crops(fractions.astype(np.float16), size)
    assert uncertain > 100
    assert np.abs(near - crops).max() <= 2
    assert (near[:, :2] + near[:, 2:] <= np.array(size)).all()


@pytest.mark.parametrize("far", [3e38, -3e38, 1e20, 1e6])
@pytest.mark.filterwarnings("error")
def test_fractions_far_outside_are_refused(far):
    for column in range(4):
        fractions = np.float32([[0.125, 0.25, 0.5, 0.5]])
        fractions[0, column] = far
        with pytest.raises(MismatchError, match="are not whole pixels of an image of 48 x 64"):
            exact_crops(fractions, (48, 64))


@pytest.mark.parametrize(
    ("label_type", "message"),
    [
        ("marginal_smothing_k5", "expected one of hard"),
        ("hard_k3", "expected one of"),
        ("marginal_smoothing", "expected one of"),
        ("x", "expected"),
    ],
)
def test_unknown_label_types(label_type, message):
    with pytest.raises(ArgumentError, match=message):
        label_codec(label_type)


def test_label_types_name_codecs():
    assert label_codec("marginal_renorm") == label_codec("marginal_renorm_k5")
    assert label_codec("marginal_smoothing_k17") == Codec.parse("marginal_smoothing:k=17")


def save(path, parts):
    torch.save(parts, path)
    return path


GOOD = [np.zeros((2, 4), np.float32), np.zeros(2, bool), np.zeros((2, 2, 5), np.float32) + [[0], [0.2]] + [[0, 1, 2, 3, 4], [0] * 5]]


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([GOOD[0], GOOD[1]], CorruptError, "expected a list of crops, flips and labels"),
        ({"a": 1}, CorruptError, "expected a list of crops, flips and labels, got dict"),
        ([GOOD[0].astype(np.float64), *GOOD[1:]], CorruptError, "expected crops as float16 or float32"),
        ([GOOD[0][:, :3], *GOOD[1:]], CorruptError, "expected crops"),
        ([GOOD[0], GOOD[1][:1], GOOD[2]], CorruptError, r"expected flips as bool \(2,\)"),
        ([*GOOD[:2], GOOD[2][:, :, :4]], MismatchError, r"expected labels of shape \(2, 2, 5\) .* got float64 of shape \(2, 2, 4\)"),
        ([*GOOD[:2], GOOD[2][:, 0]], MismatchError, "expected labels of shape"),
        ([*GOOD[:2], GOOD[2] + 0.5], MismatchError, "expected class indices from 0 to 999"),
        ([*GOOD[:2], GOOD[2] + [[1000], [0]]], MismatchError, "expected class indices from 0 to 999, got 1000"),
    ],
)
def test_files_that_hold_something_else(tmp_path, parts, error, message):
    with pytest.raises(error, match=message):
        read_fkd_file(save(tmp_path / "a.tar", parts), label_codec("marginal_smoothing_k5"), 1000)


def test_half_precision_cannot_hold_many_classes(tmp_path):
    path = save(tmp_path / "a.tar", [*GOOD[:2], GOOD[2].astype(np.float16)])
    assert read_fkd_file(path, label_codec("marginal_smoothing_k5"), 2049).indices.shape == (2, 5)
    with pytest.raises(MismatchError, match="class indices above 2048 are not exact in float16"):
        read_fkd_file(path, label_codec("marginal_smoothing_k5"), 2050)


class Evil:
    def __reduce__(self):
        return print, ("code from the file ran",)


def test_code_in_a_file_never_runs(tmp_path, capsys):
    path = save(tmp_path / "a.tar", [*GOOD[:2], Evil()])
    with pytest.raises(CorruptError, match="not a label file that can be read without running code"):
        read_fkd_file(path, label_codec("hard"), 1000)
    (tmp_path / "b.tar").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CorruptError, match="not a "):
        read_fkd_file(tmp_path / "b.tar", label_codec("hard"), 1000)
    assert "ran" not in capsys.readouterr().out


def test_tensors_that_repeat_a_number_for_ever_are_refused(tmp_path):
    endless = torch.zeros(1).as_strided((2**40, 2, 5), (0, 0, 0))
    torch.save([torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool), endless], tmp_path / "a.tar")
    assert (tmp_path / "a.tar").stat().st_size < 3000
    with pytest.raises(CorruptError, match="claims more numbers than the file holds"):
        read_fkd_file(tmp_path / "a.tar", label_codec("marginal_smoothing_k5"), 1000)


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_truncated_files_are_named(tmp_path, keep):
    path = save(tmp_path / "a.tar", GOOD)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptError, match=r"a\.tar: not a "):
        read_fkd_file(path, label_codec("marginal_smoothing_k5"), 1000)


def test_damaged_files_are_fatal_or_skipped(fkd_folder):
    broken = fkd_folder / "labels/train/n01/b.tar"
    broken.write_bytes(b"PK")
    with pytest.raises(CorruptError, match=r"b\.tar"):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5")
    report = import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", on_error="skip", overwrite=True)
    assert (report.num_images, list(report.skipped)) == (2, ["n01/b"])
    with SoftLabelReader(fkd_folder / "a.slc") as reader:
        assert reader.summary["skipped_keys"] == ["n01/b"]


def test_folders_without_label_files(tmp_path, fkd_folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"expected label files <wnid>/<stem>\.tar"):
        import_fkd(tmp_path / "empty", tmp_path / "a.slc", "hard")
    twin = fkd_folder / "labels" / "val" / "n01"
    twin.mkdir(parents=True)
    (twin / "c.tar").write_bytes(b"")
    with pytest.raises(ArgumentError, match="have the key 'n01/c'"):
        import_fkd(fkd_folder / "labels", tmp_path / "a.slc", "hard")
    assert zipfile.is_zipfile(fkd_folder / "labels/train/n01/c.tar")


def test_the_first_file_may_be_the_damaged_one(fkd_folder):
    (fkd_folder / "labels/train/n01/a.a.tar").write_bytes(b"junk")
    report = import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", on_error="skip")
    assert (report.num_images, list(report.skipped)) == (2, ["n01/a.a"])
    with pytest.raises(CorruptError, match=r"a\.a\.tar"):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", overwrite=True)


def test_labels_that_cannot_be_are_skipped_too(fkd_folder):
    parts = torch.load(fkd_folder / "labels/train/n01/c.tar", weights_only=False)
    parts[2][0, 1, 0] = np.nan
    save(fkd_folder / "labels/train/n01/c.tar", parts)
    report = import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", on_error="skip")
    assert list(report.skipped) == ["n01/c"]
    assert "hold NaN or infinity" in report.skipped["n01/c"]


@pytest.mark.parametrize(("value", "message"), [([0.9, 0.9, 0, 0, 0], "sum to at most 1"), ([0.2, -0.1, 0, 0, 0], "negative")])
def test_labels_that_cannot_be_are_the_files_fault(fkd_folder, value, message):
    parts = torch.load(fkd_folder / "labels/train/n01/c.tar", weights_only=False)
    parts[2][0, 1] = value
    save(fkd_folder / "labels/train/n01/c.tar", parts)
    with pytest.raises(MismatchError, match=rf"c\.tar: its labels cannot be stored: .*{message}"):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5")


def test_wrong_arguments(fkd_folder):
    with pytest.raises(ArgumentError, match="on_error: expected fail or skip, got 'raise'"):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", on_error="raise")
    with pytest.raises(ArgumentError, match="the label files keep only 5 classes"):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", codec="marginal_smoothing:k=6")


def test_no_flipped_bit_changes_a_label_unnoticed(tmp_path):
    """torch.load itself would return other labels for many of these."""
    codec, path = label_codec("marginal_smoothing_k5"), save(tmp_path / "a.tar", GOOD)
    good, before = path.read_bytes(), read_fkd_file(path, codec, 1000)
    refused = 0
    for bit in np.random.default_rng(0).choice(8 * len(good), 400, replace=False).tolist():
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            after = read_fkd_file(path, codec, 1000)
        except CorruptError:
            refused += 1
            continue
        for name in ("crops", "flips", "indices", "values"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert refused > 200


def test_compressed_files_are_refused(tmp_path):
    path = save(tmp_path / "a.tar", GOOD)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.tar", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    with pytest.raises(CorruptError, match="it is compressed, but torch.save does not compress"):
        read_fkd_file(tmp_path / "b.tar", label_codec("marginal_smoothing_k5"), 1000)


def test_an_interrupted_import_continues(fkd_folder):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", progress=interrupt)
    assert import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5").num_images == 2
    import_fkd(fkd_folder / "labels", fkd_folder / "b.slc", "marginal_smoothing_k5")
    assert (fkd_folder / "a.slc").read_bytes() == (fkd_folder / "b.slc").read_bytes()


def test_a_key_that_fits_two_images(fkd_folder):
    Image.new("RGB", (5, 5)).save(fkd_folder / "images/n01/c.png")
    with pytest.raises(MismatchError, match=r"the key 'n01/c' matches several images: n01/c\.JPEG, n01/c\.png"):
        import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5", images=fkd_folder / "images")


def test_nobody_is_told_to_load_it_unsafely(tmp_path):
    path = save(tmp_path / "a.tar", [*GOOD[:2], Evil()])
    with pytest.raises(CorruptError) as caught:
        read_fkd_file(path, label_codec("hard"), 1000)
    assert "weights_only" not in str(caught.value)
    assert "it requires" in str(caught.value)


def write_images(folder, number, label_type="marginal_smoothing_k5", num_crops=20):
    """Write label files of so many images, each with labels of its own."""
    rng = np.random.default_rng(1)
    for image in range(number):
        fractions = rng.uniform(0, 0.5, (num_crops, 4)).astype(np.float32)
        path = folder / f"n{image % 3}" / f"{image}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save([fractions, rng.random(num_crops) < 0.5, fkd_labels(label_type, rng, num_crops)], path)
    return folder


@pytest.fixture
def short_parts(monkeypatch):
    """Parts of a few images, so that a small folder has several."""
    monkeypatch.setattr(run, "_MOST_AT_ONCE", 7)
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 6144)  # as other processes have it


def test_several_processes_write_the_same_file(tmp_path, short_parts):
    folder = write_images(tmp_path / "labels", 30)
    broken = folder / "n1" / "4.tar"
    broken.write_bytes(broken.read_bytes()[:-50])
    reports = [
        import_fkd(folder, tmp_path / f"{workers}.slc", "marginal_smoothing_k5", on_error="skip", workers=workers) for workers in (0, 1, 3)
    ]
    assert [(report.num_images, list(report.skipped)) for report in reports] == 3 * [(29, ["n1/4"])]
    assert len({(tmp_path / f"{workers}.slc").read_bytes() for workers in (0, 1, 3)}) == 1


@pytest.mark.parametrize("codec", [None, "marginal_smoothing:k=3", "marginal_renorm:t=0.1"])
def test_images_are_converted_together_as_they_are_alone(tmp_path, codec):
    folder = write_images(tmp_path / "labels", 20)
    import_fkd(folder, tmp_path / "a.slc", "marginal_smoothing_k5", codec=codec)
    with (
        SoftLabelReader(tmp_path / "a.slc") as reader,
        SoftLabelWriter(tmp_path / "b.slc", 1000, reader.codec, crops=reader.crops) as writer,
    ):
        for key in reader.keys:
            image = read_fkd_file(folder / f"{key}.tar", label_codec("marginal_smoothing_k5"), 1000)
            writer.add(key, crops=image.crops, flips=image.flips, indices=image.indices, values=image.values)
    with SoftLabelReader(tmp_path / "a.slc") as reader, SoftLabelReader(tmp_path / "b.slc") as alone:
        for one, other in zip(reader, alone, strict=True):
            np.testing.assert_array_equal(one.crops, other.crops)
            np.testing.assert_array_equal(one.flips, other.flips)
            np.testing.assert_array_equal(one.labels.dense(), other.labels.dense())


@pytest.mark.parametrize("workers", [0, 2])
def test_what_follows_a_bad_file_waits_for_it(tmp_path, short_parts, workers):
    """After a bad file is mended, the same call continues, and the file is what it would have been."""
    folder = write_images(tmp_path / "labels", 30, num_crops=200)
    import_fkd(folder, tmp_path / "whole.slc", "marginal_smoothing_k5")
    bad = folder / "n1" / "25.tar"
    good = bad.read_bytes()
    bad.write_bytes(good[:-50])
    with pytest.raises(CorruptError, match=r"25\.tar: not a label file"):
        import_fkd(folder, tmp_path / "a.slc", "marginal_smoothing_k5", workers=workers)
    assert (tmp_path / "a.slc.partial").stat().st_size > 100_000
    bad.write_bytes(good)
    import_fkd(folder, tmp_path / "a.slc", "marginal_smoothing_k5", workers=workers)
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "whole.slc").read_bytes()


def test_an_import_with_processes_that_was_killed_continues(tmp_path):
    folder = write_images(tmp_path / "labels", 60, num_crops=200)
    import_fkd(folder, tmp_path / "whole.slc", "marginal_smoothing_k5")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        "from softlabel_codec.formats import run\n"
        "from softlabel_codec.formats.fkd import import_fkd\n"
        "run._MOST_AT_ONCE = 8\n"
        "def kill(done, total):\n"
        "    if done == 20:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    import_fkd(sys.argv[1], sys.argv[2], 'marginal_smoothing_k5', workers=2, progress=kill)\n"
    )
    done = subprocess.run([sys.executable, script, folder, tmp_path / "a.slc"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL  # its pipes are closed, so that its processes have ended too
    assert import_fkd(folder, tmp_path / "a.slc", "marginal_smoothing_k5").num_images == 60
    with SoftLabelReader(tmp_path / "a.slc") as reader, SoftLabelReader(tmp_path / "whole.slc") as whole:
        assert list(reader.keys) == list(whole.keys)
        for one, other in zip(reader, whole, strict=True):
            np.testing.assert_array_equal(one.labels.dense(), other.labels.dense())


@pytest.mark.parametrize(
    ("name", "label_type"),
    [
        ("FKD_soft_label_500_crops_marginal_smoothing_k_5", "marginal_smoothing_k5"),
        ("FKD_efficientnet_l2_ns_475_marginal_smoothing_k5", "marginal_smoothing_k5"),
        ("FKD_soft_label_500_crops_marginal_smoothing_k_10", "marginal_smoothing_k10"),
        ("FKD_soft_label_500_crops_marginal_renorm_k_5", "marginal_renorm_k5"),
        ("FKD_soft_label_500_crops_smoothing", "smoothing"),
        ("FKD_soft_label_500_crops_hard", "hard"),
    ],
)
@pytest.mark.parametrize("below", [".", "imagenet", "imagenet/train"])
def test_releases_say_their_label_type_by_name(tmp_path, name, label_type, below):
    write_images(tmp_path / name / "imagenet" / "train", 2, label_type, num_crops=500)
    report = import_labels(tmp_path / name / below, tmp_path / "a.slc")
    assert (report.format, report.num_images, report.num_crops) == ("FKD", 2, 1000)
    with SoftLabelReader(report.path) as reader:
        assert reader.metadata["source"]["label_type"] == label_type
        assert Codec.parse(reader.codec) == replace(label_codec(label_type), values=Codec.parse(reader.codec).values)


@pytest.mark.parametrize("name", ["labels", "harder", "marginal_smoothing", "hard_photos"])
def test_other_names_do_not_say_it(tmp_path, name):
    write_images(tmp_path / name, 1)
    with pytest.raises(ArgumentError, match=r"neither FKD's files nor the folder's name say it: pass .* \(--label-type\)"):
        import_labels(tmp_path / name, tmp_path / "a.slc")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocol", ["arrays", "tensors", "views", "lists"])
def test_what_torch_saves_of_arrays_tensors_and_lists(tmp_path, old, protocol):
    crops, flips, labels = (np.array(part) for part in (GOOD[0] + 0.25, GOOD[1], GOOD[2].astype(np.float32)))
    tensors = [torch.from_numpy(part) for part in (crops, flips, labels)]
    batch = [torch.stack([torch.zeros_like(tensor), tensor]) for tensor in tensors]
    parts = {
        "arrays": [np.asfortranarray(crops), flips, labels],
        "tensors": tensors,
        "views": [batch[0][1], batch[1][1], batch[2].permute(1, 2, 3, 0)[..., 1]],
        "lists": [crops, flips.tolist(), labels],
    }[protocol]
    torch.save(parts, tmp_path / "a.tar", _use_new_zipfile_serialization=not old)
    if old and protocol in ("tensors", "views"):
        with pytest.raises(CorruptError, match="a tensor in a file of torch before 1.6; save it again"):
            read_fkd_file(tmp_path / "a.tar", label_codec("marginal_smoothing_k5"), 1000)
        return
    image = read_fkd_file(tmp_path / "a.tar", label_codec("marginal_smoothing_k5"), 1000)
    np.testing.assert_array_equal(image.crops, crops)
    np.testing.assert_array_equal(image.flips, flips)
    np.testing.assert_array_equal(image.values, labels[:, 1])


def test_label_files_are_read_without_torch(fkd_folder):
    code = (
        "import sys; sys.modules['torch'] = None; from softlabel_codec.formats import import_labels\n"
        "import_labels(*sys.argv[1:], format='fkd', label_type='marginal_smoothing_k5')"
    )
    subprocess.run([sys.executable, "-c", code, fkd_folder / "labels", fkd_folder / "a.slc"], check=True)
    assert len(SoftLabelReader(fkd_folder / "a.slc")) == 2


def test_a_pickle_that_grows_is_refused(tmp_path):
    """A few bytes that encode one long text again and again: it would take all memory."""
    text = b"X" + (10**6).to_bytes(4, "little") + 10**6 * b"a" + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02"
    pickled = b"\x80\x02]q\x03(" + text + encode + 50_000 * b"h\x01h\x00h\x02\x86R" + b"e."
    with zipfile.ZipFile(tmp_path / "a.tar", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with pytest.raises(CorruptError, match="encodes a text more than once"):
        read_fkd_file(tmp_path / "a.tar", label_codec("hard"), 1000)


# Export.

MARGINAL = ["marginal_smoothing:k=5", "marginal_smoothing:k=10", "marginal_renorm:k=3"]


def find_label(softlabel_path, image_path):
    """Return the labels of an image as FKD's `ImageFolder_FKD` finds them: three parts of its path, up to the first dot."""
    name = "/".join(str(image_path).split("/")[-3:]).split(".")[0] + ".tar"
    return torch.load(f"{softlabel_path}/{name}", map_location="cpu")  # with the arguments that FKD passes


def draw_crops(labels, number=4):
    """Return what FKD's data loader hands on: crops, flips, and labels as tensors in a batch."""
    crops, flips, targets = labels
    order = torch.randperm(len(targets))[:number]
    boxes = [[side.item() for side in crops[place]] for place in order]
    return order, boxes, [flips[place] == True for place in order], default_collate([targets[place] for place in order])  # noqa: E712


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "codec", ["hard", "smoothing", "marginal_smoothing:k=5", "marginal_smoothing:k=10", "marginal_renorm:k=3", "dense"]
)
def test_fkds_loader_reads_the_export(tmp_path, codec, half):
    codec = codec if codec == "hard" else f"{codec}{',' if ':' in codec else ':'}values={'f16' if half else 'f32'}"
    rng, keys = np.random.default_rng(0), ["n01/tench.JPEG", "n01/b.c.JPEG", "n02/b.png"]
    sizes = dict(zip(keys, [(375, 500), (64, 48), (1200, 900)], strict=True))
    with SoftLabelWriter(tmp_path / "a.slc", 300, codec) as labels:
        for key, size in sizes.items():
            crops, flips = CropSampler(seed=1).sample(key, size, range(30))
            probs = rng.dirichlet(np.full(300, 0.05), 30).astype(np.float32)
            labels.add(key, image_size=size, crops=crops, flips=flips, probs=probs)
    (tmp_path / "imagenet").mkdir()
    report = export_labels(tmp_path / "a.slc", tmp_path / "imagenet" / "train", format="fkd")
    assert (report.num_images, report.num_crops) == (3, 90)
    assert report.file_bytes == sum(path.stat().st_size for path in (tmp_path / "imagenet" / "train").rglob("*.tar"))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for key in keys:
            order, boxes, flips, targets = draw_crops(find_label(tmp_path / "imagenet", f"/data/imagenet/train/{key}"))
            image = reader.read(reader.keys.find(key), order.tolist())
            height, width = sizes[key]
            rounded = [[round(top * height), round(left * width), round(h * height), round(w * width)] for top, left, h, w in boxes]
            assert rounded == image.crops.tolist()
            assert [bool(flip) for flip in flips] == image.flips.tolist()
            dense = recovered(targets, reader.parsed_codec.name, 300)
            np.testing.assert_allclose(dense, image.labels.dense(), rtol=0, atol=2e-6)
    again = import_labels(
        tmp_path / "imagenet", tmp_path / "b.slc", label_type=label_type_for(Codec.parse(codec), False, ""), num_classes=300
    )
    assert again.codec == str(Codec.parse(codec))
    with SoftLabelReader(tmp_path / "a.slc") as reader, SoftLabelReader(tmp_path / "b.slc") as other:
        assert list(other.keys) == ["n01/b", "n01/tench", "n02/b"]
        for one, key in ((reader["n02/b.png"], "n02/b"), (reader["n01/tench.JPEG"], "n01/tench")):
            np.testing.assert_array_equal(one.labels.dense(), other[key].labels.dense())


def recovered(targets, name, num_classes):
    """Return targets of all classes of FKD's labels, float64 (N, C), after its paper."""
    if name == "dense":
        return targets.double().numpy()
    if name == "hard":
        return np.eye(num_classes)[targets.numpy()]
    classes, values = targets.double().numpy().reshape(len(targets), 2, -1).transpose(1, 0, 2)
    rest = np.maximum(0, 1 - values.sum(axis=1, keepdims=True)) / (num_classes - classes.shape[1])
    dense = np.tile(rest if "smoothing" in name else 0 * rest, num_classes)
    np.put_along_axis(dense, classes.astype(int), values, axis=1)
    return dense if "smoothing" in name else dense / dense.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("codec", ["marginal_smoothing:t=0.1", "marginal_smoothing:k=3,tail=10", "field"])
def test_labels_that_fkd_does_not_have(tmp_path, codec):
    write_labels(tmp_path / "a.slc", codec)
    with pytest.raises(ArgumentError, match=r"--dense"):
        export_labels(tmp_path / "a.slc", tmp_path / "train", format="fkd")
    assert not (tmp_path / "train").exists()
    assert not (tmp_path / "train.partial").exists()


@pytest.mark.parametrize("key", ["a.png", "x/n01/a.png", "n0.1/a.png", "n01/.a", "n01/a\0b.png"])
def test_images_whose_labels_fkds_loader_would_not_find(tmp_path, key):
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as labels:
        labels.add(key, image_size=(9, 9), crops=[[0, 0, 9, 9]], flips=[False], probs=np.full((1, 10), 0.1, np.float32))
    with pytest.raises(MismatchError, match=r"FKD's loader finds labels of an image in one folder"):
        export_labels(tmp_path / "a.slc", tmp_path / "train", format="fkd")
    assert [path.name for path in tmp_path.iterdir()] == ["a.slc"]


def test_images_that_would_share_a_label_file(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard") as labels:
        for key in ("n01/a.png", "n01/a.b.png"):
            labels.add(key, image_size=(9, 9), crops=[[0, 0, 9, 9]], flips=[False], probs=np.full((1, 10), 0.1, np.float32))
    with pytest.raises(MismatchError, match=r"'n01/a\.png' and 'n01/a\.b\.png' would have one label file n01/a\.tar"):
        export_labels(tmp_path / "a.slc", tmp_path / "train", format="fkd")


def test_an_export_replaces_no_folder(tmp_path, fkd_folder):
    import_fkd(fkd_folder / "labels", tmp_path / "a.slc", "marginal_smoothing_k5")
    kept = sorted((fkd_folder / "labels").rglob("*"))
    with pytest.raises(FileExistsError, match="remove it first"):
        export_labels(tmp_path / "a.slc", fkd_folder / "labels", format="fkd", overwrite=True)
    assert sorted((fkd_folder / "labels").rglob("*")) == kept


def test_an_interrupted_export_leaves_nothing_that_looks_finished(tmp_path, fkd_folder):
    import_fkd(fkd_folder / "labels", tmp_path / "a.slc", "marginal_smoothing_k5")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_labels(tmp_path / "a.slc", tmp_path / "train", format="fkd", progress=interrupt)
    assert not (tmp_path / "train").exists()
    assert export_labels(tmp_path / "a.slc", tmp_path / "train", format="fkd").num_images == 2


def test_what_an_export_of_an_import_gives_back(fkd_folder):
    """Fractions stay those of the source, bit by bit, and so do labels."""
    import_fkd(fkd_folder / "labels", fkd_folder / "a.slc", "marginal_smoothing_k5")
    report = export_labels(fkd_folder / "a.slc", fkd_folder / "train", format="fkd")
    assert any("--soft_label_type marginal_smoothing_k5" in line for line in report.lost)
    codec = label_codec("marginal_smoothing_k5")
    before, after = (read_fkd_file(fkd_folder / place / "n01/c.tar", codec, 1000) for place in ("labels/train", "train"))
    for name in ("crops", "flips", "indices", "values"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_files_of_another_precision_are_not_rounded(tmp_path):
    folder = write_images(tmp_path / "labels", 3)
    first = folder / "n0" / "0.tar"
    crops, flips, labels = torch.load(first, weights_only=False)
    torch.save([crops, flips, labels.astype(np.float16)], first)
    with pytest.raises(MismatchError, match=r"1\.tar: labels: expected float16, as in the first file, got float32"):
        import_fkd(folder, tmp_path / "a.slc", "marginal_smoothing_k5")


def test_members_that_overlap_are_refused(tmp_path):
    """Members within members: a small file would take the square of its size."""
    inner = b"".join(b"PK\x03\x04" + struct.pack("<5H3I2H", 0, 0, 0, 0, 0, 0, 0, 0, 10, 0) + b"a/%08d" % number for number in range(100))
    entries, size = b"", len(inner)
    for number in range(100):
        start, after = 40 * number, 40 * (number + 1)
        numbers = zlib.crc32(inner[after:]), size - after, size - after, 10, 0, 0, 0, 0, 0, start
        entries += b"PK\x01\x02" + struct.pack("<6H3I5H2I", *6 * [0], *numbers)
        entries += b"a/%08d" % number
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 100, 100, len(entries), size, 0)
    (tmp_path / "b.tar").write_bytes(inner + entries + end)
    with pytest.raises(CorruptError, match="the members of the archive overlap"):
        read_fkd_file(tmp_path / "b.tar", label_codec("hard"), 1000)


def test_a_number_too_large_for_any_array(tmp_path):
    large = b"\x8a\xff" + 255 * b"\x7f"
    pickled = b"\x80\x02](](" + b"G?\xf8" + bytes(6) + large + b"e]]e."
    with zipfile.ZipFile(tmp_path / "a.tar", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with pytest.raises(CorruptError, match="expected arrays of crops, flips and labels, got list"):
        read_fkd_file(tmp_path / "a.tar", label_codec("hard"), 1000)


class Dying:
    """A source whose second image ends the process that reads it."""

    found = Found("test", Kind("indices", 10, 1, None), 2, 2, "fractions:f32", 0, {})

    def entries(self):
        yield Entry("a", "a", partial(SourceImage, {"indices": np.zeros((1, 1), np.int64)}, np.zeros((1, 4), np.float32)))
        yield Entry("b", "b", partial(os._exit, 3))


def test_a_process_that_ends_unexpectedly(tmp_path, short_parts):
    with pytest.raises(StateError, match="a process of the import ended unexpectedly"):
        run.import_source(Dying(), tmp_path / "a.slc", workers=1)
