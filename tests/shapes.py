"""A tiny problem that a student learns in seconds: coloured squares, a teacher that knows them, and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from softlabel_codec import SoftLabelWriter
from softlabel_codec.images.paths import list_images
from softlabel_codec.sampler import CropSampler
from softlabel_codec.trainer import TrainConfig

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40), "white": (230, 230, 230)}
SIDE = 24
NUM_CROPS = 12
SAMPLER = CropSampler(seed=3, scale=(0.3, 1.0))
TEACHER = f'''
import torch
from torch import nn

INPUT_SIZE = 16
MEAN = STD = (0.5, 0.5, 0.5)

class Nearest(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("colors", torch.tensor({list(COLORS.values())}) / 127.5 - 1)

    def logit_map(self, images):
        return -6 * (images[:, None] - self.colors[None, :, :, None, None]).square().sum(2)

    def forward(self, images):
        return self.logit_map(images).mean((2, 3))

def build():
    return Nearest()

class Softmax(Nearest):
    def forward(self, images):
        return super().forward(images).softmax(1)

def probs():
    return Softmax()

def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 7))

def plain(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(128, num_classes))

def drops(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(128, num_classes))

def always_seven(num_classes):
    return seven()

def of_another_size(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, num_classes))

class Pair(nn.Linear):
    def forward(self, images):
        return super().forward(images.flatten(1)), None

def pair(num_classes):
    return Pair(768, num_classes)

class LastGradient(nn.Linear):
    """The gradient of its sixth call is NaN, the loss is not."""
    calls = 0

    def forward(self, images):
        self.calls += 1
        logits = super().forward(images.flatten(1))
        return logits + torch.sqrt(logits * 0 if self.calls == 6 else torch.ones_like(logits))

def last_gradient(num_classes):
    return LastGradient(768, num_classes)

def explodes(num_classes):
    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(768, num_classes)
            self.calls = 0
        def forward(self, images):
            self.calls += 1
            return self.linear(images.flatten(1)) * (float("nan") if self.calls > 6 else 1.0)  # the first call is a trial
    return Explodes()
'''

OTHER_TEACHER = """
INPUT_SIZE, MEAN, STD, INTERPOLATION = 20, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2), "bicubic"

def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=5), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
"""


def write_two_teachers(shapes: Path, folder: Path) -> list[str]:
    """Return the teacher of the shapes, and another of another size, interpolation and normalisation."""
    (folder / "other.py").write_text(TEACHER + OTHER_TEACHER)
    return [f"{shapes / 'teacher.py'}:build", f"{folder / 'other.py'}:other"]


def write_shapes(folder: Path) -> None:
    """Write training and validation images, a teacher file and a label file."""
    rng = np.random.default_rng(0)
    for part, per_class in (("train", 10), ("val", 5)):
        for name, color in COLORS.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(per_class):
                pixels = rng.normal(color, 40, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    (folder / "teacher.py").write_text(TEACHER)
    write_shape_labels(folder, folder / "labels.slc")


def write_shape_labels(folder: Path, path: Path, codec: str = "marginal_smoothing:k=2", seed: int = 0, **metadata: Any) -> None:
    """Write labels that are mostly right."""
    rng = np.random.default_rng(seed)
    keys = list_images(folder / "train")
    known = {"preprocessing": {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}, **metadata}
    with SoftLabelWriter(path, len(COLORS), codec, known, crops="derived", sampler=SAMPLER) as writer:
        for key in keys:
            logits = rng.normal(0, 1, (NUM_CROPS, len(COLORS))) + 3 * (np.array(list(COLORS)) == key.split("/")[0])
            if "logits" in codec:
                writer.add(key, image_size=(SIDE, SIDE), vectors=logits.astype(np.float32))
                continue
            probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            writer.add(key, image_size=(SIDE, SIDE), probs=probs.astype(np.float32))


def options(folder: Path, out: Path, **more: Any) -> dict[str, Any]:
    """Return options of a short run."""
    own = {"images": str(folder / "train"), "labels": str(folder / "labels.slc"), "val": str(folder / "val"), "out": str(out)}
    short = {"student": "small", "size": 16, "val_crop": 1.0, "epochs": 4, "batch_size": 8, "crops_per_image": 2, "learning_rate": 0.05}
    return {**own, **short, "device": "cpu", **more}


def config(folder: Path, out: Path, **more: Any) -> TrainConfig:
    """Return a short run."""
    return TrainConfig.from_mapping(options(folder, out, **more))
