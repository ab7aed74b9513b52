"""Files of a source, local or behind a URL, by pattern; and what lies in them, by position."""

from __future__ import annotations

import errno
import glob
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from softlabel_codec.errors import ArgumentError, StateError
from softlabel_codec.storage.clients import file_system
from softlabel_codec.storage.clients import installed as packages_installed

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_WILD = re.compile(r"[*?\[]")
_MOST_FILES = 10**6


def files_of(pattern: str) -> list[str]:
    """Return the files that a pattern names: braces in their order, then wildcards in ascending order.

    Parameters
    ----------
    pattern : str
        A path or URL, with `{000000..000146}`, `{a,b}`, `*`, `?` or `[...]`, or without. A local file or folder of exactly this name is
        that one.

    Raises
    ------
    ArgumentError
        If it names no file, or local files that are not there.
    """
    if Path(pattern).is_file():
        return [pattern]
    start = _literal_start(pattern)
    files = [file for name in _braces(pattern[len(start) :]) for file in _wildcards(start, name)]
    missing = [file for file in files if not is_url(file) and not Path(file).is_file()]
    if missing:
        raise ArgumentError(f"{pattern}: {missing[0]} does not exist" + (f", nor {len(missing) - 1} more" if len(missing) > 1 else ""))
    if not files:
        raise ArgumentError(f"{pattern}: expected files of this pattern, found none")
    return files


def named_by(pattern: str) -> list[str]:
    """Return the names, of files that need not be there, that a pattern with braces stands for: `{000..015}`, `{a,b}`."""
    return _braces(pattern)


def _literal_start(pattern: str) -> str:
    """Return the folders at the beginning of a pattern that are there, whatever characters are in their names."""
    ends = [place + 1 for place, character in enumerate(pattern) if character == "/"]
    return max((pattern[:end] for end in ends if Path(pattern[:end]).is_dir()), key=len, default="")


def _braces(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    first, last, words = found.groups()
    if words is None:
        if abs(int(last) - int(first)) >= _MOST_FILES:
            raise ArgumentError(f"{pattern}: expected a range of at most {_MOST_FILES} files")
        padded = any(number.startswith("0") and len(number) > 1 for number in (first, last))  # {0..10} is not, as in a shell
        digits = max(len(first), len(last)) if padded else 1
        step = 1 if int(first) <= int(last) else -1
        parts = [f"{number:0{digits}d}" for number in range(int(first), int(last) + step, step)]
    else:
        parts = words.split(",")
    rest = _braces(pattern[found.end() :])
    if len(parts) * len(rest) > _MOST_FILES:
        raise ArgumentError(f"{pattern}: expected at most {_MOST_FILES} files, got {len(parts) * len(rest)}")
    return [f"{pattern[: found.start()]}{part}{ending}" for part in parts for ending in rest]


def _wildcards(start: str, name: str) -> list[str]:
    if not is_url(name):
        return sorted(glob.glob(glob.escape(start) + name, recursive=True)) if _WILD.search(name) else [start + name]
    if "*" not in name:
        return [name]
    with _named(name):
        files, inner = file_system(name, "sources")
        return sorted(files.unstrip_protocol(found) for found in files.glob(inner))


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def open_file(path: str) -> BinaryIO:
    """Return an open file; OSError if it cannot be opened."""
    if not is_url(path):
        return Path(path).open("rb")
    with _named(path):
        files, inner = file_system(path, "sources")
        opened: BinaryIO = files.open(inner, "rb")
        return opened


def read_at(path: str, offset: int, length: int) -> bytes:
    """Return bytes of a file from an offset on; OSError if it has not so many.

    Nothing stays open: threads and processes can read at once, and the number of files does not matter.
    """
    if is_url(path):
        with _named(path):
            files, inner = file_system(path, "sources")
            data: bytes = files.cat_file(inner, start=offset, end=offset + length)
    else:
        with Path(path).open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(length)
    if len(data) != length:
        raise OSError(f"{path}: expected {length} bytes at byte {offset}, got {len(data)}: the file has changed since it was opened")
    return data


def installed() -> AbstractContextManager[None]:
    """Say what to install if a package that only some sources need is missing: StateError."""
    return packages_installed("sources")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn whatever a remote file system raises into an OSError that names the URL."""
    try:
        yield
    except (StateError, FileNotFoundError):
        raise
    except OSError as error:
        raise OSError(error.errno or errno.EIO, str(error), url) from error
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", url) from error
