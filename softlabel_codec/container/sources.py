"""Opens what a container is read from: a file of this machine, or a URL."""

from __future__ import annotations

import os

from softlabel_codec.container.files import FileSource, Source
from softlabel_codec.storage.location import Url, location
from softlabel_codec.storage.remote_source import RemoteSource


def open_source(path: str | os.PathLike[str]) -> Source:
    """Return a file that is open for positioned reads.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    where = location(path)
    return RemoteSource(where) if isinstance(where, Url) else FileSource(where)
