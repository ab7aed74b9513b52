"""Crop geometry: exact pixels as mixed-radix words, or fractions of the image (spec/container-v1.md, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError, UnknownFeatureError
from softlabel_codec.pack.columns import IntArray, from_planes, to_planes, width_of
from softlabel_codec.pack.fields import BlockRows

NO_RATIO_BOUND = 65535
OUTSIDE = "a crop is not inside its image"
_WIDE = "a crop word is wider than 8 bytes"
_NOT_FINITE = "a crop fraction is not finite"


class CropMode(Protocol):
    """How crop coordinates are stored. One instance describes a file."""

    @property
    def name(self) -> str:
        """The mode's name in the metadata."""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the crop fields of a block."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of unpacked coordinates."""

    def pack(self, crops: NDArray[Any], height: IntArray, width: IntArray) -> tuple[dict[str, int], list[bytes]]:
        """Return fields and planes of crops (R, 4) whose images have these sizes (R,)."""

    def unpack(self, rows: BlockRows, at: IntArray) -> tuple[NDArray[Any], IntArray]:
        """Return crops (R, 4): top, left, height, width, whose columns begin at `at`, and where the columns end."""


class PixelCrops:
    """Exact integer pixels."""

    name = "pixels"
    dtype = np.dtype(np.int32)

    @property
    def fields(self) -> list[tuple[str, str]]:
        return [("height_min", "H"), ("height_max", "H"), ("ratio_min", "H"), ("ratio_max", "H"), ("crop_width", "B")]

    def pack(self, crops: NDArray[Any], height: IntArray, width: IntArray) -> tuple[dict[str, int], list[bytes]]:
        top, left, crop_height, crop_width = np.asarray(crops, np.int64).T
        ratio_max = int((256 * (crop_width - 1) // crop_height).max()) + 1
        ratio_min = int((-(-256 * (crop_width + 1) // crop_height)).min()) - 1
        fields = {
            "height_min": int(crop_height.min()),
            "height_max": int(crop_height.max()),
            "ratio_min": min(ratio_min, NO_RATIO_BOUND),
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
        return fields, to_planes(word, fields["crop_width"])

    def unpack(self, rows: BlockRows, at: IntArray) -> tuple[NDArray[Any], IntArray]:
        word_bytes = rows.field("crop_width")
        if (word_bytes > 8).any():
            raise CorruptError(_WIDE)
        after = rows.advance(at, rows.num_crops * word_bytes)
        word = from_planes(rows.data, at, rows.num_crops, word_bytes, rows.row).view(np.uint64)
        height_min, ratio_max = rows.field("height_min"), rows.field("ratio_max")
        word, height = _take_digit(word, rows.field("height_max") - height_min + 1)
        height += height_min
        low = np.maximum(1, height * rows.field("ratio_min") >> 8)
        bound = np.minimum(rows.width, (height * ratio_max + 255) >> 8)
        high = np.where(ratio_max == NO_RATIO_BOUND, rows.width, bound)
        word, width = _take_digit(word, high - low + 1)
        width += low
        word, top = _take_digit(word, rows.height - height + 1)
        left = word.view(np.int64)
        if ((left < 0) | (left > rows.width - width) | (height < 1)).any():
            raise CorruptError(OUTSIDE)
        return np.stack([top, left, height, width], axis=1).astype(self.dtype), after


@dataclass(frozen=True)
class FractionCrops:
    """Fractions of the image's height and width, as floats of 4 or 2 bytes, kept bit for bit."""

    name: str
    dtype: np.dtype[Any]

    @property
    def fields(self) -> list[tuple[str, str]]:
        return []

    def pack(self, crops: NDArray[Any], height: IntArray, width: IntArray) -> tuple[dict[str, int], list[bytes]]:
        bits = np.asarray(crops, self.dtype).view(f"<u{self.dtype.itemsize}")
        return {}, [plane for column in bits.T for plane in to_planes(column, self.dtype.itemsize)]

    def unpack(self, rows: BlockRows, at: IntArray) -> tuple[NDArray[Any], IntArray]:
        size = self.dtype.itemsize
        after = rows.advance(at, rows.num_crops * (4 * size))
        start = at[:, None] + np.arange(4) * size * rows.num_crops[:, None]
        bits = from_planes(rows.data, start, rows.num_crops[:, None], np.array(size), rows.row[:, None])
        crops = bits.astype(f"<u{size}").view(self.dtype)
        if not np.isfinite(crops).all():
            raise CorruptError(_NOT_FINITE)
        return crops, after


_MODES: dict[str, CropMode] = {
    "pixels": PixelCrops(),
    "fractions:f32": FractionCrops("fractions:f32", np.dtype("<f4")),
    "fractions:f16": FractionCrops("fractions:f16", np.dtype("<f2")),
}
CROP_MODES = tuple(_MODES)


def crop_mode(name: str) -> CropMode:
    """Return the crop mode of that name; UnknownFeatureError if there is none."""
    if name not in _MODES:
        raise UnknownFeatureError(f"crop mode: expected one of {', '.join(_MODES)}, got {name!r}")
    return _MODES[name]


def _take_digit(word: NDArray[np.uint64], radix: IntArray) -> tuple[NDArray[np.uint64], IntArray]:
    if (radix < 1).any():
        raise CorruptError(OUTSIDE)
    quotient, digit = np.divmod(word, radix.view(np.uint64))
    return quotient, digit.view(np.int64)
