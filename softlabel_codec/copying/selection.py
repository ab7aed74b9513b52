"""Which images are copied: by their keys, and by a share that their keys decide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.keys import decode_key
from softlabel_codec.checks.arguments import check_whole
from softlabel_codec.errors import ArgumentError


@dataclass(frozen=True)
class Selection:
    """Says which images are copied: those that fit everything that is given.

    Attributes
    ----------
    keys : frozenset of bytes or None
        Their keys, as UTF-8.
    pattern : re.Pattern or None
        What the whole key fits.
    share : float or None
        About which share of the images is wanted.
    seed : int
        Decides which ones these are.
    """

    keys: frozenset[bytes] | None = None
    pattern: re.Pattern[str] | None = None
    share: float | None = None
    seed: int = 0

    @classmethod
    def of(cls, keys: Iterable[str] | None, match: str | Sequence[str] | None, sample: float | None, seed: int) -> Selection:
        """Return the selection that the arguments of `copy_labels` describe."""
        wanted = None if keys is None else frozenset(map(_encoded, [keys] if isinstance(keys, str) else keys))
        patterns = [] if match is None else [match] if isinstance(match, str) else list(match)
        check_whole("seed", seed, 0)
        if sample is not None and not 0 < sample <= 1:
            raise ArgumentError(f"sample: expected a share of the images, above 0 and at most 1, got {sample!r}")
        return cls(wanted, re.compile("|".join(map(translate, patterns))) if patterns else None, sample, seed)

    @property
    def is_all(self) -> bool:
        """Whether every image is wanted."""
        return self.keys is None and self.pattern is None and self.share is None

    def wants(self, key: bytes) -> bool:
        """Return whether the image with this key is wanted; CorruptError if it is not UTF-8."""
        if self.keys is not None and key not in self.keys:
            return False
        if self.pattern is not None and not self.pattern.match(decode_key(key)):
            return False
        return self.share is None or place_in_sample(key, self.seed) < self.share * 2**64

    def of_keys(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return which images are wanted, by their keys, bool (n,)."""
        return np.fromiter(map(self.wants, keys), np.bool_, len(keys))


def place_in_sample(key: bytes, seed: int) -> int:
    """Return where a key stands among all: BLAKE2b with 8 bytes of seed, colon and key, as a big-endian integer.

    >>> place_in_sample(b"n01440764/tench.JPEG", 0) / 2**64 < 0.5
    False
    """
    return int.from_bytes(blake2b(b"%d:%b" % (seed, key), digest_size=8).digest(), "big")


def _encoded(key: object) -> bytes:
    if not isinstance(key, str):
        raise ArgumentError(f"keys: expected keys of type str, got {key!r}")
    return key.encode("utf-8", "surrogatepass")
