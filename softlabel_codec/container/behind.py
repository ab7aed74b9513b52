"""Appends to a file, and computes its SHA-256, in a thread for each, so that what comes next can be made meanwhile."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from softlabel_codec.container.files import PartialFile

_MOST_WAITING = 3
"""So many pieces may wait to be written."""


class _Piece(NamedTuple):
    work: tuple[Future[None], Future[None]]
    buffer: bytearray | None


class AppendBehind:
    """Appends pieces in order, a little later.

    Parameters
    ----------
    file : PartialFile
        The file, which nobody else uses until `wait` returns.

    Attributes
    ----------
    length : int
        Number of bytes in the file when all pieces are written.
    """

    def __init__(self, file: PartialFile) -> None:
        self.length = file.length
        self._file = file
        self._writing, self._hashing = ThreadPoolExecutor(1, "write"), ThreadPoolExecutor(1, "sha256")
        self._waiting: deque[_Piece] = deque()
        self._free: list[bytearray] = []

    def buffer(self, num_bytes: int) -> bytearray:
        """Return a buffer of at least that length for the next piece. Buffers are used again: fresh memory is slow."""
        while len(self._waiting) >= _MOST_WAITING:
            self._take()
        found = next((place for place, buffer in enumerate(self._free) if len(buffer) >= num_bytes), None)
        return bytearray(num_bytes) if found is None else self._free.pop(found)

    def append(self, data: bytes | memoryview, buffer: bytearray | None = None) -> None:
        """Append bytes, which must not be changed any more, and are part of a buffer perhaps; raises the OSError of an earlier piece."""
        while len(self._waiting) >= _MOST_WAITING:
            self._take()
        work = self._writing.submit(self._file.write, data), self._hashing.submit(self._file.adopt, data)
        self._waiting.append(_Piece(work, buffer))
        self.length += len(data)

    def wait(self) -> None:
        """Wait until all pieces are written; raises the OSError of the first that could not be."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        piece = self._waiting.popleft()
        for part in piece.work:
            part.result()
        if piece.buffer is not None:
            self._free = [*self._free[-_MOST_WAITING:], piece.buffer]

    def close(self) -> None:
        """Give up what has not been written, and end the threads."""
        for thread in (self._writing, self._hashing):
            thread.shutdown(cancel_futures=True)
