"""Label columns of sparse codecs: counts, remainders, indices, values and palettes (spec/sparse-v1.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column, IntArray, from_planes, to_planes, width_of
from softlabel_codec.block.indices import BAD_CLASS, LOOK_BACK, OWN_PALETTES, TAIL_PALETTES, check_distinct, pack_indices
from softlabel_codec.block.palettes import classes_of, pack_palettes, unpack_palettes
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.block.tail_palettes import TailPalettes
from softlabel_codec.block.tails import pack_full_tails, pack_tails, unpack_full_tails, unpack_tails
from softlabel_codec.checks.limits import MAX_KEPT_CLASSES, MAX_TABLE_ENTRIES, fits_block
from softlabel_codec.codec import Codec
from softlabel_codec.errors import CorruptError
from softlabel_codec.quantise.full_tails import FullTailCodes
from softlabel_codec.quantise.sparse import SparseCodes
from softlabel_codec.quantise.tails import TailCodes
from softlabel_codec.quantise.values import VALUE_WIDTH

WIDE = "a column is wider than it may be"
WASTEFUL = "a crop keeps too many classes for the number of crops in its block"
TOO_MANY = "a crop keeps more classes than there are"


class Entries(NamedTuple):
    """Where the entries of crops are in the columns of their blocks.

    Attributes
    ----------
    first, num : int64 (R,)
        First entry of each wanted crop, and how many it has.
    total : int64 (R,)
        Entries in its block.
    """

    first: IntArray
    num: IntArray
    total: IntArray


@dataclass(frozen=True)
class SparsePacker:
    """How the labels of a sparse codec become columns. One instance describes a file."""

    codec: Codec
    num_classes: int

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block."""
        fields = [("palettes", "B"), ("index_width", "B")]
        if self.codec.kept_classes is None:
            fields += [("count_width", "B")]
        if self.codec.values == "log8":
            fields += [("remainder_base", "h"), ("remainder_width", "B")]
        if self.codec.tail and not self.codec.full_tail:
            fields += [("tail_width", "B")]
        return fields

    @property
    def _value_width(self) -> int:
        return VALUE_WIDTH[self.codec.values]

    @property
    def _implied_values(self) -> int:
        return 1 if self.codec.values == "log8" else 0  # the top class is its own reference

    def pack(self, codes: SparseCodes, num_crops: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return the fields and columns of the labels of a block, whose images have `num_crops` crops."""
        kept = codes.indices >= 0
        of_tails = TailPalettes(codes.tails) if isinstance(codes.tails, TailCodes) else None
        packed = pack_indices(codes.indices, num_crops, self.num_classes, of_tails)
        fields = {"palettes": packed.palettes, "index_width": width_of(int(packed.codes.max()))}
        columns: list[Column] = []
        if self.codec.kept_classes is None:
            more = kept.sum(axis=1) - 1
            fields["count_width"] = width_of(int(more.max()))
            columns += _planes("counts", more, fields["count_width"])
        if codes.remainders is not None and codes.values is not None:
            above_last = codes.remainders - codes.values[np.arange(len(kept)), kept.sum(axis=1) - 1]
            base = int(above_last.min())
            fields |= {"remainder_base": base, "remainder_width": width_of(int(above_last.max()) - base)}
            columns += _planes("remainders", above_last - base, fields["remainder_width"])
        columns += _planes("indices", packed.codes, fields["index_width"])
        columns += self._pack_values(codes, kept)
        columns += pack_palettes(packed, self.num_classes)
        if isinstance(codes.tails, FullTailCodes):
            columns += pack_full_tails(codes.tails)
        elif codes.tails is not None:
            tail_fields, tail_columns = pack_tails(codes.tails)
            fields |= tail_fields
            columns += tail_columns
        return fields, columns

    def _pack_values(self, codes: SparseCodes, kept: NDArray[np.bool_]) -> list[Column]:
        if codes.values is None:
            return []
        steps = codes.values.copy()  # planes hold them modulo their width
        steps[:, 1:] -= codes.values[:, :-1]
        stored = slice(self._implied_values, None)
        return _planes("values", steps[:, stored][kept[:, stored]], self._value_width)

    def unpack(self, rows: BlockRows, at: IntArray, *, thorough: bool = False) -> tuple[SparseCodes, IntArray]:
        """Return the codes of the wanted crops, whose label columns begin at `at`, and where the columns end.

        CorruptError if they violate the specification; `thorough` also checks what these crops do not need.
        """
        entries, at = self._unpack_counts(rows, at)
        self._check_length(rows, at, entries)
        kept = np.arange(int(entries.num.max(initial=1))) < entries.num[:, None]
        above_last, at = self._unpack_remainders(rows, at)
        index_codes, at = _unpack_index_codes(rows, at, entries, kept)
        values, at = self._unpack_values(rows, at, entries, kept)
        palettes, at = unpack_palettes(rows, at, self.num_classes, last_palettes(self.codec))
        if thorough:
            palettes.check(self.num_classes)
        tails, at = self._unpack_tails(rows, at)
        listed = tails if isinstance(tails, TailCodes) else None
        indices = np.where(kept, classes_of(rows, index_codes, kept, palettes, listed, self.num_classes), -1)
        if int(indices.max(initial=0)) >= self.num_classes:
            raise CorruptError(BAD_CLASS)
        if thorough:
            check_distinct(indices)
        remainders = above_last if above_last is None or values is None else above_last + values[np.arange(len(kept)), entries.num - 1]
        return SparseCodes(indices, values, remainders, tails, None if tails is None else rows.owner), at

    def _unpack_tails(self, rows: BlockRows, at: IntArray) -> tuple[TailCodes | FullTailCodes | None, IntArray]:
        tail = self.codec.tail
        if not tail:
            return None, at
        return unpack_tails(rows, at, tail, self.num_classes) if isinstance(tail, int) else unpack_full_tails(rows, at, self.num_classes)

    def _check_length(self, rows: BlockRows, at: IntArray, entries: Entries) -> None:
        """Raise CorruptError if blocks are too short for their entries, before arrays for these are allocated."""
        if (rows.field("index_width") > 4).any():
            raise CorruptError(WIDE)
        num_values = entries.total - self._implied_values * rows.num_crops if self._value_width else 0
        rows.advance(at, entries.total * rows.field("index_width") + num_values * self._value_width)

    def _unpack_counts(self, rows: BlockRows, at: IntArray) -> tuple[Entries, IntArray]:
        k = self.codec.kept_classes
        if k is not None:
            return Entries(rows.row * k, np.full(len(rows.row), k), rows.num_crops * k), at
        width = rows.field("count_width")
        if (width > 2).any():
            raise CorruptError(WIDE)
        after = rows.advance(at, rows.num_crops * width)
        more: NDArray[Any] = rows.crop_bytes(at, width > 0)  # classes of each crop, less 1
        if (width > 1).any():
            more = more + 256 * rows.crop_bytes(at + rows.num_crops, width > 1).astype(np.uint16)
        if int(more.max()) >= min(self.num_classes, MAX_KEPT_CLASSES):
            raise CorruptError(TOO_MANY)
        _check_table(more, rows.block_crops)
        before, total = rows.sums_before(more)
        num = more[rows.crop].astype(np.int64) + 1
        return Entries(before + rows.row, num, total + rows.num_crops), after

    def _unpack_remainders(self, rows: BlockRows, at: IntArray) -> tuple[IntArray | None, IntArray]:
        if self.codec.values != "log8":
            return None, at
        width = rows.field("remainder_width")
        if (width > 2).any():
            raise CorruptError(WIDE)
        after = rows.advance(at, rows.num_crops * width)
        return from_planes(rows.data, at, rows.num_crops, width, rows.row) + rows.field("remainder_base"), after

    def _unpack_values(self, rows: BlockRows, at: IntArray, entries: Entries, kept: NDArray[np.bool_]) -> tuple[IntArray | None, IntArray]:
        if self.codec.values == "none":
            return None, at
        width, lead = self._value_width, self._implied_values
        count = entries.total - lead * rows.num_crops
        after = rows.advance(at, count * width)
        steps = np.zeros(kept.shape, np.int64)
        if kept.shape[1] > lead:
            there = kept[:, lead:]
            place = np.where(there, (entries.first - lead * rows.row)[:, None] + np.arange(there.shape[1]), 0)
            start = np.where(there, at[:, None], 0)
            steps[:, lead:] = np.where(there, from_planes(rows.data, start, count[:, None] * there, np.array(width), place), 0)
        return np.cumsum(steps, axis=1), after


def last_palettes(codec: Codec) -> int:
    """Return the largest number that says what codes are: only tails that list classes give palettes."""
    return TAIL_PALETTES if codec.tail and not codec.full_tail else OWN_PALETTES


def _check_table(more: NDArray[Any], block_crops: IntArray) -> None:
    """Raise CorruptError if a block may not hold all its crops; `more` are the kept classes of each crop of all blocks, less 1."""
    if (int(more.max()) + 1) * int(block_crops.max()) <= MAX_TABLE_ENTRIES:
        return
    for counts in np.split(more.astype(np.int64) + 1, np.cumsum(block_crops)[:-1]):
        if not fits_block(len(counts), int(counts.sum()), int(counts.max())):
            raise CorruptError(WASTEFUL)


def _planes(name: str, values: NDArray[np.int64], width: int) -> list[Column]:
    return [Column(name, plane) for plane in to_planes(values, width)]


def _unpack_index_codes(rows: BlockRows, at: IntArray, entries: Entries, kept: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    width = rows.field("index_width")
    after = rows.advance(at, entries.total * width)
    if ((width == 0) & (entries.num > LOOK_BACK + 1)).any():
        raise CorruptError(BAD_CLASS)  # codes of 0 cannot give more distinct classes than that
    place = np.where(kept, entries.first[:, None] + np.arange(kept.shape[1]), 0)
    codes = from_planes(rows.data, at[:, None], entries.total[:, None], width[:, None], place)
    codes[~kept] = 0
    return codes, after
