"""Whole blocks that lie one after another in a file: checked, and as they are in another place. Their payloads are not decompressed."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray, exclusive_cumsum
from softlabel_codec.container.crc32 import Words, crc32_of_words, difference_after
from softlabel_codec.container.framing import BLOCK_HEAD, MARKER, MIN_BLOCK_BYTES

_MARKER = int.from_bytes(MARKER, "little")


class AdjacentBlocks:
    """Whole blocks as they are in a file.

    Parameters
    ----------
    data : memoryview
        All of them; `move` changes it.
    lengths : int64 (n,)
        Length of each in bytes; together the length of `data`.
    metadata_crc32 : int
        Checksum of the metadata of their file, which is part of that of every block.
    number : int
        Number of the first.
    """

    def __init__(self, data: memoryview, lengths: IntArray, metadata_crc32: int, number: int) -> None:
        self._data, self._lengths = data, lengths
        self._place = metadata_crc32, number
        self._starts = exclusive_cumsum(lengths)

    def first_damaged(self) -> int | None:
        """Return which block, counted from 0, is the first without the head and the checksum that it must have; None if there is none."""
        if int(self._lengths.min()) < MIN_BLOCK_BYTES:
            return int(self._lengths.argmin())
        view, payloads = self._data, (self._starts + BLOCK_HEAD.size).tolist()
        spans = zip(payloads, (self._starts + self._lengths).tolist(), self._seeds(*self._place).tolist(), strict=True)
        crc32, heads = zlib.crc32, self._heads()
        found = np.array([crc32(view[start:end], seed) for start, end, seed in spans], np.uint32)
        sound = (heads[:, 0] == _MARKER) & (heads[:, 1:3] == self._numbers_and_lengths(self._place[1])).all(axis=1) & (heads[:, 3] == found)
        return None if sound.all() else int(sound.argmin())

    def move(self, metadata_crc32: int, number: int) -> None:
        """Change the blocks to what they are in a file with these metadata, from that number on. They must be sound."""
        if (metadata_crc32, number) == self._place:
            return
        heads = self._heads()
        heads[:, 1:3] = self._numbers_and_lengths(number)
        before, after = self._seeds(*self._place), self._seeds(metadata_crc32, number)
        heads[:, 3] ^= difference_after(before ^ after, self._lengths - BLOCK_HEAD.size)
        np.frombuffer(self._data, np.uint8)[self._head_bytes()] = heads.astype("<u4").view(np.uint8)
        self._place = metadata_crc32, number

    def _seeds(self, metadata_crc32: int, number: int) -> Words:
        """Return the checksum of what stands before the payload of each block, uint32 (n,)."""
        start = zlib.crc32(metadata_crc32.to_bytes(4, "little"))
        return crc32_of_words(self._numbers_and_lengths(number), start)

    def _numbers_and_lengths(self, number: int) -> Words:
        """Return number and length of the payload of each block, uint32 (n, 2), if the first has this number."""
        numbers = np.arange(number, number + len(self._lengths))
        return np.stack([numbers, self._lengths - BLOCK_HEAD.size], axis=1).astype(np.uint32)

    def _heads(self) -> Words:
        """Return a copy of the heads: marker, number, length of the payload and checksum of each, uint32 (n, 4)."""
        heads: Words = np.frombuffer(self._data, np.uint8)[self._head_bytes()].view("<u4").astype(np.uint32)
        return heads

    def _head_bytes(self) -> NDArray[np.int64]:
        return self._starts[:, None] + np.arange(BLOCK_HEAD.size)
