"""Columns of integers as bytes: planes, ragged positions and varints (spec/container-v1.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError

IntArray = NDArray[np.int64]
Bytes = NDArray[np.uint8]
SMALL_BYTES = 64
TEXT_SHARE = 8


class Column(NamedTuple):
    """Bytes of a block's content. `noise` marks bytes that are not expected to compress, `text` those that may compress by repetition."""

    name: str
    data: bytes
    noise: bool = False
    text: bool = False


def _is_noise(column: Column) -> bool:
    return column.noise or len(column.data) < SMALL_BYTES


def grouped(columns: Sequence[Column]) -> list[list[Column]]:
    """Return the columns in groups that are compressed together.

    Each column is its own group, because a separate entropy table for each compresses best; but adjacent columns that are
    noise, or too small for a table, share the overhead of one group.
    """
    groups: list[list[Column]] = []
    for noise, run in groupby((column for column in columns if column.data), _is_noise):
        members = list(run)
        groups += [members] if noise else [[column] for column in members]
    return groups


def much_text(columns: Sequence[Column]) -> bool:
    """Return whether enough of the columns is text to make compressing all of them as text worthwhile."""
    return sum(len(column.data) for column in columns if column.text) * TEXT_SHARE > sum(len(column.data) for column in columns)


def width_of(largest: int) -> int:
    """Return the fewest bytes that hold integers from 0 to `largest`; 0 if all are 0."""
    return (int(largest).bit_length() + 7) // 8


def to_planes(values: NDArray[Any], width: int) -> list[bytes]:
    """Return the planes, lowest first, of integers modulo 2^(8 * width)."""
    carrier = 1 << max(0, width - 1).bit_length()
    as_bytes = np.ascontiguousarray(values, dtype=f"<u{carrier}").reshape(-1).view(np.uint8).reshape(-1, carrier)
    return [as_bytes[:, plane].tobytes() for plane in range(width)]


def from_planes(data: Bytes, start: IntArray, count: IntArray, width: IntArray, position: IntArray) -> IntArray:
    """Return integers of columns in planes.

    Parameters
    ----------
    data : uint8
        Bytes that hold the columns.
    start, count, width : int64, broadcastable with `position`
        Where the column of each wanted integer begins, how many integers it has, and its width in bytes.
    position : int64
        Position of each wanted integer in its column.

    Returns
    -------
    int64
        Integers of 8 bytes are returned as two's complement.
    """
    where = start + position
    result = np.zeros(where.shape, np.int64)
    if where.size == 0:
        return result
    widest = int(width.max())
    uniform = widest == int(width.min())
    for plane in range(widest):
        if uniform:
            result |= data[where].astype(np.int64) << (8 * plane)
        else:
            there = width > plane
            result |= np.where(there, data[np.where(there, where, 0)], 0).astype(np.int64) << (8 * plane)
        where = where + count
    return result


def to_bits(values: NDArray[Any], width: int) -> bytes:
    """Return non-negative integers of `width` bits each, lowest bit first, without gaps; unused bits of the last byte are 0."""
    bits = (values[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def from_bits(data: Bytes, start: IntArray, first_bit: IntArray, width: int) -> IntArray:
    """Return integers of `width` bits (at most 32), each of which begins `first_bit` bits after the byte `start` of `data`."""
    where = start + (first_bit >> 3)
    result = np.zeros(where.shape, np.int64)
    for byte in range((width + 14) >> 3):
        result |= data[np.minimum(where + byte, len(data) - 1)].astype(np.int64) << (8 * byte)
    found: IntArray = (result >> (first_bit & 7)) & ((1 << width) - 1)
    return found


def ragged(starts: IntArray, counts: IntArray) -> IntArray:
    """Return starts[0], starts[0] + 1, ... (counts[0] of them), then the same for starts[1], and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0, dtype=np.int64) + np.repeat(starts - ends + counts, counts)


def exclusive_cumsum(counts: IntArray) -> IntArray:
    """Return, for each count, the sum of all counts before it."""
    sums = np.zeros(len(counts), np.int64)
    np.cumsum(counts[:-1], out=sums[1:])
    return sums


def put_varint(value: int) -> bytes:
    """Return `value` as unsigned LEB128."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def get_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at `at` and the position after it; CorruptError if it does not end within 3 bytes."""
    value = 0
    for place in range(3):
        if at + place >= len(data):
            break
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise CorruptError("a varint does not end")
