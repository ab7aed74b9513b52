"""Where a file is: a path on this machine, or a URL."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from softlabel_codec.errors import ArgumentError

_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]+)://", re.IGNORECASE)
_COLLAPSED = re.compile(r"[a-z][a-z0-9+.\-]+:/[^/]", re.IGNORECASE)
_WEB = ("http", "https")
_USER = re.compile(r"//[^/\s]*@")
_QUERY = re.compile(r"\?[^\s'\")>]*")


@dataclass(frozen=True)
class Url:
    """The URL of a file, or of a folder or prefix of files.

    As text it is shown without what may be secret: the query of a web address, such as a signature, and a password. `os.fspath` returns
    all of it, so that what takes a path takes a Url too. (`pathlib.Path` does not hold URLs: it drops one of the slashes.)

    Attributes
    ----------
    full : str
        All of it.

    Examples
    --------
    >>> url = Url("https://me:secret@example.org/labels/a.slc?signature=1234")
    >>> str(url), url.name, str(url.parent), str(url.joined("b.slc"))
    ('https://example.org/labels/a.slc', 'a.slc', 'https://example.org/labels', 'https://example.org/labels/a.slc/b.slc')
    """

    full: str

    @property
    def scheme(self) -> str:
        """What stands before `://`, in lower case."""
        return self.full.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """The last component of its path."""
        return self._parts()[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The folder or prefix that it is in. A query stays: some give access to all that is in a folder."""
        path, query = self._parts()
        above = path.rstrip("/").rpartition("/")[0]
        return self if above.endswith("/") else Url(above + query)

    def joined(self, name: str) -> Url:
        """Return the URL of a file in this folder or prefix."""
        path, query = self._parts()
        return Url(f"{path.rstrip('/')}/{name}{query}")

    def absolute(self) -> Url:
        """Return itself, as a path of this machine does that begins at its root."""
        return self

    def without_secrets(self, text: str) -> str:
        """Return a text of somebody else, such as a message, without what is secret in this URL."""
        if self.scheme not in _WEB:
            return text.replace(self.full, str(self))
        return _USER.sub("//", _QUERY.sub("?...", text))

    def _parts(self) -> tuple[str, str]:
        """Return the URL without its query, and the query with its question mark; elsewhere than in the web they may be part of a name."""
        if self.scheme not in _WEB:
            return self.full, ""
        path, mark, query = self.full.partition("?")
        return path, mark + query

    def __fspath__(self) -> str:
        return self.full

    def __str__(self) -> str:
        path = self._parts()[0]
        scheme, _, rest = path.partition("://")
        host, slash, inner = rest.partition("/")
        user, _, server = host.rpartition("@")
        return f"{scheme}://{server if ':' in user or self.scheme in _WEB else host}{slash}{inner}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


Location = Path | Url
"""A file or folder of this machine, or elsewhere. Both have `name`, `parent` and `absolute()`; see `joined` for what is in a folder."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the URL of something that is not a file of this machine.

    Examples
    --------
    >>> is_remote("s3://bucket/labels.slc"), is_remote("labels.slc"), is_remote("file:///data/labels.slc")
    (True, False, False)
    """
    return isinstance(location(path), Url)


def location(path: str | os.PathLike[str]) -> Location:
    """Return where a file is.

    Raises
    ------
    ArgumentError
        If `pathlib.Path` has already taken one of the slashes of a URL away.

    Examples
    --------
    >>> location("s3://bucket/labels.slc")
    Url('s3://bucket/labels.slc')
    >>> location("file:///data/labels.slc").as_posix()
    '/data/labels.slc'
    """
    if isinstance(path, Url):
        return path
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if found is None:
        if isinstance(path, Path) and _COLLAPSED.match(text) and not path.exists():
            raise ArgumentError(f"{text}: expected a URL as str, got {type(path).__name__}, which drops one of its slashes")
        return Path(path)
    return Path(unquote(urlsplit(text).path)) if found[1].lower() == "file" else Url(text)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as text, without what may be secret in a URL."""
    return str(location(path)) if is_remote(path) else os.fspath(path)


def path_to_write(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is to be written; ArgumentError if it is a URL."""
    where = location(path)
    if isinstance(where, Url):
        advice = "Write the file on this machine, and upload it when it is finished: softlabel_codec.storage.upload"
        raise ArgumentError(f"{where}: expected a path of this machine, got a URL. {advice}")
    return where


def joined(folder: Location, name: str) -> Location:
    """Return where a file in a folder, or under a prefix of URLs, is.

    Examples
    --------
    >>> joined(Url("s3://bucket/imagenet/"), "imagenet-00000-of-00064.slc")
    Url('s3://bucket/imagenet/imagenet-00000-of-00064.slc')
    """
    return folder.joined(name) if isinstance(folder, Url) else folder / name
