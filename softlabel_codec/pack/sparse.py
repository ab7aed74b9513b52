"""Label columns of sparse codecs: counts, remainders, indices and values (spec/sparse-v1.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import CorruptError
from softlabel_codec.limits import MAX_KEPT_CLASSES
from softlabel_codec.pack.columns import IntArray, exclusive_cumsum, from_planes, ragged, to_planes, width_of
from softlabel_codec.pack.fields import BlockRows
from softlabel_codec.pack.indices import (
    BAD_CLASS,
    BAD_PALETTE,
    BAD_RANK,
    index_width,
    pack_indices,
    unpack_ranks,
)
from softlabel_codec.quantise.codes import SparseCodes

VALUE_WIDTH = {"none": 0, "log8": 1, "f16": 2, "f32": 4}
_WIDE = "a column is wider than 2 bytes"
_TOO_MANY = "a crop keeps more classes than there are"

Columns = list[tuple[str, list[bytes]]]


@dataclass(frozen=True)
class SparsePacker:
    """How the labels of a sparse codec become columns. One instance describes a file."""

    codec: Codec
    num_classes: int

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block."""
        fields = [("palette_size", "H"), ("palette_width", "B")]
        if self.codec.t is not None:
            fields += [("count_width", "B")]
        if self.codec.values == "log8":
            fields += [("remainder_base", "h"), ("remainder_width", "B")]
        return fields

    @property
    def _value_width(self) -> int:
        return VALUE_WIDTH[self.codec.values]

    @property
    def _most_classes(self) -> int:
        return min(self.num_classes, MAX_KEPT_CLASSES)

    def pack(self, codes: SparseCodes) -> tuple[dict[str, int], Columns]:
        """Return the fields and the named columns of the labels of a block."""
        kept = codes.indices >= 0
        packed = pack_indices(codes.indices, self.num_classes)
        fields = {"palette_size": packed.palette_size, "palette_width": packed.palette_width}
        columns: Columns = []
        if self.codec.t is not None:
            counts = kept.sum(axis=1) - 1
            fields["count_width"] = width_of(int(counts.max()))
            columns += [("counts", to_planes(counts, fields["count_width"]))]
        if codes.remainders is not None:
            base = int(codes.remainders.min())
            width = width_of(int(codes.remainders.max()) - base)
            fields |= {"remainder_base": base, "remainder_width": width}
            columns += [("remainders", to_planes(codes.remainders - base, width))]
        columns += [("palettes", packed.palette), ("indices", packed.indices)]
        columns += [("values", self._pack_values(codes, kept))]
        return fields, columns

    def _pack_values(self, codes: SparseCodes, kept: NDArray[np.bool_]) -> list[bytes]:
        if codes.values is None:
            return []
        steps = np.diff(codes.values, axis=1, prepend=0) & ((1 << 8 * self._value_width) - 1)
        if self.codec.values == "log8":  # the first entry of a crop is always 0
            steps, kept = steps[:, 1:], kept[:, 1:]
        return to_planes(steps[kept], self._value_width)

    def unpack(self, rows: BlockRows, at: IntArray) -> tuple[SparseCodes, IntArray]:
        """Return the codes of the wanted crops, whose label columns begin at `at`, and where the columns end."""
        first, count, num_entries, at = self._unpack_counts(rows, at)
        remainders, at = self._unpack_remainders(rows, at)
        kept = np.arange(int(count.max()) if len(count) else 1) < count[:, None]
        place = np.where(kept, first[:, None] + np.arange(kept.shape[1]), 0)
        indices, at = self._unpack_indices(rows, at, num_entries, place, kept)
        values, at = self._unpack_values(rows, at, num_entries, place, kept)
        return SparseCodes(indices, values, remainders), at

    def _unpack_counts(self, rows: BlockRows, at: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return first entry and number of entries of each row, entries of its block, and the next place."""
        k = self.codec.kept_classes
        if k is not None:
            return rows.row * k, np.full(len(rows.row), k), rows.num_crops * k, at
        width = rows.field("count_width")
        if (width > 2).any():
            raise CorruptError(_WIDE)
        after = rows.advance(at, rows.num_crops * width)
        crops = rows.block_crops
        block = np.repeat(np.arange(len(crops)), crops)
        start, width = rows.per_block(at)[block], rows.per_block(width)[block]
        counts = from_planes(rows.data, start, crops[block], width, ragged(np.zeros(len(crops), np.int64), crops)) + 1
        if (counts > self._most_classes).any():
            raise CorruptError(_TOO_MANY)
        sums = np.concatenate(([0], np.cumsum(counts)))
        block_start = exclusive_cumsum(crops)
        entries = rows.per_row(sums[block_start + crops] - sums[block_start])
        wanted = rows.per_row(block_start) + rows.row
        return sums[wanted] - rows.per_row(sums[block_start]), counts[wanted], entries, after

    def _unpack_remainders(self, rows: BlockRows, at: IntArray) -> tuple[IntArray | None, IntArray]:
        if self.codec.values != "log8":
            return None, at
        width = rows.field("remainder_width")
        if (width > 2).any():
            raise CorruptError(_WIDE)
        after = rows.advance(at, rows.num_crops * width)
        return from_planes(rows.data, at, rows.num_crops, width, rows.row) + rows.field("remainder_base"), after

    def _unpack_indices(
        self, rows: BlockRows, at: IntArray, num_entries: IntArray, place: IntArray, kept: NDArray[np.bool_]
    ) -> tuple[IntArray, IntArray]:
        size, palette_width = rows.field("palette_size"), rows.field("palette_width")
        if (palette_width > 4).any():
            raise CorruptError(BAD_PALETTE)
        column = rows.advance(at, size * palette_width)
        width = np.where(size == 0, index_width(0, self.num_classes), np.where(size <= 256, 1, 2))
        after = rows.advance(column, num_entries * width)
        codes = from_planes(rows.data, column[:, None], num_entries[:, None], width[:, None], place)
        codes[~kept] = 0
        if size.any():
            codes = self._from_ranks(rows, at, codes, kept)
        if int(codes.max(initial=0)) >= self.num_classes:
            raise CorruptError(BAD_CLASS)
        return np.where(kept, codes, -1), after

    def _from_ranks(self, rows: BlockRows, at: IntArray, codes: IntArray, kept: NDArray[np.bool_]) -> IntArray:
        """Return classes for codes (R, K); rows of blocks without palette stay as they are."""
        size = rows.field("palette_size")
        ranks = np.where(kept, unpack_ranks(codes), 0)
        ranked = (size > 0)[:, None] & kept
        if (ranked & (ranks >= size[:, None])).any():
            raise CorruptError(BAD_RANK)
        palettes, first = self._unpack_palettes(rows, at)
        return np.where(ranked, palettes[np.where(ranked, ranks + first[:, None], 0)], codes)

    def _unpack_palettes(self, rows: BlockRows, at: IntArray) -> tuple[IntArray, IntArray]:
        """Return the palettes of all blocks, and where that of each row's block begins."""
        start, size, width = (rows.per_block(values) for values in (at, rows.field("palette_size"), rows.field("palette_width")))
        first = exclusive_cumsum(size)
        block = np.repeat(np.arange(len(size)), size)
        steps = from_planes(rows.data, start[block], size[block], width[block], np.arange(len(block)) - first[block])
        sums = np.concatenate(([0], np.cumsum(steps)))
        return (sums[1:] - sums[first][block]) % self.num_classes, rows.per_row(first)

    def _unpack_values(
        self, rows: BlockRows, at: IntArray, num_entries: IntArray, place: IntArray, kept: NDArray[np.bool_]
    ) -> tuple[IntArray | None, IntArray]:
        if self.codec.values == "none":
            return None, at
        if self.codec.values == "log8":
            num_entries = num_entries - rows.num_crops
            kept = kept.copy()
            kept[:, 0] = False
            place = np.where(kept, place - rows.row[:, None] - 1, 0)
        after = rows.advance(at, num_entries * self._value_width)
        if place.shape[1] == 1 and self.codec.values == "log8":
            return np.zeros(place.shape, np.int64), after
        steps = from_planes(rows.data, at[:, None], num_entries[:, None], np.array(self._value_width), place)
        return np.cumsum(np.where(kept, steps, 0), axis=1), after
