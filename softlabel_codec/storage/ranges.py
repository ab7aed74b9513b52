"""Ranges of bytes of one object: how a service is asked for them, and asked again when it fails for a while."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from softlabel_codec.errors import LimitError
from softlabel_codec.storage.clients import CONNECTIONS, file_system, run
from softlabel_codec.storage.location import Url

Result = TypeVar("Result")
Call = Callable[[], Coroutine[Any, Any, Result]]

TRIES = 5
"""How often an object is asked for, at most."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 30.0
"""How long we wait before the second try, about, and at most; each time twice as long as before."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


class Range(NamedTuple):
    """Which bytes: `stop` is not among them. Or the last ones: `start` is negative and `stop` None. Or all: (0, None)."""

    start: int
    stop: int | None

    @property
    def header(self) -> str:
        """As HTTP writes it."""
        return f"bytes={self.start}" if self.start < 0 else f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"

    @property
    def most_bytes(self) -> int | None:
        """How many bytes it has at most; None for all."""
        return -self.start if self.start < 0 else None if self.stop is None else self.stop - self.start

    def __str__(self) -> str:
        if self.stop is not None:
            return f"bytes {self.start} to {self.stop - 1}"
        return f"the last {-self.start} bytes" if self.start < 0 else "all bytes"


ALL = Range(0, None)


class Part(NamedTuple):
    """Bytes of an object.

    Attributes
    ----------
    start : int
        Where they begin.
    data : bytes
        The bytes.
    length : int
        Length of the whole object.
    version : str
        What changes with its contents, such as the ETag; empty if the service does not say.
    """

    start: int
    data: bytes
    length: int
    version: str


NOTHING = Part(0, b"", 0, "")
"""The answer if no byte of a range is there."""


class RangesIgnoredError(Exception):
    """The service sends the whole object whatever range is asked for."""


class TransientError(Exception):
    """What may go better when it is tried again: a service that has too much to do, a connection that broke.

    Parameters
    ----------
    what : str
        What happened.
    wait : float
        How many seconds the service asks to wait, if it does.
    """

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class RemoteObject:
    """An object in a storage service. Threads may share it; processes that are forked make a client of their own.

    Parameters
    ----------
    url : Url
        Where it is.
    """

    tries = TRIES

    def __init__(self, url: Url) -> None:
        self.url = url

    def get(self, ranges: Sequence[Range], most_bytes: int | None = None) -> list[Part]:
        """Return several ranges, asked for at once; of all requests `CONNECTIONS` are under way at a time.

        Parameters
        ----------
        ranges : sequence of Range
            Which.
        most_bytes : int, optional
            How many bytes there may be if all are asked for.

        Raises
        ------
        OSError
            One of its subclasses that fits: if there is no such object, access is denied, or the service failed again and again.
        RangesIgnoredError
            If it sends the whole object instead.
        LimitError
            If there are more than `most_bytes`.
        """
        files, path = file_system(self.url.full)
        return run(files, lambda: self._get(files, path, ranges, most_bytes))

    async def _get(self, files: Any, path: str, ranges: Sequence[Range], most_bytes: int | None) -> list[Part]:
        def one(wanted: Range) -> Call[Part]:
            return lambda: self.tried(str(wanted), lambda: self._ask(files, path, wanted, most_bytes))

        return await together([one(wanted) for wanted in ranges])

    async def _ask(self, files: Any, path: str, wanted: Range, most_bytes: int | None) -> Part:
        """Ask once; TransientError if it may help to ask again."""
        raise NotImplementedError

    async def tried(self, what: str, call: Call[Result]) -> Result:
        """Return what a call returns, which is repeated after a TransientError; `what` names it in the error."""
        for tried in range(self.tries):
            try:
                return await call()
            except TransientError as error:
                why, asked = str(error), error.wait
            if tried < self.tries - 1:
                own = FIRST_WAIT_SECONDS * 2**tried * random.uniform(0.5, 1.5)
                await asyncio.sleep(min(max(own, asked), LONGEST_WAIT_SECONDS))
        raise failed(self.url, errno.EIO, f"{what}: {why}, {self.tries} times in a row")

    def _answer(self, wanted: Range, data: bytes, content_range: str | None, version: str) -> Part:
        """Return bytes that came with this Content-Range, or none, as the answer to a request; RangesIgnoredError if they are none."""
        if content_range is None:
            self.check_whole(wanted, len(data))
            return Part(0, data, len(data), version)
        found = _CONTENT_RANGE.match(content_range)
        if found is None:
            raise failed(self.url, errno.EIO, f"expected a service that tells the length of the file, got Content-Range: {content_range}")
        first, last, length = map(int, found.groups())
        start = max(0, length + wanted.start) if wanted.start < 0 else wanted.start
        stop = length if wanted.stop is None else min(wanted.stop, length)
        if (first, last + 1, len(data)) != (start, stop, stop - start):
            raise TransientError(f"expected bytes {start} to {stop - 1}, got {len(data)} bytes as bytes {first} to {last}")
        return Part(first, data, length, version)

    @staticmethod
    def check_whole(wanted: Range, length: int | None) -> None:
        """Raise RangesIgnoredError unless the whole object, of that length, is an answer to what was asked."""
        if wanted != ALL and (wanted.start > 0 or length is None or length > (wanted.most_bytes or 0)):
            raise RangesIgnoredError

    def check_length(self, wanted: Range, length: int | None, most_bytes: int | None) -> None:
        """Raise LimitError if all bytes are asked for and are too many; TransientError if more come than the range that is asked for."""
        most = most_bytes if wanted == ALL else wanted.most_bytes
        if most is None or length is None or length <= most:
            return
        if wanted != ALL:
            raise TransientError(f"expected at most {most} bytes, got more")
        raise LimitError(f"{self.url}: expected at most {most} bytes, got {length}")


async def together(calls: Sequence[Call[Result]], at_a_time: int = CONNECTIONS) -> list[Result]:
    """Return the results of calls of which so many are under way at a time; when one fails, the others are cancelled."""
    limit = asyncio.Semaphore(at_a_time)

    async def one(call: Call[Result]) -> Result:
        async with limit:
            return await call()

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def failed(url: Url, number: int, what: str) -> OSError:
    """Return the subclass of OSError that goes with an error number, with a URL as its file name."""
    return OSError(number, what or os.strerror(number), str(url))


def exists_already(url: Url) -> FileExistsError:
    """Return the error of an upload to where another object is."""
    return FileExistsError(errno.EEXIST, "another object is there; pass overwrite=True (--overwrite) to replace it", str(url))
