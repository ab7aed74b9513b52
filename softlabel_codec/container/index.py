"""The blocks of a finished file: which one holds an image, where it is (spec/container-v1.md, section 8), and its checked content."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.limits import MAX_IMAGES_PER_BLOCK
from softlabel_codec.container.files import Source, located
from softlabel_codec.container.framing import Index, Trailer, block_content
from softlabel_codec.errors import CorruptError, FormatError


class BlockIndex:
    """The index of a file, prepared for looking up images. Everything is a numpy array: there is no Python object per image.

    Attributes
    ----------
    starts : int64 (num_blocks + 1,)
        Offset of each block in the file, and of the end of the last.
    first_images : int64 (num_blocks + 1,)
        Number of the first image of each block, and the total number of images.
    num_crops : int64 (num_images,)
        Number of crops of each image.

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
        """Return the block of an image and its position there."""
        block = bisect_right(self._first_images, number) - 1
        return block, number - self._first_images[block]


class Blocks:
    """Contents of the blocks of a file, found by its index.

    Parameters
    ----------
    source : Source
        The file.
    index : BlockIndex
        Where its blocks are.
    metadata_crc32 : int
        Checksum of its metadata, which is part of that of every block.
    """

    def __init__(self, source: Source, index: BlockIndex, metadata_crc32: int) -> None:
        self.index = index
        self._source, self._metadata_crc32 = source, metadata_crc32
        self._kept = -1, b""

    def content(self, block: int) -> bytes:
        """Return the checked, decompressed content of a block. The last one is cached: adjacent images are often read one after another."""
        kept_block, content = self._kept
        if block == kept_block:
            return content
        start, end = self.index.starts[block : block + 2].tolist()
        data = self._source.read_at(start, end - start)
        try:
            content = block_content(data, self._metadata_crc32, block)
        except FormatError as error:
            raise self.located(error, block) from None
        self._kept = block, content
        return content

    def read(self, blocks: NDArray[np.int64]) -> list[bytes]:
        """Return several blocks as they are in the file."""
        starts = self.index.starts[blocks]
        lengths = self.index.starts[blocks + 1] - starts
        return self._source.read_many(starts.tolist(), lengths.tolist())

    def located(self, error: FormatError, block: int) -> FormatError:
        """Return the same error with the file, the block and its images before its text."""
        first, last = int(self.index.first_images[block]), int(self.index.first_images[block + 1]) - 1
        images = f"image {first}" if first == last else f"images {first} to {last}"
        return located(error, self._source, f"block {block} at byte {int(self.index.starts[block])}, {images}")

    def forget(self) -> None:
        """Release the memory of the cached content."""
        self._kept = -1, b""


def _offsets(start: int, lengths: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    return np.concatenate(([start], start + np.cumsum(lengths, dtype=np.int64)))
