"""Labels in a `.npz` file of numpy: see `softlabel_codec.formats.arrays` for the names of the arrays."""

from __future__ import annotations

import io
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
_BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError, NotImplementedError, SyntaxError)
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of all members, so that the same labels give the same file."""


class _Member(NamedTuple):
    """An array in the file: its name there, and what the numbers are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzFile:
    """An open `.npz` file, compressed or not, which is read a few images at a time. Arrays of objects, which are pickles, are refused.

    Parameters
    ----------
    path : path
        The file.
    data : bytes, optional
        Its contents, if it lies in another file, of which `path` then says what and where it is.

    Raises
    ------
    CorruptError
        If it is damaged or no such file.
    MismatchError
        If it holds something else than plain arrays.
    """

    format = "npz"

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        with self._readable():
            self._zip = zipfile.ZipFile(path if data is None else io.BytesIO(data))
            names = self._zip.namelist()
        if len(set(names)) < len(names):
            raise CorruptError(f"{path}: holds an array twice")
        self._members = {name.removesuffix(_ENDING): self._member(name) for name in names if name.endswith(_ENDING)}

    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        return {name: (member.shape, member.dtype) for name, member in self._members.items()}

    def whole(self, name: str) -> NDArray[Any]:
        shape = self._members[name].shape
        parts = [*self.parts(name, max(1, shape[0]))] if shape else [*self.parts(name, 1)]
        return parts[0] if parts else np.zeros(shape, self._members[name].dtype)

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
        with self._readable(), self._zip.open(member.name) as stream:
            _read_header(stream)
            while left:
                count = min(rows, left)
                left -= count
                data = stream.read(count * row.itemsize)
                if len(data) < count * row.itemsize:
                    raise EOFError(f"{name} ends too early")
                if not left and stream.read(1):  # which also compares the checksum
                    raise ValueError(f"{name} has more bytes than its shape says")
                part = np.frombuffer(data, member.dtype).reshape((count, *member.shape[1:]))
                yield part if member.shape else part.reshape(())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays, of a file that holds one image."""
        return {name: self.whole(name) for name in self._members}

    def _member(self, name: str) -> _Member:
        with self._readable(), self._zip.open(name) as stream:
            shape, in_columns, dtype = _read_header(stream)
        if dtype.hasobject or dtype.kind not in "biufUS":
            raise MismatchError(f"{self.path}: {name}: expected numbers or text, got {dtype}. Objects are pickles, which are never read")
        if in_columns and len(shape) > 1:
            raise MismatchError(f"{self.path}: {name}: expected an array in C order. Save np.ascontiguousarray of it")
        if dtype.itemsize == 0 or (shape and shape[0] and prod(shape) == 0):
            raise MismatchError(f"{self.path}: {name}: expected numbers, got an empty array of shape {shape}")
        return _Member(name, shape, dtype)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except _BROKEN as error:
            raise CorruptError(f"{self.path}: not a readable .npz file: {error}") from None


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"expected arrays of version 1 or 2, got {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, in_columns, dtype = read(stream)
    if any(side < 0 for side in shape):
        raise ValueError(f"expected sides of 0 and more, got {shape}")
    return shape, in_columns, dtype


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
