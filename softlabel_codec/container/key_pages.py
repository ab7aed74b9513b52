"""The keys of a file that is put together from others: pages of them, kept as the other file has them where they hold the same keys.

The order of keys that do not ascend is kept, too, if they are those of one file.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from softlabel_codec.container.framing import KEYS_PER_PAGE, KeyPage, join_key_pages, pack_key_page
from softlabel_codec.container.key_text import KeyText
from softlabel_codec.container.keys import Keys, key_order
from softlabel_codec.container.summary import KeysDigest
from softlabel_codec.errors import MismatchError

_TABLE_ENTRY_BYTES = 8


class KeysSection(NamedTuple):
    """The keys section of a file.

    Attributes
    ----------
    data : bytes
        The section.
    ascend : bool
        Whether the keys ascend, so that it holds no image numbers by key.
    first, last : bytes or None
        The smallest and the largest key; None if there are none.
    """

    data: bytes
    ascend: bool
    first: bytes | None
    last: bytes | None


class KeyPages:
    """Collects keys in file order, and holds them in compressed pages.

    Parameters
    ----------
    fast : bool
        Compress pages less, in a small part of the time.

    Attributes
    ----------
    num_keys : int
        Number of keys so far.
    digest : KeysDigest
        Fingerprint of the keys so far.
    """

    def __init__(self, *, fast: bool) -> None:
        self.num_keys = 0
        self.digest = KeysDigest()
        self._fast = fast
        self._pages: list[bytes] = []
        self._page_bytes = 0
        self._waiting: list[KeyText] = []
        self._num_waiting = 0
        self._waiting_page: bytes | None = None
        self._first = self._last = b""
        self._ascend = True
        self._order: list[bytes] = []

    @property
    def num_bytes(self) -> int:
        """About how many bytes the section has so far; not less."""
        return self._page_bytes + sum(len(part.text) + 2 * len(part) for part in self._waiting)

    def add_from(self, keys: Keys, first: int, end: int) -> None:
        """Add the keys of a file from one image number up to another."""
        are_all = not self.num_keys and not first and end == len(keys)
        for page in range(first // KEYS_PER_PAGE, -(-end // KEYS_PER_PAGE)):
            start = page * KEYS_PER_PAGE
            stored, found = keys.stored_page(page)
            if first <= start and start + len(found) <= end and not self._waiting:
                self._take(found, stored, known_to_ascend=keys.ascend)
            else:
                self._take(found.part(max(0, first - start), min(len(found), end - start)), None, known_to_ascend=keys.ascend)
        self._order = []
        if are_all and not (self._ascend or keys.ascend):
            self._order, self._first, self._last = keys.stored_order()

    def add(self, keys: Sequence[bytes]) -> None:
        """Add keys that come from no file, at most a page of them."""
        self._order = []
        self._take(KeyText.of(keys), None, known_to_ascend=False)

    def _take(self, keys: KeyText, stored: bytes | None, *, known_to_ascend: bool) -> None:
        """Add at most a page of keys, which may be stored as a page already, if no others wait for theirs to be full."""
        self.digest.update_framed(keys.with_lengths())
        first = keys.first()
        self._ascend = self._ascend and (not self.num_keys or self._last < first) and (known_to_ascend or keys.ascend())
        self._first, self._last = self._first if self.num_keys else first, keys.last()
        self.num_keys += len(keys)
        self._waiting.append(keys)
        self._num_waiting += len(keys)
        self._waiting_page = stored
        if self._num_waiting >= KEYS_PER_PAGE:
            waiting = KeyText.join(self._waiting)
            self._put(waiting.part(0, KEYS_PER_PAGE))
            self._num_waiting = len(waiting) - KEYS_PER_PAGE
            self._waiting = [waiting.part(KEYS_PER_PAGE, len(waiting))] if self._num_waiting else []

    def _put(self, keys: KeyText) -> None:
        page = self._waiting_page or pack_key_page(keys, fast=self._fast)
        self._pages.append(page)
        self._page_bytes += len(page) + _TABLE_ENTRY_BYTES
        self._waiting_page = None

    def finish(self) -> KeysSection:
        """Return the section; MismatchError if a key was added twice."""
        if self._waiting:
            self._put(KeyText.join(self._waiting))
            self._waiting = []
        if not self.num_keys:
            return KeysSection(join_key_pages([], None), True, None, None)
        if self._ascend or self._order:
            return KeysSection(join_key_pages([*self._pages, *self._order], None), self._ascend, self._first, self._last)
        keys = self._all()
        order = key_order(keys)
        numbers = range(len(keys)) if order is None else order.tolist()
        twice = next((keys[number] for number, following in pairwise(numbers) if keys[number] == keys[following]), None)
        if twice is not None:
            raise MismatchError(f"key {twice.decode(errors='replace')!r}: expected it once, got it twice")
        return KeysSection(join_key_pages(self._pages, order), order is None, keys[numbers[0]], keys[numbers[-1]])

    def _all(self) -> list[bytes]:
        counts = [min(KEYS_PER_PAGE, self.num_keys - place * KEYS_PER_PAGE) for place in range(len(self._pages))]
        return [key for page, count in zip(self._pages, counts, strict=True) for key in KeyPage.unpack(page, zlib.crc32(page), count)]
