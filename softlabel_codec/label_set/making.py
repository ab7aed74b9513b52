"""Makes the index of a label set from its finished shards, which are checked first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.whole_files import whole_file
from softlabel_codec.errors import ArgumentError, MismatchError
from softlabel_codec.label_set.belonging import difference_of_beginnings
from softlabel_codec.label_set.distinct import repeated_key
from softlabel_codec.label_set.index_file import SUFFIX, SetIndex, Shard
from softlabel_codec.storage.at_once import for_each
from softlabel_codec.storage.location import Location, Url

Progress = Callable[[int, int], None]
_REMOTE_AT_A_TIME = 4
"""Shards in object storage that are read at once."""


def shard_name(name: str, number: int, num_shards: int) -> str:
    """Return the file name of a shard of the set `name`.

    >>> shard_name("imagenet", 3, 64)
    'imagenet-00003-of-00064.slc'
    """
    return f"{name}-{number:05d}-of-{num_shards:05d}.slc"


def index_path(folder: Path, name: str) -> Path:
    """Return the path of the index of the set `name` in a folder."""
    return folder / (name + SUFFIX)


def images_of_shard(num_images: int, number: int, num_shards: int) -> range:
    """Return which of all images belong to a shard (spec/set-v1.md, section 5)."""
    return range(number * num_images // num_shards, (number + 1) * num_images // num_shards)


def write_index(path: Path, files: Sequence[Path], progress: Progress | None = None) -> SetIndex:
    """Read all shards of a set, check that they belong together, and write its index, completely or not at all.

    Parameters
    ----------
    path : Path
        The index.
    files : sequence of Path
        The shards, in order and in the same folder.
    progress : callable, optional
        Is called with the number of shards that were read, and of all.

    Raises
    ------
    MismatchError
        If shards have different metadata, or a key occurs in two of them.
    FormatError, OSError
        If a shard is not sound.
    """
    index = read_shards(files, progress)
    with whole_file(path) as file:
        file.write(index.pack())
    return index


def read_shards(files: Sequence[Location], progress: Progress | None = None) -> SetIndex:
    """Return the index of some shards, after checking that they are sound and belong together; see `write_index`."""
    if not files:
        raise ArgumentError("shards: expected at least one file")
    done = count()
    with OpenContainer(files[0]) as first:

        def read(file: Location) -> _Found:
            with OpenContainer(file) as container:
                check_same_metadata(first, container)
                found = _read(container)
            if progress is not None:
                progress(next(done) + 1, len(files))
            return found

        found = for_each(read, files, _REMOTE_AT_A_TIME if isinstance(files[0], Url) else 1)
        description = replace(first.description, other={})
    shards = tuple(one.shard for one in found)
    check_distinct_keys(files, shards)
    counts = {count for one in found for count in one.crop_counts}
    return SetIndex(description, shards, counts.pop() if len(counts) == 1 else None)


class _Found(NamedTuple):
    shard: Shard
    crop_counts: set[int]


def _read(container: OpenContainer) -> _Found:
    source, num_crops = container.source, container.index.num_crops
    first_key, last_key = container.keys.ends()
    shard = Shard(
        source.path.name,
        source.length,
        container.check_sha256(),
        container.fingerprint,
        container.trailer.num_images,
        container.trailer.num_crops,
        first_key,
        last_key,
    )
    return _Found(shard, {int(num_crops.min()), int(num_crops.max())} if len(num_crops) else set())


def check_same_metadata(first: OpenContainer, other: OpenContainer) -> None:
    """Raise MismatchError unless two files, of one set, have the same header and metadata."""
    if first.beginning.data != other.beginning.data:
        raise MismatchError(f"{other.path}: {difference_of_beginnings(other.beginning, first.beginning, first.path.name)}")


def check_distinct_keys(files: Sequence[Location], shards: Sequence[Shard]) -> None:
    """Raise MismatchError if a key occurs in two shards, of which only those are read whose ranges of keys overlap."""

    def keys_of(place: int) -> Iterator[bytes]:
        with OpenContainer(files[place]) as container:
            yield from container.keys.raw()

    ends = [None if shard.first_key is None else (shard.first_key.encode(), str(shard.last_key).encode()) for shard in shards]
    found = repeated_key(ends, keys_of)
    if found is not None:
        both = f"{files[found.one].name} and {files[found.other].name}"
        raise MismatchError(f"key {found.key.decode()!r}: expected it in one shard of the set, got it in {both}")
