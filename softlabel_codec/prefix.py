"""What is sound at the beginning of a file: header, metadata and whole blocks, read without index or trailer.

This is how an unfinished file is continued or recovered (spec/container-v1.md, section 9.1).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from softlabel_codec.description import Description
from softlabel_codec.errors import CorruptError, FormatError, TruncatedError
from softlabel_codec.frame import BLOCK_HEAD, HEADER, Header, block_content, block_length
from softlabel_codec.pack.block import BlockImages
from softlabel_codec.quantise.codes import label_quantiser
from softlabel_codec.store import FileSource, located


@dataclass(frozen=True)
class Beginning:
    """Header and metadata of a file.

    Attributes
    ----------
    header : Header
        The header.
    description : Description
        What the metadata section says.
    data : bytes
        Both sections as they stand in the file.
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
        """Checksum of the metadata, which enters that of every block."""
        return self.header.metadata_crc32


@dataclass(frozen=True)
class WholeBlock:
    """A block that passed its checksum.

    Attributes
    ----------
    number, offset : int
        Its number in the file, and where it begins.
    data : bytes
        The whole block.
    images : BlockImages
        What it holds.
    """

    number: int
    offset: int
    data: bytes
    images: BlockImages


def read_beginning(source: FileSource) -> Beginning:
    """Return header and metadata of a file, or raise a FormatError that names the file."""
    try:
        start = source.read_at(0, min(HEADER.size, source.length))
        header = Header.unpack(start)
        if HEADER.size + header.metadata_length > source.length:
            raise TruncatedError(f"the file ends within its metadata: expected {header.metadata_length} bytes")
        packed = source.read_at(HEADER.size, header.metadata_length)
        if zlib.crc32(packed) != header.metadata_crc32:
            raise CorruptError("checksum of the metadata differs")
        return Beginning(header, Description.unpack(packed), start + packed)
    except FormatError as error:
        raise located(error, source) from None


def read_blocks(source: FileSource, beginning: Beginning) -> Iterator[WholeBlock]:
    """Yield the whole blocks at the beginning of a file, in order, up to the first place where none stands."""
    layout = beginning.description.layout
    quantiser = label_quantiser(layout.codec, layout.num_classes)
    offset, number, previous_key = beginning.blocks_offset, 0, ""
    keys: set[str] = set()
    try:
        while offset < source.length:
            data = _read_block(source, offset)
            images = layout.unpack_all(block_content(data, beginning.metadata_crc32, number), previous_key)
            quantiser.dequantise(images.codes, layout.codec.policy)  # raises if they are no labels
            num_before = len(keys)
            keys.update(images.keys)
            if len(keys) < num_before + len(images.keys):
                return  # a key stands twice
            yield WholeBlock(number, offset, data, images)
            offset, number, previous_key = offset + len(data), number + 1, images.keys[-1]
    except FormatError:
        return


def _read_block(source: FileSource, offset: int) -> bytes:
    if offset + BLOCK_HEAD.size > source.length:
        raise TruncatedError("the file ends within a block")
    length = block_length(source.read_at(offset, BLOCK_HEAD.size))
    if offset + length > source.length:
        raise TruncatedError("the file ends within a block")
    return source.read_at(offset, length)
