"""The palettes of images: which classes ranks stand for (spec/sparse-v1.md, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError
from softlabel_codec.pack.columns import Column, IntArray, exclusive_cumsum, from_bits, to_bits, to_planes
from softlabel_codec.pack.fields import BlockRows, ImageColumn
from softlabel_codec.pack.indices import BAD_CLASS, BAD_RANK, PackedIndices, class_bits, unpack_ranks


class Palettes(NamedTuple):
    """The palettes of the wanted images.

    Attributes
    ----------
    classes : int64
        Image after image, in the order of ranks.
    first : int64 (B,)
        Where those of each image begin.
    sizes : ImageColumn
        How many each image has.
    """

    classes: IntArray
    first: IntArray
    sizes: ImageColumn


def pack_palettes(packed: PackedIndices, num_classes: int) -> list[Column]:
    """Return the columns of the palettes of a block, if it has any."""
    if packed.sizes is None:
        return []
    sizes = [Column("palettes", plane) for plane in to_planes(packed.sizes, 2)]
    return [*sizes, Column("palettes", to_bits(packed.palette, class_bits(num_classes)), noise=True)]


def unpack_palettes(rows: BlockRows, at: IntArray, num_classes: int) -> tuple[Palettes, IntArray]:
    """Return the palettes of the wanted images, empty in blocks without, and where their columns end."""
    present = rows.field("palettes")
    if (present > 1).any():
        raise CorruptError("undefined palette format")
    column = rows.image_column(at, present, 2)
    bits = class_bits(num_classes)
    after = rows.advance(column.after, (column.total * bits + 7) >> 3)
    first = exclusive_cumsum(column.values)
    image = np.repeat(np.arange(len(first)), column.values)
    rank = np.arange(len(image)) - first[image]
    classes = from_bits(rows.data, rows.per_image(column.after)[image], (column.before[image] + rank) * bits, bits)
    if int(classes.max(initial=0)) >= num_classes:
        raise CorruptError(BAD_CLASS)
    return Palettes(classes, first, column), after


def classes_of(rows: BlockRows, codes: IntArray, kept: NDArray[np.bool_], palettes: Palettes) -> IntArray:
    """Return classes for index codes (R, K); those of blocks without palettes are classes already."""
    ranked = (rows.field("palettes") > 0)[:, None] & kept
    if not ranked.any():
        return codes
    ranks = np.where(kept, unpack_ranks(codes), 0)
    if (ranked & (ranks >= palettes.sizes.values[rows.owner][:, None])).any():
        raise CorruptError(BAD_RANK)
    return np.where(ranked, palettes.classes[np.where(ranked, ranks + palettes.first[rows.owner][:, None], 0)], codes)
