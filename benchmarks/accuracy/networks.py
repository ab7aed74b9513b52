"""Networks of the accuracy experiment, for images of 64 pixels and less: `networks.py:NAME` for slcodec."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from softlabel_codec.students.resnet import ResNet
from softlabel_codec.students.small import SmallNetwork

MEAN, STD = (0.48, 0.45, 0.4), (0.28, 0.27, 0.28)
WORK = "SLCODEC_ACCURACY_WORK"
"""Variable that says where the trained teacher lies."""


def _resnet(depth: int, num_classes: int) -> ResNet:
    """Return a residual network that halves 64 pixels once before its first stage."""
    model = ResNet(depth, num_classes, small=True)
    model.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    return model


def resnet18(num_classes: int) -> nn.Module:
    """Return the student of the large scale."""
    return _resnet(18, num_classes)


def resnet34(num_classes: int) -> nn.Module:
    """Return the teacher of the large scale."""
    return _resnet(34, num_classes)


def small_student(num_classes: int) -> nn.Module:
    """Return the student of the scale for a CPU."""
    return SmallNetwork(num_classes, width=32)


def small_teacher(num_classes: int) -> nn.Module:
    """Return the teacher of the small scales."""
    return SmallNetwork(num_classes, width=64)


def _trained(model: nn.Module) -> nn.Module:
    """Return a network with the weights of the teacher that was trained, which are kept in half precision."""
    kept = torch.load(Path(os.environ[WORK]) / "teacher-f16.pt", map_location="cpu", weights_only=True)
    model.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in kept.items()})
    return model


def trained_resnet34() -> nn.Module:
    """Return the trained teacher of the large scale."""
    return _trained(resnet34(100))


def trained_small_teacher() -> nn.Module:
    """Return the trained teacher of the small scales."""
    return _trained(small_teacher(100))
