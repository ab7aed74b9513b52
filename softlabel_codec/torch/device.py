"""Images that lie in a device's memory, and crops cut there. The pixels are those of Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from softlabel_codec.errors import ArgumentError

PRECISION_BITS = 22
"""Pillow scales its coefficients to integers of so many bits."""
CHUNK = 2**25
"""About so many coefficients are computed at a time."""


class ImageMemory:
    """What was decoded once, by what it is; runs that share a memory decode nothing twice."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def keep(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """Return what was kept under this name, or make it and keep it."""
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]


class _Filter(NamedTuple):
    support: float
    weight: Callable[[Tensor], Tensor]


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).double()


def _hamming(x: Tensor) -> Tensor:
    x = x.abs()
    inner = torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x))
    return torch.where(x < 1, inner, 0.0)


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where((x >= -3) & (x < 3), torch.sinc(x) * torch.sinc(x / 3), 0.0)


FILTERS = {
    "bilinear": _Filter(1.0, _triangle),
    "box": _Filter(0.5, _box),
    "hamming": _Filter(1.0, _hamming),
    "bicubic": _Filter(2.0, _bicubic),
    "lanczos": _Filter(3.0, _lanczos),
}


def cut_crops(images: Tensor, which: Tensor, crops: Tensor, flips: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Return stored crops as `size` x `size` pixels, as `images.cutting` does with Pillow, on the images' device.

    Pillow's resampling is a sum of pixels times integer coefficients, rounded to 8 bits, along rows and along columns. The same
    integers are computed here, in float64, which holds them exactly: pixels equal those of the installed Pillow, up to coefficients
    that another `sin` or `cos` rounds to the next integer (hamming and lanczos).

    Parameters
    ----------
    images : uint8 (n, 3, H, W)
        All images; of one size.
    which : int64 (B,)
        Which image each crop is of. It, `crops` and `flips` best lie in the host's memory, page-locked: then nothing here waits for the
        device.
    crops : int (B, 4)
        top, left, height, width in pixels.
    flips : bool (B,)
        Whether each crop is mirrored left to right.
    size : int
        Side of the result in pixels.
    interpolation : str
        One of `FILTERS`.

    Returns
    -------
    uint8 (B, 3, size, size)

    Raises
    ------
    ArgumentError
        If the interpolation is another.
    """
    if interpolation not in FILTERS:
        raise ArgumentError(f"interpolation: on a device expected one of {', '.join(FILTERS)}, got {interpolation!r}")
    height, width = images.shape[2:]
    columns_first = _columns_first(crops[:, 2], crops[:, 3], size)
    which, flips = (tensor.to(images.device, non_blocking=True) for tensor in (which, flips))
    rows_at_a_time = max(1, CHUNK // (size * (height + width) + 3 * height * (width + size)))
    parts = []
    for start in range(0, len(which), rows_at_a_time):
        part = slice(start, start + rows_at_a_time)
        turned = columns_first[part].nonzero().flatten().to(images.device, non_blocking=True)
        placed = crops[part].to(images.device, non_blocking=True).double()
        parts.append(_cut(images[which[part]], placed, flips[part], turned, size, FILTERS[interpolation]))
    return torch.cat(parts) if parts else images.new_zeros((0, 3, size, size))


def _cut(images: Tensor, crops: Tensor, flips: Tensor, columns_first: Tensor, size: int, kernel: _Filter) -> Tensor:
    top, left, crop_height, crop_width = crops.T
    across = _coefficients(left, crop_width, images.shape[3], size, kernel)
    down = _coefficients(top, crop_height, images.shape[2], size, kernel)
    down, across, pixels = down[:, None], across[:, None].transpose(2, 3), images.double()
    scaled = _to_8_bits(down @ _to_8_bits(pixels @ across))
    if len(columns_first):
        part = columns_first
        scaled[part] = _to_8_bits(_to_8_bits(down[part] @ pixels[part]) @ across[part])
    return torch.where(flips[:, None, None, None], scaled.flip(3), scaled).to(torch.uint8)


def _coefficients(start: Tensor, length: Tensor, num_pixels: int, size: int, kernel: _Filter) -> Tensor:
    """Return what each pixel of a line contributes to each pixel of the result, (B, size, num_pixels), in units of 2^-22."""
    scale = (length / size)[:, None, None]
    wide = scale.clamp(min=1)
    center = (torch.arange(size, device=start.device, dtype=torch.float64)[:, None] + 0.5) * scale
    pixel = torch.arange(num_pixels, device=start.device, dtype=torch.float64) - start[:, None, None]
    support = kernel.support * wide
    first = (center - support + 0.5).trunc().clamp(min=0)
    last = torch.minimum((center + support + 0.5).trunc(), length[:, None, None])
    inside = (pixel >= first) & (pixel < last)
    weights = torch.where(inside, kernel.weight((pixel - center + 0.5) * (1 / wide)), 0.0)
    weights = weights / weights.sum(dim=2, keepdim=True)
    scaled = weights * 2.0**PRECISION_BITS
    return (scaled + torch.where(weights < 0, -0.5, 0.5)).trunc()


def _columns_first(height: Tensor, width: Tensor, size: int) -> Tensor:
    """Return for which crops Pillow scales columns before rows: from version 13 on where that is less work by its reckoning."""
    if not _pillow_chooses_order():
        return torch.zeros_like(height, dtype=torch.bool)
    return (height > size) & (2 * (width - size) < height - size)


@lru_cache(maxsize=1)
def _pillow_chooses_order() -> bool:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16), dtype=np.uint8)
    image = Image.fromarray(pixels)
    rows_first = image.resize((12, 24), Image.Resampling.BILINEAR).resize((12, 12), Image.Resampling.BILINEAR)
    return bool((np.asarray(image.resize((12, 12), Image.Resampling.BILINEAR)) != np.asarray(rows_first)).any())


def _to_8_bits(sums: Tensor) -> Tensor:
    return ((sums + 2.0 ** (PRECISION_BITS - 1)) / 2.0**PRECISION_BITS).floor().clamp(0, 255)
