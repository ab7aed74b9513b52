"""Finds the numbers of the images and crops that a caller names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softlabel_codec.checks.arguments import batch_crop_numbers, crop_numbers, whole
from softlabel_codec.checks.arrays import as_array
from softlabel_codec.container.stored_labels import StoredLabels
from softlabel_codec.errors import ArgumentError

ANY_CROPS = 2**32
"""Number of crops that a sampler gives of an image (spec/crop-sampler-v1.md)."""


class Lookup:
    """Finds the images and crops that callers name; raises errors for those that are not there.

    Parameters
    ----------
    stored : StoredLabels
        A file, or a set.
    """

    def __init__(self, stored: StoredLabels) -> None:
        self._path, self._keys = stored.path, stored.keys
        self._num_images, self._num_crops = stored.num_images, stored.num_crops
        self._any_crop = stored.layout.any_crop

    def image(self, image: int | str) -> int:
        """Return the number of an image, named by number (negative: from the end) or key; KeyError or IndexError if there is none."""
        if isinstance(image, str):
            number = self._keys.find(image)
            if number is None:
                raise KeyError(f"{self._path}: no image with the key {image!r}")
            return number
        place = whole(image)
        if place is None:
            raise ArgumentError(f"image: expected a number or a key, got {image!r}")
        if not -self._num_images <= place < self._num_images:
            raise self._no_such_image(place)
        return place + self._num_images if place < 0 else place

    def images(self, images: Sequence[int | str] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the numbers of several images (B,), named as for `image`."""
        if not isinstance(images, np.ndarray) or images.dtype.kind not in "iu" or images.ndim != 1:
            return np.array([self.image(image) for image in images], np.int64)
        outside = (images < -self._num_images) | (images >= self._num_images)
        if outside.any():
            raise self._no_such_image(int(images[outside][0]))
        numbers = images.astype(np.int64)
        return np.where(numbers < 0, numbers + self._num_images, numbers)

    def rows(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Return numbers of images as `find` gives them, int64 (B,); ArgumentError for anything else, such as -1."""
        numbers = as_array("rows", rows)
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
            got = f"{numbers.dtype} of shape {numbers.shape}"
            raise ArgumentError(f"rows: expected numbers of images, integers of shape (B,), at least one, got {got}")
        if numbers.min() < 0:
            place = int((numbers < 0).argmax())
            advice = "Leave out what find(missing=...) marked"
            raise ArgumentError(f"{self._path}: rows: expected numbers of images, got {numbers[place]} at place {place}. {advice}")
        return self.images(numbers)

    def crops(self, crops: Sequence[int] | NDArray[np.integer], number: int) -> list[int]:
        """Return crop numbers of one image; IndexError if it has no such crop."""
        chosen = crop_numbers(crops)
        if chosen and not 0 <= min(chosen) <= max(chosen) < self._end(number):
            raise self._no_such_crop(number, chosen)
        return chosen

    def batch_crops(self, crops: ArrayLike, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return crop numbers (B, N) of the images of these numbers (B,); IndexError if one has no such crop."""
        chosen = batch_crop_numbers(crops, len(numbers))
        outside = (chosen < 0) | (chosen >= (ANY_CROPS if self._any_crop else self._num_crops[numbers][:, None]))
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            raise self._no_such_crop(int(numbers[row]), chosen[row].tolist())
        return chosen.astype(np.int64)

    def _end(self, number: int) -> int:
        """Return the number after that of an image's last crop."""
        return ANY_CROPS if self._any_crop else int(self._num_crops[number])

    def _no_such_image(self, number: int) -> IndexError:
        if not self._num_images:
            return IndexError(f"{self._path}: image number {number}: there are no images")
        return IndexError(f"{self._path}: image number: expected {-self._num_images} to {self._num_images - 1}, got {number}")

    def _no_such_crop(self, number: int, chosen: list[int]) -> IndexError:
        last = self._end(number) - 1
        wrong = next(crop for crop in chosen if not 0 <= crop <= last)
        return IndexError(f"{self._path}: image {number} ({self._keys[number]!r}): crop number: expected 0 to {last}, got {wrong}")
