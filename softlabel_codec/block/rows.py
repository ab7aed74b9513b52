"""The beginning of every block: fixed fields, then the image table (spec/container-v1.md, section 5.2)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Bytes, IntArray, exclusive_cumsum, from_planes, ragged
from softlabel_codec.checks.limits import MAX_CROPS_PER_BLOCK, MAX_IMAGES_PER_BLOCK
from softlabel_codec.errors import CorruptError

IMAGE_BYTES, CHECKSUM_BYTES = 6, 4
"""Bytes of an image in the image table, and of its checksum after it."""
SHORT = "the columns of a block are longer than the block"
_NO_FIELDS = "a block is shorter than its fields"
_BAD_TABLE = "a block has no images, too many, or an incomplete table"
MANY_CROPS = "a block has more crops than it may have"
FEW_CROPS = "an image has fewer crops in its block than the index says"
_FEW_IMAGES = "a block holds fewer images than the index says"


@dataclass(frozen=True)
class Fields:
    """Names and struct codes (`B`, `H`, `h`, `I`) of the fields, and whether the image table has checksums.

    With `any_crop` crops of any number may be wanted, also of those that are not in the block.
    """

    names: tuple[str, ...]
    codes: str
    checksums: bool = False
    any_crop: bool = False
    struct: struct.Struct = field(init=False, repr=False)
    dtype: np.dtype[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "struct", struct.Struct("<" + self.codes))
        object.__setattr__(self, "dtype", np.dtype([(name, "<" + code) for name, code in zip(self.names, self.codes, strict=True)]))

    @property
    def image_bytes(self) -> int:
        """Bytes of an image in the image table."""
        return IMAGE_BYTES + CHECKSUM_BYTES * self.checksums


class ImageColumn(NamedTuple):
    """A column of one integer for each image of a block.

    Attributes
    ----------
    values, before : int64 (B,)
        The integer of each wanted image, and the sum of those before it in its block.
    total : int64 (R,)
        The sum over each crop's block.
    largest : int64 (blocks,)
        The largest integer of each block.
    after : int64 (R,)
        Where the column ends.
    of_all : int64
        The integer of every image of all blocks, block after block.
    """

    values: IntArray
    before: IntArray
    total: IntArray
    largest: IntArray
    after: IntArray
    of_all: IntArray


class BlockRows:
    """Wanted crops of many images of many blocks, one row each, and where their blocks' columns are.

    Attributes
    ----------
    data : uint8
        The contents of the blocks, one after another.
    row, crop : int64 (R,)
        Position of each wanted crop in its block, and among the crops of all blocks.
    after, end : int64 (R,)
        Where the columns after the image table begin in `data`, and where the block ends.
    num_crops : int64 (R,)
        Crops in the block.
    height, width : int64 (R,)
        Size of the crop's image.
    image_sizes : int64 (B, 2)
        Height and width of each wanted image.
    image_crc32s : int64 (B,) or None
        CRC-32 of the file of each wanted image, if the label file stores them.
    block_of_image : int64 (B,)
        Which of the blocks each wanted image is in.
    image_rows : int64 (B,)
        Number of wanted crops of each image.
    owner : int64 (R,)
        Which of the wanted images each crop belongs to.
    number : int64 (R,)
        Crop number of each wanted crop.
    slot : int64 (B,)
        Position of each wanted image in its block.
    """

    def __init__(self, fields: Fields, contents: Sequence[bytes], block: IntArray, slot: IntArray, crops: IntArray | None) -> None:
        tables = _Tables(fields, contents)
        if (slot >= tables.num_images[block]).any():
            raise CorruptError(_FEW_IMAGES)
        image = tables.first_image[block] + slot
        self.slot = slot
        self.image_sizes = tables.sizes[image]
        self.image_crc32s = None if tables.checksums is None else tables.checksums[image]
        self.number, self.image_rows = _choose(crops, tables.image_crops[image], fields.any_crop)
        owner = self.owner = np.repeat(np.arange(len(image)), self.image_rows)
        self.data, self._tables, self._block = tables.data, tables, block[owner]
        self._image, self.block_of_image, self.slot = image, block, slot
        self.row = tables.first_row[image][owner] + self.number
        self.crop = tables.first_crop[image][owner] + self.number
        self.end, self.after, self.num_crops = (column[self._block] for column in (tables.end, tables.after, tables.num_crops))
        self.height, self.width = self.image_sizes[owner].T
        self._row_of_block = np.zeros(len(contents), np.int64)
        self._row_of_block[self._block] = np.arange(len(self.row))

    def field(self, name: str) -> IntArray:
        """Return a field of each row's block."""
        values: IntArray = self._tables.fields[name][self._block].astype(np.int64)
        return values

    def advance(self, at: IntArray, num_bytes: IntArray) -> IntArray:
        """Return the positions after columns of that many bytes; CorruptError if one is beyond its block."""
        after = at + num_bytes
        if (after > self.end).any():
            raise CorruptError(SHORT)
        return after

    def image_column(self, at: IntArray, present: IntArray, width: int) -> ImageColumn:
        """Return a column that begins at `at`, with one integer for each image of a block, where the field `present` is not 0."""
        tables = self._tables
        block = np.repeat(np.arange(len(tables.num_images)), tables.num_images)
        column_width = (present > 0) * width
        after = self.advance(at, column_width * self.per_row(tables.num_images))
        start, there = self.per_block(at), self.per_block(column_width)
        place = ragged(np.zeros(len(start), np.int64), tables.num_images)
        values = from_planes(self.data, start[block], tables.num_images[block], there[block], place)
        before, total = self.sums_of_images(values)
        largest = np.maximum.reduceat(values, tables.first_image)
        return ImageColumn(values[self._image], before, total, largest, after, values)

    def sums_of_images(self, values: IntArray) -> tuple[IntArray, IntArray]:
        """Return sums of `values`, one for each image of all blocks.

        Returns
        -------
        before : int64 (B,)
            For each wanted image, the sum over those before it in its block.
        total : int64 (R,)
            For each row, the sum over its block.
        """
        first = self._tables.first_image
        before = exclusive_cumsum(values)
        totals = np.add.reduceat(values, first)
        return before[self._image] - before[first][self.block_of_image], self.per_row(totals)

    def sums_before(self, values: NDArray[Any]) -> tuple[IntArray, IntArray]:
        """Return, for each row, the sum of `values` over the crops before it in its block, and over all crops of its block.

        `values` has one element for each crop of all blocks, block after block.
        """
        tables = self._tables
        per_image = np.add.reduceat(values, tables.first_crop, dtype=np.int64)
        before_image = exclusive_cumsum(per_image)
        counts = tables.image_crops[self._image]
        inside = values[ragged(tables.first_crop[self._image], counts)]
        sums = np.cumsum(inside, dtype=np.int64)
        start = exclusive_cumsum(counts)
        to_add = before_image[self._image] - before_image[tables.first_image][self.block_of_image] - sums[start] + inside[start]
        place = start[self.owner] + self.number
        totals = np.add.reduceat(per_image, tables.first_image)
        return sums[place] - inside[place] + to_add[self.owner], self.per_row(totals)

    def crop_bytes(self, at: IntArray, present: NDArray[np.bool_]) -> Bytes:
        """Return one byte for each crop of all blocks, from a column that begins at `at` in blocks where `present`, else 0."""
        parts = [
            self.data[start : start + count] if there else np.zeros(count, np.uint8)
            for start, count, there in zip(
                self.per_block(at).tolist(), self.block_crops.tolist(), self.per_block(present).tolist(), strict=True
            )
        ]
        return np.concatenate(parts)

    def per_image(self, values: IntArray) -> IntArray:
        """Return, for each wanted image, the element of `values` for the rows of its block."""
        return self.per_block(values)[self.block_of_image]

    def per_block(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return, for each block, the element of `values` for its rows: every block has rows, or no row is wanted at all."""
        return values[self._row_of_block] if len(values) else np.zeros(len(self._row_of_block), values.dtype)

    def per_row(self, values: IntArray) -> IntArray:
        """Return, for each row, the element of `values` for its block."""
        return values[self._block]

    @property
    def block_images(self) -> IntArray:
        """Number of images of each block."""
        num_images: IntArray = self._tables.num_images
        return num_images

    @property
    def crops_of_all(self) -> IntArray:
        """Number of crops of every image of all blocks, block after block."""
        image_crops: IntArray = self._tables.image_crops
        return image_crops

    @property
    def block_crops(self) -> IntArray:
        """Number of crops of each block."""
        return self._tables.num_crops


class _Tables:
    """Fields and image tables of many blocks; the arrays named after images have one element per image."""

    def __init__(self, fields: Fields, contents: Sequence[bytes]) -> None:
        data = self.data = np.frombuffer(b"".join(contents), np.uint8)
        lengths = np.array([len(content) for content in contents], np.int64)
        base = exclusive_cumsum(lengths)
        self.end = base + lengths
        head = fields.dtype.itemsize
        if (lengths < head).any():
            raise CorruptError(_NO_FIELDS)
        self.fields = data[base[:, None] + np.arange(head)].view(fields.dtype)[:, 0]
        count = self.num_images = self.fields["num_images"].astype(np.int64)
        self.after = base + head + fields.image_bytes * count
        if (count < 1).any() or (count > MAX_IMAGES_PER_BLOCK).any() or (self.after > self.end).any():
            raise CorruptError(_BAD_TABLE)
        crops_minus_1, height, width = _read_columns(data, base + head, count)
        self.image_crops = crops_minus_1 + 1
        self.sizes = np.stack([height, width], axis=1)
        self.checksums = _read_checksums(data, base + head, count) if fields.checksums else None
        self.first_image = exclusive_cumsum(count)
        self.num_crops = np.add.reduceat(self.image_crops, self.first_image)
        if (self.num_crops > MAX_CROPS_PER_BLOCK).any():
            raise CorruptError(MANY_CROPS)
        self.first_crop = exclusive_cumsum(self.image_crops)
        self.first_row = self.first_crop - np.repeat(self.first_crop[self.first_image], count)


def _read_columns(data: Bytes, start: IntArray, count: IntArray) -> NDArray[np.int64]:
    """Return the three u16 columns, of `count` elements each, that begin at `start`: (3, total)."""
    first = ragged(np.zeros(len(count), np.int64), count) * 2 + np.repeat(start, count)
    place = first + np.arange(3)[:, None] * np.repeat(2 * count, count)
    columns: NDArray[np.int64] = data[place].astype(np.int64) | data[place + 1].astype(np.int64) << 8
    return columns


def _read_checksums(data: Bytes, start: IntArray, count: IntArray) -> NDArray[np.int64]:
    """Return the u32 column that follows the three columns which begin at `start`: (total,)."""
    place = ragged(np.zeros(len(count), np.int64), count)
    place = np.repeat(start + IMAGE_BYTES * count, count) + CHECKSUM_BYTES * place
    checksums = np.zeros(len(place), np.int64)
    for byte in range(CHECKSUM_BYTES):
        checksums |= data[place + byte].astype(np.int64) << 8 * byte
    return checksums


def _choose(crops: IntArray | None, num_crops: IntArray, any_crop: bool) -> tuple[IntArray, IntArray]:
    """Return the chosen crop numbers, flat, and how many each image has."""
    if crops is None:
        return ragged(np.zeros(len(num_crops), np.int64), num_crops), num_crops
    if not any_crop and (crops >= num_crops[:, None]).any():
        raise CorruptError(FEW_CROPS)
    return crops.reshape(-1), np.full(len(crops), crops.shape[1], np.int64)
