"""Label fields on the torch side: labels of crops that are made on a device, and datasets that draw crops without end."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from softlabel_codec import CropSampler, SoftLabelReader, SoftLabelWriter
from softlabel_codec.errors import ArgumentError
from softlabel_codec.torch import LabelFields, soft_cross_entropy

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
    with SoftLabelWriter(path, CLASSES, "field", crops="derived", sampler=sampler) as writer:
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


def test_fields_are_refused_of_labels_of_certain_crops(tmp_path):
    path = tmp_path / "a.slc"
    with SoftLabelWriter(path, 3, "hard") as writer:
        writer.add("a", image_size=(4, 4), crops=[[0, 0, 4, 4]], flips=[False], probs=np.float32([[1, 0, 0]]))
    with SoftLabelReader(path) as reader, pytest.raises(ArgumentError, match="expected label fields.*'hard' holds those of certain crops"):
        LabelFields.read(reader, ["a"])
