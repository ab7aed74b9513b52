"""Uploads finished files, without replacing what is there."""

from __future__ import annotations

import errno
import inspect
import logging
import os
from pathlib import Path

from softlabel_codec.errors import ArgumentError, SoftLabelError
from softlabel_codec.storage.clients import file_system
from softlabel_codec.storage.location import Location, Url, location
from softlabel_codec.storage.objects import remote_object
from softlabel_codec.storage.ranges import Range, RemoteObject, exists_already, failed
from softlabel_codec.storage.s3 import S3Object
from softlabel_codec.storage.s3_upload import try_upload_to_s3, upload_to_s3

logger = logging.getLogger(__name__)

_END_BYTES = 2**16
_READ_ONLY = ("http", "https")


def upload(path: str | os.PathLike[str], url: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Upload a file, and check that all of it has arrived.

    With `s3://` an object that is there is never replaced unless `overwrite` is set, also if two jobs upload at once: the service decides
    (`If-None-Match: *`), and checks the MD5 of what arrives. Other schemes do what fsspec's module for them does: some look first whether
    there is an object, and upload then.

    An object that is there and is the same file is no error, so that an upload can be repeated. The same means: of the same length, with
    the same last 64 KiB, which in label files hold the SHA-256 of the rest.

    Parameters
    ----------
    path : path
        The file.
    url : str
        Where the object is to be.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    FileExistsError
        If there is another object, and `overwrite` is not set.
    OSError
        If the upload fails. Then there is no new object.
    ArgumentError
        If nothing can be uploaded there.
    """
    file, where = Path(path), location(url)
    if not isinstance(where, Url) or where.scheme in _READ_ONLY:
        raise _not_object_storage(where, file.name)
    there = remote_object(where)
    try:
        if isinstance(there, S3Object):
            upload_to_s3(file, there, overwrite)
        else:
            _to_other(file, where, overwrite)
    except FileExistsError:
        if not _is_same(file, there):
            raise
        logger.info("%s: is there already", where)
        return
    if not _is_same(file, there):
        raise failed(where, errno.EIO, "what was uploaded differs from the file. Was either changed meanwhile? Upload it again")
    logger.info("%s: uploaded", where)


def check_can_upload(url: Url) -> None:
    """Raise the error that an upload would end with, as far as that can be told without one.

    Of S3 it is told whether there are credentials and the bucket, and whether objects may be made in it.

    Raises
    ------
    ArgumentError, StateError
        If nothing can be uploaded to such a URL, or a package for it is not installed.
    OSError
        If objects cannot be made there.
    """
    if url.scheme in _READ_ONLY:
        raise _not_object_storage(url, url.name)
    there = remote_object(url)
    if isinstance(there, S3Object):
        try_upload_to_s3(there)
    else:
        file_system(url.full)


def _not_object_storage(where: Location, name: str) -> ArgumentError:
    return ArgumentError(f"{where}: expected a URL of object storage, such as s3://BUCKET/{name}")


def _is_same(file: Path, there: RemoteObject) -> bool:
    size = file.stat().st_size
    end = there.get([Range(-_END_BYTES, None)])[0]
    with file.open("rb") as opened:
        opened.seek(max(0, size - _END_BYTES))
        return end.length == size and end.data == opened.read()


def _to_other(file: Path, url: Url, overwrite: bool) -> None:
    files, path = file_system(url.full)
    exclusive = not overwrite and "mode" in inspect.signature(files.put_file).parameters
    try:
        if not overwrite and files.exists(path):
            raise exists_already(url)
        files.put_file(str(file), path, **({"mode": "create"} if exclusive else {}))
    except FileExistsError:
        raise exists_already(url) from None
    except (SoftLabelError, NotImplementedError):
        raise
    except OSError as error:
        raise type(error)(error.errno or errno.EIO, url.without_secrets(str(error)), str(url)) from error
    except Exception as error:
        raise failed(url, errno.EIO, url.without_secrets(f"{type(error).__name__} {error}".strip())) from error
