"""A container taken to pieces, and put together again with every length and checksum right: for defects that no checksum shows."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgpack
import numpy as np
import zstandard

from softlabel_codec.container.framing import BLOCK_HEAD, CRC, MAGIC, MARKER, TRAILER, Header, num_pages

TRAILER_FIELDS = (
    "keys_offset",
    "summary_offset",
    "index_offset",
    "copy_offset",
    "file_length",
    "num_images",
    "num_blocks",
    "num_crops",
    "flags",
)


def compressed(content: bytes) -> bytes:
    """Return a zstd frame of a content, its size stated."""
    return zstandard.ZstdCompressor(level=3).compress(content)


@dataclass
class Pieces:
    """The parts of a container, each without what follows from the others.

    Change them, then `join`. What is given in `header`, `trailer` and `heads` replaces a field of these after everything else
    has been worked out; their checksums are made to fit.

    Attributes
    ----------
    metadata : bytes
        The metadata section.
    payloads : list of bytes
        What stands in each block after its head.
    pages : list of bytes
        Pages of keys, then pages of their order: zstd frames.
    summary : bytes
        The msgpack map, without its checksum.
    index : bytes or None
        The content of the index, not compressed; None: made from `block_images` and `crops_minus_1`.
    index_frame : bytes or None
        The zstd frame of the index; None: made from its content.
    copy_frame : bytes or None
        The copy of header and metadata; None: made from these.
    block_images, crops_minus_1 : list of int
        Columns of the index.
    """

    metadata: bytes
    payloads: list[bytes]
    pages: list[bytes]
    summary: bytes
    block_images: list[int]
    crops_minus_1: list[int]
    index: bytes | None = None
    index_frame: bytes | None = None
    copy_frame: bytes | None = None
    header: dict[str, int] = field(default_factory=dict)
    trailer: dict[str, int | bytes] = field(default_factory=dict)
    heads: dict[int, dict[str, int | bytes]] = field(default_factory=dict)
    page_table: bytes | None = None
    flags: int = 0

    @classmethod
    def of(cls, path: Path) -> Pieces:
        """Take a sound file to pieces."""
        return cls.split(path.read_bytes())

    @classmethod
    def split(cls, data: bytes) -> Pieces:
        """Take the bytes of a sound file to pieces."""
        header = Header.unpack(data)
        blocks_offset = 32 + header.metadata_length
        trailer = dict(zip(TRAILER_FIELDS, TRAILER.unpack(data[-TRAILER.size :]), strict=False))
        keys_offset, summary_offset, index_offset, copy_offset = (trailer[name] for name in TRAILER_FIELDS[:4])
        num_images, num_blocks = trailer["num_images"], trailer["num_blocks"]
        index = zstandard.decompress(data[index_offset + 4 : copy_offset]) if num_blocks else b""
        lengths = np.frombuffer(index, "<u4", num_blocks).tolist()
        images = np.frombuffer(index, "<u2", num_blocks, 4 * num_blocks).tolist()
        crops = np.frombuffer(index, "<u2", num_images, 6 * num_blocks).tolist()
        starts = np.cumsum([blocks_offset, *lengths]).tolist()
        payloads = [data[start + BLOCK_HEAD.size : end] for start, end in pairwise(starts)]
        pages_at = keys_offset + 4 + 8 * sum(num_pages(num_images, bool(trailer["flags"] & 1)))
        table = struct.iter_unpack("<II", data[keys_offset + 4 : pages_at])
        ends = np.cumsum([pages_at, *(length for length, _ in table)]).tolist()
        pages = [data[start:end] for start, end in pairwise(ends)]
        summary = data[summary_offset + 4 : index_offset]
        features = {"incompatible_features": header.incompatible_features}
        return cls(data[32:blocks_offset], payloads, pages, summary, images, crops, header=features, flags=trailer["flags"])

    def content(self, block: int = 0) -> bytes:
        """Return the content of a block."""
        return zstandard.decompress(self.payloads[block])

    def set_content(self, content: bytes, block: int = 0) -> None:
        """Give a block another content."""
        self.payloads[block] = compressed(content)

    def values(self) -> dict:
        """Return the map of the metadata section."""
        return msgpack.unpackb(self.metadata)

    def set_values(self, **values: object) -> None:
        """Change keys of the metadata section; those set to `...` are taken out."""
        changed = {name: value for name, value in {**self.values(), **values}.items() if value is not ...}
        self.metadata = msgpack.packb(changed)

    def keys(self) -> list[bytes]:
        """Return the keys of the keys part."""
        found = []
        for page in self.pages[: num_pages(len(self.crops_minus_1), True)[0]]:
            content = zstandard.decompress(page)
            count = min(512, len(self.crops_minus_1) - len(found))
            ends = np.cumsum([2 * count, *np.frombuffer(content, "<u2", count).tolist()]).tolist()
            found += [content[start:end] for start, end in pairwise(ends)]
        return found

    def join(self) -> bytes:
        """Return the whole file."""
        header = {"metadata_length": len(self.metadata), "metadata_crc32": zlib.crc32(self.metadata), **self.header}
        beginning = Header(**header).pack() + self.metadata
        blocks = [self._block(number, header["metadata_crc32"]) for number in range(len(self.payloads))]
        table = self.page_table
        if table is None:
            table = b"".join(struct.pack("<II", len(page), zlib.crc32(page)) for page in self.pages)
        keys = CRC.pack(zlib.crc32(table)) + table + b"".join(self.pages)
        summary = CRC.pack(zlib.crc32(self.summary)) + self.summary
        index = self.index_frame
        if index is None:
            index = compressed(self._index([len(block) for block in blocks]) if self.index is None else self.index)
        index = CRC.pack(zlib.crc32(index)) + index
        keys_offset = len(beginning) + sum(map(len, blocks))
        summary_offset = keys_offset + len(keys)
        index_offset = summary_offset + len(summary)
        copy = compressed(beginning[len(MAGIC) :]) if self.copy_frame is None else self.copy_frame
        body = b"".join([beginning, *blocks, keys, summary, index, copy])
        num_crops = sum(self.crops_minus_1) + len(self.crops_minus_1)
        offsets = (keys_offset, summary_offset, index_offset, index_offset + len(index), len(body) + TRAILER.size)
        counts = (len(self.crops_minus_1), len(self.payloads), num_crops, self.flags)
        fields = {**dict(zip(TRAILER_FIELDS, offsets + counts, strict=True)), "sha256": hashlib.sha256(body).digest(), **self.trailer}
        start = TRAILER.pack(*(fields[name] for name in (*TRAILER_FIELDS, "sha256")), 0, MAGIC)[:-12]
        return body + start + CRC.pack(fields.get("trailer_crc32", zlib.crc32(start))) + fields.get("magic", MAGIC)

    def _index(self, block_lengths: list[int]) -> bytes:
        columns = ((block_lengths, "<u4"), (self.block_images, "<u2"), (self.crops_minus_1, "<u2"))
        return b"".join(np.array(column, dtype).tobytes() for column, dtype in columns)

    def crc32_of(self, block: int) -> int:
        """Return the checksum of a block as it stands."""
        return int.from_bytes(self._block(block, zlib.crc32(self.metadata))[12:16], "little")

    def _block(self, number: int, metadata_crc32: int) -> bytes:
        payload, head = self.payloads[number], self.heads.get(number, {})
        number, length = head.get("number", number), head.get("payload_length", len(payload))
        crc32 = zlib.crc32(struct.pack("<III", metadata_crc32, number, length) + payload)
        return BLOCK_HEAD.pack(head.get("marker", MARKER), number, length, head.get("block_crc32", crc32)) + payload
