"""The palettes of images: the class of each rank (spec/sparse-v1.md, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Bytes, Column, IntArray, exclusive_cumsum, from_bits, to_bits, to_planes
from softlabel_codec.block.indices import (
    BAD_PALETTE,
    BAD_RANK,
    MAX_PALETTE,
    NO_PALETTES,
    OWN_PALETTES,
    TAIL_PALETTES,
    PackedIndices,
    class_bits,
    unpack_ranks,
)
from softlabel_codec.block.rows import BlockRows, ImageColumn
from softlabel_codec.block.tail_palettes import TailPalettes
from softlabel_codec.errors import CorruptError
from softlabel_codec.quantise.tails import TailCodes

UNDEFINED = "undefined palette format"


class Palettes(NamedTuple):
    """Where the palettes of the wanted images are.

    Attributes
    ----------
    data : uint8
        The contents of the blocks.
    start : int64 (B,)
        Where the column of palettes of each image's block begins.
    sizes : ImageColumn
        Number of classes in each image's palette.
    bits : int
        Number of bits of a class.
    """

    data: Bytes
    start: IntArray
    sizes: ImageColumn
    bits: int

    def classes(self, image: IntArray, rank: IntArray) -> IntArray:
        """Return the classes of these ranks in the palettes of these images."""
        return from_bits(self.data, self.start[image], (self.sizes.before[image] + rank) * self.bits, self.bits)

    def all_classes(self) -> tuple[IntArray, IntArray]:
        """Return all classes of all images, image after image in the order of ranks, and which image each belongs to."""
        sizes = self.sizes.values
        image = np.repeat(np.arange(len(sizes)), sizes)
        return self.classes(image, np.arange(len(image)) - exclusive_cumsum(sizes)[image]), image

    def check(self, num_classes: int) -> None:
        """Raise CorruptError unless all classes are below `num_classes` and distinct within each image."""
        classes, image = self.all_classes()
        if (classes >= num_classes).any() or len(np.unique(image * num_classes + classes)) < len(classes):
            raise CorruptError(BAD_PALETTE)


def pack_palettes(packed: PackedIndices, num_classes: int) -> list[Column]:
    """Return the columns of the palettes of a block, if it has any."""
    if packed.palettes != OWN_PALETTES:
        return []
    sizes = [Column("palettes", plane) for plane in to_planes(packed.sizes, 2)]
    return [*sizes, Column("palettes", to_bits(packed.palette, class_bits(num_classes)), noise=True)]


def unpack_palettes(rows: BlockRows, at: IntArray, num_classes: int, most: int) -> tuple[Palettes, IntArray]:
    """Return the palettes of the wanted images (empty in blocks without palettes), and where their columns end.

    `most` is the largest defined value of the field `palettes`.
    """
    present = rows.field("palettes")
    if (present > most).any():
        raise CorruptError(UNDEFINED)
    column = rows.image_column(at, present == OWN_PALETTES, 2)
    bits = class_bits(num_classes)
    after = rows.advance(column.after, (column.total * bits + 7) >> 3)
    spare = (column.total * bits) & 7
    if ((spare > 0) & (rows.data[after - 1] >> spare > 0)).any():
        raise CorruptError("unused bits of the palettes are not 0")
    return Palettes(rows.data, rows.per_image(column.after), column, bits), after


def classes_of(
    rows: BlockRows, codes: IntArray, kept: NDArray[np.bool_], palettes: Palettes, tails: TailCodes | None, num_classes: int
) -> IntArray:
    """Return the classes of index codes (R, K); in blocks without palettes, the codes are the classes."""
    kind = rows.field("palettes")[:, None]
    ranked = (kind != NO_PALETTES) & kept
    if not ranked.any():
        return codes
    ranks = np.where(kept, unpack_ranks(codes), 0)
    by_tail = ranked & (kind == TAIL_PALETTES)
    sizes = np.where(kind == TAIL_PALETTES, min(num_classes, MAX_PALETTE), palettes.sizes.values[rows.owner][:, None])
    if (ranked & (ranks >= sizes)).any():
        raise CorruptError(BAD_RANK)
    classes: IntArray = codes.copy()
    row, place = np.nonzero(ranked & ~by_tail)
    classes[row, place] = palettes.classes(rows.owner[row], ranks[row, place])
    if tails is not None and by_tail.any():
        row, place = np.nonzero(by_tail)
        classes[row, place] = TailPalettes(tails).classes(rows.owner[row], ranks[row, place])
    return classes
