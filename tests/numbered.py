"""A label file in which every crop says which it is: crop m has class m, and image i is of grey i."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from torch import Tensor

from softlabel_codec import SoftLabelWriter
from softlabel_codec.torch import SparseTargets

NUM_IMAGES = 6
NUM_CROPS = 12
KEYS = [f"image{number}.png" for number in range(NUM_IMAGES)]
IMAGES = {key: np.full((20, 20, 3), number, np.uint8) for number, key in enumerate(KEYS)}
PIXELS = {"size": 4, "normalized": False}

Draws = dict[int, list[tuple[int, ...]]]
"""The crops of each draw of each image, in the order in which they came."""


def write_numbered(path: Path) -> Path:
    """Write the file, and return its path."""
    with SoftLabelWriter(path, NUM_CROPS, "hard") as writer:
        for key in KEYS:
            crops = np.full((NUM_CROPS, 4), 5)
            writer.add(key, image_size=(20, 20), crops=crops, flips=np.zeros(NUM_CROPS, bool), probs=np.eye(NUM_CROPS))
    return path


def draws_of(batches: list[tuple[Tensor, SparseTargets]], crops_per_image: int) -> Draws:
    """Return what was drawn in batches of image-major crops."""
    found: Draws = defaultdict(list)
    for pixels, targets in batches:
        images = pixels[:, 0, 0, 0].reshape(-1, crops_per_image)
        crops = targets.indices[:, 0].reshape(-1, crops_per_image)
        assert (images == images[:, :1]).all()
        for image, drawn in zip(images[:, 0].tolist(), crops.tolist(), strict=True):
            found[image].append(tuple(drawn))
    return dict(found)


def joined(*parts: Draws) -> Draws:
    """Return the draws of several epochs, one after another."""
    images = sorted({image for part in parts for image in part})
    return {image: [draw for part in parts for draw in part.get(image, [])] for image in images}


def never_again(draws: Draws) -> bool:
    """Return whether no image drew a crop again before it had drawn all."""
    for of_image in draws.values():
        crops = [crop for draw in of_image for crop in draw]
        for start in range(0, len(crops), NUM_CROPS):
            part = crops[start : start + NUM_CROPS]
            if len(set(part)) < len(part):
                return False
    return True
