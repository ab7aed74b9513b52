"""`RemoteSource`: a file behind a URL, open for positioned reads."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from softlabel_codec.errors import StateError, TruncatedError
from softlabel_codec.storage.location import Url
from softlabel_codec.storage.objects import remote_object
from softlabel_codec.storage.ranges import ALL, Part, Range, RangesIgnoredError

logger = logging.getLogger(__name__)

BEGINNING_BYTES, END_BYTES = 2**16, 2**18
"""How much of the beginning and the end is read when a file is opened."""
GAP_BYTES = 2**18
"""Ranges that are no farther apart are one request."""
REQUEST_BYTES = 2**23
"""Longer ranges are divided into several requests."""
TOGETHER_BYTES = 2**23
"""Sections up to this size are read as one when a part is needed."""
FIRST_AHEAD_BYTES = 2**16
WHOLE_BYTES = 2**30
"""Largest file that is kept in memory if its server ignores ranges."""


class _Held(NamedTuple):
    """Bytes that are in memory."""

    start: int
    data: bytes

    def cut(self, start: int, stop: int) -> bytes | None:
        """Return a range; None if not all of it is here."""
        first = start - self.start
        return self.data[first : stop - self.start] if first >= 0 and stop <= self.start + len(self.data) else None


class RemoteSource:
    """A file behind a URL, open for positioned reads, with the interface of `FileSource`.

    Opening takes two requests at once, for the beginning and the end of the file, or three for schemes other than S3 and HTTP.
    Nothing but their bytes and the version (ETag) is kept: each process has a client of its own, made when it first reads, so that threads
    and forked processes may share a source.

    Parameters
    ----------
    url : Url
        The file.

    Raises
    ------
    OSError
        If it cannot be opened.
    """

    also = ""

    def __init__(self, url: Url) -> None:
        self.path = url
        self._object = remote_object(url)
        self._together: list[Range] = []
        self._ahead, self._next, self._ahead_bytes = _Held(0, b""), -1, FIRST_AHEAD_BYTES
        self._closed = False
        try:
            beginning, end = self._object.get([Range(0, BEGINNING_BYTES), Range(-END_BYTES, None)])
        except RangesIgnoredError:
            beginning = end = self._whole()
        if not end.length:  # of an empty file, one of the two may come without a version
            beginning = end
        self.length, self._version = beginning.length, beginning.version
        self._check(end)
        self._held = [_Held(end.start, end.data), _Held(beginning.start, beginning.data)]

    def _whole(self) -> Part:
        logger.warning("%s: the server ignores ranges: the whole file is read at once", self.path)
        return self._object.get([ALL], WHOLE_BYTES)[0]

    def _check(self, part: Part) -> None:
        if (part.length, part.version) != (self.length, self._version):
            before = f"{self.length} bytes, version {self._version or 'unknown'}"
            now = f"{part.length} bytes, version {part.version or 'unknown'}"
            advice = "Open it again; shards of a set are not to be replaced"
            raise StateError(f"{self.path}: the file was replaced while it was being read: expected {before}, got {now}. {advice}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path}: an open file cannot be copied: open it again")

    def read_together(self, start: int, stop: int) -> None:
        """Say that what lies in a range will be needed together: it is read at once when the first part is, unless it is large."""
        if stop - start <= TOGETHER_BYTES:
            self._together.append(Range(start, stop))

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; TruncatedError if the file ends before. Who reads on and on gets more at a time."""
        goes_on, self._next = offset == self._next, offset + length
        if not goes_on:
            self._ahead_bytes = FIRST_AHEAD_BYTES
            return self.read_many([offset], [length])[0]
        found = self._in_memory(offset, length)
        if found is None:
            stop = min(self.length, max(offset + length, offset + self._ahead_bytes))
            self._ahead_bytes = min(2 * self._ahead_bytes, REQUEST_BYTES)
            self._ahead = ahead = _Held(offset, self.read_many([offset], [stop - offset])[0])
            found = ahead.cut(offset, offset + length)
        return self.read_many([offset], [length])[0] if found is None else found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes from `offset`."""
        buffer[:] = self.read_at(offset, len(buffer))

    def read_many(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return the bytes of several ranges, as `read_at` does, with one round of requests for all of them."""
        if self._closed:
            raise StateError(f"{self.path}: the file is closed")
        found: list[bytes | None] = []
        for offset, length in zip(offsets, lengths, strict=True):
            if offset + length > self.length:
                there = max(0, self.length - offset)
                raise TruncatedError(f"{self.path}: at byte {offset}: expected {length} bytes, got {there}")
            found.append(self._in_memory(offset, length))
        missing = [place for place, data in enumerate(found) if data is None]
        if missing:
            wanted = [(offsets[place], offsets[place] + lengths[place]) for place in missing]
            for place, data in zip(missing, self._fetch(wanted), strict=True):
                found[place] = data
        return [data for data in found if data is not None]

    def _in_memory(self, offset: int, length: int) -> bytes | None:
        """Return a range if it is in memory, or part of a section that is to be read together."""
        if not length:
            return b""
        for held in (self._ahead, *self._held):
            found = held.cut(offset, offset + length)
            if found is not None:
                return found
        for section in self._together:
            if section.start <= offset and offset + length <= (section.stop or 0):
                held = _Held(section.start, self._fetch([(section.start, section.stop or 0)])[0])
                self._held.append(held)
                self._together = [other for other in self._together if other is not section]
                return held.cut(offset, offset + length)
        return None

    def _fetch(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges (start, stop) that are not in memory."""
        ranges = merged(wanted)
        divided = [Range(start, min(start + REQUEST_BYTES, stop)) for first, stop in ranges for start in range(first, stop, REQUEST_BYTES)]
        try:
            parts = self._object.get(divided)
        except RangesIgnoredError:
            parts = [self._whole()]
            ranges = [(0, self.length)]
            self._held.append(_Held(0, parts[0].data))
        for part in parts:
            self._check(part)
        pieces = iter(parts)
        whole = []
        for start, stop in ranges:
            count = len(range(start, stop, REQUEST_BYTES))
            whole.append(_Held(start, b"".join(next(pieces).data for _ in range(count))))
        starts = [start for start, _ in ranges]
        return [whole[bisect_right(starts, start) - 1].cut(start, stop) or b"" for start, stop in wanted]

    def close(self) -> None:
        """Forget what was read. Closing twice is allowed."""
        self._closed, self._held, self._ahead = True, [], _Held(0, b"")


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (start, stop) in order, those that are no more than `GAP_BYTES` apart as one.

    Examples
    --------
    >>> merged([(5_000_000, 5_001_000), (0, 10), (100, 200)])
    [(0, 200), (5000000, 5001000)]
    """
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1] + GAP_BYTES:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found
