"""Replacements for numpy in pickles that accept plain arrays of numbers only.

Numpy's own types trust the state in a pickle: a flag in it turns bytes into pointers, so a file could crash the process or worse.
These types accept only the few states that numpy writes for plain arrays.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = ("b1", "f2", "f4", "f8", "i4", "i8")
_PLAIN = (None, None, None, -1, -1, 0)
"""No subarray, names, fields, size, alignment or flags."""


class PickledType:
    """Stands in for `numpy.dtype`."""

    def __init__(self, name: Any, *options: Any) -> None:
        if type(name) is not str or name not in _NAMES:
            raise pickle.UnpicklingError(f"expected numbers of a type among {', '.join(_NAMES)}, got {shown(name)}")
        self._name, self._order = name, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[:1] != (3,) or state[1:2] not in (("<",), (">",), ("|",)) or state[2:] != _PLAIN:
            raise pickle.UnpicklingError("expected a plain type of numbers")
        self._order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type itself."""
        found: np.dtype[Any] = np.dtype(self._order + self._name)
        return found


class PickledArray:
    """Stands in for `numpy.ndarray`."""

    array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("expected the state of an array")
        _, shape, kind, fortran, data = state
        if type(kind) is not PickledType or type(data) is not bytes or type(shape) is not tuple:
            raise pickle.UnpicklingError("expected shape, type and bytes of an array")
        if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * kind.dtype.itemsize != len(data):
            raise pickle.UnpicklingError("an array does not have as many bytes as its shape requires")
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


def _new_array(*arguments: Any) -> PickledArray:
    """Stand in for the function that makes pickled arrays."""
    return PickledArray()


def new_scalar(kind: Any, data: Any) -> Any:
    """Stand in for the function that makes pickled numbers of numpy."""
    if type(kind) is not PickledType or type(data) is not bytes or len(data) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("expected a number with as many bytes as its type has")
    return np.frombuffer(data, kind.dtype)[0].item()


def _encode(text: Any, encoding: Any = "utf-8", errors: Any = "strict") -> bytes:
    """Stand in for `_codecs.encode`, which pickled arrays call: text to bytes, and nothing else."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("expected text to be encoded as latin1")
    return text.encode("latin1")


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_new_array, "numpy.core.multiarray._reconstruct"),
    (_new_array, "numpy._core.multiarray._reconstruct"),
    (new_scalar, "numpy.core.multiarray.scalar"),
    (new_scalar, "numpy._core.multiarray.scalar"),
    (PickledArray, "numpy.ndarray"),
    (PickledType, "numpy.dtype"),
    (_encode, "_codecs.encode"),
]
"""The replacements, with the names that pickles use for the originals."""


def as_array(part: Any) -> NDArray[Any]:
    """Return a part of a pickle as an array: an array, a tensor, or a list of numbers; TypeError if it is something else.

    Lists in lists are refused: a few bytes, in which each holds the one before twice, would become any number of numbers.
    """
    found = part.array if isinstance(part, PickledArray) else part
    if isinstance(found, list | tuple) and all(isinstance(number, bool | int | float) for number in found):
        return np.array(found)
    if found is None or isinstance(found, list | tuple | dict | str | bytes):
        raise TypeError(f"got {type(found).__name__}")
    return np.asarray(found)


def shown(value: Any) -> str:
    """Return what a pickle or JSON holds for an error: a number or text, cut off, or else only its type.

    Text of lists would be as long as they claim to be.
    """
    if isinstance(value, int) and abs(value) >= 2**64:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    return value[:80] if isinstance(value, str) else type(value).__name__
