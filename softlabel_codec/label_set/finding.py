"""Finds the label set in a folder, and what there is of one that is not finished."""

from __future__ import annotations

import errno
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from softlabel_codec.checks.limits import MAX_SET_INDEX_BYTES
from softlabel_codec.checks.wording import counted
from softlabel_codec.container.files import PARTIAL_SUFFIX
from softlabel_codec.errors import ArgumentError, FormatError, TruncatedError
from softlabel_codec.label_set.index_file import SUFFIX, SetIndex
from softlabel_codec.storage.location import Location, Url
from softlabel_codec.storage.objects import read_the_one, read_whole

# What an unfinished shard is called: by itself, and in the file of a worker, see `SetFolder.unfinished_file`.
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5,})-of-(?P<num_shards>\d{5,})\.slc(?P<partial>(\.[0-9a-f]+)?\.partial)?", re.DOTALL)


@dataclass(frozen=True)
class UnfinishedSet:
    """What there is of a label set without an index, as far as the names of files tell.

    Attributes
    ----------
    folder : Path
        Where it is made.
    name : str
        Its name.
    num_shards : int
        How many shards it is to have.
    finished, partial : dict of int to Path
        The shards that are finished, and those that are being made or were left unfinished, by number.
    """

    folder: Path
    name: str
    num_shards: int
    finished: dict[int, Path]
    partial: dict[int, Path]

    @property
    def missing(self) -> list[int]:
        """Shards that nobody has begun."""
        return [number for number in range(self.num_shards) if number not in self.finished and number not in self.partial]

    def __str__(self) -> str:
        being_made = f" and {len(self.partial)} begun" if self.partial else ""
        return f"{len(self.finished)} of {counted(self.num_shards, 'shard')} of {self.name!r} are finished{being_made}"


def index_of_set(path: Location) -> Location | None:
    """Return the index of the label set at a path, which is a folder or the index itself; None for anything else, such as a file.

    What a URL leads to is told by its name: `.slc` and `.partial` are files, and others are folders if there is an index in them.

    Raises
    ------
    ArgumentError
        If the folder holds several sets.
    TruncatedError
        If it holds one that is not finished.
    IsADirectoryError
        If it holds none.
    """
    if path.name.endswith(SUFFIX):
        return path
    if isinstance(path, Url):
        return None if path.name.endswith((".slc", PARTIAL_SUFFIX)) else _index_at(path)
    if not path.is_dir():
        return None
    indices = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIX))
    if len(indices) > 1:
        names = ", ".join(file.name for file in indices)
        raise ArgumentError(f"{path}: expected one label set, got {len(indices)}: {names}. Pass the path of one of them")
    if indices:
        return indices[0]
    unfinished = unfinished_sets(path)
    if unfinished:
        advice = "Run the command that makes it again: it continues, and writes the index at the end. 'slcodec inspect' says more"
        raise TruncatedError(f"{path}: an unfinished label set: {'; '.join(map(str, unfinished))}, and there is no index. {advice}")
    raise IsADirectoryError(errno.EISDIR, f"expected a label file or a label set, got a folder without an index (NAME{SUFFIX})", str(path))


def _index_at(folder: Url) -> Location | None:
    try:
        return read_the_one(folder, SUFFIX, MAX_SET_INDEX_BYTES)[0]
    except FileNotFoundError:
        return None


def unfinished_sets(folder: Path) -> list[UnfinishedSet]:
    """Return the sets that have shards in a folder, by name; whether they have an index is not looked at."""
    found: dict[tuple[str, int], tuple[dict[int, Path], dict[int, Path]]] = defaultdict(lambda: ({}, {}))
    for file in sorted(folder.iterdir()):
        shard = _SHARD.fullmatch(file.name)
        if shard is None or int(shard["number"]) >= int(shard["num_shards"]):
            continue
        finished, partial = found[shard["name"], int(shard["num_shards"])]
        (partial if shard["partial"] else finished)[int(shard["number"])] = file
    for finished, partial in found.values():
        for number in finished.keys() & partial.keys():
            del partial[number]  # of a worker that lost the shard to another
    return [UnfinishedSet(folder, *name, *shards) for name, shards in sorted(found.items())]


def read_index(path: Location) -> tuple[SetIndex, int]:
    """Return what an index says, and its length in bytes; FormatError, with its path, if it is not sound."""
    data = read_whole(path, MAX_SET_INDEX_BYTES)
    try:
        return SetIndex.unpack(data), len(data)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None
