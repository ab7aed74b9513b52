"""The only module that imports msgpack: maps of plain values to bytes and back (spec/container-v1.md, section 1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import numpy as np

from softlabel_codec.checks.limits import MAX_MSGPACK_DEPTH
from softlabel_codec.errors import ArgumentError, CorruptError, LimitError

Plain = dict[str, Any]


def pack_map(values: Mapping[str, Any], max_bytes: int) -> bytes:
    """Return `values` as msgpack.

    Raises
    ------
    ArgumentError
        If a value is not made of None, bool, int, finite float, str, list and dict with str keys.
    LimitError
        If the result is longer than `max_bytes`.
    """
    packed: bytes = msgpack.packb(_to_plain(values, "", 1), use_bin_type=True)
    if len(packed) > max_bytes:
        raise LimitError(f"metadata: expected at most {max_bytes} bytes, got {len(packed)}")
    return packed


def unpack_map(data: bytes) -> Plain:
    """Return the map that `data` holds; CorruptError if it is not a map, holds a key twice or is nested too deeply."""
    try:
        values = msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=_distinct_keys, ext_hook=_no_extension)
    except msgpack.StackError:
        raise CorruptError(f"nested deeper than {MAX_MSGPACK_DEPTH}") from None
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptError(f"expected a msgpack map: {error}") from None
    if not isinstance(values, dict):
        raise CorruptError(f"expected a msgpack map, got {type(values).__name__}")
    try:
        return dict(_to_plain(values, "", 1))
    except (ArgumentError, LimitError) as error:
        raise CorruptError(str(error)) from None


def _to_plain(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _checked(value, -(2**63) <= value < 2**64, where, "an integer of at most 64 bits")
    if isinstance(value, float):
        return _checked(value, math.isfinite(value), where, "a finite number")
    if isinstance(value, str):
        return _checked(value, _is_utf8(value), where, "text that can be encoded as UTF-8")
    if depth > MAX_MSGPACK_DEPTH:
        raise LimitError(f"{where}: nested deeper than {MAX_MSGPACK_DEPTH}")
    if isinstance(value, list | tuple):
        return [_to_plain(item, f"{where}[{place}]", depth + 1) for place, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(key, where): _to_plain(item, f"{where}[{key!r}]" if where else str(key), depth + 1) for key, item in value.items()}
    raise ArgumentError(f"{where}: expected None, bool, int, float, str, list or dict, got {type(value).__name__}")


def _checked(value: Any, good: bool, where: str, expected: str) -> Any:
    if not good:
        raise ArgumentError(f"{where}: expected {expected}, got {value!r}")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str) or not _is_utf8(key):
        raise ArgumentError(f"{where or 'metadata'}: expected keys of type str, got {key!r}")
    return key


def _distinct_keys(found: Iterable[tuple[Any, Any]]) -> Plain:
    pairs = list(found)  # msgpack's pure Python passes an iterator
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a map holds a key twice")
    return result


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not allowed")
