"""Writing and reading whole files."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from conftest import random_probs, write_labels

from softlabel_codec import (
    ArgumentError,
    Codec,
    CorruptError,
    FormatError,
    LimitError,
    MismatchError,
    SoftLabelReader,
    SoftLabelWriter,
    StateError,
    TruncatedError,
    recover,
)
from softlabel_codec import writer as writer_module
from softlabel_codec.block.families import label_quantiser
from softlabel_codec.container import builder as assembly
from softlabel_codec.container import files
from softlabel_codec.container.zstd_frames import store_columns
from softlabel_codec.report import verify
from softlabel_codec.sampler import CropSampler


def test_what_was_written_is_read(tmp_path):
    metadata = {"teacher": {"name": "größe", "sizes": [1, 2.5, None, True]}}
    written = write_labels(tmp_path / "a.slc", "marginal_smoothing:k=5,values=f32", metadata=metadata)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert (reader.num_classes, reader.codec, reader.metadata) == (20, "marginal_smoothing:k=5,values=f32", metadata)
        assert (len(reader), reader.num_crops.tolist()) == (4, [3, 1, 40, 7])
        assert reader.keys == list(written)
        assert "class0/image0.png" in reader
        assert "class0/image1.png" not in reader
        for number, (key, (crops, flips, probs)) in enumerate(written.items()):
            for image in (reader[key], reader[number], reader[number - 4]):
                np.testing.assert_array_equal(image.crops, crops)
                np.testing.assert_array_equal(image.flips, flips)
                np.testing.assert_array_equal(image.labels.indices, np.argsort(-probs, axis=1, kind="stable")[:, :5])
                assert image.image_size == (48, 64)
                assert image.num_crops == len(crops)


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("codec", ["hard", "marginal_smoothing:k=5", "marginal_smoothing:t=0.1,tail=4", "dense"])
def test_a_batch_of_one_image_is_like_one_of_a_larger_batch(tmp_path, codec, checksums):
    rng = np.random.default_rng(3)
    with SoftLabelWriter(tmp_path / "a.slc", 20, codec, crops="derived", sampler=CropSampler(seed=5), image_checksums=checksums) as writer:
        for number in range(3):
            probs = rng.dirichlet(np.ones(20), 30).astype(np.float32)
            writer.add(f"{number}.jpg", image_size=(60, 80 + number), probs=probs, image_crc32=number if checksums else None)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for crops in ([[7, 0, 29]], [list(range(20))], None):
            alone = reader.read_batch([1], crops=crops)
            beside = next(iter(reader.read_batch([1, 2], crops=None if crops is None else crops * 2)))
            assert (alone.images.tolist(), alone.image_sizes.tolist(), alone.num_crops.tolist()) == ([1], [[60, 81]], [beside.num_crops])
            (image,) = alone
            assert (image.image_size, image.image_crc32) == (beside.image_size, beside.image_crc32)
            np.testing.assert_array_equal(image.crops, beside.crops)
            np.testing.assert_array_equal(image.flips, beside.flips)
            np.testing.assert_array_equal(image.labels.dense(), beside.labels.dense())


def test_reading_chosen_crops_and_batches(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[30, 9, 200, 12, 15])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        rng = np.random.default_rng(0)
        for image in (0, 2, 4):
            whole = reader[image]
            for count in (0, 1, 4, 40):
                chosen = rng.integers(0, whole.num_crops, count)
                part = reader.read(image, crops=chosen)
                np.testing.assert_array_equal(part.crops, whole.crops[chosen])
                np.testing.assert_array_equal(part.labels.dense(), whole.labels[chosen].dense())
        images, crops = [4, 1, 1, "class2/image2.png"], rng.integers(0, 9, (4, 3))
        batch = reader.read_batch(images, crops)
        assert (batch.crops.shape, batch.num_crops.tolist()) == ((12, 4), [3] * 4)
        for image, chosen, found in zip(images, crops, batch, strict=True):
            np.testing.assert_array_equal(found.flips, reader.read(image, chosen).flips)
            np.testing.assert_array_equal(found.labels.dense(), reader.read(image, chosen).labels.dense())
        everything = reader.read_batch(range(5))
        assert everything.num_crops.tolist() == [30, 9, 200, 12, 15]
        for found, wanted in zip(everything, reader, strict=True):
            np.testing.assert_array_equal(found.labels.dense(), wanted.labels.dense())


def test_absent_images_and_crops(tmp_path):
    write_labels(tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        with pytest.raises(KeyError, match="no image with the key 'nowhere'"):
            reader["nowhere"]
        with pytest.raises(IndexError, match="expected -4 to 3, got 4"):
            reader[4]
        with pytest.raises(IndexError, match="expected 0 to 2, got"):
            reader.read(0, crops=[1, 3])
        with pytest.raises(IndexError, match="expected 0 to 0, got 2"):
            reader.read_batch([0, 1], [[0, 1], [0, 2]])
        with pytest.raises(IndexError, match="expected 0 to 2, got -1"):
            reader.read(0, crops=[-1] * 40)
        with pytest.raises(ArgumentError, match=r"expected integers of shape \(2, N\)"):
            reader.read_batch([0, 1], [[0, 1]])
        with pytest.raises(ArgumentError, match="expected at least one image"):
            reader.read_batch([])
        with pytest.raises(ArgumentError, match="expected a number or a key, got 1.5"):
            reader[1.5]


@pytest.mark.parametrize("counts", [[1] * 700, [20] * 30, [130, 1, 1, 127, 1, 300]])
def test_images_with_few_crops_share_blocks(tmp_path, counts):
    written = write_labels(tmp_path / "a.slc", counts=counts)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.container.trailer.num_blocks < len(counts)
        assert reader.keys == list(written)
        for key in list(written)[:: max(1, len(written) // 20)]:
            np.testing.assert_array_equal(reader[key].crops, written[key][0])


def test_keys_in_any_order_are_found(tmp_path):
    rng = np.random.default_rng(0)
    keys = [f"{number:05d}-é" for number in rng.permutation(10000)]
    write_labels(tmp_path / "a.slc", "hard", counts=[1] * len(keys), keys=keys)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.keys == keys
        for number in rng.integers(0, len(keys), 50).tolist():
            assert reader.keys.index(keys[number]) == number
            assert reader.keys[number] == keys[number]
        for absent in ("", "00000", "zzz", "05000-è", "\udc80"):
            assert absent not in reader.keys
        assert reader.keys[5:8] == keys[5:8]
        with pytest.raises(ValueError, match="not among the keys"):
            reader.keys.index("nowhere")
        with pytest.raises(IndexError, match="expected -10000 to 9999"):
            reader.keys[10000]


def test_an_empty_file_is_sound(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 10, "hard"):
        pass
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert (len(reader), list(reader.keys), list(reader), "a" in reader) == (0, [], [], False)


def test_the_largest_numbers(tmp_path):
    rng = np.random.default_rng(0)
    with SoftLabelWriter(tmp_path / "a.slc", 2**31, "marginal_smoothing:k=3,values=f32") as writer:
        crops = np.array([[0, 0, 65535, 65535], [65534, 65534, 1, 1], [0, 65534, 65535, 1]])
        classes = np.array([[2**31 - 1, 0, 5]] * 3)
        writer.add(
            "k" * 4096, image_size=(65535, 65535), crops=crops, flips=[True, False, True], indices=classes, values=[[0.5, 0.25, 0.125]] * 3
        )
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        image = reader["k" * 4096]
        np.testing.assert_array_equal(image.crops, crops)
        np.testing.assert_array_equal(image.labels.indices, classes)
        np.testing.assert_array_equal(reader.read(0, [2]).crops, crops[2:])
        np.testing.assert_allclose(image.labels.remainder, 0.125)
    with SoftLabelWriter(tmp_path / "b.slc", 5, "marginal_smoothing:k=2") as writer:
        crops, flips = CropSampler().sample("b", (300, 400), range(65535))
        probs = random_probs(rng, 65535, 5)
        writer.add("b", image_size=(300, 400), crops=crops, flips=flips, probs=probs)
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        np.testing.assert_array_equal(reader.read(0, [65534, 0]).crops, crops[[65534, 0]])
        np.testing.assert_array_equal(reader[0].flips, flips)


def test_many_kept_classes(tmp_path):
    probs = random_probs(np.random.default_rng(0), 2, 70000)
    with SoftLabelWriter(tmp_path / "a.slc", 70000, "marginal_smoothing:k=65535,values=f32") as writer:
        writer.add("a", image_size=(5, 5), crops=[[0, 0, 5, 5]] * 2, flips=[False] * 2, probs=probs)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        found = reader.read(0, [1]).labels
        np.testing.assert_array_equal(found.indices[0], np.argsort(-probs[1], kind="stable")[:65535])


def write_counts(path, images):
    """Write images of which each crop keeps so many classes."""
    with SoftLabelWriter(path, 70000, "marginal_smoothing:t=0.00004") as writer:
        for number, kept in enumerate(images):
            indices = np.tile(np.arange(max(kept) + 1), (len(kept), 1))
            values = np.where(indices < np.array(kept)[:, None], 1 / np.array(kept)[:, None], 0).astype(np.float32)
            crops = np.tile([0, 0, 1, 1], (len(kept), 1))
            writer.add(str(number), image_size=(1, 1), crops=crops, flips=np.zeros(len(kept), bool), indices=indices, values=values)


def test_a_block_is_not_a_table_of_mostly_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "TARGET_BYTES_PER_BLOCK", 10**9)
    write_counts(tmp_path / "a.slc", [[1] * 800, [5000], [1] * 37, [1]])
    with SoftLabelReader(tmp_path / "a.slc") as reader:  # 839 crops would make a table of 4195000
        assert np.diff(reader.container.index.first_images).tolist() == [3, 1]
        assert reader.read_batch([0, 1]).labels.counts.tolist() == [1] * 800 + [5000]
    assert verify(tmp_path / "a.slc", deep=True).ok
    write_counts(tmp_path / "b.slc", [[1] * 40000, [1] * 25535, [1] * 2])
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        assert np.diff(reader.container.index.first_images).tolist() == [2, 1]
    with pytest.raises(LimitError, match=r"900 crops, of which one keeps 5000 classes: use fewer crops, or keep fewer classes"):
        write_counts(tmp_path / "c.slc", [[5000] + [1] * 899])


def test_fractions(tmp_path):
    for mode, dtype in (("fractions:f32", np.float32), ("fractions:f16", np.float16)):
        crops = np.random.default_rng(0).random((5, 4)).astype(dtype)
        with SoftLabelWriter(tmp_path / f"{dtype.__name__}.slc", 10, "hard", crops=mode) as writer:
            writer.add("a", crops=crops, flips=[True] * 5, probs=random_probs(np.random.default_rng(0), 5, 10))
        with SoftLabelReader(tmp_path / f"{dtype.__name__}.slc") as reader:
            assert reader[0].crops.dtype == dtype
            np.testing.assert_array_equal(reader[0].crops, crops)
            np.testing.assert_array_equal(reader.read(0, [3]).crops, crops[3:4])
            assert reader[0].image_size == (0, 0)


GOOD = {"image_size": (10, 10), "crops": [[0, 0, 5, 5], [5, 5, 5, 5]], "flips": [True, False]}
PROBS = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
BAD_ARGUMENTS = [
    ({"probs": np.full((2, 3), np.nan)}, "probs: row 0: holds NaN or infinity"),
    ({"probs": np.array([[0.5, 0.3, 0.2], [1.2, -0.2, 0]])}, "probs: row 1: holds a negative probability"),
    ({"probs": np.array([[0.5, 0.3, 0.2], [3.0, 2.0, 1.0]])}, "row 1: expected probabilities that sum to 1 .*, got a sum of 6.*not logits"),
    ({"probs": np.array(PROBS)[:1]}, r"expected floats of shape \(2, 3\), got float64 of shape \(1, 3\)"),
    ({"probs": np.array(PROBS)[:, :2]}, r"expected floats of shape \(2, 3\)"),
    ({"probs": np.array([[1, 0, 0], [0, 1, 0]])}, "expected floats .*, got int64"),
    ({}, "expected probs, or indices and values, got no labels"),
    ({"probs": PROBS, "indices": [[0]]}, "got probs and indices"),
    ({"indices": np.array([[0, 3], [0, 1]]), "values": np.array([[0.5, 0.1]] * 2)}, "indices: row 0: holds a class outside 0..2"),
    ({"indices": np.array([[0, 1], [1, 1]]), "values": np.array([[0.5, 0.1]] * 2)}, "indices: row 1: holds a class twice"),
    (
        {"indices": np.array([[0, 1], [1, 2]]), "values": np.array([[0.5, 0.1], [0.9, 0.5]])},
        "values: row 1: expected probabilities that sum",
    ),
    ({"indices": np.array([[0], [1]]), "values": np.array([[0.5], [0.9]])}, "expected at least 2 classes per crop, got 1"),
    ({"indices": np.array([[0.0, 1], [1, 2]]), "values": np.array([[0.5, 0.1]] * 2)}, r"indices: expected integers of shape \(2, K\)"),
    ({"probs": PROBS, "crops": [[0, 0, 5, 5], [6, 5, 5, 5]]}, "crops: row 1: expected .* inside an image of 10 x 10 .*, got .6, 5, 5, 5"),
    ({"probs": PROBS, "crops": [[0, 0, 5, 5], [-1, 5, 5, 5]]}, "crops: row 1"),
    ({"probs": PROBS, "crops": [[0, 0, 0, 5], [0, 5, 5, 5]]}, "crops: row 0"),
    ({"probs": PROBS, "crops": [[0, 0, 0.5, 0.5]] * 2}, r"crops: expected integers of shape \(M, 4\), got float64"),
    ({"probs": PROBS, "crops": [0, 0, 5, 5]}, r"expected integers of shape \(M, 4\)"),
    ({"probs": PROBS, "flips": [0, 1]}, r"flips: expected bool of shape \(2,\), got int64"),
    ({"probs": PROBS, "flips": [True]}, r"flips: expected bool of shape \(2,\), got bool of shape \(1,\)"),
    ({"probs": PROBS, "image_size": None}, r"image_size: expected \(height, width\) in pixels, got None"),
    ({"probs": PROBS, "image_size": (10, 10, 3)}, "image_size: expected"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_wrong_arguments_are_named_and_nothing_is_lost(tmp_path, arguments, message):
    with SoftLabelWriter(tmp_path / "a.slc", 3, "marginal_smoothing:k=2") as writer:
        writer.add("good", probs=np.array(PROBS), **GOOD)
        with pytest.raises(ArgumentError, match=f"image 'bad': .*{message}"):
            writer.add("bad", **{**GOOD, **{name: value if name != "probs" else np.array(value) for name, value in arguments.items()}})
        writer.add("another", probs=np.array(PROBS), **GOOD)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == ["good", "another"]


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("good", ArgumentError, "an image with this key was added before"),
        ("", ArgumentError, "expected a non-empty str"),
        (7, ArgumentError, "expected a non-empty str, got 7"),
        ("\udc80", ArgumentError, "expected text that can be encoded as UTF-8"),
        ("x" * 4097, LimitError, "at most 4096 bytes of UTF-8, got 4097"),
    ],
)
def test_wrong_keys(tmp_path, key, error, message):
    with SoftLabelWriter(tmp_path / "a.slc", 3, "hard") as writer:
        writer.add("good", probs=np.array(PROBS), **GOOD)
        with pytest.raises(error, match=message):
            writer.add(key, probs=np.array(PROBS), **GOOD)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 1}, LimitError, "num_classes: expected 2 to 2147483648, got 1"),
        ({"num_classes": 2**31 + 1}, LimitError, "num_classes"),
        ({"num_classes": 10.0}, ArgumentError, "num_classes: expected an integer"),
        ({"num_classes": 4}, ArgumentError, "expected k <= 4, got 5"),
        ({"metadata": {"array": np.zeros(3)}}, ArgumentError, r"metadata\['array'\]: expected None, bool, .* got ndarray"),
        ({"metadata": {1: 2}}, ArgumentError, "expected keys of type str, got 1"),
        ({"metadata": {"a": float("nan")}}, ArgumentError, "expected a finite number"),
        ({"metadata": {"a": "x" * 2**24}}, LimitError, "metadata: expected at most 16777216 bytes"),
        ({"crops": "pixel"}, ArgumentError, "crops: expected one of pixels, .*, got 'pixel'"),
        ({"crops": "derived"}, ArgumentError, "expected a sampler with crops='derived', and only then"),
    ],
)
def test_wrong_arguments_of_a_writer_leave_nothing_behind(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        SoftLabelWriter(tmp_path / "a.slc", **{"num_classes": 10, "codec": "marginal_smoothing:k=5", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_an_exception_does_not_finish_the_file(tmp_path):
    path = tmp_path / "a.slc"

    def write_and_fail(writer):
        with writer:
            writer.add("a", probs=np.eye(20)[:1], image_size=(5, 5), crops=[[0, 0, 5, 5]], flips=[False])
            raise ZeroDivisionError("by zero")

    writer = SoftLabelWriter(path, 20, "hard")
    with pytest.raises(ZeroDivisionError, match="by zero"):
        write_and_fail(writer)
    assert not path.exists()
    assert (tmp_path / "a.slc.partial").exists()
    with pytest.raises(TruncatedError, match=r"a\.slc\.partial: an unfinished file\. .*slcodec recover"):
        SoftLabelReader(tmp_path / "a.slc.partial")
    with pytest.raises(StateError, match="an unfinished file is there. Continue it with resume=True"):
        SoftLabelWriter(path, 20, "hard")
    with pytest.raises(StateError, match="the writer is closed"):
        writer.add("b", probs=np.eye(20)[:1], image_size=(5, 5), crops=[[0, 0, 5, 5]], flips=[False])


def test_finished_files_are_not_replaced_by_accident(tmp_path):
    write_labels(tmp_path / "a.slc")
    before = (tmp_path / "a.slc").read_bytes()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_labels(tmp_path / "a.slc", seed=1)
    assert (tmp_path / "a.slc").read_bytes() == before
    reader = SoftLabelReader(tmp_path / "a.slc")
    wanted = reader[2].labels.dense()
    write_labels(tmp_path / "a.slc", seed=1, overwrite=True)
    assert (tmp_path / "a.slc").read_bytes() != before
    np.testing.assert_array_equal(reader[2].labels.dense(), wanted)  # the open reader still has the old file
    with pytest.raises(StateError, match="replaced after the reader was created"):
        pickle.loads(pickle.dumps(reader))
    reader.close()


def test_the_second_writer_is_refused(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 20, "hard"):
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(StateError, match="another writer is writing"):
                SoftLabelWriter(tmp_path / "a.slc", 20, "hard", **options)


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
    writer = SoftLabelWriter(tmp_path / "a.slc", 20, "hard")
    awake, say_awake = os.pipe()
    child = os.fork()
    if not child:
        os.write(say_awake, b".")
        signal.pause()
    try:
        os.read(awake, 1)
        writer.close()
        SoftLabelWriter(tmp_path / "a.slc", 20, "hard", resume=True).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_full_disk_loses_nothing_that_was_written(tmp_path):
    probs = random_probs(np.random.default_rng(0), 150, 20)
    crops, flips = CropSampler().sample("x", (48, 64), range(150))
    arguments = {"image_size": (48, 64), "crops": crops, "flips": flips, "probs": probs}
    writer = SoftLabelWriter(tmp_path / "a.slc", 20, "marginal_smoothing:k=5")
    writer.add("first", **arguments)
    whole = writer._file.length
    full = os.open("/dev/full", os.O_RDWR)
    real, writer._file._fd = writer._file._fd, full
    with pytest.raises(OSError, match="No space left on device; what was written before is kept"):
        writer.add("second", **arguments)
    os.close(real)
    with pytest.raises(StateError, match="the writer is failed"):
        writer.add("third", **arguments)
    assert (tmp_path / "a.slc.partial").stat().st_size == whole
    with SoftLabelWriter(tmp_path / "a.slc", 20, "marginal_smoothing:k=5", resume=True) as again:
        assert again.keys == ["first"]
        again.add("second", **arguments)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == ["first", "second"]


@pytest.mark.parametrize("counts", [[200] * 6, [30] * 40])
def test_a_killed_writer_continues_to_the_same_bytes(tmp_path, counts):
    write_labels(tmp_path / "whole.slc", counts=counts)
    whole = (tmp_path / "whole.slc").read_bytes()
    path = tmp_path / "again.slc"
    partial = tmp_path / "again.slc.partial"
    rng = np.random.default_rng(0)
    for cut in [0, 5, 40, *rng.integers(0, len(whole), 12).tolist()]:
        partial.write_bytes(whole[:cut])
        with SoftLabelWriter(path, 20, "marginal_smoothing:k=5", resume=True) as writer:
            done = len(writer)
            assert writer.keys == [f"class{number % 3}/image{number}.png" for number in range(done)]
            _add_from(writer, done, counts)
        assert path.read_bytes() == whole
        path.unlink()


def _add_from(writer, first, counts):
    """Add what `write_labels` adds, from an image on."""
    rng = np.random.default_rng(0)
    for number, count in enumerate(counts):
        key = f"class{number % 3}/image{number}.png"
        crops, flips = CropSampler(seed=0).sample(key, (48, 64), range(count))
        probs = random_probs(rng, count, 20)
        if number >= first:
            writer.add(key, image_size=(48, 64), crops=crops, flips=flips, probs=probs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 21}, "num_classes: expected 21, found 20"),
        ({"codec": "hard"}, "codec: expected hard, found marginal_smoothing:k=5"),
        ({"metadata": {"seed": 2}}, r"metadata\['seed'\]: expected 2, found None"),
        ({"crops": "fractions:f32"}, "crops: expected fractions:f32, found pixels"),
    ],
)
def test_an_unfinished_file_is_not_continued_with_other_arguments(tmp_path, arguments, message):
    write_labels(tmp_path / "a.slc")
    (tmp_path / "a.slc").rename(tmp_path / "a.slc.partial")
    with pytest.raises(MismatchError, match=f"was started with other arguments: {message}"):
        SoftLabelWriter(tmp_path / "a.slc", **{"num_classes": 20, "codec": "marginal_smoothing:k=5", "resume": True, **arguments})
    assert (tmp_path / "a.slc.partial").exists()


def test_recovering_whole_blocks(tmp_path):
    written = write_labels(tmp_path / "whole.slc", counts=[200] * 5)
    with SoftLabelReader(tmp_path / "whole.slc") as reader:
        ends = reader.container.index.starts.tolist()
    data = (tmp_path / "whole.slc").read_bytes()
    for length in (ends[3] - 1, ends[3], ends[3] + 1, ends[3] + 13, len(data) - 1):
        partial = tmp_path / "a.slc.partial"
        partial.write_bytes(data[:length])
        whole_blocks = sum(end <= length for end in ends[1:])
        result = recover(partial, tmp_path / "a.slc", overwrite=True)
        assert (result.num_images, result.num_blocks, result.unused_bytes) == (whole_blocks, whole_blocks, length - ends[whole_blocks])
        with SoftLabelReader(tmp_path / "a.slc") as reader:
            assert list(reader.keys) == list(written)[:whole_blocks]
            for key in reader.keys:
                np.testing.assert_array_equal(reader[key].crops, written[key][0])
        assert partial.read_bytes() == data[:length]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.slc", "a.slc.partial", "whole.slc"]
    with pytest.raises(FileExistsError, match="overwrite"):
        recover(partial, tmp_path / "a.slc")


def test_readers_pickle_small_and_threads_share_them(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[30] * 50)
    with SoftLabelReader(tmp_path / "a.slc", policy="renorm") as reader:
        data = pickle.dumps(reader)
        assert len(data) < 500
        with pickle.loads(data) as copy:
            np.testing.assert_array_equal(copy[7].labels.dense(), reader[7].labels.dense())
            assert copy[7].labels.policy == "renorm"
        wanted = [image.labels.dense() for image in reader]
        failures = []

        def read_all(seed):
            for number in np.random.default_rng(seed).permutation(50):
                if not np.array_equal(reader.read(number, list(range(30))).labels.dense(), wanted[number]):
                    failures.append(number)

        threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_a_closed_reader_says_so(tmp_path):
    write_labels(tmp_path / "a.slc")
    reader = SoftLabelReader(tmp_path / "a.slc")
    reader.close()
    reader.close()
    with pytest.raises(StateError, match="the file is closed"):
        reader[0]


def test_the_other_policy_and_the_number_of_classes(tmp_path):
    write_labels(tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as own, SoftLabelReader(tmp_path / "a.slc", policy="renorm") as other:
        np.testing.assert_array_equal(own[0].labels.with_policy("renorm").dense(), other[0].labels.dense())
        own.check_classes(20)
        with pytest.raises(MismatchError, match="expected labels of 1000 classes, got 20"):
            own.check_classes(1000)
    with pytest.raises(ArgumentError, match="expected one of uniform, renorm"):
        SoftLabelReader(tmp_path / "a.slc", policy="drop")


def test_fingerprints_tell_files_apart(tmp_path):
    write_labels(tmp_path / "a.slc")
    write_labels(tmp_path / "b.slc")
    write_labels(tmp_path / "c.slc", seed=1)
    first, same, other = (SoftLabelReader(tmp_path / f"{name}.slc").fingerprint for name in "abc")
    assert first == same != other
    assert json.loads(json.dumps(first)) == first


def test_derived_crops(tmp_path):
    sampler = CropSampler(seed=11, ratio=(0.5, 3.0))
    rng = np.random.default_rng(0)
    images = {f"{number}.jpg": ((40 + number, 90), random_probs(rng, 30, 20)) for number in range(9)}
    with SoftLabelWriter(tmp_path / "a.slc", 20, "marginal_smoothing:t=0.1", crops="derived", sampler=sampler) as writer:
        for key, (size, probs) in images.items():
            writer.add(key, image_size=size, probs=probs)
        crops, flips = sampler.sample("given.jpg", (50, 60), range(3))
        writer.add("given.jpg", image_size=(50, 60), crops=crops, flips=flips, probs=probs[:3])
        with pytest.raises(ArgumentError, match="image 'x': crops: expected those of the sampler, as crops are derived"):
            writer.add("x", image_size=(50, 60), crops=crops + 1, flips=flips, probs=probs[:3])
        with pytest.raises(ArgumentError, match="image 'x': flips: expected those of the sampler"):
            writer.add("x", image_size=(50, 60), flips=~flips, probs=probs[:3])
        with pytest.raises(LimitError, match="image 'x': crops: expected 1 to 65535 crops, got 0"):
            writer.add("x", image_size=(50, 60), probs=probs[:0])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        batch = reader.read_batch([8, 2], crops=[[0, 29], [7, 7]])
        for row, (image, crop) in enumerate([(8, 0), (8, 29), (2, 7), (2, 7)]):
            wanted, flips = sampler.sample(f"{image}.jpg", (40 + image, 90), [crop])
            for found in (reader.read(image, [crop]), reader[image]):
                place = 0 if found.num_crops == 1 else crop
                np.testing.assert_array_equal(found.crops[place], wanted[0])
                assert found.flips[place] == flips[0]
            np.testing.assert_array_equal(batch.crops[row], wanted[0])
            assert batch.flips[row] == flips[0]
    assert verify(tmp_path / "a.slc", deep=True).ok


def test_a_sampler_that_gives_other_crops_is_noticed(tmp_path, monkeypatch):
    with SoftLabelWriter(tmp_path / "a.slc", 20, "hard", crops="derived", sampler=CropSampler()) as writer:
        writer.add("a.jpg", image_size=(400, 300), probs=random_probs(np.random.default_rng(0), 200, 20))
    monkeypatch.setattr("softlabel_codec.sampler._MULTIPLIERS", (np.uint64(0xD2511F53), np.uint64(0xCD9E8D59)))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for _ in range(2):
            with pytest.raises(CorruptError, match="image 0: the crops that the sampler gives are not those that were labelled"):
                reader.read(0, [3])


def test_labels_with_a_tail(tmp_path):
    written = write_labels(tmp_path / "a.slc", "marginal_smoothing:t=0.1,tail=8")
    quantiser = label_quantiser(Codec.parse("marginal_smoothing:t=0.1,tail=8"), 20)
    with SoftLabelReader(tmp_path / "a.slc") as reader, SoftLabelReader(tmp_path / "a.slc", policy="uniform") as even:
        whole = reader.read_batch(range(len(reader))).labels
        for number, (_, _, probs) in enumerate(written.values()):
            wanted = quantiser.dequantise(quantiser.quantise({"probs": probs}, len(probs)), "tail")
            np.testing.assert_array_equal(reader[number].labels.dense(), wanted.dense())
            np.testing.assert_array_equal(reader.read(number, [0]).labels.dense(), wanted.dense()[:1])
            np.testing.assert_array_equal(whole[whole.tail_of == number].dense(), wanted.dense())
            np.testing.assert_array_equal(even[number].labels.dense(), wanted.with_policy("uniform").dense())


def test_a_longer_beginning_does_not_discard_what_was_written(tmp_path):
    writer = SoftLabelWriter(tmp_path / "a.slc", 10, "hard", {"teacher": "A"})
    classes = {"indices": [[1]] * 200, "values": [[1.0]] * 200}
    writer.add("a", image_size=(9, 9), crops=[[0, 0, 9, 9]] * 200, flips=[False] * 200, **classes)
    writer.close()
    before = (tmp_path / "a.slc.partial").read_bytes()
    with pytest.raises(MismatchError, match=r"metadata\['teacher'\]: expected 'BBB"):
        SoftLabelWriter(tmp_path / "a.slc", 10, "hard", {"teacher": "B" * 5000}, resume=True)
    assert (tmp_path / "a.slc.partial").read_bytes() == before


def test_somebody_elses_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "a.slc.partial").write_text("my notes")
    with pytest.raises(FormatError, match="a.slc.partial"):
        SoftLabelWriter(tmp_path / "a.slc", 10, "hard", resume=True)
    assert (tmp_path / "a.slc.partial").read_text() == "my notes"


def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"):
        SoftLabelWriter(tmp_path / "pipe", 10, "hard", overwrite=True)
    write_labels(tmp_path / "there.slc")
    (tmp_path / "link.slc").symlink_to("there.slc")
    write_labels(tmp_path / "link.slc", counts=[2], overwrite=True)
    assert (tmp_path / "link.slc").is_symlink()
    with SoftLabelReader(tmp_path / "there.slc") as reader:
        assert len(reader) == 1


def test_labels_that_compress_like_a_bomb_are_stored_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "max_content_bytes", lambda payload_length: 100)
    written = write_labels(tmp_path / "a.slc", counts=[3000, 5])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_array_equal(reader[0].crops, written[reader.keys[0]][0])
    assert verify(tmp_path / "a.slc", deep=True).ok


@pytest.mark.parametrize("size", [0, 1, 2**17, 2**17 + 1, 300_000])
def test_frames_without_compression(size):
    content = os.urandom(size)
    frame = store_columns([content[:7], content[7:]])
    assert len(frame) == len(content) + 14 + 3 * max(1, -(-size // 2**17))
    assert zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False) == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probs": [[0.5, 0.5], [1.0]]}, "probs: expected an array, got list that numpy cannot convert"),
        ({"crops": [[0, 0, 5, 5], [1]]}, "crops: expected an array, got list"),
        ({"flips": [[True], [True, False]]}, "flips: expected an array, got list"),
    ],
)
def test_ragged_arrays(tmp_path, arguments, message):
    good = {"probs": np.float32([[0.5, 0.5]] * 2), "crops": [[0, 0, 5, 5]] * 2, "flips": [True, False]}
    with SoftLabelWriter(tmp_path / "a.slc", 2, "hard") as writer, pytest.raises(ArgumentError, match=f"image 'x': {message}"):
        writer.add("x", image_size=(9, 9), **{**good, **arguments})


def test_a_reader_pickles_wherever_the_process_has_gone(tmp_path, monkeypatch):
    write_labels(tmp_path / "a.slc")
    monkeypatch.chdir(tmp_path)
    with SoftLabelReader("a.slc") as reader:
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(reader)) as again:
            assert len(again) == len(reader)


@pytest.mark.parametrize("policy", ["renorm", ""])
def test_policies_that_do_not_fit(tmp_path, policy):
    write_labels(tmp_path / "a.slc", "dense")
    with pytest.raises(ArgumentError, match="policy: labels of 'dense' have no remainder"):
        SoftLabelReader(tmp_path / "a.slc", policy=policy)


@pytest.mark.parametrize("skipped_keys", ["abc", [1, [2]], [None]])
def test_skipped_keys_that_are_none(tmp_path, skipped_keys):
    with SoftLabelWriter(tmp_path / "a.slc", 2, "hard") as writer:
        with pytest.raises(ArgumentError, match="skipped_keys: expected a sequence of str"):
            writer.finish(skipped_keys=skipped_keys)
        with pytest.raises(ArgumentError, match="skipped_keys: .* cannot be written as UTF-8"):
            writer.finish(skipped_keys=["good", "b\udcff.jpg"])
        writer.finish(skipped_keys=("gone",))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert reader.summary["skipped_keys"] == ["gone"]
        with pytest.raises(IndexError, match="there are no images"):
            reader[0]


def test_wrong_numbers_are_named(tmp_path):
    written = write_labels(tmp_path / "a.slc", "marginal_smoothing:k=5,tail=5")
    key = list(written)[1]
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        message = rf"a\.slc: image 1 \('{key}'\): crop number: expected 0 to 0, got "
        with pytest.raises(IndexError, match=message + "-1"):
            reader.read(1, [0, -1])
        with pytest.raises(IndexError, match=message + "7"):
            reader.read_batch(np.array([0, -3]), [[0, 1], [0, 7]])
        with pytest.raises(IndexError, match=message + str(10**30)):
            reader.read(1, [10**30])
        with pytest.raises(ArgumentError, match="crops: expected integers"):
            reader.read_batch([1], [[10**30]])
        with pytest.raises(IndexError, match="image number: expected -4 to 3, got 9"):
            reader.read_batch(np.array([0, 9]))


def test_threads_share_a_reader_of_derived_crops(tmp_path):
    sampler = CropSampler(seed=4)
    with SoftLabelWriter(tmp_path / "a.slc", 20, "hard", crops="derived", sampler=sampler) as writer:
        for number in range(1500):
            writer.add(f"{number}", image_size=(50, 60), probs=np.eye(20)[:2])
    wanted = [sampler.sample(f"{number}", (50, 60), range(2))[0].tolist() for number in range(1500)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            with SoftLabelReader(tmp_path / "a.slc") as reader, ThreadPoolExecutor(4) as pool:
                numbers = [0, 1499, 600, 1023, 512] * 4
                for number, image in zip(numbers, pool.map(reader.read, numbers), strict=True):
                    assert image.crops.tolist() == wanted[number]
    finally:
        sys.setswitchinterval(interval)


def test_crop_numbers_that_are_none(tmp_path):
    write_labels(tmp_path / "a.slc")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        for crops in (1, [0.5], "ab"):
            with pytest.raises(ArgumentError, match="crops: expected crop numbers"):
                reader.read(0, crops)


POSIX_ONLY = "fchmod fork O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK pread pwrite register_at_fork sched_getaffinity"
WITHOUT_POSIX = f"""
import os, sys
sys.modules["fcntl"] = None
for name in "{POSIX_ONLY}".split():
    vars(os).pop(name, None)
import softlabel_codec, softlabel_codec.cli.main
from softlabel_codec.report import inspect, stats, verify
path, new = sys.argv[1:]
with softlabel_codec.SoftLabelReader(path) as reader:
    print([image.labels.top1.tolist() for image in reader] == [part.labels.top1.tolist() for part in reader.read_batch(range(len(reader)))])
print(verify(path, deep=True).ok, inspect(path).num_images, stats(path).num_images)
try:
    softlabel_codec.SoftLabelWriter(new, 4, "hard")
except softlabel_codec.StateError as error:
    print(error)
"""


def test_systems_without_posix_calls_import_and_read(tmp_path):
    write_labels(tmp_path / "a.slc")
    command = [sys.executable, "-c", WITHOUT_POSIX, tmp_path / "a.slc", tmp_path / "b.slc"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    message = "label files can only be read on this system: it has no locks that are released when their process ends"
    assert done.stdout.splitlines() == ["True", "True 4 4", message]
    assert not (tmp_path / "b.slc.partial").exists()


def test_reading_without_positioned_reads(tmp_path, monkeypatch):
    write_labels(tmp_path / "a.slc", counts=[30, 9, 200, 12, 15])
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        wanted = [image.crops.tolist() for image in reader]
    monkeypatch.setattr(files, "_pread", files._seek_and_read)
    with SoftLabelReader(tmp_path / "a.slc") as reader, ThreadPoolExecutor(8) as threads:
        for number, image in zip(list(range(5)) * 40, threads.map(reader.read, list(range(5)) * 40), strict=True):
            assert image.crops.tolist() == wanted[number]
