"""Class indices as ranks in a palette (spec/sparse-v1.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError
from softlabel_codec.pack.columns import IntArray, to_planes, width_of

LOOK_BACK = 8
MAX_PALETTE = 65535

BAD_PALETTE = "undefined palette format"
BAD_RANK = "a rank is not in the palette"
BAD_CLASS = "a class is not below the number of classes, or twice in a crop"


@dataclass(frozen=True)
class PackedIndices:
    """Fields and columns of the indices of one block."""

    palette_size: int
    palette_width: int
    palette: list[bytes]
    indices: list[bytes]


def index_width(palette_size: int, num_classes: int) -> int:
    """Return the width in bytes of the index column."""
    return width_of(num_classes - 1) if palette_size == 0 else 1 if palette_size <= 256 else 2


def pack_indices(indices: NDArray[np.int64], num_classes: int) -> PackedIndices:
    """Return the columns of kept classes (R, K), padded with -1.

    A palette is used where it is expected to take fewer bytes than the classes themselves. It is ordered by the
    logarithm of how often a class occurs: frequent classes get small ranks, and classes of about the same frequency
    ascend, so that their differences are small as well.
    """
    kept = indices >= 0
    entries = indices[kept]
    palette, inverse, counts = np.unique(entries, return_inverse=True, return_counts=True)
    if not _palette_pays(len(palette), len(entries), num_classes):
        return PackedIndices(0, 0, [], to_planes(entries, width_of(num_classes - 1)))
    frequency = np.frexp(counts)[1] if len(entries) >= 4 * len(palette) else np.zeros(len(palette))
    order = np.argsort(-frequency, kind="stable")
    rank_of = np.empty(len(palette), np.int64)
    rank_of[order] = np.arange(len(palette))
    ranks = np.full(indices.shape, np.iinfo(np.int64).max)
    ranks[kept] = rank_of[inverse]
    steps = np.diff(palette[order], prepend=0) % num_classes
    palette_width = width_of(int(steps.max()))
    codes = _skip_used(ranks)[kept]
    return PackedIndices(
        len(palette), palette_width, to_planes(steps, palette_width), to_planes(codes, index_width(len(palette), num_classes))
    )


def _palette_pays(palette_size: int, num_entries: int, num_classes: int) -> bool:
    entries_per_class = 4 if num_classes <= 256 else 2
    return palette_size <= MAX_PALETTE and num_entries >= entries_per_class * palette_size


def _skip_used(ranks: IntArray) -> IntArray:
    codes: IntArray = ranks.copy()
    for column in range(1, ranks.shape[1]):
        used = ranks[:, : min(column, LOOK_BACK)]
        codes[:, column] -= np.count_nonzero(used < ranks[:, column, None], axis=1)
    return codes


def unpack_ranks(codes: IntArray) -> IntArray:
    """Return the ranks (R, K) that `codes` stand for.

    Going backwards, each code makes room in all later ones that are not below it: the usual inverse of a Lehmer code,
    equal to the rule of the specification without its sorting.
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
