"""The only module that touches container files: positioned reads, and writing that never leaves half a file behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from softlabel_codec.errors import FormatError, StateError, TruncatedError

PARTIAL_SUFFIX = ".partial"


def partial_path(path: Path) -> Path:
    """Return where the unfinished form of a file is kept."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let the error of a call on an open file say which file it is."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class FileSource:
    """A file open for positioned reads. Threads and forked processes may share it: there is no file position.

    Parameters
    ----------
    path : path
        The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.length = os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; TruncatedError if the file ends before."""
        if self._fd < 0:
            raise StateError(f"{self.path}: the file is closed")
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise TruncatedError(f"{self.path}: at byte {offset}: expected {length} bytes, got {len(data)}")
            data += more
        return data

    def read_many(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return as many bytes from each of several offsets, as `read_at` does, with little overhead for each."""
        fd, pread = self._fd, os.pread
        if fd < 0:
            return [self.read_at(offset, length) for offset, length in zip(offsets, lengths, strict=True)]
        parts = [pread(fd, length, offset) for offset, length in zip(offsets, lengths, strict=True)]
        for place, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if len(part) < length:
                parts[place] = self.read_at(offsets[place], length)
        return parts

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def refuse_finished(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError if there is a file that must not be replaced, or something that is no file at all."""
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "the file exists; pass overwrite=True (--overwrite) to replace it", str(path))


def located(error: FormatError, source: FileSource, place: str = "") -> FormatError:
    """Return the same error with the file, and the place in it, before its text."""
    return type(error)(f"{source.path}: {place}{': ' if place else ''}{error}")


class PartialFile:
    """`PATH.partial`, open for appending by one writer at a time; `finish` makes it `PATH`.

    Parameters
    ----------
    path : path
        The file to be.
    unfinished : str
        What to do with an unfinished file that is there: `refuse` it, `resume` it, or `discard` it.
    overwrite : bool
        Replace a finished file when this one is finished; otherwise a finished file is an error.
    partial : path, optional
        Where to keep the unfinished file, if not at `PATH.partial`.

    Attributes
    ----------
    length : int
        Bytes so far.
    """

    def __init__(self, path: Path, *, unfinished: str = "refuse", overwrite: bool = False, partial: Path | None = None) -> None:
        self.path = path.resolve() if path.is_symlink() else path
        self.partial = partial or partial_path(self.path)
        self._overwrite = overwrite
        refuse_finished(path, overwrite)
        self._sha256 = hashlib.sha256()
        self._fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _open_files.add(self)
        try:
            self._lock()
            self.length = os.fstat(self._fd).st_size
            if self.length and unfinished == "discard":
                self.truncate(0)
            if self.length and unfinished == "refuse":
                raise StateError(
                    f"{self.partial}: an unfinished file is there. Continue it with resume=True, keep what it holds with "
                    "'slcodec recover', or discard it with overwrite=True (--overwrite)"
                )
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{self.partial}: another writer is at work on this file") from None
        if not self.partial.exists() or os.fstat(self._fd).st_ino != os.stat(self.partial).st_ino:
            raise StateError(f"{self.partial}: another writer has just finished this file")

    def append(self, data: bytes) -> None:
        """Write `data` at the end. If that fails (a full disk), the file is cut back to what it was, and the error raised."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._fd, view, self.length + len(data) - len(view)) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # a rest that stays is no harm: whoever continues the file cuts it off
                os.ftruncate(self._fd, self.length)
            raise OSError(error.errno, f"{error.strerror}; what was written before is kept", str(self.partial)) from error
        self.length += len(data)
        self._sha256.update(data)

    def adopt(self, data: bytes) -> None:
        """Count bytes that are already in the file, in order, as written."""
        self._sha256.update(data)

    def truncate(self, length: int) -> None:
        """Cut the file to `length` bytes."""
        with _named(self.partial):
            os.ftruncate(self._fd, length)
        self.length = length

    def sha256(self) -> bytes:
        """Return the SHA-256 of everything appended or adopted."""
        return self._sha256.digest()

    def finish(self) -> None:
        """Put the file on disk under its final name: fsync, rename, fsync of the folder."""
        with _named(self.partial):
            os.fsync(self._fd)
        refuse_finished(self.path, self._overwrite)
        os.replace(self.partial, self.path)
        self.close()
        try:
            _fsync_folder(self.path.parent)
        except OSError as error:
            what = f"{error.strerror}; the file is whole and has its name, but a power failure may still take it away"
            raise OSError(error.errno, what, str(self.path)) from error

    def close(self) -> None:
        """Close the file as it is. Closing twice is allowed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # a writer that was forgotten must not keep others out
            self.close()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_open_files: weakref.WeakSet[PartialFile] = weakref.WeakSet()


def _close_in_child() -> None:
    """Keep forked processes, such as DataLoader workers, from holding the lock of a writer that was killed."""
    for file in list(_open_files):
        file.close()


os.register_at_fork(after_in_child=_close_in_child)
