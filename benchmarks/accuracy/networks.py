"""Networks of the accuracy experiment, for images of 36 pixels and less: `networks.py:NAME` for slcodec."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from softlabel_codec.students.resnet import BasicBlock
from softlabel_codec.students.small import SmallNetwork

INPUT_SIZE = 32
MEAN, STD = (0.48, 0.45, 0.4), (0.28, 0.27, 0.28)
WORK = "SLCODEC_ACCURACY_WORK"
"""Variable that says where the trained teachers lie."""
NUM_CLASSES = 100


class Residual(nn.Module):
    """Residual blocks in four stages after one convolution.

    Parameters
    ----------
    num_classes : int
        C.
    width : int
        Channels of the first stage; each further one has twice as many and half the side.
    blocks : sequence of int
        Blocks of each stage.
    stride : int
        Of the first convolution.
    """

    def __init__(self, num_classes: int, width: int, blocks: Sequence[int], stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        stages, inputs = [], width
        for number, count in enumerate(blocks):
            for place in range(count):
                stages.append(BasicBlock(inputs, width << number, 2 if number and not place else 1))
                inputs = width << number
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the last features (B, F, h, w) of images (B, 3, H, W)."""
        return self.stages(self.stem(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.head(self.features(images).mean(dim=(2, 3)))

    def logit_map(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of each place, as label maps need them."""
        return nn.functional.conv2d(self.features(images), self.head.weight[:, :, None, None], self.head.bias)


def resnet10(num_classes: int) -> nn.Module:
    """Return the usual student on a GPU: 1.2 million weights, 15 million multiplications per crop of 32 pixels."""
    return Residual(num_classes, 32, (1, 1, 1, 1), stride=2)


def resnet18(num_classes: int) -> nn.Module:
    """Return the larger student on a GPU: 6.3 million weights, 310 million multiplications per crop of 32 pixels."""
    return Residual(num_classes, 48, (2, 2, 2, 2), stride=1)


def small_student(num_classes: int) -> nn.Module:
    """Return the student on a CPU."""
    return SmallNetwork(num_classes, width=32)


def small_teacher(num_classes: int) -> nn.Module:
    """Return the unsure teacher, which is the only one on a CPU."""
    return SmallNetwork(num_classes, width=64)


def _trained(model: nn.Module, teacher: str) -> nn.Module:
    """Return a network with the weights of a teacher that was trained, which are kept in half precision."""
    kept = torch.load(Path(os.environ[WORK]) / f"teacher-{teacher}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in kept.items()})
    return model


def trained_resnet18() -> nn.Module:
    """Return the sure teacher."""
    return _trained(resnet18(NUM_CLASSES), "sure")


def trained_small_teacher() -> nn.Module:
    """Return the unsure teacher."""
    return _trained(small_teacher(NUM_CLASSES), "unsure")
