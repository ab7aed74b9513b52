"""The files that labels are copied from: as the caller names them, or as the index of a set lists them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from softlabel_codec.checks.wording import counted
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.errors import ArgumentError, MismatchError, StateError
from softlabel_codec.label_set.finding import index_of_set, read_index
from softlabel_codec.label_set.index_file import SUFFIX, Shard
from softlabel_codec.storage.location import Location, Url, joined, location


@dataclass(frozen=True)
class SourceFile:
    """A file that labels are copied from.

    Attributes
    ----------
    path : Path or Url
        The file.
    shard : Shard or None
        What the index of its set says of it; None if it was named by itself.
    """

    path: Location
    shard: Shard | None = None

    def open(self) -> OpenContainer:
        """Open the file; MismatchError if it is not the one that its set lists."""
        try:
            container = OpenContainer(self.path)
        except FileNotFoundError:
            if self.shard is None:
                raise
            raise FileNotFoundError(errno.ENOENT, "this shard of the set is missing", str(self.path)) from None
        if self.shard is not None and (container.source.length, container.fingerprint) != (self.shard.bytes, self.shard.fingerprint):
            container.close()
            raise MismatchError(
                f"{self.path}: expected the shard that the index of its set lists, got a file of another length or contents"
            )
        return container


@dataclass(frozen=True)
class Source:
    """A file or a set that labels are copied from.

    Attributes
    ----------
    path : Path or Url
        As the caller names it.
    files : tuple of SourceFile
        Its files, in order; all with the same header and metadata.
    """

    path: Location
    files: tuple[SourceFile, ...]


def find_sources(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Source]:
    """Return what is at some paths, or at one: each a file, the index of a set, or a folder that holds one set."""
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not named:
        raise ArgumentError("sources: expected at least one label file or set")
    return [_source(location(path)) for path in named]


def _source(path: Location) -> Source:
    index = path
    if isinstance(path, Url):
        index = index_of_set(path) or path
    elif path.is_dir():
        index = _index_in(path)
    if not index.name.endswith(SUFFIX):
        return Source(path, (SourceFile(path),))
    shards = read_index(index)[0].shards
    return Source(path, tuple(SourceFile(joined(index.parent, shard.file), shard) for shard in shards))


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:3])
        raise ArgumentError(
            f"{folder}: expected the index of one set, got {counted(len(found), 'index', 'indices')}: {names}. Name one of them"
        )
    raise StateError(f"{folder}: expected the index of a set (NAME{SUFFIX}), got none: it is no set, or is not finished")
