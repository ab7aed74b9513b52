"""Pickles of plain arrays, read without executing them.

A pickle is a program. This module follows the few instructions that `torch.save` needs for lists of numbers, arrays and tensors, and
makes plain values of them: it imports nothing, calls nothing that a file names, and takes at most about three times the memory of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError

_MOST_STEPS = 2**20
_TYPES = ("b1", "f2", "f4", "f8", "i4", "i8")
_PLAIN = (None, None, None, -1, -1, 0)
"""State of a numpy type after its version and byte order: no subarray, names, fields, size, alignment or flags."""
_MARK = object()
_STORAGES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "BoolStorage": "|b1",
}


class _Name(str):
    """A name that a pickle refers to: `module.name`."""


@dataclass
class _Type:
    """A type of numbers of numpy."""

    name: str
    order: str = "="

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[:1] != (3,) or state[1:2] not in (("<",), (">",), ("|",)) or state[2:] != _PLAIN:
            raise CorruptError("expected a plain type of numbers")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


class _Array:
    """An array of numpy, which gets its contents by its state."""

    array: NDArray[Any] | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise CorruptError("expected the state of an array")
        _, shape, kind, fortran, data = state
        if type(kind) is not _Type or type(data) is not bytes or not _is_shape(shape):
            raise CorruptError("expected shape, type and bytes of an array")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise CorruptError("an array does not have as many bytes as its shape requires")
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran is True else "C")


class _Storage(NamedTuple):
    """Numbers of tensors: a member of the archive."""

    dtype: np.dtype[Any]
    key: str
    size: int


class Pickle:
    """One of the pickles in a file.

    Parameters
    ----------
    data : bytes
        The file.
    members : mapping of str to bytes, optional
        The members of its archive, in which tensors have their numbers.
    """

    def __init__(self, data: bytes, members: Mapping[str, bytes] | None = None) -> None:
        self._data, self._members = data, members
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0

    def load(self, at: int = 0) -> tuple[Any, int]:
        """Return the value of the pickle that begins at a place, and where it ends.

        Raises
        ------
        CorruptError
            If it is damaged, or needs anything that plain arrays do not.
        """
        data, end, stack, memo = self._data, len(self._data), self._stack, self._memo
        stack.clear()
        memo.clear()
        try:
            for _ in range(_MOST_STEPS):
                code = data[at]
                at += 1
                if code == 0x71:  # BINPUT
                    memo[data[at]] = stack[-1]
                    at += 1
                elif code == 0x68:  # BINGET
                    stack.append(memo[data[at]])
                    at += 1
                elif code == 0x4B:  # BININT1
                    stack.append(data[at])
                    at += 1
                elif code in _CONSTANTS:
                    stack.append(_CONSTANTS[code])
                elif code == 0x58:  # BINUNICODE
                    after = at + 4 + int.from_bytes(data[at : at + 4], "little")
                    if after > end:
                        raise CorruptError("a text is longer than the file")
                    stack.append(data[at + 4 : after].decode("utf-8", "surrogatepass"))
                    at = after
                elif code == 0x63:  # GLOBAL
                    middle = data.index(b"\n", at, at + 256)
                    after = data.index(b"\n", middle + 1, middle + 256)
                    stack.append(_Name(f"{data[at:middle].decode()}.{data[middle + 1 : after].decode()}"))
                    at = after + 1
                elif code == 0x2E:  # STOP
                    if len(stack) != 1:
                        raise CorruptError("expected one value")
                    return stack[0], at
                elif code in _SIMPLE:
                    _SIMPLE[code](self)
                elif code in _NUMBERS:
                    form, use = _NUMBERS[code]
                    use(self, form.unpack_from(data, at)[0])
                    at += form.size
                elif code == 0x8A:  # LONG1
                    after = at + 1 + data[at]
                    stack.append(int.from_bytes(data[at + 1 : after], "little", signed=True))
                    at = after
                else:
                    raise CorruptError(f"it contains more than arrays (instruction {code:#04x} at byte {at - 1})")
        except (IndexError, KeyError, ValueError, TypeError, struct.error, RecursionError) as error:
            raise CorruptError(f"a damaged pickle: at byte {at}: {type(error).__name__}: {error}") from None
        raise CorruptError(f"a pickle of more than {_MOST_STEPS} instructions")

    def _above_mark(self) -> list[Any]:
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise CorruptError("a damaged pickle: expected a mark")
        found = stack[place + 1 :]
        del stack[place:]
        return found

    def _tuple(self, length: int | None) -> None:
        if length is None:
            self._stack.append(tuple(self._above_mark()))
            return
        if len(self._stack) < length:
            raise CorruptError("a damaged pickle: expected more values")
        values = tuple(self._stack[-length:])
        del self._stack[-length:]
        self._stack.append(values)

    def _append(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise CorruptError("expected a list")
        self._stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or len(values) % 2 or not all(type(key) in (str, int) for key in values[::2]):
            raise CorruptError("expected a dictionary with names")
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def _reduce(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if type(name) is not _Name or type(arguments) is not tuple:
            raise CorruptError("it contains more than arrays")
        make = _MAKERS.get(name)
        if make is None:
            raise CorruptError(f"it requires {name}")
        self._stack.append(make(self, *arguments))

    def _build(self) -> None:
        state, value = self._stack.pop(), self._stack[-1]
        if type(value) not in (_Type, _Array):
            raise CorruptError("it contains more than arrays")
        value.set_state(state)

    def _storage(self) -> None:
        """Push the storage that a persistent id names."""
        if self._members is None:
            raise CorruptError("a tensor in a file of torch before 1.6; save it again with a newer one")
        kind, name, key, _, size = self._stack.pop()
        dtype = _STORAGES.get(name.removeprefix("torch.")) if type(name) is _Name else None
        if kind != "storage" or dtype is None or type(key) is not str or type(size) is not int:
            raise CorruptError(f"it requires {name}" if type(name) is _Name else "expected the storage of a tensor")
        self._stack.append(_Storage(np.dtype(dtype), key, size))

    def _encode(self, text: Any, encoding: Any = "utf-8") -> bytes:
        """Return what `_codecs.encode` returns, which pickled arrays need: text as bytes, no text twice."""
        if type(text) is not str or encoding != "latin1":
            raise CorruptError("expected text to be encoded as latin1")
        self._encoded += len(text)
        if self._encoded > len(self._data):
            raise CorruptError("it encodes a text more than once")
        return text.encode("latin1")

    def _new_array(self, kind: Any, *arguments: Any) -> _Array:
        if type(kind) is not _Name or kind != "numpy.ndarray":
            raise CorruptError(f"it requires {kind}" if type(kind) is _Name else "expected an array")
        return _Array()

    def _new_type(self, name: Any, *options: Any) -> _Type:
        if type(name) is not str or name not in _TYPES:
            got = name[:20] if type(name) is str else type(name).__name__
            raise CorruptError(f"expected numbers of a type among {', '.join(_TYPES)}, got {got}")
        return _Type(name)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *options: Any) -> NDArray[Any]:
        """Return a tensor as an array of at most as many numbers as its storage has."""
        if type(storage) is not _Storage or not _is_shape((offset,)) or not _is_shape(shape) or not _is_shape(strides):
            raise CorruptError("expected storage, offset, shape and strides of a tensor")
        assert self._members is not None  # there is a storage
        if self._members.get("byteorder", b"little") != b"little":
            raise CorruptError("its tensors are not little-endian")
        data, count = self._members.get(f"data/{storage.key}", b""), math.prod(shape)
        if len(data) != storage.size * storage.dtype.itemsize:
            raise CorruptError(f"expected {storage.size} numbers of tensors in member data/{storage.key}, got {len(data)} bytes")
        if len(strides) != len(shape) or count > storage.size:
            raise CorruptError("a tensor claims more numbers than the file holds")
        numbers = np.frombuffer(data, storage.dtype)
        if not count:
            return np.zeros(shape, storage.dtype)
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if last >= storage.size:
            raise CorruptError("a tensor claims more numbers than the file holds")
        in_bytes = [stride * storage.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(numbers[offset:], shape, in_bytes, writeable=False)


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and len(shape) <= 32 and all(type(side) is int and 0 <= side < 2**62 for side in shape)


_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False, 0x28: _MARK, 0x29: ()}
_SIMPLE: dict[int, Callable[[Pickle], None]] = {
    0x5D: lambda self: self._stack.append([]),
    0x7D: lambda self: self._stack.append({}),
    0x74: lambda self: self._tuple(None),
    0x85: lambda self: self._tuple(1),
    0x86: lambda self: self._tuple(2),
    0x87: lambda self: self._tuple(3),
    0x52: Pickle._reduce,
    0x62: Pickle._build,
    0x51: Pickle._storage,
    0x65: lambda self: self._append(self._above_mark()),
    0x61: lambda self: self._append([self._stack.pop()]),
    0x75: lambda self: self._set_items(self._above_mark()),
    0x73: lambda self: self._set_items([self._stack.pop(-2), self._stack.pop()]),
}
"""EMPTY_LIST, EMPTY_DICT, TUPLE, TUPLE1 to TUPLE3, REDUCE, BUILD, BINPERSID, APPENDS, APPEND, SETITEMS, SETITEM."""


def _ignore(self: Pickle, value: int) -> None:
    if value != 2:
        raise CorruptError(f"a pickle of protocol {value}: torch.save writes 2")


def _put(self: Pickle, place: int) -> None:
    self._memo[place] = self._stack[-1]


_NUMBERS: dict[int, tuple[struct.Struct, Callable[[Pickle, Any], None]]] = {
    0x80: (struct.Struct("<B"), _ignore),
    0x4A: (struct.Struct("<i"), lambda self, value: self._stack.append(value)),
    0x4D: (struct.Struct("<H"), lambda self, value: self._stack.append(value)),
    0x47: (struct.Struct(">d"), lambda self, value: self._stack.append(value)),
    0x72: (struct.Struct("<I"), _put),
    0x6A: (struct.Struct("<I"), lambda self, place: self._stack.append(self._memo[place])),
}
"""PROTO, BININT, BININT2, BINFLOAT, LONG_BINPUT, LONG_BINGET."""
_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": Pickle._new_array,
    "numpy._core.multiarray._reconstruct": Pickle._new_array,
    "numpy.dtype": Pickle._new_type,
    "_codecs.encode": Pickle._encode,
    "torch._utils._rebuild_tensor_v2": Pickle._tensor,
    "collections.OrderedDict": lambda self: {},
}


def _is_number(value: Any) -> bool:
    return type(value) in (bool, float) or (type(value) is int and -(2**63) <= value < 2**63)


def as_array(part: Any) -> NDArray[Any]:
    """Return a part of a pickle as an array: an array, a tensor, or a list of numbers; CorruptError if it is something else."""
    if isinstance(part, np.ndarray):
        return part
    if type(part) is _Array and part.array is not None:
        return part.array
    if type(part) in (list, tuple) and part and all(map(_is_number, part)):
        return np.array(part)
    raise CorruptError(f"expected arrays of crops, flips and labels, got {type(part).__name__.strip('_')}")
