"""The fast path for a few crops of one image of a sparse codec: label columns decoded crop by crop, in plain Python (see `one_image`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.indices import (
    BAD_CLASS,
    BAD_PALETTE,
    BAD_RANK,
    LOOK_BACK,
    MAX_PALETTE,
    NO_PALETTES,
    OWN_PALETTES,
    TAIL_PALETTES,
    class_bits,
)
from softlabel_codec.block.palettes import UNDEFINED
from softlabel_codec.block.rows import SHORT
from softlabel_codec.block.sparse import TOO_MANY, WASTEFUL, WIDE, last_palettes
from softlabel_codec.block.tail_palettes import one_palette
from softlabel_codec.block.tails import WASTEFUL as WASTEFUL_TAILS
from softlabel_codec.block.tails import check_main_class, one_tail
from softlabel_codec.checks.limits import MAX_KEPT_CLASSES, fits_block, tails_fit_block
from softlabel_codec.codec import Codec
from softlabel_codec.errors import CorruptError
from softlabel_codec.labels import SparseLabels, Tails
from softlabel_codec.quantise.full_tails import FullTailCodes, dequantise_full_tails
from softlabel_codec.quantise.tails import dequantise_tails
from softlabel_codec.quantise.values import LOG8_ZERO, VALUE_WIDTH, Floats, Log8, ValueEncoding, value_encoding


class SparseOneImage:
    """Decodes the labels of a few crops of one image of a block."""

    def __init__(self, codec: Codec, num_classes: int, policy: str) -> None:
        self._num_classes, self._policy = num_classes, policy
        self._most_classes = min(num_classes, MAX_KEPT_CLASSES)
        self._encoding: ValueEncoding = value_encoding(codec, num_classes)
        self._value_width = VALUE_WIDTH[codec.values]
        self._class_bits = class_bits(num_classes)
        self._k, self._full_tail = codec.kept_classes, codec.full_tail
        self._listed_tail = codec.tail if isinstance(codec.tail, int) else 0
        self._last_palettes = last_palettes(codec)
        self._log8 = self._encoding if isinstance(self._encoding, Log8) else None
        if self._log8 is not None:
            self._powers, self._rest_powers = self._log8.powers.tolist(), self._log8.rest_powers.tolist()

    def labels(self, content: bytes, fields: dict[str, int], at: int, num_crops: int, rows: list[int], slot: int) -> SparseLabels:
        entries, at = self._entries(content, fields, at, num_crops, rows)
        above_last: list[int] = []
        if self._log8 is not None:
            above_last, at = _remainders(content, fields, at, num_crops, rows)
        width = fields["index_width"]
        if width > 4 or fields.get("remainder_width", 0) > 2:
            raise CorruptError(WIDE)
        if width == 0 and max(entries.num) > LOOK_BACK + 1:
            raise CorruptError(BAD_CLASS)
        values_at = at + entries.total * width
        lead = 0 if self._log8 is None else 1
        num_values = entries.total - lead * num_crops
        after = values_at + num_values * self._value_width
        if after > len(content):
            raise CorruptError(SHORT)
        codes, steps = [], []
        for row, first, count in zip(rows, entries.first, entries.num, strict=True):
            codes.append(_run(content, at, entries.total, width, first, count))
            steps.append(_run(content, values_at, num_values, self._value_width, first - lead * row, count - lead))
        palettes = self._palettes(content, fields, after, slot)
        listed = self._listed(content, fields, palettes.end, slot) if self._listed_tail else None
        tails = None
        if listed is not None:
            tails = dequantise_tails(one_tail(*listed, self._listed_tail, self._num_classes), self._num_classes)
        elif self._full_tail:
            tails = self._tail_of_all(content, fields, palettes.end, slot)
        labels = self._decode(self._classes(palettes, codes, slot, listed), steps, above_last)
        return labels if tails is None else replace(labels, tails=tails, tail_of=np.zeros(len(rows), np.int64))

    def _entries(self, content: bytes, fields: dict[str, int], at: int, num_crops: int, rows: list[int]) -> tuple[_Entries, int]:
        """Return where the entries of the rows are, and the position after the counts."""
        k = self._k
        if k is not None:
            return _Entries([row * k for row in rows], [k] * len(rows), num_crops * k), at
        width = fields["count_width"]
        end = at + num_crops * width
        if width > 2 or end > len(content):
            raise CorruptError(WIDE if width > 2 else SHORT)
        more: NDArray[Any] = np.frombuffer(content, np.uint8, num_crops, at) if width else np.zeros(num_crops, np.uint8)
        if width == 2:
            more = more + 256 * np.frombuffer(content, np.uint8, num_crops, at + num_crops).astype(np.uint16)
        if int(more.max()) >= self._most_classes:
            raise CorruptError(TOO_MANY)
        sums = more.cumsum(dtype=np.int64)
        if not fits_block(num_crops, int(sums[-1]) + num_crops, int(more.max()) + 1):
            raise CorruptError(WASTEFUL)
        nums, ends = more[rows].tolist(), sums[rows].tolist()
        return _Entries(
            first=[end - num + row for end, num, row in zip(ends, nums, rows, strict=True)],
            num=[num + 1 for num in nums],
            total=int(sums[-1]) + num_crops,
        ), end

    def _palettes(self, content: bytes, fields: dict[str, int], at: int, slot: int) -> _Palettes:
        """Return where the palette of an image is; the columns of palettes, if there are any, begin at `at`."""
        num_images = fields["num_images"]
        kind = fields["palettes"]
        if kind > self._last_palettes:
            raise CorruptError(UNDEFINED)
        if kind != OWN_PALETTES:
            return _Palettes(kind, b"", [0] * num_images, 0, at)
        bits_at = at + 2 * num_images
        if bits_at > len(content):
            raise CorruptError(SHORT)
        sizes = [low + 256 * high for low, high in zip(content[at : at + num_images], content[at + num_images : bits_at], strict=True)]
        end = bits_at + ((sum(sizes) * self._class_bits + 7) >> 3)
        if end > len(content):
            raise CorruptError(SHORT)
        return _Palettes(kind, content[bits_at:end], sizes, sum(sizes[:slot]), end)

    def _classes(self, palettes: _Palettes, codes: list[Sequence[int]], slot: int, listed: _Listed | None) -> list[list[int]]:
        """Return the classes of the rows.

        With a palette, a code is an index into the classes that the row has not used yet. Most codes are small, so only the
        beginning of the palette is read.
        """
        if palettes.kind == NO_PALETTES:
            classes = [list(row) for row in codes]
        else:
            longest = max(map(len, codes)) if self._k is None else self._k
            needed = max(map(max, codes)) + min(longest, LOOK_BACK + 1)
            if palettes.kind == TAIL_PALETTES and listed is not None:
                palette = one_palette(listed.classes, listed.levels, min(needed, MAX_PALETTE, self._num_classes))
            else:
                palette = self._palette(palettes, slot, needed)
            classes = []
            try:
                for row in codes:
                    unused = palette.copy()
                    classes.append(list(map(unused.pop, row[:LOOK_BACK])))
                    if longest > LOOK_BACK:
                        classes[-1] += [unused[code] for code in row[LOOK_BACK:]]
            except IndexError:
                raise CorruptError(BAD_RANK) from None
        if max(map(max, classes)) >= self._num_classes:
            raise CorruptError(BAD_PALETTE if palettes.kind == OWN_PALETTES else BAD_CLASS)
        return classes

    def _palette(self, palettes: _Palettes, slot: int, longest: int) -> list[int]:
        """Return at most `longest` classes from the beginning of the palette of an image."""
        bits, first = self._class_bits, palettes.before * self._class_bits
        stop = min(palettes.sizes[slot], longest) * bits
        word = int.from_bytes(palettes.bits[first >> 3 : (first + stop + 7) >> 3], "little") >> (first & 7)
        mask = (1 << bits) - 1
        return [word >> place & mask for place in range(0, stop, bits)]

    def _tail_of_all(self, content: bytes, fields: dict[str, int], at: int, slot: int) -> Tails:
        """Return the tail of an image over all classes; the columns of tails begin at `at`."""
        num_images, num_classes = fields["num_images"], self._num_classes
        if not tails_fit_block(num_images, num_classes):
            raise CorruptError(WASTEFUL_TAILS)
        if at + num_images * (2 + num_classes) > len(content):
            raise CorruptError(SHORT)
        main_class = content[at + slot] + 256 * content[at + num_images + slot]
        check_main_class(main_class, num_classes)
        codes = np.frombuffer(content, np.uint8, num_classes, at + 2 * num_images + slot * num_classes)
        return dequantise_full_tails(FullTailCodes(codes[None], np.array([main_class])))

    def _listed(self, content: bytes, fields: dict[str, int], at: int, slot: int) -> _Listed:
        """Return what the tail of an image lists; the columns of tails begin at `at`."""
        num_images, width = fields["num_images"], fields["tail_width"]
        floors_at = at + 2 * num_images
        levels_at = floors_at + num_images
        if width > 4 or levels_at > len(content):
            raise CorruptError(WIDE if width > 4 else SHORT)
        listed = [low + 256 * high for low, high in zip(content[at : at + num_images], content[at + num_images : floors_at], strict=True)]
        if not tails_fit_block(num_images, max(listed)):
            raise CorruptError(WASTEFUL_TAILS)
        total, before, size = sum(listed), sum(listed[:slot]), listed[slot]
        if levels_at + total * (1 + width) > len(content):
            raise CorruptError(SHORT)
        classes = list(accumulate(_run(content, levels_at + total, total, width, before, size)))
        return _Listed(classes, content[levels_at + before : levels_at + before + size], content[floors_at + slot])

    def _decode(self, classes: list[list[int]], steps: list[list[int]], above_last: list[int]) -> SparseLabels:
        if self._k is None:
            _pad(classes, -1)
        indices = np.array(classes, np.int32)
        if self._log8 is not None:
            values, remainder = self._log8_values(self._log8, steps, above_last)
        else:
            codes = [list(accumulate(row)) for row in steps]
            if self._k is None:
                _pad(codes, 0)
            values, remainder = self._encoding.dequantise(indices.astype(np.int64), np.array(codes, np.int64), None)
        return SparseLabels(indices, values, remainder, self._num_classes, self._policy)

    def _log8_values(self, encoding: Log8, steps: list[list[int]], above_last: list[int]) -> tuple[Floats, Floats]:
        powers_of, rest_of, lowest = self._powers, self._rest_powers, encoding.lowest
        values, rests = [], []
        for row, above in zip(steps, above_last, strict=True):
            codes = list(accumulate(row, initial=0))
            code = above + codes[-1]
            if codes[-1] > LOG8_ZERO or not lowest <= code <= LOG8_ZERO:
                raise CorruptError("log8 code out of range")
            rest = rest_of[code - lowest]
            if rest and len(codes) == self._num_classes:
                raise CorruptError("a crop that keeps all classes has a remainder")
            powers = [1.0, *(powers_of[code] for code in codes[1:])]
            total = sum(powers) + rest
            values.append([power / total for power in powers])
            rests.append(rest / total)
        if self._k is None:
            _pad(values, 0)
        return np.array(values, np.float32), np.array(rests, np.float32)


class _Entries(NamedTuple):
    """Where the entries of some rows of a block are: `softlabel_codec.block.sparse.Entries` in plain Python."""

    first: list[int]
    num: list[int]
    total: int


class _Palettes(NamedTuple):
    """What codes are, and where the palettes of a block are: bits, sizes, classes before those of the image, and the end."""

    kind: int
    bits: bytes
    sizes: list[int]
    before: int
    end: int


class _Listed(NamedTuple):
    """The classes that the tail of an image lists, their levels, and its floor."""

    classes: list[int]
    levels: bytes
    floor: int


def _remainders(content: bytes, fields: dict[str, int], at: int, num_crops: int, rows: list[int]) -> tuple[list[int], int]:
    """Return the remainder codes of the rows less their last value codes, and the position after the remainders."""
    after = at + num_crops * fields["remainder_width"]
    return [fields["remainder_base"] + int.from_bytes(content[at + row : after : num_crops], "little") for row in rows], after


def _run(content: bytes, at: int, column: int, width: int, first: int, count: int) -> Any:
    """Return `count` integers from position `first` of a column of `column` integers in planes that begins at `at`: bytes or a list."""
    if width == 1:
        return content[at + first : at + first + count] if count > 0 else b""
    after = at + column * width
    return [int.from_bytes(content[at + place : after : column], "little") for place in range(first, first + count)]


def _pad(rows: list[list[Any]], fill: int) -> None:
    widest = max(map(len, rows))
    for row in rows:
        row.extend([fill] * (widest - len(row)))
