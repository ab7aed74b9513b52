"""Class indices as ranks in a palette of their image (spec/sparse-v1.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray, exclusive_cumsum, to_planes, width_of
from softlabel_codec.block.tail_palettes import TailPalettes
from softlabel_codec.errors import CorruptError

LOOK_BACK = 8
MAX_PALETTE = 65535
NO_PALETTES, OWN_PALETTES, TAIL_PALETTES = range(3)
"""Codes are the classes themselves, ranks in palettes that are stored, or ranks in those that follow from the images' tails."""
MOST_COUNTED = 8
"""Classes are counted in a table, which is faster than sorting them, unless it has more than so many times as many places."""
TAILS_PAY = 0.92
"""Palettes that follow from tails take a reader longer: they are used where they take less than this share of the bits of anything else."""

BAD_RANK = "a rank is not in the palette"
BAD_PALETTE = "a class of a palette is not below the number of classes, or appears in it twice"
BAD_CLASS = "a class is not below the number of classes, or appears twice in a crop"


@dataclass(frozen=True)
class PackedIndices:
    """The indices of one block.

    Attributes
    ----------
    palettes : int
        What the codes are: `NO_PALETTES`, `OWN_PALETTES` or `TAIL_PALETTES`.
    codes : int64 (E,)
        Rank codes, or classes.
    sizes : int64 (n,)
        Number of classes in the palette of each image, if they are stored.
    palette : int64
        The stored palettes, image after image.
    """

    palettes: int
    codes: IntArray
    sizes: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    palette: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


def class_bits(num_classes: int) -> int:
    """Return the number of bits of a class in a palette."""
    return (num_classes - 1).bit_length()


def pack_indices(indices: NDArray[np.int64], counts: IntArray, num_classes: int, tails: TailPalettes | None = None) -> PackedIndices:
    """Return kept classes (R, K), padded with -1, as they are or as ranks in palettes, whichever takes the fewest bytes.

    `counts` (n,) says how many of the rows belong to each image. `tails` are the palettes that follow from the images' tails, if there
    are any.
    """
    kept = indices >= 0
    entries = indices[kept]
    image = np.repeat(np.repeat(np.arange(len(counts)), counts), kept.sum(axis=1))
    packed, bits = PackedIndices(NO_PALETTES, entries), _bits(entries)
    own = _with_palettes(kept, entries, image, len(counts), num_classes)
    own_bits = _bits(own.codes) + len(own.palette) * class_bits(num_classes) + 16 * len(counts)
    if own_bits < bits and own.sizes.max() <= MAX_PALETTE:
        packed, bits = own, own_bits
    if tails is not None and int((ranks := tails.ranks(image, entries)).max()) < MAX_PALETTE:
        by_tail = PackedIndices(TAIL_PALETTES, _codes_of_ranks(kept, ranks))
        if _bits(by_tail.codes) < TAILS_PAY * bits:
            packed = by_tail
    return packed


def _with_palettes(kept: NDArray[np.bool_], entries: IntArray, image: IntArray, num_images: int, num_classes: int) -> PackedIndices:
    """Return classes as ranks in palettes of their own.

    A palette has the most frequent class first, so that the ranks of all images are distributed alike and share one entropy table.
    """
    distinct, inverse, frequency = _distinct(image * num_classes + entries, num_images * num_classes)
    owner, classes = np.divmod(distinct, num_classes)
    order = np.lexsort((classes, -frequency, owner))
    sizes = np.bincount(owner, minlength=num_images)
    rank_of = np.empty(len(distinct), np.int64)
    rank_of[order] = np.arange(len(distinct)) - exclusive_cumsum(sizes)[owner[order]]
    return PackedIndices(OWN_PALETTES, _codes_of_ranks(kept, rank_of[inverse]), sizes, classes[order])


def _distinct(numbers: IntArray, bound: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the distinct ones of integers below `bound`, ascending, the place of each number among them, and how often each is there."""
    if bound > MOST_COUNTED * len(numbers):
        distinct, inverse, frequency = np.unique(numbers, return_inverse=True, return_counts=True)
        return distinct, inverse, frequency
    counts = np.bincount(numbers, minlength=bound)
    distinct, place = np.flatnonzero(counts), np.empty(bound, np.int64)
    place[distinct] = np.arange(len(distinct))
    return distinct, place[numbers], counts[distinct]


def _codes_of_ranks(kept: NDArray[np.bool_], ranks: IntArray) -> IntArray:
    """Return the codes (E,) of the ranks (E,) of the entries that are marked in `kept` (R, K)."""
    table = np.full(kept.shape, np.iinfo(np.int64).max)
    table[kept] = ranks
    return _skip_used(table)[kept]


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
