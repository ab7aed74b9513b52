"""Labels with their crops: `ImageLabels` of one image, `BatchLabels` of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels.dense import DenseLabels
from softlabel_codec.labels.sparse import SparseLabels

Labels = SparseLabels | DenseLabels


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """Crops of one image and their labels.

    Attributes
    ----------
    crops : int32 (M, 4)
        top, left, height, width in pixels of the stored image; floats if the file stores fractions (see `SoftLabelReader.crops`).
    flips : bool (M,)
        Whether each crop is mirrored left to right after cutting and scaling.
    image_size : (int, int)
        Height and width of the stored image in pixels; (0, 0) if the file does not say.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    image_crc32 : int or None
        CRC-32 of the labelled image's file, if the file stores it.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    image_size: tuple[int, int]
    labels: Labels
    image_crc32: int | None = None

    @property
    def num_crops(self) -> int:
        """M."""
        return len(self.flips)


@dataclass(frozen=True, eq=False)
class BatchLabels:
    """Crops of several images and their labels: one row for each crop, image after image.

    Attributes
    ----------
    crops : int32 (R, 4)
        As in `ImageLabels`.
    flips : bool (R,)
        Whether each crop is mirrored.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    image_sizes : int64 (B, 2)
        Height and width of each image.
    num_crops : int64 (B,)
        Number of crops of each image.
    images : int64 (B,)
        Number of each image in the file.
    image_crc32s : int64 (B,) or None
        CRC-32 of the file of each labelled image, if the file stores them.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    labels: Labels
    image_sizes: NDArray[np.int64]
    num_crops: NDArray[np.int64]
    images: NDArray[np.int64]
    image_crc32s: NDArray[np.int64] | None = None

    @classmethod
    def of_image(cls, image: ImageLabels, number: NDArray[np.int64]) -> BatchLabels:
        """Return a batch of one image, whose number is `number` (1,)."""
        crc32s = None if image.image_crc32 is None else np.array([image.image_crc32], np.int64)
        num_crops = np.array([image.num_crops], np.int64)
        return cls(image.crops, image.flips, image.labels, np.array([image.image_size], np.int64), num_crops, number, crc32s)

    def __iter__(self) -> Iterator[ImageLabels]:
        """Yield the images one by one."""
        start = 0
        crc32s = [None] * len(self.images) if self.image_crc32s is None else self.image_crc32s.tolist()
        for count, size, crc32 in zip(self.num_crops.tolist(), self.image_sizes.tolist(), crc32s, strict=True):
            rows = slice(start, start + count)
            labels = self.labels if len(self.images) == 1 else self.labels[rows]
            yield ImageLabels(self.crops[rows], self.flips[rows], (size[0], size[1]), labels, crc32)
            start += count
