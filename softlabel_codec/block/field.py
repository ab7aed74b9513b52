"""Label columns of fields: listed classes, levels and slopes of each image (spec/field-v1.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column, IntArray, exclusive_cumsum, from_planes, ragged, to_planes, width_of
from softlabel_codec.block.rows import BlockRows, ImageColumn
from softlabel_codec.block.tails import steps_of_classes
from softlabel_codec.checks.limits import MAX_TABLE_ENTRIES
from softlabel_codec.codec import Codec
from softlabel_codec.errors import CorruptError
from softlabel_codec.quantise.field import NONE_OR_ALL, NUM_FEATURES, FieldCodes, check_listed

WASTEFUL = "a block has too many images or crops for the longest of its fields"
_WIDE = "a column is wider than it may be"


@dataclass(frozen=True)
class FieldPacker:
    """How fields become columns. One instance describes a file."""

    codec: Codec
    num_classes: int

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block."""
        return [("class_width", "B")]

    def pack(self, codes: FieldCodes, num_crops: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return the fields and columns of the fields of a block's images."""
        image, place = np.nonzero(codes.classes >= 0)
        steps = steps_of_classes(codes.classes[image, place], image)
        width = width_of(int(steps.max()))
        slopes = codes.slopes[image, :, place]
        columns = [
            *(Column("counts", plane) for plane in to_planes(np.bincount(image), 2)),
            Column("fit", codes.fitted.astype(np.uint8).tobytes()),
            Column("fit", codes.unseen.astype(np.uint8).tobytes()),
            *(Column("classes", plane) for plane in to_planes(steps, width)),
            Column("levels", codes.levels[image, place].astype(np.uint8).tobytes()),
            Column("masks", np.packbits(slopes != 0, axis=1, bitorder="little").tobytes()),
            Column("slopes", slopes[slopes != 0].astype(np.int8).tobytes()),
        ]
        return {"class_width": width}, columns

    def unpack(self, rows: BlockRows, at: IntArray, *, thorough: bool = False) -> tuple[FieldCodes, IntArray]:
        """Return the fields of the wanted images, whose columns begin at `at`, without crops; and where the columns end."""
        width = rows.field("class_width")
        if (width > 4).any():
            raise CorruptError(_WIDE)
        always = np.ones(len(at), np.int64)
        counts = rows.image_column(at, always, 2)
        fits = np.maximum(rows.block_images * (NUM_FEATURES + 1), rows.block_crops)
        if (counts.largest * fits > MAX_TABLE_ENTRIES).any():
            raise CorruptError(WASTEFUL)
        if not counts.largest.all():
            raise CorruptError(NONE_OR_ALL)
        fitted = rows.image_column(counts.after, always, 1)
        unseen = rows.image_column(fitted.after, always, 1)
        levels_at = rows.advance(unseen.after, counts.total * width)
        masks_at = rows.advance(levels_at, counts.total)
        slopes_at = rows.advance(masks_at, counts.total)
        owner = np.repeat(np.arange(len(counts.values)), counts.values)
        first = exclusive_cumsum(counts.values)
        column = np.arange(len(owner)) - first[owner]
        place = ragged(counts.before, counts.values)
        total = rows.per_image(counts.total)[owner]
        steps = from_planes(rows.data, rows.per_image(unseen.after)[owner], total, rows.per_image(width)[owner], place)
        shape = len(counts.values), max(1, int(counts.values.max(initial=0)))
        classes, levels = np.full(shape, -1), np.zeros(shape, np.int64)
        sums = np.cumsum(steps)
        classes[owner, column] = sums - np.concatenate(([0], sums))[first][owner]
        levels[owner, column] = rows.data[rows.per_image(levels_at)[owner] + place]
        slopes, after = _unpack_slopes(rows, masks_at, slopes_at, counts)
        numbers = np.zeros((shape[0], NUM_FEATURES, shape[1]), np.int64)
        numbers[owner, :, column] = slopes
        check_listed(classes, self.num_classes)
        none = np.empty((0, 4)), np.empty(0, np.int64)
        return FieldCodes(classes, levels, numbers, fitted.values, unseen.values, *none), after


def _unpack_slopes(rows: BlockRows, masks_at: IntArray, slopes_at: IntArray, counts: ImageColumn) -> tuple[NDArray[np.int8], IntArray]:
    """Return the slopes (X, F) of the classes of the wanted images, image after image, and where the column of slopes ends."""
    starts, totals = rows.per_block(masks_at), rows.per_block(counts.total)
    masks = rows.data[ragged(starts, totals)]
    stored = np.unpackbits(masks[:, None], axis=1, bitorder="little").astype(np.bool_)
    if stored[:, NUM_FEATURES:].any():
        raise CorruptError("bit 7 of a mask of slopes is set")
    first_class = exclusive_cumsum(totals)
    stored_of_class = stored.sum(axis=1, dtype=np.int64)
    of_block = np.add.reduceat(stored_of_class, first_class)
    after = rows.advance(slopes_at, rows.per_row(of_block))
    found = np.zeros((len(masks), NUM_FEATURES), np.int8)
    found[stored[:, :NUM_FEATURES]] = rows.data[ragged(rows.per_block(slopes_at), of_block)].view(np.int8)
    if (found == 0).any(where=stored[:, :NUM_FEATURES]):
        raise CorruptError("a stored slope is 0")
    first = first_class[rows.block_of_image] + counts.before
    return found[ragged(first, counts.values)], after
