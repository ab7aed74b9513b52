"""Mixup and cutmix of a batch, on its device. Labels are not mixed: the losses are, which is the same, as the loss is linear in labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Mix(NamedTuple):
    """How a batch was mixed: crop i is now `share` of itself and 1 - `share` of crop `other[i]`."""

    other: Tensor
    share: float


def mix_crops(pixels: Tensor, crops_per_image: int, mixup: float, cutmix: float, rng: np.random.Generator) -> tuple[Tensor, Mix | None]:
    """Return mixed pixels and how they were mixed: by mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019).

    Parameters
    ----------
    pixels : float (B, 3, H, W)
        Crops of at least two images, those of an image side by side. No crop is mixed with one of its own image.
    crops_per_image : int
        Number of crops of each image.
    mixup, cutmix : float
        Alpha of the beta distribution of the share, or 0 for none. If both are given, each call chooses one of them at random.
    rng : Generator
        Source of random numbers.
    """
    if not mixup and not cutmix:
        return pixels, None
    by_cutting = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if by_cutting else mixup
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(_partners(len(pixels) // crops_per_image, crops_per_image, rng)).to(pixels.device)
    if not by_cutting:
        return torch.lerp(pixels[other], pixels, share), Mix(other, share)
    height, width = pixels.shape[2:]
    top, bottom = _interval(height, (1 - share) ** 0.5, rng)
    left, right = _interval(width, (1 - share) ** 0.5, rng)
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[other, :, top:bottom, left:right]
    return mixed, Mix(other, 1 - (bottom - top) * (right - left) / (height * width))


def _partners(num_images: int, crops_per_image: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random permutation of crops that sends each to a crop of another image: the n-th of one image to the n-th of another."""
    images = rng.permuted(np.tile(np.arange(num_images), (crops_per_image, 1)), axis=1)
    other = np.empty((num_images, crops_per_image), np.int64)
    for place, circle in enumerate(images):  # each image takes the next one of a random circle
        other[circle, place] = np.roll(circle, -1) * crops_per_image + place
    return other.ravel()


def _interval(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    middle, half = int(rng.integers(length)), int(length * share) // 2
    return max(0, middle - half), min(length, middle + half)
