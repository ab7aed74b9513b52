"""What a reader returns: crops with their labels, of one image or of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.labels import Labels


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """Crops of one image and their labels.

    Attributes
    ----------
    crops : int32 (M, 4)
        top, left, height, width in pixels of the stored image; floats if the file keeps fractions (see `SoftLabelReader.crops`).
    flips : bool (M,)
        Whether each crop is mirrored left to right after cutting and scaling.
    image_size : (int, int)
        Height and width of the stored image in pixels; (0, 0) if the file does not know.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    image_crc32 : int or None
        CRC-32 of the labelled image's file, if the labels keep it.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    image_size: tuple[int, int]
    labels: Labels
    image_crc32: int | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.flips)


@dataclass(frozen=True, eq=False)
class BatchLabels:
    """Crops of several images and their labels: one row for each crop, image after image.

    Attributes
    ----------
    crops : int32 (R, 4)
        As in `ImageLabels`.
    flips : bool (R,)
        Likewise.
    labels : SparseLabels or DenseLabels
        One row for each crop.
    image_sizes : int64 (B, 2)
        Height and width of each image.
    image_rows : int64 (B,)
        Number of rows of each image.
    images : int64 (B,)
        Number of each image in the file.
    image_crc32s : int64 (B,) or None
        CRC-32 of the file of each labelled image, if the labels keep them.
    """

    crops: NDArray[Any]
    flips: NDArray[np.bool_]
    labels: Labels
    image_sizes: NDArray[np.int64]
    image_rows: NDArray[np.int64]
    images: NDArray[np.int64]
    image_crc32s: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_rows)

    def __iter__(self) -> Iterator[ImageLabels]:
        """Yield the images one by one."""
        start = 0
        crc32s = [None] * len(self) if self.image_crc32s is None else self.image_crc32s.tolist()
        for count, size, crc32 in zip(self.image_rows.tolist(), self.image_sizes.tolist(), crc32s, strict=True):
            rows = slice(start, start + count)
            yield ImageLabels(self.crops[rows], self.flips[rows], (size[0], size[1]), self.labels[rows], crc32)
            start += count
