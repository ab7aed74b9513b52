"""A file object of the caller in place of a path: bytes are only ever appended to it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from softlabel_codec.errors import ArgumentError


@runtime_checkable
class Writable(Protocol):
    """What a file object must have: a method that writes bytes. If it also has `flush`, that is called at the end."""

    def write(self, data: bytes, /) -> int | None:
        """Write bytes and return how many were written; None: all."""


class OutputStream:
    """A container file under construction that goes to a file object; `finish` flushes it. It is never closed here.

    Parameters
    ----------
    stream : Writable
        The file object.

    Attributes
    ----------
    path : Path
        What to call it in errors.
    length : int
        Number of bytes so far.

    Raises
    ------
    ArgumentError
        If it takes text, not bytes.
    """

    def __init__(self, stream: Writable) -> None:
        name = getattr(stream, "name", None)
        self.path = Path(name if isinstance(name, str | os.PathLike) else f"<{type(stream).__name__}>")
        if isinstance(stream, io.TextIOBase):  # type: ignore[unreachable]  # its write takes str, which is not checked at run time
            raise ArgumentError(f"{self.path}: expected a file object that takes bytes, got one that takes text. Open it with mode 'wb'")
        self.length = 0
        self._stream, self._may_refuse = stream, isinstance(stream, io.RawIOBase)
        self._sha256 = hashlib.sha256()

    def append(self, data: bytes) -> None:
        """Write `data`, in as many calls as the file object needs."""
        view = memoryview(data)
        while view:
            view = view[self._write(bytes(view)) :]
        self.length += len(data)
        self._sha256.update(data)

    def _write(self, data: bytes) -> int:
        written = self._stream.write(data)
        if written is None and not self._may_refuse:
            return len(data)
        if written is None or not 0 < written <= len(data):
            expected = f"expected a file object that waits until it has written some of {len(data)} bytes, got {written} from its write"
            raise OSError(errno.EIO, expected, str(self.path))
        return written

    def sha256(self) -> bytes:
        """Return the SHA-256 of everything appended."""
        return self._sha256.digest()

    def finish(self) -> None:
        """Flush the file object."""
        flush = getattr(self._stream, "flush", None)
        if flush is not None:
            flush()

    def what_is_left(self) -> str:
        """Return what a writer that failed has left, for its errors."""
        return "What was written is incomplete, and cannot be continued"

    def close(self) -> None:
        """Do nothing: the file object is the caller's to close."""
