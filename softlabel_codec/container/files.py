"""The only module that reads and writes container files here: positioned reads, and writes that never leave a half-written file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from softlabel_codec.errors import FormatError, StateError, TruncatedError
from softlabel_codec.storage.location import Location
from softlabel_codec.storage.remote_source import RemoteSource

PARTIAL_SUFFIX = ".partial"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of file systems without locks, such as Lustre that is mounted without them."""
CUT_SUFFIX = ".cut"
"""Suffix of the file that keeps what was cut off an unfinished file when it was continued, until it is finished."""


def partial_path(path: Path) -> Path:
    """Return the path of the unfinished form of a file."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _flags(*names: str) -> int:
    """Return the union of flags of `os.open`, without those that the system does not have."""
    flags = 0
    for name in names:
        flags |= getattr(os, name, 0)
    return flags


_OPEN = _flags("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", "O_NOINHERIT")
"""With O_NONBLOCK, opening a pipe does not wait for its writer; without O_BINARY, which only Windows has, line ends are changed."""


def _open(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file, never as descriptor 0, 1 or 2: even if one of these was closed, C libraries write warnings to it."""
    fd, low = os.open(path, flags | _OPEN, mode), []
    while fd <= 2:
        low.append(fd)
        fd = os.dup(fd)
    for other in low:
        os.close(other)
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind == stat.S_IFREG:
        return fd
    os.close(fd)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the name of the file to errors of calls on an open file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


COPIED_BYTES = 2**20
_position = threading.Lock()


def _seek_and_read(fd: int, length: int, offset: int) -> bytes:
    """Replace `os.pread` on systems without it (Windows): one thread at a time moves the position and reads."""
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


_pread = getattr(os, "pread", _seek_and_read)


class FileSource:
    """A file open for positioned reads. Threads and forked processes may share it: there is no file position.

    Parameters
    ----------
    path : path
        The file.
    name : Path or Url, optional
        What errors call it, if not by its path.

    Attributes
    ----------
    path : Path or Url
        What errors call it.
    also : str
        What they add to that.
    length : int
        Number of bytes.
    """

    also = ""

    def __init__(self, path: str | os.PathLike[str], name: Location | None = None) -> None:
        self.path: Location = Path(path) if name is None else name
        self._fd = _open(Path(path), os.O_RDONLY)
        self.length = os.fstat(self._fd).st_size

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path}: an open file cannot be copied: closing the copy would close this one")

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; TruncatedError if the file ends before."""
        if self._fd < 0:
            raise StateError(f"{self.path}: the file is closed")
        data: bytes = _pread(self._fd, length, offset)
        while len(data) < length:
            more = _pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise TruncatedError(f"{self.path}: at byte {offset}: expected {length} bytes, got {len(data)}")
            data += more
        return data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset`, as `read_at` reads."""
        filled = os.preadv(self._fd, [buffer], offset) if hasattr(os, "preadv") and self._fd >= 0 else 0
        if filled < len(buffer):
            buffer[filled:] = self.read_at(offset + filled, len(buffer) - filled)

    def read_many(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return the bytes of several ranges, as `read_at` does, with little overhead for each."""
        fd, pread = self._fd, _pread
        if fd < 0:
            return [self.read_at(offset, length) for offset, length in zip(offsets, lengths, strict=True)]
        parts = [pread(fd, length, offset) for offset, length in zip(offsets, lengths, strict=True)]
        for place, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if len(part) < length:
                parts[place] = self.read_at(offsets[place], length)
        return parts

    def read_together(self, start: int, stop: int) -> None:
        """Do nothing: many small reads cost little; see `RemoteSource.read_together`."""

    def close(self) -> None:
        """Close the file. Closing twice is allowed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


Source = FileSource | RemoteSource
"""What containers are read from."""


def _behind_links(path: Path) -> Path:
    """Return the path that symbolic links lead to."""
    try:
        return path.resolve() if path.is_symlink() else path
    except RuntimeError:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def refuse_finished(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError if there is a file that must not be replaced, or something that is not a file."""
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "the file exists; pass overwrite=True (--overwrite) to replace it", str(path))


def located(error: FormatError, source: Source, place: str = "") -> FormatError:
    """Return the same error with the file, and the position in it, before its text."""
    return type(error)(f"{source.path}{source.also}: {place}{': ' if place else ''}{error}")


def _file_lock() -> Callable[[int], None]:
    """Return a function that locks an open file or raises BlockingIOError; StateError if the system has no such locks (Windows)."""
    try:
        import fcntl  # noqa: PLC0415  only writers need it
    except ImportError:
        raise StateError("label files can only be read on this system: it has no locks that are released when their process ends") from None
    return lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class PartialFile:
    """`PATH.partial`, open for appending by one writer at a time; `finish` renames it to `PATH`.

    Parameters
    ----------
    path : path
        The finished file.
    unfinished : str
        What to do with an unfinished file that is there: `refuse` it, `resume` it, or `discard` it.
    overwrite : bool
        Replace a finished file when this one is finished; otherwise a finished file is an error.
    partial : path, optional
        Where to keep the unfinished file, if not at `PATH.partial`. Then it may lie on a file system without locks.

    Attributes
    ----------
    length : int
        Number of bytes so far.
    """

    def __init__(self, path: Path, *, unfinished: str = "refuse", overwrite: bool = False, partial: Path | None = None) -> None:
        self.path = _behind_links(path)
        self.partial = partial or partial_path(self.path)
        self._overwrite = overwrite
        refuse_finished(path, overwrite)
        self._flock = _file_lock()
        self._sha256 = hashlib.sha256()
        self._fd = self._open_partial()
        _open_files.add(self)
        try:
            self._lock()
            self.length = os.fstat(self._fd).st_size
            if self.length and unfinished == "discard":
                self.truncate(0)
            if self.length and unfinished == "refuse":
                raise StateError(
                    f"{self.partial}: an unfinished file is there. Continue it with resume=True, save its contents with "
                    "'slcodec recover', or discard it with overwrite=True (--overwrite)"
                )
        except BaseException:
            self.close()
            raise

    def _open_partial(self) -> int:
        try:
            fd = _open(self.partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileExistsError(errno.EEXIST, "a symbolic link, which is not written through; remove it", str(self.partial)) from None
            if error.errno == errno.ENOENT:
                raise FileNotFoundError(errno.ENOENT, "no such folder; create it first", str(self.partial.parent)) from None
            raise
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(fd, stat.S_IMODE(self.path.stat().st_mode))  # a private file stays private when it is replaced
        return fd

    def _lock(self) -> None:
        try:
            self._flock(self._fd)
        except BlockingIOError:
            raise StateError(f"{self.partial}: another writer is writing this file") from None
        except OSError as error:
            if self.partial == partial_path(self.path) or error.errno not in _NO_LOCKS:
                raise
        if not self.partial.exists() or os.fstat(self._fd).st_ino != os.stat(self.partial).st_ino:
            raise StateError(f"{self.partial}: another writer has just finished this file")

    def append(self, data: bytes | memoryview) -> None:
        """Append `data`. If that fails (a full disk), the file is cut back to its previous length, and the error is raised."""
        self.write(data)
        self.adopt(data)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, as `append` does, but for the SHA-256, which `adopt` computes."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._fd, view, self.length + len(data) - len(view)) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # if bytes stay, they are cut off when the file is continued
                os.ftruncate(self._fd, self.length)
            raise OSError(error.errno, f"{error.strerror}; what was written before is kept", str(self.partial)) from error
        self.length += len(data)

    def adopt(self, data: bytes | memoryview) -> None:
        """Count bytes that are in the file without `append`, in order, in its SHA-256."""
        self._sha256.update(data)

    def truncate(self, length: int) -> None:
        """Cut the file to `length` bytes."""
        with _named(self.partial):
            os.ftruncate(self._fd, length)
        self.length = length

    def cut(self, length: int) -> None:
        """Cut the file to `length` bytes, and keep the rest beside it until the file is finished."""
        if length == self.length:
            return
        with open(self._cut_path, "wb") as kept, _named(self.partial):
            for start in range(length, self.length, COPIED_BYTES):
                kept.write(_pread(self._fd, min(COPIED_BYTES, self.length - start), start))
        self.truncate(length)

    @property
    def _cut_path(self) -> Path:
        return self.partial.with_name(self.partial.name + CUT_SUFFIX)

    def replace_beginning(self, data: bytes) -> None:
        """Write `data` over the first bytes of the file."""
        with _named(self.partial):
            os.pwrite(self._fd, data, 0)

    def sha256(self) -> bytes:
        """Return the SHA-256 of everything appended or adopted."""
        return self._sha256.digest()

    def finish(self) -> None:
        """Sync the file to disk under its final name: fsync, rename, fsync of the folder."""
        with _named(self.partial):
            os.fsync(self._fd)
        refuse_finished(self.path, self._overwrite)
        os.replace(self.partial, self.path)
        self._cut_path.unlink(missing_ok=True)
        self.close()
        try:
            fsync_folder(self.path.parent)
        except OSError as error:
            what = f"{error.strerror}; the file is complete and has its name, but a power failure may still lose it"
            raise OSError(error.errno, what, str(self.path)) from error

    def what_is_left(self) -> str:
        """Return what a writer that failed has left, for its errors."""
        return (
            f"What was written is kept in {self.partial.name}; continue with resume=True"
            if self.partial.exists()
            else f"{self.path.name} is whole"
        )

    def close(self) -> None:
        """Close the file as it is. Closing twice is allowed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # a writer that was never closed must not lock out others
            self.close()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def fsync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk; does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
