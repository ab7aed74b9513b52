"""Uploads a file to S3, in parts if it is long; the last request makes the object, on the condition that there is none."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from softlabel_codec.storage.clients import file_system, run
from softlabel_codec.storage.ranges import Call, exists_already, failed, together
from softlabel_codec.storage.s3 import RefusedError, S3Object, call

PART_BYTES = 2**25
"""Longer files are uploaded in parts of this size, or larger ones if they would be too many."""
_MOST_PARTS, _PARTS_AT_A_TIME = 10_000, 4


def upload_to_s3(file: Path, there: S3Object, overwrite: bool) -> None:
    """Upload a file as an object of S3.

    Raises
    ------
    FileExistsError
        If there is an object, and `overwrite` is not set.
    OSError
        If the upload fails.
    """
    files, path = file_system(there.url.full)
    bucket, key, _ = files.split_path(path)
    condition = {} if overwrite else {"IfNoneMatch": "*"}
    run(files, lambda: _Upload(there, files, {"Bucket": bucket, "Key": key}, condition).put(file))


def try_upload_to_s3(there: S3Object) -> None:
    """Begin an upload and give it up; OSError if objects cannot be made there."""
    files, path = file_system(there.url.full)
    bucket, key, _ = files.split_path(path)
    run(files, _Upload(there, files, {"Bucket": bucket, "Key": key}, {}).begin_only)


class _Upload:
    """An object that is to be.

    Parameters
    ----------
    there : S3Object
        Where.
    files : file system
        Its service.
    names, condition : dict
        What requests call it, and on what condition it is made.
    """

    def __init__(self, there: S3Object, files: Any, names: dict[str, str], condition: dict[str, str]) -> None:
        self._there, self._files, self._names, self._condition = there, files, names, condition

    async def put(self, file: Path) -> None:
        """Upload a file."""
        size = file.stat().st_size
        if size <= PART_BYTES:
            data = file.read_bytes()
            await self._ask("put_object", Body=data, ContentMD5=_md5(data), **self._condition)
            return
        upload = await self._begin()
        try:
            parts = await self._put_parts(file, upload, size)
            await self._ask("complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts}, **self._condition)
        except BaseException:
            await self._give_up(upload)
            raise

    async def begin_only(self) -> None:
        """Begin an upload in parts, and give it up: there is no object then."""
        await self._give_up(await self._begin())

    async def _begin(self) -> str:
        return str((await self._ask("create_multipart_upload"))["UploadId"])

    async def _give_up(self, upload: str) -> None:
        with suppress(OSError):  # what was uploaded takes space until it is given up
            await self._ask("abort_multipart_upload", UploadId=upload)

    async def _put_parts(self, file: Path, upload: str, size: int) -> list[dict[str, Any]]:
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))

        def part(number: int) -> Call[dict[str, Any]]:
            async def put() -> dict[str, Any]:
                data = await asyncio.to_thread(_read, file, number * part_bytes, min(part_bytes, size - number * part_bytes))
                answer = await self._ask("upload_part", UploadId=upload, PartNumber=number + 1, Body=data, ContentMD5=_md5(data))
                return {"PartNumber": number + 1, "ETag": answer["ETag"]}

            return put

        return await together([part(number) for number in range(-(-size // part_bytes))], _PARTS_AT_A_TIME)

    async def _ask(self, method: str, **asked: Any) -> Any:
        url, what = self._there.url, method.replace("_", " ")
        try:
            return await self._there.tried(what, lambda: call(self._files, url, what, method, **self._names, **asked))
        except RefusedError as error:
            if error.status == 412:
                raise exists_already(url) from None
            if error.status == 409:
                raise failed(url, errno.EBUSY, f"another upload is under way: {error.said} ({error.code}). Try again") from None
            raise error.as_os_error(url, what) from None


def _read(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        data = opened.read(length)
    if len(data) < length:
        raise OSError(errno.EIO, f"at byte {offset}: expected {length} bytes, got {len(data)}: the file has changed", os.fspath(file))
    return data


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
