"""Label fields of many images that are fitted together on a device: here the CPU, which runs the same code."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from softlabel_codec import ArgumentError, CropSampler, LimitError, SoftLabelReader, SoftLabelWriter
from softlabel_codec.report import verify
from softlabel_codec.torch import add_fields

SAMPLER = CropSampler(seed=3)
SIZE = (60, 80)


def labels(num_classes, counts, noise=0.5):
    """Return for keys of images what `add` takes: labels that follow the places of so many crops, more or less."""
    rng, images = np.random.default_rng(num_classes), {}
    for number, count in enumerate(counts):
        crops, flips = SAMPLER.sample(f"{number}", SIZE, range(count))
        centre = (crops[:, :2] + crops[:, 2:] / 2) / np.array(SIZE)
        logits = rng.normal(0, 2, num_classes) + centre @ rng.normal(0, 4, (2, num_classes)) + rng.normal(0, noise, (count, num_classes))
        probs = torch.from_numpy(logits).softmax(dim=1).float()
        images[f"{number}"] = {"image_size": SIZE, "crops": crops, "flips": flips, "probs": probs}
    return images


def write(path, num_classes, add, codec="field", **options):
    with SoftLabelWriter(path, num_classes, codec, **options) as writer:
        add(writer)
    return path.read_bytes()


def one_by_one(images):
    def add(writer):
        for key, image in images.items():
            writer.add(key, **{**image, "probs": image["probs"].numpy()})

    return add


CASES = {
    "fewer and more crops": labels(30, (60, 9, 1, 100)),
    "two classes": labels(2, (50, 3)),
    "many classes": labels(700, (40, 40)),
    "crops of one label": {key: {**image, "probs": torch.full((20, 8), 0.125)} for key, image in labels(8, (20,)).items()},
    "certain crops": {
        key: {**image, "probs": torch.eye(9)[image["probs"].argmax(dim=1)]} for key, image in labels(9, (80, 30), 0.1).items()
    },
}


@pytest.mark.parametrize("codec", ["field", "field:step=0.2,cost=0.00005"])
@pytest.mark.parametrize("case", CASES)
def test_fields_are_as_good_as_those_that_are_fitted_one_by_one(tmp_path, case, codec):
    images = CASES[case]
    num_classes = images["0"]["probs"].shape[1]
    sizes = [
        len(write(tmp_path / f"{way}.slc", num_classes, add, codec))
        for way, add in {"one": one_by_one(images), "many": lambda writer: add_fields(writer, images)}.items()
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    verify(tmp_path / "many.slc", deep=True)
    with SoftLabelReader(tmp_path / "one.slc") as one, SoftLabelReader(tmp_path / "many.slc") as many:
        for expected, found, image in zip(one, many, images.values(), strict=True):
            assert_array_equal(found.crops, expected.crops)
            teacher = image["probs"].double().numpy()
            kls = [(teacher * np.log(np.maximum(teacher, 1e-30) / of.labels.dense())).sum(axis=1).mean() for of in (expected, found)]
            assert kls[1] == pytest.approx(kls[0], rel=0.02, abs=0.005)
        for expected, found in zip(one.field_kl(range(len(one))), many.field_kl(range(len(one))), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.005)  # the codes are steps of 9 %


def test_the_field_of_an_image_does_not_depend_on_the_others(tmp_path):
    """So that a run that is continued makes the same file."""
    images = labels(40, (60, 9, 60, 1, 60, 100))
    together = write(tmp_path / "a.slc", 40, lambda writer: add_fields(writer, images))

    def in_parts(writer):
        keys = list(images)
        for part in (keys[:1], keys[1:5], [], keys[5:]):
            add_fields(writer, {key: images[key] for key in part})

    assert write(tmp_path / "b.slc", 40, in_parts) == together


@contextmanager
def usual_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_crops_may_be_derived_and_probabilities_of_any_float_type(tmp_path):
    images = labels(30, (60, 9))
    expected = write(tmp_path / "a.slc", 30, lambda writer: add_fields(writer, images), crops="derived", sampler=SAMPLER)
    as_it_is = {key: {"image_size": SIZE, "probs": image["probs"].double().requires_grad_()} for key, image in images.items()}
    for number, dtype in enumerate((torch.float64, torch.float32)):
        given = {key: {**image, "probs": image["probs"].to(dtype)} for key, image in as_it_is.items()}
        with torch.autocast("cpu", torch.bfloat16), usual_type(torch.float64):
            found = write(
                tmp_path / f"{number}.slc", 30, lambda writer, given=given: add_fields(writer, given), crops="derived", sampler=SAMPLER
            )
        assert found == expected


NAN, NEGATIVE = torch.full((9, 30), torch.nan), torch.full((9, 30), 1 / 28)
NEGATIVE[:, 0], NEGATIVE[4, 0] = 0, -1 / 28
NEGATIVE[:, 1], NEGATIVE[4, 1] = 0, 1 / 28


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probs": NAN}, "image '1': probs: row 0: holds NaN or infinity"),
        ({"probs": NEGATIVE}, "image '1': probs: row 4: holds a negative probability"),
        ({"probs": torch.ones(9, 30)}, "image '1': probs: row 0: expected probabilities that sum to 1"),
        ({"probs": np.ones((9, 30)) / 30}, "image '1': probs: expected a float tensor of shape (M, 30), got ndarray"),
        ({"probs": torch.ones(9, 30, dtype=torch.int64)}, "image '1': probs: expected a float tensor of shape (M, 30), got torch.int64"),
        ({"probs": torch.zeros(9, 30, dtype=torch.float8_e4m3fn)}, "got torch.float8_e4m3fn of shape (9, 30)"),
        ({"probs": (torch.ones(9, 30) / 30).to_sparse()}, "got a sparse one (torch.sparse_coo). Pass probs.to_dense()"),
        ({"probs": torch.ones(9, 29) / 29}, "expected a float tensor of shape (M, 30), got torch.float32 of shape (9, 29)"),
        ({"probs": torch.ones(30) / 30}, "got torch.float32 of shape (30,)"),
        ({"probs": torch.ones(9, 30, device="meta")}, "on one device, cpu or cuda, got meta; the first is on cpu"),
        ({"probs": torch.ones(8, 30) / 30}, "image '1': probs: expected a row for each of 9 crops, got 8"),
        ({"crops": [[0, 0, 61, 80]] * 9}, "image '1': crop"),
        ({"flips": None}, "image '1': expected crops and flips"),
        (
            {"indices": [[1]]},
            "image '1': expected probs, and of crops, flips, image_size, image_crc32 what is needed, got image_size",
        ),
    ],
)
def test_of_images_of_which_one_is_invalid_none_is_added(tmp_path, changes, message):
    images = labels(30, (9, 9))
    bad = {**images, "1": {**images["1"], **changes}}
    with SoftLabelWriter(tmp_path / "a.slc", 30, "field") as writer:
        with pytest.raises(ArgumentError, match=re.escape(message)):
            add_fields(writer, bad)
        assert not len(writer)
        add_fields(writer, images)
        with pytest.raises(ArgumentError, match="image '0': key: an image with this key was added before"):
            add_fields(writer, images)
        assert len(writer) == 2


def test_images_without_crops_and_files_of_other_labels_are_refused(tmp_path):
    with SoftLabelWriter(tmp_path / "a.slc", 30, "field", crops="derived", sampler=SAMPLER) as writer:
        with pytest.raises(LimitError, match="image 'a': crops: expected 1 to"):
            add_fields(writer, {"a": {"image_size": SIZE, "probs": torch.zeros(0, 30)}})
        add_fields(writer, {"a": {"image_size": SIZE, "probs": torch.ones(1, 30) / 30}})
    with SoftLabelWriter(tmp_path / "b.slc", 30, "hard") as writer, pytest.raises(ArgumentError, match="codec: expected field, got 'hard'"):
        add_fields(writer, labels(30, (9,)))
