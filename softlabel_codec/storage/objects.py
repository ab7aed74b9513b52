"""Which kind of object is behind a URL; small files and folders, here or elsewhere."""

from __future__ import annotations

import errno

from softlabel_codec.errors import ArgumentError, LimitError, SoftLabelError
from softlabel_codec.storage.clients import file_system
from softlabel_codec.storage.location import Location, Url, joined
from softlabel_codec.storage.others import OtherObject
from softlabel_codec.storage.ranges import ALL, RemoteObject, failed
from softlabel_codec.storage.s3 import S3Object
from softlabel_codec.storage.web import WebObject

_KINDS: dict[str, type[RemoteObject]] = {"s3": S3Object, "s3a": S3Object, "http": WebObject, "https": WebObject}


def remote_object(url: Url) -> RemoteObject:
    """Return the object behind a URL, which need not be there."""
    return _KINDS.get(url.scheme, OtherObject)(url)


def read_whole(file: Location, most_bytes: int) -> bytes:
    """Return the contents of a small file.

    Raises
    ------
    OSError
        If it cannot be read; FileNotFoundError if it is not there.
    LimitError
        If it has more than `most_bytes`.
    """
    if isinstance(file, Url):
        return remote_object(file).get([ALL], most_bytes)[0].data
    with file.open("rb") as opened:
        data = opened.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise LimitError(f"{file}: expected at most {most_bytes} bytes, got more")
    return data


def names_in(folder: Location) -> list[str]:
    """Return the names of files and folders in a folder, or under a prefix, in ascending order.

    Raises
    ------
    OSError
        If it cannot be listed; FileNotFoundError if it is not there.
    """
    if not isinstance(folder, Url):
        return sorted(path.name for path in folder.iterdir())
    return sorted(sizes_in(folder, "Name the file in it that you mean"))


def sizes_in(folder: Url, advice: str) -> dict[str, int]:
    """Return the names of what is under a prefix, each with its length in bytes; 0 for a folder.

    Parameters
    ----------
    folder : Url
        The prefix.
    advice : str
        What to do if it cannot be listed, for the text of the error.

    Raises
    ------
    OSError
        If it cannot be listed; FileNotFoundError if nothing is there.
    """
    files, path = file_system(folder.full)
    try:
        files.invalidate_cache(path)
        found = files.ls(path, detail=True)
    except SoftLabelError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise failed(folder, errno.ENOENT, "no such folder or prefix") from None
    except PermissionError as error:
        what = folder.without_secrets(str(error))
        raise failed(folder, errno.EACCES, f"it may not be listed: {what}. {advice}") from None
    except Exception as error:
        what = folder.without_secrets(f"{type(error).__name__} {error}".strip())
        raise failed(folder, errno.EIO, f"it cannot be listed: {what}. {advice}") from None
    sizes = {str(entry["name"]).partition("?")[0].rstrip("/").rpartition("/")[2]: int(entry.get("size") or 0) for entry in found}
    return {name: size for name, size in sizes.items() if name}


def read_the_one(folder: Location, ending: str, most_bytes: int) -> tuple[Location, bytes]:
    """Return the small file in a folder, or under a prefix, whose name has an ending, and its contents.

    In a folder NAME it is first looked for by the name NAME with that ending: many who may read objects may not list them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ArgumentError
        If there are several, of which none is called NAME with the ending.
    OSError, LimitError
        As for `names_in` and `read_whole`.
    """
    usual = joined(folder, folder.name + ending)
    denied = None
    try:
        return usual, read_whole(usual, most_bytes)
    except PermissionError as error:
        denied = error
    except (FileNotFoundError, NotADirectoryError):
        pass
    try:
        found = [name for name in names_in(folder) if name.endswith(ending)]
    except OSError as error:
        raise denied or error from None
    if not found:
        raise FileNotFoundError(errno.ENOENT, f"expected a file NAME{ending} in it, found none", str(folder))
    if len(found) > 1:
        raise ArgumentError(f"{folder}: expected one file NAME{ending}, got {', '.join(found[:5])}. Name the one that you mean")
    file = joined(folder, found[0])
    return file, read_whole(file, most_bytes)
