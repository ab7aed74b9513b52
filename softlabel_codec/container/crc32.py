"""CRC-32 of many sequences of bytes that differ in how they begin, without reading the rest again.

A CRC-32 is linear: if two sequences of equal length differ in their first bytes only, the exclusive or of their checksums depends only on
that of the checksums of these first bytes, and on the number of bytes that follow. (zlib's `crc32_combine` uses the same.)
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
_ALL_ONES = np.uint32(0xFFFFFFFF)


def crc32_of_words(words: Words, start: int) -> Words:
    """Return the CRC-32 of rows of little-endian words, uint32 (n, W), that follow bytes of the checksum `start`; uint32 (n,)."""
    state = np.full(len(words), start, np.uint32) ^ _ALL_ONES
    for word in words.T:
        state = _through(_tables(2), state ^ word)  # 4 bytes
    found: Words = state ^ _ALL_ONES
    return found


def difference_after(difference: Words, num_bytes: NDArray[np.int64]) -> Words:
    """Return how checksums differ, uint32 (n,), that differed by `difference` before so many equal bytes, int64 (n,), followed."""
    result = difference
    for power in range(int(num_bytes.max(initial=0)).bit_length()):
        result = np.where(num_bytes >> power & 1, _through(_tables(power), result), result)
    return result


def _through(tables: Words, state: Words) -> Words:
    found: Words = tables[0][state & 255] ^ tables[1][state >> 8 & 255] ^ tables[2][state >> 16 & 255] ^ tables[3][state >> 24]
    return found


@cache
def _tables(power: int) -> Words:
    """Return what 2^power bytes of 0 make of a state, for the values of each of its bytes: uint32 (4, 256)."""
    if power:
        half = _tables(power - 1)
        return _through(half, half.reshape(-1)).reshape(4, 256)
    values = np.arange(256, dtype=np.uint32)
    one_byte = np.array([zlib.crc32(bytes([value])) for value in range(256)], np.uint32)
    lowest = one_byte ^ one_byte[0]  # a state of 0 stays 0
    return np.stack([lowest, values, values << 8, values << 16])
