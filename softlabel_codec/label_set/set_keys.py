"""The keys of a label set, read from its shards as they are needed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

import numpy as np

from softlabel_codec.container.key_sequence import KeySequence
from softlabel_codec.label_set.index_file import Shard
from softlabel_codec.label_set.open_shards import OpenShards

_SPREAD_OVER = 16
"""How many shards a sample of keys is taken from."""


class SetKeys(KeySequence):
    """All keys of a label set in the order of its images.

    A key is looked up only in shards whose range of keys holds it: in one, if the shards have ranges of their own.

    Parameters
    ----------
    shards : OpenShards
        All shards of the set.
    said : sequence of Shard
        What the index says of each.
    """

    def __init__(self, shards: OpenShards, said: Sequence[Shard]) -> None:
        self._shards, self._ranges = shards, _Ranges(said)

    def __len__(self) -> int:
        return self._shards.first_images[-1]

    def __iter__(self) -> Iterator[str]:
        shards = self._shards.in_turn(self._ranges.in_order(), lambda shard: shard.keys.read_ahead())
        return chain.from_iterable(shard.keys for shard in shards)

    def at(self, number: int) -> str:
        shard, place = self._shards.file_of(number)
        return shard.keys.at(place)

    def find(self, key: str) -> int | None:
        for number in self._ranges.holding(key.encode("utf-8", "surrogatepass")):
            place = self._shards[number].keys.find(key)
            if place is not None:
                return self._shards.first_images[number] + place
        return None

    def around(self, key: str, count: int) -> list[str]:
        nearest = self._ranges.nearest(key.encode("utf-8", "surrogatepass"))
        return [] if nearest is None else self._shards[nearest].keys.around(key, count)

    def spread(self, count: int) -> list[str]:
        there = self._ranges.in_order()
        chosen = np.unique(np.linspace(0, len(there) - 1, min(_SPREAD_OVER, len(there))).astype(int)).tolist()
        return [key for place in chosen for key in self._shards[there[place]].keys.spread(-(-count // len(chosen)))]


class _Ranges:
    """The ranges of keys of shards, those without images left out, in the order of their smallest keys."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        there = ((number, shard.first_key, shard.last_key) for number, shard in enumerate(shards))
        found = [(first.encode(), last.encode(), number) for number, first, last in there if first is not None and last is not None]
        found.sort()
        self._first, self._last = [first for first, _, _ in found], [last for _, last, _ in found]
        self._numbers = [number for _, _, number in found]
        self._reach = list(accumulate(self._last, max))

    def in_order(self) -> list[int]:
        """Return the shards that hold images, in the order of the set."""
        return sorted(self._numbers)

    def holding(self, key: bytes) -> list[int]:
        """Return the shards whose range holds a key, in the order of the set."""
        place = bisect_right(self._first, key)
        found = []
        while place and self._reach[place - 1] >= key:
            place -= 1
            if self._last[place] >= key:
                found.append(self._numbers[place])
        return sorted(found)

    def nearest(self, key: bytes) -> int | None:
        """Return a shard with keys near a key; None if there are no keys."""
        if not self._numbers:
            return None
        place = bisect_left(self._first, key)
        return self._numbers[max(0, place - 1)]
