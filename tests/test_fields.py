"""Label fields as users meet them: labels of any crop, crops without end, and what writers, copies and reports make of them."""

import json
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_labels
from dissect import Pieces
from label_sets import SHARDS, write_both
from reference import field_features
from vectors.invalid import Content

from softlabel_codec import (
    AllViews,
    ArgumentError,
    CorruptError,
    CropSampler,
    LimitError,
    MismatchError,
    Padding,
    SoftLabelReader,
    SoftLabelWriter,
    copy_labels,
    recover,
    writer,
)
from softlabel_codec.checks import limits
from softlabel_codec.cli.main import main
from softlabel_codec.quantise.field import features_of
from softlabel_codec.report import inspect, verify

NUM_CLASSES = 30
KEYS = ("n01/eel.jpg", "n01/größe.jpg", "n02/a.jpg", "n02/b.jpg", "z.jpg")
SIZES = ((60, 80), (50, 50), (90, 40), (333, 500), (1, 7))
COUNTS = (40, 12, 25, 1, 9)
SAMPLER = CropSampler(seed=5)
PIXELS, DERIVED, FRACTIONS = {}, {"crops": "derived", "sampler": SAMPLER}, {"crops": "fractions:f32"}
PADDED = {**DERIVED, "padding": Padding(4)}


def smooth_probs(key, edges):
    """Return labels of an image's crops (M, C) that follow their edges (M, 4): top, left, bottom, right as fractions of the image."""
    rng = np.random.default_rng(list(key.encode()))
    weights = np.concatenate([rng.normal(0, 2, (1, NUM_CLASSES)), rng.normal(0, 0.7, (4, NUM_CLASSES))])
    logits = features_of(edges)[:, :5] @ weights
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def edges_in(crops, size):
    """Return the edges of crops in pixels as fractions of an image of this size."""
    corners = np.concatenate([crops[:, :2], crops[:, :2] + crops[:, 2:]], axis=1)
    return corners / np.tile(size, 2)


def add_image(writer, key, size, count, padding=0, fractions=False, derived=False):
    padded = (size[0] + 2 * padding, size[1] + 2 * padding)
    crops, flips = SAMPLER.sample(key, padded, range(count))
    labels = {"probs": smooth_probs(key, edges_in(crops, padded))}
    if fractions:
        return writer.add(key, crops=(crops / np.tile(size, 2)).astype(np.float32), flips=flips, **labels)
    return writer.add(key, image_size=size, **({} if derived else {"crops": crops, "flips": flips}), **labels)


def write_fields(path, codec="field", images=range(5), **options):
    """Write a file of fields: of crops in pixels, unless `options` say otherwise."""
    crops = options.get("crops", "pixels")
    how = {"fractions": crops.startswith("fractions"), "derived": crops == "derived"}
    with SoftLabelWriter(path, NUM_CLASSES, codec, **options) as writer:
        for image in images:
            padding = options["padding"].pixels if "padding" in options else 0
            add_image(writer, KEYS[image], SIZES[image], COUNTS[image], padding, **how)
    return path


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return write_fields(tmp_path_factory.mktemp("pixels") / "a.slc")


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    return write_fields(tmp_path_factory.mktemp("derived") / "a.slc", **DERIVED)


def same(found, wanted):
    """Check that labels are the same, bit for bit, but for padding."""
    np.testing.assert_array_equal(found.dense(), wanted.dense())
    np.testing.assert_array_equal(found.top1, wanted.top1)
    np.testing.assert_array_equal(found.remainder, wanted.remainder)


# Labels of any crop


@pytest.mark.parametrize("options", [PIXELS, DERIVED, PADDED, FRACTIONS])
def test_labels_at_the_stored_crops_are_those_that_are_read(tmp_path, options):
    with SoftLabelReader(write_fields(tmp_path / "a.slc", **options)) as reader:
        for number, image in enumerate(reader):
            found = reader.labels_at([number], image.crops[None], image.flips[None])
            same(found.labels, image.labels)
            np.testing.assert_array_equal(found.crops, image.crops)
            np.testing.assert_array_equal(found.flips, image.flips)
            assert found.crops.dtype == (np.float64 if options is FRACTIONS else np.int32)
            assert (found.images.tolist(), found.num_crops.tolist()) == ([number], [image.num_crops])
            assert found.image_sizes.tolist() == [list(image.image_size)]


def test_labels_are_near_those_of_the_teacher(pixels):
    """Of crops that it saw, and of others."""
    with SoftLabelReader(pixels) as reader:
        for number, others in ((0, range(1000, 1100)), (0, range(40))):
            crops, _ = SAMPLER.sample(KEYS[number], SIZES[number], others)
            teacher = smooth_probs(KEYS[number], edges_in(crops, SIZES[number]))
            found = reader.labels_at([number], crops[None]).labels.dense()
            divergence = (teacher * np.log(teacher / found)).sum(axis=1)
            assert divergence.mean() < 0.2
            constant = (teacher * np.log(teacher / teacher.mean(axis=0))).sum(axis=1)
            assert divergence.mean() < 0.3 * constant.mean()


def test_labels_of_crops_of_several_images(pixels):
    """In any order, by number from either end or by key, an image more than once; each as if it were alone."""
    images = ["n02/a.jpg", 0, -1, "n01/eel.jpg", np.int64(3)]
    numbers = [2, 0, 4, 0, 3]
    crops = np.array([[[0, 0, 1, 1], [number % 2, 0, 1, 7]] for number in numbers])
    crops[2, 1] = [0, 0, 1, 7]
    flips = np.arange(10).reshape(5, 2) % 3 == 0
    with SoftLabelReader(pixels) as reader:
        batch = reader.labels_at(images, crops, flips)
        assert (batch.images.tolist(), batch.num_crops.tolist()) == (numbers, [2] * 5)
        assert batch.image_sizes.tolist() == [list(SIZES[number]) for number in numbers]
        np.testing.assert_array_equal(batch.crops, crops.reshape(-1, 4))
        np.testing.assert_array_equal(batch.flips, flips.reshape(-1))
        for number, image, boxes in zip(numbers, batch, crops, strict=True):
            same(image.labels, reader.labels_at([number], boxes[None]).labels)
        by_numbers = reader.labels_at(np.array(numbers, np.uint8), crops)
        same(by_numbers.labels, batch.labels)
        assert not by_numbers.flips.any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_crops_as_fractions_are_those_in_pixels(pixels, dtype):
    crops = np.array([[[0, 0, 64, 250], [16, 125, 32, 250], [333 - 32, 0, 32, 500]]])
    if dtype == np.float16:
        crops = crops[:, :2]  # the last one ends beyond the edge as float16
    fractions = (crops / np.array([333, 500, 333, 500])).astype(dtype)
    with SoftLabelReader(pixels) as reader:
        found = reader.labels_at(["n02/b.jpg"], fractions)
        tolerance = {np.float64: 1e-5, np.float32: 1e-4, np.float16: 0.05}[dtype]
        np.testing.assert_allclose(found.labels.dense(), reader.labels_at([3], crops).labels.dense(), rtol=tolerance)
        assert found.crops.dtype == np.float64


def test_many_crops_of_one_image(pixels):
    crops, _ = SAMPLER.sample("any", SIZES[0], range(3000))
    with SoftLabelReader(pixels) as reader:
        many = reader.labels_at([0], crops[None].astype(np.uint16)).labels
        assert len(many) == 3000
        same(many[[7, 2999]], reader.labels_at([0], crops[None, [7, 2999]]).labels)


def test_crops_in_the_padding(tmp_path):
    with SoftLabelReader(write_fields(tmp_path / "a.slc", **PADDED)) as reader:
        whole, corner = [0, 0, 68, 88], [64, 80, 4, 8]
        labels = reader.labels_at([0], [[whole, corner]]).labels
        same(labels, reader.labels_at([0], [[[0.0, 0.0, 1.0, 1.0], [64 / 68, 80 / 88, 4 / 68, 8 / 88]]]).labels)
        message = r"image 0 \('n01/eel.jpg'\): crop 1: expected top, left, height, width inside an image of 60 x 80 pixels "
        with pytest.raises(ArgumentError, match=message + r"\(height x width\) and its padding of 4, got \[64, 80, 5, 8\]"):
            reader.labels_at([0], [[whole, [64, 80, 5, 8]]])


@pytest.mark.parametrize(
    "crop",
    [[0, 0, 61, 80], [0, 0, 60, 81], [-1, 0, 5, 5], [0, -1, 5, 5], [59, 0, 2, 1], [0, 79, 1, 2], [2**31, 0, 1, 1], [-(2**31), 0, 1, 1]],
)
def test_crops_outside_of_the_image_are_refused(pixels, crop):
    with SoftLabelReader(pixels) as reader:
        reader.labels_at([1, 0], [[[0, 0, 1, 1]], [[0, 0, 60, 80]]])
        message = re.escape(f"{pixels}: image 0 ('n01/eel.jpg'): crop 0: expected top, left, height, width inside an image of 60 x 80")
        with pytest.raises(ArgumentError, match=message):
            reader.labels_at([1, 0], [[[0, 0, 1, 1]], [crop]])


@pytest.mark.parametrize("crop", [[0, 0, 1.001, 1], [0.5, 0, 0.51, 1], [-0.001, 0, 1, 1], [0, 60, 0.5, 20.0]])
def test_fractions_outside_of_the_image_are_refused(pixels, crop):
    with SoftLabelReader(pixels) as reader:
        reader.labels_at([0], [[[0.1, 0.2, 0.9, 0.8 + 1e-7]]])
        with pytest.raises(ArgumentError, match="inside the image, as fractions of it, got"):
            reader.labels_at([0], [[crop]])


SHAPE = "crops: expected top, left, height, width in pixels (integers) or fractions (floats) of shape (2, N, 4), got "


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        ([[0, 0, 1, 1]] * 2, SHAPE + "int64 of shape (2, 4)"),
        ([[[0, 0, 1]]] * 2, SHAPE + "int64 of shape (2, 1, 3)"),
        ([[[0, 0, 1, 1]]] * 3, SHAPE + "int64 of shape (3, 1, 4)"),
        (np.zeros((2, 0, 4)), SHAPE + "float64 of shape (2, 0, 4)"),
        (np.ones((2, 1, 4), bool), SHAPE + "bool of shape (2, 1, 4)"),
        (np.ones((2, 1, 4), complex), SHAPE + "complex128 of shape (2, 1, 4)"),
        ([[["a"] * 4]] * 2, SHAPE + "<U1 of shape (2, 1, 4)"),
        ([[[0, 0, 1, 1]], [[0, 0, 0, 1]]], "crops: row 1, crop 0: expected finite numbers, height and width above 0, got [0, 0, 0, 1]"),
        ([[[0, 0, 1, -1]]] * 2, "crops: row 0, crop 0: expected finite numbers, height and width above 0, got [0, 0, 1, -1]"),
        ([[[0, 0.5, 1, np.nan]]] * 2, "crops: row 0, crop 0: expected finite numbers, height and width above 0, got [0.0, 0.5, 1.0, nan]"),
        ([[[-np.inf, 0.5, 1, 1]]] * 2, "crops: row 0, crop 0: expected finite numbers"),
        ([[[2**40, 0, 1, 1]]] * 2, "crops: row 0, crop 0: expected finite numbers"),
        ([[[0, 0, 1, 1]], [[0, 0]]], "crops: expected an array, got list that numpy cannot convert"),
    ],
)
def test_crops_of_other_shapes_or_types_are_refused(pixels, crops, message):
    with SoftLabelReader(pixels) as reader, pytest.raises(ArgumentError, match=re.escape(message)):
        reader.labels_at([0, 1], crops)


@pytest.mark.parametrize("flips", [[[True]], [True, False], np.zeros((2, 1), int), [[[True]], [[False]]]])
def test_flips_of_other_shapes_or_types_are_refused(pixels, flips):
    with SoftLabelReader(pixels) as reader, pytest.raises(ArgumentError, match=r"flips: expected bool of shape \(2, 1\), got"):
        reader.labels_at([0, 1], [[[0, 0, 1, 1]]] * 2, flips)


def test_images_that_are_not_there(pixels):
    crop = [[[0, 0, 1, 1]]]
    with SoftLabelReader(pixels) as reader:
        with pytest.raises(KeyError, match="no image with the key 'gone.jpg'"):
            reader.labels_at(["gone.jpg"], crop)
        for number in (5, -6):
            with pytest.raises(IndexError, match=f"image number: expected -5 to 4, got {number}"):
                reader.labels_at([number], crop)
        with pytest.raises(ArgumentError, match="image: expected a number or a key, got 1.5"):
            reader.labels_at([1.5], crop)
        with pytest.raises(ArgumentError, match=re.escape(SHAPE.replace("2, N", "0, N"))):
            reader.labels_at([], np.zeros((0, 1, 4), int))


@pytest.mark.parametrize("codec", ["hard", "marginal_smoothing:k=5", "dense"])
def test_other_codecs_know_no_other_crops(tmp_path, codec):
    write_labels(tmp_path / "a.slc", codec)
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert not reader.any_crop
        for use in (
            lambda: reader.labels_at([0], [[[0, 0, 1, 1]]]),
            lambda: reader.fields([0]),
            lambda: reader.draw([0], 1, sampler=SAMPLER),
        ):
            with pytest.raises(ArgumentError, match=rf"expected label fields.*\(codec='field'\); '{codec}' holds those of certain crops"):
                use()


def test_images_of_unknown_sizes_take_fractions(tmp_path):
    with SoftLabelReader(write_fields(tmp_path / "a.slc", **FRACTIONS)) as reader:
        assert reader.read(0).image_size == (0, 0)
        assert len(reader.labels_at([0], [[[0.5, 0.5, 0.25, 0.5]]]).labels) == 1
        with pytest.raises(
            ArgumentError, match=r"crops: expected fractions \(floats\) of images whose sizes the file does not know, got int64"
        ):
            reader.labels_at([0], [[[0, 0, 1, 1]]])
        with pytest.raises(ArgumentError, match="sampler: expected a file that knows the sizes of its images"):
            reader.draw([0], 1, sampler=SAMPLER)


def test_a_set_gives_the_labels_of_a_file(tmp_path):
    folder, whole = write_both(tmp_path, codec="field", crops="derived", sampler=SAMPLER)
    keys = [key for keys in SHARDS for key in keys]
    crops = np.tile([[3, 5, 20, 30], [0, 0, 48, 64]], (len(keys), 1, 1))
    with SoftLabelReader(folder) as reader, SoftLabelReader(whole) as file:
        assert reader.any_crop
        same(reader.labels_at(keys[::-1], crops).labels, file.labels_at(keys[::-1], crops).labels)
        same(reader.read_batch(keys, np.full((len(keys), 2), 10**6)).labels, file.read_batch(keys, np.full((len(keys), 2), 10**6)).labels)
        same(reader.draw([3, 1], 5, seed=7, epoch=3).labels, file.draw([3, 1], 5, seed=7, epoch=3).labels)
        same(reader.draw([3, 1], 5, sampler=SAMPLER).labels, file.draw([3, 1], 5, sampler=SAMPLER).labels)
        for mine, theirs in zip(reader.fields(keys), file.fields(keys), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_pickled_reader_gives_the_same_labels(derived):
    with SoftLabelReader(derived) as reader, pickle.loads(pickle.dumps(reader)) as other:
        assert other.any_crop
        same(other.labels_at([1, 2], [[[0, 0, 9, 9]]] * 2).labels, reader.labels_at([1, 2], [[[0, 0, 9, 9]]] * 2).labels)


def damage(path, block):
    """Change a byte of a block's payload, and return the numbers of its images."""
    with SoftLabelReader(path) as reader:
        start, first = int(reader.container.index.starts[block]), reader.container.index.first_images[block : block + 2].tolist()
    data = bytearray(path.read_bytes())
    data[start + 30] ^= 1
    path.write_bytes(data)
    return list(range(*first))


def test_images_of_damaged_blocks_are_left_out_if_the_caller_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TARGET_BYTES_PER_BLOCK", 100)
    path = write_fields(tmp_path / "a.slc", **DERIVED)
    with SoftLabelReader(path) as reader:
        assert reader.container.trailer.num_blocks >= 3
        crops = np.array([[[0, 0, 1, 1]], [[0, 0, 2, 2]], [[0, 0, 3, 3]], [[0, 0, 4, 4]]])
        sound = [reader.labels_at([number], crops[number][None]).labels for number in range(4)]
    lost = damage(path, 1)
    kept = [number for number in range(4) if number not in lost]
    with SoftLabelReader(path) as reader, pytest.raises(CorruptError, match="block 1 at byte"):
        reader.labels_at(range(4), crops)
    for use in (lambda reader: reader.labels_at(range(4), crops), lambda reader: reader.draw(range(4), 2, sampler=SAMPLER)):
        with SoftLabelReader(path, on_corrupt="skip") as reader:
            found = use(reader)
            assert found.images.tolist() == kept
            assert reader.damaged_images == [number for number in lost if number < 4]
            with pytest.raises(CorruptError, match="block 1 at byte"):
                reader.labels_at(lost[:1], crops[:1])
    with SoftLabelReader(path, on_corrupt="skip") as reader:
        for image, number in zip(reader.labels_at(range(4), crops), kept, strict=True):
            same(image.labels, sound[number])
            assert image.crops.tolist() == crops[number].tolist()


def test_labels_from_the_fields_themselves(pixels):
    """What `fields` returns is what section 4 of field-v1.md needs."""
    crops = np.array([[[0.1, 0.2, 0.5, 0.3], [0.0, 0.0, 1.0, 1.0]]] * 2)
    with SoftLabelReader(pixels) as reader:
        classes, weights = reader.fields([2, "z.jpg"])
        assert (classes.dtype, weights.dtype, weights.shape) == (np.int32, np.float32, (2, 8, classes.shape[1]))
        wanted = reader.labels_at([2, 4], crops).labels.dense().reshape(2, 2, -1)
    for image, crop in np.ndindex(2, 2):
        top, left, height, width = crops[image, crop]
        logits = np.zeros(NUM_CLASSES)
        listed = classes[image] >= 0
        logits[classes[image, listed]] = (field_features([top, left, top + height, left + width]) @ weights[image])[listed]
        assert (weights[image][:, ~listed] == 0).all()
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), wanted[image, crop], rtol=1e-4)


def test_fields_at_another_temperature(tmp_path):
    """All logits are divided by it (field-v1.md, section 4)."""
    path = write_fields(tmp_path / "a.slc", metadata={"temperature": 2.0}, **DERIVED)
    boxes = [[[0, 0, 20, 30], [0, 0, 50, 50]]] * 2
    with SoftLabelReader(path) as reader, SoftLabelReader(path, temperature=8.0) as softer:
        for use in (
            lambda labels: labels.labels_at([1, 0], boxes),
            lambda labels: labels.read(0, [0, 10**6]),
            lambda labels: labels.read(1),
        ):
            powers = use(reader).labels.dense().astype(np.float64) ** 0.25
            np.testing.assert_allclose(use(softer).labels.dense(), powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
            assert use(softer).labels.top1.tolist() == use(reader).labels.top1.tolist()
        np.testing.assert_allclose(softer.fields([0])[1], reader.fields([0])[1] / 4, rtol=1e-6)


# Crops without end


def test_derived_crops_never_end(derived):
    numbers = [0, 39, 40, 10**6, 2**32 - 1]
    with SoftLabelReader(derived) as reader:
        assert reader.any_crop
        assert (reader.num_crops.tolist(), reader.read(0).num_crops) == (list(COUNTS), 40)
        crops, flips = SAMPLER.sample(KEYS[0], SIZES[0], numbers)
        wanted = reader.labels_at([0], crops[None], flips[None])
        for found in (reader.read(0, numbers), reader.read_batch([0], [numbers])):
            np.testing.assert_array_equal(found.crops, crops)
            np.testing.assert_array_equal(found.flips, flips)
            same(found.labels, wanted.labels)
        batch = reader.read_batch([4, "n01/eel.jpg", 3], np.tile(numbers, (3, 1)))
        same(list(batch)[1].labels, wanted.labels)
        np.testing.assert_array_equal(list(batch)[2].crops, SAMPLER.sample(KEYS[3], SIZES[3], numbers)[0])


def test_there_are_2_to_the_32nd_crops(derived):
    with SoftLabelReader(derived) as reader:
        for wrong in (2**32, -1, 2**62):
            for use in (
                lambda number=wrong: reader.read(0, [3, number]),
                lambda number=wrong: reader.read_batch([1, 0], [[3, 3], [3, number]]),
            ):
                with pytest.raises(IndexError, match=f"crop number: expected 0 to 4294967295, got {wrong}"):
                    use()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("field", PIXELS),
        ("field", FRACTIONS),
        ("field", {"crops": "derived", "sampler": AllViews(1, 7)}),
        ("marginal_smoothing:k=5", DERIVED),
        ("dense", DERIVED),
    ],
)
def test_other_crops_end(tmp_path, codec, options):
    images = [0, 3] if isinstance(options.get("sampler"), AllViews) else range(5)
    path = tmp_path / "a.slc"
    if isinstance(options.get("sampler"), AllViews):
        with SoftLabelWriter(path, NUM_CLASSES, codec, **options) as writer:
            for image in images:
                crops, _ = options["sampler"].sample(KEYS[image], SIZES[image], range(20))
                writer.add(KEYS[image], image_size=SIZES[image], probs=smooth_probs(KEYS[image], edges_in(crops, SIZES[image])))
    else:
        write_fields(path, codec, **options)
    with SoftLabelReader(path) as reader:
        assert not reader.any_crop
        last = int(reader.num_crops[0]) - 1
        reader.read(0, [last])
        with pytest.raises(IndexError, match=f"crop number: expected 0 to {last}, got {last + 1}"):
            reader.read(0, [last + 1])
        with pytest.raises(IndexError, match=f"crop number: expected 0 to {last}, got {last + 1}"):
            reader.read_batch([0], [[last + 1]])
        if codec == "field" and "sampler" in options:  # all views have labels, and any other crop of a caller too
            views, flips = options["sampler"].sample(KEYS[0], SIZES[0], [19, 7])
            same(reader.labels_at([0], views[None], flips[None]).labels, reader.read(0, [19, 7]).labels)


@pytest.mark.parametrize("codec", ["hard", "marginal_smoothing:k=5", "marginal_smoothing:t=0.1,tail=9", "dense", "field"])
@pytest.mark.parametrize("options", [PIXELS, DERIVED])
def test_no_crops_at_all(tmp_path, codec, options):
    """An empty choice of crops is one, whatever the labels are."""
    with SoftLabelReader(write_fields(tmp_path / "a.slc", codec, **options)) as reader:
        image = reader.read(1, [])
        assert (image.num_crops, len(image.crops), len(image.labels), image.image_size) == (0, 0, 0, SIZES[1])
        batch = reader.read_batch([1, 0], np.zeros((2, 0), int))
        assert (batch.num_crops.tolist(), len(batch.labels), batch.image_sizes.tolist()) == ([0, 0], 0, [list(SIZES[1]), list(SIZES[0])])
        assert batch.labels.dense().shape == (0, NUM_CLASSES)


# What is drawn


def drawn(reader, rows, each, **how):
    """Return the crops that are drawn of each image, as tuples."""
    return [[tuple(crop) for crop in image.crops.tolist()] for image in reader.draw(rows, each, **how)]


def test_every_epoch_draws_fresh_crops(derived):
    with SoftLabelReader(derived) as reader:
        first = reader.draw([0, 3], 4)
        same(first.labels, reader.read_batch([0, 3], [[0, 1, 2, 3]] * 2).labels)
        later = reader.draw([0, 3], 4, epoch=25)
        same(later.labels, reader.read_batch([0, 3], [[100, 101, 102, 103]] * 2).labels)
        np.testing.assert_array_equal(later.crops, reader.read_batch([0, 3], [[100, 101, 102, 103]] * 2).crops)
        numbered = [set(drawn(reader, [3], 4, epoch=epoch)[0]) for epoch in range(30)]  # of an image with one stored crop
        assert len(set.union(*numbered)) > 100
        turns = reader.draw([0, 3], 4, epoch=[0, 25])
        same(turns.labels, reader.read_batch([0, 3], [[0, 1, 2, 3], [100, 101, 102, 103]]).labels)


def test_seeds_draw_other_crops(derived):
    with SoftLabelReader(derived) as reader:
        of_seeds = [{crop for epoch in range(20) for crop in drawn(reader, [0], 4, seed=seed, epoch=epoch)[0]} for seed in range(3)]
        assert drawn(reader, [0, 1], 4, seed=2, epoch=5) == drawn(reader, [0, 1], 4, seed=2, epoch=5)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert len(of_seeds[one] & of_seeds[other]) < 10
        reader.draw([0], 4, seed=2**70, epoch=2**40)


def test_the_crops_that_a_teacher_saw_may_be_all_that_is_drawn(derived):
    with SoftLabelReader(derived) as reader:
        seen = {tuple(crop) for crop in reader.read(0).crops.tolist()}
        epochs = [drawn(reader, [0], 4, epoch=epoch, stored_crops=40)[0] for epoch in range(10)]
        assert {crop for crops in epochs for crop in crops} == seen
        few = {tuple(crop) for crop in reader.read(0, range(8)).crops.tolist()}
        assert {crop for epoch in range(9) for crop in drawn(reader, [0], 4, epoch=epoch, stored_crops=8)[0]} == few
        with pytest.raises(ArgumentError, match="stored_crops: expected at most 1, the crops stored of an image in .*, got 2"):
            reader.draw([0, 3], 1, stored_crops=2)
        with pytest.raises(ArgumentError, match="crops_per_image: expected at most 8, the crops stored of an image in .*, got 9"):
            reader.draw([0], 9, stored_crops=8)
        assert len(reader.draw([3], 500).labels) == 500  # of one stored crop


def test_stored_crops_of_fields_are_drawn_where_there_are_no_others(pixels):
    with SoftLabelReader(pixels) as reader:
        seen = {tuple(crop) for crop in reader.read(1).crops.tolist()}
        assert {crop for epoch in range(3) for crop in drawn(reader, [1], 4, epoch=epoch)[0]} == seen
        with pytest.raises(ArgumentError, match="crops_per_image: expected at most 1, the crops stored of an image"):
            reader.draw([0, 3], 4)


@pytest.mark.parametrize("options", [PIXELS, DERIVED, PADDED])
def test_crops_of_another_sampler_are_drawn(tmp_path, options):
    other = CropSampler(seed=9, scale=(0.5, 1.0), flip_probability=0.25)
    with SoftLabelReader(write_fields(tmp_path / "a.slc", **options)) as reader:
        batch = reader.draw([4, 0], 3, epoch=2, sampler=other)
        padded = [tuple(side + 2 * reader.padding.pixels for side in SIZES[number]) for number in (4, 0)]
        wanted = [other.sample(KEYS[number], size, [6, 7, 8]) for number, size in zip((4, 0), padded, strict=True)]
        np.testing.assert_array_equal(batch.crops, np.concatenate([crops for crops, _ in wanted]))
        np.testing.assert_array_equal(batch.flips, np.concatenate([flips for _, flips in wanted]))
        same(batch.labels, reader.labels_at([4, 0], batch.crops.reshape(2, 3, 4)).labels)


@pytest.mark.parametrize("sampler", [AllViews(10, 10), "random_resized_crop/1", 5])
def test_samplers_that_end_or_are_none(derived, sampler):
    with (
        SoftLabelReader(derived) as reader,
        pytest.raises(ArgumentError, match="sampler: expected a CropSampler, whose crops never end, got"),
    ):
        reader.draw([0], 1, sampler=sampler)


# Writers


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"probs": np.full((2, NUM_CLASSES), np.nan, np.float32)}, "probs: row 0: holds NaN or infinity"),
        ({"probs": np.full((2, NUM_CLASSES), 0.5, np.float32)}, "probs: row 0: expected probabilities that sum to 1"),
        (
            {"probs": np.eye(2, NUM_CLASSES - 1, dtype=np.float32)},
            r"probs: expected floats of shape \(2, 30\), got float32 of shape \(2, 29\)",
        ),
        ({"indices": [[0], [1]], "values": [[0.5], [0.5]]}, "codec 'field': expected probs, got indices and values"),
        ({"vectors": np.zeros((2, NUM_CLASSES), np.float32)}, "codec 'field': expected probs, got vectors"),
        ({}, "codec 'field': expected probs, got no labels"),
    ],
)
def test_labels_that_a_writer_refuses(tmp_path, labels, message):
    """It goes on with the next image."""
    place = {"image_size": (4, 4), "crops": [[0, 0, 4, 4], [0, 0, 2, 2]], "flips": [False, True]}
    with SoftLabelWriter(tmp_path / "a.slc", NUM_CLASSES, "field") as writer:
        with pytest.raises(ArgumentError, match=f"image 'bad': {message}"):
            writer.add("bad", **place, **labels)
        writer.add("good", **place, probs=np.eye(2, NUM_CLASSES, dtype=np.float32) * 0.9 + np.float32(0.1 / NUM_CLASSES))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert list(reader.keys) == ["good"]


def test_more_crops_than_there_may_be(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 2, "field") as writer:
        many = {
            "crops": np.tile([0, 0, 1, 1], (65536, 1)),
            "flips": np.zeros(65536, bool),
            "probs": np.tile(np.float32([0.75, 0.25]), (65536, 1)),
        }
        with pytest.raises(LimitError, match="image 'a': crops: expected 1 to 65535 crops, got 65536"):
            writer.add("a", image_size=(1, 1), **many)
        writer.add("a", image_size=(1, 1), **{name: rows[1:] for name, rows in many.items()})
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        np.testing.assert_allclose(reader.read(0, [65534]).labels.dense(), [[0.75, 0.25]], atol=0.05)


def test_more_crops_times_classes_than_a_block_may_have(tmp_path, monkeypatch):
    """A reader could not lay out the labels of all crops."""
    monkeypatch.setattr(limits, "MAX_TABLE_ENTRIES", 4000)
    probs = np.full(200, 0.2 / 100, np.float32)
    probs[:100] = 0.8 / 100
    with SoftLabelWriter(tmp_path / "a.slc", 200, "field:cost=1e-06") as writer:
        places = {"crops": np.tile([0, 0, 1, 1], (41, 1)), "flips": np.zeros(41, bool), "probs": np.tile(probs, (41, 1))}
        with pytest.raises(LimitError, match="image 'a': 41 crops, of which one keeps 100 classes: use fewer crops, or keep fewer"):
            writer.add("a", image_size=(1, 1), **places)


def test_two_classes_and_one_crop(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 2, "field:step=0.1,cost=1e-05") as writer:
        for number, p in enumerate((0.0, 0.2, 0.5, 1.0)):
            writer.add(f"{number}", image_size=(9, 9), crops=[[1, 2, 3, 4]], flips=[True], probs=np.float32([[p, 1 - p]]))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        found = reader.read_batch(range(4)).labels
        np.testing.assert_allclose(found.dense()[:, 0], [0, 0.2, 0.5, 1], atol=0.03)
        assert reader.labels_at([1], [[[0, 0, 9, 9]]]).labels.dense().sum() == pytest.approx(1, abs=1e-6)


def test_labels_that_depend_on_nothing_are_the_same_everywhere(tmp_path):
    probs = np.tile(np.float32([0.5, 0.3, 0.1, 0.1]), (50, 1))
    crops, flips = SAMPLER.sample("a", (50, 60), range(50))
    with SoftLabelWriter(tmp_path / "a.slc", 4, "field:step=0.1") as writer:
        writer.add("a", image_size=(50, 60), crops=crops, flips=flips, probs=probs)
        writer.add("b", image_size=(50, 60), crops=crops, flips=flips, probs=np.full((50, 4), 0.25, np.float32))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        anywhere = reader.labels_at([0, 1], [[[0, 0, 50, 60], [7, 8, 9, 10]]] * 2).labels.dense()
        np.testing.assert_allclose(anywhere[:2], probs[:2], atol=0.05)
        np.testing.assert_array_equal(anywhere[0], anywhere[1])
        np.testing.assert_allclose(anywhere[2:], 0.25, atol=1e-6)


def test_fields_made_in_other_threads_are_the_same(tmp_path):
    """Images are added from several threads; in the same order, they make the same file."""
    alone = write_fields(tmp_path / "a.slc", **DERIVED)
    turn = threading.Condition()
    with SoftLabelWriter(tmp_path / "b.slc", NUM_CLASSES, "field", **DERIVED) as writer:

        def add(image):
            with turn:
                turn.wait_for(lambda: len(writer.keys) == image)
                add_image(writer, KEYS[image], SIZES[image], COUNTS[image], derived=True)
                turn.notify_all()

        with ThreadPoolExecutor(5) as threads:
            list(threads.map(add, reversed(range(5))))
    assert (tmp_path / "b.slc").read_bytes() == alone.read_bytes()
    with SoftLabelWriter(tmp_path / "c.slc", NUM_CLASSES, "field", **DERIVED) as writer, ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda image: add_image(writer, KEYS[image], SIZES[image], COUNTS[image], derived=True), range(5)))
    with SoftLabelReader(alone) as reader, SoftLabelReader(tmp_path / "c.slc") as other:
        assert sorted(other.keys) == sorted(reader.keys)
        for key in reader.keys:
            same(other[key].labels, reader[key].labels)


@pytest.mark.parametrize("images", range(1, 5))
def test_an_interrupted_file_is_continued(tmp_path, images):
    whole = write_fields(tmp_path / "a.slc", **DERIVED)
    options = {"num_classes": NUM_CLASSES, "codec": "field", **DERIVED}
    writer = SoftLabelWriter(tmp_path / "b.slc", **options)
    for image in range(images):
        add_image(writer, KEYS[image], SIZES[image], COUNTS[image], derived=True)
    writer.close()
    with SoftLabelWriter(tmp_path / "b.slc", resume=True, **options) as writer:
        for image in range(5):
            if KEYS[image] not in writer.keys:
                add_image(writer, KEYS[image], SIZES[image], COUNTS[image], derived=True)
    assert (tmp_path / "b.slc").read_bytes() == whole.read_bytes()


# Copies


def contents(path):
    with SoftLabelReader(path) as reader:
        return dict(zip(reader.keys, reader, strict=True))


def test_files_of_fields_are_put_together_and_taken_apart(tmp_path):
    derived = write_fields(tmp_path / "whole.slc", **DERIVED)
    parts = [write_fields(tmp_path / f"{part[0]}.slc", images=part, **DERIVED) for part in ([0, 1, 2], [3, 4])]
    copy_labels(parts, tmp_path / "all.slc")
    copy_labels(derived, tmp_path / "set", shards=2)
    copy_labels(tmp_path / "set", tmp_path / "again.slc")
    copy_labels(derived, tmp_path / "some.slc", keys=["z.jpg", "n01/größe.jpg"])
    wanted = contents(derived)
    for path in ("all.slc", "set", "again.slc", "some.slc"):
        found = contents(tmp_path / path)
        assert list(found) == (["n01/größe.jpg", "z.jpg"] if path == "some.slc" else list(KEYS))
        for key, image in found.items():
            np.testing.assert_array_equal(image.crops, wanted[key].crops)
            same(image.labels, wanted[key].labels)
    for file in (tmp_path / "all.slc", tmp_path / "some.slc", *(tmp_path / "set").glob("*.slc")):
        assert verify(file, deep=True).ok


def test_a_copy_of_fewer_crops_keeps_the_fields(tmp_path, pixels, derived):
    for source in (pixels, derived):
        path = tmp_path / "few.slc"
        copy_labels(source, path, crops=5, overwrite=True)
        assert verify(path, deep=True).ok
        with SoftLabelReader(source) as reader, SoftLabelReader(path) as few:
            assert few.num_crops.tolist() == [min(count, 5) for count in COUNTS]
            for number in range(5):
                same(few.read(number).labels, reader.read(number, range(min(5, COUNTS[number]))).labels)
            boxes = np.tile([0.0, 0.0, 0.5, 1.0], (5, 3, 1))
            same(few.labels_at(range(5), boxes).labels, reader.labels_at(range(5), boxes).labels)
            if source == derived:
                same(few.read(0, [30, 10**6]).labels, reader.read(0, [30, 10**6]).labels)


@pytest.mark.parametrize(
    "codec",
    ["hard", "marginal_smoothing:k=5", "marginal_smoothing:t=0.05,tail=9", "marginal_renorm:k=2,values=f16"]
    + ["marginal_smoothing:t=0.1,tail=all,mean=log", "marginal_smoothing:k=2,tail=all"],
)
def test_fields_become_sparse_labels(tmp_path, derived, codec):
    """Those that a writer makes of the targets of the fields."""
    report = copy_labels(derived, tmp_path / "a.slc", codec=codec)
    assert report.codec == codec
    with (
        SoftLabelReader(derived) as reader,
        SoftLabelReader(tmp_path / "a.slc") as copy,
        SoftLabelWriter(tmp_path / "b.slc", NUM_CLASSES, codec, copy.metadata, **DERIVED) as writer,
    ):
        assert copy.metadata["transcoded_from"] == ["field"]
        for key, image in zip(reader.keys, reader, strict=True):
            writer.add(key, image_size=image.image_size, probs=image.labels.dense())
    assert (tmp_path / "a.slc").read_bytes() == (tmp_path / "b.slc").read_bytes()


@pytest.mark.parametrize("options", [PIXELS, DERIVED, PADDED, FRACTIONS])
def test_dense_labels_become_fields(tmp_path, options):
    """The same blocks as if they had been written as such, what was measured of them included: of the first image also on other crops."""
    dense = write_fields(tmp_path / "dense.slc", "dense", **options)
    copy_labels(dense, tmp_path / "a.slc", codec="field")
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        metadata = reader.metadata
    write_fields(tmp_path / "b.slc", "field", metadata=metadata, **options)
    assert Pieces.of(tmp_path / "a.slc").payloads == Pieces.of(tmp_path / "b.slc").payloads
    assert Content(Pieces.of(tmp_path / "a.slc")).images.codes.unseen[0] > 0


def test_logits_become_fields(tmp_path):
    crops, _ = SAMPLER.sample("a", (50, 60), range(30))
    probs = smooth_probs("a", edges_in(crops, (50, 60)))
    for codec, labels in (("dense:content=logits", {"vectors": np.log(probs) + 3}), ("field", {"probs": probs})):
        with SoftLabelWriter(tmp_path / f"{codec[:5]}.slc", NUM_CLASSES, codec, **DERIVED) as writer:
            writer.add("a", image_size=(50, 60), **labels)
    copy_labels(tmp_path / "dense.slc", tmp_path / "copy.slc", codec="field")
    np.testing.assert_allclose(
        contents(tmp_path / "copy.slc")["a"].labels.dense(), contents(tmp_path / "field.slc")["a"].labels.dense(), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("field", "dense", "the source is an approximation of them. Readers give targets of all classes"),
        ("field", "field:cost=0.001", "a field is made from the probabilities of all classes"),
        ("marginal_smoothing:k=5", "field", "a field is made from the probabilities of all classes"),
        ("marginal_smoothing:t=0.1,tail=all,mean=log", "field", "a field is made from the probabilities of all classes"),
        ("hard", "field", "a field is made from the probabilities of all classes"),
    ],
)
def test_copies_that_are_refused(tmp_path, source, target, message):
    path = write_fields(tmp_path / "a.slc", source, **DERIVED)
    with pytest.raises(ArgumentError, match=message):
        copy_labels(path, tmp_path / "b.slc", codec=target)
    assert not (tmp_path / "b.slc").exists()


def test_fields_with_other_codec_strings_are_not_put_together(tmp_path, derived):
    other = write_fields(tmp_path / "a.slc", "field:cost=0.001", images=[], **DERIVED)
    with pytest.raises(MismatchError, match="codec: expected field, as in .*, got field:cost=0.001"):
        copy_labels([derived, other], tmp_path / "b.slc")


# Damage and reports


def test_whole_blocks_of_unfinished_fields_are_recovered(tmp_path, derived):
    writer = SoftLabelWriter(tmp_path / "a.slc", NUM_CLASSES, "field", **DERIVED)
    for image in range(5):
        add_image(writer, KEYS[image], SIZES[image], COUNTS[image], derived=True)
    writer.close()
    kept = recover(tmp_path / "a.slc.partial", tmp_path / "kept.slc").num_images
    found, wanted = contents(tmp_path / "kept.slc"), contents(derived)
    assert 1 <= kept == len(found) <= 5
    for key, image in found.items():
        same(image.labels, wanted[key].labels)
    assert verify(tmp_path / "kept.slc", deep=True).ok


def test_a_verifier_finds_damage_in_fields(tmp_path):
    path = write_fields(tmp_path / "a.slc")
    assert verify(path, deep=True).ok
    damage(path, 1)
    assert [problem.error for problem in verify(path, deep=True).problems][:1] == ["CorruptError"]


def test_what_reports_say_of_fields(tmp_path, derived):
    report = inspect(derived)
    assert (report.codec, report.num_images, report.num_crops) == ("field", 5, sum(COUNTS))
    for command in ("inspect", "stats", "verify"):
        result = CliRunner().invoke(main, [command, str(derived)])
        assert result.exit_code == 0, result.output
        assert command == "verify" or "field" in result.output
        result = CliRunner().invoke(main, [command, str(derived), "--json"])
        assert json.loads(result.output)
