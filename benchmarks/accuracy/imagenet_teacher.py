"""The surer teacher of the accuracy experiment on a CPU: MobileNetV2 of ImageNet, which lies beside the repository, on 100 of its classes.

Needs the list of ImageNet's classes that timm has: `pip install --no-deps timm`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.accuracy.networks import WORK
from benchmarks.accuracy.plan import ALL
from benchmarks.measure.common import SHARED
from softlabel_codec.teacher import load_teacher

NETWORK = SHARED / "teacher" / "mobilenet_v2.py"
INPUT_SIZE = 64
MEAN = STD = (0.5, 0.5, 0.5)
SCALED = 2
"""Crops of 64 pixels are scaled to 128: most accurate of what a CPU can do in time."""


class OfSomeClasses(nn.Module):
    """A network of ImageNet on enlarged crops, of whose classes only some are asked for.

    Parameters
    ----------
    network : Module
        Images (B, 3, H, W) to logits (B, 1000).
    classes : list of int
        Numbers of the classes, (C,).
    """

    def __init__(self, network: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("classes", torch.tensor(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, 64, 64)."""
        larger = nn.functional.interpolate(images, scale_factor=SCALED, mode="bicubic")
        return self.network(larger)[:, self.classes]


def build() -> nn.Module:
    """Return the teacher for the classes that the folder of images has."""
    found = importlib.util.find_spec("timm")  # importing it would need torchvision
    if found is None or found.origin is None:
        raise ImportError("the ImageNet teacher needs the class list of timm: pip install --no-deps timm")
    names = (Path(found.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    folders = sorted(folder.name for folder in (Path(os.environ[WORK]) / "images" / ALL / "train").iterdir())
    return OfSomeClasses(load_teacher(f"{NETWORK}:build").model, [names.index(name) for name in folders])
