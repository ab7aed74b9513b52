"""The demo's images and networks: scikit-learn's handwritten digits, as an image folder and as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from softlabel_codec.torch import normalize

NUM_CLASSES = 10
IMAGE_SIDE = 32
NUM_TRAIN = 1000
MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Digits:
    """The images: an image folder for training, tensors for testing."""

    folder: Path
    classes: dict[str, int]
    test_images: Tensor
    test_classes: Tensor


def write_digits(out: Path) -> Digits:
    """Write the training images into `out/train/<class>/` and return them with the test images."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    data = load_digits()
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))
    large = [Image.fromarray(image).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC).convert("RGB") for image in pixels]
    classes = {}
    for number in order[:NUM_TRAIN].tolist():
        key = f"{data.target[number]}/{number:04d}.png"
        path = out / "train" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        large[number].save(path)
        classes[key] = int(data.target[number])
    test = order[NUM_TRAIN:]
    stack = torch.from_numpy(np.stack([np.asarray(large[number]) for number in test])).permute(0, 3, 1, 2)
    return Digits(out / "train", classes, normalize(stack, MEAN, STD), torch.from_numpy(data.target[test]).long())


def small_network(width: int) -> nn.Sequential:
    """Return a small convolutional network for 32 x 32 images."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *stage(3, width),
        *stage(width, 2 * width),
        *stage(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, NUM_CLASSES),
    )
