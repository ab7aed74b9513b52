"""Columns of the images' tails (spec/sparse-v1.md, section 6)."""

from __future__ import annotations

import numpy as np

from softlabel_codec.block.columns import Column, IntArray, exclusive_cumsum, from_planes, ragged, to_planes, width_of
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.checks.limits import MAX_TABLE_ENTRIES
from softlabel_codec.errors import CorruptError
from softlabel_codec.quantise.full_tails import FullTailCodes
from softlabel_codec.quantise.tails import NO_WEIGHT, TailCodes

_BAD_CLASS = "a class of a tail is not below the number of classes"
_BAD_LEVEL = "a class of a tail has no level"
_TWICE = "a class appears twice in a tail"
WASTEFUL = "a block has too many images for the longest of its tails"
BYTES_PER_TABLE = 1000
"""Images differ in how their codes are distributed: from about this many bytes on, a table of one image is smaller than it saves."""
_TOO_LONG = "a tail lists more classes than the codec says"


def pack_tails(tails: TailCodes) -> tuple[dict[str, int], list[Column]]:
    """Return the fields and columns of the tails of a block's images."""
    image, place = np.nonzero(tails.classes >= 0)
    steps = steps_of_classes(tails.classes[image, place], image)
    width = width_of(int(steps.max(initial=0)))
    columns = [
        *(Column("tails", plane) for plane in to_planes(np.bincount(image, minlength=len(tails.floor)), 2)),
        Column("tails", tails.floor.astype(np.uint8).tobytes()),
        Column("tails", tails.levels[image, place].astype(np.uint8).tobytes()),
        *(Column("tails", plane) for plane in to_planes(steps, width)),
    ]
    return {"tail_width": width}, columns


def steps_of_classes(classes: IntArray, image: IntArray) -> IntArray:
    """Return the differences between ascending classes and the previous class of the same image; the first is unchanged."""
    steps: IntArray = classes.copy()
    same = image[1:] == image[:-1]
    steps[1:][same] -= classes[:-1][same]
    return steps


def unpack_tails(rows: BlockRows, at: IntArray, tail: int, num_classes: int) -> tuple[TailCodes, IntArray]:
    """Return the tails of the wanted images, whose columns begin at `at`, and where the columns end."""
    width = rows.field("tail_width")
    if (width > 4).any():
        raise CorruptError("a column is wider than it may be")
    always = np.ones(len(at), np.int64)
    listed = rows.image_column(at, always, 2)
    if (listed.largest * rows.block_images > MAX_TABLE_ENTRIES).any():
        raise CorruptError(WASTEFUL)
    floor = rows.image_column(listed.after, always, 1)
    steps_at = rows.advance(floor.after, listed.total)
    after = rows.advance(steps_at, listed.total * width)
    owner = np.repeat(np.arange(len(listed.values)), listed.values)
    place = ragged(listed.before, listed.values)
    levels = rows.data[rows.per_image(floor.after)[owner] + place].astype(np.int64)
    count = rows.per_image(listed.total)
    steps = from_planes(rows.data, rows.per_image(steps_at)[owner], count[owner], rows.per_image(width)[owner], place)
    sums = np.cumsum(steps)
    before = np.concatenate(([0], sums))[exclusive_cumsum(listed.values)]
    classes = sums - before[owner]
    return _tail_codes(owner, classes, levels, listed.values, floor.values, tail, num_classes), after


def pack_full_tails(tails: FullTailCodes) -> list[Column]:
    """Return the columns of the tails over all classes of a block's images; codes in parts that are worth an entropy table each."""
    images = max(1, BYTES_PER_TABLE // tails.codes.shape[1])
    parts = [tails.codes[first : first + images].tobytes() for first in range(0, len(tails.codes), images)]
    return [Column("tails", part) for part in (*to_planes(tails.main_class, 2), *parts)]


def unpack_full_tails(rows: BlockRows, at: IntArray, num_classes: int) -> tuple[FullTailCodes, IntArray]:
    """Return the tails over all classes of the wanted images, whose columns begin at `at`, and where the columns end."""
    if (rows.block_images * num_classes > MAX_TABLE_ENTRIES).any():
        raise CorruptError(WASTEFUL)
    main = rows.image_column(at, np.ones(len(at), np.int64), 2)
    after = rows.advance(main.after, rows.per_row(rows.block_images) * num_classes)
    first = rows.per_image(main.after) + rows.slot * num_classes
    check_main_class(int(main.values.max(initial=0)), num_classes)
    return FullTailCodes(rows.data[first[:, None] + np.arange(num_classes)], main.values), after


def check_main_class(main_class: int, num_classes: int) -> None:
    """Raise CorruptError if there is no such class."""
    if main_class >= num_classes:
        raise CorruptError("the main class of an image is not below the number of classes")


def one_tail(classes: list[int], levels: bytes, floor: int, tail: int, num_classes: int) -> TailCodes:
    """Return the tail of one image."""
    owner, listed = np.zeros(len(classes), np.int64), np.array([len(classes)])
    found = np.array(classes, np.int64), np.frombuffer(levels, np.uint8).astype(np.int64)
    return _tail_codes(owner, *found, listed, np.array([floor]), tail, num_classes)


def _tail_codes(
    owner: IntArray, classes: IntArray, levels: IntArray, listed: IntArray, floor: IntArray, tail: int, num_classes: int
) -> TailCodes:
    """Return the tails of images: `listed` classes of each, image after image; entry i belongs to image `owner[i]`."""
    if (classes >= num_classes).any():
        raise CorruptError(_BAD_CLASS)
    if (levels == NO_WEIGHT).any():
        raise CorruptError(_BAD_LEVEL)
    longest = int(listed.max())
    if longest > tail:
        raise CorruptError(_TOO_LONG)
    first = exclusive_cumsum(listed)
    if ((classes[1:] <= classes[:-1]) & (owner[1:] == owner[:-1])).any():
        raise CorruptError(_TWICE)
    place = np.arange(len(owner)) - first[owner]
    shape = len(floor), max(1, longest)
    padded = TailCodes(np.full(shape, -1), np.zeros(shape, np.int64), floor)
    padded.classes[owner, place] = classes
    padded.levels[owner, place] = levels
    return padded
