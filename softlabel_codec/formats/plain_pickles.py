"""Pickles of plain Python: None, booleans, numbers (also numpy's) and text in tuples, lists and dicts. Nothing else is decoded or run."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

from softlabel_codec.formats.numpy_stand_ins import PickledType, new_scalar

_TEXT = b"|".join(b"\\x8c\\x%02x.{%d}" % (length, length) for length in range(64))
_OPCODES = re.compile(
    rb"(?s:(?:G.{8}"  # a float
    rb"|K.|M..|J.{4}"  # integers
    rb"|[]()}N\x85-\x89\x94teaus]"  # MARK, empty and short containers, None, True, False, MEMOIZE, and what fills containers
    rb"|h.|j.{4}"  # what was memoized
    rb"|\x80[\x04\x05]|\x95.{8}"  # PROTO, FRAME
    rb"|[\x93Rb]|C[\x01\x02\x04\x08](?:(?<=\x01).|(?<=\x02)..|(?<=\x04).{4}|(?<=\x08).{8})"  # numbers of numpy: their type and bytes
    rb"|" + _TEXT + rb")+)"
)
_STOP = b"."


class _Maker:
    """Stands in for a function or type of numpy. No state can be set to it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")


_MAKERS = {
    ("numpy._core.multiarray", "scalar"): _Maker(new_scalar),
    ("numpy.core.multiarray", "scalar"): _Maker(new_scalar),
    ("numpy", "dtype"): _Maker(PickledType),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _MAKERS:
            raise pickle.UnpicklingError(f"it requires {module}.{name}")
        return _MAKERS[module, name]


def load_plain(data: bytes) -> Any:
    """Return what a pickle of protocol 4 or 5 holds; texts have at most 63 bytes; numbers of numpy become Python's.

    Raises
    ------
    pickle.UnpicklingError
        If it holds something else, is cut off, or is no pickle. Its opcodes are compared before any is carried out.
    """
    if _OPCODES.sub(b"", data) != _STOP:
        raise pickle.UnpicklingError("it holds more than numbers, text, lists, tuples and dicts")
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # wrong orders of opcodes raise many types of errors
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
