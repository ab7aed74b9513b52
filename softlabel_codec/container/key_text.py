"""Adjacent keys as one text: what is done with many keys at a time, without an object for each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import lt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LENGTH_BYTES = 4


class KeyText(NamedTuple):
    """Keys that follow each other.

    Attributes
    ----------
    lengths : uint16 (n,)
        Length of each in bytes.
    text : bytes
        All of them, as UTF-8.
    """

    lengths: NDArray[np.uint16]
    text: bytes

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> KeyText:
        """Return some keys as a text."""
        return cls(np.fromiter(map(len, keys), np.uint16, len(keys)), b"".join(keys))

    @classmethod
    def join(cls, parts: Sequence[KeyText]) -> KeyText:
        """Return several texts, at least one, as one."""
        return cls(np.concatenate([part.lengths for part in parts]), b"".join(part.text for part in parts))

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self.lengths)

    def part(self, start: int, stop: int) -> KeyText:
        """Return the keys from one number up to another."""
        if start == 0 and stop == len(self):
            return self
        ends = self._ends()
        return KeyText(self.lengths[start:stop], self.text[int(ends[start - 1]) if start else 0 : int(ends[stop - 1]) if stop else 0])

    def keys(self) -> list[bytes]:
        """Return the keys."""
        ends = self._ends().tolist()
        return [self.text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def first(self) -> bytes:
        """Return the first of at least one key."""
        return self.text[: int(self.lengths[0])]

    def last(self) -> bytes:
        """Return the last of at least one key."""
        return self.text[len(self.text) - int(self.lengths[-1]) :]

    def ascend(self) -> bool:
        """Return whether each key, as bytes, is above the one before."""
        keys = self.keys()
        return all(map(lt, keys, islice(keys, 1, None)))

    def with_lengths(self) -> bytes:
        """Return each key after its length (u32): what the fingerprint of keys is computed of (spec/container-v1.md, section 7)."""
        starts = self._ends() - self.lengths + _LENGTH_BYTES * np.arange(len(self))
        framed = np.zeros(len(self.text) + _LENGTH_BYTES * len(self), np.uint8)
        is_text = np.ones(len(framed), np.bool_)
        for byte in range(_LENGTH_BYTES):
            is_text[starts + byte] = False
        framed[is_text] = np.frombuffer(self.text, np.uint8)
        framed[starts], framed[starts + 1] = self.lengths & 255, self.lengths >> 8
        return framed.tobytes()

    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths, dtype=np.int64)
