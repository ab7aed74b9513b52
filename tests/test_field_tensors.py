"""Label fields on the torch side: labels of crops that are made on a device, and datasets that draw crops without end."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch.utils.data import DataLoader

from softlabel_codec import AllViews, CropSampler, SoftLabelReader, SoftLabelWriter
from softlabel_codec.errors import ArgumentError
from softlabel_codec.images.cutting import apply_crop
from softlabel_codec.torch import LabelFields, LabelledCrops, SoftLabelDataset, check_against_teacher, collate_crops, soft_cross_entropy

SIZES = [(60, 80), (50, 50), (90, 40)]
CLASSES = 30


def smooth_labels(crops, size, seed):
    """Return probabilities (M, C) of crops (M, 4): a smooth function of where they are."""
    rng = np.random.default_rng(seed)
    centre = (crops[:, :2] + crops[:, 2:] / 2) / np.array(size)
    logits = rng.normal(0, 1.5, CLASSES) + centre @ rng.normal(0, 4, (2, CLASSES))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path, sampler = tmp_path_factory.mktemp("fields") / "labels.slc", CropSampler(seed=3)
    with SoftLabelWriter(path, CLASSES, "field", {"temperature": 1.0}, crops="derived", sampler=sampler) as writer:
        for number, size in enumerate(SIZES):
            crops, _ = sampler.sample(f"{number}.jpg", size, range(60))
            writer.add(f"{number}.jpg", image_size=size, probs=smooth_labels(crops, size, number))
    return path


def test_a_device_gives_the_labels_that_the_reader_gives(labels):
    boxes = np.random.default_rng(0).random((4, 5, 4)) / 2
    with SoftLabelReader(labels) as reader:
        expected = reader.labels_at([2, 0, 1, 0], boxes).labels
        targets = LabelFields.read(reader, [2, 0, 1, 0]).to("cpu").at(torch.from_numpy(boxes))
    assert_allclose(targets.dense().numpy(), expected.dense(), atol=2e-5)
    assert_array_equal(targets.top1.numpy(), expected.top1)
    assert_allclose(targets.dense().sum(dim=1).numpy(), 1, atol=1e-5)
    student = torch.randn(20, CLASSES, requires_grad=True)
    dense = -(targets.dense() * student.log_softmax(1)).sum(1).mean()
    assert_allclose(soft_cross_entropy(student, targets).item(), dense.item(), rtol=1e-5)


@pytest.mark.parametrize("boxes", [torch.zeros(2, 5, 4), torch.zeros(3, 4), torch.zeros(3, 5, 3), torch.zeros(3, 5, 4, dtype=torch.int64)])
def test_crops_of_other_shapes_or_types_are_refused(labels, boxes):
    with SoftLabelReader(labels) as reader, pytest.raises(ArgumentError, match=r"expected floats of shape \(3, n, 4\)"):
        LabelFields.read(reader, [0, 1, 2]).at(boxes)


@pytest.mark.parametrize("box", [[0.0, 0.0, 30.0, 40.0], [-0.1, 0.0, 0.5, 0.5], [0.6, 0.0, 0.5, 0.5], [float("nan"), 0.0, 0.5, 0.5]])
def test_crops_in_pixels_or_outside_of_the_image_are_refused(labels, box):
    with SoftLabelReader(labels) as reader, pytest.raises(ArgumentError, match="divide pixels by its height and width"):
        LabelFields.read(reader, [0]).at(torch.tensor([[[0, 0, 1, 1], box]]))


def test_fields_are_refused_of_labels_of_certain_crops(tmp_path):
    path = tmp_path / "a.slc"
    with SoftLabelWriter(path, 3, "hard") as writer:
        writer.add("a", image_size=(4, 4), crops=[[0, 0, 4, 4]], flips=[False], probs=np.float32([[1, 0, 0]]))
    with SoftLabelReader(path) as reader, pytest.raises(ArgumentError, match="expected label fields.*'hard' holds those of certain crops"):
        LabelFields.read(reader, ["a"])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return {f"{number}.jpg": rng.integers(0, 256, (*size, 3), dtype=np.uint8) for number, size in enumerate(SIZES)}


NORMALISED = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def crops_and_labels(stream, turn):
    """Return crops as tuples, and labels, that a stream draws of the first image at a turn."""
    stream.set_epoch(turn)
    batch = stream.boxes(["0.jpg"])
    return [tuple(crop) for crop in batch.crops.tolist()], batch.labels


def test_new_crops_are_drawn_in_every_epoch(labels):
    sampler, seen = CropSampler(seed=3), []
    for epoch in range(20):  # 160 crops of each image, of which the teacher saw 60
        seen += crops_and_labels(LabelledCrops(labels, crops_per_image=8, size=16, **NORMALISED), epoch)[0]
    assert seen == [tuple(crop) for crop in sampler.sample("0.jpg", SIZES[0], range(160))[0].tolist()]
    other_seed = LabelledCrops(labels, crops_per_image=8, size=16, seed=1, **NORMALISED)
    assert not set(crops_and_labels(other_seed, 0)[0]) & set(seen)


def test_a_sample_holds_the_labels_of_its_crops(labels, images):
    dataset = SoftLabelDataset(images, labels, crops_per_image=70, size=16, **NORMALISED)  # more than the teacher saw
    dataset.set_epoch(1000)
    crops, _ = CropSampler(seed=3).sample("2.jpg", SIZES[2], range(70_000, 70_070))
    assert_array_equal(dataset[2].labels.dense(), dataset.reader.labels_at([2], crops[None]).labels.dense())


def test_a_dataset_may_keep_to_the_crops_that_the_teacher_saw(labels):
    stream = LabelledCrops(labels, crops_per_image=4, size=16, stored_crops=4, **NORMALISED)
    stored = sorted(map(tuple, CropSampler(seed=3).sample("0.jpg", SIZES[0], range(4))[0].tolist()))
    for epoch in (0, 7):
        assert sorted(crops_and_labels(stream, epoch)[0]) == stored


def test_crops_of_which_a_field_knows_little_are_mentioned(tmp_path, images, recwarn):
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (3, 20)).astype(np.float32)
    for most in (20, 19):
        path = tmp_path / f"{most}.slc"
        with SoftLabelWriter(path, 3, "field", crops="derived", sampler=CropSampler(seed=3)) as writer:
            for image, count in enumerate((20, most, 20)):
                writer.add(f"{image}.jpg", image_size=SIZES[image], probs=probs[image, :count])
        SoftLabelDataset(images, path, size=16, stored_crops=19, **NORMALISED)
        assert not recwarn.list
        for _ in range(2):  # it is said once
            SoftLabelDataset(images, path, size=16, **NORMALISED)
            LabelledCrops(path, size=16, sampler=CropSampler(seed=9), **NORMALISED)
    (said,) = {str(warning.message) for warning in recwarn.list}
    assert said == (
        f"{path}: fields that were made from 19 crops of an image know less of its other crops, which are drawn too. "
        "`slcodec stats` says how well; stored_crops=19 draws only crops that they were made from"
    )
    assert len(recwarn.list) == 1


def test_crops_of_another_policy(labels, images):
    policy = CropSampler(seed=8, scale=(0.9, 1.0), ratio=(1.0, 1.0))
    dataset = SoftLabelDataset(images, labels, crops_per_image=4, size=16, sampler=policy, **NORMALISED)
    dataset.set_epoch(2)
    crops, _ = policy.sample("1.jpg", SIZES[1], range(8, 12))
    assert_array_equal(dataset[1].labels.dense(), dataset.reader.labels_at([1], crops[None]).labels.dense())
    stream = LabelledCrops(labels, crops_per_image=4, size=16, sampler=policy, **NORMALISED)
    drawn = stream.boxes(["1.jpg"])
    crops, flips = policy.sample("1.jpg", SIZES[1], range(4))
    assert_array_equal(drawn.crops, crops)
    assert_array_equal(drawn.flips, flips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": AllViews(8, 8)}, "sampler: expected a CropSampler"),
        ({"sampler": CropSampler(), "stored_crops": 4}, "stored_crops: is for the crops of the file"),
        ({"sampler": 3}, "sampler: expected a CropSampler"),
    ],
)
def test_what_cannot_be_drawn_is_refused(labels, images, options, message):
    with pytest.raises(ArgumentError, match=message):
        SoftLabelDataset(images, labels, size=16, **NORMALISED, **options)


def test_a_policy_needs_labels_of_all_crops(tmp_path, images):
    path = tmp_path / "a.slc"
    with SoftLabelWriter(path, 3, "hard") as writer:
        writer.add("0.jpg", image_size=SIZES[0], crops=[[0, 0, 4, 4]], flips=[False], probs=np.float32([[1, 0, 0]]))
    with pytest.raises(ArgumentError, match="sampler: expected label fields"):
        SoftLabelDataset(images, path, crops_per_image=1, size=16, sampler=CropSampler())


def test_fields_are_read_at_another_temperature(labels):
    boxes = np.random.default_rng(0).random((3, 5, 4)) / 2
    with SoftLabelReader(labels) as reader, SoftLabelReader(labels, temperature=4) as soft:
        plain = reader.labels_at(range(3), boxes).labels.dense().astype(np.float64) ** 0.25
        expected = plain / plain.sum(axis=1, keepdims=True)
        assert_allclose(soft.labels_at(range(3), boxes).labels.dense(), expected, rtol=1e-5)
        assert_allclose(LabelFields.read(soft, range(3)).at(torch.from_numpy(boxes)).dense().numpy(), expected, atol=2e-5)
        assert_allclose(
            soft[0].labels.dense(), (reader[0].labels.dense() ** 0.25) / (reader[0].labels.dense() ** 0.25).sum(1, keepdims=True), rtol=1e-5
        )


class ColourTeacher(torch.nn.Module):
    """Logits that depend on the mean colour of a crop."""

    def __init__(self, order):
        super().__init__()
        weights = np.random.default_rng(5).normal(0, 6, (CLASSES, 3))[order]
        self.weights = torch.nn.Parameter(torch.from_numpy(weights).float())

    def forward(self, images):
        return images.mean(dim=(2, 3)) @ self.weights.T


@pytest.mark.parametrize(("order", "ok"), [(np.arange(CLASSES), True), (np.arange(CLASSES)[::-1].copy(), False)])
def test_fields_are_checked_against_what_they_say_of_themselves(tmp_path, order, ok):
    teacher, sampler, shape = ColourTeacher(np.arange(CLASSES)).eval(), CropSampler(seed=1), (48, 64)
    down, across = np.mgrid[0 : shape[0], 0 : shape[1]]
    photographs = {}
    with SoftLabelWriter(tmp_path / "a.slc", CLASSES, "field", {"temperature": 1.0}, crops="derived", sampler=sampler) as writer:
        for number in range(8):
            channels = [128 + 100 * np.sin(down / 15 + number * k) * np.cos(across / 20 + k) for k in range(3)]
            photographs[f"{number}"] = np.stack(channels, axis=2).astype(np.uint8)
            crops, flips = sampler.sample(f"{number}", shape, range(80))
            cut = [
                apply_crop(Image.fromarray(photographs[f"{number}"]), *one, 16) for one in zip(crops.tolist(), flips.tolist(), strict=True)
            ]
            pixels = torch.from_numpy(np.stack([np.asarray(one) for one in cut])).permute(0, 3, 1, 2) / 255
            with torch.no_grad():
                probs = teacher((pixels - 0.5) / 0.5).softmax(dim=1).numpy()
            writer.add(f"{number}", image_size=shape, probs=probs)
    dataset = SoftLabelDataset(photographs, tmp_path / "a.slc", size=16, **NORMALISED)
    loader = DataLoader(dataset, batch_size=8, collate_fn=collate_crops)
    found = check_against_teacher(loader, ColourTeacher(order).eval(), None, teacher_mean=(0.5,) * 3, teacher_std=(0.5,) * 3)
    assert found.ok is ok, found.reason
    assert "fields are said to" in found.reason
