"""Crops and flips: exact pixels as words, fractions of the image, or derived from a sampler (spec/container-v1.md, section 5.3)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column, IntArray, from_planes, to_planes, width_of
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.checks.limits import MAX_IMAGE_SIDE
from softlabel_codec.errors import ArgumentError, CorruptError
from softlabel_codec.padding import NO_PADDING, Padding
from softlabel_codec.views import Sampler

Flips = NDArray[np.bool_]

NO_RATIO_BOUND = 65535
MAX_WORD_BYTES = 6
"""Words of up to this many bytes are exact integers in a binary64 too."""
PLAIN_CROP_BYTES = 8
"""Bytes of a crop stored as four 16-bit numbers, which is used where words would be longer."""
OUTSIDE = "a crop is not inside its image"
BAD_WIDTH = "crop_width is not 0 to 6 or 8"
_HALF_KNOWN = "an image has a height or a width, but not both"
_NOT_FINITE = "a crop fraction is not finite"


class CropMode(Protocol):
    """How crop coordinates and flips are stored. One instance describes a file."""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the crop fields of a block."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of unpacked coordinates."""

    def pack(self, crops: NDArray[Any], flips: Flips, height: IntArray, width: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return fields and columns of crops (R, 4) whose images have these sizes (R,)."""

    def end(self, rows: BlockRows, at: IntArray) -> IntArray:
        """Return the end of the columns that begin at `at`."""

    def unpack(self, rows: BlockRows, at: IntArray, streams: IntArray | None) -> tuple[NDArray[Any], Flips]:
        """Return crops (R, 4): top, left, height, width, and flips (R,); `streams` (B,) are the crop streams of the images."""


@dataclass(frozen=True)
class PixelCrops:
    """Exact integer pixels of the image with its padding."""

    padding: Padding = NO_PADDING
    dtype = np.dtype(np.int32)

    @property
    def fields(self) -> list[tuple[str, str]]:
        return [("height_min", "H"), ("height_max", "H"), ("ratio_min", "H"), ("ratio_max", "H"), ("crop_width", "B")]

    def pack(self, crops: NDArray[Any], flips: Flips, height: IntArray, width: IntArray) -> tuple[dict[str, int], list[Column]]:
        height, width = self.padding.around((height, width))
        top, left, crop_height, crop_width = np.asarray(crops, np.int64).T
        ratio_max = int((256 * (crop_width - 1) // crop_height).max()) + 1
        ratio_min = int((-(-256 * (crop_width + 1) // crop_height)).min()) - 1
        fields = {
            "height_min": int(crop_height.min()),
            "height_max": int(crop_height.max()),
            "ratio_min": min(ratio_min, ratio_max, NO_RATIO_BOUND),
            "ratio_max": min(ratio_max, NO_RATIO_BOUND),
        }
        low = np.maximum(1, crop_height * fields["ratio_min"] >> 8)
        high = np.minimum(width, (crop_height * ratio_max + 255) >> 8) if ratio_max < NO_RATIO_BOUND else width
        word = left.astype(np.uint64)
        for digit, radix in (
            (top, height - crop_height + 1),
            (crop_width - low, high - low + 1),
            (crop_height - fields["height_min"], np.int64(fields["height_max"] - fields["height_min"] + 1)),
        ):
            word = word * radix.astype(np.uint64) + digit.astype(np.uint64)
        fields["crop_width"] = width_of(int(word.max()))
        if fields["crop_width"] > MAX_WORD_BYTES:
            fields["crop_width"] = PLAIN_CROP_BYTES
            word = np.stack([top, left, crop_height, crop_width], axis=1).astype("<u2").view("<u8")[:, 0]
        planes = to_planes(word, fields["crop_width"])
        lower = [Column("crops", plane, noise=True) for plane in planes[:-1]]  # only the highest plane is far from random
        return fields, [_pack_flips(flips), *lower, *(Column("crops", plane) for plane in planes[-1:])]

    def end(self, rows: BlockRows, at: IntArray) -> IntArray:
        word_bytes = rows.field("crop_width")
        if not is_crop_width(word_bytes).all():
            raise CorruptError(BAD_WIDTH)
        return rows.advance(at, ((rows.num_crops + 7) >> 3) + rows.num_crops * word_bytes)

    def unpack(self, rows: BlockRows, at: IntArray, streams: IntArray | None) -> tuple[NDArray[Any], Flips]:
        start = at + ((rows.num_crops + 7) >> 3)
        word_bytes = rows.field("crop_width")
        word = from_planes(rows.data, start, rows.num_crops, word_bytes, rows.row).view(np.uint64)
        image_height, image_width = padded_sizes(rows, self.padding) if self.padding else (rows.height, rows.width)
        plain = word_bytes == PLAIN_CROP_BYTES
        if plain.any():
            crops = word.view("<u2").reshape(-1, 4).astype(np.int64)
            crops[~plain] = self._crops_of_words(rows, word, (image_height, image_width), np.flatnonzero(~plain))
        else:
            crops = self._crops_of_words(rows, word, (image_height, image_width), slice(None))
        top, left, height, width = crops.T
        if ((height < 1) | (width < 1) | (top + height > image_height) | (left + width > image_width)).any():
            raise CorruptError(OUTSIDE)
        return crops.astype(self.dtype), _unpack_flips(rows, at)

    def _crops_of_words(self, rows: BlockRows, word: NDArray[np.uint64], sizes: tuple[IntArray, IntArray], chosen: Any) -> IntArray:
        """Return the crops (r, 4) of the chosen rows from mixed-radix words; they may extend beyond the right edge of their image."""
        fields = {name: rows.field(name)[chosen] for name in ("height_min", "height_max", "ratio_min", "ratio_max")}
        image_height, image_width = (sides[chosen] for sides in sizes)
        word, height = _take_digit(word[chosen], fields["height_max"] - fields["height_min"] + 1)
        height += fields["height_min"]
        low = np.maximum(1, height * fields["ratio_min"] >> 8)
        bound = np.minimum(image_width, (height * fields["ratio_max"] + 255) >> 8)
        high = np.where(fields["ratio_max"] == NO_RATIO_BOUND, image_width, bound)
        word, width = _take_digit(word, high - low + 1)
        word, top = _take_digit(word, image_height - height + 1)
        return np.stack([top, word.view(np.int64), height, width + low], axis=1)


def is_crop_width(width: Any) -> Any:
    """Return whether a crop may take this many bytes: a word of at most 6, or 8 for four plain numbers."""
    return (width <= MAX_WORD_BYTES) | (width == PLAIN_CROP_BYTES)


@dataclass(frozen=True)
class FractionCrops:
    """Fractions of the image's height and width, as floats of 4 or 2 bytes, kept bit for bit."""

    dtype: np.dtype[Any]

    @property
    def fields(self) -> list[tuple[str, str]]:
        return []

    def pack(self, crops: NDArray[Any], flips: Flips, height: IntArray, width: IntArray) -> tuple[dict[str, int], list[Column]]:
        bits = np.asarray(crops, self.dtype).view(f"<u{self.dtype.itemsize}")
        planes = [Column("crops", plane) for column in bits.T for plane in to_planes(column, self.dtype.itemsize)]
        return {}, [_pack_flips(flips), *planes]

    def end(self, rows: BlockRows, at: IntArray) -> IntArray:
        return rows.advance(at, ((rows.num_crops + 7) >> 3) + rows.num_crops * (4 * self.dtype.itemsize))

    def unpack(self, rows: BlockRows, at: IntArray, streams: IntArray | None) -> tuple[NDArray[Any], Flips]:
        if (np.count_nonzero(rows.image_sizes, axis=1) == 1).any():
            raise CorruptError(_HALF_KNOWN)
        size = self.dtype.itemsize
        first = at + ((rows.num_crops + 7) >> 3)
        start = first[:, None] + np.arange(4) * size * rows.num_crops[:, None]
        bits = from_planes(rows.data, start, rows.num_crops[:, None], np.array(size), rows.row[:, None])
        crops = bits.astype(f"<u{size}").view(self.dtype)
        if not np.isfinite(crops).all():
            raise CorruptError(_NOT_FINITE)
        return crops, _unpack_flips(rows, at)


@dataclass(frozen=True)
class DerivedCrops:
    """Only a checksum: the crops are those of a sampler (spec/crop-sampler-v1.md)."""

    sampler: Sampler
    padding: Padding = NO_PADDING
    dtype = np.dtype(np.int32)

    @property
    def fields(self) -> list[tuple[str, str]]:
        return [("crops_crc32", "I")]

    def pack(self, crops: NDArray[Any], flips: Flips, height: IntArray, width: IntArray) -> tuple[dict[str, int], list[Column]]:
        return {"crops_crc32": crops_crc32(crops, flips)}, []

    def end(self, rows: BlockRows, at: IntArray) -> IntArray:
        return at

    def unpack(self, rows: BlockRows, at: IntArray, streams: IntArray | None) -> tuple[NDArray[Any], Flips]:
        assert streams is not None
        sizes = padded_sizes(rows, self.padding)
        try:
            crops, flips = self.sampler.sample_rows(streams[rows.owner], rows.number, *sizes)
        except ArgumentError as error:  # it has no crop of that number
            raise CorruptError(str(error)) from None
        return crops.astype(self.dtype), flips


def padded_sizes(rows: BlockRows, padding: Padding) -> tuple[IntArray, IntArray]:
    """Return height and width (R,) of the image of each row with its padding; CorruptError if an image has no pixels or too many."""
    sizes = rows.image_sizes
    if ((sizes < 1) | (sizes > MAX_IMAGE_SIDE - 2 * padding.pixels)).any():
        raise CorruptError(OUTSIDE)
    return padding.around((rows.height, rows.width))


def crops_crc32(crops: NDArray[Any], flips: Flips) -> int:
    """Return the CRC-32 of crops (R, 4) and flips (R,), as stored in a block with derived crops."""
    return zlib.crc32(_pack_flips(flips).data, zlib.crc32(np.asarray(crops, "<u2").tobytes()))


def _pack_flips(flips: Flips) -> Column:
    return Column("flips", np.packbits(flips, bitorder="little").tobytes(), noise=True)


def _unpack_flips(rows: BlockRows, at: IntArray) -> Flips:
    bits: Flips = (rows.data[at + (rows.row >> 3)] >> (rows.row & 7).astype(np.uint8) & 1).astype(np.bool_)
    return bits


STORED_CROPS: dict[str, CropMode] = {
    "pixels": PixelCrops(),
    "fractions:f32": FractionCrops(np.dtype("<f4")),
    "fractions:f16": FractionCrops(np.dtype("<f2")),
}
DERIVED = "derived"
CROP_MODES = (*STORED_CROPS, DERIVED)


def crop_mode(name: str, sampler: Sampler | None, padding: Padding = NO_PADDING) -> CropMode:
    """Return the crop mode of that name, one of `CROP_MODES`; `sampler` is where derived crops come from."""
    if sampler is not None:
        return DerivedCrops(sampler, padding)
    return PixelCrops(padding) if padding else STORED_CROPS[name]


def _take_digit(word: NDArray[np.uint64], radix: IntArray) -> tuple[NDArray[np.uint64], IntArray]:
    if (radix < 1).any():
        raise CorruptError(OUTSIDE)
    quotient, digit = np.divmod(word, radix.view(np.uint64))
    return quotient, digit.view(np.int64)
