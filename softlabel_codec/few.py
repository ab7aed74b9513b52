"""The short way for a few crops of one image of a sparse codec: decoded one by one, in plain Python.

`Layout.unpack` and the quantiser decode thousands of crops at once with numpy. For four crops nearly all of their time is
overhead of numpy's calls; going through the same bytes crop by crop takes half of it. The results are equal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.codec import Codec
from softlabel_codec.errors import CorruptError
from softlabel_codec.labels import SparseLabels
from softlabel_codec.limits import MAX_IMAGES_PER_BLOCK, MAX_KEPT_CLASSES
from softlabel_codec.pack.block import Layout
from softlabel_codec.pack.crops import NO_RATIO_BOUND, OUTSIDE
from softlabel_codec.pack.fields import IMAGE_BYTES, SHORT
from softlabel_codec.pack.indices import BAD_CLASS, BAD_PALETTE, BAD_RANK, LOOK_BACK, index_width
from softlabel_codec.pack.sparse import VALUE_WIDTH
from softlabel_codec.quantise.values import LOG8_ZERO, Floats, Log8, ValueEncoding, value_encoding

MAX_CROPS = 12
"""Up to so many crops of one image this way is faster."""

Decoded = tuple[NDArray[Any], NDArray[np.bool_], tuple[int, int], SparseLabels]


class FewCropsReader:
    """Decodes a few crops of one image. Made once for a file whose codec is sparse and whose crops are pixels.

    Parameters
    ----------
    layout : Layout
        How the file's blocks are laid out.
    policy : str
        Remainder policy of the labels.
    """

    def __init__(self, layout: Layout, policy: str) -> None:
        self._codec: Codec = layout.codec
        self._num_classes, self._policy = layout.num_classes, policy
        self._fields = layout.fields.struct
        self._names = layout.fields.names
        self._most_classes = min(layout.num_classes, MAX_KEPT_CLASSES)
        self._encoding: ValueEncoding = value_encoding(layout.codec, layout.num_classes)
        self._value_width = VALUE_WIDTH[self._codec.values]
        self._k = self._codec.kept_classes
        self._log8 = self._encoding if isinstance(self._encoding, Log8) else None
        if self._log8 is not None:
            self._powers, self._rest_powers = self._log8.powers.tolist(), self._log8.rest_powers.tolist()

    @staticmethod
    def serves(layout: Layout) -> bool:
        """Return whether this way is open for files of that layout."""
        return layout.codec.family == "sparse" and layout.crops == "pixels"

    def read(self, content: bytes, slot: int, crops: Sequence[int]) -> Decoded:
        """Return coordinates, flips, image size and labels of crops (at least one) of the image at a place in a block.

        Raises
        ------
        CorruptError
            If the content is not what the specification says.
        IndexError
            If the image has no crop of that number.
        """
        try:
            return self._read(content, slot, crops)
        except struct.error:
            raise CorruptError("a block is shorter than its fields and its table") from None

    def _read(self, content: bytes, slot: int, crops: Sequence[int]) -> Decoded:
        fields = dict(zip(self._names, self._fields.unpack_from(content), strict=True))
        num_images, at = fields["num_images"], self._fields.size
        if not slot < num_images <= MAX_IMAGES_PER_BLOCK:
            raise CorruptError("a block holds no images, too many, or fewer than the index says")
        table = struct.unpack_from(f"<{3 * num_images}H", content, at)
        num_crops, before = (sum(table[:num_images]) + num_images, sum(table[:slot]) + slot) if num_images > 1 else (table[0] + 1, 0)
        if not 0 <= min(crops) <= max(crops) <= table[slot]:
            raise IndexError(f"crop number: expected 0 to {table[slot]}, got {crops}")
        rows = [before + crop for crop in crops]
        flips_at = at + IMAGE_BYTES * num_images
        crops_at = flips_at + ((num_crops + 7) >> 3)
        labels_at = crops_at + num_crops * fields["crop_width"]
        if labels_at > len(content) or fields["crop_width"] > 8:
            raise CorruptError(SHORT)
        flips = [content[flips_at + (row >> 3)] >> (row & 7) & 1 for row in rows]
        size = table[num_images + slot], table[2 * num_images + slot]
        words = [int.from_bytes(content[crops_at + row : labels_at : num_crops], "little") for row in rows]
        geometry = np.array([_crop(word, fields, *size) for word in words], np.int32)
        return geometry, np.array(flips, np.bool_), size, self._labels(content, fields, labels_at, num_crops, rows)

    def _labels(self, content: bytes, fields: dict[str, int], at: int, num_crops: int, rows: list[int]) -> SparseLabels:
        k = self._k
        if k is None:
            entries, num_entries, at = self._entries(content, fields["count_width"], at, num_crops, rows)
        else:
            entries, num_entries = [(row * k, row * k + k) for row in rows], num_crops * k
        remainders: list[int] = []
        if self._log8 is not None:
            base, end = fields["remainder_base"], at + num_crops * fields["remainder_width"]
            remainders = [base + int.from_bytes(content[at + row : end : num_crops], "little") for row in rows]
            at = end
        palette_size = fields["palette_size"]
        codes_at = at + palette_size * fields["palette_width"]
        width = index_width(palette_size, self._num_classes)
        values_at = codes_at + num_entries * width
        num_values = num_entries - num_crops if self._log8 is not None else num_entries
        if values_at + num_values * self._value_width > len(content) or fields.get("remainder_width", 0) > 2:
            raise CorruptError(SHORT)
        codes = _runs(content, codes_at, num_entries, width, entries)
        if palette_size:
            classes = _through_palette(content, at, palette_size, fields["palette_width"], codes, self._num_classes)
        else:
            classes = [list(row) for row in codes]
            if max(map(max, classes)) >= self._num_classes:
                raise CorruptError(BAD_CLASS)
        if k is None:
            _pad(classes, -1)
        indices = np.array(classes, np.int32)
        if self._log8 is not None:
            steps = [content[values_at + begin - row : values_at + end - row - 1] for (begin, end), row in zip(entries, rows, strict=True)]
            values, remainder = self._log8_values(self._log8, steps, remainders)
        else:
            values, remainder = self._float_values(_runs(content, values_at, num_entries, self._value_width, entries), indices)
        return SparseLabels(indices, values, remainder, self._num_classes, self._policy)

    def _entries(self, content: bytes, width: int, at: int, num_crops: int, rows: list[int]) -> tuple[list[tuple[int, int]], int, int]:
        """Return begin and end of the entries of each row, the number of entries in the block, and the next place."""
        end = at + num_crops * width
        if width > 2 or end > len(content):
            raise CorruptError(SHORT)
        counts: Sequence[int] = content[at : at + num_crops] if width else [0] * num_crops
        if width == 2:
            counts = [low + 256 * high for low, high in zip(counts, content[at + num_crops : end], strict=True)]
        if max(counts) >= self._most_classes:
            raise CorruptError("a crop keeps more classes than there are")
        starts = [sum(counts[:row]) + row for row in rows]
        return [(start, start + counts[row] + 1) for start, row in zip(starts, rows, strict=True)], sum(counts) + num_crops, end

    def _log8_values(self, encoding: Log8, steps: list[bytes], remainders: list[int]) -> tuple[Floats, Floats]:
        powers_of, rest_of, lowest = self._powers, self._rest_powers, encoding.lowest
        values, rests = [], []
        for run, code in zip(steps, remainders, strict=True):
            codes = list(accumulate(run, initial=0))
            if codes[-1] > LOG8_ZERO or not lowest <= code <= LOG8_ZERO:
                raise CorruptError("log8 code out of range")
            rest = rest_of[code - lowest]
            if rest and len(codes) == self._num_classes:
                raise CorruptError("a crop that keeps all classes has a remainder")
            powers = [powers_of[code] for code in codes]
            total = sum(powers) + rest
            values.append([power / total for power in powers])
            rests.append(rest / total)
        if self._k is None:
            _pad(values, 0)
        return np.array(values, np.float32), np.array(rests, np.float32)

    def _float_values(self, steps: Sequence[Sequence[int]], indices: NDArray[np.int32]) -> tuple[Floats, Floats]:
        codes = [list(accumulate(run)) for run in steps]
        if self._k is None:
            _pad(codes, 0)
        return self._encoding.dequantise(indices.astype(np.int64), np.array(codes, np.int64), None)


def _crop(word: int, fields: dict[str, int], image_height: int, image_width: int) -> tuple[int, int, int, int]:
    """Return top, left, height, width from a mixed-radix word."""
    height_min, ratio_max = fields["height_min"], fields["ratio_max"]
    height_span = fields["height_max"] - height_min + 1
    if height_span < 1:
        raise CorruptError(OUTSIDE)
    word, height = divmod(word, height_span)
    height += height_min
    low = max(1, height * fields["ratio_min"] >> 8)
    high = image_width if ratio_max == NO_RATIO_BOUND else min(image_width, (height * ratio_max + 255) >> 8)
    if not 1 <= height <= image_height or high < low:
        raise CorruptError(OUTSIDE)
    word, width = divmod(word, high - low + 1)
    width += low
    left, top = divmod(word, image_height - height + 1)
    if left > image_width - width:
        raise CorruptError(OUTSIDE)
    return top, left, height, width


def _through_palette(content: bytes, at: int, size: int, width: int, codes: Sequence[Sequence[int]], num_classes: int) -> list[list[int]]:
    """Return the classes of each row of rank codes: a code counts the classes that the row has not used yet."""
    if width > 4:
        raise CorruptError(BAD_PALETTE)
    planes = np.frombuffer(content, np.uint8, size * width, at).astype(np.int64)
    steps = planes[:size] if width else np.zeros(size, np.int64)
    for plane in range(1, width):
        steps = steps + (planes[plane * size : plane * size + size] << 8 * plane)
    palette = (steps.cumsum() % num_classes).tolist()
    rows = []
    try:
        for row in codes:
            unused = palette.copy()
            rows.append([unused.pop(code) for code in row[:LOOK_BACK]])
            if len(row) > LOOK_BACK:
                rows[-1] += [unused[code] for code in row[LOOK_BACK:]]
    except IndexError:
        raise CorruptError(BAD_RANK) from None
    return rows


def _runs(content: bytes, at: int, count: int, width: int, runs: list[tuple[int, int]]) -> Sequence[Sequence[int]]:
    """Return runs of a column of `count` integers in planes."""
    if width == 1:
        return [content[at + begin : at + end] for begin, end in runs]
    after = at + count * width
    return [[int.from_bytes(content[at + place : after : count], "little") for place in range(begin, end)] for begin, end in runs]


def _pad(rows: list[list[Any]], fill: int) -> None:
    widest = max(map(len, rows))
    for row in rows:
        row.extend([fill] * (widest - len(row)))
