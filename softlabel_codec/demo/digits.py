"""The demo's images: scikit-learn's handwritten digits, as image folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 10
IMAGE_SIDE = 32
NUM_TRAIN = 1000
MEAN = STD = (0.5, 0.5, 0.5)


def write_digits(out: Path) -> None:
    """Write 1000 images into `out/train/DIGIT/` and the other 797 into `out/val/DIGIT/`."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    data = load_digits()
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)
    for place, number in enumerate(np.random.default_rng(0).permutation(len(pixels)).tolist()):
        path = out / ("train" if place < NUM_TRAIN else "val") / str(data.target[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        large = Image.fromarray(pixels[number]).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
        large.convert("RGB").save(path)
