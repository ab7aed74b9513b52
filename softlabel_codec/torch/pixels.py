"""Between 8-bit pixels and what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images of the same size as uint8 (n, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (pixels / 255 - mean) / std of 8-bit images (..., 3, H, W), as float32 on the same device."""
    shape = (3, 1, 1)
    scale = torch.tensor([1 / (255 * value) for value in std], device=pixels.device).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device).view(shape)
    return pixels.float().mul_(scale).add_(shift)
