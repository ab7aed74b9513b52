"""Label columns of dense labels as quantised logarithms (spec/dense-v1.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column, IntArray, from_planes, ragged, to_planes, width_of
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.checks.limits import MAX_DENSE_NUMBERS
from softlabel_codec.errors import CorruptError
from softlabel_codec.quantise.log_vectors import CLASSES_PER_BYTE, UNIT_BITS, ImageLogs, LogCodes, num_refined

_WIDE = "a column is wider or narrower than it may be"
_BAD_SHIFT = f"a profile is finer than 2^-{UNIT_BITS} steps"
_TOO_MANY = "a crop has more exceptions than classes"
_TOO_LARGE = f"a block has more than {MAX_DENSE_NUMBERS} numbers"
_UNUSED = "unused digits of a crop are not 0"


class _OfImages(NamedTuple):
    """Profiles, shifts and ranks of the wanted images (B,), and where the components and coefficients of each begin."""

    profiles: list[NDArray[np.int16]]
    shifts: IntArray
    ranks: IntArray
    components: IntArray
    coefficients: IntArray


@dataclass(frozen=True)
class LogPacker:
    """How quantised logarithms become columns. One instance describes a file."""

    num_classes: int

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block."""
        return [("profile_width", "B"), ("count_width", "B"), ("exception_width", "B")]

    @property
    def _digit_bytes(self) -> int:
        return -(-self.num_classes // CLASSES_PER_BYTE)

    def pack(self, codes: LogCodes, num_crops: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return the fields and columns of the labels of a block, whose images have `num_crops` crops."""
        profiles = np.concatenate([image.profile for image in codes]).astype(np.int64)
        counts = np.concatenate([image.counts for image in codes])
        exceptions = np.concatenate([image.exceptions for image in codes])
        fields = {
            "profile_width": 1 if profiles.min() >= -128 and profiles.max() <= 127 else 2,
            "count_width": width_of(int(counts.max())),
            "exception_width": max(1, width_of(int(exceptions.max(initial=0)))),
        }
        columns = [
            Column("profiles", bytes(len(image.components) for image in codes)),
            Column("profiles", bytes(image.shift for image in codes)),
            *(Column("profiles", plane) for plane in to_planes(profiles, fields["profile_width"])),
            *(Column("components", component.tobytes()) for image in codes for component in image.components),
            Column("coefficients", b"".join(image.coefficients.tobytes() for image in codes)),
            Column("values", b"".join(image.digits.tobytes() for image in codes)),
            *(Column("values", plane) for plane in to_planes(counts, fields["count_width"])),
            *(Column("values", plane) for plane in to_planes(exceptions, fields["exception_width"])),
            Column("refinements", b"".join(image.refinements.tobytes() for image in codes)),
        ]
        return fields, columns

    def unpack(self, rows: BlockRows, at: IntArray, *, thorough: bool = False) -> tuple[LogCodes, IntArray]:
        """Return the codes of the wanted crops, whose columns begin at `at`, and where the columns end.

        CorruptError if they violate the specification; `thorough` also checks what these crops do not need.
        """
        if (rows.num_crops * self.num_classes > MAX_DENSE_NUMBERS).any():
            raise CorruptError(_TOO_LARGE)
        width, exception_width = rows.field("profile_width"), rows.field("exception_width")
        if not (np.isin(width, (1, 2)).all() and np.isin(exception_width, (1, 2)).all() and (rows.field("count_width") <= 4).all()):
            raise CorruptError(_WIDE)
        always = np.ones(len(at), np.int64)
        ranks = rows.image_column(at, always, 1)
        shifts = rows.image_column(ranks.after, always, 1)
        if (shifts.largest > UNIT_BITS).any():
            raise CorruptError(_BAD_SHIFT)
        profiles_at, num_profiles = shifts.after, rows.per_row(rows.block_images) * self.num_classes
        components_at = rows.advance(profiles_at, num_profiles * width)
        coefficients_at = rows.advance(components_at, ranks.total * self.num_classes)
        before, total = rows.sums_of_images(ranks.of_all * rows.crops_of_all)
        digits_at = rows.advance(coefficients_at, total)
        counts_at = rows.advance(digits_at, rows.num_crops * self._digit_bytes)
        counts, exceptions_at = self._unpack_counts(rows, counts_at)
        exceptions_before, num_exceptions = rows.sums_before(counts)
        refinements_at = rows.advance(exceptions_at, num_exceptions * exception_width)
        num_refinements = num_refined(self.num_classes)
        after = rows.advance(refinements_at, rows.num_crops * num_refinements)

        digits = _gather(rows.data, digits_at + rows.row * self._digit_bytes, self._digit_bytes)
        refinements = _gather(rows.data, refinements_at + rows.row * num_refinements, num_refinements).view(np.int8)
        if thorough and self.num_classes % CLASSES_PER_BYTE and (digits[:, -1] >> 2 * (self.num_classes % CLASSES_PER_BYTE)).any():
            raise CorruptError(_UNUSED)
        counts = counts[rows.crop]
        owner = np.repeat(np.arange(len(counts)), counts)
        exceptions = from_planes(
            rows.data, exceptions_at[owner], num_exceptions[owner], exception_width[owner], ragged(exceptions_before, counts)
        )
        of_images = _OfImages(
            profiles=self._profiles(rows, profiles_at, num_profiles, width),
            shifts=shifts.values,
            ranks=ranks.values,
            components=rows.per_image(components_at) + ranks.before * self.num_classes,
            coefficients=rows.per_image(coefficients_at) + before,
        )
        return self._images(rows, of_images, digits, counts, exceptions, refinements), after

    def _images(
        self,
        rows: BlockRows,
        of_images: _OfImages,
        digits: NDArray[np.uint8],
        counts: IntArray,
        exceptions: IntArray,
        refinements: NDArray[np.int8],
    ) -> LogCodes:
        """Return the codes of the wanted images, from what is known of each, and of their crops (R, ...)."""
        ends = np.cumsum(rows.image_rows)
        exception_ends = np.concatenate(([0], np.cumsum(counts)))
        images = []
        for place, end in enumerate(ends.tolist()):
            crops = slice(end - int(rows.image_rows[place]), end)
            rank, at_components = int(of_images.ranks[place]), int(of_images.components[place])
            components = rows.data[at_components : at_components + rank * self.num_classes]
            where = of_images.coefficients[place] + rows.number[crops, None] * rank + np.arange(rank)
            images.append(
                ImageLogs(
                    of_images.profiles[place],
                    int(of_images.shifts[place]),
                    components.view(np.int8).reshape(rank, self.num_classes),
                    rows.data[where].view(np.int8),
                    digits[crops],
                    counts[crops],
                    exceptions[exception_ends[crops.start] : exception_ends[crops.stop]],
                    refinements[crops],
                )
            )
        return tuple(images)

    def _unpack_counts(self, rows: BlockRows, at: IntArray) -> tuple[IntArray, IntArray]:
        """Return the number of exceptions of every crop of all blocks, and where these columns end."""
        width = rows.field("count_width")
        after = rows.advance(at, rows.num_crops * width)
        counts = np.zeros(int(rows.block_crops.sum()), np.int64)
        for plane in range(int(width.max(initial=0))):
            counts += rows.crop_bytes(at + plane * rows.num_crops, width > plane).astype(np.int64) << 8 * plane
        if int(counts.max(initial=0)) > self.num_classes:
            raise CorruptError(_TOO_MANY)
        return counts, after

    def _profiles(self, rows: BlockRows, at: IntArray, count: IntArray, width: IntArray) -> list[NDArray[np.int16]]:
        """Return the profile of each wanted image."""
        starts, counts, widths = (rows.per_image(values) for values in (at, count, width))
        starts = starts + rows.slot * self.num_classes
        profiles = []
        for start, distance, planes in zip(starts.tolist(), counts.tolist(), widths.tolist(), strict=True):
            low = rows.data[start : start + self.num_classes]
            if planes == 1:
                profiles.append(low.view(np.int8).astype(np.int16))
            else:
                high = rows.data[start + distance : start + distance + self.num_classes]
                profiles.append((low | high.astype(np.uint16) << 8).view(np.int16))
        return profiles


def _gather(data: NDArray[np.uint8], starts: IntArray, num_bytes: int) -> NDArray[np.uint8]:
    """Return that many bytes from each of `starts` on, uint8 (R, num_bytes)."""
    gathered = np.empty((len(starts), num_bytes), np.uint8)
    for row, start in enumerate(starts.tolist()):
        gathered[row] = data[start : start + num_bytes]
    return gathered
