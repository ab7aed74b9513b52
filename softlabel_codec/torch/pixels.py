"""Converts 8-bit pixels to the input of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from softlabel_codec.errors import ArgumentError

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images of the same size as uint8 (n, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def as_triple(name: str, values: Any) -> Triple:
    """Return three numbers, one for each of R, G and B; ArgumentError if they are not."""
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected three numbers, got {values!r}") from None
    return red, green, blue


def as_std(values: Any) -> Triple:
    """Return three positive numbers; ArgumentError if they are not."""
    std = as_triple("std", values)
    if min(std) <= 0:
        raise ArgumentError(f"std: expected positive numbers, got {std}")
    return std


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (pixels / 255 - mean) / std of 8-bit images (..., 3, H, W), as float32 on the same device."""
    shape = (3, 1, 1)
    scale = torch.tensor([1 / (255 * value) for value in std], device=pixels.device).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device).view(shape)
    return pixels.float().mul_(scale).add_(shift)
