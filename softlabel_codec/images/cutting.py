"""Crops out of images: the one way in which teacher, dataset, label maps and trainer decode, cut, scale and mirror."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softlabel_codec.image_source import ImageData
from softlabel_codec.images.files import apply_crop, image_size, load_image, load_reduced, padded, read_size, resampling
from softlabel_codec.padding import NO_PADDING, Padding

CropsOf = Callable[[tuple[int, int]], tuple[NDArray[np.int64], NDArray[np.bool_]]]
"""Height and width of an image in pixels to its crops, int64 (n, 4): top, left, height, width; and flips, bool (n,).

The size is without padding, the crops count from the corner of the padded image."""
FACTORS = (8, 4, 2)
"""What a JPEG file can be reduced by while it is decoded."""


class Cut(NamedTuple):
    """Crops of an image.

    Attributes
    ----------
    images : list of PIL images
        The crops, RGB, of the size that was asked for.
    crops : int64 (n, 4)
        top, left, height, width in pixels of the image with its padding.
    flips : bool (n,)
        Whether each was mirrored.
    size : (int, int)
        Height and width of the whole image, without padding.
    """

    images: list[Image.Image]
    crops: NDArray[np.int64]
    flips: NDArray[np.bool_]
    size: tuple[int, int]


@dataclass(frozen=True)
class Cutter:
    """How crops are made of an image.

    Attributes
    ----------
    size : int
        Side of a crop as the network sees it, in pixels.
    interpolation : str
        How crops are scaled.
    exif_orientation : str
        Whether images are turned first, as a camera's EXIF tag says: `applied` or `ignored`.
    reduced : bool
        Decode JPEG files at a half, a quarter or an eighth of their size where all crops are at least as many times larger than `size`.
        Images that are padded never are.
    padding : Padding
        How images are enlarged before they are cropped.
    """

    size: int
    interpolation: str = "bilinear"
    exif_orientation: str = "ignored"
    reduced: bool = False
    padding: Padding = NO_PADDING

    def cut(self, source: ImageData, crops_of: CropsOf, name: str = "image") -> Cut:
        """Return crops of an image: decoded, cut, scaled and mirrored.

        Parameters
        ----------
        source : path, bytes of an image file, PIL image, or uint8 array
            As for `load_image`.
        crops_of : callable
            Which crops, once the image's height and width are known.
        name : str
            What to call the image in an error that does not come with a path.

        Raises
        ------
        OSError, ArgumentError
            As `load_image`, and whatever `crops_of` raises.
        """
        as_stored = self.exif_orientation == "ignored" and not self.padding
        if self.reduced and as_stored and isinstance(source, str | os.PathLike | bytes):
            return self._cut_reduced(source, crops_of, name)
        image = load_image(source, self.exif_orientation, name)
        return self.cut_out(image, *crops_of(image_size(image)))

    def cut_into(self, pixels: NDArray[np.uint8], source: ImageData, crops_of: CropsOf, name: str = "image") -> None:
        """Write crops of an image into `pixels`, uint8 (n, size, size, 3), as many as `crops_of` gives; otherwise as `cut`."""
        for place, image in zip(pixels, self.cut(source, crops_of, name).images, strict=True):
            place[...] = np.asarray(image)

    def whole(self, source: ImageData, name: str = "image") -> Image.Image:
        """Return an image as its crops are cut out of it: decoded to RGB, turned, and padded."""
        return padded(load_image(source, self.exif_orientation, name), self.padding)

    def _cut_reduced(self, source: str | os.PathLike[str] | bytes, crops_of: CropsOf, name: str) -> Cut:
        size = read_size(source, name)
        crops, flips = crops_of(size)
        factor = next((factor for factor in FACTORS if int(crops[:, 2:].min()) >= factor * self.size), 1)
        image = load_reduced(source, factor, name)
        if factor == 1:
            return self.cut_out(image, crops, flips)
        down, across = image.height / size[0], image.width / size[1]
        boxes = [(left * across, top * down, (left + wide) * across, (top + high) * down) for top, left, high, wide in crops.tolist()]
        scaled = [image.resize((self.size, self.size), resampling(self.interpolation), box) for box in boxes]
        mirror = Image.Transpose.FLIP_LEFT_RIGHT
        return Cut([crop.transpose(mirror) if flip else crop for crop, flip in zip(scaled, flips, strict=True)], crops, flips, size)

    def cut_out(self, image: Image.Image, crops: NDArray[np.int64], flips: NDArray[np.bool_]) -> Cut:
        """Return these crops of an image that is decoded and turned, but not padded yet."""
        whole, due = padded(image, self.padding), zip(crops.tolist(), flips.tolist(), strict=True)
        images = [apply_crop(whole, crop, flip, self.size, self.interpolation) for crop, flip in due]
        return Cut(images, crops, flips, image_size(image))


def cut_alike(cutters: Sequence[Cutter], source: ImageData, crops_of: CropsOf, name: str = "image") -> list[Cut]:
    """Return the same crops of an image as each of some cutters makes them. The image is decoded once.

    Parameters
    ----------
    cutters : sequence of Cutter
        At least one. They differ in size and interpolation only, and do not reduce.
    source, crops_of, name
        As for `Cutter.cut`, with its errors.
    """
    image = load_image(source, cutters[0].exif_orientation, name)
    crops, flips = crops_of(image_size(image))
    return [cutter.cut_out(image, crops, flips) for cutter in cutters]


def whole_image(size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return one crop that is the whole image, not mirrored."""
    return np.array([[0, 0, *size]], np.int64), np.zeros(1, np.bool_)
