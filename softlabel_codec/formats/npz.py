"""Labels in a `.npz` file of numpy: see `softlabel_codec.formats.arrays` for the names of the arrays."""

from __future__ import annotations

import ast
import errno
import io
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_KEY_BYTES, MAX_METADATA_BYTES
from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.arrays import KEYS

_ENDING = ".npy"
_KEYS_AT_ONCE = 4096
_MOST_BYTES = 2**28
"""The most bytes of an array that is read as a whole, and of all arrays of an image."""
_BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError, NotImplementedError)
_MOST_HEADER_BYTES = 10_000
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of all members, so that the same labels give the same file."""


class _Member(NamedTuple):
    """An array in the file: its name there, and what the numbers are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzFile:
    """An open `.npz` file, compressed or not, which is read a few images at a time. Arrays of objects, which are pickles, are refused.

    It is a context manager, which closes the file.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    CorruptError
        If it is damaged, no such file, or holds something else than plain arrays.
    """

    format = "npz"

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path), ExitStack() as opened:
            self._file = opened.enter_context(path.open("rb"))  # held beside the archive, which stays open while a member is
            self._zip = zipfile.ZipFile(self._file)
            self._members = {}
            for name in _names(self._zip):
                with self._zip.open(name) as stream:
                    self._members[name.removesuffix(_ENDING)] = _Member(name, *_checked_header(stream, name))
            opened.pop_all()

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        return {name: (member.shape, member.dtype) for name, member in self._members.items()}

    def whole(self, name: str) -> NDArray[Any]:
        shape, dtype = self._members[name].shape, self._members[name].dtype
        if prod(shape) * dtype.itemsize > _MOST_BYTES:
            raise MismatchError(f"{self.path}: {name}: expected at most {_MOST_BYTES} bytes, got {dtype} of shape {shape}")
        parts = [*self.parts(name, max(1, shape[0]))] if shape else [*self.parts(name, 1)]
        return parts[0] if parts else np.zeros(shape, dtype)

    def text(self, name: str) -> str | None:
        if name not in self._members:
            return None
        shape, dtype = self._members[name].shape, self._members[name].dtype
        if shape != () or dtype.kind != "U" or dtype.itemsize > 4 * MAX_METADATA_BYTES:
            raise MismatchError(f"{self.path}: {name}: expected a text, got {dtype} of shape {shape}")
        return str(self.whole(name))

    def keys(self) -> Iterator[str]:
        shape, dtype = self._members[KEYS].shape, self._members[KEYS].dtype
        if dtype.kind not in "US" or len(shape) != 1 or dtype.itemsize > 4 * MAX_KEY_BYTES:
            raise MismatchError(f"{self.path}: {KEYS}: expected texts (N,), got {dtype} of shape {shape}")
        for part in self.parts(KEYS, _KEYS_AT_ONCE):
            try:
                yield from (part if dtype.kind == "U" else np.char.decode(part, "utf-8")).tolist()
            except UnicodeDecodeError:
                raise CorruptError(f"{self.path}: {KEYS}: expected UTF-8") from None

    def parts(self, name: str, rows: int) -> Iterator[NDArray[Any]]:
        member = self._members[name]
        row = np.dtype((member.dtype, member.shape[1:])) if member.shape else member.dtype
        left = member.shape[0] if member.shape else 1
        with _readable(self.path), self._zip.open(member.name) as stream:
            _checked_header(stream, name)
            while left:
                count = min(rows, left)
                left -= count
                data = stream.read(count * row.itemsize)
                if len(data) < count * row.itemsize:
                    raise EOFError(f"{name} ends too early")
                if not left and stream.read(1):  # which also compares the checksum
                    raise ValueError(f"{name} has more bytes than its shape says")
                yield _array(data, member.dtype, (count, *member.shape[1:]) if member.shape else (), name)


def read_npz(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Return all arrays of a small `.npz` file in memory; errors as for `NpzFile`, with `where` in place of its path."""
    found = {}
    with _readable(where), zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = _names(archive)
        total = sum(archive.getinfo(name).file_size for name in names)
        if total > _MOST_BYTES:
            raise ValueError(f"expected arrays of at most {_MOST_BYTES} bytes, got {total}")
        for name in names:
            stream = io.BytesIO(archive.read(name))
            shape, dtype = _checked_header(stream, name)
            numbers = stream.getbuffer()[stream.tell() :]
            if len(numbers) != prod(shape) * dtype.itemsize:
                raise ValueError(f"{name}: expected {prod(shape) * dtype.itemsize} bytes of numbers, got {len(numbers)}")
            found[name.removesuffix(_ENDING)] = _array(numbers, dtype, shape, name)
    return found


def _names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in a file."""
    names = [name for name in archive.namelist() if name.endswith(_ENDING)]
    if len(set(names)) < len(names):
        raise ValueError("holds an array twice")
    return names


def _checked_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array, after whose header the stream then is."""
    start = stream.read(npy.MAGIC_LEN + 2)
    version, length = npy.read_magic(io.BytesIO(start)), int.from_bytes(start[-2:], "little")
    if version != (1, 0):
        raise ValueError(f"{name}: expected an array of version 1.0, got {version}")
    text = stream.read(length)
    if len(text) < length:
        raise EOFError(f"{name} ends too early")
    shape, in_columns, dtype = _parsed(text)
    if any(side < 0 for side in shape):
        raise ValueError(f"{name}: expected sides of 0 and more, got {shape}")
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise ValueError(f"{name}: expected numbers or text, got {dtype}. Objects are pickles, which are never read")
    if in_columns and len(shape) > 1:
        raise ValueError(f"{name}: expected an array in C order. Save np.ascontiguousarray of it")
    if dtype.itemsize == 0 or prod(shape) == 0:
        raise ValueError(f"{name}: expected numbers, got an empty array of shape {shape}")
    return shape, dtype


@lru_cache(256)
def _parsed(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type that a header says, which is the same for many members of shards."""
    if len(header) > _MOST_HEADER_BYTES:
        raise ValueError(f"a header of more than {_MOST_HEADER_BYTES} bytes")
    try:
        found = ast.literal_eval(header.decode("latin1").strip())
        shape, in_columns, dtype = found["shape"], found["fortran_order"], found["descr"]
        if not (type(shape) is tuple and all(type(side) is int for side in shape) and type(in_columns) is bool and type(dtype) is str):
            raise ValueError("expected shape, order and a plain type")
        return shape, in_columns, np.dtype(dtype)
    except Exception as error:  # of the parser of Python, which has many, or of numpy
        raise ValueError(f"a damaged header: {type(error).__name__}: {error}") from None


def _array(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Return an array of these bytes; ValueError if it is a text of what is no character, which Python cannot take."""
    array = np.frombuffer(data, dtype)
    if dtype.kind == "U" and int(array.view(np.dtype("u4").newbyteorder(dtype.byteorder)).max(initial=0)) > sys.maxunicode:
        raise ValueError(f"{name}: expected text, got numbers that are no characters")
    return array.reshape(shape)


@contextmanager
def _readable(where: object) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # which says nothing of the file; a bad offset is EINVAL
            raise
        raise CorruptError(f"{where}: not a .npz file of plain arrays: {error}") from None


class StoredArray(NamedTuple):
    """Numbers in a file of their own, in C order and little-endian.

    Attributes
    ----------
    shape : tuple of int
        Their shape.
    dtype : dtype
        Their type.
    path : Path
        The file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: Path


def write_npz(path: str | Path | IO[bytes], arrays: Mapping[str, NDArray[Any] | StoredArray]) -> None:
    """Write a `.npz` file; the same arrays give the same bytes. Arrays that lie in files are never in memory as a whole."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + _ENDING, _EPOCH), "w", force_zip64=isinstance(array, StoredArray)) as stream:
                if isinstance(array, StoredArray):
                    header = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
                    npy.write_array_header_1_0(stream, header)
                    with array.path.open("rb") as file:
                        shutil.copyfileobj(file, stream, 2**20)
                else:
                    npy.write_array(stream, array, allow_pickle=False)
