"""The fast path for a few crops of one image: decoded one by one, in plain Python.

`Layout.unpack` and the quantiser decode thousands of crops at once with numpy. For four crops, nearly all of this time is
overhead of numpy calls; decoding the same bytes crop by crop takes a fraction of it. The results are equal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.crops import BAD_WIDTH, NO_RATIO_BOUND, OUTSIDE, PLAIN_CROP_BYTES, is_crop_width
from softlabel_codec.block.layout import Layout
from softlabel_codec.block.rows import CHECKSUM_BYTES, FEW_CROPS, IMAGE_BYTES, MANY_CROPS, SHORT
from softlabel_codec.checks.limits import MAX_CROPS_PER_BLOCK, MAX_IMAGE_SIDE, MAX_IMAGES_PER_BLOCK
from softlabel_codec.errors import ArgumentError, CorruptError
from softlabel_codec.labels import Labels

MAX_CROPS = 12
"""Up to this many crops of one image are faster on this path."""

Decoded = tuple[NDArray[Any], NDArray[np.bool_], tuple[int, int], Labels, int | None]


class FewCropsReader:
    """Decodes a few crops of one image. One instance per file.

    Parameters
    ----------
    layout : Layout
        How the file's blocks are laid out.
    policy : str
        Remainder policy of the labels.
    """

    def __init__(self, layout: Layout, policy: str) -> None:
        assert layout.family.one_image is not None
        self._labels = layout.family.one_image(layout.codec, layout.num_classes, policy)
        self._sampler, self._padding = layout.sampler, layout.padding
        self._fields = layout.fields.struct
        self._names, self._image_bytes = layout.fields.names, layout.fields.image_bytes

    @staticmethod
    def serves(layout: Layout) -> bool:
        """Return whether this path supports files of that layout."""
        return layout.family.one_image is not None and layout.crops in ("pixels", "derived")

    def read(self, content: bytes, slot: int, crops: Sequence[int], stream: int) -> Decoded:
        """Return coordinates, flips, image size, labels and image checksum of crops (at least one) of the image at `slot` in a block.

        `stream` is the image's crop stream, which matters only if crops are derived.

        Raises
        ------
        CorruptError
            If the content violates the specification, or has no crop of that number.
        """
        try:
            return self._read(content, slot, crops, stream)
        except struct.error:
            raise CorruptError("a block is shorter than its fields and its table") from None

    def _read(self, content: bytes, slot: int, crops: Sequence[int], stream: int) -> Decoded:
        fields = dict(zip(self._names, self._fields.unpack_from(content), strict=True))
        num_images, at = fields["num_images"], self._fields.size
        if not slot < num_images <= MAX_IMAGES_PER_BLOCK:
            raise CorruptError("a block holds no images, too many, or fewer than the index says")
        table = struct.unpack_from(f"<{3 * num_images}H", content, at)
        num_crops, before = sum(table[:num_images]) + num_images, sum(table[:slot]) + slot
        if num_crops > MAX_CROPS_PER_BLOCK:
            raise CorruptError(MANY_CROPS)
        if max(crops) > table[slot]:
            raise CorruptError(FEW_CROPS)
        rows = [before + crop for crop in crops]
        size = table[num_images + slot], table[2 * num_images + slot]
        checksum = None
        if self._image_bytes > IMAGE_BYTES:
            (checksum,) = struct.unpack_from("<I", content, at + IMAGE_BYTES * num_images + CHECKSUM_BYTES * slot)
        at += self._image_bytes * num_images
        padded = self._padding.around(size)
        if min(size) < 1 or max(padded) > MAX_IMAGE_SIDE:
            raise CorruptError(OUTSIDE)
        if self._sampler is not None:
            try:
                geometry, flips = self._sampler.sample_few(stream, crops, *padded)
            except ArgumentError as error:  # it has no crop of that number
                raise CorruptError(str(error)) from None
        else:
            flips_at, at = at, at + ((num_crops + 7) >> 3)
            geometry, at = _stored_crops(content, at, num_crops, rows, fields, padded)  # also checks that the flips are there
            flips = [content[flips_at + (row >> 3)] >> (row & 7) & 1 == 1 for row in rows]
        labels = self._labels.labels(content, fields, at, num_crops, rows, slot)
        return np.array(geometry, np.int32), np.array(flips, np.bool_), size, labels, checksum


def _stored_crops(
    content: bytes, at: int, num_crops: int, rows: list[int], fields: dict[str, int], size: tuple[int, int]
) -> tuple[list[tuple[int, int, int, int]], int]:
    width = fields["crop_width"]
    after = at + num_crops * width
    if not is_crop_width(width):
        raise CorruptError(BAD_WIDTH)
    if after > len(content):
        raise CorruptError(SHORT)
    words = [int.from_bytes(content[at + row : after : num_crops], "little") for row in rows]
    if width == PLAIN_CROP_BYTES:
        return [_plain_crop(word, *size) for word in words], after
    return [_crop(word, fields, *size) for word in words], after


def _plain_crop(word: int, image_height: int, image_width: int) -> tuple[int, int, int, int]:
    """Return top, left, height, width from four 16-bit numbers, the first in the lowest bits."""
    top, left, height, width = (word >> 16 * place & 0xFFFF for place in range(4))
    if not (1 <= height <= image_height - top and 1 <= width <= image_width - left):
        raise CorruptError(OUTSIDE)
    return top, left, height, width


def _crop(word: int, fields: dict[str, int], image_height: int, image_width: int) -> tuple[int, int, int, int]:
    """Return top, left, height, width from a mixed-radix word."""
    height_min, ratio_max = fields["height_min"], fields["ratio_max"]
    height_span = fields["height_max"] - height_min + 1
    if height_span < 1:
        raise CorruptError(OUTSIDE)
    word, height = divmod(word, height_span)
    height += height_min
    low = max(1, height * fields["ratio_min"] >> 8)
    high = image_width if ratio_max == NO_RATIO_BOUND else min(image_width, (height * ratio_max + 255) >> 8)
    if not 1 <= height <= image_height or high < low:
        raise CorruptError(OUTSIDE)
    word, width = divmod(word, high - low + 1)
    width += low
    left, top = divmod(word, image_height - height + 1)
    if left > image_width - width:
        raise CorruptError(OUTSIDE)
    return top, left, height, width
