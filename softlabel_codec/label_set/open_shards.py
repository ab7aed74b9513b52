"""The shards of a set, opened when they are needed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.stored_labels import ImagesOfFile
from softlabel_codec.errors import StateError
from softlabel_codec.label_set.belonging import Belonging
from softlabel_codec.label_set.index_file import SetIndex
from softlabel_codec.storage.at_once import for_each
from softlabel_codec.storage.cache import FETCHED_AT_A_TIME, Cache
from softlabel_codec.storage.clients import CONNECTIONS
from softlabel_codec.storage.location import Location, Url

MOST_OPEN = 128
"""How many shards stay open. One takes a file descriptor, about 8 bytes for each of its images, and the pages of keys that were read."""
_AT_A_TIME = 64
"""How many shards a batch reads from together: they are open then, too."""


class OpenShards:
    """The shards of a set. Those that were used last stay open.

    Threads and forked processes may share them: there is no lock, and a shard that has been left out for others stays open until the
    last thread that reads from it lets go of it.

    Parameters
    ----------
    path : Path or Url
        The index of the set.
    index : SetIndex
        What it says.
    cache : Cache, optional
        Fetches and keeps shards that are behind URLs.

    Attributes
    ----------
    first_images : list of int
        Number of the first image of each shard, and the total number of images.
    """

    def __init__(self, path: Location, index: SetIndex, cache: Cache | None = None) -> None:
        self._belonging = Belonging(path, index, cache)
        self._at_a_time = 1 if not isinstance(path, Url) else CONNECTIONS if cache is None else FETCHED_AT_A_TIME
        self.first_images = [0, *accumulate(shard.images for shard in index.shards)]
        self._first_images = np.array(self.first_images, np.int64)
        self._open: dict[int, OpenContainer] = {}  # the one that was used last at the end; an OrderedDict breaks if threads share it
        self._crops_checked: set[int] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self.first_images) - 1

    def __getitem__(self, number: int) -> OpenContainer:
        """Return a shard, open; see `Belonging.opened`."""
        shard = self._open.get(number)
        if shard is not None:
            self._open.pop(number, None)
            self._open[number] = shard
            return shard
        if self._closed:
            raise StateError(f"{self._belonging.path}: the label set is closed")
        shard = self._open[number] = self._belonging.opened(number)
        shard.crops_checked |= number in self._crops_checked
        while len(self._open) > MOST_OPEN:
            self._leave_out_one()
        return shard

    def _leave_out_one(self) -> None:
        """Forget the shard that was not used for longest. Its file is closed as soon as nobody holds it any more."""
        with suppress(KeyError, RuntimeError, StopIteration):  # another thread was faster
            number = next(iter(self._open))
            if self._open.pop(number).crops_checked:
                self._crops_checked.add(number)

    def file_of(self, number: int) -> tuple[OpenContainer, int]:
        """Return the shard that holds an image, and the number of the image there."""
        shard = bisect_right(self.first_images, number) - 1
        return self[shard], number - self.first_images[shard]

    def files_of(self, numbers: NDArray[np.int64]) -> Iterator[Sequence[ImagesOfFile]]:
        """Yield the shards that hold some images (B,), as many at a time as may be open together."""
        shards = self._first_images.searchsorted(numbers, side="right") - 1
        there = numbers - self._first_images[shards]
        order = shards.argsort(kind="stable")
        distinct, starts = np.unique(shards[order], return_index=True)
        if len(distinct) == 1:
            yield (ImagesOfFile(self[int(distinct[0])], slice(None), there),)
            return
        parts = list(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True))
        for first in range(0, len(parts), _AT_A_TIME):
            some = parts[first : first + _AT_A_TIME]
            self._open_at_once([shard for shard, _ in some])
            yield [ImagesOfFile(self[shard], places, there[places]) for shard, places in some]

    def in_turn(self, numbers: Sequence[int], prepare: Callable[[OpenContainer], None] | None = None) -> Iterator[OpenContainer]:
        """Yield shards of these numbers, in this order; `prepare` is called with each, for several at once where they are remote."""
        for first in range(0, len(numbers), _AT_A_TIME):
            some = numbers[first : first + _AT_A_TIME]
            self._open_at_once(some, prepare)
            yield from map(self.__getitem__, some)

    def _open_at_once(self, numbers: Sequence[int], prepare: Callable[[OpenContainer], None] | None = None) -> None:
        """Open several shards, at the same time where that means to wait for a storage service."""
        if self._at_a_time == 1:
            return

        def opened(number: int) -> None:
            shard = self[number]
            if prepare is not None:
                prepare(shard)

        missing = numbers if prepare is not None else [number for number in numbers if number not in self._open]
        for_each(opened, missing, self._at_a_time)

    def close(self) -> None:
        """Close all shards. Closing twice is allowed."""
        self._closed = True
        while self._open:
            with suppress(KeyError):
                self._open.popitem()[1].close()


class LazyCropCounts:
    """Numbers of crops of images, read from the shards that hold these images.

    Parameters
    ----------
    shards : OpenShards
        All shards of the set.
    """

    def __init__(self, shards: OpenShards) -> None:
        self._shards = shards
        self._all: NDArray[np.int64] | None = None

    def __getitem__(self, numbers: int | NDArray[np.int64]) -> Any:
        if self._all is not None:
            return self._all[numbers]
        if isinstance(numbers, int):
            shard, place = self._shards.file_of(numbers)
            return shard.num_crops[place]
        found = np.empty(len(numbers), np.int64)
        for files in self._shards.files_of(numbers):
            for images in files:
                found[images.places] = images.container.num_crops[images.numbers]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return those of all images; all shards are opened for it, once."""
        if self._all is None:
            self._all = np.concatenate([shard.num_crops for shard in self._shards.in_turn(range(len(self._shards)))])
        return np.array(self._all, dtype, copy=copy) if copy or dtype not in (None, self._all.dtype) else self._all
