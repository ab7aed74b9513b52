"""A container file under construction: blocks are appended, then keys, summary, index and trailer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softlabel_codec.block.columns import grouped, much_text
from softlabel_codec.block.layout import BlockImages, Layout
from softlabel_codec.checks.limits import max_content_bytes
from softlabel_codec.container.files import FileSource, PartialFile
from softlabel_codec.container.framing import KEYS_ASCEND, TRAILER, Index, Trailer, pack_block, pack_copy, pack_key_pages
from softlabel_codec.container.keys import key_order
from softlabel_codec.container.metadata import difference
from softlabel_codec.container.output_stream import OutputStream
from softlabel_codec.container.scan import Beginning, BlockScan, read_beginning
from softlabel_codec.container.summary import pack_summary
from softlabel_codec.container.zstd_frames import compress_columns, store_columns
from softlabel_codec.errors import CorruptError, FormatError, MismatchError


class Assembly:
    """Appends whole blocks to a file and keeps track of its contents.

    Attributes
    ----------
    image_crc32s : dict
        Key of each image so far, in order, and the CRC-32 of its file; None if these are not stored.
    num_blocks : int
        Number of blocks so far.
    """

    def __init__(self, file: PartialFile | OutputStream) -> None:
        self.image_crc32s: dict[str, int | None] = {}
        self._file = file
        self._beginning = b""
        self._block_lengths: list[int] = []
        self._block_images: list[int] = []
        self._num_crops: list[int] = []

    @property
    def num_blocks(self) -> int:
        return len(self._block_lengths)

    def begin(self, beginning: bytes) -> None:
        """Write header and metadata to an empty file."""
        self._beginning = beginning
        self._file.append(beginning)

    def add_images(self, images: BlockImages, layout: Layout, metadata_crc32: int) -> None:
        """Append a block of these images to a file with this layout and this checksum of its metadata."""
        crc32s = None if images.image_crc32s is None else images.image_crc32s.tolist()
        self.add_payload(pack_payload(images, layout), metadata_crc32, images.keys, images.num_crops.tolist(), crc32s)

    def add_payload(
        self, payload: bytes, metadata_crc32: int, keys: Sequence[str], num_crops: Sequence[int], crc32s: Sequence[int] | None = None
    ) -> None:
        """Append a block with this payload, which holds images with these keys, numbers of crops and checksums."""
        block = pack_block(payload, metadata_crc32, self.num_blocks)
        self._file.append(block)
        self._note(len(block), keys, num_crops, crc32s)

    def begin_or_continue(self, file: PartialFile, own: Beginning, *, discard_others: bool) -> None:
        """Start the file, or continue it if it was started with the same arguments.

        Parameters
        ----------
        file : PartialFile
            The file.
        own : Beginning
            Header and metadata of the new file.
        discard_others : bool
            Discard a file that was started otherwise, or cannot be read, instead of raising an error.

        Raises
        ------
        MismatchError
            If it was started with other arguments and holds whole blocks.
        FormatError
            If it is damaged at its beginning, or in the middle.
        """
        unfinished = FileSource(file.partial)
        try:
            found = _continued(file, unfinished, own, discard_others)
            if found is None:
                file.truncate(0)
                self.begin(own.data)
            else:
                self._adopt_blocks(file, unfinished, found)
        finally:
            unfinished.close()

    def _adopt_blocks(self, file: PartialFile, source: FileSource, beginning: Beginning) -> None:
        """Adopt the complete blocks at the beginning of the file, and cut off what follows them.

        Raises
        ------
        CorruptError
            If whole blocks follow further on: this is damage in the middle, and not an interrupted write.
        """
        self._beginning = beginning.data
        file.adopt(beginning.data)
        scan, end = BlockScan(source, beginning), beginning.blocks_offset
        for block in scan.prefix():
            file.adopt(block.data)
            images = block.images
            crc32s = None if images.image_crc32s is None else images.image_crc32s.tolist()
            self._note(len(block.data), images.keys, images.num_crops.tolist(), crc32s)
            end = block.end
        beyond = next(scan.after(end, self.num_blocks), None)
        if beyond is not None:
            advice = f"Save complete blocks with 'slcodec recover {source.path} OTHER.partial' and replace the file with them, or delete it"
            raise CorruptError(f"{source.path}: damaged at byte {end}, but complete blocks follow from byte {beyond.offset} on. {advice}")
        file.cut(end)

    def _note(self, block_length: int, keys: Sequence[str], num_crops: Sequence[int], crc32s: Sequence[int] | None) -> None:
        self._block_lengths.append(block_length)
        self._block_images.append(len(keys))
        self._num_crops.extend(num_crops)
        self.image_crc32s.update(zip(keys, [None] * len(keys) if crc32s is None else crc32s, strict=True))

    def leave(self) -> None:
        """Sync the file to disk as it is, without keys, index and trailer, and rename it to its final name."""
        self._file.finish()

    def finish(self, skipped_keys: Sequence[str]) -> None:
        """Write the sections after the blocks, sync the file to disk and rename it to its final name."""
        keys = [key.encode() for key in self.image_crc32s]
        order = key_order(keys)
        key_pages = pack_key_pages(keys, order)
        num_crops = np.array(self._num_crops, np.int64)
        index = Index(np.array(self._block_lengths, np.uint32), np.array(self._block_images, np.uint16), (num_crops - 1).astype(np.uint16))
        write_ending(self._file, self._beginning, Ending(key_pages, order is None, pack_summary(keys, skipped_keys), index))
        self._file.finish()


@dataclass(frozen=True)
class Ending:
    """What follows the blocks of a file, without what can be told from it.

    Attributes
    ----------
    key_pages : bytes
        The keys section.
    keys_ascend : bool
        Whether it has no image numbers by key, because the keys ascend.
    summary : bytes
        The summary section.
    index : Index
        The blocks and the images.
    """

    key_pages: bytes
    keys_ascend: bool
    summary: bytes
    index: Index


def write_ending(file: PartialFile | OutputStream, beginning: bytes, ending: Ending) -> Trailer:
    """Append all that follows the blocks to a file that starts with this header and these metadata, and return its trailer."""
    index = ending.index
    keys_offset = file.length
    file.append(ending.key_pages)
    summary_offset = file.length
    file.append(ending.summary)
    index_offset = file.length
    file.append(index.pack())
    copy_offset = file.length
    file.append(pack_copy(beginning))
    num_images = len(index.crops_minus_1)
    trailer = Trailer(
        keys_offset=keys_offset,
        summary_offset=summary_offset,
        index_offset=index_offset,
        copy_offset=copy_offset,
        file_length=file.length + TRAILER.size,
        num_images=num_images,
        num_blocks=len(index.block_length),
        num_crops=int(index.crops_minus_1.sum(dtype=np.int64)) + num_images,
        flags=KEYS_ASCEND if ending.keys_ascend else 0,
        sha256=file.sha256(),
    )
    file.append(trailer.pack())
    return trailer


def pack_payload(images: BlockImages, layout: Layout) -> bytes:
    """Return the payload of a block of these images."""
    columns = layout.pack(images)
    parts = [b"".join(column.data for column in group) for group in grouped(columns)]
    payload = compress_columns(parts, text=much_text(columns))
    if sum(map(len, parts)) > max_content_bytes(len(payload)):  # so uniform that a reader would mistake it for a decompression bomb
        return store_columns(parts)
    return payload


def _continued(file: PartialFile, unfinished: FileSource, own: Beginning, discard_others: bool) -> Beginning | None:
    """Return the beginning of the unfinished file if it is to be continued, None if it holds nothing to keep."""
    if unfinished.length < len(own.data) and own.data.startswith(unfinished.read_at(0, unfinished.length)):
        return None  # nothing yet, or killed before the metadata was written
    try:
        found = read_beginning(unfinished)
    except FormatError:
        if next(BlockScan(unfinished, own).all(), None) is not None:  # their checksums include that of these metadata
            file.replace_beginning(own.data)
            return own
        if discard_others:
            return None
        raise
    if found.data == own.data:
        return found
    if discard_others or next(BlockScan(unfinished, found).all(), None) is None:
        return None
    what = difference(found.description, own.description)
    raise MismatchError(f"{unfinished.path}: was started with other arguments: {what}. Pass the same, or overwrite=True (--overwrite)")
