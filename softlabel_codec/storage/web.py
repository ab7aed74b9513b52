"""Objects behind `https://` and `http://`."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from softlabel_codec.storage.ranges import ALL, NOTHING, Part, Range, RemoteObject, TransientError, failed

CONNECT_SECONDS, SILENT_SECONDS = 10, 30
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class WebObject(RemoteObject):
    """An object behind `https://` or `http://`."""

    async def _ask(self, files: Any, path: str, wanted: Range, most_bytes: int | None) -> Part:
        import aiohttp  # noqa: PLC0415  fsspec needs it for such URLs, and nothing else does

        options = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS), **files.kwargs}
        headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
        if wanted != ALL:
            headers["Range"] = wanted.header
        try:
            session = await files.set_session()
            async with session.get(files.encode_url(path), headers=headers, **options) as response:
                return await self._read(response, wanted, most_bytes)
        except aiohttp.InvalidURL:
            raise failed(self.url, errno.EINVAL, "not a valid URL") from None
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            raise TransientError(self.url.without_secrets(f"{type(error).__name__} {error}".strip())) from None

    async def _read(self, response: Any, wanted: Range, most_bytes: int | None) -> Part:
        if response.status == 416 and wanted != ALL:
            return NOTHING
        self._check(response)
        content_range = None
        if response.status == 206:
            content_range = response.headers.get("Content-Range", "none")
        else:
            self.check_whole(wanted, response.content_length)  # before it is read
        self.check_length(wanted, response.content_length, most_bytes)
        data = bytearray()
        async for piece in response.content.iter_any():
            data += piece
            self.check_length(wanted, len(data), most_bytes)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
        return self._answer(wanted, bytes(data), content_range, version)

    def _check(self, response: Any) -> None:
        """Raise the error that goes with a status, if it is one."""
        said = f"the server answers {response.status} {response.reason or ''}".rstrip()
        if response.status in _PASSING:
            wait = response.headers.get("Retry-After", "")
            raise TransientError(said, float(wait) if wait.isdecimal() else 0.0)
        if response.status in (404, 410):
            raise failed(self.url, errno.ENOENT, f"no such file: {said}")
        if response.status in (401, 403, 407):
            raise failed(self.url, errno.EACCES, f"{said}. Check your credentials; a signed URL may have expired")
        if response.status not in (200, 206):
            raise failed(self.url, errno.EIO, said)
