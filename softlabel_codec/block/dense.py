"""Label columns of dense codecs: the bits of C numbers per crop (spec/dense-v1.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import Column, IntArray
from softlabel_codec.block.dense_logs import LogPacker
from softlabel_codec.block.rows import BlockRows
from softlabel_codec.codec import Codec
from softlabel_codec.quantise.dense import FloatCodes
from softlabel_codec.quantise.values import VALUE_WIDTH


def dense_packer(codec: Codec, num_classes: int) -> FloatPacker | LogPacker:
    """Return the packer of a dense codec."""
    return LogPacker(num_classes) if codec.values == "log8" else FloatPacker(codec, num_classes)


@dataclass(frozen=True)
class FloatPacker:
    """How vectors become columns. One instance describes a file."""

    codec: Codec
    num_classes: int

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names and struct codes of the label fields of a block: none."""
        return []

    @property
    def _width(self) -> int:
        return VALUE_WIDTH[self.codec.values]

    def pack(self, codes: FloatCodes, num_crops: IntArray) -> tuple[dict[str, int], list[Column]]:
        """Return the planes of the bits (R, C)."""
        as_bytes = np.ascontiguousarray(codes).view(np.uint8).reshape(-1, self._width)
        return {}, [Column("values", as_bytes[:, plane].tobytes()) for plane in range(self._width)]

    def unpack(self, rows: BlockRows, at: IntArray, *, thorough: bool = False) -> tuple[FloatCodes, IntArray]:
        """Return the bits (R, C) of the wanted crops, whose columns begin at `at`, and where the columns end."""
        plane_bytes = rows.num_crops * self.num_classes
        after = rows.advance(at, plane_bytes * self._width)
        return self._gather(rows.data, at + rows.row * self.num_classes, plane_bytes), after

    def _gather(self, data: NDArray[np.uint8], starts: IntArray, plane_bytes: IntArray) -> FloatCodes:
        bits = np.empty((len(starts), self.num_classes, self._width), np.uint8)
        for plane in range(self._width):
            for row, start in enumerate((starts + plane * plane_bytes).tolist()):
                bits[row, :, plane] = data[start : start + self.num_classes]
        return bits.view(f"<u{self._width}")[:, :, 0]
