"""Keys inside a block, each coded against the key before it (spec/container-v1.md, section 5.4)."""

from __future__ import annotations

from softlabel_codec.block.columns import get_varint, put_varint
from softlabel_codec.checks.limits import MAX_KEY_BYTES
from softlabel_codec.errors import CorruptError


def pack_keys(keys: list[str]) -> bytes:
    """Return the bytes of the keys of a block."""
    out = []
    before = b""
    for key in keys:
        now = key.encode()
        prefix = _shared(before, now)
        suffix = _shared(before[prefix:][::-1], now[prefix:][::-1])
        middle = now[prefix : len(now) - suffix]
        out.append(put_varint(prefix) + put_varint(suffix) + put_varint(len(middle)) + middle)
        before = now
    return b"".join(out)


def unpack_keys(data: bytes, num_keys: int) -> list[str]:
    """Return the keys in `data`, which must hold exactly `num_keys` of them; else CorruptError."""
    keys = []
    before = b""
    at = 0
    for _ in range(num_keys):
        prefix, at = get_varint(data, at)
        suffix, at = get_varint(data, at)
        middle, at = get_varint(data, at)
        if prefix + suffix > len(before) or at + middle > len(data) or not 1 <= prefix + middle + suffix <= MAX_KEY_BYTES:
            raise CorruptError("a key in the block does not fit")
        before = before[:prefix] + data[at : at + middle] + before[len(before) - suffix :]
        at += middle
        keys.append(decode_key(before))
    if at != len(data):
        raise CorruptError(f"expected the block to end after its keys, got {len(data) - at} bytes more")
    return keys


def _shared(first: bytes, second: bytes) -> int:
    """Return how many leading bytes are the same."""
    shared = 0
    for mine, theirs in zip(first, second, strict=False):
        if mine != theirs:
            break
        shared += 1
    return shared


def decode_key(data: bytes) -> str:
    """Return the text of a key; CorruptError if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"a key is not UTF-8: {error}") from None
