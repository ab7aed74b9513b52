"""What is done to batches on the device: colour jitter, mixup and cutmix. Labels are mixed by mixing losses, which are linear in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GREY = 0.299, 0.587, 0.114


class Mix(NamedTuple):
    """How a batch was mixed: crop i is `share` of itself and 1 - `share` of crop `other[i]`."""

    other: Tensor
    share: float


def jitter_colors(pixels: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Return pixels (B, 3, H, W) in 0..1 whose brightness, contrast and saturation are changed by factors of 1 +- strength, per crop."""
    if not strength:
        return pixels
    drawn = rng.uniform(1 - strength, 1 + strength, (3, len(pixels), 1, 1, 1)).astype(np.float32)
    factors = torch.from_numpy(drawn).to(pixels.device)
    pixels = (pixels * factors[0]).clamp_(0, 1)
    weights = torch.tensor(GREY, device=pixels.device).view(1, 3, 1, 1)
    mean = (pixels * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    pixels = torch.lerp(mean.expand_as(pixels), pixels, factors[1]).clamp_(0, 1)
    grey = (pixels * weights).sum(dim=1, keepdim=True)
    return torch.lerp(grey.expand_as(pixels), pixels, factors[2]).clamp_(0, 1)


def mix_crops(pixels: Tensor, crops_per_image: int, mixup: float, cutmix: float, rng: np.random.Generator) -> tuple[Tensor, Mix | None]:
    """Return mixed pixels and how they were mixed: by mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019).

    Parameters
    ----------
    pixels : float (B, 3, H, W)
        Crops, those of an image side by side. They are of two images at least: no crop is mixed with one of its own image.
    crops_per_image : int
        How many of them are of each image.
    mixup, cutmix : float
        Alphas of the beta distribution of the share; 0 leaves that way out. With both, each step takes either.
    rng : Generator
        What is drawn from.
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
