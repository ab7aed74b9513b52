"""The shards of a set, opened when they are needed."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
from softlabel_codec.storage.location import Location

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

    Attributes
    ----------
    first_images : list of int
        Number of the first image of each shard, and the total number of images.
    """

    def __init__(self, path: Location, index: SetIndex) -> None:
        self._belonging = Belonging(path, index)
        self.first_images = [0, *accumulate(shard.images for shard in index.shards)]
        self._first_images = np.array(self.first_images, np.int64)
        self._open: OrderedDict[int, OpenContainer] = OrderedDict()
        self._crops_checked: set[int] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self.first_images) - 1

    def __getitem__(self, number: int) -> OpenContainer:
        """Return a shard, open; see `Belonging.opened`."""
        shard = self._open.get(number)
        if shard is not None:
            with suppress(KeyError):  # another thread has just left it out
                self._open.move_to_end(number)
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
        with suppress(KeyError):
            number, shard = self._open.popitem(last=False)
            if shard.crops_checked:
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
            yield [ImagesOfFile(self[shard], places, there[places]) for shard, places in parts[first : first + _AT_A_TIME]]

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
            self._all = np.concatenate([self._shards[number].num_crops for number in range(len(self._shards))])
        return np.array(self._all, dtype, copy=copy) if copy or dtype not in (None, self._all.dtype) else self._all
