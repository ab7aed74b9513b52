"""Class indices as ranks in a palette of their image (spec/sparse-v1.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray, exclusive_cumsum, to_planes, width_of
from softlabel_codec.errors import CorruptError

LOOK_BACK = 8
MAX_PALETTE = 65535

BAD_RANK = "a rank is not in the palette"
BAD_PALETTE = "a class of a palette is not below the number of classes, or appears in it twice"
BAD_CLASS = "a class is not below the number of classes, or appears twice in a crop"


@dataclass(frozen=True)
class PackedIndices:
    """The indices of one block.

    Attributes
    ----------
    sizes : int64 (n,) or None
        Number of classes in the palette of each image; None if classes are stored directly.
    palette : int64
        The palettes, image after image.
    codes : int64 (E,)
        Rank codes, or classes.
    """

    sizes: IntArray | None
    palette: IntArray
    codes: IntArray


def class_bits(num_classes: int) -> int:
    """Return the number of bits of a class in a palette."""
    return (num_classes - 1).bit_length()


def pack_indices(indices: NDArray[np.int64], counts: IntArray, num_classes: int) -> PackedIndices:
    """Return kept classes (R, K), padded with -1, as ranks in palettes if that takes fewer bytes, else as they are.

    `counts` (n,) says how many of the rows belong to each image. A palette has the most frequent class first, so that
    the ranks of all images are distributed alike and share one entropy table.
    """
    kept = indices >= 0
    entries = indices[kept]
    image = np.repeat(np.repeat(np.arange(len(counts)), counts), kept.sum(axis=1))
    distinct, inverse, frequency = np.unique(image * num_classes + entries, return_inverse=True, return_counts=True)
    owner, classes = np.divmod(distinct, num_classes)
    order = np.lexsort((classes, -frequency, owner))
    sizes = np.bincount(owner, minlength=len(counts))
    rank_of = np.empty(len(distinct), np.int64)
    rank_of[order] = np.arange(len(distinct)) - exclusive_cumsum(sizes)[owner[order]]
    ranks = np.full(indices.shape, np.iinfo(np.int64).max)
    ranks[kept] = rank_of[inverse]
    codes = _skip_used(ranks)[kept]
    palette_bits = len(distinct) * class_bits(num_classes) + 16 * len(counts)
    if sizes.max() > MAX_PALETTE or _bits(codes) + palette_bits >= _bits(entries):
        return PackedIndices(None, entries[:0], entries)
    return PackedIndices(sizes, classes[order], codes)


def _bits(column: IntArray) -> float:
    """Return the approximate number of bits of a column if each of its planes has its own entropy table."""
    bits = 0.0
    for plane in to_planes(column, width_of(int(column.max()))):
        counts = np.bincount(np.frombuffer(plane, np.uint8))
        counts = counts[counts > 0]
        bits += float(counts @ np.log2(len(plane) / counts)) + 6 * len(counts)
    return bits


def _skip_used(ranks: IntArray) -> IntArray:
    codes: IntArray = ranks.copy()
    for column in range(1, ranks.shape[1]):
        used = ranks[:, : min(column, LOOK_BACK)]
        codes[:, column] -= np.count_nonzero(used < ranks[:, column, None], axis=1)
    return codes


def unpack_ranks(codes: IntArray) -> IntArray:
    """Return the ranks (R, K) that `codes` represent.

    From last to first, each code increments all later ones that are not below it: the usual inverse of a Lehmer code,
    equivalent to the rule of the specification, but without sorting.
    """
    ranks: IntArray = codes.T.copy()
    for column in range(min(len(ranks) - 1, LOOK_BACK) - 1, -1, -1):
        later = ranks[column + 1 :]
        later += later >= ranks[column]
    result: IntArray = ranks.T
    return result


def check_distinct(indices: IntArray) -> None:
    """Raise CorruptError unless the classes (R, K), padded with -1, are distinct in each row."""
    ordered = np.sort(indices, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise CorruptError(BAD_CLASS)
