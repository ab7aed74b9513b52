"""Padding: how images are enlarged before crops are cut out of them (spec/container-v1.md, section 4.2)."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.arguments import check_choice, whole
from softlabel_codec.checks.limits import MAX_PADDING
from softlabel_codec.errors import ArgumentError, CorruptError, UnknownFeatureError

PADDING_MODES = ("constant", "edge", "reflect", "symmetric")
"""What new pixels are, as torchvision and numpy name it."""

Side = TypeVar("Side", int, NDArray[np.int64])


@dataclass(frozen=True)
class Padding:
    """Rows and columns that are added on each side of an image before it is cropped.

    The parameters are `padding`, `padding_mode` and `fill` of torchvision's `RandomCrop`.

    Parameters
    ----------
    pixels : int
        How many on each of the four sides, 0 to 1024. 0: none.
    mode : str
        What they are: `constant`, `edge`, `reflect` or `symmetric`.
    fill : int or three ints
        Grey value, or red, green and blue, of new pixels, 0 to 255; of mode `constant` only.

    Raises
    ------
    ArgumentError
        If any of these is something else.

    Examples
    --------
    >>> Padding(4).around((32, 32))
    (40, 40)
    """

    pixels: int = 0
    mode: str = "constant"
    fill: int | tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        pixels = whole(self.pixels)
        if pixels is None or not 0 <= pixels <= MAX_PADDING:
            raise ArgumentError(f"padding: expected 0 to {MAX_PADDING} pixels, got {self.pixels!r}")
        check_choice("padding mode", self.mode, PADDING_MODES)
        fill = _color(self.fill)
        if not pixels and (any(fill) or self.mode != "constant"):
            raise ArgumentError(f"padding: expected 1 to {MAX_PADDING} pixels for mode {self.mode!r} and fill {fill}, got 0")
        if any(fill) and self.mode != "constant":
            raise ArgumentError(f"fill: expected none for padding of mode {self.mode!r}, got {self.fill!r}")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "fill", fill)

    def __bool__(self) -> bool:
        """Return whether anything is added."""
        return self.pixels > 0

    def __str__(self) -> str:
        fill = f" {self.fill}" if self.mode == "constant" else ""
        return f"{self.pixels} pixels on each side, {self.mode}{fill}" if self else "none"

    def around(self, size: tuple[Side, Side]) -> tuple[Side, Side]:
        """Return height and width of an image with its padding, or those of many images."""
        return size[0] + 2 * self.pixels, size[1] + 2 * self.pixels

    def pad(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image uint8 (H, W, 3) with its padding."""
        height, width = image.shape[:2]
        if self.mode == "constant":
            padded = np.full((*self.around((height, width)), 3), self.fill, np.uint8)
            padded[self.pixels : self.pixels + height, self.pixels : self.pixels + width] = image
            return padded
        return image[self._sources(height)[:, None], self._sources(width)]

    def _sources(self, length: int) -> NDArray[np.int64]:
        """Return, for each row (or column) of the padded image, that of the image which it repeats."""
        places = np.arange(-self.pixels, length + self.pixels)
        if self.mode == "edge":
            return places.clip(0, length - 1)
        last = 2 * length - (2 if self.mode == "reflect" else 1)
        there = places % (max(1, last) if self.mode == "reflect" else last + 1)
        return np.minimum(there, last - there)

    @classmethod
    def from_description(cls, description: object) -> Padding:
        """Return the padding with this description, as `describe` returns it; UnknownFeatureError or CorruptError if there is none."""
        if not isinstance(description, dict):
            raise CorruptError(f"padding: expected a map, got {type(description).__name__}")
        try:
            mode = description["mode"]
            if isinstance(mode, str) and mode not in PADDING_MODES:
                known = " or ".join(PADDING_MODES)
                raise UnknownFeatureError(f"padding: expected mode {known}, got {reprlib.repr(mode)}. Update softlabel_codec")
            fill = description["fill"] if mode == "constant" else [0, 0, 0]
            if not isinstance(fill, list):
                raise CorruptError(f"padding: expected a fill of three integers, got {reprlib.repr(fill)}")
            padding = cls(description["pixels"], mode, (*fill,))
        except KeyError as error:
            raise CorruptError(f"padding: {error} is missing") from None
        except ArgumentError as error:
            raise CorruptError(f"padding: {error}") from None
        if not padding:
            raise CorruptError(f"padding: expected 1 to {MAX_PADDING} pixels, got 0")
        return padding

    def describe(self) -> dict[str, Any]:
        """Return what a file's metadata say of it."""
        fill = {"fill": list(_color(self.fill))} if self.mode == "constant" else {}
        return {"pixels": self.pixels, "mode": self.mode, **fill}


def _color(fill: object) -> tuple[int, int, int]:
    values = (fill,) * 3 if whole(fill) is not None else tuple(fill) if isinstance(fill, list | tuple) else ()
    color = [number for value in values if (number := whole(value)) is not None and 0 <= number <= 255]
    if len(values) != 3 or len(color) != 3:
        raise ArgumentError(f"fill: expected one or three integers from 0 to 255, got {reprlib.repr(fill)}")
    return color[0], color[1], color[2]


NO_PADDING = Padding()
