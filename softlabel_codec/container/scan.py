"""Reads the valid parts of an unfinished or damaged file without its index: header, metadata and whole blocks.

This is used to continue an unfinished file, and to recover any file (spec/container-v1.md, section 10.1).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from softlabel_codec.block.layout import BlockImages
from softlabel_codec.container.files import Source, located
from softlabel_codec.container.framing import BLOCK_HEAD, HEADER, MARKER, TRAILER, Header, Trailer, block_content, block_place, unpack_copy
from softlabel_codec.container.metadata import Description
from softlabel_codec.errors import CorruptError, FormatError, TruncatedError

SEARCHED_BYTES = 2**20
"""Number of bytes that are searched for the next block at a time."""
CHECKED_PER_BYTE = 4
"""After damage, at most this many bytes of possible blocks are checked for each byte of the file."""


@dataclass(frozen=True)
class Beginning:
    """Header and metadata of a file.

    Attributes
    ----------
    header : Header
        The header.
    description : Description
        The parsed metadata section.
    data : bytes
        Both sections as they are in the file.
    """

    header: Header
    description: Description
    data: bytes

    @property
    def blocks_offset(self) -> int:
        """Where the first block begins."""
        return len(self.data)

    @property
    def metadata_crc32(self) -> int:
        """Checksum of the metadata, which is part of that of every block."""
        return self.header.metadata_crc32


@dataclass(frozen=True)
class WholeBlock:
    """A block that passed its checksum, and holds images and labels.

    Attributes
    ----------
    number, offset : int
        Its number in the file, and where it begins.
    data : bytes
        The whole block.
    images : BlockImages
        Its contents.
    """

    number: int
    offset: int
    data: bytes
    images: BlockImages

    @property
    def end(self) -> int:
        """Where the next block begins."""
        return self.offset + len(self.data)


def read_beginning(source: Source) -> Beginning:
    """Return header and metadata of a file, or raise a FormatError that names the file."""
    try:
        start = source.read_at(0, min(HEADER.size, source.length))
        header = Header.unpack(start)
        if HEADER.size + header.metadata_length > source.length:
            raise TruncatedError(f"the file ends within its metadata: expected {header.metadata_length} bytes")
        return _beginning(start + source.read_at(HEADER.size, header.metadata_length))
    except FormatError as error:
        raise located(error, source) from None


def read_copy(source: Source) -> Beginning:
    """Return header and metadata from the copy at the end of a finished file, or raise a FormatError."""
    size = min(TRAILER.size, source.length)
    trailer = Trailer.unpack(source.read_at(source.length - size, size), source.length)
    return _beginning(unpack_copy(source.read_at(trailer.copy_offset, trailer.trailer_offset - trailer.copy_offset)))


def _beginning(data: bytes) -> Beginning:
    """Return header and metadata from their bytes, or raise a FormatError."""
    header = Header.unpack(data)
    metadata = data[HEADER.size :]
    if len(metadata) != header.metadata_length or zlib.crc32(metadata) != header.metadata_crc32:
        raise CorruptError("checksum of the metadata differs")
    return Beginning(header, Description.unpack(metadata, header.incompatible_features), data)


class BlockScan:
    """Reads the blocks of a file in order, without its index.

    Parameters
    ----------
    source : Source
        The file.
    beginning : Beginning
        Its header and metadata.
    """

    def __init__(self, source: Source, beginning: Beginning) -> None:
        self._source, self._beginning = source, beginning
        self._layout = beginning.description.layout
        self._keys: set[str] = set()

    def prefix(self) -> Iterator[WholeBlock]:
        """Yield the whole blocks at the beginning of the file, up to the first position that does not hold the next one."""
        offset, number = self._beginning.blocks_offset, 0
        while (block := self._block(offset, number)) is not None and block.number == number:
            yield block
            offset, number = block.end, number + 1

    def all(self) -> Iterator[WholeBlock]:
        """Yield all whole blocks of the file, including those after damage."""
        yield from self.after(self._beginning.blocks_offset, 0)

    def after(self, offset: int, number: int) -> Iterator[WholeBlock]:
        """Yield all whole blocks from `offset` on whose numbers ascend from at least `number`."""
        allowed = CHECKED_PER_BYTE * self._source.length
        while True:
            block = self._block(offset, number)
            places = self._markers(offset + 1)
            while block is None:
                place = next(places, None)
                if place is None:
                    return
                allowed -= self._claimed_bytes(place)
                if allowed < 0:  # blocks claimed inside blocks, again and again, must not take more time
                    return
                block = self._block(place, number)
            yield block
            offset, number = block.end, block.number + 1

    def _block(self, offset: int, lowest: int) -> WholeBlock | None:
        """Return the block at `offset` if it is valid, has at least that number, and no key that was seen before; else None."""
        try:
            number, data = self._read(offset)
            if number < lowest:
                return None
            images = self._layout.unpack_all(block_content(data, self._beginning.metadata_crc32, number))
            self._layout.quantiser.dequantise(images.codes, self._layout.codec.policy)  # raises if they are not valid labels
        except FormatError:
            return None
        keys = set(images.keys)
        if len(keys) < len(images.keys) or not keys.isdisjoint(self._keys):
            return None
        self._keys |= keys
        return WholeBlock(number, offset, data, images)

    def _read(self, offset: int) -> tuple[int, bytes]:
        """Return number and bytes of the block at `offset`, according to its head."""
        if offset + BLOCK_HEAD.size > self._source.length:
            raise TruncatedError("the file ends within a block")
        number, length = block_place(self._source.read_at(offset, BLOCK_HEAD.size))
        if offset + length > self._source.length:
            raise TruncatedError("the file ends within a block")
        return number, self._source.read_at(offset, length)

    def _claimed_bytes(self, offset: int) -> int:
        """Return the length that the head of a block at `offset` states; 0 if there is none."""
        try:
            length = block_place(self._source.read_at(offset, BLOCK_HEAD.size))[1]
        except FormatError:
            return 0
        return length if offset + length <= self._source.length else 0

    def _markers(self, offset: int) -> Iterator[int]:
        """Yield the positions of block markers from `offset` on."""
        start = offset
        while start < self._source.length:
            part = self._source.read_at(start, min(SEARCHED_BYTES, self._source.length - start))
            place = part.find(MARKER)
            while place >= 0:
                yield start + place
                place = part.find(MARKER, place + 1)
            start += max(1, len(part) - len(MARKER) + 1)
