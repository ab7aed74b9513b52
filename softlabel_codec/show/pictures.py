"""The images of labels: found, compared with what was labelled, made small for a page; and their crops as a grid."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softlabel_codec.checks.arguments import INTERPOLATIONS, whole
from softlabel_codec.errors import ArgumentError
from softlabel_codec.images.cutting import Cutter
from softlabel_codec.images.files import agreed_exif_orientation, check_image, crops_in_pixels, image_size, load_image, padded
from softlabel_codec.images.finding import find_images
from softlabel_codec.images.truth import targets_of
from softlabel_codec.labels import ImageLabels
from softlabel_codec.reader import SoftLabelReader

MOST_PIXELS = 640
"""Longest side of a picture in a page."""
SMALL = 128
"""Pictures up to this side are stored with more care: their pixels can be seen."""
USUAL_SIZE, LARGEST_SIZE = 224, 1024
GRID_COLUMNS = 10
"""So that the number of a crop can be told from its place."""
_GAP = 4


@dataclass(frozen=True)
class Picture:
    """An image for a page.

    Attributes
    ----------
    uri : str
        A JPEG as a data URI, of the image with its padding.
    size, padded_size : (int, int)
        Height and width of the image in pixels, without and with its padding.
    crops : int64 (M, 4)
        Its crops in pixels of the image with its padding.
    """

    uri: str
    size: tuple[int, int]
    padded_size: tuple[int, int]
    crops: NDArray[np.int64]


class Pictures:
    """The images of some labels, and how the student's crops are cut out of them, as the label file says.

    Parameters
    ----------
    images : path, mapping, array, dataset or ImageSource
        Where they are, as for `softlabel_codec.images.open_images`.
    reader : SoftLabelReader
        The labels.
    numbers : sequence of int
        The images that are wanted.

    Attributes
    ----------
    crop_size : int
        Side of a crop as the student gets it, in pixels: that of the teacher, or 224 if the file does not say it.

    Raises
    ------
    MismatchError
        If wanted images are missing.
    ArgumentError
        If there is no such source of images.
    """

    def __init__(self, images: Any, reader: SoftLabelReader, numbers: Sequence[int]) -> None:
        self._found = find_images(images, reader, [reader.keys[number] for number in numbers], advice="Name images that are there, by KEY")[
            0
        ]
        self._reader = reader
        said = reader.metadata.get("preprocessing")
        said = said if isinstance(said, Mapping) else {}
        size = whole(said.get("size")) or 0
        self.crop_size = size if 1 <= size <= LARGEST_SIZE else USUAL_SIZE
        interpolation = said.get("interpolation")
        exif = agreed_exif_orientation(None, said.get("exif_orientation"), reader.path)
        self._cutter = Cutter(
            self.crop_size, interpolation if interpolation in INTERPOLATIONS else "bilinear", exif, padding=reader.padding
        )

    def classes_of(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the classes of images as their source states them, by their numbers in the file; nothing if it states none."""
        keys = [self._found.key(number, self._reader.keys[number]) for number in numbers]
        stated = targets_of(self._found.source, keys, self._reader.num_classes)
        return {} if stated is None else dict(zip(numbers, stated.tolist(), strict=True))

    def picture(self, number: int, labelled: ImageLabels) -> Picture:
        """Return an image for a page.

        Raises
        ------
        MismatchError
            If it is not the one that was labelled: its file has another checksum, or it has another size.
        OSError
            If it cannot be read.
        """
        image, crops = self._loaded(number, labelled)
        whole = padded(image, self._cutter.padding)
        return Picture(jpeg_uri(whole), image_size(image), image_size(whole), crops)

    def crops(self, number: int, labelled: ImageLabels) -> list[Image.Image]:
        """Return the crops of an image as the student gets them; errors as for `picture`."""
        image, crops = self._loaded(number, labelled)
        return self._cutter.cut(image, lambda size: (crops, labelled.flips)).images

    def _loaded(self, number: int, labelled: ImageLabels) -> tuple[Image.Image, NDArray[np.int64]]:
        """Return an image, and its crops in pixels, after comparing it with the one that was labelled."""
        key, labels = self._reader.keys[number], str(self._reader.path)
        data = self._found.read(number, key)
        if isinstance(data, bytes):
            check_image(data, labelled, key, labels)
        image = load_image(data, self._cutter.exif_orientation, self._found.where(number, key))
        return image, crops_in_pixels(labelled, image_size(image), key, labels)


def jpeg_uri(image: Image.Image) -> str:
    """Return an image as a data URI: a JPEG of at most 640 pixels a side."""
    small = max(image.size) <= SMALL
    image = image.copy()
    image.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95 if small else 82, subsampling=0 if small else 2, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def check_picture_path(path: str | os.PathLike[str]) -> None:
    """Raise ArgumentError if the ending of a path is none of pictures."""
    if Image.registered_extensions().get(Path(path).suffix.lower()) not in Image.SAVE:
        raise ArgumentError(f"{os.fspath(path)}: expected a file extension for pictures, such as .png or .jpg")


def save_grid(crops: Sequence[Sequence[Image.Image]], path: str | os.PathLike[str]) -> None:
    """Save the crops of some images as one picture: ten to a row, each image in rows of its own."""
    side = crops[0][0].width + _GAP
    rows = [of_image[first : first + GRID_COLUMNS] for of_image in crops for first in range(0, len(of_image), GRID_COLUMNS)]
    grid = Image.new("RGB", (max(map(len, rows)) * side - _GAP, len(rows) * side - _GAP), "white")
    for row, some in enumerate(rows):
        for column, crop in enumerate(some):
            grid.paste(crop, (column * side, row * side))
    grid.save(path)
