"""`OpenSet`: a label set, opened: its index, and its shards as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.container.msgpack_maps import Plain
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.stored_labels import ImagesOfFile
from softlabel_codec.label_set.finding import read_index
from softlabel_codec.label_set.open_shards import LazyCropCounts, OpenShards
from softlabel_codec.label_set.set_keys import SetKeys
from softlabel_codec.storage.cache import Cache
from softlabel_codec.storage.location import Location


class OpenSet:
    """A label set, open for reading. Threads and forked processes may share it.

    Opening reads the index only, and takes time for each shard, none for each image.

    Parameters
    ----------
    path : Path or Url
        The index.
    cache : Cache, optional
        Fetches and keeps shards that are behind URLs.

    Attributes
    ----------
    path : Path or Url
        The index.
    index : SetIndex
        What it says.
    description : Description
        What the metadata sections of all shards say, without keys that this package does not know.
    layout : Layout
        How the blocks of all shards are laid out.
    shards : OpenShards
        The shards by number, opened when they are needed.
    index_bytes : int
        Its length.
    num_images, total_crops, num_bytes : int
        How many images and crops there are, and how many bytes with the index.
    num_crops : int64 (num_images,) or LazyCropCounts
        Number of crops of each image: one number for all, or read from the shards as it is needed.
    keys : SetKeys
        Keys of all images.

    Raises
    ------
    FormatError
        If the index is not sound.
    OSError
        If it cannot be read. What is wrong with shards is raised when they are needed: see `Belonging.opened`.
    """

    def __init__(self, path: Location, cache: Cache | None = None) -> None:
        self.path = path
        index, self.index_bytes = read_index(path)
        self.index = index
        self.description = index.description
        self.layout = index.description.layout
        self.shards = OpenShards(path, index, cache)
        self.num_images, self.total_crops = self.shards.first_images[-1], index.num_crops
        self.num_bytes = self.index_bytes + sum(shard.bytes for shard in index.shards)
        self.keys = SetKeys(self.shards, index.shards)
        each = index.crops_per_image
        self.num_crops: Any = LazyCropCounts(self.shards) if each is None else np.broadcast_to(np.int64(each), (self.num_images,))

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that differ if anything in any shard differs."""
        return self.index.fingerprint

    @cached_property
    def summary(self) -> Plain:
        """`skipped_keys` of all shards, if there are any. All shards are opened for it."""
        skipped = [key for shard in self.shards.in_turn(range(len(self.shards))) for key in shard.summary.get("skipped_keys", [])]
        return {"skipped_keys": skipped} if skipped else {}

    def file_of(self, number: int) -> tuple[OpenContainer, int]:
        """Return the shard that holds an image, and the number of the image there."""
        return self.shards.file_of(number)

    def files_of(self, numbers: NDArray[np.int64]) -> Iterator[Sequence[ImagesOfFile]]:
        """Yield the shards that hold some images (B,), as many at a time as may be open together."""
        return self.shards.files_of(numbers)

    def close(self) -> None:
        """Close all shards. Closing twice is allowed."""
        self.shards.close()
