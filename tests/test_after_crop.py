"""What may be done to pixels after a stored crop, and how they are normalised."""

import functools
import types
import warnings

import numpy as np
import pytest
import torch
from numbered import IMAGES, KEYS, write_numbered
from torch import nn

from softlabel_codec import ArgumentError, SoftLabelWriter
from softlabel_codec.torch import SoftLabelDataset


def stand_in(module, name, *bases, **attributes):
    """Return a class like one of torchvision's, which is not installed here."""
    return type(name, bases or (object,), {"__module__": module, "__call__": lambda self, image: image, **attributes})


V1, V2, TIMM = "torchvision.transforms.transforms", "torchvision.transforms.v2._geometry", "timm.data.transforms"
Compose = stand_in(V1, "Compose", __init__=lambda self, transforms: setattr(self, "transforms", transforms))
RandomApply = stand_in("torchvision.transforms.v2._container", "RandomApply", nn.Module)
ColorJitter = stand_in(V1, "ColorJitter", nn.Module)
RandomErasing = stand_in(V2, "RandomErasing", nn.Module)
Resize = stand_in(V2, "Resize", nn.Module)
RandomResizedCrop = stand_in(V1, "RandomResizedCrop", nn.Module)


def apply(*transforms):
    module = RandomApply()
    module.transforms = nn.ModuleList(transforms)
    return module


class Own:
    """Somebody's own transform, with another inside."""

    def __init__(self, inner):
        self.inner = {"strong": [inner]}

    def __call__(self, image):
        return image

    def method(self, image):
        return image


def enclosed(inner):
    return lambda image: [inner(image)][0]


@pytest.fixture
def labels(tmp_path):
    return write_numbered(tmp_path / "labels.slc")


MOVING = {
    V1: "RandomCrop RandomResizedCrop CenterCrop FiveCrop TenCrop RandomHorizontalFlip RandomVerticalFlip RandomAffine RandomRotation "
    "RandomPerspective ElasticTransform",
    V2: "RandomCrop RandomResizedCrop RandomIoUCrop RandomZoomOut ScaleJitter RandomShortestSize RandomResize RandomHorizontalFlip",
    "torchvision.transforms.autoaugment": "AutoAugment RandAugment TrivialAugmentWide AugMix",
    TIMM: "RandomResizedCropAndInterpolation RandomCropOrPad RandAugment",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in MOVING.items() for name in names.split()])
def test_a_second_crop_or_flip_is_refused_and_the_error_says_why(labels, module, name):
    moves = stand_in(module, name, nn.Module)()
    with pytest.raises(
        ArgumentError, match=f"after_crop: expected no transform that crops, shifts or mirrors, got {name}: the labels belong"
    ):
        SoftLabelDataset(IMAGES, labels, after_crop=Compose([ColorJitter(), moves]))


@pytest.mark.parametrize(
    "hide",
    [
        lambda moves: moves,
        lambda moves: Compose([Compose([moves])]),
        lambda moves: nn.Sequential(ColorJitter(), nn.Sequential(moves)),
        lambda moves: Compose([apply(ColorJitter(), apply(moves))]),
        Own,
        lambda moves: Own(moves).method,
        lambda moves: functools.partial(Own(None).method, extra=moves),
        enclosed,
        lambda moves: Compose([enclosed(enclosed(moves))]),
        lambda moves: stand_in("mine", "MyCrop", RandomResizedCrop)(),
    ],
)
def test_wherever_it_hides(labels, hide):
    with pytest.raises(ArgumentError, match="got RandomResizedCrop: the labels belong to the stored crop"):
        SoftLabelDataset(IMAGES, labels, after_crop=hide(RandomResizedCrop()))


def test_colours_may_change_and_parts_be_erased(labels):
    around = types.SimpleNamespace()
    around.itself = around  # a circle

    def tensor(image):
        return torch.from_numpy(np.asarray(image).copy()) + 0 * len(vars(around))

    for harmless in (tensor, Compose([ColorJitter(), RandomErasing(), Resize(), tensor]), apply(ColorJitter())):
        SoftLabelDataset(IMAGES, labels, after_crop=harmless)
    assert SoftLabelDataset(IMAGES, labels, size=4, after_crop=tensor)[3].images.tolist() == torch.full((4, 4, 4, 3), 3).tolist()


def test_transform_means_something_else_and_is_refused(labels):
    message = "transform: SoftLabelDataset has none: the labels belong to the stored crop .* Pass after_crop="
    with pytest.raises(ArgumentError, match=message):
        SoftLabelDataset(IMAGES, labels, transform=lambda image: image)
    dataset = SoftLabelDataset(IMAGES, labels)
    with pytest.raises(ArgumentError, match=message):
        dataset.transform = Compose([RandomResizedCrop()])  # as timm's create_loader does
    assert not hasattr(dataset, "transform")


def write_with_teacher(path, mean, std):
    with SoftLabelWriter(path, 2, "hard", {"preprocessing": {"mean": mean, "std": std}}) as writer:
        for key in KEYS:
            writer.add(key, image_size=(20, 20), crops=[[0, 0, 9, 9]], flips=[False], indices=[[0]], values=[[1.0]])
    return path


def test_a_normalisation_unlike_that_of_most_validation_is_said_once(tmp_path):
    mean, std = [0.5, 0.5, 0.25], [0.5, 0.25, 0.5]
    labels = write_with_teacher(tmp_path / "a.slc", mean, std)
    message = r"mean \(0.5, 0.5, 0.25\) and std \(0.5, 0.25, 0.5\), as its teacher's were; .* mean \(0.485, .* Pass mean= and std="
    with pytest.warns(UserWarning, match=message) as seen:
        dataset = SoftLabelDataset(IMAGES, labels, 1)
    assert seen[0].filename == __file__
    assert dataset.mean == tuple(mean)
    SoftLabelDataset(IMAGES, labels, 1)  # said already


def test_a_normalisation_that_was_asked_for_or_is_nobodys_default_is_not_mentioned(tmp_path):
    labels = write_with_teacher(tmp_path / "b.slc", [0.5] * 3, [0.5] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftLabelDataset(IMAGES, labels, 1, mean=(0.5,) * 3, std=(0.5,) * 3)
        SoftLabelDataset(IMAGES, labels, 1, normalized=False)
        SoftLabelDataset(IMAGES, labels, 1, after_crop=lambda image: torch.zeros(1))
        SoftLabelDataset(IMAGES, write_with_teacher(tmp_path / "c.slc", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), 1)
        SoftLabelDataset(IMAGES, write_numbered(tmp_path / "d.slc"), 1)
