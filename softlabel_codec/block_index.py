"""Which block holds an image, and where it is: what the index of a file says, checked (spec/container-v1.md, section 8)."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.errors import CorruptError
from softlabel_codec.frame import Index, Trailer
from softlabel_codec.limits import MAX_IMAGES_PER_BLOCK


class BlockIndex:
    """The index of a file, ready for looking up images. Everything is a numpy array: nothing is held per image as an object.

    Attributes
    ----------
    starts : int64 (num_blocks + 1,)
        Offset of each block in the file, and of the end of the last.
    first_images : int64 (num_blocks + 1,)
        Number of the first image of each block, and of all images.
    num_crops : int64 (num_images,)
        Crops of each image.

    Raises
    ------
    CorruptError
        If blocks, images or crops do not add up to what the trailer says.
    """

    def __init__(self, index: Index, blocks_offset: int, trailer: Trailer) -> None:
        self.starts = _offsets(blocks_offset, index.block_length)
        self.first_images = _offsets(0, index.block_images)
        self.num_crops: NDArray[np.int64] = index.crops_minus_1.astype(np.int64) + 1
        found = int(self.starts[-1]), int(self.first_images[-1]), int(self.num_crops.sum())
        if found != (trailer.keys_offset, trailer.num_images, trailer.num_crops):
            raise CorruptError("blocks, images or crops do not add up to what the trailer says")
        if trailer.num_blocks and not 1 <= int(index.block_images.min()) <= int(index.block_images.max()) <= MAX_IMAGES_PER_BLOCK:
            raise CorruptError(f"a block with no images, or more than {MAX_IMAGES_PER_BLOCK}")

        self._first_images = memoryview(self.first_images)  # type: ignore[arg-type]  # its items are plain integers

    def locate(self, number: int) -> tuple[int, int]:
        """Return the block of an image and its place there."""
        block = bisect_right(self._first_images, number) - 1
        return block, number - self._first_images[block]


def _offsets(start: int, lengths: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    return np.concatenate(([start], start + np.cumsum(lengths, dtype=np.int64)))
