"""Where a copy that consists of several files goes on to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from softlabel_codec.container.joined import JoinedFile
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.label_set.making import images_of_shard

_TOLERANCE = 8
"""A file may have so many times less than its images more or fewer, if it then ends between two blocks."""
_INDEX_BYTES_PER_BLOCK, _INDEX_BYTES_PER_IMAGE = 6, 2


class Progressed(NamedTuple):
    """How far a copy is.

    Attributes
    ----------
    file : JoinedFile
        The file that is being made.
    number : int
        Its number.
    num_images : int
        Number of images of this file and all before it, including those that wait for their block.
    """

    file: JoinedFile
    number: int
    num_images: int


class Room(NamedTuple):
    """Which blocks of a source still belong in a file: those before `end`, and the first `images` images of that one."""

    end: int
    images: int = 0


class Division(Protocol):
    """Says when a file of the copy is full."""

    @property
    def num_files(self) -> int | None:
        """How many files there will be; None: as many as are needed."""

    def is_full(self, so_far: Progressed) -> bool:
        """Return whether nothing more belongs in the file."""

    def room(self, so_far: Progressed, source: OpenContainer, first: int, end: int) -> Room:
        """Return which blocks of a source, from a number up to another, belong in the file; perhaps none."""


@dataclass(frozen=True)
class OneFile:
    """All is one file."""

    num_files = 1

    def is_full(self, so_far: Progressed) -> bool:
        return False

    def room(self, so_far: Progressed, source: OpenContainer, first: int, end: int) -> Room:
        return Room(end)


@dataclass(frozen=True)
class ByNumber:
    """Files with about the same number of images (spec/set-v1.md, section 5), which end between two blocks where these are small."""

    num_images: int
    num_files: int

    def is_full(self, so_far: Progressed) -> bool:
        return so_far.number < self.num_files - 1 and so_far.num_images >= self._end(so_far.number)

    def room(self, so_far: Progressed, source: OpenContainer, first: int, end: int) -> Room:
        starts = source.index.first_images
        place = int(starts[first]) + self._end(so_far.number) - so_far.num_images
        if place >= starts[end]:
            return Room(end)
        block = int(starts.searchsorted(place, side="right")) - 1
        before, after = place - int(starts[block]), int(starts[block + 1]) - place
        if min(before, after) * _TOLERANCE * self.num_files <= self.num_images:
            return Room(block if before <= after else block + 1)
        return Room(block, before)

    def _end(self, number: int) -> int:
        return images_of_shard(self.num_images, number, self.num_files).stop


@dataclass(frozen=True)
class BySize:
    """Files of at most about so many bytes, unless one block has more."""

    most_bytes: int

    num_files = None

    def is_full(self, so_far: Progressed) -> bool:
        file = so_far.file
        return file.num_images > 0 and file.expected_bytes + file.last_block_bytes > self.most_bytes

    def room(self, so_far: Progressed, source: OpenContainer, first: int, end: int) -> Room:
        key_bytes = (source.trailer.summary_offset - source.trailer.keys_offset) / source.trailer.num_images
        images = np.diff(source.index.first_images[first : end + 1])
        each = np.diff(source.index.starts[first : end + 1]) + _INDEX_BYTES_PER_BLOCK + images * (_INDEX_BYTES_PER_IMAGE + key_bytes)
        fitting = int(np.cumsum(each).searchsorted(self.most_bytes - so_far.file.expected_bytes, side="right"))
        return Room(first + max(fitting, 0 if so_far.file.num_images else 1))
