"""Columns of the images' tails (spec/sparse-v1.md, section 6)."""

from __future__ import annotations

import numpy as np

from softlabel_codec.block.columns import Column, IntArray, exclusive_cumsum, from_planes, ragged, to_planes, width_of
from softlabel_codec.block.indices import PackedIndices
from softlabel_codec.block.palettes import Palettes
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.errors import CorruptError
from softlabel_codec.quantise.tails import NO_WEIGHT, TailCodes

_BAD_CLASS = "a class of a tail is not below the number of classes"
_TOO_LONG = "a tail lists more classes than the codec says"


def pack_tails(tails: TailCodes, packed: PackedIndices) -> tuple[dict[str, int], list[Column]]:
    """Return the fields and columns of the tails of a block's images.

    Classes that are in the image's palette anyway need only their level; the others are listed.
    """
    num_images = len(tails.floor)
    sizes = np.zeros(num_images, np.int64) if packed.sizes is None else packed.sizes
    owner = np.repeat(np.arange(num_images), sizes)
    listed = tails.classes >= 0
    image, place = np.nonzero(listed)
    span = max(int(tails.classes.max()), int(packed.palette.max(initial=0))) + 1
    tail_keys = image * span + tails.classes[image, place]
    palette_keys = owner * span + packed.palette
    found = np.searchsorted(tail_keys, palette_keys)  # both ascend by image, and tails by class within it
    shared = np.zeros(len(palette_keys), np.bool_)
    inside = found < len(tail_keys)
    shared[inside] = tail_keys[found[inside]] == palette_keys[inside]
    palette_levels = np.full(len(palette_keys), NO_WEIGHT)
    palette_levels[shared] = tails.levels[image, place][found[shared]]
    extra = np.ones(len(tail_keys), np.bool_)
    extra[found[shared]] = False
    steps = _steps(tails.classes[image, place][extra], image[extra])
    width = width_of(int(steps.max(initial=0)))
    columns = [
        *(Column("tails", plane) for plane in to_planes(np.bincount(image[extra], minlength=num_images), 2)),
        Column("tails", tails.floor.astype(np.uint8).tobytes()),
        Column("tails", palette_levels.astype(np.uint8).tobytes()),
        Column("tails", tails.levels[image, place][extra].astype(np.uint8).tobytes()),
        *(Column("tails", plane) for plane in to_planes(steps, width)),
    ]
    return {"tail_width": width}, columns


def _steps(classes: IntArray, image: IntArray) -> IntArray:
    """Return the differences of ascending classes to the class before in the same image, the first as it is."""
    steps: IntArray = classes.copy()
    same = image[1:] == image[:-1]
    steps[1:][same] -= classes[:-1][same]
    return steps


def unpack_tails(rows: BlockRows, at: IntArray, palettes: Palettes, tail: int, num_classes: int) -> tuple[TailCodes, IntArray]:
    """Return the tails of the wanted images, whose columns begin at `at`, and where the columns end."""
    width = rows.field("tail_width")
    if (width > 4).any():
        raise CorruptError("a column is wider than it may be")
    always = np.ones(len(at), np.int64)
    extra = rows.image_column(at, always, 2)
    floor = rows.image_column(extra.after, always, 1)
    palette = palettes.sizes
    levels_at = rows.advance(floor.after, palette.total)
    steps_at = rows.advance(levels_at, extra.total)
    after = rows.advance(steps_at, extra.total * width)
    palette_classes, in_palette = palettes.all_classes()
    place = rows.per_image(floor.after)[in_palette] + ragged(palette.before, palette.values)
    palette_levels = rows.data[place].astype(np.int64)
    owner = np.repeat(np.arange(len(extra.values)), extra.values)
    place = ragged(extra.before, extra.values)
    levels = rows.data[rows.per_image(levels_at)[owner] + place].astype(np.int64)
    count = rows.per_image(extra.total)
    steps = from_planes(rows.data, rows.per_image(steps_at)[owner], count[owner], rows.per_image(width)[owner], place)
    sums = np.cumsum(steps)
    before = np.concatenate(([0], sums))[exclusive_cumsum(extra.values)]
    shared = palette_levels < NO_WEIGHT
    images = np.concatenate([in_palette[shared], owner])
    classes = np.concatenate([palette_classes[shared], sums - before[owner]])
    if (classes >= num_classes).any():
        raise CorruptError(_BAD_CLASS)
    entries = (images * num_classes + classes) << 8 | np.concatenate([palette_levels[shared], levels])
    return _padded(entries, floor.values, tail, num_classes), after


def one_tail(
    palette: list[int], palette_levels: bytes, extra: list[int], extra_levels: bytes, floor: int, tail: int, num_classes: int
) -> TailCodes:
    """Return the tail of one image from the levels of its palette's classes, 255 where they are not listed, and of the other classes."""
    levels = np.frombuffer(palette_levels, np.uint8).astype(np.int64)
    shared = levels != NO_WEIGHT
    classes = np.concatenate([np.array(palette, np.int64)[shared], np.array(extra, np.int64)])
    if (classes >= num_classes).any():
        raise CorruptError(_BAD_CLASS)
    all_levels = np.concatenate([levels[shared], np.frombuffer(extra_levels, np.uint8)])
    return _padded(classes << 8 | all_levels, np.array([floor]), tail, num_classes)


def _padded(entries: IntArray, floor: IntArray, tail: int, num_classes: int) -> TailCodes:
    """Return the tails of which `entries` are the listed classes in any order: (image * num_classes + class) * 256 + level."""
    entries = np.sort(entries)  # far quicker than sorting by two keys
    images, classes = np.divmod(entries >> 8, num_classes)
    sizes = np.bincount(images, minlength=len(floor))
    longest = int(sizes.max())
    if longest > tail:
        raise CorruptError(_TOO_LONG)
    place = np.arange(len(images)) - exclusive_cumsum(sizes)[images]
    shape = len(floor), max(1, longest)
    padded = TailCodes(np.full(shape, -1), np.zeros(shape, np.int64), floor)
    padded.classes[images, place] = classes
    padded.levels[images, place] = entries & 255
    return padded
