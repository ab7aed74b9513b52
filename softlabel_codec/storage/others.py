"""Objects behind any other scheme that fsspec knows, such as `gs://`, `hf://` and `memory://`."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Any, NamedTuple

from softlabel_codec.errors import StateError
from softlabel_codec.storage.ranges import ALL, Call, Part, Range, RemoteObject, TransientError, failed, together

_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "blob_id", "mtime", "LastModified", "last_modified", "created")
"""What different services call what changes when an object does."""
_FINAL = {FileNotFoundError: errno.ENOENT, IsADirectoryError: errno.EISDIR, PermissionError: errno.EACCES}


class _About(NamedTuple):
    length: int
    version: str


class OtherObject(RemoteObject):
    """An object of which fsspec tells length and version, and ranges of bytes.

    Length and version cost a request of their own, at the same time as those for the bytes. So an object that is replaced in this very
    moment is not noticed here, but by the checksums of the file.
    """

    tries = 3  # these libraries try again themselves

    async def _get(self, files: Any, path: str, ranges: Sequence[Range], most_bytes: int | None) -> list[Part]:
        def about() -> Any:
            return self.tried("its length", lambda: self._about(files, path))

        def data_of(wanted: Range) -> Call[Any]:
            return lambda: self.tried(str(wanted), lambda: self._bytes(files, path, wanted))

        if all(wanted.stop is not None for wanted in ranges):
            known, *found = await together([about, *map(data_of, ranges)])
            return [Part(wanted.start, data, *known) for wanted, data in zip(ranges, found, strict=True)]
        known = await about()
        exact = []
        for wanted in ranges:
            if wanted == ALL:
                self.check_length(wanted, known.length, most_bytes)
            start = max(0, known.length + wanted.start) if wanted.start < 0 else wanted.start
            exact.append(Range(start, known.length if wanted.stop is None else min(wanted.stop, known.length)))
        found = await together([data_of(wanted) for wanted in exact])
        return [Part(wanted.start, data, *known) for wanted, data in zip(exact, found, strict=True)]

    async def _about(self, files: Any, path: str) -> _About:
        said = await self._call(files, "info", path)
        if said.get("type") == "directory":
            raise failed(self.url, errno.EISDIR, "expected a file, got a folder")
        if said.get("size") is None:
            raise failed(self.url, errno.EIO, "expected a service that tells the length of the file, got none")
        return _About(said["size"], next((str(said[name]) for name in _VERSIONS if said.get(name) is not None), ""))

    async def _bytes(self, files: Any, path: str, wanted: Range) -> bytes:
        if wanted.start == wanted.stop:
            return b""
        data: bytes = await self._call(files, "cat_file", path, start=wanted.start, end=wanted.stop)
        if len(data) != wanted.most_bytes:
            raise TransientError(f"expected {wanted.most_bytes} bytes, got {len(data)}")
        return data

    async def _call(self, files: Any, method: str, *args: Any, **options: Any) -> Any:
        """Return what a method of a file system returns; an error is passing unless it says what will not change."""
        try:
            if getattr(files, "async_impl", False):
                return await getattr(files, f"_{method}")(*args, **options)
            return await asyncio.to_thread(getattr(files, method), *args, **options)
        except (StateError, NotImplementedError):
            raise
        except tuple(_FINAL) as error:
            number = next(number for kind, number in _FINAL.items() if isinstance(error, kind))
            raise failed(self.url, number, self.url.without_secrets(error.strerror or "")) from error
        except Exception as error:
            raise TransientError(self.url.without_secrets(f"{type(error).__name__} {error}".strip())) from error
