"""Appends to a file in a thread of its own, so that what comes next can be made meanwhile."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from softlabel_codec.container.files import PartialFile

WAITING_BYTES = 2**23
"""So many bytes may wait to be written, unless one piece has more."""


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
        self._thread = ThreadPoolExecutor(1, "append")
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._waiting_bytes = 0

    def append(self, data: bytes | bytearray) -> None:
        """Append bytes, which must not be changed any more; raises the OSError of an earlier piece."""
        while self._waiting and self._waiting_bytes + len(data) > WAITING_BYTES:
            self._take()
        self._waiting.append((len(data), self._thread.submit(self._file.append, data)))
        self._waiting_bytes += len(data)
        self.length += len(data)

    def wait(self) -> None:
        """Wait until all pieces are written; raises the OSError of the first that could not be."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        num_bytes, written = self._waiting.popleft()
        self._waiting_bytes -= num_bytes
        written.result()

    def close(self) -> None:
        """Give up what has not been written, and end the thread."""
        self._thread.shutdown(cancel_futures=True)
