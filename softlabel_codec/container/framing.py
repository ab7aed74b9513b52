"""The byte layout of the container: header, block frames, keys, summary, index, copy, trailer (spec/container-v1.md).

Bytes in, bytes out: nothing here touches a file. Errors say what is wrong; the caller adds the file and the position.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabel_codec.checks.limits import (
    MAX_IMAGES,
    MAX_IMAGES_PER_BLOCK,
    MAX_KEY_BYTES,
    MAX_METADATA_BYTES,
    MAX_PAYLOAD_BYTES,
    max_content_bytes,
)
from softlabel_codec.container.key_text import KeyText
from softlabel_codec.container.zstd_frames import compress_columns, decompress, decompress_many
from softlabel_codec.errors import CorruptError, LimitError, NewerVersionError, NotAContainerError, TruncatedError, UnknownFeatureError

MAGIC = b"\x89SLC\r\n\x1a\n"
MAJOR, MINOR = 1, 0
MARKER = b"SLBK"
KEYS_PER_PAGE = 512
ORDER_PER_PAGE = 4096
KEYS_ASCEND = 1
PADDING_FEATURE = 1
"""Bit of the incompatible features: images are padded."""

HEADER = struct.Struct("<8sHHIIIII")
_MAJOR = struct.Struct("<8sH")
BLOCK_HEAD = struct.Struct("<4sIII")
TRAILER = struct.Struct("<QQQQQQQQI32sI8s")
CRC = struct.Struct("<I")
_BLOCK_SEED = struct.Struct("<III")
MIN_BLOCK_BYTES = BLOCK_HEAD.size + 1


@dataclass(frozen=True)
class Header:
    """The beginning of a file (section 3)."""

    metadata_length: int
    metadata_crc32: int
    major: int = MAJOR
    minor: int = MINOR
    incompatible_features: int = 0
    compatible_features: int = 0

    @property
    def version(self) -> str:
        """Version of the format, as text."""
        return f"{self.major}.{self.minor}"

    def pack(self) -> bytes:
        """Return the 32 bytes of the header."""
        versions = (self.major, self.minor, self.incompatible_features, self.compatible_features)
        start = HEADER.pack(MAGIC, *versions, self.metadata_length, self.metadata_crc32, 0)[:-4]
        return start + CRC.pack(zlib.crc32(start))

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Return the header in the first bytes of a file, checked in the order that the specification requires."""
        if not data.startswith(MAGIC[: len(data)]):
            raise NotAContainerError(f"expected a softlabel container to begin with {MAGIC!r}, got {data[:8]!r}")
        if len(data) >= _MAJOR.size and _MAJOR.unpack_from(data)[1] != MAJOR:
            raise NewerVersionError(f"format version {_MAJOR.unpack_from(data)[1]}: expected {MAJOR}. Update softlabel_codec")
        if len(data) < HEADER.size:
            raise TruncatedError(f"the file ends within its header: expected {HEADER.size} bytes, got {len(data)}")
        _, major, minor, incompatible, compatible, length, metadata_crc32, header_crc32 = HEADER.unpack(data[: HEADER.size])
        if zlib.crc32(data[: HEADER.size - 4]) != header_crc32:
            raise CorruptError("checksum of the header differs")
        if unknown := incompatible & ~PADDING_FEATURE:
            bits = ", ".join(str(bit) for bit in range(32) if unknown >> bit & 1)
            raise UnknownFeatureError(f"the file needs unknown feature bit {bits}. Update softlabel_codec")
        if not 1 <= length <= MAX_METADATA_BYTES:
            raise LimitError(f"metadata_length: expected 1 to {MAX_METADATA_BYTES}, got {length}")
        return cls(length, metadata_crc32, major, minor, incompatible, compatible)


def pack_block(payload: bytes, metadata_crc32: int, number: int) -> bytes:
    """Return a whole block around a payload (section 5.1)."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LimitError(f"block {number}: expected a payload of at most {MAX_PAYLOAD_BYTES} bytes, got {len(payload)}")
    return BLOCK_HEAD.pack(MARKER, number, len(payload), _block_crc32(payload, metadata_crc32, number)) + payload


def block_place(head: bytes) -> tuple[int, int]:
    """Return the number and the length of a whole block, from its first 16 bytes."""
    marker, number, payload_length, _ = BLOCK_HEAD.unpack_from(head)
    if marker != MARKER:
        raise CorruptError(f"expected a block to begin with {MARKER!r}, got {marker!r}")
    if not 1 <= payload_length <= MAX_PAYLOAD_BYTES:
        raise LimitError(f"payload_length: expected 1 to {MAX_PAYLOAD_BYTES}, got {payload_length}")
    return int(number), BLOCK_HEAD.size + int(payload_length)


def block_content(block: bytes, metadata_crc32: int, number: int) -> bytes:
    """Return the decompressed content of a whole block, after checking its marker, length, number and checksum, in this order."""
    if len(block) < BLOCK_HEAD.size:
        raise CorruptError(f"block {number}: expected at least {MIN_BLOCK_BYTES} bytes, got {len(block)}")
    found, length = block_place(block)
    if length != len(block):
        raise CorruptError(f"block {number}: expected a payload of {len(block) - BLOCK_HEAD.size} bytes, as the index says")
    if found != number:
        raise CorruptError(f"block {number}: expected this number, got {found}")
    payload = block[BLOCK_HEAD.size :]
    if BLOCK_HEAD.unpack_from(block)[3] != _block_crc32(payload, metadata_crc32, number):
        raise CorruptError(f"checksum of block {number} differs")
    return decompress(payload, max_content_bytes(len(payload)))


def block_contents(blocks: Sequence[bytes], metadata_crc32: int, numbers: Sequence[int]) -> list[bytes]:
    """Return `block_content` of several blocks, with little overhead for each."""
    crc32, seed, unpack = zlib.crc32, _BLOCK_SEED.pack, BLOCK_HEAD.unpack_from
    payloads = []
    for block, number in zip(blocks, numbers, strict=True):
        payload = block[BLOCK_HEAD.size :]
        length = len(payload)
        if not length or unpack(block) != (MARKER, number, length, crc32(payload, crc32(seed(metadata_crc32, number, length)))):
            block_content(block, metadata_crc32, number)  # says what is wrong
        payloads.append(payload)
    return decompress_many(payloads, [max_content_bytes(len(payload)) for payload in payloads])


def _block_crc32(payload: bytes, metadata_crc32: int, number: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_BLOCK_SEED.pack(metadata_crc32, number, len(payload))))


def with_crc32(data: bytes) -> bytes:
    """Return `data` preceded by its CRC-32."""
    return CRC.pack(zlib.crc32(data)) + data


def without_crc32(data: bytes, what: str) -> bytes:
    """Return the data after a CRC-32, checked; `what` names them in the error."""
    if len(data) < CRC.size or CRC.unpack_from(data)[0] != zlib.crc32(data[CRC.size :]):
        raise CorruptError(f"checksum of the {what} differs")
    return data[CRC.size :]


@dataclass(frozen=True)
class Index:
    """The blocks of a file and their images (section 8).

    Attributes
    ----------
    block_length : uint32 (num_blocks,)
        Length of each whole block in bytes.
    block_images : uint16 (num_blocks,)
        Images in each block.
    crops_minus_1 : uint16 (num_images,)
        Number of crops of each image, less 1.
    """

    block_length: NDArray[np.uint32]
    block_images: NDArray[np.uint16]
    crops_minus_1: NDArray[np.uint16]

    def pack(self) -> bytes:
        """Return the index section."""
        columns = [self.block_length.astype("<u4"), self.block_images.astype("<u2"), self.crops_minus_1.astype("<u2")]
        return with_crc32(compress_columns(column.tobytes() for column in columns))

    @classmethod
    def unpack(cls, data: bytes, num_blocks: int, num_images: int) -> Index:
        """Return the index in an index section of a file with this many blocks and images."""
        size = 6 * num_blocks + 2 * num_images
        content = decompress(without_crc32(data, "index"), size)
        if len(content) != size:
            raise CorruptError(f"index: expected {size} bytes for {num_blocks} blocks and {num_images} images, got {len(content)}")
        images_at = 4 * num_blocks
        return cls(
            np.frombuffer(content, "<u4", num_blocks),
            np.frombuffer(content, "<u2", num_blocks, images_at),
            np.frombuffer(content, "<u2", num_images, images_at + 2 * num_blocks),
        )


@dataclass(frozen=True)
class Trailer:
    """The end of a finished file (section 10)."""

    keys_offset: int
    summary_offset: int
    index_offset: int
    copy_offset: int
    file_length: int
    num_images: int
    num_blocks: int
    num_crops: int
    flags: int
    sha256: bytes

    @property
    def trailer_offset(self) -> int:
        """Where the trailer begins."""
        return self.file_length - TRAILER.size

    def pack(self) -> bytes:
        """Return the 112 bytes of the trailer."""
        offsets = (self.keys_offset, self.summary_offset, self.index_offset, self.copy_offset, self.file_length)
        counts = (self.num_images, self.num_blocks, self.num_crops, self.flags)
        start = TRAILER.pack(*offsets, *counts, self.sha256, 0, MAGIC)[:-12]
        return start + CRC.pack(zlib.crc32(start)) + MAGIC

    @classmethod
    def unpack(cls, data: bytes, file_length: int, blocks_offset: int = HEADER.size) -> Trailer:
        """Return the trailer in the last bytes of a file of that length whose blocks begin at or after `blocks_offset`."""
        if len(data) < TRAILER.size or not data.endswith(MAGIC):
            raise TruncatedError("the file does not end with a trailer: it is cut off, or was never finished")
        *fields, crc32, _ = TRAILER.unpack(data[-TRAILER.size :])
        trailer = cls(*fields)
        if crc32 != zlib.crc32(data[-TRAILER.size : -12]):
            raise CorruptError("checksum of the trailer differs")
        trailer._check(file_length, blocks_offset)
        return trailer

    def _check(self, file_length: int, blocks_offset: int) -> None:
        if self.file_length > file_length:
            raise TruncatedError(f"expected a file of {self.file_length} bytes, got {file_length}")
        parts = (blocks_offset, self.keys_offset, self.summary_offset, self.index_offset, self.copy_offset, self.trailer_offset)
        if self.file_length != file_length or list(parts) != sorted(parts):
            raise CorruptError(f"the parts of the file do not fit into its {file_length} bytes")
        if self.flags & ~KEYS_ASCEND:
            raise UnknownFeatureError(f"unknown trailer flags {self.flags:#x}. Update softlabel_codec")
        if self.num_images > MAX_IMAGES:
            raise LimitError(f"num_images: expected at most {MAX_IMAGES}, got {self.num_images}")
        blocks_bytes = self.keys_offset - blocks_offset
        if (
            self.num_blocks * MIN_BLOCK_BYTES > blocks_bytes
            or not self.num_blocks <= self.num_images <= MAX_IMAGES_PER_BLOCK * self.num_blocks
        ):
            raise CorruptError(f"{self.num_images} images in {self.num_blocks} blocks do not fit into {blocks_bytes} bytes")


def pack_copy(beginning: bytes) -> bytes:
    """Return the copy section: header and metadata once more, without the magic, in one zstd frame (section 9)."""
    return compress_columns([beginning[len(MAGIC) :]], text=True)


def unpack_copy(data: bytes) -> bytes:
    """Return the header and the metadata that a copy section holds; CorruptError or LimitError if it holds something else."""
    return MAGIC + decompress(data, HEADER.size - len(MAGIC) + MAX_METADATA_BYTES)


def pack_key_pages(keys: Sequence[bytes], order: NDArray[np.integer] | None) -> bytes:
    """Return the keys section (section 6): all keys in file order, and image numbers by key unless the keys ascend."""
    return join_key_pages(
        [pack_key_page(KeyText.of(keys[start : start + KEYS_PER_PAGE])) for start in range(0, len(keys), KEYS_PER_PAGE)], order
    )


def pack_key_page(keys: KeyText, *, fast: bool = False) -> bytes:
    """Return a page of at most `KEYS_PER_PAGE` keys; `fast` takes a small part of the time and about 40 % more bytes."""
    return compress_columns([keys.lengths.astype("<u2").tobytes(), keys.text], text=True, fast=fast)


def join_key_pages(pages: Sequence[bytes], order: NDArray[np.integer] | None) -> bytes:
    """Return the keys section of a file with these key pages."""
    pages = list(pages)
    if order is not None:
        for start in range(0, len(order), ORDER_PER_PAGE):
            pages.append(compress_columns([order[start : start + ORDER_PER_PAGE].astype("<u4").tobytes()]))
    table = np.array([(len(page), zlib.crc32(page)) for page in pages], "<u4").tobytes()
    return with_crc32(table) + b"".join(pages)


def num_pages(num_images: int, keys_ascend: bool) -> tuple[int, int]:
    """Return the number of key pages and of order pages."""
    order_pages = 0 if keys_ascend else -(-num_images // ORDER_PER_PAGE)
    return -(-num_images // KEYS_PER_PAGE), order_pages


class KeyPage:
    """The keys of a key page, each extracted on access."""

    def __init__(self, content: bytes, ends: NDArray[np.int64], start: int) -> None:
        self._content, self._ends, self._start = content, ends, start

    @classmethod
    def unpack(cls, frame: bytes, crc32: int, num_keys: int) -> KeyPage:
        """Return the page of `num_keys` keys in a zstd frame."""
        content = _page_content(frame, crc32, num_keys * (2 + MAX_KEY_BYTES))
        start = 2 * num_keys
        if len(content) < start:
            raise CorruptError("a page of keys is too short")
        lengths = np.frombuffer(content, "<u2", num_keys)
        if not 1 <= int(lengths.min()) <= int(lengths.max()) <= MAX_KEY_BYTES:
            raise CorruptError(f"keys of {int(lengths.min())} to {int(lengths.max())} bytes: expected 1 to {MAX_KEY_BYTES}")
        ends = np.cumsum(lengths, dtype=np.int64) + start
        if int(ends[-1]) != len(content):
            raise CorruptError("the lengths of keys do not add up to their page")
        return cls(content, ends, start)

    def __len__(self) -> int:
        return len(self._ends)

    def text(self) -> KeyText:
        """Return all keys as one text."""
        return KeyText(np.frombuffer(self._content, "<u2", len(self)), self._content[self._start :])

    def __getitem__(self, place: int) -> bytes:
        start = int(self._ends[place - 1]) if place else self._start
        return self._content[start : int(self._ends[place])]

    def __iter__(self) -> Iterator[bytes]:
        """Yield all keys."""
        content, ends = self._content, self._ends.tolist()
        return iter([content[start:end] for start, end in zip([self._start, *ends], ends, strict=False)])


def unpack_order_page(frame: bytes, crc32: int, count: int, num_images: int) -> NDArray[np.uint32]:
    """Return the image numbers of an order page."""
    content = _page_content(frame, crc32, 4 * count)
    numbers = np.frombuffer(content[: len(content) // 4 * 4], "<u4")
    if len(content) != 4 * count or (numbers >= num_images).any():
        raise CorruptError("a page of image numbers is wrong")
    return numbers


def _page_content(frame: bytes, crc32: int, max_bytes: int) -> bytes:
    if zlib.crc32(frame) != crc32:
        raise CorruptError("checksum of a page of keys differs")
    return decompress(frame, max_bytes)
