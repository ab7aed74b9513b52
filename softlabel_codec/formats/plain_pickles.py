"""Pickles of plain Python: None, booleans, numbers and text in tuples, lists and dicts. Nothing else is decoded, so nothing can be run."""

from __future__ import annotations

import pickle
import re
from typing import Any

_TEXT = b"|".join(b"\\x8c\\x%02x.{%d}" % (length, length) for length in range(64))
_OPCODES = re.compile(
    rb"(?s:(?:G.{8}"  # a float
    rb"|K.|M..|J.{4}"  # integers
    rb"|[]()}N\x85-\x89\x94teaus]"  # MARK, empty and short containers, None, True, False, MEMOIZE, and what fills containers
    rb"|h.|j.{4}"  # what was memoized
    rb"|\x80[\x04\x05]|\x95.{8}"  # PROTO, FRAME
    rb"|" + _TEXT + rb")+)"
)
_STOP = b"."


def load_plain(data: bytes) -> Any:
    """Return what a pickle of protocol 4 or 5 holds; texts have at most 63 bytes.

    Raises
    ------
    pickle.UnpicklingError
        If it holds something else than plain Python, is cut off, or is no pickle. Its opcodes are compared before any is carried out.
    """
    if _OPCODES.sub(b"", data) != _STOP:
        raise pickle.UnpicklingError("it holds more than numbers, text, lists, tuples and dicts")
    try:
        return pickle.loads(data)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # wrong orders of opcodes raise many types of errors
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
