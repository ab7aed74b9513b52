"""The keys of a finished file, read a page at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.keys import decode_key
from softlabel_codec.container.files import FileSource, located
from softlabel_codec.container.framing import (
    CRC,
    KEYS_ASCEND,
    KEYS_PER_PAGE,
    ORDER_PER_PAGE,
    KeyPage,
    Trailer,
    num_pages,
    unpack_order_page,
    without_crc32,
)
from softlabel_codec.container.key_text import KeyText
from softlabel_codec.errors import CorruptError, FormatError
from softlabel_codec.sampler import stream_of_bytes

CACHED_PAGES = 64
CACHED_FIRST_KEYS = 2**14

Found = TypeVar("Found")


class _Recent:
    """A cache of the pages read last.

    (An `lru_cache` of a method would be part of a reference cycle, which would keep the file of an unclosed reader open.)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[int, Any] = {}

    def get(self, page: int, read: Callable[[int], Found]) -> Found:
        """Return a cached page, or read and cache it; all others are dropped when there are too many. Threads may call this."""
        found: Found | None = self._kept.get(page)
        if found is None:
            found = read(page)
            if len(self._kept) >= self._size:
                self._kept = {}
            self._kept[page] = found
        return found


class Keys(Sequence[str]):
    """All keys of a file in file order, as a sequence that reads what it needs.

    Looking up a key (`in`, `index`) is a binary search over pages of 512 keys. Nothing is held per image, except if crops are derived:
    4 bytes for each image whose crops were read.
    """

    def __init__(self, source: FileSource, trailer: Trailer) -> None:
        self._source = source
        self._num_keys = trailer.num_images
        self._ascend = bool(trailer.flags & KEYS_ASCEND)
        self._start, self._end = trailer.keys_offset, trailer.summary_offset
        self._table: NDArray[np.uint32] | None = None
        self._page_starts = np.zeros(0, np.int64)
        self._streams = np.zeros(self._num_keys, np.uint32)
        self._has_streams = np.zeros(num_pages(self._num_keys, True)[0], np.bool_)
        self._key_pages = _Recent(CACHED_PAGES)
        self._first_keys = _Recent(CACHED_FIRST_KEYS)
        self._order_pages = _Recent(CACHED_PAGES)

    def __len__(self) -> int:
        return self._num_keys

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(self._num_keys))]
        number = place + self._num_keys if place < 0 else place
        if not 0 <= number < self._num_keys:
            raise IndexError(f"image number: expected {-self._num_keys} to {self._num_keys - 1}, got {place}")
        return self._text(self._key(number))

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(map(self._texts, self._pages()))

    def raw(self) -> Iterator[bytes]:
        """Yield all keys as UTF-8, in file order."""
        return chain.from_iterable(self._pages())

    def _pages(self) -> Iterator[KeyPage]:
        self._located(self._page_table)  # must be valid even if there are no pages
        return map(self._read_key_page, range(num_pages(self._num_keys, True)[0]))

    @property
    def ascend(self) -> bool:
        """Whether the file says that each key is above the one before."""
        return self._ascend

    def texts(self) -> Iterator[KeyText]:
        """Yield all keys in file order, some at a time."""
        return (page.text() for page in self._pages())

    def stored_page(self, page: int) -> tuple[bytes, KeyText]:
        """Return a page of keys as it is in the file, checked, and the keys that it holds."""
        return self._frame(page)[0], self._read_key_page(page).text()

    def raw_in_order(self) -> Iterator[bytes]:
        """Yield all keys as UTF-8, in the order that binary search relies on."""
        return (self._key(self._in_order(place)) for place in range(self._num_keys))

    def ends(self) -> tuple[str, str] | tuple[None, None]:
        """Return the smallest and the largest key in the order of their UTF-8 bytes; None twice if there are no keys."""
        if not self._num_keys:
            return None, None
        return self._text(self._key(self._in_order(0))), self._text(self._key(self._in_order(self._num_keys - 1)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.find(key) is not None

    def index(self, key: str, start: int = 0, stop: int | None = None) -> int:
        """Return the number of the image with that key; ValueError if there is none in the range, as for a list."""
        number = self.find(key)
        if number is None or not start <= number < (self._num_keys if stop is None else stop):
            raise ValueError(f"{key!r} is not among the keys")
        return number

    def find(self, key: str) -> int | None:
        """Return the number of the image with that key, or None."""
        wanted = key.encode("utf-8", "surrogatepass")
        low, high = self._bisect(wanted)
        if low == high:
            return None
        number = self._in_order(low)
        return number if self._key(number) == wanted else None

    def around(self, key: str, count: int) -> list[str]:
        """Return about so many keys that stand next to a key, which need not be there, in the order of keys."""
        place = self._bisect(key.encode("utf-8", "surrogatepass"))[0]
        low, high = max(0, place - count // 2), min(self._num_keys, place + count // 2)
        return [self[self._in_order(place)] for place in range(low, high)]

    def _bisect(self, wanted: bytes) -> tuple[int, int]:
        """Return the place in order of the first key that is not less, and the end of the range that was searched."""
        low, high = self._page_of(wanted) if self._ascend else (0, self._num_keys)
        return bisect_left(range(high), wanted, low, key=lambda place: self._key(self._in_order(place))), high

    def _page_of(self, key: bytes) -> tuple[int, int]:
        """Return the range of image numbers in which a key must be, if keys ascend: that of one page."""
        page = max(0, bisect_right(range(num_pages(self._num_keys, True)[0]), key, key=self._first_key) - 1)
        return page * KEYS_PER_PAGE, min(page * KEYS_PER_PAGE + KEYS_PER_PAGE, self._num_keys)

    def crop_streams(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the crop streams (see `softlabel_codec.sampler`) of images; those of a page are computed when one is first requested."""
        pages = numbers // KEYS_PER_PAGE
        for page in np.unique(pages[~self._has_streams[pages]]).tolist():
            keys = self._key_page(page)
            first = page * KEYS_PER_PAGE
            self._streams[first : first + len(keys)] = [stream_of_bytes(keys[place]) for place in range(len(keys))]
            self._has_streams[page] = True
        return self._streams[numbers].astype(np.int64)

    def crop_stream(self, number: int) -> int:
        """Return the crop stream of one image."""
        if not self._has_streams[number // KEYS_PER_PAGE]:
            self.crop_streams(np.array([number]))
        return int(self._streams[number])

    def __repr__(self) -> str:
        return f"<{self._num_keys} keys>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        return list, (list(self),)

    def _key(self, number: int) -> bytes:
        return self._key_page(number // KEYS_PER_PAGE)[number % KEYS_PER_PAGE]

    def _in_order(self, place: int) -> int:
        if self._ascend:
            return place
        return int(self._order_page(place // ORDER_PER_PAGE)[place % ORDER_PER_PAGE])

    def _key_page(self, page: int) -> KeyPage:
        return self._key_pages.get(page, self._read_key_page)

    def _first_key(self, page: int) -> bytes:
        return self._first_keys.get(page, lambda page: self._key_page(page)[0])

    def _order_page(self, page: int) -> NDArray[np.uint32]:
        return self._order_pages.get(page, self._read_order_page)

    def _read_key_page(self, page: int) -> KeyPage:
        count = min(KEYS_PER_PAGE, self._num_keys - page * KEYS_PER_PAGE)
        return self._located(lambda: KeyPage.unpack(*self._frame(page), count))

    def _read_order_page(self, page: int) -> NDArray[np.uint32]:
        count = min(ORDER_PER_PAGE, self._num_keys - page * ORDER_PER_PAGE)
        place = num_pages(self._num_keys, True)[0] + page
        return self._located(lambda: unpack_order_page(*self._frame(place), count, self._num_keys))

    def _texts(self, keys: KeyPage) -> list[str]:
        return self._located(lambda: list(map(decode_key, keys)))

    def _text(self, key: bytes) -> str:
        return self._located(lambda: decode_key(key))

    def _located(self, read: Callable[[], Found]) -> Found:
        try:
            return read()
        except FormatError as error:
            raise located(error, self._source, f"keys at byte {self._start}") from None

    def _frame(self, page: int) -> tuple[bytes, int]:
        length, crc32 = self._page_table()[page].tolist()
        return self._source.read_at(int(self._page_starts[page]), length), crc32

    def _page_table(self) -> NDArray[np.uint32]:
        if self._table is None:
            self._table = self._read_table()
        return self._table

    def _read_table(self) -> NDArray[np.uint32]:
        pages = sum(num_pages(self._num_keys, self._ascend))
        table_end = self._start + CRC.size + 8 * pages
        if table_end > self._end:
            raise CorruptError("the section is shorter than its page table")
        data = without_crc32(self._source.read_at(self._start, table_end - self._start), "page table")
        table = np.frombuffer(data, "<u4").reshape(-1, 2)
        ends = table_end + np.cumsum(table[:, 0], dtype=np.int64)
        if (int(ends[-1]) if pages else table_end) != self._end:
            raise CorruptError("the pages do not fill the section")
        self._page_starts = ends - table[:, 0]
        return table


def key_order(keys: Sequence[bytes]) -> NDArray[np.uint32] | None:
    """Return image numbers in ascending order of their keys, or None if the keys already ascend."""
    if all(before < after for before, after in pairwise(keys)):
        return None
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.uint32)
