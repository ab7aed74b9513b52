"""The keys of a finished file, read a page at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.keys import decode_key
from softlabel_codec.container.files import Source, located
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
from softlabel_codec.container.key_sequence import KeySequence
from softlabel_codec.container.key_text import KeyText
from softlabel_codec.errors import CorruptError, FormatError
from softlabel_codec.sampler import stream_of_bytes

CACHED_PAGES = 64
CACHED_FIRST_KEYS = 2**14
PAGES_AT_ONCE = 64

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

    def get_all(self, pages: Sequence[int], read: Callable[[Sequence[int]], list[Found]]) -> list[Found]:
        """Return several pages, of which those that are not cached are read at once."""
        kept = self._kept
        missing = [page for page in pages if page not in kept]
        found = {**kept, **dict(zip(missing, read(missing), strict=True))} if missing else kept
        if missing:
            self._kept = found if len(found) <= self._size else dict(list(found.items())[-self._size :])
        return [found[page] for page in pages]


class Keys(KeySequence):
    """All keys of a file in file order.

    Looking up a key (`in`, `index`) is a binary search over pages of 512 keys. Nothing is held per image, except if crops are derived:
    4 bytes for each image whose crops were read.
    """

    def __init__(self, source: Source, trailer: Trailer) -> None:
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
        source.read_together(self._start, self._end)

    def __len__(self) -> int:
        return self._num_keys

    def at(self, number: int) -> str:
        return self._text(self._key(number))

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(map(self._texts, self._pages()))

    def read_ahead(self) -> None:
        """Read what any use of the keys begins with; of remote files that is all keys, if they are not too many."""
        self._located(self._page_table)

    def raw(self) -> Iterator[bytes]:
        """Yield all keys as UTF-8, in file order."""
        return chain.from_iterable(self._pages())

    def _pages(self) -> Iterator[KeyPage]:
        self._located(self._page_table)  # must be valid even if there are no pages
        numbers = range(num_pages(self._num_keys, True)[0])
        groups = (numbers[start : start + PAGES_AT_ONCE] for start in numbers[::PAGES_AT_ONCE])
        return chain.from_iterable(map(self._read_key_pages, groups))

    @property
    def ascend(self) -> bool:
        """Whether the file says that each key is above the one before."""
        return self._ascend

    def texts(self) -> Iterator[KeyText]:
        """Yield all keys in file order, some at a time."""
        return (page.text() for page in self._pages())

    def stored_page(self, page: int) -> tuple[bytes, KeyText]:
        """Return a page of keys as it is in the file, checked, and the keys that it holds."""
        return self._frames([page])[0][0], self._read_key_page(page).text()

    def stored_order(self) -> tuple[list[bytes], bytes, bytes]:
        """Return the pages of image numbers by key as they are in the file, checked, and the first and the last key in that order."""
        first, count = num_pages(self._num_keys, self._ascend)
        for page in range(count):
            self._read_order_page(page)
        frames = [frame for frame, _ in self._frames(range(first, first + count))]
        return frames, self._key(self._in_order(0)), self._key(self._in_order(self._num_keys - 1))

    def raw_in_order(self) -> Iterator[bytes]:
        """Yield all keys as UTF-8, in the order that binary search relies on."""
        return (self._key(self._in_order(place)) for place in range(self._num_keys))

    def ends(self) -> tuple[str, str] | tuple[None, None]:
        """Return the smallest and the largest key in the order of their UTF-8 bytes; None twice if there are no keys."""
        if not self._num_keys:
            return None, None
        return self._text(self._key(self._in_order(0))), self._text(self._key(self._in_order(self._num_keys - 1)))

    def find(self, key: str) -> int | None:
        wanted = key.encode("utf-8", "surrogatepass")
        low, high = self._bisect(wanted)
        if low == high:
            return None
        number = self._in_order(low)
        return number if self._key(number) == wanted else None

    def around(self, key: str, count: int) -> list[str]:
        place = self._bisect(key.encode("utf-8", "surrogatepass"))[0]
        low, high = max(0, place - count // 2), min(self._num_keys, place + count // 2)
        return [self[self._in_order(place)] for place in range(low, high)]

    def spread(self, count: int) -> list[str]:
        return self[:: max(1, self._num_keys // count)]

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
        missing = np.unique(pages[~self._has_streams[pages]]).tolist()
        for page, keys in zip(missing, self._key_pages.get_all(missing, self._read_key_pages), strict=True):
            first = page * KEYS_PER_PAGE
            self._streams[first : first + len(keys)] = [stream_of_bytes(keys[place]) for place in range(len(keys))]
            self._has_streams[page] = True
        return self._streams[numbers].astype(np.int64)

    def crop_stream(self, number: int) -> int:
        """Return the crop stream of one image."""
        if not self._has_streams[number // KEYS_PER_PAGE]:
            self.crop_streams(np.array([number]))
        return int(self._streams[number])

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
        return self._read_key_pages([page])[0]

    def _read_key_pages(self, pages: Sequence[int]) -> list[KeyPage]:
        return self._located(lambda: [self._unpacked(page, *frame) for page, frame in zip(pages, self._frames(pages), strict=True)])

    def _unpacked(self, page: int, frame: bytes, crc32: int) -> KeyPage:
        return KeyPage.unpack(frame, crc32, min(KEYS_PER_PAGE, self._num_keys - page * KEYS_PER_PAGE))

    def _read_order_page(self, page: int) -> NDArray[np.uint32]:
        count = min(ORDER_PER_PAGE, self._num_keys - page * ORDER_PER_PAGE)
        place = num_pages(self._num_keys, True)[0] + page
        return self._located(lambda: unpack_order_page(*self._frames([place])[0], count, self._num_keys))

    def _texts(self, keys: KeyPage) -> list[str]:
        return self._located(lambda: list(map(decode_key, keys)))

    def _text(self, key: bytes) -> str:
        return self._located(lambda: decode_key(key))

    def _located(self, read: Callable[[], Found]) -> Found:
        try:
            return read()
        except FormatError as error:
            raise located(error, self._source, f"keys at byte {self._start}") from None

    def _frames(self, pages: Sequence[int]) -> list[tuple[bytes, int]]:
        """Return the bytes and the checksums of pages."""
        chosen = self._page_table()[list(pages)]
        frames = self._source.read_many(self._page_starts[list(pages)].tolist(), chosen[:, 0].tolist())
        return list(zip(frames, chosen[:, 1].tolist(), strict=True))

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
