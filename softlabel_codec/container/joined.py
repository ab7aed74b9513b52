"""A file that is put together from whole blocks of others, and from new blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.block.columns import IntArray
from softlabel_codec.block.layout import BlockImages
from softlabel_codec.checks.limits import MAX_IMAGES
from softlabel_codec.container.adjacent_blocks import AdjacentBlocks
from softlabel_codec.container.behind import AppendBehind
from softlabel_codec.container.builder import Ending, pack_payload, write_ending
from softlabel_codec.container.files import PartialFile
from softlabel_codec.container.framing import TRAILER, Index, Trailer, pack_block
from softlabel_codec.container.key_pages import KeyPages
from softlabel_codec.container.open_container import OpenContainer
from softlabel_codec.container.scan import Beginning
from softlabel_codec.container.summary import pack_summary_of
from softlabel_codec.errors import CorruptError, LimitError

COPIED_BYTES = 2**22
"""Number of bytes that are read, checked and written at a time, unless one block has more."""
_NO_WORDS, _NO_HALVES = np.zeros(0, np.uint32), np.zeros(0, np.uint16)
_ENDING_BYTES = 256
"""Bytes of the summary, and of what surrounds other parts."""
_INDEX_BYTES_PER_BLOCK, _INDEX_BYTES_PER_IMAGE = 6, 2


class Joined(NamedTuple):
    """What is in a file that was put together.

    Attributes
    ----------
    trailer : Trailer
        Its end.
    first_key, last_key : bytes or None
        The smallest and the largest key; None if there are none.
    crop_counts : set of int
        The smallest and the largest number of crops of its images.
    """

    trailer: Trailer
    first_key: bytes | None
    last_key: bytes | None
    crop_counts: set[int]


class JoinedFile:
    """Puts a file together, in a `with` block. What to do with the file after that, or after an error, is its caller's business.

    Parameters
    ----------
    file : PartialFile
        The empty file.
    beginning : Beginning
        Its header and metadata.
    fast_keys : bool
        Whether pages of keys that are made anew are compressed less, in a small part of the time.

    Attributes
    ----------
    num_images, num_blocks : int
        Number of images and blocks so far.
    last_block_bytes : int
        Length of the last block.
    """

    def __init__(self, file: PartialFile, beginning: Beginning, *, fast_keys: bool = False) -> None:
        self.num_images = self.num_blocks = self.last_block_bytes = 0
        self._file, self._behind, self._beginning = file, AppendBehind(file), beginning
        self._layout = beginning.description.layout
        self._keys = KeyPages(fast=fast_keys)
        self._block_lengths: list[NDArray[np.uint32]] = []
        self._block_images: list[NDArray[np.uint16]] = []
        self._num_crops: list[NDArray[np.uint16]] = []
        self._behind.append(beginning.data)

    @property
    def expected_bytes(self) -> int:
        """About how long the file will be, if it is finished now."""
        ending = _ENDING_BYTES + self._keys.num_bytes + _INDEX_BYTES_PER_BLOCK * self.num_blocks + _INDEX_BYTES_PER_IMAGE * self.num_images
        return self._behind.length + ending + self._beginning.blocks_offset + TRAILER.size

    def __enter__(self) -> JoinedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._behind.close()

    def add_blocks(self, source: OpenContainer, first: int, end: int, progress: Callable[[int], None]) -> None:
        """Append the blocks of a file from one number up to another as they are, but for their numbers and checksums, which are checked.

        `progress` is called with numbers of images.

        Raises
        ------
        CorruptError
            If a block is damaged.
        """
        index = source.index
        for start, stop in _chunks(index.starts, first, end):
            lengths = np.diff(index.starts[start : stop + 1])
            buffer = self._behind.buffer(max(COPIED_BYTES, int(lengths.sum())))
            data = memoryview(buffer)[: int(lengths.sum())]
            source.source.read_into(int(index.starts[start]), data)
            blocks = AdjacentBlocks(data, lengths, source.beginning.metadata_crc32, start)
            damaged = blocks.first_damaged()
            if damaged is not None:
                raise _damage(source, start + damaged)
            blocks.move(self._beginning.metadata_crc32, self.num_blocks)
            self._behind.append(data, buffer)
            images = index.first_images[start : stop + 1]
            self._note(lengths, np.diff(images), index.num_crops[images[0] : images[-1]])
            progress(int(images[-1] - images[0]))
        self._keys.add_from(source.keys, int(index.first_images[first]), int(index.first_images[end]))

    def add_images(self, images: BlockImages) -> None:
        """Append a block of these images, whose labels are in the codec of this file."""
        block = pack_block(pack_payload(images, self._layout), self._beginning.metadata_crc32, self.num_blocks)
        self._behind.append(block)
        self._note(np.array([len(block)]), np.array([len(images.keys)]), images.num_crops)
        self._keys.add([key.encode() for key in images.keys])

    def _note(self, lengths: IntArray, block_images: IntArray, num_crops: IntArray) -> None:
        self.num_blocks += len(lengths)
        self.num_images += len(num_crops)
        self.last_block_bytes = int(lengths[-1])
        if self.num_images > MAX_IMAGES:
            raise LimitError(f"expected at most {MAX_IMAGES} images in a file. Write several (shards)")
        self._block_lengths.append(lengths.astype(np.uint32))
        self._block_images.append(block_images.astype(np.uint16))
        self._num_crops.append((num_crops - 1).astype(np.uint16))

    def finish(self, skipped_keys: Sequence[str]) -> Joined:
        """Append what follows the blocks; MismatchError if a key occurs twice."""
        keys = self._keys.finish()
        lengths, images = np.concatenate([_NO_WORDS, *self._block_lengths]), np.concatenate([_NO_HALVES, *self._block_images])
        index = Index(lengths, images, np.concatenate([_NO_HALVES, *self._num_crops]))
        summary = pack_summary_of(self._keys.digest.hexdigest(), skipped_keys)
        self._behind.wait()
        trailer = write_ending(self._file, self._beginning.data, Ending(keys.data, keys.ascend, summary, index))
        few, many = (int(crops) + 1 for crops in (index.crops_minus_1.min(initial=2**16 - 1), index.crops_minus_1.max(initial=0)))
        return Joined(trailer, keys.first, keys.last, {few, many} if self.num_images else set())


def _chunks(starts: IntArray, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of blocks that are read together."""
    while first < end:
        stop = min(end, max(first + 1, int(starts.searchsorted(starts[first] + COPIED_BYTES, side="right")) - 1))
        yield first, stop
        first = stop


def _damage(source: OpenContainer, block: int) -> CorruptError:
    """Raise the error that reading a block gives; return one if there is none, because the file is being changed."""
    source.blocks.content(block)
    return CorruptError(f"{source.source.path}: block {block} changed while it was being read")
