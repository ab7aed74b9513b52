"""Pickles of plain Python: None, booleans, numbers (also numpy's) and text in tuples, lists and dicts. Nothing else is decoded or run.

This is an interpreter of its own, as Python's would compute the hash of any key of a dict: that of a tuple in which each holds the one
before twice takes for ever, and that of very many tuples in one another ends the process.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from softlabel_codec.formats.numpy_stand_ins import PickledType, new_scalar

_MOST_TEXT = 63
_CONSTANTS: dict[int, Any] = {0x4E: None, 0x88: True, 0x89: False, 0x29: ()}
"""NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE."""
_NUMBERS = {0x4B: struct.Struct("<B"), 0x4D: struct.Struct("<H"), 0x4A: struct.Struct("<i")}
"""BININT1, BININT2, BININT."""
_FLOAT, _INT32 = struct.Struct(">d"), struct.Struct("<I")
_PROTOCOLS = (4, 5)
_FRAME_BYTES = 8
_BYTES_OF_NUMBERS = (1, 2, 4, 8)


class _Maker:
    """Stands in for a function or type of numpy."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


_MAKERS = {
    ("numpy._core.multiarray", "scalar"): _Maker(new_scalar),
    ("numpy.core.multiarray", "scalar"): _Maker(new_scalar),
    ("numpy", "dtype"): _Maker(PickledType),
}


def load_plain(data: bytes) -> Any:
    """Return what a pickle of protocol 4 or 5 holds; texts have at most 63 bytes; numbers of numpy become Python's.

    Raises
    ------
    pickle.UnpicklingError
        If it holds something else, is cut off, or is no pickle; or if keys of dicts are no text or integers.
    """
    try:
        value, end = _Interpreter(data).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # wrong orders of opcodes raise many types of errors
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
    if end != len(data):
        raise pickle.UnpicklingError("it holds more than one value")
    return value


class _Interpreter:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []

    def load(self) -> tuple[Any, int]:
        """Return the value, and where the pickle ends."""
        data, stack, memo, at = self._data, self._stack, self._memo, 0
        while True:
            code = data[at]
            at += 1
            if code == 0x94:  # MEMOIZE
                memo.append(stack[-1])
            elif code == 0x47:  # BINFLOAT
                stack.append(_FLOAT.unpack_from(data, at)[0])
                at += 8
            elif code in _NUMBERS:
                form = _NUMBERS[code]
                stack.append(form.unpack_from(data, at)[0])
                at += form.size
            elif code == 0x28:  # MARK
                self._marks.append(len(stack))
            elif code in _CONSTANTS:
                stack.append(_CONSTANTS[code])
            elif code in _SIMPLE:
                _SIMPLE[code](self)
            elif code == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif code == 0x6A:  # LONG_BINGET
                stack.append(memo[_INT32.unpack_from(data, at)[0]])
                at += 4
            elif code in (0x8C, 0x43):  # SHORT_BINUNICODE, SHORT_BINBYTES
                after = at + 1 + data[at]
                stack.append(self._text(data[at + 1 : after], data[at], is_text=code == 0x8C))
                at = after
            elif code == 0x95:  # FRAME
                at += _FRAME_BYTES
            elif code == 0x80 and data[at] in _PROTOCOLS:
                at += 1
            elif code == 0x2E:  # STOP
                if len(stack) != 1 or self._marks:
                    raise pickle.UnpicklingError("expected one value")
                return stack[0], at
            else:
                raise pickle.UnpicklingError("it holds more than numbers, text, lists, tuples and dicts")

    def _text(self, found: bytes, length: int, *, is_text: bool) -> str | bytes:
        if len(found) < length:
            raise pickle.UnpicklingError("it is cut off")
        if length > _MOST_TEXT or (not is_text and length not in _BYTES_OF_NUMBERS):
            raise pickle.UnpicklingError("it holds more than numbers, text, lists, tuples and dicts")
        return found.decode() if is_text else found

    def above_mark(self) -> list[Any]:
        start = self._marks.pop()
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def pop(self, number: int) -> list[Any]:
        """Return the last values, none of which is below a mark."""
        start = len(self._stack) - number
        if start < (self._marks[-1] if self._marks else 0):
            raise pickle.UnpicklingError("expected more values")
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise pickle.UnpicklingError("expected a list")
        self._stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if not all(type(key) in (str, int) for key in values[::2]):
            raise pickle.UnpicklingError("expected keys that are text or integers")
        if type(self._stack[-1]) is not dict:
            raise pickle.UnpicklingError("expected a dict")
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def find_maker(self) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str:
            raise pickle.UnpicklingError("expected the name of a function")
        if (module, name) not in _MAKERS:
            raise pickle.UnpicklingError(f"it requires {module}.{name}")
        self.push(_MAKERS[module, name])

    def reduce(self) -> None:
        maker, arguments = self.pop(2)
        if type(maker) is not _Maker or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it holds more than numbers, text, lists, tuples and dicts")
        self.push(maker.make(*arguments))

    def build(self) -> None:
        (state,) = self.pop(1)
        if type(self._stack[-1]) is not PickledType:
            raise pickle.UnpicklingError("it sets the state of something else than a type of numbers")
        self._stack[-1].__setstate__(state)


_SIMPLE: dict[int, Callable[[_Interpreter], None]] = {
    0x5D: lambda self: self.push([]),
    0x7D: lambda self: self.push({}),
    0x74: lambda self: self.push(tuple(self.above_mark())),
    0x85: lambda self: self.push(tuple(self.pop(1))),
    0x86: lambda self: self.push(tuple(self.pop(2))),
    0x87: lambda self: self.push(tuple(self.pop(3))),
    0x61: lambda self: self.extend(self.pop(1)),
    0x65: lambda self: self.extend(self.above_mark()),
    0x73: lambda self: self.set_items(self.pop(2)),
    0x75: lambda self: self.set_items(self.above_mark()),
    0x93: _Interpreter.find_maker,
    0x52: _Interpreter.reduce,
    0x62: _Interpreter.build,
}
"""EMPTY_LIST, EMPTY_DICT, TUPLE, TUPLE1 to TUPLE3, APPEND, APPENDS, SETITEM, SETITEMS, STACK_GLOBAL, REDUCE, BUILD."""
