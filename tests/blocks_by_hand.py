"""Blocks written by hand, column by column as the specification has them, and what they say."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from random_blocks import SAMPLER

from softlabel_codec import Codec
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.quantise.field import FieldCodes
from softlabel_codec.quantise.full_tails import FullTailCodes
from softlabel_codec.quantise.places import edges_of
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.quantise.tails import TailCodes


def planes(values, width):
    """Return integers in planes, as section 1 says it."""
    return b"".join(bytes(value >> 8 * plane & 255 for value in values) for plane in range(width))


def bits(values, width):
    """Return a column of bits, as section 5.2 says it."""
    return sum(value << place * width for place, value in enumerate(values)).to_bytes((len(values) * width + 7) // 8, "little")


def crop_word(crop, size, height_min, height_max, ratio_min, ratio_max):
    """Return the word of a crop, as section 5.3 says it."""
    (top, left, height, width), (image_height, image_width) = crop, size
    width_low = max(1, height * ratio_min // 256)
    width_top = image_width if ratio_max == 65535 else min(image_width, -(-height * ratio_max // 256))
    word = left
    for digit, radix in (
        (top, image_height - height + 1),
        (width - width_low, width_top - width_low + 1),
        (height - height_min, height_max - height_min + 1),
    ):
        assert 0 <= digit < radix
        word = word * radix + digit
    return word


CROPS = ((2, 3, 4, 5), (0, 0, 10, 20), (1, 1, 2, 3))
SIZES = ((10, 20), (4, 4))
# The bounds of the ratios are as close as they can be: ceil(10 * 486 / 256) is less than 20, floor(4 * 384 / 256) more than 5.
BOUNDS = (2, 10, 383, 487)
WORDS = [crop_word(crop, size, *BOUNDS) for crop, size in zip(CROPS, (SIZES[0], *SIZES), strict=True)]


@dataclass(frozen=True)
class Written:
    """A block of two images with three crops, written by hand, and what it says."""

    codec: str
    num_classes: int
    label_fields: bytes
    label_columns: bytes
    indices: list[list[int]] | None = None
    values: list[list[int]] | None = None
    remainders: list[int] | None = None
    tails: TailCodes | FullTailCodes | None = None
    fields: FieldCodes | None = None
    crop_mode: str = "pixels"
    crop_fields: bytes = struct.pack("<HHHHB", *BOUNDS, 2)
    crop_columns: bytes = planes(WORDS, 2)
    flip_bytes: bytes = b"\x05"
    table: bytes = struct.pack("<HH HH HH", 1, 0, 10, 4, 20, 4)
    num_images: int = 2
    keys: bytes = b"\x00\x00\x01a\x00\x00\x01b"
    crops: tuple = CROPS
    sizes: tuple = SIZES

    @property
    def layout(self):
        return Layout(Codec.parse(self.codec), self.num_classes, self.crop_mode, SAMPLER if self.crop_mode == "derived" else None)

    @property
    def content(self):
        fields = struct.pack("<H", self.num_images) + self.crop_fields + self.label_fields
        return fields + self.table + self.flip_bytes + self.crop_columns + self.label_columns + self.keys

    @property
    def images(self):
        flips = np.array([True, False, True])
        return BlockImages(["a", "b"], np.array(self.sizes), np.array([2, 1]), np.array(self.crops), flips, self.codes)

    @property
    def codes(self):
        if self.fields is not None:
            owner = np.array([0, 0, 1])
            fractions = self.crop_mode.startswith("fractions")
            return self.fields.at(edges_of(np.array(self.crops), *((1, 1) if fractions else np.array(self.sizes)[owner].T)), owner)
        return SparseCodes(
            np.array(self.indices),
            None if self.values is None else np.array(self.values),
            None if self.remainders is None else np.array(self.remainders),
            self.tails,
            None if self.tails is None else np.array([0, 0, 1]),
        )


LOG8 = Written(
    "marginal_smoothing:k=2",
    300,
    struct.pack("<BBhB", 0, 2, -259, 2),
    planes([2 - 3 + 259, 255 - 0 + 259, -4 - 255 + 259], 2) + planes([299, 0, 5, 6, 7, 8], 2) + bytes([3, 0, 255]),
    indices=[[299, 0], [5, 6], [7, 8]],
    values=[[0, 3], [0, 0], [0, 255]],
    remainders=[2, 255, -4],
)
THRESHOLD = Written(
    "marginal_smoothing:t=0.1",
    300,
    struct.pack("<BBBhB", 0, 1, 1, -2, 1),
    bytes([0, 2, 1])  # classes less 1
    + bytes([9 + 2, 7 - 7 + 2, 3 - 5 + 2])  # remainders, less the last value
    + bytes([200, 3, 1, 2, 4, 5])
    + bytes([4, 3, 5]),  # values of the second crop, less the one before, and of the third
    indices=[[200, -1, -1], [3, 1, 2], [4, 5, -1]],
    values=[[0, 0, 0], [0, 4, 7], [0, 5, 0]],
    remainders=[9, 7, 3],
)
HALF = 0x3C00  # 1.0 as binary16
F16 = Written(
    "marginal_smoothing:k=3,values=f16",
    300,
    b"\x00\x01",
    bytes([1, 2, 3, 4, 5, 6, 7, 8, 9])
    + planes([HALF - 0x3800, 0x3800 - 0x3400, 0x3400, 0, HALF, 0, HALF - 0x2E66, 0, 0], 2),  # 0.5, 0.25, 0; 1, 0, 0; 0.1, 0.1, 0.1
    indices=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    values=[[HALF - bits for bits in row] for row in ([0x3800, 0x3400, 0], [HALF, 0, 0], [0x2E66] * 3)],
)
ONE = 0x3F800000  # 1.0 as binary32
F32 = Written(
    "smoothing:values=f32",
    300,
    b"\x00\x00",
    planes([ONE - 0x3F000000, 0, 2**32 - 1], 4),  # 0.5, 1, the next above 1
    indices=[[0], [0], [0]],
    values=[[ONE - 0x3F000000], [0], [2**32 - 1]],
)
THRESHOLD_F16 = Written(
    "marginal_renorm:t=0.1,values=f16",
    300,
    b"\x00\x02\x01",
    bytes([0, 1, 0]) + planes([299, 1, 2, 256], 2) + planes([HALF - 0x3800, 5, 6, 7], 2),
    indices=[[299, -1], [1, 2], [256, -1]],
    values=[[HALF - 0x3800, 0], [5, 11], [7, 0]],
)
HARD = Written("hard", 300, b"\x00\x02", planes([299, 0, 7], 2), indices=[[299], [0], [7]])
SINGLE_LOG8 = Written(
    "smoothing", 300, struct.pack("<BBhB", 0, 1, -5, 1), bytes([0, 6, 10, 9, 8, 7]), [[9], [8], [7]], [[0], [0], [0]], [-5, 1, 5]
)
TAIL = Written(
    "marginal_smoothing:k=1,values=f32,tail=3",
    300,
    b"\x00\x01\x01",
    bytes([9, 8, 7])
    + planes([0, 0, 0], 4)
    + planes([3, 0], 2)  # listed classes
    + bytes([12, 255])  # floors
    + bytes([7, 0, 254])  # levels
    + bytes([2, 253, 44]),  # classes 2, 255, 299
    indices=[[9], [8], [7]],
    values=[[0], [0], [0]],
    tails=TailCodes(np.array([[2, 255, 299], [-1, -1, -1]]), np.array([[7, 0, 254], [0, 0, 0]]), np.array([12, 255])),
)
TAIL_OF_ALL = Written(
    "marginal_smoothing:k=1,values=f32,tail=all",
    4,
    b"\x00\x01",
    bytes([2, 1, 3]) + planes([0, ONE - 0x3F000000, 0], 4) + planes([2, 3], 2) + bytes([0, 7, 255, 4]) + bytes([4, 12, 248, 100]),
    indices=[[2], [1], [3]],
    values=[[0], [ONE - 0x3F000000], [0]],
    tails=FullTailCodes(np.array([[0, 7, 255, 4], [4, 12, 248, 100]], np.uint8), np.array([2, 3])),
)
FRACTIONS = ((0.0, 0.25, 1.0, 0.5), (-1.5, 2.0, 0.125, 3.0), (0.5, 0.5, 0.5, 0.75))
FRACTIONS_F16 = replace(
    HARD,
    crop_mode="fractions:f16",
    crop_fields=b"",
    table=struct.pack("<HH HH HH", 1, 0, 0, 4, 0, 4),
    sizes=((0, 0), (4, 4)),
    crop_columns=planes([0, 0xBE00, 0x3800], 2)
    + planes([0x3400, 0x4000, 0x3800], 2)
    + planes([0x3C00, 0x3000, 0x3800], 2)
    + planes([0x3800, 0x4200, 0x3A00], 2),
    crops=FRACTIONS,
)
FRACTIONS_F32 = replace(
    FRACTIONS_F16,
    crop_mode="fractions:f32",
    crop_columns=b"".join(planes(struct.unpack("<3I", struct.pack("<3f", *column)), 4) for column in zip(*FRACTIONS, strict=True)),
)
BY_HAND = {
    "log8": LOG8,
    "threshold": THRESHOLD,
    "f16": F16,
    "f32": F32,
    "threshold, f16": THRESHOLD_F16,
    "hard": HARD,
    "single log8": SINGLE_LOG8,
    "tail": TAIL,
    "tail of all": TAIL_OF_ALL,
    "fractions:f16": FRACTIONS_F16,
    "fractions:f32": FRACTIONS_F32,
}

# Freedoms of a writer: other bytes that say the same


def wider(block: Written) -> Written:
    """Return the same block with every column as wide as it may be."""
    return replace(
        block,
        crop_fields=struct.pack("<HHHHB", 1, 65534, 0, 65535, 6),
        crop_columns=planes([crop_word(crop, size, 1, 65534, 0, 65535) for crop, size in zip(CROPS, (SIZES[0], *SIZES), strict=True)], 6),
    )


PLAIN_CROPS = replace(  # the bounds are not looked at
    LOG8,
    crop_fields=struct.pack("<HHHHB", 9, 0, 65535, 0, 8),
    crop_columns=b"".join(planes(column, 2) for column in zip(*CROPS, strict=True)),
)


WIDE_LOG8 = replace(
    wider(LOG8),
    label_fields=struct.pack("<BBhB", 0, 4, -32768, 2),
    label_columns=planes([2 - 3 + 32768, 255 + 32768, -4 - 255 + 32768], 2) + planes([299, 0, 5, 6, 7, 8], 4) + bytes([3, 0, 255]),
)
WIDE_THRESHOLD = replace(
    wider(THRESHOLD),
    label_fields=struct.pack("<BBBhB", 0, 3, 2, 2, 2),
    label_columns=planes([0, 2, 1], 2) + planes([9 - 2, 65536 - 2, 0], 2) + planes([200, 3, 1, 2, 4, 5], 3) + bytes([4, 3, 5]),
    remainders=[9, 65536 + 7, 5 + 2],
)
NO_WIDTH = replace(  # every crop is the whole of an image of one pixel, every class is 0, and every remainder is the base
    LOG8,
    codec="smoothing",
    table=struct.pack("<HH HH HH", 1, 0, 1, 1, 1, 1),
    sizes=((1, 1), (1, 1)),
    crop_fields=struct.pack("<HHHHB", 1, 1, 0, 256, 0),
    crop_columns=b"",
    crops=((0, 0, 1, 1),) * 3,
    label_fields=struct.pack("<BBhB", 0, 0, 254, 0),
    label_columns=b"",
    indices=[[0]] * 3,
    values=[[0]] * 3,
    remainders=[254] * 3,
)
PALETTES = replace(  # image a: classes 7, 299, 0; image b: classes 1, 299 in front of one that no crop uses
    LOG8,
    codec="marginal_smoothing:k=3",
    label_fields=struct.pack("<BBhB", 1, 1, 0, 1),
    label_columns=bytes([1, 2, 3])
    + bytes([0, 0, 0, 2, 1, 0, 2, 0, 0])  # ranks 0 1 2, 2 1 0, 2 0 1
    + bytes([4, 1, 5, 1, 6, 1])
    + planes([3, 3], 2)
    + bits([7, 299, 0, 1, 299, 5], 9),
    indices=[[7, 299, 0], [0, 299, 7], [5, 1, 299]],
    values=[[0, 4, 5], [0, 5, 6], [0, 6, 7]],
    remainders=[1 + 5, 2 + 6, 3 + 7],
)
PALETTES_THRESHOLD = replace(
    THRESHOLD,
    codec="marginal_smoothing:t=0.1,values=f16",
    label_fields=struct.pack("<BBB", 1, 2, 1),
    label_columns=bytes([0, 2, 1])
    + planes([1, 2, 0, 0, 0, 0], 2)  # ranks 1; 2 0 1; 0 1
    + planes([10, 20, 1, 2, 30, 3], 2)
    + planes([3, 2], 2)
    + bits([299, 298, 297, 5, 4], 9),
    indices=[[298, -1, -1], [297, 299, 298], [5, 4, -1]],
    values=[[10, 0, 0], [20, 21, 23], [30, 33, 0]],
    remainders=None,
)
TAIL_WITH_PALETTES = replace(  # palettes 9 7 and 299; in the tail of a are 7, 3 and 258, in that of b 299
    TAIL,
    label_fields=b"\x01\x01\x02",
    label_columns=bytes([0, 1, 0])
    + planes([0, 0, 0], 4)
    + planes([2, 1], 2)
    + bits([9, 7, 299], 9)
    + planes([3, 1], 2)
    + bytes([12, 255])
    + bytes([5, 11, 6, 254])
    + planes([3, 4, 251, 299], 2),
    indices=[[9], [7], [299]],
    tails=TailCodes(np.array([[3, 7, 258], [299, -1, -1]]), np.array([[5, 11, 6], [254, 0, 0]]), np.array([12, 255])),
)
PALETTES_OF_TAILS = replace(  # palette of a: 7 258 3, then 0 1 2 4 ...; of b: 299, then 0 1 2 ...
    TAIL,
    label_fields=b"\x02\x01\x02",
    label_columns=bytes([1, 5, 6])
    + planes([0, 0, 0], 4)
    + planes([3, 1], 2)
    + bytes([12, 255])
    + bytes([7, 6, 6, 254])
    + planes([3, 4, 251, 299], 2),
    indices=[[258], [2], [5]],
    tails=TailCodes(np.array([[3, 7, 258], [299, -1, -1]]), np.array([[7, 6, 6], [254, 0, 0]]), np.array([12, 255])),
)
WIDE_TAIL = replace(TAIL, label_fields=b"\x00\x01\x04", label_columns=TAIL.label_columns[:-3] + planes([2, 253, 44], 4))
SAID_DIFFERENTLY = {
    "plain crops": PLAIN_CROPS,
    "wide log8": WIDE_LOG8,
    "wide threshold": WIDE_THRESHOLD,
    "no width": NO_WIDTH,
    "palettes": PALETTES,
    "palettes, threshold": PALETTES_THRESHOLD,
    "tail with palettes": TAIL_WITH_PALETTES,
    "palettes of tails": PALETTES_OF_TAILS,
    "wide tail": WIDE_TAIL,
}

# Fields (field-v1.md): of image a the classes 7 and 299, of image b the class 5


def field_codes(classes, levels, slopes, fitted, unseen):
    """Return the fields of two images; slopes are those of each listed class along the seven features."""
    by_feature = np.moveaxis(np.array(slopes), 2, 1)
    return FieldCodes(
        *map(np.array, (classes, levels)), by_feature, *map(np.array, (fitted, unseen)), np.empty((0, 4)), np.empty(0, np.int64)
    )


NO_SLOPES = [0] * 7
FIELD = Written(
    "field:step=0.5",
    300,
    b"\x02",
    planes([2, 1], 2)
    + bytes([160, 0])  # fitted
    + bytes([1, 255])  # unseen
    + planes([7, 292, 5], 2)
    + bytes([4, 0, 255])  # levels
    + bytes([0b0000001, 0b1000010, 0])  # masks
    + struct.pack("<3b", -3, 5, -128),
    fields=field_codes(
        [[7, 299], [5, -1]],
        [[4, 0], [255, 0]],
        [[[-3, 0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0, -128]], [NO_SLOPES, NO_SLOPES]],
        [160, 0],
        [1, 255],
    ),
)
WIDE_FIELD = replace(FIELD, label_fields=b"\x04", label_columns=FIELD.label_columns[:8] + planes([7, 292, 5], 4) + FIELD.label_columns[14:])
FIELD_WITHOUT_WIDTH = replace(  # of each image class 0 only
    FIELD,
    label_fields=b"\x00",
    label_columns=planes([1, 1], 2) + bytes(4) + bytes([9, 8]) + bytes([0, 127]) + struct.pack("<7b", 1, 2, 3, 4, -5, 6, 127),
    fields=field_codes([[0], [0]], [[9], [8]], [[NO_SLOPES], [[1, 2, 3, 4, -5, 6, 127]]], [0, 0], [0, 0]),
)
FIELD_OF_FRACTIONS = replace(
    FIELD,
    **{name: getattr(FRACTIONS_F16, name) for name in ("crop_mode", "crop_fields", "table", "sizes", "crop_columns", "crops")},
)
FIELDS = {
    "field": FIELD,
    "wide field": WIDE_FIELD,
    "field of class 0": FIELD_WITHOUT_WIDTH,
    "field of fractions": FIELD_OF_FRACTIONS,
}
