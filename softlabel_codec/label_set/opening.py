"""Opens stored labels: a file, or a label set."""

from __future__ import annotations

import os

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.label_set.finding import index_of_set
from softlabel_codec.label_set.open_set import OpenSet
from softlabel_codec.storage.cache import Cache
from softlabel_codec.storage.location import location


def open_labels(path: str | os.PathLike[str], cache: Cache | None = None) -> OpenContainer | OpenSet:
    """Return a label file, or the label set of a folder or an index, open for reading; a cache keeps what is behind URLs.

    Raises
    ------
    FormatError, OSError
        If it is not sound, not finished, or cannot be read.
    ArgumentError
        If a folder holds several sets.
    """
    index = index_of_set(location(path))
    return OpenContainer(path, cache) if index is None else OpenSet(index, cache)
