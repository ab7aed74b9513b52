"""Finds a key that is in two files, of any number of files, with 8 bytes of memory for each key that may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

Ends = tuple[bytes, bytes] | None
"""The smallest and the largest key of a file; None if it holds no images."""


class Repeated(NamedTuple):
    """A key that is in two files, and which these are."""

    key: bytes
    one: int
    other: int


def repeated_key(ends: Sequence[Ends], keys_of: Callable[[int], Iterable[bytes]]) -> Repeated | None:
    """Return a key that is in two files, None if there is none. Only files are read whose ranges of keys overlap.

    Parameters
    ----------
    ends : sequence of Ends
        Of each file.
    keys_of : callable
        Number of a file to its keys, as UTF-8, each once. It is called once or twice for a file.
    """
    files = overlapping(ends)
    hashes = np.sort(np.concatenate([np.zeros(0, np.int64), *(np.fromiter(map(hash, keys_of(file)), np.int64) for file in files)]))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: dict[bytes, int] = {}
    for file in files if suspects else []:
        for key in keys_of(file):
            if hash(key) in suspects and seen.setdefault(key, file) != file:
                return Repeated(key, seen[key], file)
    return None


def overlapping(ends: Sequence[Ends]) -> list[int]:
    """Return which files have keys within the range of another, in their order.

    >>> overlapping([(b"a", b"c"), (b"d", b"z"), None, (b"e", b"f"), (b"zz", b"zz")])
    [1, 3]
    """
    found: set[int] = set()
    highest, holder = b"", -1
    for (first, last), file in sorted((one, file) for file, one in enumerate(ends) if one is not None):
        if holder >= 0 and first <= highest:
            found |= {holder, file}
        if holder < 0 or last >= highest:
            highest, holder = last, file
    return sorted(found)
