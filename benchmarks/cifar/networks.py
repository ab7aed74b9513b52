"""The networks of the CIFAR-100 experiment, with the parameter names of the published weights: `networks.py:NAME` for slcodec.

Residual networks are those of He et al. (2016, section 4.2) with projections as shortcuts; wide ones are those of Zagoruyko and Komodakis
(2016).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from benchmarks.accuracy.networks import WORK
from softlabel_codec.students.resnet import BasicBlock
from softlabel_codec.students.weights import load_weights

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
NUM_CLASSES = 100


class Residual(nn.Module):
    """A network of 6 n + 2 layers.

    Parameters
    ----------
    depth : int
        Number of layers.
    widths : sequence of int
        Channels of the first convolution and of the three stages.
    num_classes : int
        C.
    """

    def __init__(self, depth: int, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        for stage in (1, 2, 3):
            self.add_module(f"layer{stage}", _stage(BasicBlock, (depth - 2) // 6, widths[stage - 1], widths[stage], stage))
        self.fc = nn.Linear(widths[3], num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        features = self.relu(self.bn1(self.conv1(images)))
        for stage in (1, 2, 3):
            features = self.get_submodule(f"layer{stage}")(features)
        return self.fc(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class WideBlock(nn.Module):
    """Two convolutions, each after norm and activation, and a shortcut, which is a convolution where the number of channels changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut = None if inputs == width else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features of the next block."""
        active = self.relu(self.bn1(features))
        shortcut = features if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(self.relu(self.bn2(self.conv1(active))))  # type: ignore[no-any-return]


class Wide(nn.Module):
    """A wide network of 6 n + 4 layers: `depth` layers, stages of 16, 32 and 64 times `factor` channels."""

    def __init__(self, depth: int, factor: int, num_classes: int) -> None:
        super().__init__()
        widths = (16, 16 * factor, 32 * factor, 64 * factor)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        for stage in (1, 2, 3):
            layer = _stage(WideBlock, (depth - 4) // 6, widths[stage - 1], widths[stage], stage)
            self.add_module(f"block{stage}", nn.Sequential(OrderedDict(layer=layer)))
        self.bn1, self.relu = nn.BatchNorm2d(widths[3]), nn.ReLU(inplace=True)
        self.fc = nn.Linear(widths[3], num_classes)
        _initialise(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        features = self.conv1(images)
        for stage in (1, 2, 3):
            features = self.get_submodule(f"block{stage}")(features)
        return self.fc(self.relu(self.bn1(features)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _stage(block: Callable[[int, int, int], nn.Module], count: int, inputs: int, width: int, number: int) -> nn.Sequential:
    """Return the blocks of a stage: the first changes the number of channels and, but for stage 1, halves the side."""
    return nn.Sequential(block(inputs, width, 1 if number == 1 else 2), *(block(width, width, 1) for _ in range(count - 1)))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # also where blocks of ours begin with zeros


def _trained(make: Callable[[int], nn.Module], name: str) -> nn.Module:
    """Return a teacher with its weights."""
    model = make(NUM_CLASSES)
    load_weights(model, Path(os.environ[WORK]) / f"teacher-{name}.pt")
    return model


resnet20 = partial(Residual, 20, (16, 16, 32, 64))
resnet56 = partial(Residual, 56, (16, 16, 32, 64))
resnet8x4 = partial(Residual, 8, (32, 64, 128, 256))
resnet32x4 = partial(Residual, 32, (32, 64, 128, 256))
wrn_16_2 = partial(Wide, 16, 2)
wrn_40_2 = partial(Wide, 40, 2)
trained_resnet56 = partial(_trained, resnet56, "resnet56")
trained_resnet32x4 = partial(_trained, resnet32x4, "resnet32x4")
trained_wrn_40_2 = partial(_trained, wrn_40_2, "wrn_40_2")
