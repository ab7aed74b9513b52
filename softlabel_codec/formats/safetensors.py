"""Labels in a safetensors file: see `softlabel_codec.formats.arrays` for the names of the arrays.

The format has no arrays of text. `keys` are a tensor of bytes (uint8): the keys in UTF-8 with a line feed after each. `about` is an entry
of the file's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError, MismatchError
from softlabel_codec.formats.arrays import ABOUT, KEYS
from softlabel_codec.formats.npz import StoredArray
from softlabel_codec.storage.clients import installed

_TYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2", "I16": "i2", "U32": "u4", "I32": "i4", "U64": "u8", "I64": "i8"}
_TYPES |= {"F16": "f2", "F32": "f4", "F64": "f8"}
_BYTES_AT_ONCE = 2**20


class SafetensorsFile:
    """An open safetensors file, which is read a few images at a time.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    CorruptError
        If it is damaged or no such file.
    MismatchError
        If it holds numbers of a type that numpy does not have.
    StateError
        If the package safetensors is missing.
    """

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable():
            self._file = _package().safe_open(path, framework="numpy")
            self._metadata: dict[str, str] = self._file.metadata() or {}
        self._shapes = {name: self._shape(name) for name in self._file.keys()}  # noqa: SIM118  it is no mapping

    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        return self._shapes

    def whole(self, name: str) -> NDArray[Any]:
        with self._readable():
            return np.asarray(self._file.get_tensor(name))

    def text(self, name: str) -> str | None:
        return self._metadata.get(name)

    def keys(self) -> Iterator[str]:
        shape, dtype = self._shapes[KEYS]
        if dtype != np.uint8 or len(shape) != 1:
            raise MismatchError(f"{self.path}: {KEYS}: expected bytes (B,), a line of UTF-8 for each key, got {dtype} of shape {shape}")
        rest = b""
        for part in self.parts(KEYS, _BYTES_AT_ONCE):
            *lines, rest = (rest + part.tobytes()).split(b"\n")
            yield from map(self._key, lines)
        if rest:
            yield self._key(rest)

    def parts(self, name: str, rows: int) -> Iterator[NDArray[Any]]:
        with self._readable():
            tensor = self._file.get_slice(name)
            end = self._shapes[name][0][0]
            for start in range(0, end, rows):
                yield np.asarray(tensor[start : min(start + rows, end)])

    def _key(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise CorruptError(f"{self.path}: {KEYS}: expected UTF-8, got {line[:40]!r}") from None

    def _shape(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        tensor = self._file.get_slice(name)
        kind = tensor.get_dtype()
        if kind not in _TYPES:
            raise MismatchError(f"{self.path}: {name}: expected numbers of {', '.join(_TYPES)}, got {kind}. Convert them")
        return tuple(tensor.get_shape()), np.dtype(_TYPES[kind])

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except _package().SafetensorError as error:
            raise CorruptError(f"{self.path}: not a readable safetensors file: {error}") from None


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any] | StoredArray], about: str) -> None:
    """Write a safetensors file. Arrays that lie in files are mapped into memory. The same arrays give the same bytes."""
    with installed("formats"):
        from safetensors.numpy import save_file  # noqa: PLC0415  only this format needs it

    save_file({name: _mapped(array) for name, array in arrays.items()}, path, {ABOUT: about})


def _mapped(array: NDArray[Any] | StoredArray) -> NDArray[Any]:
    return np.memmap(array.path, array.dtype, "r", shape=array.shape) if isinstance(array, StoredArray) else array


def _package() -> Any:
    with installed("formats"):
        import safetensors  # noqa: PLC0415  only this format needs it
    return safetensors
