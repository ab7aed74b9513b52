"""A container file under construction: blocks are appended, then keys, summary, index and trailer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from softlabel_codec.compress import compress_columns, store_columns
from softlabel_codec.frame import KEYS_ASCEND, TRAILER, Index, Trailer, pack_block, pack_key_pages
from softlabel_codec.keys import key_order
from softlabel_codec.limits import max_content_bytes
from softlabel_codec.pack.block import BlockImages, Layout
from softlabel_codec.pack.columns import grouped, much_text
from softlabel_codec.prefix import Beginning, read_blocks
from softlabel_codec.store import FileSource, PartialFile
from softlabel_codec.summary import pack_summary


class Assembly:
    """Appends whole blocks to a partial file and knows what is in it.

    Attributes
    ----------
    keys : dict
        Keys of all images so far, in order; the values mean nothing.
    num_blocks : int
        Blocks so far.
    last_key : str
        Key of the last image, empty before the first.
    """

    def __init__(self, file: PartialFile) -> None:
        self.keys: dict[str, None] = {}
        self.last_key = ""
        self._file = file
        self._block_lengths: list[int] = []
        self._block_images: list[int] = []
        self._crop_counts: list[int] = []

    @property
    def num_blocks(self) -> int:
        return len(self._block_lengths)

    def begin(self, beginning: bytes) -> None:
        """Write header and metadata to an empty file."""
        self._file.append(beginning)

    def add_block(self, block: bytes, keys: Sequence[str], counts: Iterable[int]) -> None:
        """Append a whole block that holds images with these keys and numbers of crops."""
        self._file.append(block)
        self._note(block, keys, counts)

    def add_images(self, images: BlockImages, layout: Layout, metadata_crc32: int) -> None:
        """Append a block of these images to a file of that layout, whose metadata have that checksum."""
        columns = layout.pack(images, self.last_key)
        parts = [b"".join(column.data for column in group) for group in grouped(columns)]
        payload = compress_columns(parts, text=much_text(columns))
        if sum(map(len, parts)) > max_content_bytes(len(payload)):  # so uniform that a reader would take it for a decompression bomb
            payload = store_columns(parts)
        self.add_block(pack_block(payload, metadata_crc32, self.num_blocks), images.keys, images.counts.tolist())

    def adopt_blocks(self, source: FileSource, beginning: Beginning) -> None:
        """Take over the whole blocks that the file already begins with, and cut off what stands after them."""
        self._file.adopt(beginning.data)
        for block in read_blocks(source, beginning):
            self._file.adopt(block.data)
            self._note(block.data, block.images.keys, block.images.counts.tolist())
        self._file.truncate(beginning.blocks_offset + sum(self._block_lengths))

    def _note(self, block: bytes, keys: Sequence[str], counts: Iterable[int]) -> None:
        self._block_lengths.append(len(block))
        self._block_images.append(len(keys))
        self._crop_counts.extend(counts)
        self.keys.update(dict.fromkeys(keys))
        self.last_key = keys[-1]

    def finish(self, skipped_keys: Sequence[str]) -> None:
        """Write what comes after the blocks, put the file on disk and give it its name."""
        keys = [key.encode() for key in self.keys]
        order = key_order(keys)
        keys_offset = self._file.length
        self._file.append(pack_key_pages(keys, order))
        summary_offset = self._file.length
        self._file.append(pack_summary(keys, skipped_keys))
        index_offset = self._file.length
        counts = np.array(self._crop_counts, np.int64)
        block_columns = np.array(self._block_lengths, np.uint32), np.array(self._block_images, np.uint16)
        self._file.append(Index(*block_columns, (counts - 1).astype(np.uint16)).pack())
        trailer = Trailer(
            keys_offset=keys_offset,
            summary_offset=summary_offset,
            index_offset=index_offset,
            file_length=self._file.length + TRAILER.size,
            num_images=len(keys),
            num_blocks=self.num_blocks,
            num_crops=int(counts.sum()),
            flags=KEYS_ASCEND if order is None else 0,
            sha256=self._file.sha256(),
        )
        self._file.append(trailer.pack())
        self._file.finish()
