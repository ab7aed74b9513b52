"""The summary section: what is known only after the last block (spec/container-v1.md, section 7)."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from softlabel_codec.checks.limits import MAX_SUMMARY_BYTES
from softlabel_codec.container.framing import with_crc32, without_crc32
from softlabel_codec.container.msgpack_maps import Plain, pack_map, unpack_map
from softlabel_codec.errors import ArgumentError, CorruptError, LimitError

_SHA256 = re.compile("[0-9a-f]{64}")
_KEYS_AT_A_TIME = 512


def pack_summary(keys: Iterable[bytes], skipped_keys: Sequence[str]) -> bytes:
    """Return the summary section of a file with these keys; `skipped_keys` as `check_skipped_keys` returns them."""
    return pack_summary_of(keys_sha256(keys), skipped_keys)


def pack_summary_of(fingerprint: str, skipped_keys: Sequence[str]) -> bytes:
    """Return the summary section of a file whose keys have this fingerprint."""
    summary: Plain = {"keys_sha256": fingerprint}
    if skipped_keys:
        summary["skipped_keys"] = list(skipped_keys)
    return with_crc32(pack_map(summary, MAX_SUMMARY_BYTES))


def unpack_summary(data: bytes) -> Plain:
    """Return the map in a summary section, or raise a FormatError."""
    if len(data) > MAX_SUMMARY_BYTES + 4:
        raise LimitError(f"expected at most {MAX_SUMMARY_BYTES} bytes")
    summary = unpack_map(without_crc32(data, "summary"))
    fingerprint, skipped = summary.get("keys_sha256"), summary.get("skipped_keys", [])
    if not isinstance(fingerprint, str) or not _SHA256.fullmatch(fingerprint):
        raise CorruptError("keys_sha256: expected 64 lower-case hex digits")
    if not isinstance(skipped, list) or not all(isinstance(key, str) for key in skipped):
        raise CorruptError("skipped_keys: expected an array of str")
    return summary


def check_skipped_keys(skipped_keys: Iterable[str]) -> list[str]:
    """Return the keys of skipped images as a list; ArgumentError unless they are a sequence of valid Unicode strings."""
    keys = [] if isinstance(skipped_keys, str) else list(skipped_keys)
    if isinstance(skipped_keys, str) or not all(isinstance(key, str) for key in keys):
        raise ArgumentError(f"skipped_keys: expected a sequence of str, got {skipped_keys!r}")
    for key in keys:
        try:
            key.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"skipped_keys: {key!r} cannot be written as UTF-8") from None
    return keys


def keys_sha256(keys: Iterable[bytes]) -> str:
    """Return the fingerprint of keys in order: SHA-256 over each key's length (u32) and bytes."""
    digest = KeysDigest()
    remaining = iter(keys)
    while some := list(islice(remaining, _KEYS_AT_A_TIME)):
        digest.update(some)
    return digest.hexdigest()


class KeysDigest:
    """Computes the fingerprint of keys that come in parts."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, keys: Sequence[bytes]) -> None:
        """Take the next keys."""
        lengths = list(map(len, keys))
        prefixes = {length: struct.pack("<I", length) for length in set(lengths)}
        self.update_framed(b"".join(chain.from_iterable(zip(map(prefixes.__getitem__, lengths), keys, strict=True))))

    def update_framed(self, keys: bytes) -> None:
        """Take the next keys, each after its length."""
        self._sha256.update(keys)

    def hexdigest(self) -> str:
        """Return the fingerprint of all keys so far."""
        return self._sha256.hexdigest()
