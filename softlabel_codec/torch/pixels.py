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
    """Return RGB images of the same size as uint8 (n, 3, H, W), in the memory format `torch.channels_last`."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


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


def normalize_into(normalized: Tensor, pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write what `normalize` returns to float32 `normalized`; both (n, H, W, 3) and contiguous."""
    rows = normalized.view(-1, normalized.shape[2] * 3)
    scale, shift = (values.repeat(normalized.shape[2]) for values in _scale_and_shift(mean, std))
    rows.copy_(pixels.view_as(rows)).mul_(scale).add_(shift)


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (pixels / 255 - mean) / std of 8-bit images (..., 3, H, W), as float32 on the same device."""
    scale, shift = (values.to(pixels.device).view(3, 1, 1) for values in _scale_and_shift(mean, std))
    return pixels.float().mul_(scale).add_(shift)


def _scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return by what pixels are multiplied, and what is added then, float32 (3,) each."""
    return torch.tensor([1 / (255 * value) for value in std]), torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
